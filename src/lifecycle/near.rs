//! Names that are one slip of the finger away from others.

use super::Lifecycle;
use crate::access::Caller;
use crate::id::SecretName;

/// Longer names are not looked at: the work grows with the length.
const LONGEST: usize = 128;
/// In a shorter piece one character is all that tells names apart.
const SHORTEST: usize = 4;
const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/_+=.@-";

impl Lifecycle {
    /// That a new name is one edit from one that the caller may read or describe. Takes as long in a large store as in a
    /// small one.
    pub(super) fn looks_like<C: Caller>(&self, name: &SecretName, caller: &mut C) -> Option<String> {
        let state = self.access.vault().state();
        let found = edits(name.as_str()).find(|near| {
            let secret = state.secrets.by_name(near).filter(|s| s.is_active());
            secret.is_some_and(|s| self.access.peek(state.view(s), caller).is_ok())
        })?;
        Some(format!(
            "there is a secret {found} too, whose name is one edit from this one: was that meant?"
        ))
    }
}

/// The texts that are one edit from `name`: a character more, less or another, or two that changed places. Numbers that
/// differ are counted, not mistyped.
fn edits(name: &str) -> impl Iterator<Item = String> + '_ {
    let bytes = match name.len() <= LONGEST {
        true => name.as_bytes(),
        false => &[],
    };
    let with = move |at: usize, gone: usize, new: &[u8]| {
        let text = [&bytes[..at], new, &bytes[at + gone..]].concat();
        String::from_utf8(text).unwrap_or_default()
    };
    (0..=bytes.len())
        .filter(|at| long(bytes, *at))
        .flat_map(move |at| {
            let counted = move |c: u8| c.is_ascii_digit() && bytes.get(at).is_none_or(u8::is_ascii_digit);
            let more = ALPHABET.iter().filter(move |c| !counted(**c));
            let inserted = more.clone().map(move |c| with(at, 0, &[*c]));
            let here = bytes.get(at).copied();
            let other = more
                .filter(move |c| here.is_some_and(|h| h != **c))
                .map(move |c| with(at, 1, &[*c]));
            let less = here.filter(|h| !h.is_ascii_digit()).map(|_| with(at, 1, &[]));
            let swapped = bytes
                .get(at..at + 2)
                .filter(|two| two[0] != two[1])
                .map(|two| with(at, 2, &[two[1], two[0]]));
            inserted.chain(other).chain(less).chain(swapped)
        })
}

/// Whether the piece between slashes at this place is long enough.
fn long(bytes: &[u8], at: usize) -> bool {
    let before = bytes[..at].iter().rev().take_while(|c| **c != b'/').count();
    let after = bytes.iter().skip(at + 1).take_while(|c| **c != b'/').count();
    before + 1 + after >= SHORTEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_one_slip_away() {
        let near = |name: &str, other: &str| edits(name).any(|e| e == other);
        for other in [
            "app/pasword",
            "app/passwort",
            "app/psasword",
            "app/passwordd",
            "app-password",
        ] {
            assert_eq!(
                near("app/password", other),
                strsim::osa_distance("app/password", other) == 1,
                "{other}"
            );
        }
        assert!(
            !near("app/password", "app/password") && !near("app/a", "app/b") && !near("db/node1", "db/node2")
        );
        assert!(!near("db/node1", "db/node12") && near("db/node1", "db/nod1"));
        assert!(edits(&"a".repeat(200)).next().is_none());
    }
}
