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
//!   over a handler; [`BlackHole`] and [`Refusal`] are addresses at which nobody answers. The handle on a running one,
//!   [`Upstream`], counts sockets, keeps every request and knows how each socket ended.
//!   that Tokio's paused clock jumps when the runtime is idle, even while bytes are on their way between two sockets.
//!   speaks HTTP/2).
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
mod board;
mod friendly;
mod gate;
pub mod handler;
mod hostile;
mod nowhere;
mod request;
mod script;
mod sightings;
#[cfg(feature = "tls")]
mod tls;
mod upstream;
mod wire;

pub use answer::Answer;
pub use friendly::{Friendly, Upload};
pub use gate::Gate;
pub use hostile::Hostile;
pub use nowhere::{BlackHole, Refusal};
pub use script::Script;
pub use sightings::{Connection, Ended, Received, Sightings};
#[cfg(feature = "tls")]
pub use tls::Certificate;
pub use upstream::Upstream;
