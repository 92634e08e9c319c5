//! The recovery key as people write it down: 8 groups of 8 characters of Crockford's base32
//! (<https://www.crockford.com/base32.html>). A group is 4 bytes of the secret and a check byte, so that a
//! mistake is found in the group where it was made.

use super::keys;
use super::slot::SLOT_SECRET_LEN;
use super::{SealError, random};
use crate::secret::SecretBytes;

/// Groups of a recovery key.
pub(super) const GROUPS: usize = 8;
/// Characters of a group.
pub(super) const GROUP_LEN: usize = 8;
/// Bytes of the secret in a group; one check byte follows.
const GROUP_BYTES: usize = SLOT_SECRET_LEN / GROUPS;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Makes and reads recovery keys.
pub struct RecoveryKey;

impl RecoveryKey {
    /// A fresh recovery key: the slot's secret, and the text to print (71 bytes of ASCII: groups joined by
    /// hyphens).
    ///
    /// # Errors
    /// No memory or no randomness.
    pub fn generate() -> Result<(SecretBytes, SecretBytes), SealError> {
        let mut secret = keys::locked(SLOT_SECRET_LEN)?;
        random::fill(secret.expose_mut())?;
        let text = Self::print(&secret)?;
        Ok((secret, text))
    }

    /// Reads a recovery key as somebody typed it. Case, spaces, line ends and hyphens do not matter, nor
    /// whether `0` was typed as `O`, or `1` as `I` or `L`.
    ///
    /// # Errors
    /// [`SealError::RecoveryLength`], or [`SealError::RecoveryGroup`] with the group that is wrong.
    pub fn parse(text: &[u8]) -> Result<SecretBytes, SealError> {
        let mut symbols = keys::locked(GROUPS * GROUP_LEN)?;
        let found = text.iter().filter(|c| !is_separator(**c)).count();
        if found != symbols.len() {
            return Err(short_group(text).unwrap_or(SealError::RecoveryLength { found }));
        }
        for (to, from) in symbols
            .expose_mut()
            .iter_mut()
            .zip(text.iter().filter(|c| !is_separator(**c)))
        {
            *to = *from;
        }
        let mut secret = keys::locked(SLOT_SECRET_LEN)?;
        let groups = symbols.expose().chunks_exact(GROUP_LEN);
        for (i, (group, out)) in groups
            .zip(secret.expose_mut().chunks_exact_mut(GROUP_BYTES))
            .enumerate()
        {
            let wrong = SealError::RecoveryGroup { group: i + 1 };
            let mut bits = 0u64;
            for &c in group {
                let Some(value) = value_of(c) else {
                    return Err(wrong);
                };
                bits = bits << 5 | value;
            }
            let [_, _, _, bytes @ .., check] = bits.to_be_bytes();
            if crc8(i, &bytes) != check {
                return Err(wrong);
            }
            out.copy_from_slice(&bytes);
        }
        Ok(secret)
    }

    fn print(secret: &SecretBytes) -> Result<SecretBytes, SealError> {
        let mut text = keys::locked(GROUPS * (GROUP_LEN + 1) - 1)?;
        let groups = secret.expose().chunks_exact(GROUP_BYTES);
        for (i, (bytes, out)) in groups
            .zip(text.expose_mut().chunks_mut(GROUP_LEN + 1))
            .enumerate()
        {
            let bits =
                bytes.iter().fold(0u64, |bits, b| bits << 8 | u64::from(*b)) << 8 | u64::from(crc8(i, bytes));
            for (j, c) in out.iter_mut().enumerate() {
                *c = match j {
                    GROUP_LEN => b'-',
                    _ => ALPHABET[(bits >> (5 * (GROUP_LEN - 1 - j)) & 31) as usize],
                };
            }
        }
        Ok(text)
    }
}

fn is_separator(c: u8) -> bool {
    c.is_ascii_whitespace() || c == b'-'
}

fn value_of(c: u8) -> Option<u64> {
    let c = match c.to_ascii_uppercase() {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        other => other,
    };
    ALPHABET.iter().position(|a| *a == c).map(|i| i as u64)
}

