//! Signals: SIGTERM and SIGINT end service, SIGHUP has the configuration read again, and SIGUSR1, SIGUSR2 and SIGALRM,
//! which would end a process that does not know them, do nothing.

use std::sync::Arc;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::Stop;

const ENDING: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];
const OTHERS: [Signal; 4] = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM];

/// Blocks them in this thread and in all that it starts.
pub(super) fn block() -> std::io::Result<SignalFd> {
    let mut set = SigSet::empty();
    ENDING
        .into_iter()
        .chain(OTHERS)
        .for_each(|signal| set.add(signal));
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?)
}

/// Takes them one after the other.
pub(super) fn take(
    signals: SignalFd,
    stop: Arc<Stop>,
    reload: impl Fn() + Send + 'static,
) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(move || {
        loop {
            let Ok(Some(info)) = signals.read_signal() else {
                continue;
            };
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGHUP) => reload(),
                Ok(signal) if ENDING.contains(&signal) => {
                    let by = match info.ssi_pid {
                        0 => String::new(),
                        pid => format!(" of process {pid} (uid {})", info.ssi_uid),
                    };
                    let _first = stop.asked.set(format!("{signal}{by}"));
                }
                _ => {}
            }
        }
    })?;
    Ok(())
}
