//! Upstreams to break an HTTP client with, and a service to catch a Tower layer breaking its contract.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use outbound_testkit::{Answer, Ended, Hostile, Script};
//! use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::TcpStream};
//!
//! // Promises ten bytes, sends five, and closes.
//! let truncated = Answer::new(200, "0123456789").cut_body(5);
//! let upstream = Hostile::new(Script::new().exchange(truncated).close()).start();
//!
//! let mut client = TcpStream::connect(upstream.addr()).await.unwrap();
//! client.write_all(b"GET /file HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
//! let mut response = String::new();
//! client.read_to_string(&mut response).await.unwrap();
//!
//! assert_eq!(response, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234");
//! assert_eq!(upstream.requests(1).await[0].target, "/file");
//! assert_eq!(upstream.ended(0).await, Ended::ByUsFin);
//! # }
//! ```
//!
//! - **Upstreams:** [`Hostile`] plays a [`Script`] to each connection, down to the byte, or the HTTP/2 [`Frame`]; [`Friendly`] is hyper's server
//!   over a handler; [`BlackHole`] and [`Refusal`] are addresses at which nobody answers. The handle on a running one,
//!   [`Upstream`], counts sockets, keeps every request and knows how each socket ended.
//! - **Services:** [`Probe`] panics when called without having been made ready, and counts everything a layer can leak.
//! - **Bodies:** [`TestBody`] has frames, pauses and failures; [`assert_body_contract`] checks a body that wraps another.
//! - **Cancellation:** [`cancel_at_each_poll`] drops a future at every one of its polls.
//! - **Order of events:** a [`Gate`] holds a script, handler, service or body until the test opens it, so no test sleeps.
//! - **What is told:** [`listening`] hears the `tracing` events of one test among others.
//! - **Paused clocks:** nothing here waits on a Tokio timer, except what a script was told to (`delay`, `dribble`). Mind
//!   that Tokio's paused clock jumps when the runtime is idle, even while bytes are on their way between two sockets.
//! - **Features:** `tls` ([`Hostile`] and [`Friendly`] serve TLS, with certificates good and bad), `http2` ([`Friendly`]
//!   speaks HTTP/2).
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
mod board;
mod body;
mod cancel;
mod frame;
mod friendly;
mod gate;
pub mod handler;
mod hostile;
mod listening;
mod nowhere;
mod pause;
mod probe;
mod request;
mod script;
mod sightings;
#[cfg(feature = "tls")]
mod tls;
mod upstream;
mod wire;

pub use answer::Answer;
pub use body::{Lives, Scripted, TestBody, assert_body_contract};
pub use cancel::cancel_at_each_poll;
pub use frame::{Frame, FrameKind};
pub use friendly::{Friendly, Upload};
pub use gate::Gate;
pub use hostile::Hostile;
pub use listening::listening;
pub use nowhere::{BlackHole, Refusal};
pub use probe::{Counts, Plan, Probe, ProbeFuture, ProbeHandle};
pub use script::Script;
pub use sightings::{Connection, Ended, Received, Sightings};
#[cfg(feature = "tls")]
pub use tls::Certificate;
pub use upstream::Upstream;
