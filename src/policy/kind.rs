//! Callers of whom little is known: any of a kind, and a user who is a number.

use super::facts::{Breadth, Facts, ProcessState};
use super::reach::Claim;
use super::reading::People;
use crate::clock::Timestamp;
use crate::id::{Gid, Uid};

/// Any caller of a kind: nothing is known of him but what makes him one.
pub(super) struct Kind<'k, const N: usize>(pub &'k Claim, pub [Gid; N]);

impl<const N: usize> Facts for Kind<'_, N> {
    fn breadth(&self) -> Breadth {
        Breadth::Kind
    }
    fn uid(&self) -> Uid {
        Uid(u32::MAX)
    }
    fn gid(&self) -> Gid {
        Gid(u32::MAX)
    }
    fn groups(&mut self) -> Option<&[Gid]> {
        Some(&self.1)
    }
    fn other_uids(&mut self) -> Option<&[Uid]> {
        None
    }
    fn other_groups(&mut self) -> Option<&[Gid]> {
        None
    }
    fn unit(&mut self) -> Option<Option<&str>> {
        match self.0 {
            Claim::Unit(unit) => Some(Some(unit)),
            _ => None,
        }
    }
    fn service(&self) -> Option<&str> {
        match self.0 {
            Claim::Service(service) => Some(service),
            _ => None,
        }
    }
    fn process(&mut self) -> Option<ProcessState> {
        None
    }
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

/// People of whom nothing but numbers is known.
pub(super) struct Numbers;

impl People for Numbers {
    fn user(&self, _: Uid) -> Option<String> {
        None
    }
    fn group(&self, _: Gid) -> Option<String> {
        None
    }
    fn uid_of(&self, _: &str) -> Option<Uid> {
        None
    }
    fn gid_of(&self, _: &str) -> Option<Gid> {
        None
    }
    fn groups(&self, _: Uid) -> Vec<Gid> {
        Vec::new()
    }
    fn caller(&self, uid: Uid) -> Box<dyn Facts + '_> {
        Box::new(Number(uid))
    }
}

struct Number(Uid);

impl Facts for Number {
    fn uid(&self) -> Uid {
        self.0
    }
    fn gid(&self) -> Gid {
        Gid(self.0.0)
    }
    fn groups(&mut self) -> Option<&[Gid]> {
        Some(&[])
    }
    fn unit(&mut self) -> Option<Option<&str>> {
        None
    }
    fn service(&self) -> Option<&str> {
        None
    }
    fn process(&mut self) -> Option<ProcessState> {
        None
    }
}
