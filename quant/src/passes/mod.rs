//! One file a pass.

pub mod experts;
pub mod precision;
