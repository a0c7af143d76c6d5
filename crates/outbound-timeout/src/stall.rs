//! How late the runtime has been.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Learns from the timers of the layers it is given to how late this runtime runs them: a gauge for telemetry.
///
/// A reader that begins to wait for a frame, turns to something else (as the loser of a `select!` does) and comes back after the limit
/// cannot be told from one that was not run: it is counted too.
#[derive(Clone, Debug, Default)]
pub struct StallMonitor(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    count: u64,
    max: Duration,
    latest: Option<(Instant, Duration)>,
}

impl StallMonitor {
    /// One that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many timers fired late.
    pub fn count(&self) -> u64 {
        self.seen().count
    }

    /// By how much the latest of all was late; zero if none was.
    pub fn max(&self) -> Duration {
        self.seen().max
    }

    /// By how much the last late timer was late, if that was no longer ago than `within`; else zero.
    pub fn recent(&self, within: Duration) -> Duration {
        match self.seen().latest {
            Some((at, late)) if at.elapsed() <= within => late,
            _ => Duration::ZERO,
        }
    }

    pub(crate) fn saw(&self, late: Duration) {
        let mut seen = self.seen();
        seen.count += 1;
        seen.max = seen.max.max(late);
        seen.latest = Some((Instant::now(), late));
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
