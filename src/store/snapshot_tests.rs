//! The index against a sorted list of names that is searched from end to end.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

struct Entry {
    id: SecretId,
    name: SecretName,
    value: u32,
}

impl Indexed for Entry {
    fn id(&self) -> SecretId {
        self.id
    }
    fn name(&self) -> &SecretName {
        &self.name
    }
}

fn entry(id: u64, name: &str, value: u32) -> Arc<Entry> {
    Arc::new(Entry {
        id: SecretId(id),
        name: name.parse().unwrap(),
        value,
    })
}

fn snapshot(names: &[&str]) -> Snapshot<Entry> {
    names
        .iter()
        .enumerate()
        .fold(Snapshot::empty(), |s, (n, name)| s.with(entry(n as u64, name, 0)))
}

fn text(child: &Child<'_, Entry>) -> String {
    let segment = child.segment;
    match child.what {
        Found::Secret(entry) => {
            assert!(entry.name.as_str().ends_with(segment));
            segment.to_string()
        }
        Found::Directory(_) => format!("{segment}/"),
    }
}

/// The entries of a directory, in the order of their names.
fn children(s: &Snapshot<Entry>, path: &str) -> Vec<String> {
    let all: BTreeMap<_, _> = s
        .children(DirId::of(path), Place::START)
        .map(|c| (c.segment, text(&c)))
        .collect();
    all.into_values().collect()
}

#[test]
fn directories_follow_from_the_names() {
    let s = snapshot(&["app/db/password", "app/db/user", "app/key", "top"]);
    assert_eq!(children(&s, ""), ["app/", "top"]);
    assert_eq!(children(&s, "app"), ["db/", "key"]);
    assert_eq!(children(&s, "app/db"), ["password", "user"]);
    assert_eq!(children(&s, "app/d"), [""; 0]);
    assert_eq!(children(&s, "top"), [""; 0]);
    assert_eq!(s.directory("app").unwrap().entries, 2);
    assert_eq!(s.directory("").unwrap().entries, 2);
    assert!(s.directory("top").is_none() && !s.is_directory("app/db/user") && !s.is_directory("ap"));
    let id = s.directory("app/db").unwrap().id;
    assert_eq!(s.dir_by_id(id).as_deref(), Some("app/db"));

    // A directory ends with its last secret.
    let s = s.without(SecretId(0)).without(SecretId(1));
    assert!(!s.is_directory("app/db") && s.dir_by_id(id).is_none());
    assert_eq!(s.directory("app").unwrap().entries, 1);
    let s = s.without(SecretId(2)).without(SecretId(3)).without(SecretId(99));
    assert_eq!((s.len(), s.directory("").unwrap().entries), (0, 0));
    assert_eq!(s.dir_by_id(DirId::of("")).as_deref(), Some(""));
}

/// `-`, `.` and `+` come before `/` in ASCII: what is beneath a directory must neither come late nor twice.
#[test]
fn segments_keep_their_byte_order_among_awkward_names() {
    let s = snapshot(&[
        "a/x", "a-b", "a.b", "a+b/y", "a0", "a-", "a-b.c/z", "A", "=", "@/q", "_",
    ]);
    let names: Vec<&str> = s.iter().map(|e| e.name.as_str()).collect();
    let wanted = [
        "=", "@/q", "A", "_", "a/x", "a+b/y", "a-", "a-b", "a-b.c/z", "a.b", "a0",
    ];
    assert_eq!(names, wanted);
}

