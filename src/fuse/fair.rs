//! Whose request is served next. The kernel's queue is first come, first served: a thousand blocked threads of one owner
//! stand before another's one. So it is emptied as fast as it fills. A thread that has read a request serves it at once
//! while others read; the last one that reads leaves it in its owner's own queue and reads on. Who has served one takes
//! the next from the queues, owners by turns. An owner who asks for little is served at once all the same. What the kernel
//! asks while it holds something that others need has queues of its own, which have every second turn: it does not stand
//! behind what its own owner asked for besides.
//!
//! One thread more than asked for makes this possible. It rests while there is no crowd: the kernel wakes whoever waited
//! longest, so that one thread more that reads is a thread switched to more often, for nothing.
//!
//! Nothing here makes a request wait. One in a queue is a blocked thread of its caller, so that its facts stay as they are.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// Requests in all queues. What does not fit is left to the kernel's queue.
const QUEUED: usize = 16_384;
/// How long few requests are few, how many of one owner are, and how many of all owners together.
const WHILE: Duration = Duration::from_millis(10);
const FEW: u32 = 8;
const FEW_OF_ALL: u32 = 64;
/// Of the requests that are read by the last one that reads, whether another waits behind it is looked at for each of so
/// many: it is a system call. No client asks in rounds of a number that this prime divides.
const EACH: usize = 7;
/// So many that were looked at one after the other, with another one waiting behind each, are a crowd. Nothing is queued
/// before: what waits in the kernel's queue can still be killed.
const CROWD: usize = 8;
/// So many in the queues still are one; it is over when there were fewer for a while.
const STILL: usize = 8;
const QUIET: Duration = Duration::from_secs(1);

type Job<C> = Box<dyn FnOnce(&C) + Send>;

/// Serves jobs with what they share.
pub struct Fair<C> {
    context: C,
    /// Whether a request waits in the kernel's queue.
    waiting: Box<dyn Fn() -> bool + Send + Sync>,
    turns: Mutex<Turns<Job<C>>>,
    threads: Arc<Threads>,
}

/// Threads that ended, and where one rests.
#[derive(Default)]
struct Threads {
    ended: AtomicUsize,
    rest: Mutex<Rest>,
    changed: Condvar,
}

/// Which thread that rests is called: each has a number, from 1 on.
#[derive(Default)]
struct Rest {
    called: u64,
    over: bool,
}

impl Threads {
    /// Until `number` is called, or a thread has ended.
    fn rest(&self, number: u64) {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        while rest.called < number && !rest.over {
            rest = self.changed.wait(rest).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn call(&self, number: u64) {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        rest.called = rest.called.max(number);
        self.changed.notify_all();
    }

    /// Its place is taken; or the session has ended, and with it all rest.
    fn one_ended(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.rest.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.changed.notify_all();
    }
}

/// A thread that serves; it is counted when it ends.
struct Seat(Arc<Threads>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.one_ended();
    }
}

thread_local! {
    static SEAT: RefCell<Option<Seat>> = const { RefCell::new(None) };
}

/// What a job keeps others from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Nothing.
    Ordinary,
    /// The kernel holds a name, an inode or a page until it is answered.
    Urgent,
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
    /// For `threads` that bring jobs, one of which rests while there is no crowd. `waiting` says whether another request
    /// could be read without waiting for it.
    pub fn new(context: C, threads: usize, waiting: impl Fn() -> bool + Send + Sync + 'static) -> Fair<C> {
        Fair {
            context,
            waiting: Box::new(waiting),
            turns: Mutex::new(Turns::new(threads)),
            threads: Arc::default(),
        }
    }

    /// What jobs share.
    pub fn context(&self) -> &C {
        &self.context
    }

    /// Serves the job of `owner`, or leaves it to its turn; then jobs whose turn it is; then rests if that is this thread's
    /// part. A job that panics is over.
    pub fn serve(&self, owner: u32, urgency: Urgency, job: impl FnOnce(&C) + Send + 'static) -> Served {
        let _ = SEAT.try_with(|seat| {
            let mut seat = seat.borrow_mut();
            seat.get_or_insert_with(|| Seat(self.threads.clone()));
        });
        let (arrival, call) = self.lock().arrive((owner, urgency), &self.waiting, Instant::now);
        if let Some(resting) = call {
            self.threads.call(resting);
        }
        let served = match arrival {
            Arrival::Serve => {
                self.run(job);
                Served::AtOnce
            }
            Arrival::Queue => {
                let job = Box::new(job);
                self.lock().queue((owner, urgency), job);
                Served::InTurn
            }
        };
        loop {
            // Not while it is locked: a job takes as long as it takes.
            let next = self.lock().next();
            match next {
                Next::Serve(job) => self.run(job),
                Next::Read => return served,
                Next::Rest(number) => {
                    self.threads.rest(number);
                    self.lock().rested(number);
                    return served;
                }
            }
        }
    }

