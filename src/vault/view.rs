//! A secret in the state that it was found in: what one request is decided by.

use std::ops::Deref;

use super::{Secret, State};

/// A secret, and the guardrails, identities and settings beside which it stands. Whoever decides, and whoever says by
/// which statement it was decided, does it by this, never by a second look at the store, which may have changed
/// meanwhile: what no state allowed is not allowed between two of them.
#[derive(Clone, Copy)]
pub struct View<'s> {
    /// The state.
    pub state: &'s State,
    secret: &'s Secret,
}

impl State {
    /// The secret in this state.
    pub fn view<'s>(&'s self, secret: &'s Secret) -> View<'s> {
        View { state: self, secret }
    }
}

impl<'s> View<'s> {
    /// The secret, for as long as the state is there.
    pub fn secret(self) -> &'s Secret {
        self.secret
    }
}

impl Deref for View<'_> {
    type Target = Secret;
    fn deref(&self) -> &Secret {
        self.secret
    }
}
