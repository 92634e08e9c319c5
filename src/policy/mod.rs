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
mod ask;
mod compile;
mod condition;
mod decide;
mod deciding;
mod diagnostic;
mod document;
mod drift;
mod edit;
mod explain;
mod extend;
mod facts;
mod foreign;
mod gain;
mod json;
mod kind;
mod layers;
mod operator;
mod parse;
mod pattern;
mod principal;
mod reach;
mod readers;
mod reading;
mod record;
mod resource;
mod role;
mod rule;
mod simulate;
mod takeout;
mod template;
mod value;
mod words;

pub use action::{Action, Purpose, UnknownAction};
pub use compile::{Compilations, Compiled};
pub use condition::Key;
pub use decide::{
    Administration, Basis, Decision, Grant, Layer, Layers, Reason, Refusal, Traced, decide, trace,
};
pub use deciding::{Deciding, Difference};
pub use diagnostic::{Concern, PolicyError, Warning, nearest};
pub use document::{Clause, Condition, Document, Effect, Place, Principal, Statement, Version};
pub use drift::Drift;
pub use edit::Change;
pub use explain::{Answer, Documents, Explanation, explain};
pub use extend::ExtendError;
pub use facts::{Breadth, Facts, Given, NO_TAGS, ProcessState, Request};
pub use gain::{Extent, Gain, Side, gain};
pub use json::Text;
pub use layers::{Attached, GuardrailRecord, IdentityRecord, MAX_GUARDRAILS, MAX_IDENTITIES, Shared};
pub use operator::{Comparison, Operator, Order, Quantifier};
pub use parse::MAX_BYTES;
pub use principal::{Directory, Local, LocalError, PrincipalMap};
pub use reach::{Claim, Elsewhere, Kept, elsewhere};
pub use readers::{Standing, readers, standing};
pub use reading::{People, Reader, Reading, difference};
pub use record::{Grammar, PolicyRecord};
pub use rule::{Part, Scope};
pub use simulate::{Scenario, ScenarioError, simulate};
pub use takeout::{TakeOut, TakeOutError, TakenOut};

#[cfg(test)]
mod tests;
