//! What stays open of callers.

use super::*;

/// Descriptors of this process for looking at one of its own threads or a child.
fn descriptors_for(tids: &[u32]) -> usize {
    let of = |tid: &u32| [format!("/proc/{tid}/"), format!("/task/{tid}/")];
    let places: Vec<String> = tids.iter().flat_map(of).collect();
    let open = fs::read_dir("/proc/self/fd").unwrap();
    open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
        .filter(|file| places.iter().any(|p| file.to_string_lossy().contains(p)))
        .count()
}

#[test]
fn the_number_of_kept_threads_is_bounded() {
    let callers: Vec<_> = (0..KEPT_THREADS + 10).map(|_| Caller::start()).collect();
    let mut observer = Observer::new();
    let serve = |observer: &mut Observer, tid| observer.identify(&header(0, 0, tid)).unwrap().was_served();
    for _ in 0..2 {
        for caller in &callers {
            serve(&mut observer, caller.tid);
        }
        // The one used all the time is never the oldest.
        serve(&mut observer, callers[0].tid);
    }
    assert_eq!(observer.served.threads.len(), KEPT_THREADS);
    assert!(observer.served.position(callers[0].tid).is_some());
    assert!(observer.strangers.threads.len() <= KEPT_STRANGERS);
}

#[test]
fn of_strangers_few_are_kept_and_nothing_of_them_stays_open() {
    let callers: Vec<_> = (0..3 * KEPT_STRANGERS).map(|_| Caller::start()).collect();
    let tids: Vec<u32> = callers.iter().map(|c| c.tid).collect();
    for means in BOTH {
        let mut observer = Observer::with_means(means);
        for tid in tids.iter().chain(&tids) {
            let mut seen = observer.identify(&header(0, 0, *tid)).unwrap();
            seen.for_record();
            assert!(descriptors_for(&[*tid]) >= 3, "{means:?}");
        }
        assert_eq!(observer.strangers.threads.len(), KEPT_STRANGERS, "{means:?}");
        assert_eq!(observer.served.threads.len(), 0, "{means:?}");
        let files = if means == Means::Best { 0 } else { KEPT_STRANGERS };
        assert_eq!(descriptors_for(&tids), files, "{means:?}");
        // Whoever was given a value is known as soon as it comes again, and all strangers after it drive it out no more.
        let served = tids[0];
        observer.identify(&header(0, 0, served)).unwrap().was_served();
        for tid in tids.iter().chain(&tids) {
            observer.identify(&header(0, 0, *tid)).unwrap();
        }
        assert!(observer.served.position(served).is_some(), "{means:?}");
        observer.identify(&header(0, 0, served)).unwrap().for_record();
        assert!(descriptors_for(&[served]) >= 3, "{means:?}");
    }
}

#[test]
fn readers_that_have_ended_do_not_pile_up() {
    let mut observer = Observer::new();
    let stays = Other::start(A, A, &[]);
    for _ in 0..100 {
        observer.identify(&header(A, A, stays.0)).unwrap().was_served();
        let other = Other::start(B, B, &[]);
        observer.identify(&header(B, B, other.0)).unwrap().was_served();
    }
    assert!(
        observer.served.threads.len() <= 6,
        "{}",
        observer.served.threads.len()
    );
    assert!(observer.served.position(stays.0).is_some());
}

/// What a reply of a megabyte needed is not kept, to be wiped for each that follows.
#[test]
fn a_long_list_of_groups_leaves_no_long_buffer() {
    let groups: Vec<u32> = (100_000..165_536).collect();
    // Of this account one long list is read at a time.
    const LONG_LISTED: u32 = 44_829;
    let other = Other::start(LONG_LISTED, A, &groups);
    let mut observer = Observer::new();
    let mut seen = observer.identify(&header(LONG_LISTED, A, other.0)).unwrap();
    assert_eq!(seen.groups().unwrap().len(), groups.len());
    drop(seen);
    assert!(observer.scratch.text.capacity() <= 2 * long::LONG);
    assert_eq!(observer.scratch.groups.capacity(), 0);
}