/// With the groups still apart, the one that lost or won a character.
fn short_group(text: &[u8]) -> Option<SealError> {
    let groups = || text.split(|c| is_separator(*c)).filter(|g| !g.is_empty());
    if groups().count() != GROUPS {
        return None;
    }
    groups()
        .position(|g| g.len() != GROUP_LEN)
        .map(|i| SealError::RecoveryGroup { group: i + 1 })
}

/// CRC-8 (x^8 + x^2 + x + 1) begun with the group's number: every mistake within 8 neighbouring bits is found,
/// one wrong character therefore always, and so are exchanged groups.
fn crc8(group: usize, bytes: &[u8]) -> u8 {
    let mut crc = group as u8 + 1;
    for byte in bytes {
        crc ^= byte;
        for _ in 0..8 {
            crc = if crc & 0x80 == 0 {
                crc << 1
            } else {
                crc << 1 ^ 0x07
            };
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (SecretBytes, Vec<u8>) {
        let (secret, text) = RecoveryKey::generate().unwrap();
        (secret, text.expose().to_vec())
    }

    fn group_of(result: Result<SecretBytes, SealError>) -> usize {
        match result {
            Err(SealError::RecoveryGroup { group }) => group,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("accepted"),
        }
    }

    #[test]
    fn the_check_is_the_published_one() {
        // The check value of CRC-8/SMBUS in reveng's catalogue. It begins with 0, and group 0 with 1, which the first
        // byte takes back.
        assert_eq!(crc8(0, b"023456789"), 0xf4);
    }

    #[test]
    fn what_is_printed_is_read_back_however_it_is_typed() {
        let (secret, text) = sample();
        assert_eq!(text.len(), 71);
        let text = String::from_utf8(text).unwrap();
        for typed in [
            text.clone(),
            text.to_lowercase(),
            text.replace('-', ""),
            text.replace('-', " ") + "\n",
            text.replace('-', "\r\n"),
            text.replace('0', "O").replace('1', "l"),
            text.replace('0', "o").replace('1', "I"),
        ] {
            assert_eq!(
                RecoveryKey::parse(typed.as_bytes()).unwrap().expose(),
                secret.expose(),
                "{typed}"
            );
        }
    }

    #[test]
    fn every_wrong_character_is_found_in_its_group() {
        let (_, text) = sample();
        for i in (0..text.len()).filter(|i| text[*i] != b'-') {
            for &c in ALPHABET.iter().chain(b"U!\0\xff").filter(|c| **c != text[i]) {
                let mut typed = text.clone();
                typed[i] = c;
                assert_eq!(group_of(RecoveryKey::parse(&typed)), i / 9 + 1);
            }
        }
    }

    #[test]
    fn exchanged_groups_are_found() {
        let (_, text) = sample();
        for a in 0..GROUPS {
            for b in a + 1..GROUPS {
                let mut groups: Vec<&[u8]> = text.split(|c| *c == b'-').collect();
                if groups[a] != groups[b] {
                    groups.swap(a, b);
                    assert_eq!(group_of(RecoveryKey::parse(&groups.concat())), a + 1);
                }
            }
        }
    }

    #[test]
    fn a_missing_or_doubled_character_is_found() {
        let (_, text) = sample();
        for i in (0..text.len()).filter(|i| text[*i] != b'-') {
            let mut shorter = text.clone();
            shorter.remove(i);
            assert_eq!(group_of(RecoveryKey::parse(&shorter)), i / 9 + 1);
            let mut longer = text.clone();
            longer.insert(i, text[i]);
            assert_eq!(group_of(RecoveryKey::parse(&longer)), i / 9 + 1);
        }
        for len in 0..text.len() {
            assert!(RecoveryKey::parse(&text[..len]).is_err());
        }
        assert!(matches!(
            RecoveryKey::parse(b"abc"),
            Err(SealError::RecoveryLength { found: 3 })
        ));
        assert!(matches!(
            RecoveryKey::parse(&[b'0'; 10_000]),
            Err(SealError::RecoveryLength { found: 10_000 })
        ));
    }

    #[test]
    fn a_key_of_zeroes_does_not_read_as_one() {
        assert_eq!(group_of(RecoveryKey::parse(&[b'0'; 64])), 1);
    }
}
