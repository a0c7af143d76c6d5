#![doc = include_str!("../../../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod ext;

pub use ext::ServiceBuilderExt;
pub use outbound_core::*;
#[cfg(feature = "limit")]
#[doc(inline)]
pub use outbound_limit::{self as limit, AdaptiveLimitLayer, ConcurrencyLimitLayer, RateLimitLayer};
#[cfg(feature = "pool")]
#[doc(inline)]
pub use outbound_pool::{self as pool, Pool};
#[cfg(feature = "retry")]
#[doc(inline)]
pub use outbound_retry::{self as retry, RetryLayer};
#[cfg(feature = "timeout")]
#[doc(inline)]
pub use outbound_timeout::{self as timeout, DeadlineLayer, TimeoutLayer};

#[doc = include_str!("../DESIGN.md")]
pub mod design {}