/// A walk that is interrupted at each place goes on behind it, whether its name is there still or not, and shows each
/// name that stays once.
#[test]
fn a_walk_goes_on_behind_a_name_that_has_gone() {
    let names: Vec<String> = (0..200).map(|n| format!("d/{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut s = snapshot(&names);
    let dir = DirId::of("d");
    let (mut shown, mut at) = (Vec::new(), Place::START);
    for step in 0.. {
        let Some(child) = s.children(dir, at).next() else {
            break;
        };
        assert!(child.place > at && child.place.0 < 1 << 31);
        at = child.place;
        shown.push(child.segment.to_string());
        if let (Found::Secret(entry), 0) = (child.what, step % 2) {
            let id = entry.id;
            s = s.without(id);
        }
        s = s.with(entry(1000 + step, &format!("d/new{step}"), 0));
    }
    let old: BTreeSet<_> = shown.iter().filter(|n| !n.starts_with("new")).collect();
    assert_eq!(old.len(), 200);
    assert_eq!(
        shown.iter().collect::<BTreeSet<_>>().len(),
        shown.len(),
        "none twice"
    );
}

/// What stands at a place is what was put last, and what is gone is kept by nobody.
#[test]
fn a_listing_holds_the_entry_of_now() {
    let old = entry(3, "d/name", 1);
    let mut s = snapshot(&["d/other"]).with(old.clone());
    assert_eq!(
        Arc::strong_count(&old),
        4,
        "by number, by name and by place, and here"
    );
    s = s.with(entry(3, "d/name", 2));
    assert_eq!(Arc::strong_count(&old), 1);
    let values = s
        .children(DirId::of("d"), Place::START)
        .filter_map(|c| match c.what {
            Found::Secret(entry) if c.segment == "name" => Some(entry.value),
            _ => None,
        });
    assert_eq!(values.collect::<Vec<_>>(), [2]);
    // Under another name it is where that stands.
    s = s.with(entry(3, "e/name", 3));
    assert_eq!(
        (children(&s, "d"), children(&s, "e")),
        (vec!["other".into()], vec!["name".into()])
    );
    assert_eq!(children(&s.without(SecretId(3)), ""), ["d/"]);
}

#[test]
fn a_walk_finds_what_a_search_for_each_place_finds() {
    let names: Vec<String> = (0..500).map(|n| format!("d/{n}")).collect();
    let mut s = snapshot(&names.iter().map(String::as_str).collect::<Vec<_>>());
    s = s.with(entry(1000, "z/after", 0)).with(entry(1001, "a/before", 0));
    let dir = DirId::of("d");
    let all: Vec<Place> = s.children(dir, Place::START).map(|c| c.place).collect();
    for every in [1, 2, 7, 8, 9, 10, 100, 499, 600] {
        for besides in [false, true] {
            let mut walk = s.walk(dir, Place::START);
            let wanted: Vec<Place> = all.iter().step_by(every).copied().collect();
            // Where there is nothing, too.
            let near = |p: &Place| [p.0 - 1, p.0, p.0 + 1].map(Place);
            let wanted = match besides {
                true => wanted.iter().flat_map(near).collect(),
                false => wanted,
            };
            let mut found = Vec::new();
            for some in wanted.chunks(7) {
                found.extend(walk.children(some).map(|c| (c.place, text(&c))));
            }
            let sought = wanted.iter().filter_map(|p| s.child(dir, *p));
            let sought: Vec<_> = sought.map(|c| (c.place, text(&c))).collect();
            assert!(found == sought, "{every} {besides}");
            assert_eq!(walk.children(&[Place(u32::MAX)]).count(), 0);
        }
    }
}

/// Names whose hashes are equal stand behind each other, and the second one stays where it is when the first goes.
#[test]
fn names_that_collide_have_places_of_their_own() {
    let mut s = snapshot(&["d/other"]);
    let dir = DirId::of("d");
    let place = Place::of("late");
    // No two such names are known: say that another one has the place of "late".
    s.places
        .insert(At { dir, place }, super::Entry::Directory(DirId(0)));
    s = s.with(entry(7, "d/late", 0));
    let found = s.place_of("d/late", Item::Secret(SecretId(7)));
    assert_eq!(found, Some((dir, Place(place.0 + 1))));
    s.places.remove(&At { dir, place });
    assert_eq!(s.place_of("d/late", Item::Secret(SecretId(7))), found);
    assert_eq!(
        s.child(dir, Place(place.0 + 1)).map(|c| text(&c)).as_deref(),
        Some("late")
    );
    s = s.without(SecretId(7));
    assert_eq!(children(&s, "d"), ["other"]);
}

#[test]
fn a_name_is_a_file_or_a_directory() {
    let s = snapshot(&["a/b"]);
    let conflict = |name: &str| s.conflict(&name.parse().unwrap());
    assert_eq!(
        conflict("a"),
        Some(NameConflict::IsDirectory("a".parse().unwrap()))
    );
    assert_eq!(
        conflict("a/b/c"),
        Some(NameConflict::UnderSecret("a/b".parse().unwrap()))
    );
    assert_eq!(
        conflict("a/b/c/d/e"),
        Some(NameConflict::UnderSecret("a/b".parse().unwrap()))
    );
    for fine in ["a/b", "a/c", "ab", "a-b", "b/a", "a/bc"] {
        assert_eq!(conflict(fine), None, "{fine}");
    }
}

#[test]
fn two_directories_with_one_number_are_refused() {
    let mut s = snapshot(&["x/secret"]);
    // No two such paths are known: say that x had the number of y.
    s.paths = s.paths.update(DirId::of("y").0, "x".into());
    let conflict = s.conflict(&"y/z/secret".parse().unwrap());
    assert_eq!(
        conflict,
        Some(NameConflict::Collision {
            wanted: "y".into(),
            taken: "x".into()
        })
    );
    assert_eq!(s.conflict(&"x/other".parse().unwrap()), None);
}

/// Inode numbers are made of these: `printf %s PATH | sha256sum | cut -c1-14`.
#[test]
fn directory_numbers_never_change() {
    for (path, id) in [
        ("", 0x00e3_b0c4_4298_fc1c),
        ("app", 0x00a1_72ce_dcae_4747),
        ("app/db", 0x0024_c7bc_697a_da89),
        ("a/b/c", 0x00d7_6a7b_7266_9c9c),
    ] {
        assert_eq!(DirId::of(path), DirId(id), "{path:?}");
    }
}

#[test]
fn an_older_snapshot_stays_what_it_was() {
    let old = snapshot(&["a/b", "a/c"]);
    let new = old
        .with(entry(0, "a/b", 7))
        .without(SecretId(1))
        .with(entry(9, "z", 0));
    assert_eq!(old.by_name("a/b").unwrap().value, 0);
    assert_eq!(new.by_name("a/b").unwrap().value, 7);
    assert_eq!((old.len(), new.len()), (2, 2));
    assert!(old.by_id(SecretId(1)).is_some() && new.by_id(SecretId(1)).is_none());
    assert_eq!(old.directory("a").unwrap().entries, 2);
    assert_eq!(new.directory("a").unwrap().entries, 1);
}

/// The deepest name there can be.
#[test]
fn two_hundred_and_fifty_six_levels_come_and_go() {
    let deep = vec!["d"; 256].join("/");
    let s = snapshot(&[&deep]);
    assert!(s.is_directory(&deep[..deep.len() - 2]));
    assert_eq!(s.secrets_under("d/d").count(), 1);
    assert!(s.without(SecretId(0)).dir_by_id(DirId::of("d")).is_none());
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec!["a", "a-", "a.b", "b", "a+", "0", "a0"]),
        1..4,
    )
    .prop_map(|segments| segments.join("/"))
}

