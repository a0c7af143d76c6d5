//! The layers by name on a `ServiceBuilder`.

use tower::ServiceBuilder;
#[cfg(any(feature = "limit", feature = "retry", feature = "telemetry", feature = "timeout"))]
use tower_layer::Stack;

/// Adds outbound's layers to a [`ServiceBuilder`], each by the one value it must have; for its options, give the layer itself to
/// [`ServiceBuilder::layer`].
///
/// ```
/// use std::time::Duration;
/// use outbound::{ServiceBuilderExt, retry};
/// use tower::ServiceBuilder;
///
/// # fn stack<S: Clone>(pool: S) {
/// let client = ServiceBuilder::new()
///     .deadline(Duration::from_secs(30))        // the whole call: backoff and the response body too
///     .retries(retry::Standard::default())      // one loop around all that follows
///     .concurrency(64)                          // each attempt needs a permit, until its body has ended
///     .attempt_timeout(Duration::from_secs(10)) // from when it has been sent to the response head
///     .service(pool);
/// # }
/// ```
///
/// # Order
/// As above, with `telemetry` after `retries`, and each place has its reason: *telemetry inside retry*, so that each attempt is told
/// of, and outside the rest, so that queueing is; *limit inside retry*, so that a call asleep in backoff holds no permit; *timeout inside
/// limit*, so that queueing does not eat the attempt's time; *deadline outside retry*, so that it bounds backoff too.
pub trait ServiceBuilderExt<L>: sealed::Sealed + Sized {
    /// Gives each call so long in all: [`DeadlineLayer::new`](outbound_timeout::DeadlineLayer::new).
    #[cfg(feature = "timeout")]
    fn deadline(
        self,
        total: std::time::Duration,
    ) -> ServiceBuilder<Stack<outbound_timeout::DeadlineLayer, L>>;

    /// Gives each attempt so long from when its request has been sent to its response head, the limit that errors call `head`:
    /// [`TimeoutLayer::new`](outbound_timeout::TimeoutLayer::new). An upload that the peer does not take and a body that it does not send may
    /// each be idle for as long (`write-idle`, `read-idle`). Waiting for a connection and opening it are the pool's to limit, and nothing but
    /// the [`deadline`](Self::deadline) limits all of it together.
    #[cfg(feature = "timeout")]
    fn attempt_timeout(
        self,
        head: std::time::Duration,
    ) -> ServiceBuilder<Stack<outbound_timeout::TimeoutLayer, L>>;

    /// Retries as `policy` says: [`RetryLayer::new`](outbound_retry::RetryLayer::new).
    #[cfg(feature = "retry")]
    fn retries<P>(self, policy: P) -> ServiceBuilder<Stack<outbound_retry::RetryLayer<P>, L>>;

    /// Tells `meter`, and `tracing`, of each attempt: [`TelemetryLayer::new`](outbound_telemetry::TelemetryLayer::new).
    #[cfg(feature = "telemetry")]
    fn telemetry(
        self,
        meter: &opentelemetry::metrics::Meter,
    ) -> ServiceBuilder<Stack<outbound_telemetry::TelemetryLayer, L>>;

    /// Lets so many calls through at once:
    /// [`ConcurrencyLimitLayer::new`](outbound_limit::ConcurrencyLimitLayer::new).
    #[cfg(feature = "limit")]
    fn concurrency(
        self,
        limit: impl Into<outbound_limit::Limiter>,
    ) -> ServiceBuilder<Stack<outbound_limit::ConcurrencyLimitLayer, L>>;
}

impl<L> ServiceBuilderExt<L> for ServiceBuilder<L> {
    #[cfg(feature = "timeout")]
    fn deadline(
        self,
        total: std::time::Duration,
    ) -> ServiceBuilder<Stack<outbound_timeout::DeadlineLayer, L>> {
        self.layer(outbound_timeout::DeadlineLayer::new(total))
    }

    #[cfg(feature = "timeout")]
    fn attempt_timeout(
        self,
        head: std::time::Duration,
    ) -> ServiceBuilder<Stack<outbound_timeout::TimeoutLayer, L>> {
        self.layer(outbound_timeout::TimeoutLayer::new(head))
    }

    #[cfg(feature = "retry")]
    fn retries<P>(self, policy: P) -> ServiceBuilder<Stack<outbound_retry::RetryLayer<P>, L>> {
        self.layer(outbound_retry::RetryLayer::new(policy))
    }

    #[cfg(feature = "telemetry")]
    fn telemetry(
        self,
        meter: &opentelemetry::metrics::Meter,
    ) -> ServiceBuilder<Stack<outbound_telemetry::TelemetryLayer, L>> {
        self.layer(outbound_telemetry::TelemetryLayer::new(meter))
    }

    #[cfg(feature = "limit")]
    fn concurrency(
        self,
        limit: impl Into<outbound_limit::Limiter>,
    ) -> ServiceBuilder<Stack<outbound_limit::ConcurrencyLimitLayer, L>> {
        self.layer(outbound_limit::ConcurrencyLimitLayer::new(limit))
    }
}

mod sealed {
    pub trait Sealed {}

    impl<L> Sealed for tower::ServiceBuilder<L> {}
}
