//! One budget for each call.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use outbound_core::{BoxError, Carried, Deadline};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::TimeoutBody,
    future::ResponseFuture,
    limit::{Extras, Limits, Target, Watch},
    stall::StallMonitor,
};

/// Gives each call a total: its attempts, the backoff between them, its queueing and its response body included.
///
/// It puts a [`Deadline`] on the request, unless an earlier one is there already: set by the caller, or by the handler of an
/// inbound request for all the calls that it makes in turn.
#[derive(Clone, Debug)]
pub struct DeadlineLayer {
    total: Duration,
    extras: Option<Arc<Extras>>,
}

/// What [`DeadlineLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct WithDeadline<S> {
    inner: S,
    layer: DeadlineLayer,
}

// === DeadlineLayer ===

impl DeadlineLayer {
    /// The last frame of the response must be there within `total` of the call. [`Duration::MAX`] leaves it to the deadline that
    /// a request brings; with zero nothing is ever sent.
    pub fn new(total: Duration) -> Self {
        Self { total, extras: None }
    }

    /// Has `monitor` learn from these timers too.
    #[must_use]
    pub fn stall_monitor(mut self, monitor: &StallMonitor) -> Self {
        Extras::of(&mut self.extras).monitor = Some(monitor.clone());
        self
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = WithDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithDeadline { inner, layer: self.clone() }
    }
}

// === WithDeadline ===

impl<S, B, R> Service<Request<B>> for WithDeadline<S>
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
        let total = begun.checked_add(self.layer.total).map_or(Deadline::NEVER, Deadline::at);
        let carried = Carried::on(&mut request);
        let deadline = total.earlier(carried.deadline.unwrap_or_default());
        carried.deadline = Some(deadline);
        // Only one that is there already: with a retry in between each attempt has its own.
        let (exchange, attempt) = (carried.exchange.clone(), carried.attempt);
        let target = Target::of(&request, attempt);
        let watch = Watch::new(begun, Some(deadline), exchange, target, self.layer.extras.clone());
        match watch.barred(&Limits::NONE) {
            None => ResponseFuture::sent(self.inner.call(request), watch, Limits::NONE),
            Some(limit) => ResponseFuture::barred(limit, watch, Limits::NONE),
        }
    }
}
