//! Callers with tens of thousands of groups, as sub ids allow. Writing out and reading the status of one takes the kernel
//! and this process milliseconds, and each list a quarter of a megabyte: at most one thread reads one at a time, and few
//! are kept.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::id::{Gid, Uid};
use crate::sys::accounts::owner;

use super::{Header, RECORD_AGE};

/// A status that is longer is long: some eight thousand groups, which no directory service gives.
pub(super) const LONG: usize = 96 << 10;
/// For so long all threads of an account are expected to have a long status after one had.
const EXPECTED: Duration = Duration::from_secs(60);
/// Accounts remembered for that, and lists kept.
const KEPT: usize = 32;

/// Whether there is anything to remember, so that nobody else pays for it.
static ANY: AtomicBool = AtomicBool::new(false);
static TURN: Mutex<()> = Mutex::new(());
static ACCOUNTS: Mutex<Vec<(Uid, Instant)>> = Mutex::new(Vec::new());
static LISTS: Mutex<Vec<List>> = Mutex::new(Vec::new());

/// A list as it was read of a task, which its thread id and its start name.
struct List {
    of: (Header, u64),
    at: Instant,
    groups: Arc<[Gid]>,
}

/// Leave to read a status.
pub(super) enum Turn {
    /// It is not expected to be long.
    Short,
    /// It is, and no other thread reads a long one.
    Mine(#[allow(dead_code, reason = "held")] MutexGuard<'static, ()>),
}

/// `None` if the status is expected to be long, and another thread reads a long one: nothing waits for that.
pub(super) fn turn(uid: Uid) -> Option<Turn> {
    if !ANY.load(Ordering::Relaxed) {
        return Some(Turn::Short);
    }
    let owner = owner(uid);
    let mut accounts = lock(&ACCOUNTS);
    accounts.retain(|(_, at)| at.elapsed() < EXPECTED);
    ANY.store(!accounts.is_empty(), Ordering::Relaxed);
    if !accounts.iter().any(|(uid, _)| *uid == owner) {
        return Some(Turn::Short);
    }
    drop(accounts);
    match TURN.try_lock() {
        Ok(turn) => Some(Turn::Mine(turn)),
        Err(TryLockError::Poisoned(turn)) => Some(Turn::Mine(turn.into_inner())),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// A thread of this uid had a long status.
pub(super) fn expect(uid: Uid) {
    let owner = owner(uid);
    let mut accounts = lock(&ACCOUNTS);
    accounts.retain(|(uid, _)| *uid != owner);
    if accounts.len() >= KEPT {
        accounts.remove(0);
    }
    accounts.push((owner, Instant::now()));
    ANY.store(true, Ordering::Relaxed);
}

/// Keeps a list for a while: after [`expect`].
pub(super) fn keep(of: (Header, u64), groups: &[Gid]) -> Arc<[Gid]> {
    let groups: Arc<[Gid]> = groups.into();
    let mut lists = lock(&LISTS);
    lists.retain(|list| list.of != of && list.at.elapsed() <= RECORD_AGE);
    if lists.len() >= KEPT {
        lists.remove(0);
    }
    lists.push(List {
        of,
        at: Instant::now(),
        groups: groups.clone(),
    });
    groups
}

/// The list of a task as it was at most [`RECORD_AGE`] ago.
pub(super) fn kept(of: (Header, u64)) -> Option<Arc<[Gid]>> {
    if !ANY.load(Ordering::Relaxed) {
        return None;
    }
    let lists = lock(&LISTS);
    let list = lists
        .iter()
        .find(|list| list.of == of && list.at.elapsed() <= RECORD_AGE)?;
    Some(list.groups.clone())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
