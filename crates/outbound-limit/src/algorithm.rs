//! How an adaptive limit learns.

use std::time::Duration;

use tokio::time::Instant;

use crate::invalid::InvalidOption;

pub use self::{aimd::Aimd, gradient2::Gradient2, vegas::Vegas, windowed::Windowed};

mod aimd;
mod gradient2;
mod vegas;
mod windowed;

/// Learns a limit from how calls go.
///
/// It is called under a lock, for each head of a response: it has to be quick, and must not make calls itself.
///
/// ```
/// use outbound_limit::{Algorithm, Sample};
///
/// /// Halves on overload, and starts over after a thousand good answers.
/// struct Halving { limit: usize, good: usize }
///
/// impl Algorithm for Halving {
///     fn limit(&self) -> usize {
///         self.limit
///     }
///
///     fn update(&mut self, sample: &Sample) {
///         if sample.overloaded {
///             *self = Self { limit: self.limit.div_ceil(2), good: 0 };
///         } else if sample.in_flight * 2 >= self.limit {
///             self.good += 1;
///             if self.good == 1000 {
///                 *self = Self { limit: 100, good: 0 };
///             }
///         }
///     }
/// }
/// ```
pub trait Algorithm: Send + 'static {
    /// How many calls may be under way at once, now. An answer of 0 is taken for 1: nothing is learnt from no call.
    fn limit(&self) -> usize;

    /// Learns from one call.
    fn update(&mut self, sample: &Sample);
}

/// How one call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it was sent on its way, with its permit.
    pub started: Instant,
    /// The time from then to the head of the response, or to the failure. Never that of the body.
    pub rtt: Duration,
    /// How many calls were under way when it started, itself included.
    pub in_flight: usize,
    /// The server could not keep up: it said so, took too long, or refused.
    pub overloaded: bool,
}

/// The one rule on the limits of an algorithm.
fn ordered(min: usize, initial: usize, max: usize) -> Result<(), InvalidOption> {
    let holds = 1 <= min && min <= initial && initial <= max;
    InvalidOption::unless(holds, "limits", "in order: 1, the least, the initial, the greatest")
}

/// The one rule on smoothing.
fn smooth(smoothing: f64) -> Result<(), InvalidOption> {
    InvalidOption::unless(smoothing > 0.0 && smoothing <= 1.0, "smoothing", "above 0 and at most 1")
}
