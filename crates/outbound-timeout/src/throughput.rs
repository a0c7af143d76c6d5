//! How fast a response body must at least be.

use std::{error::Error, fmt, time::Duration};

use tokio::time::Instant;

use crate::limit::Limit;

/// So many bytes a second that a response body must at least bring, on average over each of the windows that follow one
/// another: what stops a peer that sends a byte now and then and so never trips a read-idle limit.
///
/// A window is made of the time in which somebody waits for the peer. The time a reader takes over what it has does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throughput {
    bytes_per_second: u64,
    window: Duration,
    grace: Duration,
}

/// A window of no time has no average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmptyWindow;

/// The window that a body is in.
#[derive(Debug)]
pub(crate) struct Window {
    throughput: Throughput,
    length: Duration,
    /// How much of it has gone by, up to the present wait.
    waited: Duration,
    /// Since when somebody waits.
    waiting: Option<Instant>,
    bytes: u64,
}

// === Throughput ===

impl Throughput {
    /// At least `bytes_per_second` on average over each `window`.
    ///
    /// # Errors
    /// [`EmptyWindow`] if `window` is zero.
    pub fn new(bytes_per_second: u64, window: Duration) -> Result<Self, EmptyWindow> {
        if window.is_zero() {
            return Err(EmptyWindow);
        }
        Ok(Self { bytes_per_second, window, grace: Duration::ZERO })
    }

    /// Makes the first window longer by so much, with no more bytes to come in it, for a peer that starts slowly; zero unless set.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    fn bytes(self) -> u64 {
        let bytes =
            u128::from(self.bytes_per_second).saturating_mul(self.window.as_nanos()) / NANOS_PER_SECOND;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

// === EmptyWindow ===

impl fmt::Display for EmptyWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the window of a minimum throughput is zero: expected a longer one")
    }
}

impl Error for EmptyWindow {}

// === Window ===

impl Window {
    pub(crate) fn first(throughput: Throughput) -> Self {
        let length = throughput.window.saturating_add(throughput.grace);
        Self { throughput, length, waited: Duration::ZERO, waiting: None, bytes: 0 }
    }

    /// Somebody waits, since `since` at the latest.
    pub(crate) fn wait(&mut self, since: Instant) {
        self.waiting.get_or_insert(since);
    }

    /// Nobody waits any more.
    pub(crate) fn arrived(&mut self, bytes: usize) {
        self.waited += self.waiting.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// What is left of the window; of the next one, if this is over and has brought enough.
    pub(crate) fn limit(&mut self, now: Instant) -> Option<Limit> {
        let since = self.waiting.unwrap_or(now);
        let began = since.checked_sub(self.waited)?;
        if now.duration_since(began) < self.length || self.bytes < self.throughput.bytes() {
            return Limit::new("throughput", began, self.length);
        }
        *self = Self { waiting: Some(now), ..Self::first(self.throughput.grace(Duration::ZERO)) };
        Limit::new("throughput", now, self.length)
    }
}

const NANOS_PER_SECOND: u128 = 1_000_000_000;
