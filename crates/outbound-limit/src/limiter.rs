//! One limit for all: the handle that layers share.

use std::{fmt, sync::Arc};

use http::Request;

use crate::{gate::Gate, place::Held, stats::Stats};

/// How many calls may be under way at once: a handle to watch it and to change it, shared by its clones.
///
/// ```
/// use outbound_limit::{ConcurrencyLimitLayer, Limiter};
///
/// let limiter = Limiter::new(100);
/// // Reads and writes share a hundred calls; writes do not queue.
/// let reads = ConcurrencyLimitLayer::new(limiter.clone());
/// let writes = ConcurrencyLimitLayer::new(limiter.clone()).max_waiting(0);
///
/// limiter.set_limit(50);
/// assert_eq!(reads.handle().stats().limit, 50);
/// assert_eq!(writes.handle().stats().in_use, 0);
/// ```
#[derive(Clone)]
pub struct Limiter(Arc<Gate>);

/// What calls are counted by: one [`Limiter`] for all of them, a [`PerKey`](crate::PerKey), or an
/// [`Adaptive`](crate::Adaptive) one. Not to be implemented elsewhere.
pub trait Limits {
    #[doc(hidden)]
    fn held_by<B>(&self, request: &mut Request<B>) -> Arc<dyn Held>;
}

// === Limiter ===

impl Limiter {
    /// `limit` calls at once. With 0 nobody is let through until that is changed: a gate to close for a while.
    ///
    /// More than an eighth of [`usize::MAX`] is as good as no limit, and is taken for that much.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Gate::new(limit)))
    }

    /// Changes the limit. Calls that wait go ahead at once where it grows; where it shrinks, those under way finish, and nobody
    /// starts until they are fewer than the limit.
    pub fn set_limit(&self, limit: usize) {
        self.0.resize(|| limit);
    }

    /// What it is doing.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}

impl From<usize> for Limiter {
    fn from(limit: usize) -> Self {
        Self::new(limit)
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Limiter").field(&self.stats()).finish()
    }
}

impl Limits for Limiter {
    #[inline]
    fn held_by<B>(&self, _: &mut Request<B>) -> Arc<dyn Held> {
        self.0.clone()
    }
}

impl Held for Gate {
    fn gate(&self) -> &Gate {
        self
    }
}
