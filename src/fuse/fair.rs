//! Whose request is served next. The kernel's queue is first come, first served: a thousand blocked threads of one owner
//! stand before another's one. So it is emptied as fast as it fills. A thread that has read a request serves it at once
//! while others read; the last one that reads leaves it in its owner's own queue and reads on. Who has served one takes
//! the next from the queues, owners by turns. An owner who asks for little is served at once all the same.
//!
//! Nothing here waits. A request in a queue is a blocked thread of its caller, so that its facts stay as they are.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::sync::{Mutex, MutexGuard};

/// Requests in all queues. What does not fit is left to the kernel's queue.
const QUEUED: usize = 16_384;
/// How long few requests are few, how many of one owner are, and how many of all owners together.
const WHILE: Duration = Duration::from_millis(10);
const FEW: u32 = 8;
const FEW_OF_ALL: u32 = 64;

type Job<C> = Box<dyn FnOnce(&C) + Send>;

/// Serves jobs with what they share.
pub struct Fair<C> {
    context: C,
    turns: Mutex<Turns<Job<C>>>,
    ended: Arc<AtomicUsize>,
}

/// A thread that serves; it is counted when it ends.
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

thread_local! {
    static SEAT: RefCell<Option<Seat>> = const { RefCell::new(None) };
}

/// When a job was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// By the thread that brought it, before anything else.
    AtOnce,
    /// It is left to its owner's turn.
    InTurn,
}

impl<C> Fair<C> {
    /// For `threads` that bring jobs.
    pub fn new(context: C, threads: usize) -> Fair<C> {
        Fair {
            context,
            turns: Mutex::new(Turns::new(threads)),
            ended: Arc::default(),
        }
    }

    /// What jobs share.
    pub fn context(&self) -> &C {
        &self.context
    }

    /// Serves the job of `owner`, or leaves it to its turn; then jobs whose turn it is. A job that panics is over.
    pub fn serve(&self, owner: u32, job: impl FnOnce(&C) + Send + 'static) -> Served {
        let _ = SEAT.try_with(|seat| {
            let mut seat = seat.borrow_mut();
            seat.get_or_insert_with(|| Seat(self.ended.clone()));
        });
        let arrival = self.lock().arrive(owner, Instant::now);
        let served = match arrival {
            Arrival::Serve => {
                self.run(job);
                Served::AtOnce
            }
            Arrival::Queue => {
                let job = Box::new(job);
                self.lock().queue(owner, job);
                Served::InTurn
            }
        };
        loop {
            // Not while it is locked: a job takes as long as it takes.
            let next = self.lock().next();
            match next {
                Some(job) => self.run(job),
                None => return served,
            }
        }
    }

    fn run(&self, job: impl FnOnce(&C)) {
        // Whoever guards jobs has said and counted it already; here it only must not end the thread.
        let _ = catch_unwind(AssertUnwindSafe(|| job(&self.context)));
    }

    fn lock(&self) -> MutexGuard<'_, Turns<Job<C>>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.ended = self.ended.load(Ordering::Relaxed);
        turns
    }
}

/// What is to be done with a job that was brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    Serve,
    Queue,
}

/// The queues, and who is where.
struct Turns<J> {
    /// Threads that bring jobs, and those of them that are no more.
    threads: usize,
    ended: usize,
    /// Threads that serve; all others read, or are about to.
    busy: usize,
    /// Owners with jobs, in the order of their turns. None is empty.
    order: VecDeque<u32>,
    queues: FxHashMap<u32, VecDeque<J>>,
    queued: usize,
    few: Few,
}

/// What was served out of turn lately.
struct Few {
    since: Option<Instant>,
    of: FxHashMap<u32, u32>,
    all: u32,
}

