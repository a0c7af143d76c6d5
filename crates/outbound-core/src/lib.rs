//! The words that the `outbound` layers share, and that must not be defined twice.
//!
//! ```
//! use std::time::Duration;
//! use outbound_core::{Deadline, Delivery, Elapsed, Failure, Kind, Phase};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! // Context travels on the request …
//! let mut request = http::Request::new(());
//! Deadline::after(Duration::from_secs(2)).tighten(&mut request);
//! assert_eq!(Deadline::of(&request).unwrap().left(), Duration::from_secs(2));
//!
//! // … and every failure, ours or foreign, is read through one view.
//! let error: outbound_core::BoxError = Elapsed::new(Phase::Connect, Duration::from_secs(1)).into();
//! let failure = Failure::of(&*error);
//! assert_eq!(failure.kind(), Kind::Timeout);
//! assert_eq!(failure.delivery(), Delivery::NotSent); // safe to send again, whatever the method
//! # }
//! ```
//!
//! - **Errors:** [`BoxError`] on the seam between layers, found again with [`find`], read with [`Failure::of`].
//! - **Context:** [`Deadline`], [`Attempt`], [`CallSite`], [`Idempotent`], [`UrlTemplate`], [`Exchange`] and [`Ledger`] ride on a
//!   request; [`Attempt`], [`Retries`], [`ConnectionInfo`] and [`Timings`] on its response. Each has one writer; [`Carried`] is all of them at once.
//! - **Bodies:** [`OnEnd`] tells a hook exactly once how a body ended.
//! - **Construction:** what is meant to be built once announces where it was built: [`Construction`].
//! - **Time:** a wait for what others here give back ends on time, and not for a stall of our own: [`Grace`].
//! - **Who is in the way:** whoever knows tells those who turn calls away: [`Witness`].
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answered;
mod at_proxy;
mod connection;
mod construction;
mod context;
mod cooling_down;
mod deadline;
mod elapsed;
mod error;
mod exchange;
mod failure;
#[cfg(feature = "hyper")]
mod foreign;
mod grace;
mod invalid_request;
mod ledger;
mod on_end;
mod origin;
mod overloaded;
mod retries;
mod snapshot;
mod sync;
mod transport;
mod units;
mod witness;
mod words;

pub use answered::Answered;
pub use at_proxy::AtProxy;
pub use connection::{ConnectionInfo, Established, Timings};
pub use construction::{Construction, Watcher};
pub use context::{Attempt, CallContext, CallSite, Carried, Idempotent, Message, UrlTemplate};
pub use cooling_down::CoolingDown;
pub use deadline::Deadline;
pub use elapsed::Elapsed;
pub use error::{BoxError, chain, find};
pub use exchange::Exchange;
pub use failure::Failure;
pub use grace::Grace;
pub use invalid_request::InvalidRequest;
pub use ledger::{Account, Ledger};
pub use on_end::{AtEnd, End, OnEnd};
pub use origin::{InvalidOrigin, Origin};
pub use overloaded::Overloaded;
pub use retries::Retries;
pub use snapshot::Snapshot;
pub use transport::{Holders, TransportError};
pub use units::{Count, Time};
pub use witness::Witness;
pub use words::{Delivery, GaveUp, Kind, Phase};
