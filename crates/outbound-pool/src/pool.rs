//! The pool itself: a service, and a handle to look at it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use http::{Request, Response};
use outbound_core::BoxError;
use tower_service::Service;

use crate::{
    body::Body,
    call::ResponseFuture,
    config::{Builder, Http, Timeouts},
    connect::Connect,
    connection::Slots,
    reaper::Reaper,
    slots::Limits,
    stats::Stats,
};

/// A pool of connections, as a `Service<Request<B>>` for any body `B`.
///
/// Clones share it. It is always ready: a call waits for its connection inside the response future, where waiting can be
/// cancelled, is bounded by [`Builder::acquire_timeout`] and the request's [`Deadline`](outbound_core::Deadline), and is turned
/// away beyond [`Builder::max_waiting`]. (So `tower::load_shed` above a pool never sheds.)
///
/// When the last clone and the last call have gone, every idle connection is closed; what is still in use when its body ends.
pub struct Pool<C> {
    shared: Arc<Shared<C>>,
}

pub(crate) struct Shared<C> {
    pub(crate) slots: Arc<Slots>,
    pub(crate) connector: C,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) http: Http,
    pub(crate) reaper: Arc<Reaper>,
    ids: AtomicU64,
}

// === Pool ===

impl Pool<()> {
    /// The limits of a pool to be, at their defaults.
    pub const fn builder() -> Builder {
        Builder::new()
    }
}

impl<C> Pool<C> {
    pub(crate) fn new(connector: C, limits: Limits, timeouts: Timeouts, http: Http) -> Self {
        let slots = Slots::new(limits);
        let reaper = Reaper::new(&slots, timeouts.idle);
        let ids = AtomicU64::new(1);
        Self { shared: Arc::new(Shared { slots, connector, limits, timeouts, http, reaper, ids }) }
    }

    /// Connections and waiting calls, over all and per origin, and what has happened so far. Takes the pool's lock once.
    pub fn stats(&self) -> Stats {
        self.shared.slots.stats()
    }
}

impl<C, B> Service<Request<B>> for Pool<C>
where
    C: Connect,
    B: http_body::Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture<C>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ResponseFuture::new(self.shared.clone(), request)
    }
}

impl<C> Clone for Pool<C> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<C> fmt::Debug for Pool<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("limits", &self.shared.limits)
            .field("timeouts", &self.shared.timeouts)
            .finish()
    }
}

// === Shared ===

impl<C> Shared<C> {
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Relaxed)
    }
}

impl<C> Drop for Shared<C> {
    fn drop(&mut self) {
        self.slots.shut();
        self.reaper.stop();
    }
}
