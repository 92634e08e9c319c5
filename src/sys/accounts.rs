//! Whose a uid is: what the user database says, loaded ahead and never asked on the path of a read.
//!
//! An Allow believes a process's own ids and groups. A Deny cannot: whoever has sub ids (`/etc/subuid`) wears the uids
//! of his range, and drops groups in a user namespace of his own. So a Deny asks here as well: to whom a uid is lent,
//! and which groups the user database gives an account. The files are parsed ahead, and anew within 1 s of a change. What
//! only a name service knows is asked in a thread of its own, and is unknown until it has answered.

mod ask;
mod files;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::id::{DYNAMIC_IDS, Gid, ROOT, Uid};
use ask::Names;
use files::{Account, Files};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// The user namespace that a caller is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// The one that the machine started with: a process there cannot drop its groups or take another uid unless it has
    /// the privilege to.
    Initial,
    /// Another one, or it cannot be known.
    Foreign,
}

/// What is known; read first when it is first needed, so that a process that serves begins with [`start`].
struct Accounts {
    files: ArcSwap<Files>,
    names: OnceLock<Names>,
}

static ACCOUNTS: LazyLock<Accounts> = LazyLock::new(|| Accounts {
    files: ArcSwap::from_pointee(Files::read(&files::Places::ETC).unwrap_or_default()),
    names: OnceLock::new(),
});

/// Reads the files, and from now on again whenever one changes, in a thread of its own.
///
/// # Errors
/// If a file is there and cannot be read, or no thread can be had.
pub fn start() -> io::Result<()> {
    let (mut seen, read) = files::Places::ETC.read()?;
    ACCOUNTS.files.store(Arc::new(read));
    if ACCOUNTS.names.get().is_some() {
        return Ok(());
    }
    let names = Names::start()?;
    names.ask_for(&ACCOUNTS.files.load());
    let _ = ACCOUNTS.names.set(names);
    std::thread::Builder::new()
        .name("accounts".into())
        .spawn(move || {
            loop {
                std::thread::sleep(LOOK);
                // What cannot be read now is looked at again; until then what was known stands.
                if let Ok(Some((now, read))) = files::Places::ETC.read_if_changed(&seen) {
                    seen = now;
                    ACCOUNTS.files.store(Arc::new(read));
                    if let Some(names) = ACCOUNTS.names.get() {
                        names.ask_for(&ACCOUNTS.files.load());
                    }
                }
            }
        })
        .map(drop)
}

/// The account that a uid counts for: its own, or where the uid lies in somebody's range of sub ids, the account that the
/// range is lent to. For fairness and budgets.
pub fn owner(uid: Uid) -> Uid {
    let files = ACCOUNTS.files.load();
    match files.lent(uid) {
        Some(Some(owners)) => owners.first().copied().unwrap_or(uid),
        Some(None) | None => uid,
    }
}

/// Whom else a Deny has to take `uid` for: those to whom it is lent. `None`: that cannot be known. The namespace is asked
/// for only where it decides.
pub fn others(uid: Uid, namespace: impl FnOnce() -> Namespace) -> Option<Arc<[Uid]>> {
    others_by(&ACCOUNTS.files.load(), ACCOUNTS.names.get(), uid, namespace)
}

/// The groups that a Deny has to reckon with beside those that a process shows: what the user database gives its account,
/// and those to whom its uid is lent. `None`: they cannot be known.
pub fn groups(uid: Uid, namespace: impl FnOnce() -> Namespace) -> Option<Arc<[Gid]>> {
    groups_by(&ACCOUNTS.files.load(), ACCOUNTS.names.get(), uid, namespace)
}

fn others_by(
    files: &Files,
    names: Option<&Names>,
    uid: Uid,
    namespace: impl FnOnce() -> Namespace,
) -> Option<Arc<[Uid]>> {
    if let Some(owners) = files.lent(uid) {
        return owners.clone();
    }
    let nobody = || Some(Arc::default());
    if files.account(uid).is_some() || DYNAMIC_IDS.contains(&uid.0) {
        return nobody();
    }
    match names.and_then(|names| names.answer(uid)) {
        Some(answer) if answer.account => nobody(),
        known => match namespace() {
            // Where a name service lends ids, one that is no account's may be somebody's in any namespace.
            Namespace::Initial if files.lends_all() => nobody(),
            Namespace::Initial | Namespace::Foreign => {
                if known.is_none() {
                    names.inspect(|names| names.ask(uid));
                }
                None
            }
        },
    }
}

fn groups_by(
    files: &Files,
    names: Option<&Names>,
    uid: Uid,
    namespace: impl FnOnce() -> Namespace,
) -> Option<Arc<[Gid]>> {
    let lent = match files.lent(uid) {
        None => return own_groups(files, names, uid, Some(namespace)),
        Some(owners) => owners.as_ref()?,
    };
    let mut all = Vec::new();
    let own = files.account(uid).map(|_| uid);
    for uid in lent.iter().copied().chain(own) {
        all.extend_from_slice(&own_groups(files, names, uid, None::<fn() -> Namespace>)?);
    }
    Some(all.into())
}

/// The groups of an account. Where they are not all at hand, a caller in the initial namespace is believed: he could shed
/// no more than his primary group, and nobody waits for a name service.
fn own_groups(
    files: &Files,
    names: Option<&Names>,
    uid: Uid,
    namespace: Option<impl FnOnce() -> Namespace>,
) -> Option<Arc<[Gid]>> {
    let account = files.account(uid);
    if let Some(Account { groups }) = account
        && files.has_all_groups()
    {
        return Some(groups.clone());
    }
    let answer = names.and_then(|names| names.answer(uid));
    match (account, answer) {
        (None, Some(answer)) if answer.account => return Some(answer.groups),
        (Some(Account { groups }), Some(answer)) => {
            return Some(match groups.iter().all(|g| answer.groups.contains(g)) {
                true => answer.groups,
                false => groups.iter().chain(answer.groups.iter()).copied().collect(),
            });
        }
        (_, None) => drop(names.inspect(|names| names.ask(uid))),
        (None, Some(_)) => {}
    }
    // Nobody can add groups to an id that systemd lends for the life of a unit, nor drop them there.
    if account.is_none() && DYNAMIC_IDS.contains(&uid.0) {
        return Some(Arc::default());
    }
    match namespace?() {
        Namespace::Initial => Some(account.map_or_else(Arc::default, |a| a.groups.clone())),
        Namespace::Foreign => None,
    }
}

/// Whether a user namespace's map (`/proc/TID/uid_map`) is that of the initial one. An empty one is not.
pub(super) fn namespace_of_map(map: &[u8]) -> Namespace {
    let mut words = map.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty());
    match [(); 4].map(|()| words.next()) {
        [Some(b"0"), Some(b"0"), Some(b"4294967295"), None] => Namespace::Initial,
        _ => Namespace::Foreign,
    }
}

/// Root needs no range to be somebody: an account that lies in a range of root's stays itself.
fn lends(owner: Uid, account: bool) -> bool {
    !(account && owner == ROOT)
}
