//! Runs one request for its caller and answers it; whatever happens, the thread goes on and the caller gets an answer.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use fuser::{
    ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyOpen, ReplyPoll, ReplyWrite, ReplyXattr,
};

use crate::access::{Caller, Range};
use crate::audit::{Event, Identity, Outcome, Record};
use crate::sys::caller::{Header, Observer};
use crate::vfs::{Errno, Level, RequestCaller, Vfs, VfsError};

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
    /// Asks, and gives what was answered.
    pub fn answer<T, R: Refuse>(
        &self,
        (what, header): (&'static str, Header),
        mut reply: R,
        ask: impl FnOnce(&Vfs, &mut RequestCaller<'_>, &mut R) -> Result<T, VfsError>,
        give: impl FnOnce(&Vfs, T, R),
    ) {
        self.guarded(what, header, |vfs, caller| {
            #[cfg(test)]
            super::tests::fault("decision");
            let answer = ask(vfs, caller, &mut reply);
            #[cfg(test)]
            super::tests::fault("reply");
            match answer {
                Ok(answer) => give(vfs, answer, reply),
                Err(e) => reply.refuse(errno(&e, what, header)),
            }
        });
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
            ("read", header),
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
            let mut observer = Observer::new();
            let mut caller = RequestCaller::new(header, &mut observer);
            let record = Record {
                event: Event::PanicCaught,
                outcome: Outcome::Failed { reason: "panic" },
                message: Some(what),
                via: "mount",
                who: caller.who(Identity::Full),
                ..Record::default()
            };
            self.vfs.access().vault().log().refuse(&record)
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
