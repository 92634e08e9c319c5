//! Questions to the system's name service, which may wait for a network: asked by a thread of its own.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::files::Files;
use crate::id::{Gid, Uid};
use crate::sys::nss::SystemDirectory;

/// Questions that wait at most; one that finds no room is asked again by whoever needs the answer next.
const WAITING: usize = 1024;
/// Answers "no such account" that are kept at most: whoever can wear many uids puts no account out.
const NOBODIES: usize = 16_384;
/// How old an answer may be before it is asked for again.
const FRESH: Duration = Duration::from_secs(30);

/// What a name service said of a uid.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub account: bool,
    pub groups: Arc<[Gid]>,
    at: Instant,
}

type Answers = imbl::HashMap<u32, Answer>;

/// The answers so far, and the way to ask for others.
pub(super) struct Names {
    known: Arc<ArcSwap<Answers>>,
    questions: SyncSender<Uid>,
}

impl Names {
    pub fn start() -> io::Result<Names> {
        let (questions, asked) = sync_channel(WAITING);
        let known = Arc::new(ArcSwap::from_pointee(Answers::new()));
        let answers = known.clone();
        std::thread::Builder::new()
            .name("account-names".into())
            .spawn(move || answer(&asked, &answers))?;
        Ok(Names { known, questions })
    }

    /// What was said of `uid`. One that is old is asked for anew, and stands until then.
    pub fn answer(&self, uid: Uid) -> Option<Answer> {
        let answer = self.known.load().get(&uid.0).cloned()?;
        if answer.at.elapsed() > FRESH {
            self.ask(uid);
        }
        Some(answer)
    }

    /// Asks for `uid`, without waiting.
    pub fn ask(&self, uid: Uid) {
        let _ = self.questions.try_send(uid);
    }

    /// Asks for every account of the files that has groups elsewhere.
    pub fn ask_for(&self, files: &Files) {
        if !files.has_all_groups() {
            files.accounts().for_each(|uid| self.ask(uid));
        }
    }
}

fn answer(asked: &Receiver<Uid>, known: &ArcSwap<Answers>) {
    let mut nobodies = 0;
    for uid in asked {
        let before = known.load();
        let old = before.get(&uid.0);
        // The same question of many requests.
        if old.is_some_and(|a| a.at.elapsed() < Duration::from_millis(100)) {
            continue;
        }
        let groups: Arc<[Gid]> = SystemDirectory.groups_of(uid).into();
        let account = !groups.is_empty();
        let mut all = Answers::clone(&before);
        if !account && old.is_none_or(|a| a.account) {
            nobodies += 1;
        }
        if nobodies > NOBODIES {
            all.retain(|_, a| a.account);
            nobodies = 0;
        }
        let at = Instant::now();
        all.insert(uid.0, Answer { account, groups, at });
        known.store(Arc::new(all));
    }
}
