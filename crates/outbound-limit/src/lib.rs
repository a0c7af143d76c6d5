//! Limits how many calls are under way, and how many start in a stretch of time.
//!
//! ```
//! use http::{Request, Response};
//! use http_body_util::BodyExt;
//! use outbound_limit::ConcurrencyLimitLayer;
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), outbound_core::BoxError> {
//! # use std::convert::Infallible;
//! let layer = ConcurrencyLimitLayer::new(1).max_waiting(0);
//! let client = layer.layer(service_fn(async |_: Request<()>| {
//!     Ok::<_, Infallible>(Response::new(String::from("hello")))
//! }));
//!
//! // The head is here, the body unread: the call still counts, and nobody else gets through.
//! let response = client.clone().oneshot(Request::new(())).await?;
//! let error = client.clone().oneshot(Request::new(())).await.unwrap_err();
//! assert_eq!(error.to_string(), "concurrency limit is overloaded: all 1 in use, 0 waiting");
//!
//! // The body has been read: the next one may.
//! assert_eq!(response.into_body().collect().await?.to_bytes(), "hello");
//! client.oneshot(Request::new(())).await?;
//! assert_eq!(layer.handle().stats().rejected, 1);
//! # Ok(())
//! # }
//! ```
//!
//! - **Use it** so that a slow server gets a queue that is bounded and seen, instead of as many calls as come:
//!   [`ConcurrencyLimitLayer`] for a number that you know, also [per origin](ConcurrencyLimitLayer::per_origin) or any other
//!   key; [`AdaptiveLimitLayer`] for one that is learnt from how calls go; [`RateLimitLayer`] for a quota of calls a second.
//! - **Do not use it** to bound sockets, which are the pool's to count, or with [`Scope::Body`] where downloads last so long
//!   that they would leave nothing to the others.
//! - **Order:** inside retry, so that a call asleep in backoff holds no permit; outside the timeout of an attempt, so that
//!   waiting does not eat the attempt's time. `tower::load_shed` above never sheds, since a call waits in its future and not in
//!   `poll_ready`: `max_waiting` does that here.
//! - **Holds** a permit from the call until the response body has ended or is dropped; until the head where there is no body:
//!   HEAD, 204, 304, a length of zero. It holds none in `poll_ready`, and does not count what becomes of an upgraded connection.
//!   A call that is granted its permit holds it even while nobody polls it. A rate holds nothing.
//! - **Errors:** [`Overloaded`](outbound_core::Overloaded) when turned away, at once or after waiting, also where the request's
//!   [`Deadline`](outbound_core::Deadline) ended the wait; [`Elapsed`](outbound_core::Elapsed) if that had passed before the
//!   call. Either way nothing was sent. The inner service's own errors pass untouched.
//! - **Panics** if a call has to wait outside a Tokio runtime with its timer on; a future polled after it was ready.
//!
//! A call in nobody's way costs a compare-and-swap to begin and one to end, and allocates nothing; one that waits is a box. What
//! takes a lock besides says so: waiting, [`PerKey`], [`Adaptive`], [`RatePerKey`].
//!
//! Who waits gives up its place in constant time, and a permit handed to a call that is gone passes to the next. The line is
//! our own, and not tokio's semaphore, because that cannot shrink a limit in use, serve the newest first or shed; every
//! interleaving of a few threads at it is checked with loom.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod adaptive;
mod algorithm;
mod bucket;
mod concurrency;
mod gate;
mod invalid;
mod limiter;
mod order;
mod per_key;
mod place;
mod rate;
mod rate_per_key;
mod request;
mod stats;
mod sync;
mod verdict;

pub use adaptive::{Adaptive, AdaptiveLimit, AdaptiveLimitLayer};
pub use algorithm::{Aimd, Algorithm, Gradient2, Sample, Vegas, Windowed};
pub use concurrency::{ConcurrencyLimit, ConcurrencyLimitLayer, ResponseFuture, Scope};
pub use invalid::InvalidOption;
pub use limiter::{Limiter, Limits};
pub use order::Order;
pub use per_key::{PerKey, PerOrigin};
pub use place::Release;
pub use rate::{RateLimit, RateLimitFuture, RateLimitLayer, RateLimiter, Rates};
pub use rate_per_key::RatePerKey;
pub use stats::Stats;
