//! A file uses only lower floors, siblings never import each other, and `fuser` and `unsafe` stay in their
//! rooms.

use std::path::{Path, PathBuf};

/// Rooms by floor, as in `src/lib.rs`.
const FLOORS: &[&[&str]] = &[
    &["sync"],
    &["id", "secret", "clock", "problem", "messages", "pool", "places"],
    &["sys"],
    &["store", "seal", "policy", "audit"],
    &["config", "vault"],
    &["access"],
    &["lifecycle", "report", "vfs"],
    &["fuse", "control"],
    &["daemon"],
    &["cli"],
    &["main"],
];

fn sources() -> Vec<(String, PathBuf, String)> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    let room = |path: &Path| {
        let first = path
            .strip_prefix(&src)
            .unwrap()
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap()
            .to_string();
        first.trim_end_matches(".rs").to_string()
    };
    files
        .into_iter()
        .map(|p| (room(&p), p.clone(), code(&std::fs::read_to_string(&p).unwrap())))
        .collect()
}

/// Source without comments, which may name what they like.
fn code(text: &str) -> String {
    text.lines()
        .map(|l| l.find("//").map_or(l, |i| &l[..i]))
        .collect::<Vec<_>>()
        .join("\n")
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|f| f.contains(&room))
}

/// Every `crate::ROOM` that a source mentions, also inside `use crate::{a, b::c}`.
fn mentioned(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for prefix in ["crate::", "wardfs::"] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                let mut depth = 1;
                let mut word = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 1 && (c.is_alphanumeric() || c == '_') {
                        word.push(c);
                    } else {
                        if !word.is_empty() {
                            rooms.push(std::mem::take(&mut word));
                        }
                        if depth == 0 {
                            break;
                        }
                    }
                }
            } else {
                rooms.push(
                    rest.chars()
                        .take_while(|c| c.is_alphanumeric() || *c == '_')
                        .collect(),
                );
            }
        }
    }
    rooms
}

#[test]
fn a_room_uses_lower_floors_only() {
    let mut breaches = Vec::new();
    for (room, path, code) in sources() {
        if room == "lib" {
            continue;
        }
        let own =
            floor(&room).unwrap_or_else(|| panic!("{room} has no floor: add it to FLOORS and to src/lib.rs"));
        for other in mentioned(&code) {
            if other == room {
                continue;
            }
            if let Some(floor) = floor(&other)
                && floor >= own
            {
                breaches.push(format!(
                    "{}: {room} (floor {own}) uses {other} (floor {floor})",
                    path.display()
                ));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn unsafe_stays_in_sys_and_fuser_in_fuse() {
    for (room, path, code) in sources() {
        let words = |word: &str| {
            code.split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|w| w == word)
        };
        assert!(room == "sys" || !words("unsafe"), "unsafe in {}", path.display());
        assert!(room == "fuse" || !words("fuser"), "fuser in {}", path.display());
    }
}

#[test]
fn a_value_is_opened_in_one_place() {
    for (room, path, code) in sources() {
        assert!(
            matches!(room.as_str(), "access" | "seal") || !code.contains("open_value"),
            "{} opens a value outside the path of a read",
            path.display()
        );
    }
}

#[test]
fn the_map_names_every_room() {
    let map = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for room in FLOORS.iter().flat_map(|f| f.iter()) {
        assert!(
            map.contains(&format!("`{room}`")) || map.contains(&format!("`{room}.rs`")),
            "src/lib.rs does not name {room}"
        );
    }
}
