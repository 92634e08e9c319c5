//! The way back after a failure: where the log stands, and how it is made whole.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Instant;

use nix::sys::stat::{FileStat, SFlag, fstat};

use crate::sys::dir::{Inode, kind};

use super::super::Identity;
use super::super::chain::{self, MAX_LINE};
use super::super::error::LogError;
use super::super::record::{Event, Outcome, Record, Value, Who};
use super::super::segment::Mode;
use super::{Context, RETRY, Stamp, Writer};

impl Writer {
    /// Finds out where the log stands after a failure and makes it whole, at most each [`RETRY`].
    pub(super) fn recover(&mut self, ctx: &Context) -> Result<(), LogError> {
        let now = Instant::now();
        let Some(down) = &mut self.down else { return Ok(()) };
        let cause = down.cause;
        if now < down.next_try {
            return Err(self.error(cause));
        }
        down.next_try = now + RETRY;
        let mended = self.find(ctx).and_then(|ours| match ours {
            true => self.mend(ctx),
            false => self.begin(ctx, self.number + 1, true),
        });
        match mended {
            Ok(()) => self.down = None,
            // `Missing` would speak of a log that is not there at a start.
            Err(LogError::Missing { .. }) => return Err(self.error(cause)),
            Err(e) => return Err(e),
        }
        if self.refused > 0 {
            self.tell_resumed(ctx, None)?;
        }
        Ok(())
    }

    /// Whether the path holds our file, or a faithful copy of it, which is taken in its place.
    fn find(&mut self, ctx: &Context) -> Result<bool, LogError> {
        let folder = match ctx.folder() {
            Err(LogError::Missing { .. }) => return Ok(false),
            folder => folder?,
        };
        let Some(here) = folder.look(self.number)? else {
            return Ok(false);
        };
        if !self.is_ours(&here)? {
            if kind(&here) != SFlag::S_IFREG || here.st_size as u64 != self.len {
                return Ok(false);
            }
            let copy = folder.segment(self.number, Mode::Append)?;
            if !same_bytes(&self.file, &copy, self.len).map_err(|e| LogError::io(&self.path, e))? {
                return Ok(false);
            }
            self.file = Arc::new(copy);
            self.allocated = self.len;
        }
        let size = self
            .file
            .metadata()
            .map_err(|e| LogError::io(&self.path, e))?
            .len();
        Ok(size == self.len || (size > self.len && self.torn))
    }

    pub(super) fn is_ours(&self, here: &FileStat) -> Result<bool, LogError> {
        let ours = fstat(&*self.file).map_err(|e| LogError::io(&self.path, e))?;
        Ok(Inode::from(here) == Inode::from(&ours))
    }

    /// Cuts an unfinished line off; where the file cannot be cut, ends it and lets the next record account for it.
    pub(super) fn mend(&mut self, ctx: &Context) -> Result<(), LogError> {
        if !self.torn {
            return Ok(());
        }
        let size = self
            .file
            .metadata()
            .map_err(|e| LogError::io(&self.path, e))?
            .len();
        // An unfinished line of ours is no longer than a line.
        let torn = usize::try_from(size - self.len).ok().filter(|n| *n <= MAX_LINE);
        let mut rest = vec![0; torn.ok_or(LogError::Unfit("torn beyond measure"))?];
        let mut input = &*self.file;
        input
            .seek(SeekFrom::Start(self.len))
            .map_err(|e| LogError::io(&self.path, e))?;
        input
            .read_exact(&mut rest)
            .map_err(|e| LogError::io(&self.path, e))?;
        if self.cut() {
            self.torn = false;
            self.allocated = self.len;
        }
        if rest.is_empty() {
            return Ok(());
        }
        self.down = None;
        self.tell_resumed(ctx, Some(&rest))
    }

    /// The record that says: the log was interrupted, this many records were refused, these bytes were unfinished.
    pub(super) fn tell_resumed(&mut self, ctx: &Context, torn: Option<&[u8]>) -> Result<(), LogError> {
        let digest = torn.map(chain::digest).unwrap_or_default();
        let mut parameters = vec![("refused", Value::Number(self.refused))];
        if let Some(torn) = torn {
            parameters.push(("tornBytes", Value::Number(torn.len() as u64)));
            parameters.push(("tornDigest", Value::Text(&digest)));
            parameters.push(("cut", Value::Flag(!self.torn)));
        }
        let record = Record {
            event: Event::LogResumed,
            outcome: Outcome::Allowed,
            who: Who {
                uid: nix::unistd::geteuid().as_raw(),
                ..Who::default()
            },
            identity: Identity::Short,
            parameters: &parameters,
            ..Record::default()
        };
        let mut fields = Vec::with_capacity(256);
        record.write(&mut fields);
        self.put(ctx, Stamp::Fresh, &fields, None, self.torn)?;
        self.refused = 0;
        Ok(())
    }
}

fn same_bytes(mut a: &File, mut b: &File, len: u64) -> io::Result<bool> {
    if a.metadata()?.len() != len || b.metadata()?.len() != len {
        return Ok(false);
    }
    a.seek(SeekFrom::Start(0))?;
    b.seek(SeekFrom::Start(0))?;
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut rest = len;
    while rest > 0 {
        let n = rest.min(1 << 16) as usize;
        a.read_exact(&mut left[..n])?;
        b.read_exact(&mut right[..n])?;
        if left[..n] != right[..n] {
            return Ok(false);
        }
        rest -= n as u64;
    }
    Ok(true)
}
