//! Policies, guardrails, identity policies, and the question what a policy says.

use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;

/// `wardfs policy …`.
#[derive(Subcommand, Debug)]
pub enum Policy {
    /// Print the policy as it was given
    #[command(after_help = "\
Examples:
  wardfs policy get app/db/password > policy.json")]
    Get {
        /// The secret
        name: String,
    },
    /// Replace the policy by the document in a file
    #[command(after_help = "\
Examples:
  wardfs policy set app/db/password policy.json
  wardfs policy set app/db/password - < policy.json
  wardfs policy set app/db/password policy.json --dry-run
  wardfs policy set app/db/password policy.json --strict")]
    Set {
        /// The secret
        name: String,
        /// The document; - is standard input
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Only say who would gain and who would lose reading
        #[arg(long)]
        dry_run: bool,
        /// Refuse what would only be warned of: a value for everybody, or nobody left who could read
        #[arg(long)]
        strict: bool,
    },
    /// Let someone read: adds a statement
    #[command(after_help = "\
Examples:
  wardfs policy allow app/db/password user:www-data
  wardfs policy allow app/db/password group:backup unit:app.service")]
    Allow {
        /// The secret
        name: String,
        /// user:NAME, uid:N, group:NAME, gid:N or unit:NAME
        #[arg(required = true)]
        who: Vec<String>,
    },
    /// Keep someone from reading, whatever else allows it: adds a statement
    #[command(after_help = "\
Examples:
  wardfs policy deny app/db/password user:intern")]
    Deny {
        /// The secret
        name: String,
        /// user:NAME, uid:N, group:NAME, gid:N or unit:NAME
        #[arg(required = true)]
        who: Vec<String>,
    },
    /// Take access back: takes someone out of the statements that allow
    ///
    /// Out of Allow statements alone, also of one that names several; its conditions stay, and a statement that names
    /// nobody any more goes. WHO is matched by the name or the id that the policy holds, also of an account that is
    /// gone. Says what still lets them in. Exit 4 where no such statement names one of them.
    #[command(after_help = "\
Examples:
  wardfs policy revoke app/db/password user:intern --dry-run
  wardfs policy revoke app/db/password user:intern group:backup
  wardfs policy revoke app/db/password uid:1007 --json")]
    Revoke {
        /// The secret
        name: String,
        /// user:NAME, uid:N, group:NAME, gid:N or unit:NAME
        #[arg(required = true)]
        who: Vec<String>,
        /// Only say what would be taken out, and who would lose reading
        #[arg(long)]
        dry_run: bool,
    },
    /// Take a denial back: takes someone out of the statements that deny
    ///
    /// Out of Deny statements alone; NotPrincipal is left as it is. Says who gains reading by it, and what still keeps
    /// them out. Exit 4 where no such statement names one of them.
    #[command(after_help = "\
Examples:
  wardfs policy undeny app/db/password user:intern --dry-run
  wardfs policy undeny app/db/password user:intern")]
    Undeny {
        /// The secret
        name: String,
        /// user:NAME, uid:N, group:NAME, gid:N or unit:NAME
        #[arg(required = true)]
        who: Vec<String>,
        /// Only say what would be taken out, and who would gain reading
        #[arg(long)]
        dry_run: bool,
    },
    /// Say whether a document is valid, and change nothing
    #[command(after_help = "\
Examples:
  wardfs policy check policy.json
  wardfs policy check app/db/password policy.json")]
    Check {
        /// The document (- is standard input); or first the secret whose it is to be
        #[arg(value_name = "NAME|FILE", value_hint = ValueHint::FilePath)]
        first: PathBuf,
        /// The document, if a secret was named
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        second: Option<PathBuf>,
        /// The secret, by this flag
        #[arg(long)]
        name: Option<String>,
        /// Refuse what would only be warned of: a value for everybody, or nobody left who could read
        #[arg(long)]
        strict: bool,
    },
    /// Say what a policy allows somebody, by which statement, and what would change it
    ///
    /// Exit 0 if it is allowed, 3 if it is denied. With --policy, --identity-policy or --guardrail no store is needed:
    /// the documents alone decide, as AWS's simulate-custom-policy does.
    #[command(after_help = "\
Examples:
  wardfs policy explain app/db/password --as user:www-data
  wardfs policy explain app/db/password --as user:www-data --groups backup --unit app.service --json
  wardfs policy explain app/db/password --as uid:0 --action DeleteSecret
  wardfs policy explain app/db/password --pid 4242
  wardfs policy explain --policy policy.json --principal arn:aws:iam::111122223333:role/app --resource app/db/password
  wardfs policy explain --policy p.json --guardrail g.json --principal user:app --resource app/db --context aws:SourceIp=192.0.2.7")]
    Explain(Box<Explain>),
}

