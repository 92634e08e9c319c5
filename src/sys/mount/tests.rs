//! Mounts that nobody serves, served ones being in `tests/mount.rs`.

use std::sync::mpsc;

use super::*;

/// A directory whose mounts are taken away when the test ends, however it ends.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place {
            dir: tempfile::tempdir().unwrap(),
        }
    }
    fn target(&self) -> PathBuf {
        let target = self.dir.path().join("m");
        let _ = std::fs::create_dir(&target);
        target
    }
    fn mount(&self) -> Mounted {
        mount(&self.target(), &Options::default()).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        while nix::mount::umount2(&self.dir.path().join("m"), flags).is_ok() {}
    }
}

fn line(target: &Path) -> Option<MountEntry> {
    mounts().unwrap().into_iter().rfind(|m| m.target == target)
}

/// Fails instead of hanging when something asks the file system.
fn at_once<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(what()));
    told.recv_timeout(Duration::from_secs(10))
        .expect("it must not wait for the file system's server")
}

fn target_state(error: MountError) -> TargetState {
    match error {
        MountError::Target { state, .. } => state,
        other => panic!("{other}"),
    }
}

#[test]
fn the_states_of_a_place_without_a_mount() {
    let place = Place::new();
    let dir = place.dir.path();
    assert_eq!(state(&dir.join("none")).unwrap(), TargetState::Missing);
    assert_eq!(state(&dir.join("none/below")).unwrap(), TargetState::Missing);
    assert_eq!(state(&place.target()).unwrap(), TargetState::EmptyDirectory);
    std::fs::write(dir.join("file"), "x").unwrap();
    assert_eq!(state(&dir.join("file")).unwrap(), TargetState::NotDirectory);
    assert_eq!(state(dir).unwrap(), TargetState::NonEmpty);
    for (name, to) in [("good", "m"), ("dangling", "nowhere"), ("loop", "loop")] {
        std::os::unix::fs::symlink(to, dir.join(name)).unwrap();
        assert_eq!(state(&dir.join(name)).unwrap(), TargetState::Symlink, "{name}");
    }
}

#[test]
fn only_an_empty_directory_is_mounted_on() {
    let place = Place::new();
    let dir = place.dir.path();
    std::fs::write(dir.join("file"), "x").unwrap();
    std::os::unix::fs::symlink("m", dir.join("link")).unwrap();
    place.target();
    for (path, expected) in [
        (dir.to_owned(), TargetState::NonEmpty),
        (dir.join("link"), TargetState::Symlink),
        (dir.join("file"), TargetState::NotDirectory),
        (dir.join("none"), TargetState::Missing),
    ] {
        let error = mount(&path, &Options::default()).err().unwrap();
        assert_eq!(target_state(error), expected);
        assert!(unmount(&path).is_err());
    }
    assert_eq!(
        mounts()
            .unwrap()
            .iter()
            .filter(|m| m.target.starts_with(dir))
            .count(),
        0
    );
}

#[test]
fn a_mount_has_its_options_before_anybody_serves_it() {
    let place = Place::new();
    let mounted = place.mount();
    let entry = line(&mounted.target).unwrap();
    assert_eq!((entry.fstype.as_str(), entry.source.as_str()), (FSTYPE, "wardfs"));
    assert_eq!(entry.device.1, mounted.connection);
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(
            entry.options.split(',').any(|o| o == option),
            "{option} in {}",
            entry.options
        );
    }
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = text
        .lines()
        .find(|l| l.contains(mounted.target.to_str().unwrap()))
        .unwrap();
    assert!(
        line.contains("allow_other") && !line.contains("default_permissions"),
        "{line}"
    );
}

