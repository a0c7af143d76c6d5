//! The trace that an inbound request belongs to.

use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, Request};
use opentelemetry::{
    global,
    propagation::Extractor,
    trace::{FutureExt, WithContext},
};
use tower_layer::Layer;
use tower_service::Service;

/// Makes the context that an **inbound** request brings (`traceparent` and `tracestate`, and what else the global propagator reads) the
/// current one while it is answered: so that spans made meanwhile are its children, and calls that leave meanwhile go on with its trace.
///
/// It goes around a server's service, outside whatever makes spans there. Only the response future is within the context; a task
/// that is spawned, or a response body, is not. Until the program has [set a propagator](global::set_text_map_propagator), it does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemoteContextLayer;

/// What [`RemoteContextLayer`] makes of a service.
#[derive(Clone, Copy, Debug)]
pub struct RemoteContext<S> {
    inner: S,
}

impl RemoteContextLayer {
    /// By the global propagator.
    pub fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for RemoteContextLayer {
    type Service = RemoteContext<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RemoteContext { inner }
    }
}

impl<S, B> Service<Request<B>> for RemoteContext<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = WithContext<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let context =
            global::get_text_map_propagator(|propagator| propagator.extract(&Headers::of(request.headers())));
        let _current = context.clone().attach();
        self.inner.call(request).with_context(context)
    }
}

struct Headers<'a> {
    fields: &'a HeaderMap,
    /// Each of [`LISTS`] that is in several fields, as the one that they stand for.
    joined: [Option<String>; LISTS.len()],
}

impl<'a> Headers<'a> {
    fn of(fields: &'a HeaderMap) -> Self {
        Self { fields, joined: LISTS.map(|name| joined(fields, name)) }
    }
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let joined = LISTS.iter().zip(&self.joined).find(|(name, _)| **name == key);
        joined.and_then(|(_, list)| list.as_deref()).or_else(|| self.fields.get(key)?.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.fields.keys().map(HeaderName::as_str).collect()
    }
}

/// The fields of `name` as one, if there are several.
fn joined(fields: &HeaderMap, name: &str) -> Option<String> {
    let fields = fields.get_all(name);
    fields.iter().nth(1)?;
    let values: Vec<_> = fields.iter().filter_map(|value| value.to_str().ok()).collect();
    Some(values.join(","))
}

/// Lists, which may be divided into several fields (RFC 9110, 5.3; W3C Trace Context, 3.3; W3C Baggage).
const LISTS: [&str; 2] = ["tracestate", "baggage"];
