//! A connection pool for outbound HTTP calls whose limits hold: a `Service<Request<B>>` over any connector that hyper-util's
//! client takes.
//!
//! ```
//! use bytes::Bytes;
//! use http_body_util::{BodyExt, Empty};
//! use outbound_pool::{Pool, connect::Tcp};
//! use outbound_testkit::{Friendly, handler};
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let upstream = Friendly::new(handler::hello).start();
//! let pool = Pool::builder().max_connections(50).build(Tcp::new())?;
//!
//! for _ in 0..3 {
//!     let request = http::Request::get(upstream.uri("/")).body(Empty::<Bytes>::new())?;
//!     let response = pool.clone().oneshot(request).await?;
//!     assert_eq!(response.into_body().collect().await?.to_bytes(), "hello");
//! }
//! assert_eq!(pool.stats().totals.opened, 1); // and `upstream` accepted one socket
//! # assert_eq!(upstream.sightings().connections.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! - **Use it** at the bottom of a stack of layers, or alone, wherever a service makes HTTP calls: one pool for the process, cloned.
//! - **Do not use it** to limit how many calls run at once (that is a concurrency limit's task: a call may be short of a
//!   connection for other reasons), or one pool per call, which is what it exists to end.
//! - **Order:** innermost; everything else goes around it.
//! - **Holds** a connection from the moment it is granted until the response body has been read to its end, or is dropped: what is
//!   left of a dropped body is read within `drain`, or costs the connection; over HTTP/2 it costs its stream. It is back in the pool before the caller learns of the end.
//! - **Counts** every socket against its limits: also those being opened, and those being closed, until they are.
//! - **Sends again** at most once, and only on a *reused* connection that died without a byte of response, which is how a server
//!   that closed an idle connection looks: any request of which not a byte was written, and an idempotent one whose body, if it has
//!   one, was not read beyond 64 KiB. More is a retry layer's task. An idle connection's socket is asked before it is used, so that this is rare.
//!   Over HTTP/2, whatever its method, a request that the server says it has not processed: once if it refused the stream, up to three
//!   times in all if it was closing the connection (GOAWAY; RFC 9113, 6.8), as servers do after so many requests. An error that comes with
//!   the GOAWAY may be about the first request of a connection, so that this one is not sent again.
//! - **Errors:** [`TransportError`](outbound_core::TransportError), [`Overloaded`](outbound_core::Overloaded) when the queue is
//!   full, [`InvalidOrigin`](outbound_core::InvalidOrigin) for a URI without scheme or host,
//!   [`Elapsed`](outbound_core::Elapsed) when the request's deadline had passed before anything was sent.
//!   [`Failure::of`](outbound_core::Failure::of) reads them all. Timeouts are `TransportError`s with an `Elapsed` inside.
//! - **Panics** if polled outside a Tokio runtime with I/O and time enabled.
//!
//! HTTP/1.1, and HTTP/2 where the connector has negotiated it or `http2_prior_knowledge` says so. An upgrade or a `CONNECT` takes a
//! connection that speaks HTTP/1.1, and leaves the pool with it (`hyper::upgrade::on` has it); it counts until its socket is closed. A `Host` header is added where the request has none; userinfo in a URI is never sent, nor logged.
//!
//! ```text
//! Pool ── call ──► slots: an idle connection? ── asks its socket ──► Sending ──► Body ──► back to slots
//!                    │ no                                              ▲
//!                    └─► waits, FIFO ──► a freed connection, or ──► dial: resolve · connect · TLS
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
mod call;
mod config;
pub mod connect;
mod connection;
mod events;
mod http1;
mod http2;
mod keeper;
mod metered;
mod pool;
mod request;
mod slots;
mod stats;
mod sync;
mod upload;

pub use body::Body;
pub use call::{Closed, ResponseFuture};
pub use config::{Builder, InvalidConfig};
pub use events::{Event, Events, Missed, What, Why};
pub use http1::HeadTooLarge;
pub use pool::Pool;
pub use stats::{Counts, OriginStats, Stats, Totals};
