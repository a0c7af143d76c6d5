//! How many calls of a client are under way at once.

use std::{fmt, sync::Arc};

use outbound_core::Witness;
use outbound_limit::{
    AdaptiveLimit, AdaptiveLimitLayer, Algorithm, ConcurrencyLimit, ConcurrencyLimitLayer, Sample, Stats,
};
use tower::util::Either;
use tower_layer::Layer;

/// How many attempts may be under way at once: a number, or a limit that is learnt.
///
/// ```
/// use outbound::{client::Concurrency, limit::Aimd};
///
/// let fixed = Concurrency::from(40);
/// let learnt = Concurrency::adaptive(Aimd::default().limits(1, 20, 200)?);
/// # let _ = (fixed, learnt);
/// # Ok::<(), outbound::BoxError>(())
/// ```
pub struct Concurrency(Kind);

enum Kind {
    Fixed(usize),
    Adaptive(Erased),
}

/// Any algorithm.
pub(crate) struct Erased(Box<dyn Algorithm>);

pub(crate) type Limit<S> = Either<ConcurrencyLimit<S>, AdaptiveLimit<S, Erased>>;

/// What a limit has to show.
pub(crate) type Numbers = Box<dyn Fn() -> Stats + Send + Sync>;

impl Concurrency {
    /// As many as `algorithm` finds out that the server can take.
    pub fn adaptive(algorithm: impl Algorithm) -> Self {
        Self(Kind::Adaptive(Erased(Box::new(algorithm))))
    }

    pub(crate) fn fixed(&self) -> Option<usize> {
        match self.0 {
            Kind::Fixed(limit) => Some(limit),
            Kind::Adaptive(_) => None,
        }
    }

    /// `max_waiting` calls may wait; `witness` knows who keeps them waiting. With what the limit has to show, if there is one.
    pub(crate) fn layer<S>(
        this: Option<Self>,
        max_waiting: usize,
        witness: Arc<dyn Witness>,
        inner: S,
    ) -> (Limit<S>, Option<Numbers>) {
        let is_limited = this.is_some();
        let (limit, numbers): (_, Numbers) = match this.unwrap_or(usize::MAX.into()).0 {
            Kind::Fixed(limit) => {
                let layer = ConcurrencyLimitLayer::new(limit).max_waiting(max_waiting).witness(witness);
                let handle = layer.handle();
                (Either::Left(layer.layer(inner)), Box::new(move || handle.stats()))
            }
            Kind::Adaptive(algorithm) => {
                let layer = AdaptiveLimitLayer::new(algorithm).max_waiting(max_waiting).witness(witness);
                let handle = layer.handle();
                (Either::Right(layer.layer(inner)), Box::new(move || handle.stats()))
            }
        };
        (limit, is_limited.then_some(numbers))
    }
}

impl From<usize> for Concurrency {
    fn from(limit: usize) -> Self {
        Self(Kind::Fixed(limit))
    }
}

impl fmt::Debug for Concurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Fixed(limit) => write!(f, "{limit}"),
            Kind::Adaptive(algorithm) => write!(f, "adaptive, from {}", algorithm.0.limit()),
        }
    }
}

impl Algorithm for Erased {
    fn limit(&self) -> usize {
        self.0.limit()
    }

    fn update(&mut self, sample: &Sample) {
        self.0.update(sample);
    }
}
