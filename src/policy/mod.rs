//! Who may do what: AWS resource-policy documents, compiled once and decided without allocation.
//!
//! ```text
//! text ──parse──▶ Document ──resolve (names, ARNs)──▶ PolicyRecord ──compile──▶ Compiled ──decide──▶ Decision
//! ```
//!
//! A [`PolicyRecord`] is what is kept: the document as it was given, and what its names stood for when it was
//! set. A [`Compiled`] is what decides. The room is pure: names are looked up through [`Directory`], facts about
//! the caller through [`Facts`].

mod action;
mod compile;
mod condition;
mod decide;
mod diagnostic;
mod document;
mod edit;
mod foreign;
mod json;
mod parse;
mod pattern;
mod principal;
mod record;
mod rule;
mod words;

pub use action::{Action, Purpose, UnknownAction};
pub use compile::{Compiled, Needs, needs, readers};
pub use condition::{Comparison, Key, Operator};
pub use decide::{
    Administration, Basis, Decision, Facts, Grant, Layer, Layers, Reason, Refusal, Request, decide,
};
pub use diagnostic::{PolicyError, Warning};
pub use document::{Clause, Condition, Document, Effect, Place, Principal, Statement, Version};
pub use edit::Change;
pub use json::Text;
pub use parse::MAX_BYTES;
pub use principal::{DYNAMIC_IDS, Directory, Local, LocalError, MapError, PrincipalMap};
pub use record::PolicyRecord;

#[cfg(test)]
mod tests;
