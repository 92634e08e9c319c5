//! What a decision runs over: rules, their questions, and what each costs to ask.

use super::action::{Action, ActionSet};
use super::operator::Comparison;
use super::pattern::{eq_ignore_case, glob, glob_arn};
use super::resource::{Reading, Resource};
use super::template::Template;
use super::value::Matcher;

/// The rules of one document.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Rules {
    pub denies: Vec<Rule>,
    pub allows: Vec<Rule>,
}

impl Rules {
    /// Cheap ones first.
    pub fn sort(&mut self) {
        self.denies.sort_by_key(Rule::cost);
        self.allows.sort_by_key(Rule::cost);
    }
}

/// A statement that may apply.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Rule {
    /// The statement, counted within its layer.
    pub index: u32,
    pub actions: ActionSet,
    /// All have to hold; cheap ones first.
    pub tests: Box<[Test]>,
}

/// Which part of a statement asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// `Principal` or `NotPrincipal`, or whom an identity policy is attached to.
    Principal,
    /// `Resource` or `NotResource`.
    Resource,
    /// The condition of this number, counted from 0.
    Condition(u16),
}

/// One question.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Test {
    pub part: Part,
    pub what: What,
    pub negated: bool,
    /// For `…IfExists`: the test holds too if this is absent.
    pub unless_absent: Option<Presence>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    Const(bool),
    Who(Who),
    Uid(Numbers),
    Gid(Numbers),
    Groups(Numbers),
    Unit(Box<[Words]>),
    Stage(Box<[Words]>),
    Absent(Presence),
    Resource(Box<[Resource]>, Origins),
    SecretId(Comparison, Reading, Box<[SecretIdValue]>, Origins),
    Each(Box<Each>),
}

/// A value to compare a secret's id with.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct SecretIdValue {
    pub text: Box<str>,
    pub template: Option<Template>,
}

/// Where the variables of a question's templates come from, in their order.
pub(super) type Origins = Box<[Origin]>;

/// Any comparison of any key.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Each {
    pub origin: Origin,
    /// Whether all values have to satisfy the operator; else one of them.
    pub all: bool,
    pub negated: bool,
    pub matcher: Matcher,
    pub variables: Origins,
}

/// The texts under which one value counts; none if they cannot be known.
pub(super) type Spellings = Option<Box<[Box<str>]>>;

/// Where a key's values come from.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// ARNs under their spellings, and who has them. Without spellings it cannot be known how they compare.
    Arns(Box<[(Spellings, Who)]>),
    /// Names of users, in the order of their uids.
    Usernames(Box<[(u32, Box<str>)]>),
    /// Names of groups that count beside their numbers.
    Groups(Box<[(u32, Box<str>)]>),
    Uid,
    Gid,
    Unit,
    Stage,
    VersionId,
    SecretId,
    CurrentTime,
    EpochTime,
    NoNewPrivs,
    Traced,
    LoginUid,
    PrincipalTag(Box<str>),
    ResourceTag(Box<str>),
    RequestTag(Box<str>),
    TagKeys,
    /// What only a simulation gives.
    Given(Box<str>),
}

/// A set of local principals.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub(super) struct Who {
    pub everyone: bool,
    pub uids: Vec<u32>,
    pub gids: Vec<u32>,
    pub units: Vec<String>,
    pub services: Vec<String>,
}

/// Ids, listed or by patterns of their decimal form.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Numbers {
    pub exact: Vec<u32>,
    pub patterns: Vec<String>,
}

/// A text to compare with.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Words {
    comparison: Comparison,
    value: Box<str>,
}

/// Whether the request has a key at all.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum Presence {
    Always,
    Has(Origin),
}

/// What a question costs to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cost {
    Free,
    Groups,
    Process,
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

impl Origin {
    fn cost(&self) -> Cost {
        match self {
            Origin::Arns(arns) => arns.iter().map(|(_, who)| who.cost()).max().unwrap_or(Cost::Free),
            Origin::Groups(_) => Cost::Groups,
            Origin::NoNewPrivs | Origin::Traced | Origin::LoginUid => Cost::Process,
            // Whom the tags are attached to is not known here.
            Origin::Unit | Origin::PrincipalTag(_) => Cost::Unit,
            _ => Cost::Free,
        }
    }
}

impl Test {
    /// Whether it may hold for want of something that the caller can have put aside.
    pub fn rests_on_absence(&self) -> bool {
        let what = match &self.what {
            What::Absent(_) => true,
            What::Each(each) => each.negated || each.all,
            _ => false,
        };
        what || self.negated || self.unless_absent.is_some()
    }

    /// What is asked for, and the cost of each.
    pub fn origins(&self) -> impl Iterator<Item = &Origin> {
        let (one, many): (Option<&Origin>, &[Origin]) = match &self.what {
            What::Absent(Presence::Has(origin)) => (Some(origin), &[]),
            What::Each(each) => (Some(&each.origin), &each.variables),
            What::Resource(_, origins) | What::SecretId(_, _, _, origins) => (None, origins),
            _ => (None, &[]),
        };
        let unless = match &self.unless_absent {
            Some(Presence::Has(origin)) => Some(origin),
            _ => None,
        };
        one.into_iter().chain(many).chain(unless)
    }

    pub fn cost(&self) -> Cost {
        let what = match &self.what {
            What::Who(who) => who.cost(),
            What::Groups(_) => Cost::Groups,
            What::Unit(_) => Cost::Unit,
            _ => Cost::Free,
        };
        self.origins().map(Origin::cost).fold(what, Cost::max)
    }

    fn looks_at_secret(&self) -> bool {
        let of_secret = |origin: &Origin| {
            matches!(
                origin,
                Origin::Stage | Origin::VersionId | Origin::SecretId | Origin::ResourceTag(_)
            )
        };
        matches!(
            self.what,
            What::Resource(..) | What::SecretId(..) | What::Stage(_)
        ) || self.origins().any(of_secret)
    }

    /// The answer, if it is the same for every request.
    pub fn constant(&self) -> Option<bool> {
        match (&self.what, &self.unless_absent) {
            (What::Const(c), None) => Some(c ^ self.negated),
            _ => None,
        }
    }
}

/// Whether rules answer the same caller the same, whichever secret he wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// The same for all secrets, and for all of their versions.
    #[default]
    EverySecret,
    /// They look at the secret's name, its tags, its versions or labels.
    EachSecret,
}

impl Scope {
    /// Of those rules that are about reading or describing.
    pub(super) fn of<'r>(rules: impl IntoIterator<Item = &'r Rule>) -> Scope {
        let shown = rules.into_iter().filter(|rule| rule.shows());
        match shown.flat_map(|rule| &rule.tests).any(Test::looks_at_secret) {
            true => Scope::EachSecret,
            false => Scope::EverySecret,
        }
    }
}

impl Rule {
    /// Whether it is about reading or describing.
    pub fn shows(&self) -> bool {
        self.actions.contains(Action::GetSecretValue) || self.actions.contains(Action::DescribeSecret)
    }

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
            _ => false,
        }
    }
}
