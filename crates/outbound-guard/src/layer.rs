//! The layer and its service.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    body::GuardedBody,
    builder::Builder,
    detector::LeakDetector,
    future::ResponseFuture,
    guard::Guard,
    reclaim::{Mode, Observe},
};

/// Watches over every call of a service, from the call to the end of the response body.
#[derive(Clone, Debug)]
pub struct LeakGuardLayer<M = Observe> {
    guard: Arc<Guard>,
    mode: M,
}

/// What [`LeakGuardLayer`] makes of a service.
///
/// When its last clone is dropped while bodies of its responses are open, that is [`Leak::ClientDropped`](crate::Leak::ClientDropped).
/// Calls whose response is to come do not count: `client.oneshot(request)` drops the client in their midst. A layer outside that keeps
/// a clone until the response is out, as a retry layer does, makes that call look like a leak: there, let what your users hold keep a
/// [`ClientHandle`].
#[derive(Clone, Debug)]
pub struct LeakGuard<S, M = Observe> {
    inner: S,
    client: Arc<Client>,
    mode: M,
}

/// For a client to keep that has its guarded service somewhere inside: [`LeakDetector::client`].
#[derive(Clone, Debug)]
pub struct ClientHandle {
    _client: Arc<Client>,
}

/// What all clones of a service have in common, or of a handle.
#[derive(Debug)]
struct Client {
    /// Of the service; a handle is for all of them.
    number: Option<usize>,
    guard: Arc<Guard>,
}

// === LeakGuardLayer ===

impl LeakGuardLayer {
    /// A layer with the defaults of the [`builder`](Self::builder), and the handle to see what it sees.
    pub fn pair() -> (Self, LeakDetector) {
        Self::builder().pair()
    }

    /// The options.
    pub fn builder() -> Builder {
        Builder::new()
    }
}

impl<M> LeakGuardLayer<M> {
    pub(crate) fn new(guard: Arc<Guard>, mode: M) -> Self {
        Self { guard, mode }
    }
}

impl<S, M: Clone> Layer<S> for LeakGuardLayer<M> {
    type Service = LeakGuard<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        let client = Client { number: Some(self.guard.next_client()), guard: self.guard.clone() };
        LeakGuard { inner, client: Arc::new(client), mode: self.mode.clone() }
    }
}

// === LeakGuard ===

impl<S, M, B, R> Service<Request<B>> for LeakGuard<S, M>
where
    S: Service<Request<B>, Response = Response<R>>,
    M: Mode<R>,
    M::Body: Body,
{
    type Response = Response<GuardedBody<M::Body>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, M>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Client { number, guard } = &*self.client;
        let ticket = guard.enter(number.unwrap_or_default(), &request);
        ResponseFuture::new(self.inner.call(request), ticket, self.mode.clone())
    }
}

// === ClientHandle ===

impl ClientHandle {
    pub(crate) fn new(guard: Arc<Guard>) -> Self {
        guard.has_handle();
        Self { _client: Arc::new(Client { number: None, guard }) }
    }
}

// === Client ===

impl Drop for Client {
    fn drop(&mut self) {
        self.guard.client_dropped(self.number);
    }
}
