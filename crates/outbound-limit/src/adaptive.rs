//! A limit that is learnt.

use std::{
    fmt,
    sync::{
        Arc, PoisonError,
        atomic::Ordering::{Acquire, Release},
    },
};

use http::Request;
use tokio::time::Instant;
use tower_layer::Layer;

use crate::{
    algorithm::{Algorithm, Sample},
    concurrency::{ConcurrencyLimit, Options, who_counts},
    gate::Gate,
    limiter::Limits,
    place::{Held, how_to_wait},
    stats::Stats,
    sync::{AtomicUsize, Mutex},
};

/// Lets as many calls be under way at once as the server can take, which an [`Algorithm`] learns from how they go.
///
/// It learns from the time between permit and head, never from that of the body, and from failures that say “overload”:
/// the statuses 429, 503 and 504, timeouts once a connection is there or being opened, connections refused, HTTP/2 streams
/// refused. Other failures, other 5xx, and calls that the caller dropped teach nothing. While less than half of the limit is
/// in use none of the algorithms here lets it grow.
///
/// Each head takes one short lock, for the algorithm.
///
/// ```
/// # use http::{Request, Response, StatusCode};
/// # use outbound_limit::{AdaptiveLimitLayer, Aimd};
/// # use tower::{Layer, ServiceExt, service_fn};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), outbound_core::BoxError> {
/// let layer = AdaptiveLimitLayer::new(Aimd::default().limits(1, 30, 200)?);
/// let client = layer.layer(service_fn(async |_: Request<()>| {
///     let mut response = Response::new(String::new());
///     *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
///     Ok::<_, std::convert::Infallible>(response)
/// }));
/// client.oneshot(Request::new(())).await?;
/// assert_eq!(layer.handle().stats().limit, 27);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AdaptiveLimitLayer<A> {
    limits: Adaptive<A>,
    options: Options,
}

/// The service of [`AdaptiveLimitLayer`].
pub type AdaptiveLimit<S, A> = ConcurrencyLimit<S, Adaptive<A>>;

/// A limit that is learnt, and a handle to watch it, shared by its clones.
pub struct Adaptive<A>(Arc<Learner<A>>);

struct Learner<A> {
    gate: Gate,
    /// What the algorithm said last: the gate follows, outside the algorithm's lock.
    target: AtomicUsize,
    algorithm: Mutex<A>,
}

// === AdaptiveLimitLayer ===

impl<A: Algorithm> AdaptiveLimitLayer<A> {
    /// The limit that `algorithm` learns.
    pub fn new(algorithm: A) -> Self {
        Self { limits: Adaptive::new(algorithm), options: Options::new("adaptive limit") }
    }

    how_to_wait!(options.patience);
    who_counts!();

    /// The handle to watch it.
    pub fn handle(&self) -> Adaptive<A> {
        self.limits.clone()
    }
}

impl<A> Clone for AdaptiveLimitLayer<A> {
    fn clone(&self) -> Self {
        Self { limits: self.limits.clone(), options: self.options.clone() }
    }
}

impl<S, A> Layer<S> for AdaptiveLimitLayer<A> {
    type Service = AdaptiveLimit<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        ConcurrencyLimit::new(inner, self.limits.clone(), self.options.clone())
    }
}

// === Adaptive ===

impl<A: Algorithm> Adaptive<A> {
    fn new(algorithm: A) -> Self {
        let limit = algorithm.limit().max(1);
        Self(Arc::new(Learner {
            gate: Gate::new(limit),
            target: AtomicUsize::new(limit),
            algorithm: Mutex::new(algorithm),
        }))
    }
}

impl<A> Adaptive<A> {
    /// What it is doing.
    pub fn stats(&self) -> Stats {
        self.0.gate.stats()
    }
}

impl<A> Clone for Adaptive<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A> fmt::Debug for Adaptive<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Adaptive").field(&self.stats()).finish()
    }
}

impl<A: Algorithm> Limits for Adaptive<A> {
    fn held_by<B>(&self, _: &mut Request<B>) -> Arc<dyn Held> {
        self.0.clone()
    }
}

impl<A: Algorithm> Held for Learner<A> {
    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn clock(&self) -> Option<Instant> {
        Some(Instant::now())
    }

    fn learn(&self, sample: &Sample) {
        let mut algorithm = self.algorithm.lock().unwrap_or_else(PoisonError::into_inner);
        algorithm.update(sample);
        let target = algorithm.limit().max(1);
        let before = self.target.swap(target, Release);
        drop(algorithm);
        if target != before {
            tracing::debug!(before, now = target, "adaptive limit changed");
            self.gate.resize(|| self.target.load(Acquire));
        }
    }
}

#[cfg(all(test, outbound_loom))]
mod model {
    use std::time::Duration;

    use loom::{model, thread};

    use super::*;

    /// One more with each sample.
    struct Counts(usize);

    impl Algorithm for Counts {
        fn limit(&self) -> usize {
            self.0
        }

        fn update(&mut self, _: &Sample) {
            self.0 += 1;
        }
    }

    #[test]
    fn the_gate_follows_what_was_learnt_last() {
        model(|| {
            let limits = Adaptive::new(Counts(1));
            let sample =
                Sample { started: Instant::now(), rtt: Duration::ZERO, in_flight: 1, overloaded: false };
            let other = thread::spawn({
                let limits = limits.clone();
                move || limits.0.learn(&sample)
            });
            limits.0.learn(&sample);
            other.join().unwrap();
            assert_eq!(limits.stats().limit, 3);
        });
    }
}
