//! Plans of what is done to one secret.

use super::{Plan, ValueFrom, document, local, mode, name, not_empty, parse_label, policies, token};
use crate::cli::{args, generate};
use crate::control::protocol::{self, Request, Rule};
use crate::id::SecretName;
use crate::problem::{Exit, Problem};

pub(super) fn put(put: args::Put) -> Result<Plan, Problem> {
    let name = name(&put.name)?;
    if !put.typed.is_empty() || put.value.is_some() {
        return Err(typed_value(&name));
    }
    let from = match put.value_file {
        _ if put.password.generate => ValueFrom::Generated(generate::Recipe::new(&put.password, &name)?),
        Some(path) if path.as_os_str() != "-" => ValueFrom::File(path),
        _ => ValueFrom::Stdin,
    };
    let policy = match put.policy {
        Some(path) if path.as_os_str() == "-" && from == ValueFrom::Stdin => {
            return Err(Problem::new(
                Exit::Usage,
                format!("{name} was not stored"),
                "the value and the policy cannot both come from standard input",
            )
            .next("give the value by --value-file, or the policy as a file"));
        }
        Some(path) => Some(document(&path)?),
        None => None,
    };
    let mut rules = Vec::with_capacity(put.allow.len() + put.deny.len());
    for who in &put.allow {
        rules.push(Rule::Allow(local(who)?));
    }
    for who in &put.deny {
        rules.push(Rule::Deny(local(who)?));
    }
    let put = protocol::Put {
        name,
        rules,
        policy,
        description: put.description,
        owner: put
            .owner
            .map(|o| not_empty(o, "--owner", "a user's name or uid"))
            .transpose()?,
        group: put
            .group
            .map(|g| not_empty(g, "--group", "a group's name or gid"))
            .transpose()?,
        mode: put.mode.map(|m| mode(&m)).transpose()?,
        visibility: put.visibility.map(visibility),
        only: match (put.create, put.update) {
            (true, _) => Some(protocol::Only::Create),
            (_, true) => Some(protocol::Only::Update),
            _ => None,
        },
        version: put.token.map(|t| token(&t)).transpose()?,
        labels: put
            .label
            .iter()
            .map(|l| parse_label(l))
            .collect::<Result<_, _>>()?,
        tags: policies::tags(&put.tag, "--tag")?,
        arn: put.arn,
    };
    Ok(Plan::Put { put, from })
}

pub(super) fn update(update: args::Update) -> Result<protocol::Update, Problem> {
    Ok(protocol::Update {
        name: name(&update.name)?,
        description: update.description,
        owner: update.owner,
        group: update.group,
        mode: match update.mode {
            Some(none) if none.is_empty() => Some(protocol::Mode::Usual),
            Some(bits) => Some(protocol::Mode::Bits(mode(&bits)?)),
            None => None,
        },
        visibility: update.visibility.map(visibility),
        arn: update.arn,
    })
}

fn visibility(typed: args::Visibility) -> protocol::Visibility {
    match typed {
        args::Visibility::Listed => protocol::Visibility::Listed,
        args::Visibility::Hidden => protocol::Visibility::Hidden,
    }
}

/// The refusal of `put NAME VALUE`. It does not repeat the value.
fn typed_value(name: &SecretName) -> Problem {
    Problem::new(
        Exit::Usage,
        format!("{name} was not stored: a value is never taken from the command line"),
        "every process of this machine can read the arguments of a command, and the shell keeps them in its history",
    )
    .next(format!(
        "wardfs put {name} < FILE; or wardfs put {name} --value-file FILE; or, to be asked for it: wardfs put {name}; \
         and change the value you typed: it has been shown"
    ))
}

pub(super) fn delete(delete: args::Delete) -> Result<Request, Problem> {
    let name = name(&delete.name)?;
    if !delete.now {
        return Err(Problem::new(
            Exit::Usage,
            format!("{name} was not deleted"),
            "there is no recovery window yet (it comes later): a delete destroys every value at once, and --now \
             must say that this is meant",
        )
        .next(format!(
            "see what goes: wardfs delete {name} --now --dry-run; do it: wardfs delete {name} --now"
        )));
    }
    Ok(Request::Delete {
        name,
        purge: delete.purge,
        dry_run: delete.dry_run,
    })
}
