//! One file a pass.

pub mod precision;
