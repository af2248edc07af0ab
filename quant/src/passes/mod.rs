//! One file a pass.

pub mod depth;
pub mod experts;
pub mod precision;
