//! How encoded things begin, and how authenticated data is laid out.

use super::SealError;

/// The format that this version writes.
pub const FORMAT: u8 = 1;
/// The oldest format whose readers understand what this version writes.
pub const MIN_READER: u8 = 1;
/// The newest format that this version reads. Format 2 is laid out as 1, and is written for an epoch record that tells of
/// a lost log: who knows only format 1 would forget that.
pub const NEWEST: u8 = 2;

/// The two bytes that everything encoded begins with: `format`, `min_reader`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Header(pub [u8; 2]);

impl Header {
    /// What this version writes.
    pub const CURRENT: Header = Header([FORMAT, MIN_READER]);
    /// What only readers of the newest format understand.
    pub const NEWEST: Header = Header([NEWEST, NEWEST]);

    /// Takes the header off `input`.
    pub fn take(what: &'static str, input: &mut Input<'_>) -> Result<Self, SealError> {
        let header: [u8; 2] = *input.take()?;
        let [format, min_reader] = header;
        // No writer asks for a reader of 0, or newer than itself: such a pair is damage, not a newer version.
        if min_reader == 0 || min_reader > format {
            return Err(SealError::integrity(what));
        }
        if min_reader > NEWEST {
            return Err(SealError::Format {
                what,
                format,
                min_reader,
            });
        }
        Ok(Header(header))
    }
}

/// Bytes being taken apart, front to back.
pub(super) struct Input<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// `what` names the thing in errors.
    pub fn new(what: &'static str, rest: &'a [u8]) -> Self {
        Input { what, rest }
    }

    /// The next `N` bytes.
    pub fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], SealError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or_else(|| self.damaged())?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `len` bytes.
    pub fn slice(&mut self, len: usize) -> Result<&'a [u8], SealError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.damaged())?;
        self.rest = rest;
        Ok(head)
    }

    /// The last `N` bytes.
    pub fn take_last<const N: usize>(&mut self) -> Result<&'a [u8; N], SealError> {
        let (rest, tail) = self.rest.split_last_chunk().ok_or_else(|| self.damaged())?;
        self.rest = rest;
        Ok(tail)
    }

    /// Everything that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Refuses bytes that are left over.
    pub fn end(self) -> Result<(), SealError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.damaged())
        }
    }

    fn damaged(&self) -> SealError {
        SealError::integrity(self.what)
    }
}

/// Authenticated data: the header, then fields, each after its length in 32 bits, big endian. The first field
/// says what the data is for, so that nothing sealed for one use opens in another.
pub(super) struct Aad(Vec<u8>);

impl Aad {
    pub fn new(domain: &str, header: Header) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&header.0);
        Aad(bytes).field(domain.as_bytes())
    }

    pub fn field(mut self, field: &[u8]) -> Self {
        // Fields are names, numbers and hashes: far below 4 GiB.
        self.0.extend_from_slice(&(field.len() as u32).to_be_bytes());
        self.0.extend_from_slice(field);
        self
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}