#[test]
fn mounting_and_splitting_ask_nothing_of_the_server_and_leave_the_public_mount_read_only() {
    let place = Place::new();
    let mounted = place.mount();
    let (mounted, clone) = at_once(move || {
        let clone = split(&mounted).unwrap();
        (mounted, clone)
    });
    let entry = line(&mounted.target).unwrap();
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(
            entry.options.split(',').any(|o| o == option),
            "{option} in {}",
            entry.options
        );
    }
    // The clone is in no table: nobody else can reach it.
    assert_eq!(
        mounts()
            .unwrap()
            .iter()
            .filter(|m| m.device == entry.device)
            .count(),
        1
    );
    drop(clone);
}

#[test]
fn a_dead_mount_is_recognised_and_can_be_replaced() {
    let place = Place::new();
    let mounted = place.mount();
    let target = mounted.target.clone();
    drop(mounted);
    let (state_there, refused, connection) = at_once({
        let target = target.clone();
        move || {
            (
                state(&target).unwrap(),
                mount(&target, &Options::default()),
                connection_id(&target),
            )
        }
    });
    assert_eq!(state_there, TargetState::OurMount { dead: true });
    assert_eq!(
        target_state(refused.err().unwrap()),
        TargetState::OurMount { dead: true }
    );
    connection.unwrap();
    unmount(&target).unwrap();
    assert_eq!(state(&target).unwrap(), TargetState::EmptyDirectory);
    let again = mount(&target, &Options::default()).unwrap();
    unmount(&again.target).unwrap();
    assert_eq!(line(&target), None);
}

#[test]
fn a_mount_whose_server_does_not_answer_is_not_dead_and_nobody_hangs() {
    let place = Place::new();
    let mounted = place.mount();
    let target = mounted.target.clone();
    let before = Instant::now();
    let found = at_once({
        let target = target.clone();
        move || state(&target).unwrap()
    });
    assert_eq!(found, TargetState::OurMount { dead: false });
    assert!(before.elapsed() < Duration::from_secs(4));
    at_once(move || unmount(&target)).unwrap();
}

#[test]
fn an_aborted_connection_is_dead_although_its_device_is_held() {
    let place = Place::new();
    let mounted = place.mount();
    abort(mounted.connection).unwrap();
    assert_eq!(
        state(&mounted.target).unwrap(),
        TargetState::OurMount { dead: true }
    );
}

