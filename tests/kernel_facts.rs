//! What the kernel really does.
#[path = "support/mod.rs"]
mod support;
#[path = "kernel_facts/fs.rs"]
mod fs;
#[path = "kernel_facts/exp.rs"]
mod exp;
