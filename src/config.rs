//! `wardfs.toml`: what an administrator may set for one store.
//!
//! Strict: an unknown key, a wrong type or a value out of bounds is an error with its line and column, and no
//! command goes on with half a configuration. A missing file means the defaults.

use crate::id::{Gid, printable, quoted};
use crate::policy::{Deciding, Local, PrincipalMap};
use crate::problem::{Exit, Problem};
use crate::sys::dir::{Dir, Inode, Last, regular};
use std::collections::BTreeMap;
use std::fs::{Metadata, OpenOptions};
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// The file's name in the store directory.
pub const FILE: &str = "wardfs.toml";

/// The store that commands mean when none is named.
pub const SYSTEM_STORE: &str = "/var/lib/wardfs";

/// The longest value that any configuration can admit, in bytes.
pub const VALUE_CEILING: u64 = 1024 * 1024;

/// More than this is no configuration.
const FILE_CEILING: u64 = 1024 * 1024;

/// The longest name of a group, in characters: shadow-utils make none that is longer.
const GROUP_NAME: usize = 32;
/// The longest ARN, in bytes: AWS has none that is longer.
const ARN: usize = 2048;
/// The longest name of who an ARN stands for, in bytes.
const LOCAL: usize = 300;
/// So many may one ARN stand for.
const LOCALS: usize = 256;

/// Every setting, with its default where the file says nothing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Config {
    /// The longest value that `put` takes, in bytes: 1 to [`VALUE_CEILING`].
    pub max_value_bytes: usize,
    /// Threads that serve the mount: 1 to 64.
    pub threads: usize,
    /// Members of this group administer secrets (and do not read them by that).
    pub admin_group: String,
    /// Whether root may describe (stat, list) a secret whose policy does not mention root.
    pub root_describes: bool,
    /// Whether callers whose process cannot be seen (outside the daemon's pid namespace) are decided by their
    /// uid alone, instead of refused.
    pub serve_unidentified: bool,
    /// Files that one uid may hold open at a time: at least 1.
    pub max_handles_per_uid: usize,
    /// The root key's file; relative to the store directory unless absolute.
    pub key_file: PathBuf,
    /// `[audit]`.
    pub audit: Audit,
    /// `[principals]`: what an ARN of a policy means on this machine, as `user:…`, `uid:…`, `group:…`, `gid:…`
    /// or `unit:…`.
    pub principals: PrincipalMap,
}

/// `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Audit {
    /// A segment of the log is closed when it has reached this size, in bytes: 64 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// Bytes set aside so that administration can be recorded on a full disk: 0 to 64 MiB.
    pub reserve_bytes: u64,
    /// While the log's file system has less free, in bytes, each uid's budget binds: 0 (never) to 1 PiB.
    pub low_space_bytes: u64,
    /// That budget, in bytes of records a second: 64 to 1 GiB. 16 seconds' worth may come at once.
    pub uid_bytes_per_second: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            max_value_bytes: 65_536,
            threads: 4,
            admin_group: "wardfs".into(),
            root_describes: true,
            serve_unidentified: false,
            max_handles_per_uid: 16_384,
            key_file: "root.key".into(),
            audit: Audit {
                segment_bytes: 64 * 1024 * 1024,
                reserve_bytes: 4 * 1024 * 1024,
                low_space_bytes: 1024 * 1024 * 1024,
                uid_bytes_per_second: 64 * 1024,
            },
            principals: PrincipalMap::default(),
        }
    }
}

/// The file as it is written. Spans are kept where a value can be out of bounds.
#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    max_value_bytes: Option<Spanned<u64>>,
    threads: Option<Spanned<u64>>,
    admin_group: Option<Spanned<String>>,
    root_describes: Option<bool>,
    serve_unidentified: Option<bool>,
    max_handles_per_uid: Option<Spanned<u64>>,
    key_file: Option<Spanned<String>>,
    audit: WrittenAudit,
    principals: BTreeMap<Spanned<String>, Spanned<Locals>>,
}

/// Whom an ARN stands for: one text, or a list.
enum Locals {
    One(String),
    Many(Vec<Spanned<String>>),
}

impl<'de> serde::Deserialize<'de> for Locals {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        /// By hand: serde's untagged enums lose the places of the items.
        struct OneOrMany;
        impl<'de> serde::de::Visitor<'de> for OneOrMany {
            type Value = Locals;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(
                    "a text or a list of texts, as \"user:app\" or [\"user:app\", \"unit:app.service\"]",
                )
            }
            fn visit_str<E: serde::de::Error>(self, one: &str) -> Result<Locals, E> {
                Ok(Locals::One(one.into()))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Locals, A::Error> {
                let mut many = Vec::new();
                while let Some(one) = seq.next_element()? {
                    many.push(one);
                }
                Ok(Locals::Many(many))
            }
        }
        d.deserialize_any(OneOrMany)
    }
}

