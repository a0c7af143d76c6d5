//! The layer itself.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use opentelemetry::metrics::Meter;
use outbound_core::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    attempt::Ongoing, body::TelemetryBody, instruments::Instruments, propagation, target::KNOWN_METHODS,
};

/// Makes one CLIENT span and one measurement of each attempt.
#[derive(Clone, Debug)]
pub struct TelemetryLayer {
    /// None is off.
    instruments: Option<Arc<Instruments>>,
    options: Options,
}

/// What [`TelemetryLayer`] makes of a service.
#[derive(Clone, Debug)]
pub struct Telemetry<S> {
    inner: S,
    layer: TelemetryLayer,
}

pin_project_lite::pin_project! {
    /// The response of [`Telemetry`]. Dropping it cancels the attempt, which is no error.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        response: F,
        // None if nothing is told.
        attempt: Option<Ongoing>,
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) body_sizes: bool,
    pub(crate) trace_context: bool,
    pub(crate) known_methods: &'static [&'static str],
}

// === Options ===

impl Options {
    const DEFAULT: Self = Self { body_sizes: false, trace_context: true, known_methods: KNOWN_METHODS };
}

// === TelemetryLayer ===

impl TelemetryLayer {
    /// Measures by instruments of `meter`: `&opentelemetry::global::meter("outbound")`, for one.
    pub fn new(meter: &Meter) -> Self {
        Self { instruments: Some(Arc::new(Instruments::new(meter))), options: Options::DEFAULT }
    }

    /// Tells nothing and adds no header: for a stack that learns from its configuration whether to tell anything. Its type is the same,
    /// which is what `tower::util::option_layer` cannot do for a layer that makes another body.
    pub fn off() -> Self {
        Self { instruments: None, options: Options::DEFAULT }
    }

    /// Whose instruments it measures by; `None` if it is [`off`](Self::off).
    pub fn meter(&self) -> Option<&Meter> {
        self.instruments.as_ref().map(|instruments| &instruments.meter)
    }

    /// Whether to measure request and response bodies too: off unless set.
    ///
    /// A request body's size is what it announces, if the peer has answered; and if no fewer bytes went out, the head among them, where
    /// the service inside reports on that. One that announces none has no measurement. A response body's size is what was read of
    /// it, if that is all. Both are as they cross this layer: compressed, if compression is a matter of the layers above.
    #[must_use]
    pub fn body_sizes(mut self, measured: bool) -> Self {
        self.options.body_sizes = measured;
        self
    }

    /// Whether the current context goes out in headers (`traceparent` and `tracestate`, and what else the global propagator
    /// writes, as `baggage`): on unless set. Turn it off towards those whom your traces do not concern.
    #[must_use]
    pub fn trace_context(mut self, injected: bool) -> Self {
        self.options.trace_context = injected;
        self
    }

    /// The methods that go by their name, in place of RFC 9110's, PATCH and QUERY; any other goes by `_OTHER`.
    #[must_use]
    pub fn known_methods(mut self, methods: &'static [&'static str]) -> Self {
        self.options.known_methods = methods;
        self
    }
}

impl<S> Layer<S> for TelemetryLayer {
    type Service = Telemetry<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Telemetry { inner, layer: self.clone() }
    }
}

// === Telemetry ===

impl<S, B, R> Service<Request<B>> for Telemetry<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    B: Body,
    R: Body,
{
    type Response = Response<TelemetryBody<R>>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let TelemetryLayer { instruments: Some(instruments), options } = self.layer.clone() else {
            return ResponseFuture { response: self.inner.call(request), attempt: None };
        };
        let attempt = Ongoing::begin(instruments, &mut request, options);
        let entered = attempt.span.enter();
        if options.trace_context {
            propagation::inject(request.headers_mut());
        }
        let response = self.inner.call(request);
        drop(entered);
        ResponseFuture { response, attempt: Some(attempt) }
    }
}

// === ResponseFuture ===

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body,
{
    type Output = Result<Response<TelemetryBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = {
            let _entered = this.attempt.as_ref().map(|attempt| attempt.span.enter());
            ready!(this.response.poll(cx)).map_err(Into::into)
        };
        let mut attempt = this.attempt.take();
        if let Some(attempt) = &mut attempt {
            match &result {
                Ok(response) => attempt.answered(response),
                Err(error) => attempt.failed(&**error),
            }
        }
        Poll::Ready(result.map(|response| response.map(|body| TelemetryBody::new(body, attempt))))
    }
}
