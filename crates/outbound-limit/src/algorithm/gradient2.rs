//! The gradient between the time that calls take now and the time they take in the long run.

use std::time::Duration;

use super::{Algorithm, Sample};
use crate::invalid::InvalidOption;

/// Shrinks the limit in proportion as calls take longer than in the long run, and otherwise lets it grow by
/// [`queue_size`](Self::queue_size).
///
/// Netflix' concurrency-limits, `Gradient2Limit` at its f2528de, with its defaults: limit 20, never below 20 or over 200,
/// smoothing 0.2, queue size 4, long window 600 samples, tolerance 1.5. It is meant to learn from windows of time rather than
/// from single calls: wrap it in [`Windowed`](super::Windowed). A time that lasts becomes the time of the long run, so
/// under an overload that lasts for hours the limit creeps upwards.
///
/// One departure: the source ignores overloads. Here one counts as the steepest gradient it knows, 0.5, and not as a time.
#[derive(Clone, Debug)]
pub struct Gradient2 {
    limit: f64,
    min: usize,
    max: usize,
    smoothing: f64,
    queue_size: fn(usize) -> usize,
    tolerance: f64,
    long_window: u32,
    /// In seconds; an average over the first samples, then an exponential one.
    long_rtt: f64,
    warmup: u32,
}

impl Gradient2 {
    /// The limit to begin with, and the least and greatest it may become.
    ///
    /// # Errors
    /// Unless `1 <= min <= initial <= max`.
    pub fn limits(self, min: usize, initial: usize, max: usize) -> Result<Self, InvalidOption> {
        super::ordered(min, initial, max)?;
        Ok(Self { limit: initial as f64, min, max, ..self })
    }

    /// How much of a new limit is taken over at once.
    ///
    /// # Errors
    /// Unless it is above 0 and at most 1.
    pub fn smoothing(self, smoothing: f64) -> Result<Self, InvalidOption> {
        super::smooth(smoothing)?;
        Ok(Self { smoothing, ..self })
    }

    /// How many calls may queue in the server at a limit: what it grows by while times are good.
    #[must_use]
    pub fn queue_size(self, queue_size: fn(usize) -> usize) -> Self {
        Self { queue_size, ..self }
    }

    /// By which factor calls may take longer than in the long run before the limit shrinks.
    ///
    /// # Errors
    /// Unless it is at least 1.
    pub fn tolerance(self, tolerance: f64) -> Result<Self, InvalidOption> {
        InvalidOption::unless(tolerance >= 1.0, "tolerance", "at least 1")?;
        Ok(Self { tolerance, ..self })
    }

    /// How many samples the long run is.
    ///
    /// # Errors
    /// Unless there is at least one.
    pub fn long_window(self, long_window: u32) -> Result<Self, InvalidOption> {
        InvalidOption::unless(long_window >= 1, "long_window", "at least 1")?;
        Ok(Self { long_window, ..self })
    }

    fn long_rtt(&mut self, rtt: f64) -> f64 {
        let weight = if self.warmup < WARMUP {
            self.warmup += 1;
            1.0 / f64::from(self.warmup)
        } else {
            2.0 / (f64::from(self.long_window) + 1.0)
        };
        self.long_rtt += (rtt - self.long_rtt) * weight;
        self.long_rtt
    }

    fn follow(&mut self, gradient: f64) {
        let target = self.limit * gradient + (self.queue_size)(self.limit as usize) as f64;
        let limit = self.limit * (1.0 - self.smoothing) + target * self.smoothing;
        self.limit = limit.clamp(self.min as f64, self.max as f64);
    }
}

impl Default for Gradient2 {
    fn default() -> Self {
        Self {
            limit: 20.0,
            min: 20,
            max: 200,
            smoothing: 0.2,
            queue_size: |_| 4,
            tolerance: 1.5,
            long_window: 600,
            long_rtt: 0.0,
            warmup: 0,
        }
    }
}

impl Algorithm for Gradient2 {
    fn limit(&self) -> usize {
        self.limit as usize
    }

    fn update(&mut self, sample: &Sample) {
        if sample.overloaded {
            return self.follow(STEEPEST);
        }
        let rtt = sample.rtt.max(Duration::from_nanos(1)).as_secs_f64();
        let long_rtt = self.long_rtt(rtt);
        // Back to normal after a long overload: do not wait for the average to come down by itself.
        if long_rtt / rtt > 2.0 {
            self.long_rtt *= 0.95;
        }
        if sample.in_flight as f64 >= self.limit / 2.0 {
            self.follow((self.tolerance * long_rtt / rtt).clamp(STEEPEST, 1.0));
        }
    }
}

/// So that one outlier does not empty the server.
const STEEPEST: f64 = 0.5;
/// So many samples are averaged evenly first.
const WARMUP: u32 = 10;
