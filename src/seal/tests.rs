//! The room under attack.
