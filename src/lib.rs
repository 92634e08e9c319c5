//! wardfs shows secrets as read-only files, to the processes that may read them and to no other.
//!
//! A room (module) uses only rooms on lower floors, and siblings never import each other;
//! `tests/floors.rs` holds the code to it.
//!
//! | floor | room | look here for |
//! |---|---|---|
//! | 7 | `main.rs`, [`cli`], [`daemon`] | what was typed, and the wiring of a serving process |
//! | 6 | [`fuse`], [`control`] | the two doors: the FUSE adapter and the admin socket |
//! | 5 | [`vfs`] | tree, nodes, handles, sizes, errno: the file system without a transport |
//! | 4 | [`access`], [`lifecycle`], [`report`] | the use cases: a read; a change; questions about both |
//! | 3 | [`vault`] | the opened store: keys, snapshot, log and commits, kept consistent with each other |
//! | 2 | [`store`], [`seal`], [`policy`], [`audit`] | bytes on disk; cryptography; decisions; the log |
//! | 1 | [`sys`] | the only unsafe: caller facts, mounts, locked memory, checked opens, hardening |
//! | 0 | [`id`], [`secret`], [`clock`], [`problem`] | newtypes, plaintext and sealed bytes, time, failures as users see them |

pub mod clock;
pub mod id;
pub mod problem;
pub mod secret;

pub mod sys;

pub mod audit;
pub mod policy;
pub mod seal;
pub mod store;

pub mod control;

pub mod config;

pub mod cli;
