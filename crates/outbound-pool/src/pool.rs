//! The pool itself: a service, and a handle to look at it.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, Uri};
use outbound_core::{BoxError, Origin};
use tokio::{sync::Mutex, time::timeout};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use crate::{
    body::Body,
    call::ResponseFuture,
    config::{Builder, Http, Timeouts},
    connect::Connect,
    connection::Slots,
    events::Events,
    keeper::Keeper,
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
    pub(crate) keeper: Arc<Keeper>,
    /// Ends all dials.
    pub(crate) closing: CancellationToken,
    /// Held by the close that says when what goes on is cut off.
    closer: Mutex<()>,
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
        let keeper = Keeper::new(&slots);
        let (closing, closer) = (CancellationToken::new(), Mutex::new(()));
        let shared = Shared { slots, connector, limits, timeouts, http, keeper, closing, closer };
        Self { shared: Arc::new(shared) }
    }

    /// Connections and waiting calls, over all and per origin, and what has happened so far. Takes the pool's lock once.
    pub fn stats(&self) -> Stats {
        self.shared.slots.stats()
    }

    /// What happens to its connections from now on. Costs nothing before it was called for the first time.
    pub fn events(&self) -> Events {
        Events(self.shared.slots.events())
    }

    /// Closes the pool for all its clones, and waits until its last socket is closed.
    ///
    /// What is idle is closed at once; a call that waits, dials, or comes later fails with [`Closed`](crate::Closed)
    /// ([`Kind::Canceled`](outbound_core::Kind::Canceled), nothing sent, unless it dials in order to send a second time); an exchange
    /// that goes on may end within `limit`, then its socket is closed and it fails. What is out of the pool's hands (an upgraded
    /// connection, a dial whose future is neither polled nor dropped) is not waited for much longer.
    ///
    /// A second close waits for the same end, or until its own `limit`, and cuts nothing off as long as the first still waits.
    /// Dropped, this future leaves the pool closed, and what goes on to end by itself.
    pub async fn close(&self, limit: Duration) {
        let Shared { slots, keeper, closing, closer, .. } = &*self.shared;
        let first = closer.try_lock();
        slots.close();
        closing.cancel();
        let closed = || std::future::poll_fn(|cx| slots.poll_closed(cx));
        if timeout(limit, closed()).await.is_ok() {
            return;
        }
        if let Ok(_first) = first.or_else(|_| closer.try_lock()) {
            keeper.abort();
            let _ = timeout(GRACE, closed()).await;
        }
    }
}

impl<C: Connect> Pool<C> {
    /// Opens connections to the origin of `uri` until it has `connections`, at most as many as the limits leave room for; one is enough
    /// where it is shared (HTTP/2), and so is a dial of somebody else that is going on to an origin of which that is not known yet: it is
    /// not waited for. Returned is how many were opened. Dropped, it opens no more.
    ///
    /// # Errors
    /// [`InvalidOrigin`](outbound_core::InvalidOrigin) for a URI without scheme or host, else what the first dial that fails fails with: a
    /// [`TransportError`](outbound_core::TransportError).
    pub async fn prewarm(&self, uri: &Uri, connections: usize) -> Result<usize, BoxError> {
        self.shared.prewarm(&Origin::of(uri)?, connections).await
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

impl<C> Drop for Shared<C> {
    fn drop(&mut self) {
        self.slots.shut();
        self.keeper.stop();
    }
}

/// For sockets that were told to close, and tasks that were aborted.
const GRACE: Duration = Duration::from_millis(500);
