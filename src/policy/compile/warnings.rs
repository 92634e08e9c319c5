//! What is odd in a document, though each statement by itself is right.

use super::{Compiler, Use};
use crate::id::quoted;
use crate::policy::action::Action;
use crate::policy::condition::Key;
use crate::policy::document::{Condition, Document, Effect, Principal, Statement};
use crate::policy::foreign;
use crate::policy::json::Text;
use crate::policy::operator::Comparison;
use crate::policy::pattern::glob;
use crate::policy::resource::Reading;

impl Compiler<'_> {
    /// Everybody but some: whoever is not named is let in, by whatever account.
    pub(super) fn open_but_for_some(&mut self, document: &Document) {
        let about = |effect| {
            let all = document.statements.iter();
            all.filter(move |s| s.effect == effect && s.actions.contains(Action::GetSecretValue))
        };
        if !matches!(self.purpose, Use::Secret(..)) {
            return;
        }
        let mut all = about(Effect::Allow).filter(|s| everybody(s));
        let open = all.any(|s| !s.conditions.iter().any(|c| of_caller(c) && !c.operator.negated));
        let denied = about(Effect::Deny).find(|s| !s.principal.negated && names_somebody(s));
        let excepted = about(Effect::Allow)
            .find(|s| everybody(s) && s.conditions.iter().any(|c| of_caller(c) && c.operator.negated));
        if let Some(statement) = denied.filter(|_| open).or(excepted) {
            self.warn(
                statement.at,
                "everybody else may read, by whatever account: a policy that names who may is shorter and holds",
            );
        }
    }

    /// AWS's names end with a random suffix, which `NAME-*` takes up there. Here it leaves out NAME itself.
    pub(super) fn suffix_as_wildcard(&mut self, statement: &Statement) {
        let wide = |negated| Reading::of(statement.effect, negated) == Reading::Wide;
        if wide(statement.resource.negated) {
            self.suffix_among(&statement.resource.items);
        }
        for condition in &statement.conditions {
            let wild = matches!(condition.operator.comparison, Comparison::Like | Comparison::Arn);
            if condition.key == Key::SecretId && wild && wide(condition.operator.negated) {
                self.suffix_among(&condition.values);
            }
        }
    }

    fn suffix_among(&mut self, patterns: &[Text]) {
        for pattern in patterns.iter().filter(|p| !foreign::is_resource(&p.value)) {
            let Some(name) = pattern.value.strip_suffix("-*") else {
                continue;
            };
            let named = patterns.iter().any(|p| glob(&p.value, name));
            let own = match self.purpose {
                Use::Secret(own, _) => {
                    let resource = name.splitn(6, ':').last().unwrap_or(name);
                    glob(resource.strip_prefix("secret:").unwrap_or(resource), own.as_str())
                }
                Use::Guardrail | Use::Identity => true,
            };
            if own && !named {
                let name = name.rsplit(':').next().unwrap_or(name);
                let (name, wild) = (quoted(name), quoted(&format!("{name}-*")));
                let message =
                    format!("{wild} leaves out {name} itself: names have no random suffix here; list both");
                self.warn(pattern.at, message);
            }
        }
    }
}

fn everybody(statement: &Statement) -> bool {
    let all = &statement.principal;
    !all.negated && all.items.iter().any(|p| matches!(p, Principal::Everyone))
}

/// Whether a condition is about who asks.
fn of_caller(condition: &Condition) -> bool {
    use Key::*;
    matches!(
        condition.key,
        PrincipalArn | Username | PrincipalTag(_) | Uid | Gid | Groups | Unit
    )
}

fn names_somebody(statement: &Statement) -> bool {
    let asks =
        |c: &Condition| of_caller(c) && !c.operator.negated && c.operator.comparison != Comparison::Null;
    !everybody(statement) || statement.conditions.iter().any(asks)
}