#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenAudit {
    segment_bytes: Option<Spanned<u64>>,
    reserve_bytes: Option<Spanned<u64>>,
    low_space_bytes: Option<Spanned<u64>>,
    uid_bytes_per_second: Option<Spanned<u64>>,
}

/// A fault at a place of the text.
#[derive(Debug)]
struct Fault {
    span: Range<usize>,
    message: String,
}

impl Config {
    /// What `init` writes: every key, explained, commented out with its default. A line that begins with `#`
    /// and no space is a setting.
    pub const TEMPLATE: &str = include_str!("config/wardfs.toml");

    /// Reads `wardfs.toml` of the store directory `dir`.
    ///
    /// # Errors
    /// The file belongs to somebody else, can be written by others, is no regular file ([`Exit::Usage`]), or
    /// says something that is not understood: then the cause has the line, the column and a caret.
    pub fn load(dir: &Path) -> Result<Config, Problem> {
        Config::load_file(&dir.join(FILE))
    }

    /// As [`Config::load`], from this file.
    ///
    /// # Errors
    /// The same.
    pub fn load_file(path: &Path) -> Result<Config, Problem> {
        let shown = printable(&path.to_string_lossy());
        let what = || format!("the configuration {shown} cannot be used");
        let opened = regular(path, Last::Followed, OpenOptions::new().read(true))
            .and_then(|file| Ok((file.metadata()?, file)));
        let (meta, file) = match opened {
            Ok(opened) => opened,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(Problem::new(Exit::Denied, what(), e).next("run the command as root"));
            }
            Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => {
                return Err(Problem::new(Exit::Usage, what(), "it is not a regular file")
                    .next("name the file with the settings"));
            }
            Err(e) => {
                return Err(Problem::new(Exit::Failed, what(), e)
                    .next("mend what the system says, then: wardfs config check"));
            }
        };
        check_owner(&meta).map_err(|why| {
            Problem::new(Exit::Usage, what(), why).next(format!(
                "look at what it says, then: chown root:root {shown} && chmod 0644 {shown}"
            ))
        })?;
        let mut text = String::new();
        match file.take(FILE_CEILING + 1).read_to_string(&mut text) {
            Ok(n) if n as u64 > FILE_CEILING => {
                return Err(Problem::new(
                    Exit::Usage,
                    what(),
                    format!("it is longer than {FILE_CEILING} bytes"),
                )
                .next("remove what is no setting: man wardfs.toml"));
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                return Err(
                    Problem::new(Exit::Usage, what(), "it is not UTF-8 text").next("save it as UTF-8")
                );
            }
            Err(e) => {
                return Err(Problem::new(Exit::Failed, what(), e)
                    .next("mend what the system says, then: wardfs config check"));
            }
        }
        Config::parse(&text).map_err(|why| {
            // The line is shown where it is wrong, and what a link leads to may be for nobody's eyes.
            if path.is_symlink() {
                return Problem::new(
                    Exit::Usage,
                    what(),
                    "what the link leads to is no configuration of wardfs",
                )
                .next(format!("see where it leads: readlink {shown}"));
            }
            Problem::new(Exit::Usage, what(), why).next(format!("correct the line in {shown}"))
        })
    }

    /// Writes [`Config::TEMPLATE`] into the store's directory `home`, readable by all; one that is there stays as it
    /// is. Says which file was written, if one was.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn install(home: &Dir) -> std::io::Result<Option<Inode>> {
        let mut file = match home.create(FILE, 0o644) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(None),
            made => made?,
        };
        let inode = Inode::of(&file)?;
        let written = file
            .write_all(Config::TEMPLATE.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| home.sync());
        written.map(|()| Some(inode)).inspect_err(|_| {
            let _ = home.remove(FILE, inode);
        })
    }

    /// Reads the text of a configuration.
    ///
    /// # Errors
    /// What is wrong, with line, column, the line itself and a caret.
    pub fn parse(text: &str) -> Result<Config, String> {
        interpret(text).map_err(|fault| diagnose(text, &fault))
    }

    /// With other values for some keys, each written as in the file or as bare text: `audit.segment_bytes`, `1048576`.
    ///
    /// # Errors
    /// A key that is unknown or a table, a value of another type or out of bounds ([`Exit::Usage`]).
    pub fn with(self, settings: &[(String, String)]) -> Result<Config, Problem> {
        let mut config = self;
        for (key, text) in settings {
            let what = format!("-o {} is not understood", printable(&format!("{key}={text}")));
            let bad = |why: String| {
                Problem::new(Exit::Usage, &what, why)
                    .next("the keys are those of wardfs.toml: wardfs man wardfs.toml")
            };
            if Deciding::KEYS.contains(&key.split('.').next().unwrap_or_default()) {
                let what = format!("-o {} is not taken", printable(&format!("{key}={text}")));
                let why = "it decides who may do what, which the store keeps sealed";
                return Err(Problem::new(Exit::Usage, what, why)
                    .next("set it in wardfs.toml, and put that in force: wardfs config accept"));
            }
            let mut table = toml::Table::try_from(&config).map_err(|e| bad(e.to_string()))?;
            let (section, name) = key.split_once('.').unwrap_or(("", key));
            let place = match section {
                "" => Some(&mut table),
                section => table.get_mut(section).and_then(toml::Value::as_table_mut),
            };
            let slot = place.and_then(|t| t.get_mut(name)).filter(|v| !v.is_table());
            let slot = slot.ok_or_else(|| bad(format!("there is no such key {}", quoted(key))))?;
            *slot = match slot {
                toml::Value::String(_) => toml::Value::String(text.clone()),
                _ => text
                    .parse()
                    .map_err(|_| bad(format!("a {} is needed", slot.type_str())))?,
            };
            config = interpret(&table.to_string()).map_err(|fault| bad(fault.message))?;
        }
        Ok(config)
    }

    /// The settings that decide who may do what, with the group as `gid_of` finds it.
    pub fn deciding(&self, gid_of: impl Fn(&str) -> Option<Gid>) -> Deciding {
        Deciding {
            admin_group: self.admin_group.clone(),
            admin_gid: gid_of(&self.admin_group).map(|gid| gid.0),
            root_describes: self.root_describes,
            serve_unidentified: self.serve_unidentified,
            principals: self.principals.clone(),
        }
    }

    /// The root key's file, for the store directory `dir`.
    pub fn key_path(&self, dir: &Path) -> PathBuf {
        dir.join(&self.key_file)
    }
}

