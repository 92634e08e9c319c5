//! The admin socket: requests in, replies out, never a value out.

pub mod protocol;
