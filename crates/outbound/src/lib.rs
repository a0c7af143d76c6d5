#![doc = include_str!("../../../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "axum")]
pub mod axum;
#[cfg(feature = "blocking")]
pub mod blocking;
mod body;
#[cfg(feature = "client")]
pub mod client;
mod ext;
#[cfg(feature = "json")]
mod json;
mod offload;
mod reader;
mod request;
mod response;
#[cfg(feature = "telemetry")]
pub mod telemetry;

pub use body::Body;
#[cfg(feature = "client")]
pub use client::Client;
pub use ext::ServiceBuilderExt;
#[doc(no_inline)]
pub use http;
pub use offload::{INLINE_JSON, offload};
pub use outbound_core::*;
#[cfg(feature = "guard")]
#[doc(inline)]
pub use outbound_guard::{self as guard, LeakDetector, LeakGuardLayer};
#[cfg(feature = "limit")]
#[doc(inline)]
pub use outbound_limit::{self as limit, AdaptiveLimitLayer, ConcurrencyLimitLayer, RateLimitLayer};
#[cfg(feature = "pool")]
#[doc(inline)]
pub use outbound_pool::{self as pool, Pool};
#[cfg(feature = "retry")]
#[doc(inline)]
pub use outbound_retry::{self as retry, RetryLayer};
#[cfg(feature = "telemetry")]
#[doc(inline)]
pub use outbound_telemetry::TelemetryLayer;
#[cfg(feature = "timeout")]
#[doc(inline)]
pub use outbound_timeout::{self as timeout, DeadlineLayer, TimeoutLayer};
pub use request::{ClientExt, RequestBuilder};
pub use response::{InvalidBody, ResponseExt, StatusError, TooLarge};
#[cfg(feature = "client")]
#[doc(no_inline)]
pub use rustls;

#[doc = include_str!("../DESIGN.md")]
pub mod design {}
