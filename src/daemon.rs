//! A serving process: wiring, readiness, signals, order of shutdown.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::access::{Access, Caller};
use crate::audit::{Event, Identity, Outcome, Record, Unrecorded};
use crate::config::Config;
pub use crate::control::place::socket_path;
use crate::control::place::{self, NOTE};
use crate::control::{Desk, Ill, Server, Service, StoppedService};
use crate::fuse::Session;
use crate::lifecycle::Lifecycle;
use crate::policy::{Administration, Deciding, Difference};
use crate::problem::{Exit, Problem, pasteable};
use crate::report::Report;
use crate::sys::dir::{Dir, Inode};
use crate::sys::mount::Layered;
use crate::sys::{accounts, caller, files, harden, mount, notifier, notify, nss};
use crate::vault::{Opener, Rollback, Settings, Trial, Vault, VaultError};
use crate::vfs::{Coming, Vfs};

mod already;
mod announcer;
mod looked_at;
mod lost_log;
mod reload;
mod restored;
mod signals;

use already::served;
use announcer::Announcer;
pub use looked_at::unrecorded;
pub use lost_log::begin_log;
pub use restored::restore_secret;

mod unmount;

use unmount::Unmount;
pub use unmount::{gone, unmount_dead};

/// What `mount` was asked, validated.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The store's directory.
    pub store: PathBuf,
    /// Where to mount.
    pub target: PathBuf,
    /// The store's configuration, the command line's wishes among it.
    pub config: Config,
    /// The number of threads that was typed.
    pub threads: Option<usize>,
    /// Settings that were typed.
    pub options: Vec<(String, String)>,
}

impl Plan {
    /// The file as it is now, and what was typed.
    fn read(&self) -> Result<Config, Problem> {
        let mut config = Config::load(&self.store)?.with(&self.options)?;
        config.threads = self.threads.unwrap_or(config.threads);
        Ok(config)
    }
}

/// Notes where it was mounted: if this process is killed, `status` finds what it leaves behind. The note stays open, so
/// that no other file gets its inode's number.
fn take_note(run: &Dir, target: &Path) -> std::io::Result<std::fs::File> {
    if let Some(left) = run.look(NOTE)? {
        run.remove(NOTE, Inode::from(&left))?;
    }
    let mut file = run.create(NOTE, 0o644)?;
    std::io::Write::write_all(&mut file, target.as_os_str().as_bytes())?;
    Ok(file)
}

/// What the vault needs to know of a configuration.
pub fn settings(store: &Path, config: &Config) -> Settings {
    Settings {
        key_file: config.key_path(store),
        log: crate::audit::Options {
            segment_bytes: config.audit.segment_bytes,
            reserve_bytes: config.audit.reserve_bytes,
            low_space_bytes: config.audit.low_space_bytes,
            uid_bytes_per_second: config.audit.uid_bytes_per_second,
            ..Default::default()
        },
        administration: Administration {
            // Who can open the files of a private store is its owner: nobody else gets here.
            owner: crate::id::Uid(nix::unistd::geteuid().as_raw()),
            group: nss::SystemDirectory.gid_of(&config.admin_group),
            root_describes: config.root_describes,
        },
        deciding: Some(deciding(config)),
    }
}

fn deciding(config: &Config) -> Deciding {
    config.deciding(|name| nss::SystemDirectory.gid_of(name))
}

/// Opens a store and answers requests on it in this process, for a command when no daemon runs; one on a disk that
/// cannot be written answers questions.
///
/// # Errors
/// As [`Vault::open`].
pub fn desk(store: &Path, config: &Config) -> Result<(Desk, Arc<Access>), Problem> {
    let vault = match files::is_read_only(store) {
        true => looked_at::open(store, config, Unrecorded::Refused)?,
        false => open(store, config)?,
    };
    Ok(desk_of(vault, store, config))
}

