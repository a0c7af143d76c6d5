//! Many samples in one.

use std::time::Duration;

use tokio::time::Instant;

use super::{Algorithm, Sample};
use crate::invalid::InvalidOption;

/// Gathers the samples of a stretch of time and gives `A` their average: with so many calls at once that no single one says much.
///
/// Netflix' concurrency-limits, `WindowedLimit` at its 25a05f1 with `AverageSampleWindowFactory`, and its defaults: windows of
/// twice the fastest time, but at least 1 s and at most 1 s, of 10 samples or more, without those faster than 100 µs.
///
/// One departure: an overload is never left out, however fast it was and however few came with it.
#[derive(Clone, Debug)]
pub struct Windowed<A> {
    algorithm: A,
    min_window: Duration,
    max_window: Duration,
    min_samples: usize,
    min_rtt: Duration,
    ends: Option<Instant>,
    window: Window,
}

#[derive(Clone, Debug)]
struct Window {
    fastest: Duration,
    sum: Duration,
    samples: usize,
    in_flight: usize,
    overloaded: bool,
}

// === Windowed ===

impl<A> Windowed<A> {
    /// `algorithm` learns from windows.
    pub fn new(algorithm: A) -> Self {
        Self {
            algorithm,
            min_window: Duration::from_secs(1),
            max_window: Duration::from_secs(1),
            min_samples: 10,
            min_rtt: Duration::from_micros(100),
            ends: None,
            window: Window::new(),
        }
    }

    /// The shortest and the longest window; in between it is twice the fastest time in the one before.
    ///
    /// # Errors
    /// Unless `min <= max`.
    pub fn window(self, min: Duration, max: Duration) -> Result<Self, InvalidOption> {
        InvalidOption::unless(min <= max, "window", "in order: the shortest, the longest")?;
        Ok(Self { min_window: min, max_window: max, ..self })
    }

    /// From fewer samples nothing is learnt.
    #[must_use]
    pub fn min_samples(self, min_samples: usize) -> Self {
        Self { min_samples, ..self }
    }

    /// From faster calls nothing is learnt.
    #[must_use]
    pub fn min_rtt(self, min_rtt: Duration) -> Self {
        Self { min_rtt, ..self }
    }
}

impl<A: Algorithm> Algorithm for Windowed<A> {
    fn limit(&self) -> usize {
        self.algorithm.limit()
    }

    fn update(&mut self, sample: &Sample) {
        if sample.rtt < self.min_rtt && !sample.overloaded {
            return;
        }
        self.window.add(sample);
        let end = sample.started.checked_add(sample.rtt);
        if self.ends.is_some() && end <= self.ends {
            return;
        }
        let window = std::mem::replace(&mut self.window, Window::new());
        let length = window.fastest.saturating_mul(2).clamp(self.min_window, self.max_window);
        self.ends = end.and_then(|end| end.checked_add(length));
        if window.samples >= self.min_samples || window.overloaded {
            self.algorithm.update(&window.sample(sample.started));
        }
    }
}

// === Window ===

impl Window {
    fn new() -> Self {
        Self { fastest: Duration::MAX, sum: Duration::ZERO, samples: 0, in_flight: 0, overloaded: false }
    }

    fn add(&mut self, sample: &Sample) {
        self.fastest = self.fastest.min(sample.rtt);
        self.sum = self.sum.saturating_add(sample.rtt);
        self.samples += 1;
        self.in_flight = self.in_flight.max(sample.in_flight);
        self.overloaded |= sample.overloaded;
    }

    fn sample(&self, started: Instant) -> Sample {
        let rtt = self.sum / u32::try_from(self.samples).unwrap_or(u32::MAX).max(1);
        Sample { started, rtt, in_flight: self.in_flight, overloaded: self.overloaded }
    }
}
