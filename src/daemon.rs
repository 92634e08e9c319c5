//! A serving process: wiring, readiness, signals, order of shutdown.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::access::{Access, Caller, KnownCaller};
use crate::audit::{Event, Identity, Outcome, Record};
use crate::config::Config;
use crate::control::{Desk, Server, Service, StoppedService};
use crate::fuse::Session;
use crate::id::Pid;
use crate::lifecycle::Lifecycle;
use crate::policy::{Administration, PrincipalMap};
use crate::problem::{Exit, Problem};
use crate::report::Report;
use crate::sys::notifier::{Kind, Notifier};
use crate::sys::{caller, harden, mount, notify, nss};
use crate::vault::{Change, ChangeKind, Settings, Vault};
use crate::vfs::Vfs;

/// What `mount` was asked, validated.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The store's directory.
    pub store: PathBuf,
    /// Where to mount.
    pub target: PathBuf,
    /// The store's configuration, the command line's wishes among it.
    pub config: Config,
}

/// Where the control socket of a store is.
pub fn socket_path(store: &Path) -> PathBuf {
    if store == Path::new(crate::config::SYSTEM_STORE) {
        PathBuf::from("/run/wardfs/control.sock")
    } else {
        store.join("run/control.sock")
    }
}

/// What the vault needs to know of a configuration.
pub fn settings(store: &Path, config: &Config) -> Settings {
    Settings {
        key_file: config.key_path(store),
        log: crate::audit::Options {
            segment_bytes: config.audit.segment_bytes,
            reserve_bytes: config.audit.reserve_bytes,
            ..Default::default()
        },
        administration: Administration { group: nss::SystemDirectory.gid_of(&config.admin_group), root_describes: config.root_describes },
    }
}

/// Opens a store and answers requests on it in this process, for a command when no daemon runs.
///
/// # Errors
/// As [`Vault::open`].
pub fn desk(store: &Path, config: &Config) -> Result<(Desk, Arc<Access>), Problem> {
    let vault = open(store, config)?;
    let access = Arc::new(Access::new(vault.clone(), config.serve_unidentified));
    Ok((desk_over(&access, store, config, Box::new(StoppedService)), access))
}

fn open(store: &Path, config: &Config) -> Result<Arc<Vault>, Problem> {
    let vault = Vault::open(store, &settings(store, config));
    Ok(Arc::new(vault.map_err(|e| e.problem(format!("cannot open the store {}", store.display())))?))
}

fn desk_over(access: &Arc<Access>, store: &Path, config: &Config, service: Box<dyn Service>) -> Desk {
    let store = store.to_path_buf();
    // The mapping is read when a policy is set, so that a change to wardfs.toml needs no restart.
    let principals = Box::new(move || -> Result<PrincipalMap, Problem> { principals_of(&Config::load(&store)?) });
    let directory = || Box::new(Names) as Box<dyn crate::policy::Directory + Send + Sync>;
    Desk {
        lifecycle: Lifecycle::new(access.clone(), directory(), principals, config.max_value_bytes),
        report: Report::new(access.clone(), directory()),
        service,
        vault: access.vault().clone(),
    }
}

/// NSS behind the policy room's question for names.
struct Names;

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
}

/// Makes a store in `dir`, with its key and its commented configuration; gives the key's file and the recovery
/// key, to be shown once.
///
/// # Errors
/// If there is one already, or the directory cannot be written.
pub fn init(dir: &Path) -> Result<(PathBuf, crate::secret::SecretBytes), Problem> {
    let what = format!("cannot make a store in {}", dir.display());
    let config = Config::load(dir)?;
    let settings = settings(dir, &config);
    let created = crate::vault::create(dir, &settings).map_err(|e| e.problem(&what))?;
    let file = dir.join(crate::config::FILE);
    if !file.exists() {
        let written = std::fs::write(&file, Config::TEMPLATE);
        written.map_err(|e| Problem::new(Exit::Failed, &what, format_args!("{}: {e}", file.display())))?;
    }
    Ok((settings.key_file, created.recovery))
}

/// Unmounts what a daemon that is gone has left behind; never a living mount.
///
/// # Errors
/// If there is no such mount.
pub fn unmount_dead(target: &Path) -> Result<(), Problem> {
    let what = format!("cannot unmount {}", target.display());
    match mount::state(target) {
        mount::TargetState::OurMount { dead: true } => mount::unmount(target).map_err(|e| Problem::new(Exit::Failed, what, e)),
        mount::TargetState::OurMount { dead: false } => {
            Err(Problem::new(Exit::Unavailable, what, "a daemon of another store serves it").next("name that store with --store"))
        }
        _ => Err(Problem::new(Exit::NotFound, what, "no mount of wardfs is there")),
    }
}

