//! One file a pass.

pub mod budget;
pub mod depth;
pub mod experts;
pub mod precision;