/// The children of `path` as the names say it, in the order of the segments.
fn naive(names: &BTreeSet<String>, path: &str) -> Vec<String> {
    let prefix = if path.is_empty() {
        String::new()
    } else {
        format!("{path}/")
    };
    let tails = names.iter().filter_map(|n| n.strip_prefix(&prefix));
    let found: BTreeMap<&str, bool> = tails
        .map(|t| {
            t.split_once('/')
                .map_or((t, false), |(segment, _)| (segment, true))
        })
        .collect();
    found
        .into_iter()
        .map(|(s, dir)| if dir { format!("{s}/") } else { s.into() })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_index_agrees_with_a_list(
        steps in prop::collection::vec((0u64..30, name(), prop::bool::weighted(0.25)), 0..80),
        pages in 1usize..4,
    ) {
        let mut s = Snapshot::empty();
        let mut model = BTreeMap::<u64, String>::new();
        for (value, (id, name, remove)) in steps.into_iter().enumerate() {
            let parsed: SecretName = name.parse().unwrap();
            let is_dir = model.values().any(|n| n.starts_with(&format!("{name}/")));
            let is_under = model.values().any(|n| name.starts_with(&format!("{n}/")));
            prop_assert_eq!(s.conflict(&parsed).is_some(), is_dir || is_under);
            if remove {
                model.remove(&id);
                s = s.without(SecretId(id));
            } else if !is_dir && !is_under {
                model.retain(|_, n| *n != name);
                model.insert(id, name.clone());
                s = s.with(entry(id, &name, value as u32));
                prop_assert_eq!(s.by_id(SecretId(id)).unwrap().value, value as u32);
                prop_assert_eq!(s.by_name(&name).unwrap().value, value as u32);
            }
            prop_assert_eq!(s.len(), model.len());
        }
        let names: BTreeSet<String> = model.values().cloned().collect();
        let mut listed: Vec<_> = s.iter().map(|e| e.name.to_string()).collect();
        prop_assert!(listed.windows(2).all(|w| w[0].split('/').lt(w[1].split('/'))));
        listed.sort();
        prop_assert_eq!(&listed, &names.iter().cloned().collect::<Vec<_>>());
        prop_assert_eq!(s.by_id.len(), names.len());
        prop_assert_eq!(s.by_name.len(), names.len());

        let mut dirs = BTreeSet::from([String::new()]);
        for name in &names {
            dirs.extend(name.match_indices('/').map(|(at, _)| name[..at].to_string()));
        }
        prop_assert_eq!(s.entries.len(), dirs.len() - usize::from(names.is_empty()));
        prop_assert_eq!(s.paths.len(), s.entries.len());
        prop_assert_eq!(s.places.len(), names.len() + dirs.len() - 1);
        for dir in &dirs {
            let wanted = naive(&names, dir);
            prop_assert_eq!(children(&s, dir), wanted.clone());
            let found = s.directory(dir).unwrap();
            prop_assert_eq!(found.entries, wanted.len());
            prop_assert_eq!(s.dir_by_id(found.id).unwrap(), found.path);
            let under = names.iter().filter(|n| dir.is_empty() || n.starts_with(&format!("{dir}/"))).count();
            prop_assert_eq!(s.secrets_under(dir).count(), under);

            // Page by page, each from the last place seen.
            let (mut paged, mut after) = (Vec::new(), Place::START);
            loop {
                let page: Vec<_> = s.children(found.id, after).take(pages).map(|c| (c.place, text(&c))).collect();
                let Some((last, _)) = page.last() else { break };
                after = *last;
                paged.extend(page.into_iter().map(|(_, text)| text));
            }
            paged.sort_by(|a, b| a.trim_end_matches('/').cmp(b.trim_end_matches('/')));
            prop_assert_eq!(paged, wanted);
        }
    }
}

/// What was replaced or removed holds values and keys: none of it may stay in some corner of a tree.
#[test]
fn nothing_keeps_an_entry_that_is_gone() {
    let name = |n: u64| format!("d{}/s{n}", n % 7);
    let mut s = Snapshot::empty();
    let mut gone = Vec::new();
    for value in 0..3 {
        for n in 0..2000 {
            let new = entry(n, &name(n), value);
            gone.push(Arc::downgrade(&new));
            s = s.with(new);
        }
    }
    let kept = gone.split_off(4000);
    assert_eq!(
        gone.iter().filter(|e| e.strong_count() > 0).count(),
        0,
        "replaced"
    );
    for n in 0..1999 {
        s = s.without(SecretId(n));
    }
    assert_eq!(kept.iter().filter(|e| e.strong_count() > 0).count(), 1, "removed");
    assert_eq!(s.iter().count(), 1);
}
