//! What a decision runs over: rules, their questions, and what each costs to ask.

use super::action::ActionSet;
use super::condition::Comparison;
use super::pattern::{eq_ignore_case, glob, glob_arn};

/// A statement that applies to the secret.
#[derive(Debug)]
pub(super) struct Rule {
    pub index: u16,
    pub actions: ActionSet,
    /// All have to hold; cheap ones first.
    pub tests: Box<[Test]>,
}

/// One question.
#[derive(Debug)]
pub(super) struct Test {
    pub what: What,
    pub negated: bool,
    /// For `…IfExists`: the test holds too if this is absent.
    pub unless_absent: Option<Presence>,
}

#[derive(Debug)]
pub(super) enum What {
    Const(bool),
    Who(Who),
    Uid(Numbers),
    Gid(Numbers),
    Groups(Numbers),
    Unit(Box<[Words]>),
    Stage(Box<[Words]>),
    Absent(Presence),
}

/// A set of local principals.
#[derive(Debug, Default, Clone)]
pub(super) struct Who {
    pub everyone: bool,
    pub uids: Vec<u32>,
    pub gids: Vec<u32>,
    pub units: Vec<String>,
    pub services: Vec<String>,
}

/// Ids, listed or by patterns of their decimal form.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub exact: Vec<u32>,
    pub patterns: Vec<String>,
}

/// A text to compare with.
#[derive(Debug)]
pub(super) struct Words {
    comparison: Comparison,
    value: Box<str>,
}

/// Whether the request has a key at all.
#[derive(Debug)]
pub(super) enum Presence {
    Always,
    Never,
    /// Any of the ARNs' holders has an ARN.
    Arn(Who),
    /// These uids have a name; of others it is not known, as they may have got one since.
    Username(Vec<u32>),
    Unit,
    Stage,
}

/// What a question costs to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cost {
    Free,
    Groups,
    Unit,
}

impl Who {
    fn cost(&self) -> Cost {
        match (self.units.is_empty(), self.gids.is_empty()) {
            _ if self.everyone => Cost::Free,
            (false, _) => Cost::Unit,
            (true, false) => Cost::Groups,
            (true, true) => Cost::Free,
        }
    }

    pub fn sort(&mut self) {
        for ids in [&mut self.uids, &mut self.gids] {
            ids.sort_unstable();
            ids.dedup();
        }
        for names in [&mut self.units, &mut self.services] {
            names.sort_unstable();
            names.dedup();
        }
    }
}

impl Presence {
    fn cost(&self) -> Cost {
        match self {
            Presence::Arn(who) => who.cost(),
            Presence::Unit => Cost::Unit,
            Presence::Always | Presence::Never | Presence::Username(_) | Presence::Stage => Cost::Free,
        }
    }
}

impl Test {
    pub fn cost(&self) -> Cost {
        let what = match &self.what {
            What::Who(who) => who.cost(),
            What::Groups(_) => Cost::Groups,
            What::Unit(_) => Cost::Unit,
            What::Absent(presence) => presence.cost(),
            What::Const(_) | What::Uid(_) | What::Gid(_) | What::Stage(_) => Cost::Free,
        };
        what.max(self.unless_absent.as_ref().map_or(Cost::Free, Presence::cost))
    }

    /// Whether a fact is asked for that costs this much.
    pub fn asks(&self, cost: Cost) -> bool {
        let who = |who: &Who| {
            !who.everyone
                && match cost {
                    Cost::Free => false,
                    Cost::Groups => !who.gids.is_empty(),
                    Cost::Unit => !who.units.is_empty(),
                }
        };
        let presence = |p: &Presence| match p {
            Presence::Arn(w) => who(w),
            p => p.cost() == cost,
        };
        let what = match &self.what {
            What::Who(w) => who(w),
            What::Absent(p) => presence(p),
            What::Groups(_) => cost == Cost::Groups,
            What::Unit(_) => cost == Cost::Unit,
            What::Const(_) | What::Uid(_) | What::Gid(_) | What::Stage(_) => false,
        };
        what || self.unless_absent.as_ref().is_some_and(presence)
    }

    /// The answer, if it is the same for every request.
    pub fn constant(&self) -> Option<bool> {
        match (&self.what, &self.unless_absent) {
            (What::Const(c), None) => Some(c ^ self.negated),
            _ => None,
        }
    }
}

impl Rule {
    pub fn cost(&self) -> Cost {
        self.tests.iter().map(Test::cost).max().unwrap_or(Cost::Free)
    }
}

impl Words {
    pub fn new(comparison: Comparison, value: &str) -> Words {
        Words {
            comparison,
            value: value.into(),
        }
    }

    pub fn matches(&self, text: &str) -> bool {
        match self.comparison {
            Comparison::Equals => *self.value == *text,
            Comparison::EqualsIgnoreCase | Comparison::Bool => eq_ignore_case(&self.value, text),
            Comparison::Like => glob(&self.value, text),
            Comparison::Arn => glob_arn(&self.value, text),
            Comparison::Null => false,
        }
    }
}
