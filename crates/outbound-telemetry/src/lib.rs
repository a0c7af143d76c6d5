//! OpenTelemetry's HTTP client conventions for outbound calls: one CLIENT span and one measurement per attempt.
//!
//! ```
//! // placeholder
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

mod attempt;
mod body;
mod instruments;
mod layer;
mod propagation;
mod span;
mod target;
mod watch;

pub use body::TelemetryBody;
pub use layer::{ResponseFuture, Telemetry, TelemetryLayer};
pub use outbound_core::UrlTemplate;
pub use watch::{Observe, Series, Watch};
