#![doc = include_str!("../../../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub use outbound_core::*;
#[cfg(feature = "pool")]
#[doc(inline)]
pub use outbound_pool::{self as pool, Pool};

#[doc = include_str!("../DESIGN.md")]
pub mod design {}
