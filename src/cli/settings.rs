//! `config check`: what is in force, and what is valid but cannot work.

use std::path::Path;

use serde_json::{Value, json};

use super::render::Output;
use super::run::Stop;
use super::{World, view};
use crate::config::{Config, FILE};
use crate::control::protocol::Request;
use crate::id::printable;
use crate::policy::Local;
use crate::problem::{Exit, Problem};
use crate::sys::nss::SystemDirectory;

/// Checks `file`, or the store's own configuration.
///
/// # Errors
/// [`Exit::Usage`] for what is not understood, [`Exit::NotFound`] for a named file that is not there.
pub fn check(store: &Path, file: Option<&Path>, world: &dyn World, output: &mut Output) -> Result<(), Stop> {
    let path = file.map_or_else(|| store.join(FILE), Path::to_path_buf);
    let shown = printable(&path.to_string_lossy());
    let present = path.symlink_metadata().is_ok();
    if file.is_some() && !present {
        return Err(Problem::new(
            Exit::NotFound,
            format!("the configuration {shown} was not checked"),
            "there is no such file",
        )
        .next("name another file, or none for the store's own")
        .into());
    }
    let config = Config::load_file(&path)?;
    let mut warnings = warnings(&config, &SystemDirectory);
    if file.is_none() && config.key_path(store).symlink_metadata().is_err() {
        let key = config.key_path(store);
        warnings.push(format!(
            "key_file: {} is not there or not to be seen by you",
            printable(&key.to_string_lossy())
        ));
    }
    if let Some(why) = crate::sys::caller::units_unknown() {
        warnings.push(format!(
            "units: {why}, so that a policy which allows a unit allows nobody, and one which denies a unit denies everybody"
        ));
    }
    // The store's own is held against what the store has sealed, where that can be asked.
    let (status, drift, unasked) = match file {
        None => asked(store, world),
        Some(_) => (json!({}), json!([]), None),
    };
    warnings.extend(unasked);
    let list = |name: &str| json!(status[name].as_array().cloned().unwrap_or_default());
    let (sealed, unread) = (list("config"), list("unread"));
    let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    let agrees = empty(&sealed) && empty(&unread);
    if output.json {
        let settings = json!(config);
        output.json(
            &json!({ "ok": agrees, "file": path.to_string_lossy(), "present": present,
            "settings": settings, "differences": sealed, "unread": unread, "drift": drift, "warnings": warnings }),
        )?;
        return if agrees {
            Ok(())
        } else {
            Err(Stop::Answered(Exit::Conflict))
        };
    }
    match present {
        true => output.line(&format!("{shown} is valid"))?,
        false => output.line(&format!("{shown} is not there: that means the defaults"))?,
    }
    for (key, value) in json!(config).as_object().into_iter().flatten() {
        output.line(&format!("  {key} = {}", printable(&value.to_string())))?;
    }
    for warning in warnings {
        output.line(&format!("warning: {warning}"))?;
    }
    for line in view::readers::drift(&drift) {
        output.line(&format!("drift: {line}"))?;
    }
    let pid = view::scalar(&status["pid"]);
    for line in [view::differences(&sealed), view::unread(&unread, &pid)].concat() {
        output.line(&line)?;
    }
    match (agrees, empty(&sealed)) {
        (true, _) => Ok(()),
        (false, true) => Err(Problem::new(
            Exit::Conflict,
            format!("{shown} is not in force"),
            format!("the service, process {pid}, has not read it as it is now"),
        )
        .next(format!(
            "kill -HUP {pid} puts in force what can change while it serves; the rest takes a new mount"
        ))
        .into()),
        (false, false) => Err(Problem::new(
            Exit::Conflict,
            format!("{shown} is not in force"),
            "the store has sealed other settings, which stay until these are accepted",
        )
        .next("see who would gain, and decide: wardfs config accept; or change the file back")
        .into()),
    }
}

/// What the store or its service says of the file, and which accounts drifted; or why that is not known.
fn asked(store: &Path, world: &dyn World) -> (Value, Value, Option<String>) {
    let asked = world.backend(store).and_then(|mut backend| {
        let status = backend.call(&Request::Status, None)?;
        let drift = backend.call(&Request::Drift, None)?["drift"].clone();
        Ok((status, drift))
    });
    match asked {
        Ok((status, drift)) => (status, drift, None),
        Err(e) if e.exit == Exit::NotFound => (json!({}), json!([]), None),
        Err(e) => (
            json!({}),
            json!([]),
            Some(format!("what is in force could not be asked: {}", e.why)),
        ),
    }
}

/// What is valid and cannot work on this machine.
fn warnings(config: &Config, names: &SystemDirectory) -> Vec<String> {
    let mut warnings = Vec::new();
    if names.gid_of(&config.admin_group).is_none() {
        warnings.push(format!(
            "admin_group: there is no group {}, so nobody but the store's owner administers",
            printable(&config.admin_group)
        ));
    }
    for (arn, locals) in &config.principals.0 {
        for local in locals {
            let (kind, name) = match local {
                Local::User(name) if names.uid_of(name).is_none() => ("user", name),
                Local::Group(name) if names.gid_of(name).is_none() => ("group", name),
                _ => continue,
            };
            warnings.push(format!(
                "[principals] {}: there is no {kind} {}",
                printable(arn),
                printable(name)
            ));
        }
    }
    warnings
}
