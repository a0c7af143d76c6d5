#![doc = include_str!("../../../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub use outbound_core::*;

/// The connection pool.
#[cfg(feature = "pool")]
pub mod pool {
    pub use outbound_pool::*;
}
#[cfg(feature = "pool")]
pub use outbound_pool::Pool;
