//! HTTP/1.1: one exchange at a time on a connection, by hyper.

mod body;
mod connection;
mod driver;
mod fields;
mod framing;
mod sending;
mod wire;

pub(crate) use body::Body;
pub(crate) use connection::{Exclusive, Http1};
pub(crate) use sending::{Broken, Sending};
pub use wire::HeadTooLarge;
pub(crate) use wire::Wire;