impl Few {
    /// Whether `owner` may have one more.
    fn take(&mut self, owner: u32, now: Instant) -> bool {
        if self
            .since
            .is_none_or(|since| now.saturating_duration_since(since) >= WHILE)
        {
            self.since = Some(now);
            self.of.clear();
            self.all = 0;
        }
        if self.all >= FEW_OF_ALL {
            return false;
        }
        let own = self.of.entry(owner).or_insert(0);
        if *own >= FEW {
            return false;
        }
        *own += 1;
        self.all += 1;
        true
    }
}

impl<J> Turns<J> {
    fn new(threads: usize) -> Turns<J> {
        Turns {
            threads,
            ended: 0,
            busy: 0,
            order: VecDeque::new(),
            queues: FxHashMap::default(),
            queued: 0,
            few: Few {
                since: None,
                of: FxHashMap::default(),
                all: 0,
            },
        }
    }

    /// Whether a thread other than the asking one, which is busy, reads.
    fn another_reads(&self) -> bool {
        self.busy + self.ended < self.threads
    }

    /// A thread has brought a job.
    fn arrive(&mut self, owner: u32, now: impl FnOnce() -> Instant) -> Arrival {
        self.busy += 1;
        let alone = self.busy == 1;
        if self.queued == 0 && (alone || self.another_reads()) {
            return Arrival::Serve;
        }
        match !self.queues.contains_key(&owner) && self.few.take(owner, now()) {
            true => Arrival::Serve,
            false => Arrival::Queue,
        }
    }

    fn queue(&mut self, owner: u32, job: J) {
        let queue = self.queues.entry(owner).or_default();
        if queue.is_empty() {
            self.order.push_back(owner);
        }
        queue.push_back(job);
        self.queued += 1;
    }

    /// What a busy thread is to do next; nothing if it is to read.
    fn next(&mut self) -> Option<J> {
        // Somebody reads, and somebody serves what is queued.
        let serve = self.another_reads() || self.busy == 1 || self.queued >= QUEUED;
        let job = serve.then(|| self.pop()).flatten();
        if job.is_none() {
            self.busy -= 1;
        }
        job
    }

