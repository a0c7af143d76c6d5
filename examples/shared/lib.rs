//! What the examples share.

pub mod tally;
pub mod upstream;
