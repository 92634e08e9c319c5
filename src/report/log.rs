//! What the log says, for whoever may ask it and cannot read its files.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Report, Work};
use crate::access::Caller;
use crate::audit::{self, Event, Identity, LogError, Outcome, Place, Query, Record, Value as Parameter};
use crate::policy::Action;
use crate::problem::{Exit, Problem};
use crate::vault::VaultError;

/// Which piece of the log is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Records {
    /// Which records.
    pub query: Query,
    /// From where on; from the beginning, or back from the end, where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Place>,
    /// Only the place before so many of the newest wanted ones is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<usize>,
    /// Whether it goes on with what is on record. Nobody says so of himself.
    #[serde(skip)]
    pub call: Call,
}

/// Which part of a call a question is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Call {
    /// Its beginning, which is recorded.
    #[default]
    Begun,
    /// Its continuation.
    Continued,
}

const WHAT: &str = "the log was not asked";

impl Report {
    /// A piece of the log. The call is recorded once, at its beginning.
    ///
    /// # Errors
    /// A refusal; a log that cannot be read, or cannot take the record of the call.
    pub fn records<C: Caller>(&self, asked: &Records, caller: &mut C) -> Result<Value, Problem> {
        self.may_query(WHAT, Event::QueryLog, caller)?;
        if asked.call == Call::Begun {
            let query = serde_json::to_string(&asked.query).unwrap_or_default();
            self.recorded(
                WHAT,
                Event::QueryLog,
                &[("query", Parameter::Text(&query))],
                caller,
            )?;
        }
        let vault = self.access.vault();
        let dir = vault.dir().join("audit");
        let mut work = Work::begin(caller.uid() == vault.administration().owner);
        let mut heard = Ok(());
        let mut go_on = || {
            heard = work.step(WHAT, caller);
            heard.is_ok()
        };
        let page = match asked.back {
            Some(n) => audit::back(&dir, &asked.query, asked.from, n, &mut go_on),
            None => audit::page(&dir, &asked.query, asked.from, &mut go_on),
        };
        heard?;
        page.map(|page| json!(page)).map_err(|e| match &e {
            LogError::Unreadable { .. } => Problem::new(Exit::Usage, WHAT, "no record begins at that place")
                .next("ask from the beginning"),
            _ => VaultError::from(e).problem(WHAT),
        })
    }

    /// Whether the caller may ask the log, or have it verified; a refusal is recorded as `event`.
    ///
    /// # Errors
    /// The refusal.
    pub fn may_query<C: Caller>(&self, what: &str, event: Event, caller: &mut C) -> Result<(), Problem> {
        let action = Action::QueryLog;
        match self.access.decide_layers(action, event, caller) {
            Ok(_grant) => Ok(()),
            Err(refusal) => Err(refusal.problem(what, action)),
        }
    }

    /// Records a question.
    ///
    /// # Errors
    /// If that is not possible: then it is not answered.
    pub fn recorded<C: Caller>(
        &self,
        what: &str,
        event: Event,
        parameters: &[(&'static str, Parameter<'_>)],
        caller: &mut C,
    ) -> Result<(), Problem> {
        let record = Record {
            event,
            outcome: Outcome::Allowed,
            parameters,
            via: caller.door(),
            who: caller.who(Identity::Full),
            ..Record::default()
        };
        let recorded = self.access.vault().log().append(&record);
        recorded.map(drop).map_err(|e| VaultError::from(e).problem(what))
    }
}