fn check_owner(meta: &Metadata) -> Result<(), String> {
    let me = nix::unistd::geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != me {
        return Err(format!(
            "it belongs to uid {}, who is neither root nor you",
            meta.uid()
        ));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(format!("others can write it (mode {:04o})", meta.mode() & 0o7777));
    }
    Ok(())
}

fn interpret(text: &str) -> Result<Config, Fault> {
    let written: Written = toml::from_str(text).map_err(|e| Fault {
        span: e.span().unwrap_or(0..0),
        message: suggest(e.message()),
    })?;
    let default = Config::default();
    Ok(Config {
        max_value_bytes: bounded(
            written.max_value_bytes,
            default.max_value_bytes as u64,
            1,
            VALUE_CEILING,
        )? as usize,
        threads: bounded(written.threads, default.threads as u64, 1, 64)? as usize,
        admin_group: match written.admin_group {
            Some(group) => checked(group, group_name)?,
            None => default.admin_group,
        },
        root_describes: written.root_describes.unwrap_or(default.root_describes),
        serve_unidentified: written.serve_unidentified.unwrap_or(default.serve_unidentified),
        max_handles_per_uid: bounded(
            written.max_handles_per_uid,
            default.max_handles_per_uid as u64,
            1,
            1 << 20,
        )? as usize,
        key_file: match written.key_file {
            Some(file) => checked(file, key_file)?.into(),
            None => default.key_file,
        },
        audit: Audit {
            segment_bytes: bounded(
                written.audit.segment_bytes,
                default.audit.segment_bytes,
                64 << 10,
                1 << 30,
            )?,
            reserve_bytes: bounded(
                written.audit.reserve_bytes,
                default.audit.reserve_bytes,
                0,
                64 << 20,
            )?,
            low_space_bytes: bounded(
                written.audit.low_space_bytes,
                default.audit.low_space_bytes,
                0,
                1 << 50,
            )?,
            uid_bytes_per_second: bounded(
                written.audit.uid_bytes_per_second,
                default.audit.uid_bytes_per_second,
                64,
                1 << 30,
            )?,
        },
        principals: PrincipalMap(
            written
                .principals
                .into_iter()
                .map(principal)
                .collect::<Result<_, _>>()?,
        ),
    })
}

fn bounded(value: Option<Spanned<u64>>, default: u64, min: u64, max: u64) -> Result<u64, Fault> {
    match value {
        None => Ok(default),
        Some(v) if (min..=max).contains(v.get_ref()) => Ok(v.into_inner()),
        Some(v) => Err(Fault {
            message: format!("{} is out of bounds: {min} to {max}", v.get_ref()),
            span: v.span(),
        }),
    }
}

fn checked(value: Spanned<String>, check: fn(&str) -> Result<(), String>) -> Result<String, Fault> {
    match check(value.get_ref()) {
        Ok(()) => Ok(value.into_inner()),
        Err(message) => Err(Fault {
            span: value.span(),
            message,
        }),
    }
}

