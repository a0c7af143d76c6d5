//! What the examples share.

pub mod entities;
pub mod server;
pub mod tally;
pub mod upstream;