    fn run(&self, job: impl FnOnce(&C)) {
        // Whoever guards jobs has said and counted it already; here it only must not end the thread.
        let _ = catch_unwind(AssertUnwindSafe(|| job(&self.context)));
    }

    fn lock(&self) -> MutexGuard<'_, Turns<Job<C>>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.ended = self.threads.ended.load(Ordering::Relaxed);
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
    urgent: Line<J>,
    ordinary: Line<J>,
    /// Which of them has the next turn.
    turn: Urgency,
    queued: usize,
    few: Few,
    /// The thread that rests, and how many have.
    resting: Option<u64>,
    rests: u64,
    /// When there was a crowd last, while that counts; how many requests that were looked at in a row look like one, of
    /// how many.
    crowd: Option<Instant>,
    deep: usize,
    alone: usize,
}

/// What a thread that has served does.
#[derive(Debug, PartialEq, Eq)]
enum Next<J> {
    Serve(J),
    Read,
    /// Until this number is called.
    Rest(u64),
}

/// Owners with jobs, in the order of their turns. None is empty.
struct Line<J> {
    order: VecDeque<u32>,
    queues: FxHashMap<u32, VecDeque<J>>,
}

impl<J> Default for Line<J> {
    fn default() -> Self {
        Line {
            order: VecDeque::new(),
            queues: FxHashMap::default(),
        }
    }
}

impl<J> Line<J> {
    fn push(&mut self, owner: u32, job: J) {
        let queue = self.queues.entry(owner).or_default();
        if queue.is_empty() {
            self.order.push_back(owner);
        }
        queue.push_back(job);
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
        job
    }
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
            urgent: Line::default(),
            ordinary: Line::default(),
            turn: Urgency::Urgent,
            queued: 0,
            few: Few {
                since: None,
                of: FxHashMap::default(),
                all: 0,
            },
            resting: None,
            rests: 0,
            crowd: None,
            deep: 0,
            alone: 0,
        }
    }

    /// Whether a thread other than the asking one, which is busy, reads.
    fn another_reads(&self) -> bool {
        self.busy + self.ended + usize::from(self.resting.is_some()) < self.threads
    }

    /// A thread has brought a job; the one that is to rest no more, if any.
    fn arrive(
        &mut self,
        (owner, urgency): (u32, Urgency),
        waiting: impl FnOnce() -> bool,
        now: impl Fn() -> Instant,
    ) -> (Arrival, Option<u64>) {
        self.busy += 1;
        let call = self.look_for_crowd(waiting, &now);
        let alone = self.busy == 1 || self.crowd.is_none();
        if self.queued == 0 && (alone || self.another_reads()) {
            return (Arrival::Serve, call);
        }
        match !self.line(urgency).queues.contains_key(&owner) && self.few.take(owner, now()) {
            true => (Arrival::Serve, call),
            false => (Arrival::Queue, call),
        }
    }

    fn look_for_crowd(&mut self, waiting: impl FnOnce() -> bool, now: impl Fn() -> Instant) -> Option<u64> {
        match self.crowd {
            None if self.another_reads() => {}
            None => {
                self.alone = (self.alone + 1) % EACH;
                if self.alone == 0 {
                    self.deep = if waiting() { self.deep + 1 } else { 0 };
                }
                if self.deep >= CROWD {
                    (self.crowd, self.deep) = (Some(now()), 0);
                    return self.resting.take();
                }
            }
            Some(seen) => {
                let now = now();
                if self.queued >= STILL {
                    self.crowd = Some(now);
                } else if now.saturating_duration_since(seen) >= QUIET {
                    self.crowd = None;
                }
            }
        }
        None
    }

    fn line(&mut self, urgency: Urgency) -> &mut Line<J> {
        match urgency {
            Urgency::Urgent => &mut self.urgent,
            Urgency::Ordinary => &mut self.ordinary,
        }
    }

    fn queue(&mut self, (owner, urgency): (u32, Urgency), job: J) {
        self.line(urgency).push(owner, job);
        self.queued += 1;
    }

    /// What a busy thread is to do next.
    fn next(&mut self) -> Next<J> {
        // Somebody reads, and somebody serves what is queued.
        let serve = self.another_reads() || self.busy == 1 || self.queued >= QUEUED;
        if let Some(job) = serve.then(|| self.pop()).flatten() {
            return Next::Serve(job);
        }
        let another_reads = self.another_reads();
        self.busy -= 1;
        let needed = self.crowd.is_some() || self.queued > 0 || self.ended > 0 || self.resting.is_some();
        if needed || !another_reads {
            return Next::Read;
        }
        self.rests += 1;
        self.resting = Some(self.rests);
        Next::Rest(self.rests)
    }

    /// This one rests no more.
    fn rested(&mut self, number: u64) {
        self.resting = self.resting.filter(|resting| *resting != number);
    }

    fn pop(&mut self) -> Option<J> {
        let (first, then) = match self.turn {
            Urgency::Urgent => (Urgency::Urgent, Urgency::Ordinary),
            Urgency::Ordinary => (Urgency::Ordinary, Urgency::Urgent),
        };
        self.turn = then;
        let job = self.line(first).pop().or_else(|| self.line(then).pop());
        self.queued -= usize::from(job.is_some());
        job
    }
}

