//! Runs one request for its caller and answers it; whatever happens, the thread goes on and the caller gets an answer.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fuser::{
    ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyOpen, ReplyPoll, ReplyWrite, ReplyXattr,
};

use super::fair::Urgency;
use super::later::{Later, Patience};
use crate::access::{Caller, Range};
use crate::audit::{Event, Identity, Outcome, Record, Refused};
use crate::sys::caller::{Header, Observer};
use crate::vfs::{Answered, Errno, Level, RequestCaller, Vfs, VfsError};

/// Descriptors for looking at callers, and the threads that share them.
pub static SHARED: OnceLock<(usize, usize)> = OnceLock::new();

thread_local! {
    static OBSERVER: RefCell<Observer> = RefCell::new(match SHARED.get() {
        Some((descriptors, threads)) => Observer::sharing(*descriptors, *threads),
        None => Observer::new(),
    });
}

/// What answers requests, on whichever thread.
#[derive(Clone)]
pub struct Server {
    pub vfs: Arc<Vfs>,
    refusals: Arc<Refusals>,
}

struct Refusals {
    patience: Patience,
    later: Later,
}

/// A kind of request.
#[derive(Clone, Copy)]
pub struct Op {
    what: &'static str,
    refusal: Refusal,
}

/// When a refusal is answered.
#[derive(Clone, Copy)]
enum Refusal {
    /// The kernel holds something meanwhile that others need: a name, a directory.
    AtOnce,
    /// In a flood, later.
    MayWait,
}

impl Op {
    /// Always answered at once.
    pub const fn prompt(what: &'static str) -> Op {
        let refusal = Refusal::AtOnce;
        Op { what, refusal }
    }

    /// Whether others wait for the answer.
    pub fn urgency(self) -> Urgency {
        match self.refusal {
            Refusal::AtOnce => Urgency::Urgent,
            Refusal::MayWait => Urgency::Ordinary,
        }
    }

    /// Under which the kernel holds nothing, so that refusals in a flood may be held back.
    pub const fn patient(what: &'static str) -> Op {
        let refusal = Refusal::MayWait;
        Op { what, refusal }
    }
}

/// A READ and where its answer goes.
pub struct HeldRead {
    pub header: Header,
    pub handle: u64,
    pub range: Range,
    pub direct: bool,
    pub reply: ReplyData,
}

/// Where an answer goes. One that is dropped answers EIO.
pub trait Refuse: Send + 'static {
    fn refuse(self, errno: fuser::Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => { $(
        impl Refuse for $reply {
            fn refuse(self, errno: fuser::Errno) {
                self.error(errno)
            }
        }
    )* };
}

refuse!(
    ReplyAttr,
    ReplyBmap,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyEmpty,
    ReplyEntry,
    ReplyIoctl,
    ReplyOpen,
    ReplyPoll,
    ReplyWrite,
    ReplyXattr
);

impl Server {
    /// # Errors
    /// If there can be no thread for refusals that are held back.
    pub fn new(vfs: Arc<Vfs>) -> std::io::Result<Server> {
        let refusals = Refusals {
            patience: Patience::default(),
            later: Later::start()?,
        };
        Ok(Server {
            vfs,
            refusals: Arc::new(refusals),
        })
    }

    /// Asks, and gives what was answered.
    pub fn answer<T, R: Refuse>(
        &self,
        op: Op,
        header: Header,
        mut reply: R,
        ask: impl FnOnce(&Vfs, &mut RequestCaller<'_>, &mut R) -> Result<T, VfsError>,
        give: impl FnOnce(&Vfs, T, R),
    ) {
        self.guarded(op.what, header, |vfs, caller| {
            #[cfg(test)]
            super::tests::fault("decision");
            let answer = ask(vfs, caller, &mut reply);
            #[cfg(test)]
            super::tests::fault("reply");
            if caller.answered() == Answered::Barely {
                self.count_refusal(header);
            }
            match answer {
                Ok(answer) => give(vfs, answer, reply),
                Err(e) => self.refuse(op, header, reply, &e),
            }
        });
    }

    fn refuse(&self, op: Op, header: Header, reply: impl Refuse, e: &VfsError) {
        let errno = errno(e, op.what, header);
        // What is answered as a missing name costs what a missing name does.
        if e.is_refusal() && errno != fuser::Errno::ENOENT {
            let wait = self.count_refusal(header);
            if !wait.is_zero() && matches!(op.refusal, Refusal::MayWait) {
                self.vfs.counters.delayed.fetch_add(1, Ordering::Relaxed);
                return self.refusals.later.give(wait, move || reply.refuse(errno));
            }
        }
        reply.refuse(errno);
    }

    /// How long the answer to a refusal waits.
    fn count_refusal(&self, header: Header) -> Duration {
        let owner = crate::sys::accounts::owner(header.uid);
        self.refusals.patience.count(owner.0, Instant::now())
    }

    /// Decides, and answers.
    pub fn read(&self, read: HeldRead) {
        let HeldRead {
            header,
            handle,
            range,
            direct,
            reply,
        } = read;
        self.answer(
            Op::prompt("read"),
            header,
            reply,
            |vfs, caller, _| vfs.read(handle, range, direct, caller),
            |_, bytes, reply| reply.data(bytes.as_ref().map_or(&[], |b| b.expose())),
        );
    }

    /// A panic anywhere in `f`, its reply included, is an EIO, a record and a counter, never the end of a thread: the
    /// reply is `f`'s own, and is dropped.
    pub fn guarded(&self, what: &'static str, header: Header, f: impl FnOnce(&Vfs, &mut RequestCaller<'_>)) {
        let run = || {
            OBSERVER.with(|observer| {
                let mut observer = observer.try_borrow_mut().ok()?;
                f(&self.vfs, &mut RequestCaller::new(header, &mut observer));
                Some(())
            })
        };
        if !matches!(catch_unwind(AssertUnwindSafe(run)), Ok(Some(()))) {
            self.panicked(what, header);
        }
    }

    fn panicked(&self, what: &'static str, header: Header) {
        self.vfs.counters.panics.fetch_add(1, Ordering::Relaxed);
        let recorded = catch_unwind(AssertUnwindSafe(|| {
            let refused = Refused {
                uid: header.uid.0,
                event: Event::PanicCaught,
                secret: None,
                reason: "panic",
            };
            let Some(admitted) = self.vfs.access().vault().log().admit(&refused) else {
                return Ok(());
            };
            let mut observer = Observer::new();
            let mut caller = RequestCaller::new(header, &mut observer);
            admitted.write(&Record {
                event: refused.event,
                outcome: Outcome::Failed {
                    reason: refused.reason,
                },
                message: Some(what),
                via: "mount",
                who: caller.who(Identity::Full),
                ..Record::default()
            })
        }));
        if !matches!(recorded, Ok(Ok(()))) {
            tracing::error!("a panic in {what} could not be recorded");
        }
    }
}

/// The errno of what went wrong; a failure is said, a refusal has its record.
fn errno(e: &VfsError, what: &str, header: Header) -> fuser::Errno {
    let (Errno(number), level) = e.errno();
    let Header { uid, tid, .. } = header;
    match level {
        Level::Debug => tracing::debug!("{what} for uid {uid}, thread {tid}: {e}"),
        Level::Error => tracing::error!("{what} for uid {uid}, thread {tid}: {e}"),
    }
    fuser::Errno::from_i32(number)
}