fn desk_of(vault: Arc<Vault>, store: &Path, config: &Config) -> (Desk, Arc<Access>) {
    let access = Arc::new(Access::new(vault, config.serve_unidentified));
    let run = place::run(store);
    let service = Box::new(StoppedService { run });
    (desk_over(&access, store, config, service), access)
}

fn open(store: &Path, config: &Config) -> Result<Arc<Vault>, Problem> {
    let vault = Vault::open(store, &settings(store, config));
    let vault = vault.map_err(|e| e.unopened(format!("cannot open the store {}", store.display())))?;
    if let Err(e) = compare(&vault, &deciding(config)) {
        tracing::warn!("what wardfs.toml says could not be sealed or recorded: {e}");
    }
    Ok(Arc::new(vault))
}

/// Holds what the file decides against what the store has sealed, which stays in force; each difference is recorded
/// once. A store that has sealed nothing yet, made by an older release, takes the file's.
fn compare(vault: &Vault, file: &Deciding) -> Result<(), VaultError> {
    let state = vault.state();
    let differences = match &state.settings.deciding {
        None => Vec::new(),
        Some(sealed) => match sealed.differences(file) {
            same if same.is_empty() => return Ok(()),
            _ if state.settings.noticed.as_deref() == Some(&*file.digest()) => return Ok(()),
            differences => differences,
        },
    };
    vault.change(|draft| -> Result<_, VaultError> {
        let message = match &*differences {
            [] => {
                draft.accept(file.clone());
                "nothing was sealed: what wardfs.toml says is in force from now on".to_string()
            }
            differences => {
                draft.notice(file);
                Difference::words(differences)
            }
        };
        let mut caller = crate::report::myself();
        let record = Record {
            event: Event::ConfigChanged,
            outcome: Outcome::Allowed,
            message: Some(&message),
            via: "command",
            who: caller.who(Identity::Full),
            ..Record::default()
        };
        Ok(((), record.body()))
    })
}

