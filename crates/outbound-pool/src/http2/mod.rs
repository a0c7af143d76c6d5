//! HTTP/2: many exchanges at once on a connection, by h2.
//!
//! By h2 itself and not through hyper, because what the pool promises has to be seen: what the peer allows now, which stream it refused, a
//! reset that is no end, a ping's answer. It also costs no task per request.

mod body;
mod connection;
mod driver;
mod pump;
mod streaming;

pub(crate) use body::Body;
pub(crate) use connection::Http2;
pub(crate) use streaming::{Failed, Streaming};
