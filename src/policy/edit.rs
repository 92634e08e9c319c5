//! `allow` and `deny` of the command line, as changes of a document.

use super::action::{Action, ActionSet};
use super::document::{Clause, Document, Effect, Place, Principal, Statement};
use super::json::Text;
use super::parse::mask;
use super::principal::Local;

/// What an edit did. Statements are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing: no action was named.
    Nothing,
    /// Nothing: this statement said so already.
    AlreadyThere(usize),
    /// The principal was added to this statement.
    Extended(usize),
    /// This statement was added.
    Added(usize),
}

impl Document {
    /// Allows or denies `who` the `actions`. An unconditional statement about the same actions is extended; a
    /// statement of the opposite effect is left alone, and an explicit Deny still wins.
    pub fn add(&mut self, effect: Effect, who: &Local, actions: &[Action]) -> Change {
        if actions.is_empty() {
            return Change::Nothing;
        }
        let wanted: ActionSet = actions.iter().copied().collect();
        let principal = Principal::Local(Place {
            value: who.clone(),
            at: 0,
        });
        let plain = |s: &Statement| s.effect == effect && s.is_plain();
        let said = |s: &Statement| {
            let items = &s.principal.items;
            s.actions.is_superset(wanted)
                && (items.contains(&principal) || items.contains(&Principal::Everyone))
        };
        if let Some(i) = self.statements.iter().position(|s| plain(s) && said(s)) {
            return Change::AlreadyThere(i);
        }
        let extend = |s: &Statement| {
            let everyone = s.principal.items.contains(&Principal::Everyone);
            plain(s) && s.actions == wanted && !everyone
        };
        if let Some(i) = self.statements.iter().position(extend) {
            self.statements[i].principal.items.push(principal);
            return Change::Extended(i);
        }
        let listed = Action::ALL.iter().filter(|a| wanted.contains(**a));
        let items = match wanted == ActionSet::ALL {
            true => vec![Text::from("*")],
            false => listed.map(|a| Text::from(a.to_string().as_str())).collect(),
        };
        let action = Clause {
            negated: false,
            items,
        };
        self.statements.push(Statement {
            sid: None,
            effect,
            principal: Clause {
                negated: false,
                items: vec![principal],
            },
            actions: mask(&action),
            action,
            resource: Clause {
                negated: false,
                items: vec![Text::from("*")],
            },
            conditions: Vec::new(),
            at: 0,
        });
        Change::Added(self.statements.len() - 1)
    }
}

impl Statement {
    /// Whether it holds without conditions, for this secret, for listed principals.
    fn is_plain(&self) -> bool {
        self.conditions.is_empty()
            && !self.principal.negated
            && !self.resource.negated
            && self.resource.items.iter().any(|r| r.value == "*")
    }
}