    fn pop(&mut self) -> Option<J> {
        let owner = self.order.pop_front()?;
        let queue = self.queues.get_mut(&owner)?;
        let job = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&owner);
        } else {
            self.order.push_back(owner);
        }
        self.queued -= usize::from(job.is_some());
        job
    }
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests {
    use super::*;

    const THREADS: usize = 3;

    fn turns() -> Turns<&'static str> {
        Turns::new(THREADS)
    }

    /// Queues what cannot be served at once.
    fn bring(turns: &mut Turns<&'static str>, owner: u32, job: &'static str, now: Instant) -> Arrival {
        let arrival = turns.arrive(owner, || now);
        if arrival == Arrival::Queue {
            turns.queue(owner, job);
        }
        arrival
    }

    /// An owner with as many jobs as are served at once, so that he has had his few.
    fn flooded(now: Instant) -> Turns<&'static str> {
        let mut turns = turns();
        for _ in 1..THREADS {
            assert_eq!(bring(&mut turns, 1, "first", now), Arrival::Serve);
        }
        // The last thread that reads.
        for _ in 0..FEW {
            assert_eq!(bring(&mut turns, 1, "few", now), Arrival::Serve);
            assert_eq!(turns.next(), None);
        }
        for _ in 0..1000 {
            assert_eq!(bring(&mut turns, 1, "flood", now), Arrival::Queue);
            assert_eq!(turns.next(), None, "it reads on");
        }
        turns
    }

    #[test]
    fn who_is_alone_is_never_queued() {
        let now = Instant::now();
        for threads in 1..4 {
            let mut turns = Turns::new(threads);
            for _ in 0..100 {
                assert_eq!(bring(&mut turns, 1, "one", now), Arrival::Serve);
                assert_eq!(turns.next(), None);
            }
            assert_eq!(turns.busy, 0);
        }
    }

    #[test]
    fn a_flood_of_one_owner_is_queued_and_another_served_at_once() {
        let now = Instant::now();
        let mut turns = flooded(now);
        assert_eq!(bring(&mut turns, 2, "other", now), Arrival::Serve);
        // Nobody reads now, so that whoever ends first reads before he takes from the queue.
        assert_eq!(turns.next(), None);
        assert_eq!(turns.next(), Some("flood"));
        assert_eq!(turns.next(), Some("flood"));
    }

    #[test]
    fn whoever_asks_for_much_waits_for_his_turn_among_owners() {
        let now = Instant::now();
        let mut turns = flooded(now);
        for owner in [2, 3] {
            for _ in 0..FEW {
                assert_eq!(bring(&mut turns, owner, "few", now), Arrival::Serve);
                assert_eq!(turns.next(), None);
            }
        }
        for job in ["two", "and two"] {
            assert_eq!(bring(&mut turns, 2, job, now), Arrival::Queue);
            assert_eq!(turns.next(), None);
        }
        assert_eq!(bring(&mut turns, 3, "three", now), Arrival::Queue);
        assert_eq!(turns.next(), None);
        let order: Vec<_> = (0..6).map_while(|_| turns.next()).collect();
        assert_eq!(order, ["flood", "two", "three", "flood", "and two", "flood"]);
        // A while later few are few again.
        let later = now + WHILE;
        assert_eq!(bring(&mut turns, 2, "later", later), Arrival::Serve);
    }

    #[test]
    fn many_owners_are_not_few() {
        let now = Instant::now();
        let mut turns = flooded(now);
        let served = (10..1010).filter(|owner| {
            let arrival = bring(&mut turns, *owner, "x", now);
            assert_eq!(turns.next(), None);
            arrival == Arrival::Serve
        });
        assert_eq!(served.count(), (FEW_OF_ALL - FEW) as usize);
        // One of each in its turn, and the flood's second after them.
        let order: Vec<_> = std::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(
            order.iter().filter(|j| **j == "x").count(),
            1000 - (FEW_OF_ALL - FEW) as usize
        );
        assert_eq!(order[0], "flood");
        assert!(order[1..order.len() - 999].iter().all(|j| *j == "x"));
        assert!(turns.queues.is_empty() && turns.order.is_empty() && turns.queued == 0);
    }

    #[test]
    fn what_is_queued_is_bounded_and_served_when_nobody_reads_too() {
        let now = Instant::now();
        let mut turns = flooded(now);
        let served = loop {
            bring(&mut turns, 1, "flood", now);
            if let Some(job) = turns.next() {
                break job;
            }
        };
        assert_eq!((served, turns.queued), ("flood", QUEUED - 1));
        assert_eq!(turns.busy, THREADS, "all serve, and the kernel keeps the rest");
    }

    /// However threads end, what is queued is served by those that are left.
    #[test]
    fn the_last_thread_serves_what_is_queued() {
        let now = Instant::now();
        let mut turns = flooded(now);
        turns.ended = 1;
        assert_eq!(turns.next(), None, "one is left to serve, and nobody read");
        turns.ended = 2;
        assert_eq!((turns.busy, turns.next()), (1, Some("flood")));
    }

    #[test]
    fn each_job_is_served_once_whatever_panics() {
        let fair = Arc::new(Fair::new(AtomicUsize::new(0), 5));
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let threads: Vec<_> = (0..5)
            .map(|owner| {
                let fair = fair.clone();
                std::thread::spawn(move || {
                    for n in 0..2000 {
                        fair.serve(owner % 2, move |count: &AtomicUsize| {
                            count.fetch_add(1, Ordering::Relaxed);
                            assert!(n % 100 != 0);
                        });
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        std::panic::set_hook(hook);
        // A thread that ends does not read any more: what it left is the next one's that brings something.
        fair.serve(9, |_| {});
        assert_eq!(fair.context().load(Ordering::Relaxed), 10_000);
        assert_eq!(fair.ended.load(Ordering::Relaxed), 5);
        assert_eq!(fair.lock().busy, 0);
    }
}
