//! Limits of time for outbound calls: they cover bodies, name the phase a call died in, and never blame the peer for a stall of
//! one's own runtime.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//! use http::{Request, Response};
//! use outbound_core::{Elapsed, Phase, find};
//! use outbound_timeout::{DeadlineLayer, TimeoutLayer};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let slow = service_fn(|_: Request<()>| async {
//!     tokio::time::sleep(Duration::from_secs(60)).await;
//!     Ok::<_, Infallible>(Response::new(()))
//! });
//! let client = ServiceBuilder::new()
//!     .layer(DeadlineLayer::new(Duration::from_secs(30))) // the whole call, retries and body included
//!     .layer(TimeoutLayer::new(Duration::from_secs(10)).read_idle(Duration::from_secs(5))) // each attempt
//!     .service(slow);
//!
//! let begun = tokio::time::Instant::now();
//! let error = client.oneshot(Request::new(())).await.unwrap_err();
//! assert_eq!(begun.elapsed(), Duration::from_secs(10));
//! assert_eq!(find::<Elapsed>(&*error).unwrap().phase(), Phase::Head);
//! assert_eq!(error.to_string(), "timed out after 10 s waiting for the response head");
//! # }
//! ```
//!
//! - **Use it** always: a call without a limit waits for ever. [`DeadlineLayer`] for what the caller can wait in all,
//!   [`TimeoutLayer`] so that one slow attempt leaves time for another.
//! - **Do not use it** to limit connecting, the TLS handshake, resolving, or the wait for a connection: those limits are the
//!   pool's own, each with its own error, and outbound-pool has them on by default.
//! - **Order:** [`DeadlineLayer`] outside retry, so that it bounds backoff too; [`TimeoutLayer`] inside retry, so that each attempt
//!   has its own limits, and inside a concurrency limit, so that queueing does not eat them. An attempt never has longer than what
//!   is left of the deadline. The last attempt has no more either: this layer cannot know that it is the last; give it a head
//!   limit as long as the total, and the deadline alone decides.
//! - **Counts:** the head from when the request has been sent to its final response head, however many 1xx come before; over a
//!   service that does not report on the request's [`Exchange`](outbound_core::Exchange) (reqwest, hyper-util's client,
//!   `service_fn`) from `call`. Write-idle while there is something to send and the peer does not take it. Read-idle, and
//!   [`Throughput`], while somebody waits for a frame of the body. The deadline from the call to the body's last frame.
//! - **Does not count:** `poll_ready`; a reader that pauses, except towards the deadline; an upload whose source pauses.
//! - **Errors:** [`Elapsed`], which says which limit, in which phase, how late, and whether the peer may have acted; on a tie of limit
//!   and deadline it is the deadline's, whose length is what was left of it at the call. The inner service's own errors pass untouched. What a limit ends is dropped at once, its
//!   connection with it, and nothing is sent once a deadline has passed.
//! - **Panics** if polled outside a Tokio runtime with its timer on.
//!
//! # Stalls
//!
//! A task that computes for 300 ms keeps Tokio from looking at sockets and timers. Then everything happens at once, and a timeout
//! that looks at its timer first, or only once at its service, fails calls whose answers are in the socket. Here instead:
//!
//! - **Ready data beats an expired timer**, on the very tick and after it.
//! - A timer that is **on time** gives the service three more turns of the reactor. One runs the tasks that the same look at the
//!   sockets woke (hyper's connection task), one what those woke in turn (HTTP/2 has a task between connection and call), and one
//!   looks at the sockets again. They take no time on the clock.
//! - A timer that is **late**, by 3 ms or more, gives the service as long again as it was late, and no longer than the limit itself:
//!   if the stall ate the whole limit, the peer gets it again. That time is cut into ten turns of the reactor, and a stall within
//!   it takes up one turn, however long. A deadline still to come cuts it short.
//! - A stall and a slow peer together are a timeout, and the error says both: [`Elapsed::late_by`]. So is a late poll: who leaves a call
//!   or a body alone past its limit finds what has arrived meanwhile, for as long again.
//!
//! **Not promised:** a worker that is blocked with the connection's task in its queue, while the other workers are on time but
//! too busy to take that over; and a service that never returns from `poll`, as hyper's connection task does under a flood of 1xx
//! responses, which no timer can interrupt (over outbound's pool that flood ends at `max_head_size`).
//!
//! # Cost
//!
//! No spawn, no lock and no allocation per call; one timer each for head and body, armed when there is something to wait for, and in a
//! deadline only if no timeout inside has one that ends as soon. That of the head is inline, that of a body is a box: most bodies are
//! there with their head, and a response is moved by every layer above. [`TimeoutLayer`] puts an `Exchange` on a request that has none, which the pool below would do otherwise, and
//! [`DeadlineLayer`] the `Deadline`: all that travels with a request is one entry in its extensions for the whole stack. The price
//! is that [`ResponseFuture`] is not `Unpin`.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod alarm;
mod body;
mod cover;
mod deadline;
mod future;
mod limit;
mod stall;
mod throughput;
mod timeout;

pub use body::TimeoutBody;
pub use deadline::{DeadlineLayer, WithDeadline};
pub use future::ResponseFuture;
pub use outbound_core::{Deadline, Elapsed};
pub use stall::StallMonitor;
pub use throughput::{EmptyWindow, Throughput};
pub use timeout::{Timeout, TimeoutLayer};
