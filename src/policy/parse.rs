//! From JSON to the typed tree. Whatever is not understood is an error: a policy that is half understood would
//! be enforced by halves.

use super::action::{self, Action, ActionSet};
use super::condition::{self, Key, check_secret_arn};
use super::diagnostic::{PolicyError, Source, nearest};
use super::document::{Clause, Condition, Document, Effect, Place, Principal, Statement, Version};
use super::foreign::{self, Spoken};
use super::json::{Kind, Node, Scalars, Text};
use super::operator::Operator;
use super::pattern::{glob, is_wild};
use super::principal::{Local, LocalError, account, is_arn};
use super::record::Grammar;

/// Largest document in bytes, as AWS has it.
pub const MAX_BYTES: usize = 20_480;

const DOCUMENT_FIELDS: [&str; 3] = ["Version", "Id", "Statement"];
const STATEMENT_FIELDS: [&str; 9] = [
    "Sid",
    "Effect",
    "Principal",
    "NotPrincipal",
    "Action",
    "NotAction",
    "Resource",
    "NotResource",
    "Condition",
];
const PRINCIPAL_KINDS: [&str; 7] = ["AWS", "User", "Uid", "Group", "Gid", "Unit", "Service"];

impl Document {
    /// Parses a secret's own policy of at most 20,480 bytes. Everything is checked that can be without looking up
    /// names; [`PolicyRecord::resolve`](super::PolicyRecord::resolve) does the rest.
    pub fn parse(text: &str) -> Result<Document, PolicyError> {
        Self::parse_as(Grammar::Secret, text)
    }

    /// As [`Document::parse`], for a document of any layer.
    pub fn parse_as(grammar: Grammar, text: &str) -> Result<Document, PolicyError> {
        let source = Source(text);
        if text.len() > MAX_BYTES {
            let message = format!("the policy has {} bytes; the limit is {MAX_BYTES}", text.len());
            return Err(source.error(MAX_BYTES, message));
        }
        let root = Node::root(source)?;
        let mut version = Version::default();
        let mut id = None;
        let mut nodes = None;
        for (key, node) in root.object()? {
            match key.value.as_str() {
                "Version" => version = parse_version(node)?,
                "Id" => id = Some(node.string()?.value),
                "Statement" if node.kind() == Kind::Object => nodes = Some(vec![node]),
                "Statement" => nodes = Some(node.array()?),
                _ => return Err(unknown_field(&key, &DOCUMENT_FIELDS, "a policy", source)),
            }
        }
        let Some(nodes) = nodes else {
            return Err(root.error("the policy has no \"Statement\""));
        };
        let parser = Parser {
            source,
            version,
            grammar,
        };
        let mut statements: Vec<Statement> = Vec::with_capacity(nodes.len());
        let mut sids = std::collections::HashSet::new();
        for node in nodes {
            let statement = parser.statement(node)?;
            if let Some(sid) = statement.sid.as_deref().filter(|s| !sids.insert(s.to_string())) {
                return Err(node.error(format!("another statement has the Sid {sid:?} already")));
            }
            statements.push(statement);
        }
        Ok(Document {
            version,
            id,
            statements,
        })
    }
}

fn parse_version(node: Node<'_>) -> Result<Version, PolicyError> {
    match node.string()?.value.as_str() {
        "2012-10-17" => Ok(Version::V2012),
        "2008-10-17" => Ok(Version::V2008),
        other => Err(node
            .error(format!("there is no policy version {other:?}"))
            .suggest("write \"2012-10-17\"; it is the language's version, not the date of the policy")),
    }
}

fn unknown_field(key: &Text, known: &[&'static str], of: &str, source: Source<'_>) -> PolicyError {
    let error = source.error(key.at, format!("{:?} is no field of {of}", key.value));
    match nearest(&key.value, known.iter().copied()) {
        Some(n) => error.did_you_mean(Some(n)),
        None => error.suggest(format!("its fields are {}", known.join(", "))),
    }
}

struct Parser<'a> {
    source: Source<'a>,
    version: Version,
    grammar: Grammar,
}