/// `wardfs guardrail …`.
#[derive(Subcommand, Debug)]
pub enum Guardrail {
    /// Set a guardrail: a document that binds every action of every caller, root included
    ///
    /// A guardrail denies what its Deny statements match. If it has Allow statements, it also denies whatever none of
    /// them allows. It gives nothing to anybody. Principal may be left out, and means everybody. One that was brought
    /// along from AWS may speak of other services: that has no effect here, and is warned of.
    #[command(after_help = "\
Examples:
  wardfs guardrail set no-deletion deny-delete.json
  wardfs guardrail set no-deletion - < deny-delete.json
  wardfs guardrail set ceiling ceiling.json --strict")]
    Set {
        /// Its name
        name: String,
        /// The document; - is standard input
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Refuse what would only be warned of: that nobody could remove a guardrail any more, that it denies everybody, or
        /// that it speaks of other services
        #[arg(long)]
        strict: bool,
    },
    /// Print a guardrail as it was given
    #[command(after_help = "\
Examples:
  wardfs guardrail get no-deletion > deny-delete.json")]
    Get {
        /// Its name
        name: String,
    },
    /// List the guardrails
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  wardfs guardrail list
  wardfs guardrail list --json"
    )]
    List,
    /// Remove a guardrail
    ///
    /// That is an action of its own (wardfs:DeleteGuardrail), which a guardrail can deny. Where that leaves nobody:
    /// wardfs store break-glass --guardrail NAME.
    #[command(
        visible_alias = "rm",
        after_help = "\
Examples:
  wardfs guardrail remove no-deletion --dry-run
  wardfs guardrail remove no-deletion"
    )]
    Remove {
        /// Its name
        name: String,
        /// Only say whether it could be removed
        #[arg(long)]
        dry_run: bool,
    },
}

/// `wardfs identity …`.
#[derive(Subcommand, Debug)]
pub enum Identity {
    /// Set what a user, group, unit or ARN may do with any secret
    ///
    /// The document has no Principal: it is whose it is set for. Its Allow statements add to what the secrets' own
    /// policies allow; its Deny statements beat every Allow. One that was brought along from AWS may speak of other
    /// services: that has no effect here, and is warned of.
    #[command(after_help = "\
Examples:
  wardfs identity set user:deploy deploy.json
  wardfs identity set user:deploy deploy.json --strict
  wardfs identity set group:dba dba.json --tag team=data --tag level=2
  wardfs identity set unit:app.service - < app.json
  wardfs identity set arn:aws:iam::111122223333:role/app app.json")]
    Set {
        /// user:NAME, uid:N, group:NAME, gid:N, unit:NAME, or an ARN that [principals] maps
        principal: String,
        /// The document; - is standard input
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// A tag of the principal, for aws:PrincipalTag/KEY (repeatable)
        #[arg(long, value_name = "KEY=VALUE")]
        tag: Vec<String>,
        /// Refuse what would only be warned of: that it speaks of other services
        #[arg(long)]
        strict: bool,
    },
    /// Print the policy of an identity as it was given
    #[command(after_help = "\
Examples:
  wardfs identity get user:deploy > deploy.json")]
    Get {
        /// Whose
        principal: String,
    },
    /// List the identities that have a policy
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  wardfs identity list
  wardfs identity list --json"
    )]
    List,
    /// Remove the policy and the tags of an identity
    #[command(
        visible_alias = "rm",
        after_help = "\
Examples:
  wardfs identity remove user:deploy --dry-run
  wardfs identity remove user:deploy"
    )]
    Remove {
        /// Whose
        principal: String,
        /// Only say whether it could be removed
        #[arg(long)]
        dry_run: bool,
    },
}

