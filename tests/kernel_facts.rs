//! What the kernel really does.
#[path = "support/mod.rs"]
mod support;
#[path = "kernel_facts/fs.rs"]
mod fs;
#[path = "kernel_facts/exp2.rs"]
mod exp2;
#[path = "kernel_facts/exp.rs"]
pub mod exp;
