//! `wardfs.toml` while the service runs: what it has read, what it reads anew, and what waits for the next mount.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::Plan;
use crate::config::Config;
use crate::control::Desk;
use crate::policy::Deciding;
use crate::problem::Problem;
use crate::vfs::Vfs;

/// Settings that can change while files are served.
const LIVE: [&str; 5] = [
    "max_value_bytes",
    "max_handles_per_uid",
    "audit.segment_bytes",
    "audit.low_space_bytes",
    "audit.uid_bytes_per_second",
];

/// A setting of the file that is not in force.
struct Unread {
    key: String,
    running: Value,
    file: Value,
}

impl Unread {
    fn is_live(&self) -> bool {
        LIVE.contains(&self.key.as_str())
    }
}

/// What the service was told by its file and its command line.
pub(super) struct Settings {
    plan: Plan,
    in_force: Mutex<Config>,
}

impl Settings {
    pub fn new(plan: &Plan) -> Settings {
        Settings {
            plan: plan.clone(),
            in_force: Mutex::new(plan.config.clone()),
        }
    }

    /// What the file says that is not in force, for `status`. What decides is not among it: that is sealed.
    pub fn unread(&self) -> Vec<Value> {
        let Ok(file) = self.plan.read() else {
            return Vec::new();
        };
        let row = |u: Unread| {
            let takes = if u.is_live() { "reload" } else { "mount" };
            json!({ "key": u.key, "running": u.running.to_string(), "file": u.file.to_string(), "takes": takes })
        };
        let in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        compared(&in_force, &file).into_iter().map(row).collect()
    }

    /// Reads the file again, puts in force what can change while files are served, and says what cannot.
    pub fn reload(&self, desk: &Arc<Desk>, vfs: &Vfs) {
        let file = match self.plan.read() {
            Ok(file) => file,
            Err(e) => {
                let Problem { why, .. } = e;
                return tracing::error!("wardfs.toml was not read again, and what was in force stays: {why}");
            }
        };
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let differences = compared(&in_force, &file);
        desk.lifecycle.limit_values(file.max_value_bytes);
        vfs.limit_handles(file.max_handles_per_uid);
        desk.vault
            .log()
            .adjust(&super::settings(&self.plan.store, &file).log);
        in_force.max_value_bytes = file.max_value_bytes;
        in_force.max_handles_per_uid = file.max_handles_per_uid;
        let reserve = in_force.audit.reserve_bytes;
        in_force.audit = file.audit.clone();
        in_force.audit.reserve_bytes = reserve;
        for u in &differences {
            match u.is_live() {
                true => tracing::info!(
                    "wardfs.toml: {} is {} from now on, and was {}",
                    u.key,
                    u.file,
                    u.running
                ),
                false => tracing::warn!(
                    "wardfs.toml: {} stays {}: {} takes a new mount",
                    u.key,
                    u.running,
                    u.file
                ),
            }
        }
        for difference in super::differences(&desk.vault, &file) {
            tracing::warn!("wardfs.toml: {difference}; put it in force: wardfs config accept");
        }
        tracing::info!("wardfs.toml was read again");
    }
}

/// Where the file says something else than is in force.
fn compared(in_force: &Config, file: &Config) -> Vec<Unread> {
    let (running, said) = (flat(in_force), flat(file));
    let differing = said
        .into_iter()
        .filter(|(key, value)| running.get(key) != Some(value));
    differing
        .map(|(key, file)| Unread {
            running: running.get(&key).cloned().unwrap_or_default(),
            key,
            file,
        })
        .collect()
}

/// The settings that the store does not seal, `[audit]` as `audit.…`.
fn flat(config: &Config) -> Map<String, Value> {
    let mut flat = Map::new();
    for (key, value) in json!(config).as_object().into_iter().flatten() {
        match value {
            _ if Deciding::KEYS.contains(&key.as_str()) => {}
            Value::Object(section) => {
                let section = section
                    .iter()
                    .map(|(name, v)| (format!("{key}.{name}"), v.clone()));
                flat.extend(section);
            }
            value => drop(flat.insert(key.clone(), value.clone())),
        }
    }
    flat
}
