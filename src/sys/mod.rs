//! What only the operating system can give. The only room with `unsafe`.

pub mod mem;
