//! Send a request again when that is safe, worth it, and not too much.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Empty;
//! use outbound_core::{Attempt, BoxError};
//! use outbound_retry::{Replay, RetryLayer};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), BoxError> {
//! // A server that asks to be left alone for two seconds, once.
//! let server = service_fn(|request: Request<Replay<Empty<Bytes>>>| async move {
//!     let response = match Attempt::of(&request).unwrap().number() {
//!         1 => Response::builder().status(503).header("retry-after", "2"),
//!         _ => Response::builder(),
//!     };
//!     response.body(Empty::<Bytes>::new())
//! });
//! let client = ServiceBuilder::new().layer(RetryLayer::default()).service(server);
//!
//! let begun = tokio::time::Instant::now();
//! let response = client.oneshot(Request::get("http://example.com/").body(Empty::new())?).await?;
//! assert_eq!(response.status(), 200);
//! assert_eq!(Attempt::of(&response).unwrap().number(), 2);
//! assert_eq!(begun.elapsed(), Duration::from_secs(2));
//! # Ok(())
//! # }
//! ```
//!
//! - **Use it** once in a stack, at the place that knows the most about the call.
//! - **Do not use it** without a [`Deadline`] outside it: each attempt may take as long as the service inside lets it.
//! - **Order:** outside everything that belongs to an attempt: limits (a call asleep in backoff holds no permit), timeouts (each attempt
//!   has its own), telemetry. Inside the deadline.
//! - **Holds** what a further attempt needs: the head, and up to 64 KiB of the body, from the call to the head of the last response.
//!   Between attempts it holds no response and no permit: a failed response is drained within bounds, or dropped, before the wait.
//! - **Does not hold** anything of the last response: its body is the service's own.
//! - **Costs** a call that could be retried one allocation, and for a body another and one uncontended lock per frame; a call that could
//!   not (one attempt allowed, or `CONNECT`) none. See [`RetryLayer`] for what else may allocate.
//! - **Errors:** none of its own: the last real response or error is the result, unwrapped. An error of the inner service's
//!   `poll_ready` is returned as it is, unless it comes after an attempt that ended in an error: then that error is (a response is gone by
//!   then). [`Attempt`] and [`Retries`] on a response tell how it came about, where they are absent there was one attempt;
//!   [`Retries::track`] before the call tells it after an error too. Only if the deadline passes while the inner service is getting ready
//!   for another attempt, and a response came before, it is an [`Elapsed`](outbound_core::Elapsed).
//! - **Panics** if called outside a Tokio runtime with its timer on.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
mod backoff;
mod budget;
pub mod cool_down;
mod head;
pub mod hedge;
mod invalid;
mod per_origin;
mod policy;
mod random;
mod replay;
mod retry;
mod retry_after;
mod statuses;
mod sync;

pub use answer::Answer;
pub use backoff::{Backoff, Band, Jitter};
pub use budget::{Budget, Ratio, Rule, Share, Tokens};
pub use invalid::InvalidSetting;
#[doc(no_inline)]
pub use outbound_core::{Attempt, Deadline, GaveUp, Idempotent, Retries};
pub use policy::{Decision, IdempotencyKey, Outcome, Policy, Standard, is_idempotent};
pub use random::Random;
pub use replay::{BodyFactory, Replay};
pub use retry::{ResponseFuture, Retry, RetryLayer};
pub use retry_after::{AboveCap, RetryAfter, rate_limit_reset, retry_after};
pub use statuses::Statuses;
