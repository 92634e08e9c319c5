//! The admin socket: requests in, replies out, never a value out. The same [`Desk`] answers a command that
//! opened the store itself.

mod desk;
mod server;

pub mod client;
pub mod protocol;

pub use desk::{Desk, Service, StoppedService};
pub use server::Server;
