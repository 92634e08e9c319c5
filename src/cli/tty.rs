//! Asking for a value at the terminal, without showing it.

use super::World;
use crate::id::SecretName;
use crate::problem::{Exit, Problem};
use crate::secret::SecretBytes;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, LocalFlags, SetArg, SpecialCharacterIndices, Termios};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use subtle::ConstantTimeEq;

/// What a key did to the line.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    More,
    Done,
    Cancelled,
    Full,
}

/// The line that is being typed. The terminal's own line editing would cut a long one off at 4,095 bytes.
struct Line {
    typed: SecretBytes,
    len: usize,
}

impl Line {
    fn key(&mut self, byte: u8) -> Step {
        match byte {
            b'\n' | b'\r' => return Step::Done,
            // ^C, ^\, ^Z
            0x03 | 0x1c | 0x1a => return Step::Cancelled,
            // ^D
            0x04 if self.len == 0 => return Step::Cancelled,
            0x04 => return Step::Done,
            // Backspace takes a whole character.
            0x08 | 0x7f => {
                while self.len > 0 {
                    self.len -= 1;
                    if self.typed.expose()[self.len] & 0xc0 != 0x80 {
                        break;
                    }
                }
            }
            // ^U
            0x15 => self.len = 0,
            _ if self.len == self.typed.len() => return Step::Full,
            _ => {
                self.typed.expose_mut()[self.len] = byte;
                self.len += 1;
            }
        }
        Step::More
    }

    fn finish(mut self) -> SecretBytes {
        self.typed.truncate(self.len);
        self.typed
    }
}

/// A terminal that does not show what is typed; shows it again when dropped.
struct Quiet {
    tty: File,
    before: Termios,
}

impl Quiet {
    fn open() -> Result<Quiet, Errno> {
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open("/dev/tty");
        let tty = open.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
        let before = termios::tcgetattr(&tty)?;
        let mut quiet = before.clone();
        // Signals are off as well: a ^C must not leave a terminal behind that shows nothing.
        quiet
            .local_flags
            .remove(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::ISIG);
        quiet.local_flags.remove(LocalFlags::IEXTEN);
        quiet.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        quiet.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        termios::tcsetattr(&tty, SetArg::TCSAFLUSH, &quiet)?;
        Ok(Quiet { tty, before })
    }

    /// Whether more was typed, or pasted, than has been read.
    fn pending(&self) -> bool {
        let mut fds = [PollFd::new(self.tty.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(50u8)).is_ok_and(|n| n > 0)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // FLUSH: what is left of a pasted value must not become a command of the shell.
        let _ = termios::tcsetattr(&self.tty, SetArg::TCSAFLUSH, &self.before);
    }
}

/// Asks for a yes; no where there is no terminal to ask at.
pub fn confirmed(question: &str) -> bool {
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open("/dev/tty");
    let Ok(mut tty) = open else { return false };
    let mut line = String::new();
    let read = tty
        .write_all(question.as_bytes())
        .and_then(|()| BufReader::new(tty).read_line(&mut line));
    read.is_ok() && matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// Asks for the value of `name`, twice. The newline that ends it is no part of it. `None` if it is longer than
/// `limit` bytes.
///
/// # Errors
/// [`Exit::Usage`] if the two differ, it has more than one line, or the terminal cannot be used;
/// [`Exit::Failed`] if it was cancelled.
pub fn ask_twice(world: &dyn World, name: &SecretName, limit: usize) -> Result<Option<SecretBytes>, Problem> {
    let what = || format!("{name} was not stored");
    let unusable = |e: Errno| {
        Problem::new(
            Exit::Usage,
            what(),
            format!("the terminal cannot be asked for the value: {e}"),
        )
        .next(format!("wardfs put {name} < FILE"))
    };
    let mut quiet = Quiet::open().map_err(unusable)?;
    let prompts = [
        format!("Value of {name} (not shown): "),
        "The same again: ".to_owned(),
    ];
    let mut lines = Vec::with_capacity(2);
    for prompt in prompts {
        let _ = quiet.tty.write_all(prompt.as_bytes());
        let mut line = Line {
            typed: world.memory(limit)?,
            len: 0,
        };
        let end = loop {
            let mut byte = zeroize::Zeroizing::new([0u8]);
            match nix::unistd::read(&quiet.tty, &mut byte[..]) {
                Ok(0) => break Step::Cancelled,
                Ok(_) => match line.key(byte[0]) {
                    Step::More => {}
                    end => break end,
                },
                Err(Errno::EINTR) => {}
                Err(e) => return Err(unusable(e)),
            }
        };
        let _ = quiet.tty.write_all(b"\n");
        match end {
            Step::Full => return Ok(None),
            Step::Cancelled => {
                return Err(Problem::new(Exit::Failed, what(), "it was cancelled")
                    .next("nothing was changed; run it again"));
            }
            Step::Done | Step::More => {}
        }
        if quiet.pending() {
            return Err(
                Problem::new(Exit::Usage, what(), "the value has more than one line")
                    .next(format!("wardfs put {name} < FILE")),
            );
        }
        let line = line.finish();
        if line.is_empty() {
            return Ok(Some(line));
        }
        lines.push(line);
    }
    let again = lines.pop();
    match (lines.pop(), again) {
        (Some(first), Some(second)) if bool::from(first.expose().ct_eq(second.expose())) => Ok(Some(first)),
        _ => Err(Problem::new(Exit::Usage, what(), "the two are not the same").next("try again")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Fake;
    use super::*;

    fn typed(keys: &[u8], limit: usize) -> (Step, Vec<u8>) {
        let mut line = Line {
            typed: Fake::default().memory(limit).unwrap(),
            len: 0,
        };
        let mut last = Step::More;
        for key in keys {
            last = line.key(*key);
            if last != Step::More {
                break;
            }
        }
        (last, line.finish().expose().to_vec())
    }

    #[test]
    fn a_line_is_edited_as_terminals_do() {
        assert_eq!(typed(b"abc\n", 10), (Step::Done, b"abc".to_vec()));
        assert_eq!(typed(b"abc\r", 10), (Step::Done, b"abc".to_vec()));
        assert_eq!(typed("aé\x7fb\n".as_bytes(), 10), (Step::Done, b"ab".to_vec()));
        assert_eq!(typed(b"\x7f\x7fa\x08\n", 10), (Step::Done, vec![]));
        assert_eq!(typed(b"wrong\x15right\n", 10), (Step::Done, b"right".to_vec()));
        assert_eq!(typed(b"a\x04", 10), (Step::Done, b"a".to_vec()));
    }

    #[test]
    fn it_can_be_cancelled_and_never_is_cut_off() {
        for key in [0x03, 0x1c, 0x1a] {
            assert_eq!(typed(&[b'a', key], 10).0, Step::Cancelled);
        }
        assert_eq!(typed(b"\x04", 10).0, Step::Cancelled);
        assert_eq!(typed(b"abcd\n", 4).0, Step::Done);
        assert_eq!(typed(b"abcde\n", 4).0, Step::Full);
    }
}
