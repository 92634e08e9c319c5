//! wardfs shows secrets as read-only files, to the processes that may read them and to no other.
//!
//! A room (module) uses only rooms on lower floors, and siblings never import each other;
//! `tests/floors.rs` holds the code to it.
//!
//! | floor | room | look here for |
//! |---|---|---|
//! | 8 | `main.rs`, [`cli`] | what was typed → a validated plan → done |
//! | 7 | [`daemon`] | the wiring of a serving process: readiness, signals, order of shutdown |
//! | 6 | [`fuse`], [`control`] | the two doors: the FUSE adapter and the admin socket |
//! | 5 | [`vfs`], [`lifecycle`], [`report`] | files without a transport; changes; questions |
//! | 4 | [`access`] | the path of a read, and every decision |
//! | 3 | [`vault`], [`config`] | the opened store: keys, snapshot, log and commits kept consistent; `wardfs.toml` |
//! | 2 | [`store`], [`seal`], [`policy`], [`audit`] | bytes on disk; cryptography; decisions; the log |
//! | 1 | [`sys`] | the only unsafe: caller facts, mounts, locked memory, checked opens, hardening |
//! | 0 | [`id`], [`secret`], [`clock`], [`problem`], [`messages`], [`pool`], [`places`] | newtypes, plaintext and sealed bytes, time, failures as users see them, what a service says on stderr, equal things kept once, what each uid may have |
//! | ground | `sync` | locks, which tests exchange |

// They panic where nobody can be told any more.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod clock;
pub mod id;
pub mod messages;
pub mod places;
pub mod pool;
pub mod problem;
pub mod secret;
mod sync;

pub mod sys;

pub mod audit;
pub mod policy;
pub mod seal;
pub mod store;

pub mod config;
pub mod vault;

pub mod access;

pub mod lifecycle;
pub mod report;
pub mod vfs;

pub mod control;
pub mod fuse;

pub mod daemon;

pub mod cli;
