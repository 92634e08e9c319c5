//! The admin socket: requests in, replies out, never a value out. The same [`Desk`] answers a command that
//! opened the store itself.

mod crowd;
mod desk;
mod health;
mod peer;
mod server;
mod shun;

pub mod client;
pub mod place;
pub mod protocol;

pub use desk::{Desk, Service, StoppedService, lost_logs};
pub use health::Ill;
pub use server::{Listening, OTHERS, Server};