#[cfg(all(test, not(feature = "interleavings")))]
mod tests {
    use super::*;

    const THREADS: usize = 3;
    const ORDINARY: Urgency = Urgency::Ordinary;

    fn turns() -> Turns<&'static str> {
        let mut turns = Turns::new(THREADS);
        // As in a crowd that does not end.
        turns.crowd = Some(Instant::now() + Duration::from_secs(3600));
        turns
    }

    /// Queues what cannot be served at once.
    fn bring(turns: &mut Turns<&'static str>, owner: u32, job: &'static str, now: Instant) -> Arrival {
        let (arrival, _) = turns.arrive((owner, ORDINARY), || false, || now);
        if arrival == Arrival::Queue {
            turns.queue((owner, ORDINARY), job);
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
            assert_eq!(turns.next(), Next::Read);
        }
        for _ in 0..1000 {
            assert_eq!(bring(&mut turns, 1, "flood", now), Arrival::Queue);
            assert_eq!(turns.next(), Next::Read, "it reads on");
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
                assert!(!matches!(turns.next(), Next::Serve(_)));
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
        assert_eq!(turns.next(), Next::Read);
        assert_eq!(turns.next(), Next::Serve("flood"));
        assert_eq!(turns.next(), Next::Serve("flood"));
    }

    #[test]
    fn whoever_asks_for_much_waits_for_his_turn_among_owners() {
        let now = Instant::now();
        let mut turns = flooded(now);
        for owner in [2, 3] {
            for _ in 0..FEW {
                assert_eq!(bring(&mut turns, owner, "few", now), Arrival::Serve);
                assert_eq!(turns.next(), Next::Read);
            }
        }
        for job in ["two", "and two"] {
            assert_eq!(bring(&mut turns, 2, job, now), Arrival::Queue);
            assert_eq!(turns.next(), Next::Read);
        }
        assert_eq!(bring(&mut turns, 3, "three", now), Arrival::Queue);
        assert_eq!(turns.next(), Next::Read);
        let order: Vec<_> = (0..6).map(|_| turns.next()).collect();
        let expected = ["flood", "two", "three", "flood", "and two", "flood"];
        assert_eq!(order, expected.map(Next::Serve));
        // A while later few are few again.
        let later = now + WHILE;
        assert_eq!(bring(&mut turns, 2, "later", later), Arrival::Serve);
    }

    /// The kernel holds what others need: it does not stand behind its owner's thousand reads, nor do all others' reads
    /// stand behind a thousand look-ups.
    #[test]
    fn what_the_kernel_holds_something_for_has_every_second_turn() {
        let now = Instant::now();
        let mut turns = flooded(now);
        for job in ["held 1", "held 2", "held 3"] {
            turns.queue((1, Urgency::Urgent), job);
        }
        turns.queue((2, ORDINARY), "other");
        let order: Vec<_> = (0..7).filter_map(|_| turns.pop()).collect();
        let expected = ["held 1", "flood", "held 2", "other", "held 3", "flood", "flood"];
        assert_eq!(order, expected);
    }

    #[test]
    fn many_owners_are_not_few() {
        let now = Instant::now();
        let mut turns = flooded(now);
        let served = (10..1010).filter(|owner| {
            let arrival = bring(&mut turns, *owner, "x", now);
            assert_eq!(turns.next(), Next::Read);
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
        assert!(turns.ordinary.queues.is_empty() && turns.ordinary.order.is_empty() && turns.queued == 0);
    }

    #[test]
    fn what_is_queued_is_bounded_and_served_when_nobody_reads_too() {
        let now = Instant::now();
        let mut turns = flooded(now);
        let served = loop {
            bring(&mut turns, 1, "flood", now);
            if let Next::Serve(job) = turns.next() {
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
        assert_eq!(turns.next(), Next::Read, "one is left to serve, and nobody read");
        turns.ended = 2;
        assert_eq!((turns.busy, turns.next()), (1, Next::Serve("flood")));
    }

    /// The kernel wakes whoever waited longest: one more that reads is a switch of threads more for each request.
    #[test]
    fn without_a_crowd_one_thread_rests() {
        let now = Instant::now();
        let mut turns: Turns<&str> = Turns::new(2);
        let (first, second) = (
            turns.arrive((1, ORDINARY), || true, || now),
            turns.arrive((1, ORDINARY), || false, || now),
        );
        assert_eq!((first, second), ((Arrival::Serve, None), (Arrival::Serve, None)));
        assert_eq!(turns.next(), Next::Read, "nobody else reads");
        assert_eq!(turns.next(), Next::Rest(1));
        for _ in 0..100 {
            for waiting in [true, false] {
                let alone = turns.arrive((1, ORDINARY), || waiting, || now);
                assert_eq!(
                    alone,
                    (Arrival::Serve, None),
                    "a client's RELEASE and its next look-up"
                );
                assert_eq!(turns.next(), Next::Read);
            }
        }
        // A crowd: one waits behind each.
        (turns.alone, turns.deep) = (0, 0);
        for n in 1..=CROWD * EACH {
            let arrived = turns.arrive((1, ORDINARY), || true, || now);
            assert_eq!(arrived, (Arrival::Serve, (n == CROWD * EACH).then_some(1)));
            assert_eq!(turns.next(), Next::Read, "and nobody rests");
        }
        // What was called may come late: it does not end another's rest.
        let later = now + QUIET;
        assert_eq!(
            turns.arrive((1, ORDINARY), || false, || later),
            (Arrival::Serve, None)
        );
        assert_eq!(turns.next(), Next::Rest(2), "the crowd is over");
        turns.rested(1);
        assert_eq!(turns.resting, Some(2));
        turns.ended = 1;
        turns.rested(2);
        assert_eq!(
            turns.arrive((1, ORDINARY), || false, || later),
            (Arrival::Serve, None)
        );
        assert_eq!(turns.next(), Next::Read, "the other one has ended");
    }

    #[test]
    fn a_crowd_lasts_while_it_is_queued() {
        let mut now = Instant::now();
        let mut turns = flooded(now);
        turns.crowd = Some(now);
        for _ in 0..5 {
            now += QUIET;
            bring(&mut turns, 1, "flood", now);
            assert_eq!(turns.next(), Next::Read);
            assert_eq!(turns.crowd, Some(now));
        }
        while turns.pop().is_some() {}
        now += QUIET;
        bring(&mut turns, 1, "one", now);
        assert_eq!(turns.crowd, None);
    }

    #[test]
    fn each_job_is_served_once_whatever_panics() {
        let fair = Arc::new(Fair::new(AtomicUsize::new(0), 5, || false));
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let threads: Vec<_> = (0..5)
            .map(|owner| {
                let fair = fair.clone();
                std::thread::spawn(move || {
                    for n in 0..2000 {
                        fair.serve(owner % 2, ORDINARY, move |count: &AtomicUsize| {
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
        fair.serve(9, ORDINARY, |_| {});
        assert_eq!(fair.context().load(Ordering::Relaxed), 10_000);
        assert_eq!(fair.threads.ended.load(Ordering::Relaxed), 5);
        assert_eq!(fair.lock().busy, 0);
    }
}
