//! `/etc/passwd`, `/etc/group`, `/etc/subuid` and what `/etc/nsswitch.conf` says of them (passwd(5), group(5),
//! subuid(5), nsswitch.conf(5)). Lines that are none are left out, as those who use the files do.

use std::collections::{BTreeMap, HashMap};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::lends;
use crate::id::{Gid, Uid};

/// An account of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    /// Its primary group first.
    pub groups: Arc<[Gid]>,
}

/// To whom a uid is lent; `None`: to somebody whose number cannot be had.
pub(super) type Owners = Option<Arc<[Uid]>>;

/// What the files say.
#[derive(Debug, Default)]
pub(super) struct Files {
    accounts: HashMap<u32, Account>,
    /// First and last uid, in order, none in two.
    lent: Vec<(u32, u32, Owners)>,
    groups_elsewhere: bool,
    subids_elsewhere: bool,
}

impl Files {
    /// To whom a uid is lent, if it is.
    pub fn lent(&self, uid: Uid) -> Option<&Owners> {
        let after = self.lent.partition_point(|(first, ..)| *first <= uid.0);
        let (_, last, owners) = self.lent.get(after.checked_sub(1)?)?;
        (uid.0 <= *last).then_some(owners)
    }

    pub fn account(&self, uid: Uid) -> Option<&Account> {
        self.accounts.get(&uid.0)
    }

    pub fn accounts(&self) -> impl Iterator<Item = Uid> {
        self.accounts.keys().copied().map(Uid)
    }

    /// Whether no name service gives groups besides.
    pub fn has_all_groups(&self) -> bool {
        !self.groups_elsewhere
    }

    /// Whether no name service lends ids.
    pub fn lends_all(&self) -> bool {
        !self.subids_elsewhere
    }

    pub fn read(places: &Places) -> io::Result<Files> {
        places.read().map(|(_, files)| files)
    }

    pub fn parse(texts: &Texts) -> Files {
        let mut names: HashMap<&str, u32> = HashMap::new();
        let mut groups: BTreeMap<u32, Vec<Gid>> = BTreeMap::new();
        for line in lines(&texts.passwd) {
            if let [name, _, uid, gid, ..] = line[..]
                && let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse())
            {
                names.entry(name).or_insert(uid);
                groups.entry(uid).or_default().push(Gid(gid));
            }
        }
        for line in lines(&texts.group) {
            let [_, _, gid, members] = line[..] else { continue };
            let Ok(gid) = gid.parse().map(Gid) else { continue };
            for member in members.split(',').filter_map(|m| names.get(m.trim())) {
                let of_member = groups.entry(*member).or_default();
                if !of_member.contains(&gid) {
                    of_member.push(gid);
                }
            }
        }
        let accounts: HashMap<u32, Account> = groups
            .into_iter()
            .map(|(uid, groups)| {
                (
                    uid,
                    Account {
                        groups: groups.into(),
                    },
                )
            })
            .collect();
        let mut ranges = Vec::new();
        for line in lines(&texts.subuid) {
            // As newuidmap reads it: what follows is not looked at.
            if let [owner, first, count, ..] = line[..]
                && let (Some(first), Some(count)) = (number(first), number(count))
                && let Ok(first) = u32::try_from(first)
                && count > 0
            {
                let owner = names.get(owner).copied().or_else(|| owner.parse().ok());
                let last = u64::from(first)
                    .saturating_add(count - 1)
                    .min(u64::from(u32::MAX));
                ranges.push((first, last as u32, owner));
            }
        }
        let only_files = |database: &str| {
            let found = services(&texts.nsswitch, database);
            found.map(|all| all.iter().all(|s| s == "files"))
        };
        let groups_here = only_files("initgroups").or_else(|| only_files("group"));
        Files {
            lent: lent(&ranges, &accounts),
            accounts,
            groups_elsewhere: !groups_here.unwrap_or(true),
            subids_elsewhere: !only_files("subid").unwrap_or(true),
        }
    }
}

/// A number of `/etc/subuid`, as shadow's `strtoul` with base 0 reads it: `0x` is hexadecimal, a zero before it octal.
fn number(text: &str) -> Option<u64> {
    let text = text.trim_start();
    let text = text.strip_prefix('+').unwrap_or(text);
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}

/// The fields of each line.
fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let taken = |line: &&str| !line.is_empty() && !line.starts_with(['#', '+', '-']);
    text.lines()
        .map(str::trim)
        .filter(taken)
        .map(|line| line.split(':').map(str::trim).collect())
}

/// The services of a database; `None` if it has no line.
fn services(nsswitch: &str, database: &str) -> Option<Vec<String>> {
    let mut lines = nsswitch.lines().map(|l| l.split('#').next().unwrap_or_default());
    let rest = lines.find_map(|l| {
        l.trim_start()
            .strip_prefix(database)?
            .trim_start()
            .strip_prefix(':')
    })?;
    let mut all = Vec::new();
    let mut depth = 0;
    // `[NOTFOUND=return]` is no service.
    for word in rest.replace('[', " [ ").replace(']', " ] ").split_whitespace() {
        match word {
            "[" => depth += 1,
            "]" => depth -= 1,
            word if depth == 0 => all.push(word.to_ascii_lowercase()),
            _ => {}
        }
    }
    Some(all)
}

