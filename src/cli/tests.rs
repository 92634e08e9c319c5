//! A world without a machine, for the tests of this room.

use super::*;
use crate::secret::SecretMemory;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

struct Plain(Vec<u8>);

impl SecretMemory for Plain {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Answers by the request's command; remembers what was asked and what was stored.
#[derive(Default, Clone)]
pub(super) struct Fake {
    pub replies: HashMap<&'static str, Result<Value, Problem>>,
    pub calls: Rc<RefCell<Vec<Value>>>,
    pub stored: Rc<RefCell<Vec<u8>>>,
    pub closed: bool,
}

impl Fake {
    pub fn replying(replies: &[(&'static str, Result<Value, Problem>)]) -> Fake {
        Fake {
            replies: replies.iter().cloned().collect(),
            ..Fake::default()
        }
    }

    pub fn commands(&self) -> Vec<String> {
        self.calls
            .borrow()
            .iter()
            .map(|c| c["command"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl Backend for Fake {
    fn call(&mut self, request: &Request, value: Option<SecretBytes>) -> Result<Value, Problem> {
        let request = serde_json::to_value(request).unwrap();
        let command = request["command"].as_str().unwrap().to_owned();
        self.calls.borrow_mut().push(request);
        if let Some(value) = value {
            self.stored.borrow_mut().extend_from_slice(value.expose());
        }
        self.replies
            .get(command.as_str())
            .cloned()
            .unwrap_or_else(|| Ok(json!({})))
    }

    fn long(
        &mut self,
        request: &Request,
        _: Option<std::fs::File>,
        told: &mut dyn FnMut(u64),
    ) -> Result<Value, Problem> {
        told(1);
        self.call(request, None)
    }

    fn value(&mut self, _: &SecretName, _: &plan::Which) -> Result<SecretBytes, Problem> {
        let bytes = self.stored.borrow().clone();
        let mut value = self.memory(bytes.len())?;
        value.expose_mut().copy_from_slice(&bytes);
        Ok(value)
    }
}

impl World for Fake {
    fn backend(&self, _: &Path) -> Result<Box<dyn Backend>, Problem> {
        if self.closed {
            return Err(Problem::new(Exit::NotFound, "no store", "none"));
        }
        Ok(Box::new(self.clone()))
    }
    fn unrecorded(&self, store: &Path) -> Result<Box<dyn Backend>, Problem> {
        self.calls.borrow_mut().push(json!({"command": "unrecorded"}));
        self.backend(store)
    }
    fn memory(&self, len: usize) -> Result<SecretBytes, Problem> {
        Ok(SecretBytes::in_memory(Box::new(Plain(vec![0; len])), len))
    }
    fn init(&self, store: &Path) -> Result<Made, Problem> {
        let mut recovery_key = self.memory(5)?;
        recovery_key.expose_mut().copy_from_slice(b"AB-CD");
        Ok(Made {
            key_file: store.join("root.key"),
            recovery_key,
        })
    }
    fn recover(&self, store: &Path, _: &SecretBytes, _: Trial) -> Result<PathBuf, Problem> {
        Ok(store.join("root.key"))
    }
    fn restore(
        &self,
        _: &Path,
        plan: &plan::Restore,
        recovery_key: Option<&SecretBytes>,
    ) -> Result<Value, Problem> {
        let call = json!({"command": "restore", "file": plan.file, "recovery_key": recovery_key.is_some()});
        self.calls.borrow_mut().push(call);
        Ok(json!({ "secrets": 1, "versions": 2 }))
    }
    fn break_glass(&self, _: &Path, broken: &plan::policies::Broken) -> Result<Value, Problem> {
        self.calls
            .borrow_mut()
            .push(json!({"command": "break_glass", "reason": broken.reason}));
        Ok(json!({ "warnings": [] }))
    }
    fn directory(&self) -> &dyn crate::policy::Directory {
        &crate::daemon::Names
    }
    fn mount(&self, plan: &MountPlan, _: Progress) -> Result<(), Problem> {
        self.calls
            .borrow_mut()
            .push(json!({"command": "mount", "threads": plan.config.threads}));
        Ok(())
    }
    fn unmount_dead(&self, target: &Path) -> Result<(), Problem> {
        self.calls
            .borrow_mut()
            .push(json!({"command": "unmount_dead", "target": target}));
        Ok(())
    }
    fn demo(&self, _: &mut Output) -> Result<(), Stop> {
        Ok(())
    }
    fn notifier(&self, _: &[OsString]) -> Result<(), Problem> {
        Ok(())
    }
}