/// As [`open`]; waits a little for a command that has the store, or for a daemon that is ending.
fn open_patiently(store: &Path, config: &Config) -> Result<Arc<Vault>, Problem> {
    let begin = Instant::now();
    loop {
        match open(store, config) {
            Err(e)
                if e.exit == Exit::Unavailable
                    && let Some(served) = served(store) =>
            {
                return Err(served);
            }
            Err(e) if e.exit == Exit::Unavailable && begin.elapsed() < Duration::from_secs(5) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
}

/// How the file differs from what is in force.
fn differences(vault: &Vault, config: &Config) -> Vec<Difference> {
    let state = vault.state();
    let sealed = state.settings.deciding.as_ref();
    sealed.map_or_else(Vec::new, |sealed| sealed.differences(&deciding(config)))
}

fn desk_over(access: &Arc<Access>, store: &Path, config: &Config, service: Box<dyn Service>) -> Desk {
    let store = store.to_path_buf();
    let file = Box::new(move || -> Result<Deciding, Problem> { Ok(deciding(&Config::load(&store)?)) });
    let directory = || Box::new(Names) as Box<dyn crate::policy::Directory + Send + Sync>;
    Desk {
        lifecycle: Lifecycle::new(access.clone(), directory(), file, config.max_value_bytes),
        report: Report::new(access.clone(), directory()),
        service,
        vault: access.vault().clone(),
    }
}

/// NSS behind the policy room's question for names.
pub struct Names;

impl crate::policy::Directory for Names {
    fn uid_of(&self, name: &str) -> Option<crate::id::Uid> {
        nss::SystemDirectory.uid_of(name)
    }
    fn gid_of(&self, name: &str) -> Option<crate::id::Gid> {
        nss::SystemDirectory.gid_of(name)
    }
    fn users(&self) -> Vec<(String, crate::id::Uid)> {
        nss::SystemDirectory.users()
    }
    fn groups(&self) -> Vec<(String, crate::id::Gid)> {
        nss::SystemDirectory.groups()
    }
    fn user_name(&self, uid: crate::id::Uid) -> Option<String> {
        nss::SystemDirectory.user_name(uid)
    }
    fn group_name(&self, gid: crate::id::Gid) -> Option<String> {
        nss::SystemDirectory.group_name(gid)
    }
    fn groups_of(&self, uid: crate::id::Uid) -> Vec<crate::id::Gid> {
        nss::SystemDirectory.groups_of(uid)
    }
}

/// Makes a store in `dir`, with its key and its commented configuration, and records it; gives the key's file and the
/// recovery key, to be shown once.
///
/// # Errors
/// If there is one already, or the directory cannot be written.
pub fn init(dir: &Path) -> Result<(PathBuf, crate::secret::SecretBytes), Problem> {
    let what = format!("cannot make a store in {}", dir.display());
    let config = Config::load(dir)?;
    let settings = settings(dir, &config);
    let created = crate::vault::create(dir, &settings).map_err(|e| e.problem(&what))?;
    let mut made = created.made;
    let mut begin = || -> Result<(), Problem> {
        let vault = open(dir, &config)?;
        if let Some(home) = vault.home() {
            let installed = Config::install(home).map_err(|e| {
                Problem::new(Exit::Failed, &what, format_args!("{}: {e}", crate::config::FILE))
                    .next("mend what the system says, then try again")
            })?;
            if let Some(file) = installed {
                made.add(home, crate::config::FILE, file);
            }
        }
        record(&vault, Event::CreateStore);
        vault.tick().map_err(|e| e.problem(&what))
    };
    // A store whose recovery key nobody saw is none to keep.
    if let Err(problem) = begin() {
        made.take_away();
        return Err(problem);
    }
    Ok((settings.key_file, created.recovery))
}

/// Makes a new key file for the store in `dir`, whose old one is lost, with the recovery key that `init` printed;
/// gives its path. The change is recorded. A dry run says only whether it would be made.
///
/// # Errors
/// If the text is no recovery key or another store's, a key file is there, or a daemon has the store.
pub fn recover(
    dir: &Path,
    recovery_key: &crate::secret::SecretBytes,
    trial: Trial,
) -> Result<PathBuf, Problem> {
    let what = format!("cannot recover the store {}", dir.display());
    let config = Config::load(dir)?;
    let settings = settings(dir, &config);
    crate::vault::recover(dir, &settings, recovery_key, trial).map_err(|e| e.problem(&what))?;
    if trial == Trial::DryRun {
        return Ok(settings.key_file);
    }
    let vault = open(dir, &config)?;
    record(&vault, Event::ReplaceKeySlot);
    vault.tick().map_err(|e| e.problem(&what))?;
    Ok(settings.key_file)
}

/// Restores the store in `dir` from a backup, and records it.
///
/// # Errors
/// If the backup is damaged, or older than what is there; another store is there; no key opens it; a daemon has it.
pub fn restore<C: crate::access::Caller>(
    dir: &Path,
    backup: &Path,
    (rollback, trial): (Rollback, Trial),
    recovery_key: Option<&crate::secret::SecretBytes>,
    caller: &mut C,
) -> Result<serde_json::Value, Problem> {
    let what = format!("cannot restore the store {}", dir.display());
    let config = Config::load(dir)?;
    let settings = settings(dir, &config);
    let file = read_backup(backup, &what)?;
    let opener = recovery_key.map_or(Opener::KeyFile, Opener::Recovery);
    let body = Record {
        event: Event::RestoreStore,
        outcome: Outcome::Allowed,
        via: caller.door(),
        who: caller.who(Identity::Full),
        ..Record::default()
    }
    .body();
    let restored = crate::vault::restore(dir, &settings, &file, opener, rollback, trial, body);
    let restored = restored.map_err(|e| match &e {
        VaultError::File(_) => e
            .problem(&what)
            .next("put the store's key file there, or use --recovery-key"),
        VaultError::Integrity(_) => e.problem(&what).next("take another backup; nothing was changed"),
        _ => e.problem(&what),
    })?;
    if trial == Trial::Real {
        let installed = Dir::open(dir).and_then(|home| Config::install(&home));
        installed.map_err(|e| {
            Problem::new(Exit::Failed, &what, format_args!("{}: {e}", crate::config::FILE))
                .next("write the file yourself: man wardfs.toml")
        })?;
    }
    Ok(serde_json::json!({
        "store": restored.id.to_string(),
        "secrets": restored.secrets,
        "versions": restored.versions,
        "epoch": restored.epoch,
        "replaced_epoch": restored.present,
        "dry_run": trial == Trial::DryRun,
    }))
}

fn read_backup(backup: &Path, what: &str) -> Result<Vec<u8>, Problem> {
    crate::vault::read_backup(backup).map_err(|e| {
        let exit = match e.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            std::io::ErrorKind::InvalidData => Exit::Integrity,
            _ => Exit::Failed,
        };
        Problem::new(exit, what, format_args!("{}: {e}", backup.display())).next("name the backup file")
    })
}

fn tell_manager(state: &str) {
    if let Err(e) = notify::sd_notify(state) {
        tracing::warn!("the service manager was not told: {e}");
    }
}

/// The end of service, asked for by a signal, by `unmount`, or by an unmount from outside.
#[derive(Default)]
struct Stop {
    /// By whom, in words, once it is asked for.
    asked: OnceLock<String>,
}

struct Serving {
    stop: Arc<Stop>,
    vfs: Arc<Vfs>,
    target: PathBuf,
    threads: usize,
    began: Instant,
    settings: Arc<reload::Settings>,
}

impl Service for Serving {
    fn status(&self) -> Value {
        let counted = |list: &[(&str, u64)]| -> serde_json::Map<String, Value> {
            list.iter().map(|(k, v)| (k.to_string(), json!(v))).collect()
        };
        let covered = mount::layered(&self.target).ok().flatten();
        let covered = covered.filter(Layered::is_covered).map(|_| Ill::Covered.code());
        let mut status = json!({
            "running": true,
            "pid": std::process::id(),
            "mount": self.target,
            "threads": self.threads,
            "attributes": self.vfs.attributes().code(),
            "open_handles": self.vfs.open_handles(),
            "uptime_seconds": self.began.elapsed().as_secs(),
            "counters": counted(&self.vfs.counters.list()),
            "failed_reads": counted(&self.vfs.counters.failed_reads()),
            "unread": self.settings.unread(),
            "reasons": Vec::from_iter(covered),
        });
        // For a successor, which waits.
        if self.stop.asked.get().is_some() {
            status["stopping"] = json!(true);
        }
        status
    }

    fn stop(&self, by: &str) -> Result<Value, Problem> {
        unmount::nothing_over(&self.target)?;
        let _first = self.stop.asked.set(format!("unmount was asked for by {by}"));
        Ok(json!({ "mount": self.target }))
    }
}

/// What threads' stacks, heaps and buffers of 16 MiB ask for, most of which is never touched.
const ADDRESS_SPACE: u64 = 1 << 30;

/// Mounts, serves in the foreground, and unmounts when asked to end.
///
/// # Errors
/// If the store cannot be opened, the target is not fit, or a self-test fails: then nothing stays mounted.
pub fn serve(plan: &Plan, ready: impl FnOnce(&Path)) -> Result<(), Problem> {
    let what = format!("cannot serve {}", plan.target.display());
    const MEND: &str = "mend what the system says, then mount again";
    let failed = |why: &dyn std::fmt::Display| Problem::new(Exit::Failed, &what, why).next(MEND);
    let not_started = |e: std::io::Error| failed(&e).next(advice(Some(&e), MEND));
    let stop = Arc::new(Stop::default());
    harden::no_dumps().map_err(|e| failed(&e))?;
    let descriptors = harden::raise_nofile().map_err(|e| failed(&e))?;
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let needed = 64 + 16 * plan.config.threads;
    if descriptors < needed {
        let why = format!("{descriptors} open files are allowed, and {needed} are needed");
        return Err(failed(&why).next("raise the limit: ulimit -Hn, or LimitNOFILE= in a unit"));
    }
    // Who cannot have memory is ended by the allocator, with the mount in place.
    let space = harden::address_space().map_err(|e| failed(&e))?;
    if space < ADDRESS_SPACE {
        let why = format!("{space} bytes of address space are allowed, and {ADDRESS_SPACE} are needed");
        return Err(failed(&why).next("raise the limit: ulimit -v, or LimitAS= in a unit"));
    }
    caller::look_privately();
    caller::self_test().map_err(|e| {
        failed(&e).next("is /proc mounted with hidepid, or is this a user or pid namespace of its own?")
    })?;

    crate::sys::mem::large_blocks_apart();
    let vault = open_patiently(&plan.store, &plan.config)?;
    let _release = Release(vault.clone());
    // The records as they were read are several times what is kept of them.
    crate::sys::mem::trim();
    for difference in differences(&vault, &plan.config) {
        let mend = pasteable("wardfs config accept");
        tracing::warn!("wardfs.toml: {difference}; put it in force: {mend}");
    }
    let access = Arc::new(Access::new(vault.clone(), plan.config.serve_unidentified));
    let vfs = Arc::new(Vfs::new(access.clone(), plan.config.max_handles_per_uid));

    let mut mounted = mount_on(&plan.target)?;
    let guard = Unmount {
        target: mounted.target.clone(),
        keeper: mounted.keeper.take(),
    };
    let notifier = if guard.keeper.is_some() {
        tracing::info!(
            "mounted without root: for this user alone, and watchers by inotify are not told of changes"
        );
        None
    } else {
        // The public mount is read-only from its first moment; only this clone is not.
        let clone = mount::split(&mounted).map_err(|e| failed(&e))?;
        Some(notifier::spawn(Path::new("/proc/self/exe"), clone).map_err(not_started)?)
    };
    // What is open there would make umount(8) say that it is busy.
    mounted.let_go();
    // Before there are threads: capabilities are each thread's own.
    harden::drop_capabilities(&[harden::Capability::SysAdmin, harden::Capability::IpcLock])
        .map_err(|e| failed(&e))?;
    let signals = signals::block().map_err(not_started)?;
    accounts::start().map_err(not_started)?;
    settle(&vault).map_err(not_started)?;
    if let Some(why) = caller::units_unknown() {
        tracing::warn!(
            "{why}: a policy that allows a unit allows nobody, and one that denies a unit denies everybody"
        );
    }
    let session =
        Session::start(vfs.clone(), mounted.device, plan.config.threads, descriptors).map_err(not_started)?;
    let sessions = std::thread::Builder::new()
        .name("session".into())
        .spawn(move || session.run())
        .map_err(not_started)?;
    let mut watch = mount::watch_unmounted(&guard.target).map_err(|e| failed(&e))?;
    let notifier = notifier.map(|n| Announcer::start(n, &vfs)).transpose();
    let notifier = notifier.map_err(|e| failed(&e))?.map(Arc::new);
    let for_vfs = vfs.clone();
    let mut listeners: Vec<crate::vault::Listener> = vec![Box::new(move |change| for_vfs.changed(change))];
    if let Some(notifier) = notifier.clone() {
        listeners.push(Box::new(move |change| notifier.announce(change)));
    }
    vault.listen(listeners);
    if let Some(notifier) = notifier.clone() {
        let vfs = vfs.clone();
        vault.prepare(Box::new(move |change, state| match vfs.coming(change, state) {
            Coming::Longer(nodes) => notifier.raise(change, &nodes),
            Coming::Shorter(node) => notifier.keep(change, node),
            Coming::Known => {}
        }));
    }
    let settings = Arc::new(reload::Settings::new(plan));
    let serving = Serving {
        stop: stop.clone(),
        vfs: vfs.clone(),
        target: plan.target.clone(),
        threads: plan.config.threads,
        began: Instant::now(),
        settings: settings.clone(),
    };
    let desk = Arc::new(desk_over(&access, &plan.store, &plan.config, Box::new(serving)));
    let socket = socket_path(&plan.store);
    let unusable = |e: std::io::Error| {
        let why = format!("{} cannot be used: {e}", place::run_path(&plan.store).display());
        failed(&why).next("it must be a directory of this user, and no link")
    };
    let home = vault.home().cloned().map_or_else(|| Dir::open(&plan.store), Ok);
    let run = home
        .and_then(|home| place::prepare(&plan.store, &home))
        .map_err(unusable)?;
    {
        let (stop, desk, vfs) = (stop.clone(), desk.clone(), vfs.clone());
        let reload = move || settings.reload(&desk, &vfs);
        signals::take(signals, stop, reload).map_err(not_started)?;
    }
    let listening = Server::new(desk, descriptors).listen(run.clone()).map_err(|e| {
        let next = "the directory of the store must be writable";
        let next = advice(Some(&e), next);
        let what = format!("cannot listen on {}", socket.display());
        Problem::new(Exit::Unavailable, what, e).next(next)
    })?;

    // When the last process was forked that is started before service begins.
    if let Some(notifier) = &notifier {
        notifier.warm(plan.config.threads + 1);
    }
    let note = take_note(&run, &guard.target).inspect_err(|e| {
        let note = socket.with_file_name(NOTE);
        tracing::warn!("{} cannot be written: {e}", note.display());
    });
    record(&vault, Event::Startup);
    ready(&plan.target);
    tell_manager("READY=1");
    let outside = wait(&stop, &mut watch, &vault, || {
        sessions.is_finished() || notifier.as_ref().is_some_and(|n| !n.alive())
    });

    tell_manager("STOPPING=1");
    listening.stop();
    if let Ok(note) = note {
        let _ = Inode::of(&note).and_then(|inode| run.remove(NOTE, inode));
    }
    let why = match outside {
        End::Asked => stop.asked.get().cloned().unwrap_or_default(),
        End::Unmounted => "it was unmounted from outside".into(),
        End::Failed => "the session or the notifier ended by itself".into(),
    };
    record_with(&vault, Event::Shutdown, Some(&why));
    let unmounted = match outside {
        End::Unmounted => {
            guard.went();
            Ok(())
        }
        End::Asked | End::Failed => guard.end(),
    };
    if let Some(notifier) = notifier {
        notifier.stop();
    }
    if let Err(e) = vault.tick() {
        tracing::error!("the log's last anchor was not written: {e}");
    }
    match outside {
        End::Asked => {
            tracing::info!("service of {} ended: {why}", plan.target.display());
            unmounted
        }
        End::Unmounted => {
            tracing::warn!("service of {} ended: {why}", plan.target.display());
            Ok(())
        }
        End::Failed => Err(failed(&"the session or the notifier ended by itself")
            .next("see the service's messages, then mount again")),
    }
}

enum End {
    Asked,
    Unmounted,
    Failed,
}

/// Mounts on a target that is fit, making it if need be; a dead mount of ours is taken away first.
fn mount_on(target: &Path) -> Result<mount::Mounted, Problem> {
    const ELSEWHERE: &str = "name an empty directory on a local file system";
    let cannot = |why: &dyn std::fmt::Display| {
        Problem::new(Exit::Failed, format!("cannot mount on {}", target.display()), why).next(ELSEWHERE)
    };
    match mount::state(target).map_err(|e| cannot(&e))? {
        mount::TargetState::Missing => std::fs::create_dir_all(target).map_err(|e| cannot(&e))?,
        mount::TargetState::OurMount { dead: true } => {
            tracing::warn!(
                "{} had a mount whose daemon is gone; it is replaced",
                target.display()
            );
            mount::unmount(target).map_err(|e| cannot(&e))?;
        }
        mount::TargetState::EmptyDirectory => {}
        state @ (mount::TargetState::NonEmpty
        | mount::TargetState::Symlink
        | mount::TargetState::NotDirectory) => {
            return Err(Problem {
                exit: Exit::Usage,
                ..cannot(&state)
            }
            .next("name an empty directory, or one that does not exist"));
        }
        state @ (mount::TargetState::OurMount { dead: false } | mount::TargetState::ForeignMount { .. }) => {
            return Err(Problem {
                exit: Exit::Conflict,
                ..cannot(&state)
            }
            .next("name another directory, or unmount it"));
        }
    }
    let options = mount::Options::default();
    let mounted = match nix::unistd::geteuid().is_root() {
        true => mount::mount(target, &options),
        false => mount::mount_unprivileged(target, &options.fsname),
    };
    mounted.map_err(|e| {
        cannot(&e).next(match &e {
            mount::MountError::Device(e) => match e.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    "let this user open the device (chmod 0666 /dev/fuse), or mount as root; a container needs the device allowed"
                }
                _ => "load the module: modprobe fuse; a container needs the device /dev/fuse",
            },
            e => advice(e.system(), ELSEWHERE),
        })
    })
}