/// The ranges without overlaps, each with everybody to whom it is lent. Whoever is lent the uid of an account that is lent
/// a range is lent that range too.
fn lent(ranges: &[(u32, u32, Option<u32>)], accounts: &HashMap<u32, Account>) -> Vec<(u32, u32, Owners)> {
    // Where a range begins and behind its end; within ranges each account stands by itself.
    let mut events: Vec<(u64, i32, Option<u32>)> = Vec::new();
    for (first, last, owner) in ranges {
        events.push((u64::from(*first), 1, *owner));
        events.push((u64::from(*last) + 1, -1, *owner));
    }
    let mut cuts: Vec<u64> = events.iter().map(|e| e.0).collect();
    cuts.extend(accounts.keys().flat_map(|u| [u64::from(*u), u64::from(*u) + 1]));
    cuts.sort_unstable();
    cuts.dedup();
    events.sort_unstable();
    let mut events = events.into_iter().peekable();
    let mut active: BTreeMap<Option<u32>, i32> = BTreeMap::new();
    let mut flat: Vec<(u32, u32, Option<Vec<Uid>>)> = Vec::new();
    for pair in cuts.windows(2) {
        while let Some((_, change, owner)) = events.next_if(|e| e.0 <= pair[0]) {
            *active.entry(owner).or_default() += change;
        }
        let (first, last) = (pair[0] as u32, (pair[1] - 1) as u32);
        let account = accounts.contains_key(&first);
        let owners = active
            .iter()
            .filter(|(_, n)| **n > 0)
            .map(|(owner, _)| owner.map(Uid));
        let owners: Vec<Option<Uid>> = owners
            .filter(|o| o.is_none_or(|o| lends(o, account) && (o.0 != first || !account)))
            .collect();
        if owners.is_empty() {
            continue;
        }
        let owners: Option<Vec<Uid>> = owners.into_iter().collect();
        match flat.last_mut() {
            Some((_, end, same)) if u64::from(*end) + 1 == pair[0] && *same == owners => *end = last,
            _ => flat.push((first, last, owners)),
        }
    }
    let find = |uid: Uid| {
        let after = flat.partition_point(|(first, ..)| *first <= uid.0);
        let found = flat.get(after.checked_sub(1)?)?;
        (uid.0 <= found.1).then_some(&found.2)
    };
    flat.iter()
        .map(|(first, last, owners)| {
            let mut all = owners.clone();
            let mut next = 0;
            while let Some(known) = &mut all
                && let Some(owner) = known.get(next).copied()
            {
                next += 1;
                match find(owner) {
                    None => {}
                    Some(None) => all = None,
                    Some(Some(further)) => {
                        let new = further.iter().filter(|o| !known.contains(o)).copied();
                        let new: Vec<Uid> = new.collect();
                        known.extend(new);
                    }
                }
            }
            (*first, *last, all.map(Arc::from))
        })
        .collect()
}

/// The files' contents.
#[derive(Debug, Default)]
pub(super) struct Texts {
    pub passwd: String,
    pub group: String,
    pub subuid: String,
    pub nsswitch: String,
}

/// Where the files are.
pub(super) struct Places {
    pub passwd: &'static str,
    pub group: &'static str,
    pub subuid: &'static str,
    pub nsswitch: &'static str,
}

/// What tells a file's content from a later one; nothing where there is no file.
type Stamp = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

/// The files as they were when they were read.
pub(super) struct Seen {
    stamps: [Stamp; 4],
    /// A file that was changed just before it was read may have been changed once more in the same tick of the clock.
    settled: bool,
}

/// How long a file has to have been as it is.
const SETTLED: Duration = Duration::from_secs(1);

impl Places {
    pub const ETC: Places = Places {
        passwd: "/etc/passwd",
        group: "/etc/group",
        subuid: "/etc/subuid",
        nsswitch: "/etc/nsswitch.conf",
    };

    fn all(&self) -> [&'static str; 4] {
        [self.passwd, self.group, self.subuid, self.nsswitch]
    }

    fn stamps(&self) -> [Stamp; 4] {
        let stamp = |m: Metadata| {
            (
                m.dev(),
                m.ino(),
                m.size(),
                (m.mtime(), m.mtime_nsec()),
                (m.ctime(), m.ctime_nsec()),
            )
        };
        self.all().map(|place| std::fs::metadata(place).ok().map(stamp))
    }

    /// The files, with what tells them from later ones.
    pub fn read(&self) -> io::Result<(Seen, Files)> {
        let stamps = self.stamps();
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let settled =
            |stamp: &Stamp| stamp.is_none_or(|(.., (seconds, _))| (now - SETTLED).as_secs() as i64 > seconds);
        let text = |place: &str| match std::fs::read(place) {
            Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(e) => Err(io::Error::new(e.kind(), format!("{place}: {e}"))),
        };
        let texts = Texts {
            passwd: text(self.passwd)?,
            group: text(self.group)?,
            subuid: text(self.subuid)?,
            nsswitch: text(self.nsswitch)?,
        };
        let settled = stamps.iter().all(settled);
        Ok((Seen { stamps, settled }, Files::parse(&texts)))
    }

    /// The same, if a file is not as it was seen.
    pub fn read_if_changed(&self, seen: &Seen) -> io::Result<Option<(Seen, Files)>> {
        match seen.settled && self.stamps() == seen.stamps {
            true => Ok(None),
            false => self.read().map(Some),
        }
    }
}
