//! The queue in the server, estimated from how much slower it is than at its fastest.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{Algorithm, Sample};
use crate::invalid::InvalidOption;

/// Estimates how many calls queue in the server, `limit * (1 - fastest / rtt)`, and keeps that number between
/// [`alpha`](Self::alpha) and [`beta`](Self::beta).
///
/// Brakmo and Peterson, "TCP Vegas", 1995, as in Netflix' concurrency-limits, `VegasLimit` at its 7989055, with its defaults:
/// limit 20, at most 1000; alpha `3 log10`, beta `6 log10`, threshold, increase and decrease `log10` of the limit (at least 1);
/// smoothing 1; every 15 to 30 times the limit samples it takes the present time for the fastest, lest it chase one that
/// is no more. While the server is busy all the time that makes it believe a slow server fast, a little more each time: wrap it
/// in [`Windowed`](super::Windowed), so that it comes about every quarter of an hour instead of every few seconds.
///
/// One departure: an overload always shrinks the limit and never counts as a time, since a refusal is fast.
#[derive(Debug)]
pub struct Vegas {
    limit: f64,
    min: usize,
    max: usize,
    smoothing: f64,
    alpha: fn(usize) -> usize,
    beta: fn(usize) -> usize,
    threshold: fn(usize) -> usize,
    increase: fn(f64) -> f64,
    decrease: fn(f64) -> f64,
    fastest: Option<Duration>,
    probe_multiplier: u32,
    probe_jitter: f64,
    since_probe: u64,
    random: StdRng,
}

impl Vegas {
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

    /// While fewer than this queue at a limit, it [`increase`](Self::increase)s.
    #[must_use]
    pub fn alpha(self, alpha: fn(usize) -> usize) -> Self {
        Self { alpha, ..self }
    }

    /// While more than this queue at a limit, it [`decrease`](Self::decrease)s.
    #[must_use]
    pub fn beta(self, beta: fn(usize) -> usize) -> Self {
        Self { beta, ..self }
    }

    /// While no more than this queue at a limit, it grows by [`beta`](Self::beta).
    #[must_use]
    pub fn threshold(self, threshold: fn(usize) -> usize) -> Self {
        Self { threshold, ..self }
    }

    /// The next greater limit.
    #[must_use]
    pub fn increase(self, increase: fn(f64) -> f64) -> Self {
        Self { increase, ..self }
    }

    /// The next smaller limit.
    #[must_use]
    pub fn decrease(self, decrease: fn(f64) -> f64) -> Self {
        Self { decrease, ..self }
    }

    /// How many times the limit samples at most until the present time is taken for the fastest.
    ///
    /// # Errors
    /// Unless it is at least 1.
    pub fn probe_multiplier(self, probe_multiplier: u32) -> Result<Self, InvalidOption> {
        InvalidOption::unless(probe_multiplier >= 1, "probe_multiplier", "at least 1")?;
        Ok(Self { probe_multiplier, ..self })
    }

    /// Makes the moments at which it probes the same each time.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        let mut vegas = Self { random: StdRng::seed_from_u64(seed), ..self };
        vegas.probe_jitter = vegas.random.random_range(0.5..1.0);
        vegas
    }

    /// The limit after a call that took `rtt`, which is not below the fastest.
    fn after(&self, rtt: Duration, fastest: Duration) -> f64 {
        let whole = self.limit as usize;
        let queue = (self.limit * (1.0 - fastest.as_secs_f64() / rtt.as_secs_f64())).ceil() as usize;
        if queue <= (self.threshold)(whole) {
            self.limit + (self.beta)(whole) as f64
        } else if queue < (self.alpha)(whole) {
            (self.increase)(self.limit)
        } else if queue > (self.beta)(whole) {
            (self.decrease)(self.limit)
        } else {
            self.limit
        }
    }

    fn become_limit(&mut self, limit: f64) {
        let limit = limit.clamp(self.min as f64, self.max as f64);
        self.limit = (1.0 - self.smoothing) * self.limit + self.smoothing * limit;
    }
}

impl Default for Vegas {
    fn default() -> Self {
        let vegas = Self {
            limit: 20.0,
            min: 1,
            max: 1000,
            smoothing: 1.0,
            alpha: |limit| 3 * log10(limit),
            beta: |limit| 6 * log10(limit),
            threshold: log10,
            increase: |limit| limit + log10(limit as usize) as f64,
            decrease: |limit| limit - log10(limit as usize) as f64,
            fastest: None,
            probe_multiplier: 30,
            probe_jitter: 1.0,
            since_probe: 0,
            random: StdRng::seed_from_u64(0),
        };
        // Many instances do not probe at once.
        vegas.seed(RandomState::new().hash_one(0))
    }
}

impl Algorithm for Vegas {
    fn limit(&self) -> usize {
        self.limit as usize
    }

    fn update(&mut self, sample: &Sample) {
        if sample.overloaded {
            return self.become_limit((self.decrease)(self.limit));
        }
        self.since_probe += 1;
        if self.probe_jitter * f64::from(self.probe_multiplier) * self.limit <= self.since_probe as f64 {
            self.probe_jitter = self.random.random_range(0.5..1.0);
            self.since_probe = 0;
            self.fastest = Some(sample.rtt);
            return;
        }
        match self.fastest {
            Some(fastest) if fastest <= sample.rtt => {
                // Otherwise a limit that nobody fills would drift upwards.
                if (sample.in_flight * 2) as f64 >= self.limit {
                    self.become_limit(self.after(sample.rtt, fastest));
                }
            }
            _ => self.fastest = Some(sample.rtt),
        }
    }
}

fn log10(limit: usize) -> usize {
    limit.checked_ilog10().map_or(1, |log| log.max(1) as usize)
}
