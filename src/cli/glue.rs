//! The command line's world: the other rooms of this machine.

use super::plan::Which;
use super::plan::policies::{Broken, Target};
use super::progress::Progress;
use super::render::Output;
use super::run::Stop;
use super::value;
use super::{Backend, Made, MountPlan, World};
use crate::access::{Access, AccessError, Choice, Range};
use crate::audit::LogError;
use crate::config::Config;
use crate::control::Desk;
use crate::control::client::Client;
use crate::control::protocol::{Enclosed, Request};
use crate::daemon;
use crate::id::{SecretName, printable};
use crate::lifecycle::Repair;
use crate::problem::{Exit, Problem};
use crate::secret::SecretBytes;
use crate::vault::{Trial, Unmeant, VaultError};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a command waits for a store that another process has.
const PATIENCE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(20);

/// This machine.
pub struct Machine;

impl World for Machine {
    fn backend(&self, store: &Path) -> Result<Box<dyn Backend>, Problem> {
        guard_memory()?;
        let begin = Instant::now();
        loop {
            if let Some(client) = Client::connect(store)? {
                tracing::info!("a daemon serves the store, and is asked");
                return Ok(Box::new(Served { client }));
            }
            match daemon::desk(store, &Config::load(store)?) {
                Ok((desk, access)) => {
                    tracing::info!("no daemon serves the store: this command has opened it");
                    return Ok(Box::new(Opened { desk, access }));
                }
                // A daemon that begins or ends has the store, and no socket; another command is soon done.
                Err(e) if e.exit == Exit::Unavailable && begin.elapsed() < PATIENCE => {
                    std::thread::sleep(STEP)
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn unrecorded(&self, store: &Path) -> Result<Box<dyn Backend>, Problem> {
        guard_memory()?;
        if Client::connect(store)?.is_some() {
            return Err(Problem::new(
                Exit::Unavailable,
                "nothing was read unrecorded",
                "a daemon serves this store, and records what is read",
            )
            .next("leave --unrecorded away; or stop it first: wardfs unmount DIR"));
        }
        let (desk, access) = daemon::unrecorded(store, &Config::load(store)?)?;
        Ok(Box::new(Opened { desk, access }))
    }

    fn memory(&self, len: usize) -> Result<SecretBytes, Problem> {
        crate::sys::mem::secret(len).map_err(|e| {
            Problem::new(Exit::Failed, "no memory for a value", e)
                .next("raise the limit of locked memory: ulimit -l")
        })
    }

    fn init(&self, store: &Path) -> Result<Made, Problem> {
        let (key_file, recovery_key) = daemon::init(store)?;
        Ok(Made {
            key_file,
            recovery_key,
        })
    }

    fn recover(&self, store: &Path, recovery_key: &SecretBytes, trial: Trial) -> Result<PathBuf, Problem> {
        daemon::recover(store, recovery_key, trial)
    }

    fn restore(
        &self,
        store: &Path,
        plan: &super::plan::Restore,
        recovery_key: Option<&SecretBytes>,
    ) -> Result<serde_json::Value, Problem> {
        if let Some((name, place)) = &plan.only {
            return daemon::restore_secret(
                store,
                &plan.file,
                (name, place),
                plan.trial,
                recovery_key,
                &mut crate::report::myself(),
            );
        }
        daemon::restore(
            store,
            &plan.file,
            (plan.rollback, plan.trial),
            recovery_key,
            &mut crate::report::myself(),
        )
    }

    fn break_glass(&self, store: &Path, broken: &Broken) -> Result<serde_json::Value, Problem> {
        if let Some(mut client) = Client::connect(store)? {
            let status = client.call(&Request::Status, None)?;
            let mount = super::args::shell_word(status["mount"].as_str().unwrap_or("DIR"));
            return Err(Problem::new(
                Exit::Unavailable,
                "the glass was not broken",
                "a daemon serves this store, and this works only without one",
            )
            .next(format!("stop it first: wardfs unmount {mount}")));
        }
        let repair = match &broken.what {
            Target::Policy(name, policy) => Repair::Policy(name.clone(), policy.clone()),
            Target::Layer(key) => Repair::Layer(key.clone()),
            Target::Log => {
                let trial = if broken.dry_run {
                    Trial::DryRun
                } else {
                    Trial::Real
                };
                let mut caller = crate::report::myself();
                return daemon::begin_log(store, &broken.reason, trial, &mut caller);
            }
        };
        let (desk, _access) = daemon::desk(store, &Config::load(store)?)?;
        desk.lifecycle.break_glass(
            &repair,
            &broken.reason,
            broken.dry_run,
            &mut crate::report::myself(),
        )
    }

    fn directory(&self) -> &dyn crate::policy::Directory {
        &daemon::Names
    }

    fn mount(&self, plan: &MountPlan, opening: Progress) -> Result<(), Problem> {
        let opening = std::cell::Cell::new(Some(opening));
        let ready = |target: &Path| {
            drop(opening.take());
            let shown = target.to_string_lossy();
            let line = match plan.json {
                true => serde_json::json!({ "ready": true, "mount": shown }).to_string(),
                false => format!("READY {}", printable(&shown)),
            };
            // It serves, whether or not somebody can be told.
            if let Err(e) = writeln!(std::io::stdout(), "{line}") {
                tracing::warn!("READY could not be said: {e}");
            }
        };
        let serving = daemon::Plan {
            store: plan.store.clone(),
            target: plan.target.clone(),
            config: plan.config.clone(),
            threads: plan.threads,
            options: plan.options.clone(),
        };
        daemon::serve(&serving, ready)
    }

    fn unmount_dead(&self, target: &Path) -> Result<(), Problem> {
        daemon::unmount_dead(target)
    }

    fn demo(&self, output: &mut Output) -> Result<(), Stop> {
        super::demo::run(output)
    }

    fn notifier(&self, _: &[OsString]) -> Result<(), Problem> {
        crate::sys::notifier::inherited()
            .and_then(|(root, commands)| crate::sys::notifier::run(root, commands))
            .map_err(|e| {
                Problem::new(Exit::Failed, "the notifier ended", e).next("`wardfs mount` starts it by itself")
            })
    }
}

fn guard_memory() -> Result<(), Problem> {
    crate::sys::harden::no_dumps().map_err(|e| {
        Problem::new(Exit::Failed, "this process cannot be protected", e)
            .next("run it where prctl(2) is not forbidden")
    })
}

/// How long a service may take to end.
const UNMOUNTING: Duration = Duration::from_secs(10);

/// The daemon has the store.
struct Served {
    client: Client,
}

impl Backend for Served {
    fn call(&mut self, request: &Request, value: Option<SecretBytes>) -> Result<serde_json::Value, Problem> {
        let reply = self.client.call(request, value.map(Enclosed::Value))?;
        if matches!(request, Request::Unmount) {
            self.client.wait_end(UNMOUNTING)?;
            if let Some(mount) = reply["mount"].as_str() {
                daemon::gone(Path::new(mount), UNMOUNTING)?;
            }
        }
        Ok(reply)
    }

    fn long(
        &mut self,
        request: &Request,
        file: Option<File>,
        told: &mut dyn FnMut(u64),
    ) -> Result<serde_json::Value, Problem> {
        into(file, |out| self.client.follow(request, out, told))
    }

    fn value(&mut self, name: &SecretName, which: &Which) -> Result<SecretBytes, Problem> {
        let status = self.client.call(&Request::Status, None)?;
        let mount = status["mount"].as_str().map(PathBuf::from).ok_or_else(|| {
            Problem::new(
                Exit::Unavailable,
                format!("{name} cannot be read"),
                "the daemon has no mount",
            )
            .next("see what it does: wardfs status")
        })?;
        value::through_mount(&Machine, &mount, name, which)
    }
}

/// No daemon runs: this process has the store, and is a caller like any other.
struct Opened {
    desk: Desk,
    access: Arc<Access>,
}

impl Backend for Opened {
    fn call(&mut self, request: &Request, value: Option<SecretBytes>) -> Result<serde_json::Value, Problem> {
        self.desk.answer(
            request,
            value.map(Enclosed::Value),
            &mut |_| {},
            &mut crate::report::myself(),
        )
    }

    fn long(
        &mut self,
        request: &Request,
        file: Option<File>,
        told: &mut dyn FnMut(u64),
    ) -> Result<serde_json::Value, Problem> {
        into(file, |out| {
            self.desk.answer(request, out, told, &mut crate::report::myself())
        })
    }

    fn value(&mut self, name: &SecretName, which: &Which) -> Result<SecretBytes, Problem> {
        let what = || format!("{name} cannot be read");
        let missing = || {
            Problem::new(
                Exit::NotFound,
                what(),
                "there is no such secret or version, or you may not see it",
            )
            .next("wardfs list")
        };
        let explain = |e: AccessError| match e {
            AccessError::Denied(_) => {
                Problem::new(Exit::Denied, what(), "its policy does not let you read it")
                    .next(format!("wardfs why {name}"))
            }
            AccessError::Hidden(_) | AccessError::NotFound | AccessError::Revoked => missing(),
            AccessError::Integrity(why) => {
                Problem::new(Exit::Integrity, what(), why).next("see what is broken: wardfs store check")
            }
            AccessError::Log(e @ LogError::ReadOnly { .. }) => {
                VaultError::from(e).problem(what()).next(format!(
                    "mount it for writing; root reads it all the same by: wardfs get {name} --unrecorded"
                ))
            }
            AccessError::Log(e) => VaultError::from(e).problem(what()),
            AccessError::Unavailable(e) => e.problem(what()),
        };
        let state = self.access.vault().state();
        let secret = state.secrets.by_name(name.as_str()).ok_or_else(missing)?;
        let choice = match which {
            Which::Label(label) => Choice::Label(label.as_str()),
            Which::Version(named) => Choice::Version(secret.meant(named).map_err(|e| match e {
                Unmeant::Several => value::ambiguous(name, named),
                Unmeant::Nothing => missing(),
            })?),
        };
        let mut caller = crate::report::myself();
        let pin = self
            .access
            .open(state.view(secret), choice, 0, &mut caller)
            .map_err(explain)?;
        let bytes = self
            .access
            .read(&pin, Range::WHOLE, &mut caller)
            .map_err(explain)?
            .ok_or_else(missing)?;
        let mut out = Machine.memory(bytes.expose().len())?;
        out.expose_mut().copy_from_slice(bytes.expose());
        Ok(out)
    }
}

/// A request whose backup, if it is one, goes into `file`; what the answer says is on the disk then.
fn into(
    file: Option<File>,
    ask: impl FnOnce(Option<Enclosed<'_>>) -> Result<serde_json::Value, Problem>,
) -> Result<serde_json::Value, Problem> {
    let Some(file) = file else { return ask(None) };
    let mut out = std::io::BufWriter::new(Counted { file, bytes: 0 });
    let made = ask(Some(Enclosed::Backup(&mut out)))?;
    let written = |e| crate::control::client::unwritten(&e);
    let Counted { file, bytes } = out.into_inner().map_err(|e| written(e.into_error()))?;
    let length = match file.metadata().map_err(written)? {
        regular if regular.is_file() => {
            file.sync_all().map_err(written)?;
            regular.len()
        }
        // A pipe knows nothing of it.
        _ => bytes,
    };
    match length {
        len if made["bytes"] == len => Ok(made),
        len => Err(written(std::io::Error::other(format!(
            "{len} bytes arrived of {}",
            made["bytes"]
        )))),
    }
}

/// A file, and how much was written to it.
struct Counted {
    file: File,
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
