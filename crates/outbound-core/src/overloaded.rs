//! A limit of ours had no room.

use std::{error::Error, fmt, time::Duration};

use crate::units::Time;

/// A limit of ours had no room for the call, and no room to wait for it.
///
/// **May the peer have acted on the request?** No: nothing was sent.
#[derive(Clone, Debug)]
pub struct Overloaded {
    limiter: &'static str,
    limit: usize,
    waiting: usize,
    waited: Duration,
}

impl Overloaded {
    /// `limiter`, which lets `limit` calls through at once, had `waiting` calls in its queue already.
    pub fn new(limiter: &'static str, limit: usize, waiting: usize) -> Self {
        Self { limiter, limit, waiting, waited: Duration::ZERO }
    }

    /// The call had waited for so long when it was turned away.
    #[must_use]
    pub fn waited(mut self, waited: Duration) -> Self {
        self.waited = waited;
        self
    }

    /// What turned the call away.
    pub fn limiter(&self) -> &'static str {
        self.limiter
    }

    /// How many it lets through at once.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many calls were waiting when this one was turned away.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How long this call had waited.
    pub fn time_waited(&self) -> Duration {
        self.waited
    }
}

impl fmt::Display for Overloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limiter, limit, waiting, .. } = self;
        write!(f, "{limiter} is overloaded: all {limit} in use, {waiting} waiting")?;
        if !self.waited.is_zero() {
            write!(f, ", gave up after {}", Time(self.waited))?;
        }
        Ok(())
    }
}

impl Error for Overloaded {}
