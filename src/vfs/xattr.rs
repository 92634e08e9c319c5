//! `user.wardfs.*`: what is known of a secret beside its value, to those who may see it.

use crate::access::Caller;
use crate::audit::Event;
use crate::vault::{Secret, Version};

use super::{Node, Vfs, VfsError, found, version};

const PREFIX: &str = "user.wardfs.";
const NAMES: [&str; 3] = ["version", "labels", "created"];

impl Vfs {
    /// The names of a node's attributes, each ended by a zero byte.
    ///
    /// # Errors
    /// As a look-up.
    pub fn listxattr<C: Caller>(&self, node: Node, caller: &mut C) -> Result<Vec<u8>, VfsError> {
        if !matches!(node, Node::Secret(..) | Node::Version(_)) {
            return Ok(Vec::new());
        }
        self.attr(node, caller)?;
        Ok(NAMES
            .iter()
            .flat_map(|n| format!("{PREFIX}{n}\0").into_bytes())
            .collect())
    }

    /// One attribute.
    ///
    /// # Errors
    /// As a look-up; ENODATA for a name that there is not.
    pub fn getxattr<C: Caller>(&self, node: Node, name: &str, caller: &mut C) -> Result<Vec<u8>, VfsError> {
        let name = name.strip_prefix(PREFIX).ok_or(VfsError::NoAttribute)?;
        let state = self.access().vault().peek();
        let (secret, version) = match node {
            Node::Secret(id, _) => {
                let secret = found(&state, id)?;
                self.standing(secret, Event::DescribeSecret, caller)?;
                (secret, &**secret.secret().current().ok_or(VfsError::NoAttribute)?)
            }
            Node::Version(no) => {
                let (secret, version) = version(&state, no).ok_or(VfsError::NoEntry)?;
                self.check_version(secret, version, Event::DescribeSecret, caller)?;
                (secret, version)
            }
            _ => return Err(VfsError::NoAttribute),
        };
        value(&secret, version, name)
            .map(String::into_bytes)
            .ok_or(VfsError::NoAttribute)
    }
}

fn value(secret: &Secret, version: &Version, name: &str) -> Option<String> {
    Some(match name {
        "version" => version.meta.id.to_string(),
        "labels" => secret
            .labels_of(version.meta.no)
            .map(|l| l.as_str())
            .collect::<Vec<_>>()
            .join(","),
        "created" => version.meta.created.to_string(),
        _ => return None,
    })
}
