//! Limits for each attempt.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use outbound_core::{BoxError, Carried, Exchange};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::TimeoutBody,
    future::ResponseFuture,
    limit::{Extras, Limits, Target, Watch},
    stall::StallMonitor,
    throughput::Throughput,
};

/// Limits each attempt: how long the response head may take, and how long the peer may neither take nor send anything.
#[derive(Clone, Debug)]
pub struct TimeoutLayer {
    limits: Limits,
    extras: Option<Arc<Extras>>,
}

/// What [`TimeoutLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct Timeout<S> {
    inner: S,
    layer: TimeoutLayer,
}

// === TimeoutLayer ===

impl TimeoutLayer {
    /// The response head must be there within `head` of the request having been sent; interim responses (1xx; RFC 9110, 15.2) do
    /// not prolong it.
    ///
    /// The two idle limits are as long until they are set. [`Duration::MAX`] is no limit; with zero nothing is ever sent.
    pub fn new(head: Duration) -> Self {
        let limits = Limits { head, write_idle: head, read_idle: head };
        Self { limits, extras: None }
    }

    /// For how long the peer may take nothing of a request that there is something to send of; as long as the head unless set.
    ///
    /// Only a service that reports on the request's [`Exchange`] can tell, as outbound-pool does: over any other this does nothing,
    /// and the head limit bounds the upload too. A request body that has nothing to give is not the peer's doing and does not count.
    #[must_use]
    pub fn write_idle(mut self, write_idle: Duration) -> Self {
        self.limits.write_idle = write_idle;
        self
    }

    /// For how long somebody may wait for the next frame of the response body; as long as the head unless set.
    #[must_use]
    pub fn read_idle(mut self, read_idle: Duration) -> Self {
        self.limits.read_idle = read_idle;
        self
    }

    /// How fast the response body must at least be; as slow as it likes unless set.
    #[must_use]
    pub fn throughput(mut self, throughput: Throughput) -> Self {
        Extras::of(&mut self.extras).throughput = Some(throughput);
        self
    }

    /// Has `monitor` learn from these timers too.
    #[must_use]
    pub fn stall_monitor(mut self, monitor: &StallMonitor) -> Self {
        Extras::of(&mut self.extras).monitor = Some(monitor.clone());
        self
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Timeout { inner, layer: self.clone() }
    }
}

// === Timeout ===

impl<S, B, R> Service<Request<B>> for Timeout<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<TimeoutBody<R>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let begun = Instant::now();
        let carried = Carried::on(&mut request);
        let exchange = carried.exchange.get_or_insert_with(|| Exchange::begun_at(begun)).clone();
        let (deadline, attempt) = (carried.deadline, carried.attempt);
        let TimeoutLayer { limits, extras } = &self.layer;
        let target = Target::of(&request, attempt);
        let watch = Watch::new(begun, deadline, Some(exchange), target, extras.clone());
        match watch.barred(limits) {
            None => ResponseFuture::sent(self.inner.call(request), watch, *limits),
            Some(limit) => ResponseFuture::barred(limit, watch, *limits),
        }
    }
}
