//! A connection pool for outbound HTTP calls whose limits hold.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
mod call;
mod config;
pub mod connect;
mod connection;
mod pool;
mod reaper;
mod sending;
mod slots;
mod stats;
mod sync;
mod upload;
mod wire;

pub use body::Body;
pub use call::ResponseFuture;
pub use config::{Builder, InvalidConfig};
pub use pool::Pool;
pub use stats::{Counts, OriginStats, Stats, Totals};