impl Parser<'_> {
    fn statement(&self, node: Node<'_>) -> Result<Statement, PolicyError> {
        let (mut sid, mut effect, mut conditions) = (None, None, Vec::new());
        let (mut principal, mut action, mut resource) = (None, None, None);
        for (key, value) in node.object()? {
            match key.value.as_str() {
                "Sid" => sid = Some(self.sid(value)?),
                "Effect" => effect = Some(self.effect(value)?),
                "Principal" | "NotPrincipal" => {
                    self.once(&mut principal, &key, "Principal", self.principals(value)?)?
                }
                "Action" | "NotAction" => self.once(&mut action, &key, "Action", self.actions(value)?)?,
                "Resource" | "NotResource" => {
                    self.once(&mut resource, &key, "Resource", self.resources(value)?)?
                }
                "Condition" => conditions = self.conditions(value)?,
                _ => return Err(unknown_field(&key, &STATEMENT_FIELDS, "a statement", self.source)),
            }
        }
        let missing = |field: &str, write: &str| {
            node.error(format!("the statement has no {field:?}"))
                .suggest(write)
        };
        let effect = effect.ok_or_else(|| missing("Effect", "write \"Effect\": \"Allow\" or \"Deny\""))?;
        let principal = match (principal, self.grammar) {
            (Some((_, at)), Grammar::Identity) => {
                return Err(self
                    .source
                    .error(
                        at,
                        "an identity policy names no principal: it is whose it is set for",
                    )
                    .suggest("leave \"Principal\" away"));
            }
            (Some((principal, _)), _) => principal,
            (None, Grammar::Secret) => {
                let write = "name who it is for, as in \"Principal\": {\"User\": \"www-data\"}";
                return Err(missing("Principal", write));
            }
            (None, Grammar::Guardrail | Grammar::Identity) => Clause {
                negated: false,
                items: vec![Principal::Everyone],
            },
        };
        let (action, _) =
            action.ok_or_else(|| missing("Action", "write \"Action\": \"secretsmanager:GetSecretValue\""))?;
        let (resource, _) = resource.ok_or_else(|| missing("Resource", self.everything()))?;
        if principal.negated && effect == Effect::Allow {
            return Err(node
                .error("\"NotPrincipal\" with \"Allow\" would allow everybody else, and is refused")
                .suggest("allow by \"Principal\", or deny by \"NotPrincipal\""));
        }
        if principal.negated && principal.items.contains(&Principal::Everyone) {
            return Err(node.error("\"NotPrincipal\": \"*\" leaves nobody"));
        }
        let actions = mask(&action);
        Ok(Statement {
            sid,
            effect,
            principal,
            action,
            resource,
            conditions,
            actions,
            at: node.at(),
        })
    }

    /// Fills a slot that a field and its Not- form share.
    fn once<T>(
        &self,
        slot: &mut Option<(Clause<T>, usize)>,
        key: &Text,
        name: &str,
        items: Vec<T>,
    ) -> Result<(), PolicyError> {
        if slot.is_some() {
            let message = format!("a statement has {name:?} or \"Not{name}\", not both");
            return Err(self.source.error(key.at, message));
        }
        *slot = Some((
            Clause {
                negated: key.value.starts_with("Not"),
                items,
            },
            key.at,
        ));
        Ok(())
    }

    fn sid(&self, node: Node<'_>) -> Result<String, PolicyError> {
        let sid = node.string()?.value;
        if sid.is_empty() || sid.len() > 128 || sid.starts_with('#') || sid.chars().any(char::is_control) {
            return Err(node.error(
                "a Sid has 1 to 128 bytes, no control character, and does not begin with # (as unnamed statements do)",
            ));
        }
        Ok(sid)
    }

    fn effect(&self, node: Node<'_>) -> Result<Effect, PolicyError> {
        match node.string()?.value.as_str() {
            "Allow" => Ok(Effect::Allow),
            "Deny" => Ok(Effect::Deny),
            other => Err(node
                .error(format!(
                    "there is no effect {other:?}; it is \"Allow\" or \"Deny\""
                ))
                .did_you_mean(nearest(other, ["Allow", "Deny"]))),
        }
    }

    fn principals(&self, node: Node<'_>) -> Result<Vec<Principal>, PolicyError> {
        if node.kind() == Kind::String {
            let text = node.string()?.value;
            if text == "*" {
                return Ok(vec![Principal::Everyone]);
            }
            let error = node.error(format!(
                "a principal that is a plain string can only be \"*\", not {text:?}"
            ));
            return Err(match text.parse::<Local>() {
                Ok(local) => {
                    let (kind, name) = local.parts();
                    error.suggest(format!("write {{\"{kind}\": \"{name}\"}}"))
                }
                Err(_) if is_arn(&text) => error.suggest(format!("write {{\"AWS\": \"{text}\"}}")),
                Err(_) => error.suggest("write {\"User\": \"www-data\"} or the like"),
            });
        }
        let mut all = Vec::new();
        for (kind, value) in node.object()? {
            let scalars = match kind.value.as_str() {
                "Uid" | "Gid" => Scalars::Any,
                "AWS" | "User" | "Group" | "Unit" | "Service" => Scalars::Strings,
                _ => return Err(unknown_field(&kind, &PRINCIPAL_KINDS, "a principal", self.source)),
            };
            for name in value.texts(scalars)? {
                all.push(match kind.value.as_str() {
                    "AWS" => self.aws(name)?,
                    kind => self.local(kind, name)?,
                });
            }
        }
        match all.is_empty() {
            true => Err(node.error("the principal names nobody")),
            false => Ok(all),
        }
    }

    fn aws(&self, text: Text) -> Result<Principal, PolicyError> {
        let fail = |message: String| self.source.error(text.at, message);
        match text.value.as_str() {
            "*" => Ok(Principal::Everyone),
            arn if is_wild(arn) => Err(fail(format!(
                "{arn:?}: a principal has no wildcards but a bare \"*\""
            ))
            .suggest("use \"Principal\": \"*\" with the condition \"ArnLike\": {\"aws:PrincipalArn\": …}")),
            arn if account(arn).is_some() || is_arn(arn) => Ok(Principal::Aws(text)),
            other => Err(
                fail(format!("{other:?} is neither an ARN nor a 12-digit account"))
                    .suggest("principals of this machine are {\"User\": …}, {\"Group\": …}, {\"Unit\": …}"),
            ),
        }
    }

    fn local(&self, kind: &str, text: Text) -> Result<Principal, PolicyError> {
        let value = Local::of_kind(kind, &text.value).map_err(|e| {
            let error = self.source.error(text.at, e.to_string());
            match &e {
                LocalError::UnitType(_) => error.did_you_mean(e.suggestion()),
                LocalError::NumericName { name, .. } => {
                    let id = if kind == "User" { "Uid" } else { "Gid" };
                    error.suggest(format!("write {{\"{id}\": \"{name}\"}}"))
                }
                LocalError::Wildcard(_) if kind == "User" => error.suggest(
                    "use \"Principal\": \"*\" with the condition \"StringLike\": {\"aws:username\": …}",
                ),
                LocalError::Wildcard(_) if kind == "Unit" => error.suggest(
                    "use \"Principal\": \"*\" with the condition \"StringLike\": {\"wardfs:Unit\": …}",
                ),
                _ => error,
            }
        })?;
        if let Some(id) = value.dynamic_id() {
            return Err(condition::dynamic(id, text.at, self.source));
        }
        Ok(Principal::Local(Place { value, at: text.at }))
    }

    fn actions(&self, node: Node<'_>) -> Result<Vec<Text>, PolicyError> {
        let texts = node.texts(Scalars::Strings)?;
        for text in &texts {
            let value = &text.value;
            let other = self.speaks_of_others();
            if matching(value).next().is_some() || other && foreign::spoken(value) != Spoken::Here {
                continue;
            }
            return Err(match action::split_prefix(value) {
                Some((_, bare)) => self
                    .source
                    .error(text.at, format!("{value:?} matches no action"))
                    .did_you_mean(action::nearest(bare)),
                None => {
                    let why = match foreign::nearly(value).filter(|_| other) {
                        Some(ours) => format!(": the prefix is taken for a misspelt \"{ours}:\""),
                        None => String::new(),
                    };
                    self.source
                        .error(text.at, format!("{value:?} is no action of secretsmanager{why}"))
                        .did_you_mean(foreign::meant(value, other))
                }
            });
        }
        Ok(texts)
    }

    fn resources(&self, node: Node<'_>) -> Result<Vec<Text>, PolicyError> {
        let texts = node.texts(Scalars::Strings)?;
        for text in &texts {
            match text.value.as_str() {
                "*" => {}
                arn if arn.starts_with("arn:") => {
                    if self.has_variables(text) {
                        condition::parse_template(text, self.grammar, self.source)?;
                        if !condition::variables_in_resource(arn) {
                            let message = "a variable in an ARN stands after its fifth colon, nowhere before";
                            return Err(self.source.error(text.at, message));
                        }
                    }
                    if self.speaks_of_others() && foreign::is_resource(arn) {
                        continue;
                    }
                    check_secret_arn(arn, true).map_err(|m| self.source.error(text.at, m))?;
                }
                other => {
                    let error = self
                        .source
                        .error(text.at, format!("the resource {other:?} is no ARN"));
                    return Err(match other.contains(':') {
                        true => error.suggest(self.everything()),
                        false => error.suggest(format!(
                            "{}, or \"arn:aws:secretsmanager:*:*:secret:{other}\"",
                            self.everything()
                        )),
                    });
                }
            }
        }
        Ok(texts)
    }

    fn conditions(&self, node: Node<'_>) -> Result<Vec<Condition>, PolicyError> {
        let mut all: Vec<Condition> = Vec::new();
        for (name, keys) in node.object()? {
            let operator = Operator::parse(&name, self.source)?;
            let keys = keys.object()?;
            if keys.is_empty() {
                return Err(self
                    .source
                    .error(name.at, format!("{} has no key to compare", operator.name())));
            }
            for (key_name, value) in keys {
                let key = Key::parse(&key_name, self.grammar, self.source)?;
                if all.iter().any(|c| c.operator == operator && c.key == key) {
                    let message = format!("{} is here twice under {}", key.name(), operator.name());
                    return Err(self.source.error(key_name.at, message));
                }
                let values = value.texts(Scalars::Any)?;
                let variables = self.version == Version::V2012;
                condition::check(operator, &key, &values, variables, (self.grammar, self.source))?;
                all.push(Condition {
                    operator,
                    key,
                    values,
                });
            }
        }
        Ok(all)
    }

    /// Whether actions, keys and resources of other services may stand in the document. A secret's own policy is about
    /// the secret alone, and refuses them as AWS does.
    fn speaks_of_others(&self) -> bool {
        self.grammar != Grammar::Secret
    }

    fn has_variables(&self, text: &Text) -> bool {
        self.version == Version::V2012 && text.value.contains("${")
    }

    fn everything(&self) -> &'static str {
        match self.grammar {
            Grammar::Secret => "write \"Resource\": \"*\", which means this secret",
            Grammar::Guardrail | Grammar::Identity => "write \"Resource\": \"*\", which means every secret",
        }
    }
}

/// The actions that a pattern of a document matches.
pub(super) fn matching(pattern: &str) -> impl Iterator<Item = Action> {
    let of = |prefix, bare: &str| (prefix, bare.to_ascii_lowercase());
    let wanted = match pattern {
        "*" => Some((None, "*".to_string())),
        _ => action::split_prefix(pattern).map(|(prefix, bare)| of(Some(prefix), bare)),
    };
    Action::ALL.iter().copied().filter(move |a| {
        wanted.as_ref().is_some_and(|(prefix, bare)| {
            prefix.is_none_or(|p| a.prefix() == p) && glob(bare, &a.name().to_ascii_lowercase())
        })
    })
}

/// The actions that a clause is about.
pub(super) fn mask(clause: &Clause<Text>) -> ActionSet {
    let listed: ActionSet = clause.items.iter().flat_map(|t| matching(&t.value)).collect();
    if clause.negated {
        listed.complement()
    } else {
        listed
    }
}
