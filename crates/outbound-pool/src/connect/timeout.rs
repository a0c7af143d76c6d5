//! A limit of time for a dial.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use outbound_core::{BoxError, Elapsed, Phase};
use pin_project_lite::pin_project;
use tokio::{
    task::futures::TaskLocalFuture,
    time::{Instant, Sleep, sleep},
};
use tower_layer::Layer;
use tower_service::Service;

use super::dial::within;

/// Gives up on dials that take too long, whatever they are doing: of any connector, under any client.
///
/// ```
/// use std::time::Duration;
/// use outbound_core::{Elapsed, Phase, find};
/// use outbound_pool::connect::ConnectTimeoutLayer;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let silent = service_fn(|_: http::Uri| std::future::pending::<Result<(), std::io::Error>>());
/// let connector = ServiceBuilder::new().layer(ConnectTimeoutLayer::new(Duration::from_secs(3))).service(silent);
///
/// let error = connector.oneshot(http::Uri::from_static("http://a.example/")).await.unwrap_err();
/// assert_eq!(find::<Elapsed>(&*error).unwrap().phase(), Phase::Connect);
/// assert_eq!(error.to_string(), "timed out after 3 s connecting");
/// # }
/// ```
///
/// - **Use it** under hyper-util's client, or as reqwest's `connector_layer`. [`Tcp`](super::Tcp) shares the limit among the
///   addresses of a name, as it does with the pool's.
/// - **Do not use it** under the pool, which has a limit for each phase.
/// - **Order:** around what it is to limit: around `Tls`, the handshake too.
/// - **Counts** from `call` until there is a connection: names, proxies and handshakes too.
/// - **Does not count** `poll_ready`.
/// - **Errors:** [`Elapsed`] in [`Phase::Connect`]; the connector's own pass untouched. A dial that is ready when the limit runs out
///   is ready.
/// - **Panics** if called outside a Tokio runtime with its timer on.
#[derive(Clone, Copy, Debug)]
pub struct ConnectTimeoutLayer {
    limit: Duration,
}

/// Gives up on dials that take too long: [`ConnectTimeoutLayer`].
#[derive(Clone, Copy, Debug)]
pub struct ConnectTimeout<S> {
    inner: S,
    limit: Duration,
}

/// A dial with a limit: of [`ConnectTimeout`]. In a box, because hyper-util's client asks for a future that can be moved.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Connecting<F>(Pin<Box<Limited<F>>>);

pin_project! {
    #[derive(Debug)]
    struct Limited<F> {
        #[pin]
        dial: TaskLocalFuture<Duration, F>,
        #[pin]
        sleep: Sleep,
        limit: Duration,
        since: Instant,
    }
}

// === ConnectTimeoutLayer ===

impl ConnectTimeoutLayer {
    /// A dial may take so long; `Duration::MAX` is no limit.
    pub const fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl<S> Layer<S> for ConnectTimeoutLayer {
    type Service = ConnectTimeout<S>;

    fn layer(&self, inner: S) -> ConnectTimeout<S> {
        ConnectTimeout { inner, limit: self.limit }
    }
}

// === ConnectTimeout ===

impl<S, T> Service<T> for ConnectTimeout<S>
where
    S: Service<T>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Connecting<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: T) -> Self::Future {
        let limit = self.limit;
        let dial = within(limit, self.inner.call(target));
        Connecting(Box::pin(Limited { dial, sleep: sleep(limit), limit, since: Instant::now() }))
    }
}

// === Connecting ===

impl<F, T, E> Future for Connecting<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.0.as_mut().project();
        if let Poll::Ready(dialed) = this.dial.poll(cx) {
            return Poll::Ready(dialed.map_err(Into::into));
        }
        ready!(this.sleep.poll(cx));
        Poll::Ready(Err(Elapsed::new(Phase::Connect, *this.limit).took(this.since.elapsed()).into()))
    }
}