#[test]
fn a_foreign_mount_is_named_and_left_alone() {
    let place = Place::new();
    let target = place.target();
    nix::mount::mount(Some("t"), &target, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let foreign = TargetState::ForeignMount {
        fstype: "tmpfs".into(),
    };
    assert_eq!(state(&target).unwrap(), foreign);
    assert_eq!(
        target_state(mount(&target, &Options::default()).err().unwrap()),
        foreign
    );
    assert_eq!(target_state(unmount(&target).err().unwrap()), foreign);
    assert_eq!(target_state(watch_unmounted(&target).err().unwrap()), foreign);
    assert!(connection_id(&target).is_err());
    assert_eq!(line(&target).unwrap().fstype, "tmpfs");
}

#[test]
fn what_lies_on_top_is_what_is_there() {
    let place = Place::new();
    let mounted = place.mount();
    let target = mounted.target.clone();
    nix::mount::mount(Some("t"), &target, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    assert_eq!(
        target_state(unmount(&target).err().unwrap()),
        TargetState::ForeignMount {
            fstype: "tmpfs".into()
        }
    );
    nix::mount::umount(&target).unwrap();
    unmount(&target).unwrap();
}

#[test]
fn a_directory_inside_a_foreign_file_system_is_no_mount() {
    let place = Place::new();
    let target = place.target();
    nix::mount::mount(Some("t"), &target, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let inner = target.join("inner");
    std::fs::create_dir(&inner).unwrap();
    assert_eq!(state(&inner).unwrap(), TargetState::EmptyDirectory);
    let mounted = mount(&inner, &Options::default()).unwrap();
    unmount(&mounted.target).unwrap();
}

#[test]
fn odd_names_and_relative_ways_lead_to_the_same_place() {
    let place = Place::new();
    let odd = place.dir.path().join("m").join("a b\\ - fuse.wardfs\n");
    std::fs::create_dir_all(&odd).unwrap();
    let way = place.dir.path().join("m/../m").join(odd.file_name().unwrap());
    let mounted = mount(&way, &Options::default()).unwrap();
    assert_eq!(mounted.target, odd.canonicalize_parent());
    assert!(line(&mounted.target).is_some());
    unmount(&way).unwrap();
    assert_eq!(state(&odd).unwrap(), TargetState::EmptyDirectory);
}

trait CanonicalParent {
    fn canonicalize_parent(&self) -> PathBuf;
}

impl CanonicalParent for PathBuf {
    fn canonicalize_parent(&self) -> PathBuf {
        self.parent()
            .unwrap()
            .canonicalize()
            .unwrap()
            .join(self.file_name().unwrap())
    }
}

#[test]
fn an_unmount_from_outside_is_noticed_also_when_another_mount_takes_the_place() {
    let place = Place::new();
    let mounted = place.mount();
    let clone = split(&mounted).unwrap();
    let target = mounted.target.clone();
    let mut watch = watch_unmounted(&target).unwrap();
    assert_eq!(watch.wait(Duration::from_millis(30)).unwrap(), Presence::Mounted);
    let (tell, told) = mpsc::channel();
    let waiter = std::thread::spawn(move || {
        tell.send(()).unwrap();
        let before = Instant::now();
        (watch.wait(Duration::from_secs(20)).unwrap(), before.elapsed())
    });
    told.recv().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    nix::mount::umount2(&target, MntFlags::MNT_DETACH).unwrap();
    let other = mount(&target, &Options::default()).unwrap();
    let (presence, after) = waiter.join().unwrap();
    assert_eq!(presence, Presence::Gone);
    assert!(after < Duration::from_secs(5), "{after:?}");
    drop((clone, other));
}

#[test]
fn a_failed_mount_leaves_nothing() {
    let place = Place::new();
    let target = place.target();
    let failed = std::thread::spawn({
        let target = target.clone();
        move || {
            crate::sys::harden::drop_capabilities(&[]).unwrap();
            mount(&target, &Options::default()).map(|m| m.connection)
        }
    })
    .join()
    .unwrap();
    let error = failed.err().unwrap().to_string();
    assert!(
        error.contains("mount") && error.contains(target.to_str().unwrap()),
        "{error}"
    );
    assert_eq!(state(&target).unwrap(), TargetState::EmptyDirectory);
}

#[test]
fn a_namespace_that_follows_ours_gets_the_mount_read_only() {
    let place = Place::new();
    let target = place.target();
    nix::mount::mount(Some("t"), &target, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    nix::mount::mount(
        None::<&str>,
        &target,
        None::<&str>,
        MsFlags::MS_SHARED,
        None::<&str>,
    )
    .unwrap();
    let inner = target.join("inner");
    std::fs::create_dir(&inner).unwrap();
    let (tell, ready) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let follower = std::thread::spawn({
        let (target, inner) = (target.clone(), inner.clone());
        move || {
            use nix::sched::CloneFlags;
            nix::sched::unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
            nix::mount::mount(
                None::<&str>,
                &target,
                None::<&str>,
                MsFlags::MS_SLAVE,
                None::<&str>,
            )
            .unwrap();
            tell.send(()).unwrap();
            let _ = gone.recv();
            let table = std::fs::read("/proc/thread-self/mountinfo").unwrap();
            table::parse(&table).into_iter().find(|m| m.target == inner)
        }
    });
    ready.recv().unwrap();
    let mounted = mount(&inner, &Options::default()).unwrap();
    let clone = split(&mounted).unwrap();
    drop(go);
    let copy = follower.join().unwrap().expect("it propagates");
    assert_eq!(copy.fstype, FSTYPE);
    assert!(copy.options.split(',').any(|o| o == "ro"), "{}", copy.options);
    drop(clone);
    unmount(&inner).unwrap();
}