/// The next step after an error of the system: where no process or thread could be had, never `otherwise`.
fn advice(e: Option<&std::io::Error>, otherwise: &'static str) -> &'static str {
    match e.and_then(std::io::Error::raw_os_error) {
        Some(libc::EAGAIN) => "raise the limit of processes: ulimit -u, or TasksMax= in a unit",
        _ => otherwise,
    }
}

/// Until the end: keep the log anchored, and look whether the mount is still there.
fn wait(stop: &Stop, watch: &mut mount::UnmountWatch, vault: &Vault, ended: impl Fn() -> bool) -> End {
    const STEP: Duration = Duration::from_millis(100);
    let (mut failing, mut blind) = (false, false);
    loop {
        let presence = watch.wait(STEP);
        if stop.asked.get().is_some() {
            return End::Asked;
        }
        match presence {
            Ok(mount::Presence::Mounted) => blind = false,
            Ok(mount::Presence::Gone) => return End::Unmounted,
            // The end of the session is noticed all the same.
            Err(e) => {
                if !std::mem::replace(&mut blind, true) {
                    tracing::error!("the mount cannot be watched: {e}");
                }
                std::thread::sleep(STEP);
            }
        }
        if ended() {
            return End::Failed;
        }
        match vault.tick() {
            Err(e) if !failing => {
                failing = true;
                tracing::error!(
                    "the store or its log cannot be written: nothing is changed, and nothing is read later than {} s \
                     after the log's last anchor: {e}",
                    crate::audit::ANCHOR_LIMIT.as_secs()
                );
            }
            Ok(()) if failing => {
                failing = false;
                tracing::info!("the store and its log can be written again");
            }
            _ => {}
        }
    }
}

fn record(vault: &Vault, event: Event) {
    record_with(vault, event, None);
}

fn record_with(vault: &Vault, event: Event, message: Option<&str>) {
    let mut caller = crate::report::myself();
    let record = Record {
        event,
        outcome: Outcome::Allowed,
        message,
        via: caller.door(),
        who: caller.who(Identity::Full),
        ..Record::default()
    };
    if let Err(e) = vault.log().append(&record) {
        tracing::error!("start or end of service could not be recorded: {e}");
    }
}

/// Frees the store when service ends, last of all.
struct Release(Arc<Vault>);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Has refused look-ups recorded a moment later, so that what the kernel asks twice is one record.
fn settle(vault: &Arc<Vault>) -> std::io::Result<()> {
    let (told, vault) = (vault.log().settler(), Arc::downgrade(vault));
    let settler = std::thread::Builder::new().name("settler".into());
    settler.spawn(move || {
        while told.recv().is_ok() {
            std::thread::sleep(crate::audit::HOLD);
            let Some(vault) = vault.upgrade() else { return };
            vault.log().settle();
        }
    })?;
    Ok(())
}