fn tell_manager(state: &str) {
    if let Err(e) = notify::sd_notify(state) {
        tracing::warn!("the service manager was not told: {e}");
    }
}

fn principals_of(config: &Config) -> Result<PrincipalMap, Problem> {
    let bad = |why: String| Problem::new(Exit::Usage, "the mapping of principals cannot be used", why).next("wardfs.toml, [principals]");
    let mut map = PrincipalMap::default();
    for (arn, locals) in &config.principals {
        let locals = locals.iter().map(|l| l.parse().map_err(|e| bad(format!("{arn}: {l}: {e}")))).collect::<Result<_, _>>()?;
        map.0.insert(arn.clone(), locals);
    }
    Ok(map)
}

/// The end of service, asked for by a signal, by `unmount`, or by an unmount from outside.
#[derive(Default)]
struct Stop {
    asked: AtomicBool,
}

struct Serving {
    stop: Arc<Stop>,
    vfs: Arc<Vfs>,
    target: PathBuf,
    threads: usize,
}

impl Service for Serving {
    fn status(&self) -> Value {
        let counters: serde_json::Map<String, Value> = self.vfs.counters.list().into_iter().map(|(k, v)| (k.to_string(), json!(v))).collect();
        json!({
            "running": true,
            "pid": std::process::id(),
            "mount": self.target,
            "threads": self.threads,
            "open_handles": self.vfs.open_handles(),
            "counters": counters,
        })
    }

    fn stop(&self) -> Result<Value, Problem> {
        self.stop.asked.store(true, Ordering::SeqCst);
        Ok(json!({ "mount": self.target }))
    }
}

/// Mounts, serves in the foreground, and unmounts when asked to end.
///
/// # Errors
/// If the store cannot be opened, the target is not fit, or a self-test fails: then nothing stays mounted.
pub fn serve(plan: &Plan, ready: impl FnOnce(&Path)) -> Result<(), Problem> {
    let what = format!("cannot serve {}", plan.target.display());
    let failed = |why: &dyn std::fmt::Display| Problem::new(Exit::Failed, &what, why);
    let stop = Arc::new(Stop::default());
    signals(&stop).map_err(|e| failed(&e))?;
    harden::no_dumps().map_err(|e| failed(&e))?;
    harden::raise_nofile();
    caller::self_test().map_err(|e| failed(&e).next("is /proc mounted with hidepid, or is this a user or pid namespace of its own?"))?;

    let vault = open(&plan.store, &plan.config)?;
    let access = Arc::new(Access::new(vault.clone(), plan.config.serve_unidentified));
    let vfs = Arc::new(Vfs::new(access.clone(), plan.config.max_handles_per_uid));

    let mounted = mount::mount(&plan.target, &mount::Options::default())
        .map_err(|e| Problem::new(Exit::Failed, format!("cannot mount on {}", plan.target.display()), e))?;
    let guard = Unmount { target: plan.target.clone() };
    let device = mounted.device.as_fd().try_clone_to_owned().map_err(|e| failed(&e))?;
    let session = Session::start(vfs.clone(), device, plan.config.threads).map_err(|e| failed(&e))?;
    let sessions = std::thread::Builder::new().name("session".into()).spawn(move || session.run()).map_err(|e| failed(&e))?;

    let clone = mount::split(&mounted).map_err(|e| failed(&e))?;
    drop(mounted);
    let notifier = Arc::new(Announcer::start(clone, vfs.clone()).map_err(|e| failed(&e))?);
    let (for_vfs, for_notifier) = (vfs.clone(), notifier.clone());
    vault.listen(vec![
        Box::new(move |change| for_vfs.changed(change)),
        Box::new(move |change| for_notifier.announce(change)),
    ]);
    harden::drop_capabilities(&[harden::Capability::SysAdmin, harden::Capability::IpcLock]).map_err(|e| failed(&e))?;

    let serving = Serving { stop: stop.clone(), vfs: vfs.clone(), target: plan.target.clone(), threads: plan.config.threads };
    let desk = Arc::new(desk_over(&access, &plan.store, &plan.config, Box::new(serving)));
    let socket = socket_path(&plan.store);
    prepare_socket_directory(&socket).map_err(|e| failed(&e))?;
    Server::new(desk, plan.config.max_value_bytes).listen(&socket).map_err(|e| {
        Problem::new(Exit::Unavailable, format!("cannot listen on {}", socket.display()), e)
    })?;

    record(&vault, Event::Startup);
    ready(&plan.target);
    tell_manager("READY=1");
    let outside = wait(&stop, &plan.target, &vault, || sessions.is_finished() || !notifier.alive());

    tell_manager("STOPPING=1");
    let _ = std::fs::remove_file(&socket);
    record(&vault, Event::Shutdown);
    drop(guard);
    notifier.stop();
    if let Err(e) = vault.tick() {
        tracing::error!("the log's last anchor was not written: {e}");
    }
    match outside {
        End::Asked => Ok(()),
        End::Unmounted => {
            eprintln!("{} was unmounted from outside; service ended", plan.target.display());
            Ok(())
        }
        End::Failed => Err(failed(&"the session or the notifier ended by itself").next("see the service's messages, then mount again")),
    }
}

