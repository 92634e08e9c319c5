//! placeholder
pub mod mem;
