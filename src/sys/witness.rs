//! The system's own logs, for what cannot be recorded in ours: the kernel's and the journal's.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

const KERNEL: &str = "/dev/kmsg";
/// The kernel's log as a device: major 1, minor 11. Containers have other things under its name, which keep nothing.
const KERNEL_DEVICE: u64 = nix::sys::stat::makedev(1, 11);
const JOURNAL: &str = "/run/systemd/journal/socket";
const SYSLOG: &str = "/dev/log";
/// Facility authpriv, priority notice.
const PRIORITY: u32 = 10 * 8 + 5;
/// How long a full socket is waited for.
const LIMIT: Duration = Duration::from_secs(2);
/// The kernel takes no longer line.
const LONGEST: usize = 900;

/// Writes one line into the kernel's log, and into the journal's or syslog's where there is one.
///
/// # Errors
/// If none of them takes it, with what each said.
pub fn tell(line: &str) -> io::Result<()> {
    if line.contains(char::is_control) {
        // In the journal's protocol it would begin another field.
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let line = bounded(line);
    let kernel = kernel(line);
    let journal = journal(line).or_else(|journal| {
        syslog(line).map_err(|e| io::Error::other(format!("{JOURNAL}: {journal}; {SYSLOG}: {e}")))
    });
    match (kernel, journal) {
        (Err(kernel), Err(journal)) => Err(io::Error::other(format!("{KERNEL}: {kernel}; {journal}"))),
        _ => Ok(()),
    }
}

fn bounded(line: &str) -> &str {
    let cut = (0..=LONGEST.min(line.len()))
        .rev()
        .find_map(|end| line.get(..end));
    cut.unwrap_or_default()
}

fn kernel(line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(KERNEL)?;
    let found = file.metadata()?;
    if !found.file_type().is_char_device() || found.rdev() != KERNEL_DEVICE {
        return Err(io::Error::other("it is not the kernel's log"));
    }
    let text = format!("<{PRIORITY}>wardfs[{}]: {line}\n", std::process::id());
    match file.write(text.as_bytes())? {
        n if n == text.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

fn send(to: &str, text: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(LIMIT))?;
    socket.connect(Path::new(to))?;
    match socket.send(text.as_bytes())? {
        n if n == text.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

fn journal(line: &str) -> io::Result<()> {
    send(
        JOURNAL,
        &format!("PRIORITY=5\nSYSLOG_FACILITY=10\nSYSLOG_IDENTIFIER=wardfs\nMESSAGE={line}\n"),
    )
}

fn syslog(line: &str) -> io::Result<()> {
    send(
        SYSLOG,
        &format!("<{PRIORITY}>wardfs[{}]: {line}", std::process::id()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_between_characters() {
        assert_eq!(bounded("a line"), "a line");
        let long = "ä".repeat(LONGEST);
        assert_eq!(bounded(&long).len(), LONGEST);
        let long = format!("x{long}");
        assert_eq!(bounded(&long).len(), LONGEST - 1);
    }
}
