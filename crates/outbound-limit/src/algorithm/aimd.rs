//! Additive increase, multiplicative decrease.

use std::time::Duration;

use super::{Algorithm, Sample};
use crate::invalid::InvalidOption;

/// One more for each good answer while at least half of the limit is in use; a tenth less for each overload, and for each answer
/// that took longer than the timeout.
///
/// Chiu and Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance", 1989, as in Netflix'
/// concurrency-limits, `AIMDLimit` at its 784c960, with its defaults: limit 20, never below 20 or over 200, backoff ratio 0.9,
/// timeout 5 s. It learns from failures only: for servers that turn calls away when they are full.
#[derive(Clone, Debug)]
pub struct Aimd {
    limit: usize,
    min: usize,
    max: usize,
    backoff_ratio: f64,
    timeout: Duration,
}

impl Aimd {
    /// The limit to begin with, and the least and greatest it may become.
    ///
    /// # Errors
    /// Unless `1 <= min <= initial <= max`.
    pub fn limits(self, min: usize, initial: usize, max: usize) -> Result<Self, InvalidOption> {
        super::ordered(min, initial, max)?;
        Ok(Self { limit: initial, min, max, ..self })
    }

    /// What is left of the limit after an overload.
    ///
    /// # Errors
    /// Unless it is at least 0.5 and below 1.
    pub fn backoff_ratio(self, backoff_ratio: f64) -> Result<Self, InvalidOption> {
        let holds = (0.5..1.0).contains(&backoff_ratio);
        InvalidOption::unless(holds, "backoff_ratio", "at least 0.5 and below 1")?;
        Ok(Self { backoff_ratio, ..self })
    }

    /// An answer that took longer counts as an overload.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }
}

impl Default for Aimd {
    fn default() -> Self {
        Self { limit: 20, min: 20, max: 200, backoff_ratio: 0.9, timeout: Duration::from_secs(5) }
    }
}

impl Algorithm for Aimd {
    fn limit(&self) -> usize {
        self.limit
    }

    fn update(&mut self, sample: &Sample) {
        let limit = if sample.overloaded || sample.rtt > self.timeout {
            (self.limit as f64 * self.backoff_ratio) as usize
        } else if sample.in_flight * 2 >= self.limit {
            self.limit + 1
        } else {
            self.limit
        };
        self.limit = limit.clamp(self.min, self.max);
    }
}