/// `wardfs policy explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// The secret, whose policy and layers decide
    #[arg(required_unless_present_any = ["policy", "identity_policy", "guardrail"], conflicts_with_all = ["policy", "identity_policy", "guardrail"])]
    pub name: Option<String>,
    /// Who asks: user:NAME, uid:N, or unit:NAME for a process of that unit whose user no rule names
    #[arg(long = "as", value_name = "WHO", requires = "name")]
    pub who: Option<String>,
    /// Who asks: this running process, with all its facts
    #[arg(long, value_name = "N", requires = "name", conflicts_with_all = ["who", "groups", "unit"])]
    pub pid: Option<u32>,
    /// His groups, by name or number, his own first (default: those he has)
    #[arg(long, value_name = "GROUP,…", value_delimiter = ',')]
    pub groups: Option<Vec<String>>,
    /// The systemd unit that he is in (default: none)
    #[arg(long, value_name = "UNIT")]
    pub unit: Option<String>,
    /// What he does
    #[arg(long, value_name = "ACTION", default_value = "secretsmanager:GetSecretValue")]
    pub action: String,
    /// With the version that has this label (default: current)
    #[arg(long, value_name = "LABEL", requires = "name")]
    pub label: Option<String>,
    /// Instead of a stored secret: its policy, as a document
    #[arg(long, value_name = "FILE", help_heading = "Without a store", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// An identity policy of the principal (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "Without a store", value_hint = ValueHint::FilePath)]
    pub identity_policy: Vec<PathBuf>,
    /// A guardrail (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "Without a store", value_hint = ValueHint::FilePath)]
    pub guardrail: Vec<PathBuf>,
    /// Who asks: an ARN, or user:NAME, group:NAME, unit:NAME and the like
    #[arg(
        long,
        value_name = "ARN|WHO",
        help_heading = "Without a store",
        conflicts_with = "name"
    )]
    pub principal: Option<String>,
    /// The secret, by its ARN or its name
    #[arg(
        long,
        value_name = "ARN|NAME",
        help_heading = "Without a store",
        conflicts_with = "name"
    )]
    pub resource: Option<String>,
    /// A tag of the secret (repeatable)
    #[arg(
        long,
        value_name = "KEY=VALUE",
        help_heading = "Without a store",
        conflicts_with = "name"
    )]
    pub tag: Vec<String>,
    /// A tag of the principal (repeatable)
    #[arg(
        long,
        value_name = "KEY=VALUE",
        help_heading = "Without a store",
        conflicts_with = "name"
    )]
    pub principal_tag: Vec<String>,
    /// A key of the request and its values, as aws:SourceIp=192.0.2.7 (repeatable)
    #[arg(
        long,
        value_name = "KEY=VALUE,…",
        help_heading = "Without a store",
        conflicts_with = "name"
    )]
    pub context: Vec<String>,
}

/// `wardfs store break-glass`.
#[derive(Args, Debug)]
pub struct BreakGlass {
    /// The secret whose policy is replaced
    #[arg(required_unless_present_any = ["guardrail", "identity", "log"], conflicts_with_all = ["guardrail", "identity"])]
    pub name: Option<String>,
    /// Instead: the guardrail that is removed
    #[arg(long, value_name = "NAME", conflicts_with = "identity")]
    pub guardrail: Option<String>,
    /// Instead: whose identity policy and tags are removed (user:NAME, uid:N, group:NAME, …)
    #[arg(long, value_name = "WHO")]
    pub identity: Option<String>,
    /// Instead: begin a new log, where the log is missing, cut or changed
    #[arg(long, conflicts_with_all = ["name", "guardrail", "identity", "policy"])]
    pub log: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// The document in its place (default: none, so that nobody reads, and root can set one)
    #[arg(long, value_name = "FILE", requires = "name", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}
