//! The layers by name on a `ServiceBuilder`.

use tower::ServiceBuilder;
#[cfg(any(feature = "limit", feature = "retry"))]
use tower_layer::Stack;

/// Adds outbound's layers to a [`ServiceBuilder`], each by the one value it must have; for its options, give the layer itself to
/// [`ServiceBuilder::layer`].
///
/// ```
/// use outbound::{ServiceBuilderExt, retry};
/// use tower::ServiceBuilder;
///
/// # fn stack<S>(pool: S) {
/// let client = ServiceBuilder::new()
///     .retries(retry::Standard::default()) // one loop around all that follows
///     .concurrency(64)                     // each attempt needs a permit, until its body has ended
///     .service(pool);
/// # }
/// ```
pub trait ServiceBuilderExt<L>: sealed::Sealed + Sized {
    /// Retries as `policy` says: [`RetryLayer::new`](outbound_retry::RetryLayer::new).
    #[cfg(feature = "retry")]
    fn retries<P>(self, policy: P) -> ServiceBuilder<Stack<outbound_retry::RetryLayer<P>, L>>;

    /// Lets so many calls through at once:
    /// [`ConcurrencyLimitLayer::new`](outbound_limit::ConcurrencyLimitLayer::new).
    #[cfg(feature = "limit")]
    fn concurrency(
        self,
        limit: impl Into<outbound_limit::Limiter>,
    ) -> ServiceBuilder<Stack<outbound_limit::ConcurrencyLimitLayer, L>>;
}

impl<L> ServiceBuilderExt<L> for ServiceBuilder<L> {
    #[cfg(feature = "retry")]
    fn retries<P>(self, policy: P) -> ServiceBuilder<Stack<outbound_retry::RetryLayer<P>, L>> {
        self.layer(outbound_retry::RetryLayer::new(policy))
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
