//! Finds what leaks while it leaks, and names the line of code.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! # }
//! ```
#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
mod builder;
mod churn;
mod descriptors;
mod detector;
mod future;
mod guard;
mod layer;
mod leak;
mod reclaim;
mod record;
mod registry;
mod reporter;
mod send;
mod sweep;

pub use body::GuardedBody;
pub use builder::{Backtraces, Builder};
pub use descriptors::Descriptors;
pub use detector::{LeakCheck, LeakDetector, Stats, Totals};
pub use future::ResponseFuture;
pub use layer::{LeakGuard, LeakGuardLayer};
pub use leak::{Holding, Leak};
pub use reclaim::{Mode, Observe, Reclaimable, Reclaiming};
pub use send::{SendExt, Sending};