fn group_name(name: &str) -> Result<(), String> {
    if name.chars().count() > GROUP_NAME {
        return Err(format!("a group's name has at most {GROUP_NAME} characters"));
    }
    let ok = !name.is_empty()
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || ":,/".contains(c));
    if ok {
        Ok(())
    } else {
        Err("a group's name is needed, as in /etc/group".into())
    }
}

fn key_file(path: &str) -> Result<(), String> {
    let ok = !path.is_empty() && !path.ends_with('/') && !path.contains('\0');
    if ok {
        Ok(())
    } else {
        Err("the path of a file is needed".into())
    }
}

fn arn(text: &str) -> Result<(), String> {
    if text.len() > ARN {
        return Err(format!("an ARN has at most {ARN} bytes"));
    }
    if text.starts_with("arn:") && text.matches(':').count() >= 5 && !text.contains(['*', '?']) {
        return Ok(());
    }
    Err("a whole ARN is needed, without wildcards, as \"arn:aws:iam::123456789012:role/app\"".into())
}

fn local(text: &str) -> Result<Local, String> {
    const KINDS: [&str; 5] = ["user", "uid", "group", "gid", "unit"];
    let form = "user:NAME, uid:N, group:NAME, gid:N or unit:NAME.service is needed";
    if text.len() > LOCAL {
        return Err(format!("{form}, of at most {LOCAL} bytes"));
    }
    let kind = text.split_once(':').ok_or(form)?.0;
    if !KINDS.contains(&kind) {
        return Err(match closest(kind, KINDS) {
            Some(near) => format!("{form}; did you mean `{near}:`?"),
            None => form.into(),
        });
    }
    let local: Local = text.parse().map_err(|e| format!("{e}; {form}"))?;
    match local.dynamic_id() {
        Some(_) => Err(format!(
            "{local} is an id that systemd gives to units dynamically: name the unit, unit:NAME.service"
        )),
        None => Ok(local),
    }
}

fn principal((key, locals): (Spanned<String>, Spanned<Locals>)) -> Result<(String, Vec<Local>), Fault> {
    let span = locals.span();
    let locals = match locals.into_inner() {
        Locals::One(one) => vec![(span, one)],
        Locals::Many(many) => many.into_iter().map(|l| (l.span(), l.into_inner())).collect(),
    };
    if locals.len() > LOCALS {
        return Err(Fault {
            span: key.span(),
            message: format!("it stands for {} names: at most {LOCALS}", locals.len()),
        });
    }
    if locals.is_empty() {
        return Err(Fault {
            span: key.span(),
            message: "it stands for nobody: remove it, or name who it is".into(),
        });
    }
    let key = checked(key, arn)?;
    let each = locals
        .into_iter()
        .map(|(span, text)| local(&text).map_err(|message| Fault { span, message }));
    Ok((key, each.collect::<Result<_, _>>()?))
}

/// The candidate that `text` was probably meant to be.
fn closest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(text, c), c))
        .filter(|(distance, c)| *distance * 3 <= c.len().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// serde's "unknown field `x`, expected one of `a`, `b`" in our words, with the likeliest key.
fn suggest(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else {
        return message.trim_end().to_owned();
    };
    let mut quoted = rest.split('`').step_by(2);
    let unknown = quoted.next().unwrap_or_default();
    let known: Vec<&str> = quoted.filter(|k| !k.is_empty()).collect();
    match closest(unknown, known.iter().copied()) {
        Some(near) => format!("unknown key `{unknown}`; did you mean `{near}`?"),
        None => format!("unknown key `{unknown}`; the keys here are {}", known.join(", ")),
    }
}

/// The beginning of the character at or before `at`.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0)
}

/// `message`, the place, the line and a caret under it.
fn diagnose(text: &str, fault: &Fault) -> String {
    let at = boundary(text, fault.span.start);
    let start = text[..at].rfind('\n').map_or(0, |i| i + 1);
    let end = text[at..].find('\n').map_or(text.len(), |i| at + i);
    let stop = boundary(text, fault.span.end.clamp(at, end));
    let line = text[..at].matches('\n').count() + 1;
    let column = text[start..at].chars().count() + 1;
    // One sign for each character, so that the caret stands where it should.
    let shown: String = text[start..end]
        .chars()
        .map(|c| {
            if printable(c.encode_utf8(&mut [0; 4])).len() == c.len_utf8() {
                c
            } else {
                ' '
            }
        })
        .collect();
    let number = line.to_string();
    format!(
        "{message} (line {line}, column {column})\n{number} | {shown}\n{blank} | {pad}{carets}",
        message = printable(&fault.message.replace('\n', "; ")),
        shown = shown.trim_end(),
        blank = " ".repeat(number.len()),
        pad = " ".repeat(column - 1),
        carets = "^".repeat(text[at..stop].chars().count().max(1)),
    )
}

#[cfg(test)]
mod tests;
