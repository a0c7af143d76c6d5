//! A limit on connections that are open.

use std::{
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use outbound_core::{BoxError, Overloaded, Phase};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    Connect, report,
    watched::{Watch, Watched},
};
use crate::InvalidConfig;

/// Lets only so many connections be open at once: a dial waits for a place, and the place is free when the socket has been closed.
///
/// ```
/// use outbound_pool::connect::{OpenLimitLayer, Tcp};
/// # use outbound_pool::connect::InMemory;
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), outbound_core::BoxError> {
/// let limit = OpenLimitLayer::new(1)?.max_waiting(0);
/// let connector = ServiceBuilder::new().layer(limit).service(Tcp::new());
/// # let connector = ServiceBuilder::new().layer(OpenLimitLayer::new(1)?.max_waiting(0)).service(InMemory::new(|io| async { drop(io) }));
///
/// let uri = http::Uri::from_static("http://a.example/");
/// let first = connector.clone().oneshot(uri.clone()).await?;
/// assert!(connector.clone().oneshot(uri.clone()).await.is_err());
/// drop(first);
/// assert!(connector.oneshot(uri).await.is_ok());
/// # Ok(())
/// # }
/// ```
///
/// - **Use it** under hyper-util's client, or wherever several pools share what one machine can open.
/// - **Do not use it** under one pool alone, whose own limits know which idle connection can make room. A client that keeps
///   connections idle keeps their places: with a limit of 50 and 50 idle ones to other hosts a dial waits until one expires.
///   Nor as reqwest's `connector_layer`: that takes a connection of its own type only, and so nothing that could notice its end.
/// - **Order:** anywhere among the connectors; it counts what is inside.
/// - **Holds** a place from before the dial until the I/O object has been dropped, or the dial has failed or been dropped. All
///   services of one layer, and their clones, share the places.
/// - **Errors:** [`Overloaded`] if too many wait already, or one has waited too long. Waiting is first come, first served; whoever
///   goes away makes room at once.
/// - **Panics** if polled outside a Tokio runtime with its timer on.
#[derive(Clone, Debug)]
pub struct OpenLimitLayer {
    places: Arc<Places>,
    max_waiting: usize,
    max_wait: Duration,
}

/// Lets only so many connections be open at once: [`OpenLimitLayer`].
#[derive(Clone, Debug)]
pub struct OpenLimit<S> {
    inner: S,
    limit: OpenLimitLayer,
}

/// The right to an open connection.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Places {
    free: Arc<Semaphore>,
    limit: usize,
    waiting: AtomicUsize,
}

/// One of those that wait.
struct Waiter<'a>(&'a Places);

// === OpenLimitLayer ===

impl OpenLimitLayer {
    /// At most `limit` connections at once.
    ///
    /// # Errors
    /// [`InvalidConfig::Zero`] if that is none.
    pub fn new(limit: usize) -> Result<Self, InvalidConfig> {
        if limit == 0 {
            return Err(InvalidConfig::Zero("the limit of open connections"));
        }
        let free = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
        let places = Arc::new(Places { free, limit, waiting: AtomicUsize::new(0) });
        Ok(Self { places, max_waiting: MAX_WAITING, max_wait: Duration::MAX })
    }

    /// How many dials may wait for a place; 1,024 by default. One more fails at once, and with 0 nobody waits.
    #[must_use]
    pub fn max_waiting(mut self, dials: usize) -> Self {
        self.max_waiting = dials;
        self
    }

    /// How long a dial may wait for a place; for ever by default, because what is outside has a limit of its own.
    #[must_use]
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = wait;
        self
    }

    async fn place(&self) -> Result<Place, Overloaded> {
        let places = &*self.places;
        if let Ok(permit) = places.free.clone().try_acquire_owned() {
            return Ok(Place { _permit: permit });
        }
        let overloaded = |waiting| Overloaded::new("the limit of open connections", places.limit, waiting);
        let waiter = Waiter::new(places, self.max_waiting).map_err(overloaded)?;
        report(Phase::Acquire);
        let since = Instant::now();
        let acquired = timeout(self.max_wait, places.free.clone().acquire_owned()).await;
        drop(waiter);
        match acquired {
            Ok(Ok(permit)) => {
                report(Phase::Connect);
                Ok(Place { _permit: permit })
            }
            _ => Err(overloaded(places.waiting.load(Relaxed)).waited(since.elapsed())),
        }
    }
}

impl<S> Layer<S> for OpenLimitLayer {
    type Service = OpenLimit<S>;

    fn layer(&self, inner: S) -> OpenLimit<S> {
        OpenLimit { inner, limit: self.clone() }
    }
}

// === OpenLimit ===

impl<S: Connect> Service<Uri> for OpenLimit<S> {
    type Response = TokioIo<Watched<S::Io, Place>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let fresh = self.inner.clone();
        let (mut ready, limit) = (mem::replace(&mut self.inner, fresh), self.limit.clone());
        Box::pin(async move {
            let place = limit.place().await?;
            let io = ready.call(uri).await.map_err(Into::into)?;
            Ok(TokioIo::new(Watched::new(io, place)))
        })
    }
}

// === Place ===

/// It only has to be there.
impl Watch for Place {}

// === Waiter ===

impl<'a> Waiter<'a> {
    /// Unless as many wait already: that many.
    fn new(places: &'a Places, max_waiting: usize) -> Result<Self, usize> {
        let one_more = |waiting| (waiting < max_waiting).then_some(waiting + 1);
        places.waiting.fetch_update(Relaxed, Relaxed, one_more).map(|_| Self(places))
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

const MAX_WAITING: usize = 1_024;