enum End {
    Asked,
    Unmounted,
    Failed,
}

/// Until the end: keep the log anchored, and look whether the mount is still there.
fn wait(stop: &Stop, target: &Path, vault: &Vault, ended: impl Fn() -> bool) -> End {
    let mut failing = false;
    loop {
        std::thread::sleep(Duration::from_millis(100));
        if stop.asked.load(Ordering::SeqCst) {
            return End::Asked;
        }
        if !mount::is_ours(target) {
            return End::Unmounted;
        }
        if ended() {
            return End::Failed;
        }
        match vault.tick() {
            Err(e) if !failing => {
                failing = true;
                tracing::error!("the log or its anchor cannot be written, so nothing is read: {e}");
            }
            Ok(()) if failing => {
                failing = false;
                tracing::info!("the log can be written again");
            }
            _ => {}
        }
    }
}

fn record(vault: &Vault, event: Event) {
    let mut caller = KnownCaller::root();
    caller.pid = Some(Pid(std::process::id()));
    let record = Record { event, outcome: Outcome::Allowed, via: "command", who: caller.who(Identity::Full), ..Record::default() };
    if let Err(e) = vault.log().append(&record) {
        tracing::error!("start or end of service could not be recorded: {e}");
    }
}

/// Unmounts when service ends, also by an error on the way up.
struct Unmount {
    target: PathBuf,
}

impl Drop for Unmount {
    fn drop(&mut self) {
        if mount::is_ours(&self.target)
            && let Err(e) = mount::unmount(&self.target)
        {
            tracing::error!("{} stays mounted: {e}", self.target.display());
        }
    }
}

fn prepare_socket_directory(socket: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let Some(dir) = socket.parent() else { return Ok(()) };
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)
}

/// SIGTERM, SIGINT and SIGHUP end service. They are blocked in every thread and taken by one.
fn signals(stop: &Arc<Stop>) -> std::io::Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    let stop = stop.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if set.wait().is_ok() {
            stop.asked.store(true, Ordering::SeqCst);
        }
    })?;
    Ok(())
}

/// Tells the notifier of changes. A change waits in a queue, never in the command that made it.
struct Announcer {
    queue: Mutex<Option<std::sync::mpsc::Sender<(Kind, String)>>>,
    notifier: Arc<Notifier>,
    vfs: Arc<Vfs>,
}

impl Announcer {
    fn start(clone: std::os::fd::OwnedFd, vfs: Arc<Vfs>) -> std::io::Result<Announcer> {
        let notifier = Arc::new(Notifier::spawn(clone)?);
        vfs.set_notifier(Some(notifier.pid()));
        // A request of the notifier must arrive with the notifier's pid, or no caller's pid can be believed.
        notifier.probe(Duration::from_secs(5))?;
        let (sender, receiver) = std::sync::mpsc::channel::<(Kind, String)>();
        let worker = notifier.clone();
        std::thread::Builder::new().name("announcer".into()).spawn(move || {
            for (kind, path) in receiver {
                if let Err(e) = worker.announce(kind, &path) {
                    tracing::warn!("watchers of {path} were not told: {e}");
                }
            }
        })?;
        Ok(Announcer { queue: Mutex::new(Some(sender)), notifier, vfs })
    }

    fn announce(&self, change: &Change) {
        let kind = match change.kind {
            ChangeKind::Created => Kind::Created,
            ChangeKind::Value => Kind::Modified,
            ChangeKind::Deleted => Kind::Deleted,
            ChangeKind::Settings => return,
        };
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = &*queue {
            let _ = queue.send((kind, change.name.to_string()));
        }
    }

    fn alive(&self) -> bool {
        self.notifier.alive()
    }

    fn stop(&self) {
        self.vfs.set_notifier(None);
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.notifier.stop();
    }
}
