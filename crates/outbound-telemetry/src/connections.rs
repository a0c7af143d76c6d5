//! How long connections last: a layer for connectors, not for clients.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use opentelemetry::{
    KeyValue,
    metrics::{Histogram, Meter},
};
use outbound_core::Origin;
use smallvec::SmallVec;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::target::host;

/// Measures how long the connections of a connector last: `http.client.connection.duration`.
///
/// It goes around any connector of outbound-pool or of hyper-util's client, outside TLS:
///
/// ```
/// use outbound_pool::{Pool, connect::Tcp};
/// use outbound_telemetry::ConnectionsLayer;
/// use tower::Layer;
///
/// let meter = opentelemetry::global::meter("outbound");
/// let pool = Pool::builder().build(ConnectionsLayer::new(&meter).layer(Tcp::new()))?;
/// # assert_eq!(pool.stats().totals.opened, 0);
/// # Ok::<(), outbound_core::BoxError>(())
/// ```
///
/// `network.protocol.version` is told where TLS has negotiated HTTP/2; of any other connection, what is spoken on it is not known here.
#[derive(Clone, Debug)]
pub struct ConnectionsLayer {
    /// None is off.
    duration: Option<Histogram<f64>>,
}

/// What [`ConnectionsLayer`] makes of a connector.
#[derive(Clone, Debug)]
pub struct Connections<C> {
    inner: C,
    duration: Option<Histogram<f64>>,
}

pin_project_lite::pin_project! {
    /// A [`Measured`] connection to come.
    #[derive(Debug)]
    pub struct Connecting<F> {
        #[pin]
        dial: F,
        lifetime: Option<(Option<Origin>, Histogram<f64>)>,
    }
}

/// A connection whose lifetime is measured when it is dropped, which is when its socket closes.
#[derive(Debug)]
pub struct Measured<T> {
    // Before the measurement, so that the socket has gone when that is made.
    io: T,
    _lifetime: Option<Lifetime>,
}

#[derive(Debug)]
struct Lifetime {
    opened: Instant,
    attributes: SmallVec<[KeyValue; 3]>,
    duration: Histogram<f64>,
}

// === ConnectionsLayer ===

impl ConnectionsLayer {
    /// Measures by an instrument of `meter`.
    pub fn new(meter: &Meter) -> Self {
        let duration = meter
            .f64_histogram("http.client.connection.duration")
            .with_unit("s")
            .with_boundaries(CONNECTION_SECONDS.to_vec())
            .with_description("The duration of the successfully established outbound HTTP connections.")
            .build();
        Self { duration: Some(duration) }
    }

    /// Measures nothing: [`TelemetryLayer::off`](crate::TelemetryLayer::off) for connectors.
    pub fn off() -> Self {
        Self { duration: None }
    }
}

impl<C> Layer<C> for ConnectionsLayer {
    type Service = Connections<C>;

    fn layer(&self, inner: C) -> Self::Service {
        Connections { inner, duration: self.duration.clone() }
    }
}

// === Connections ===

impl<C> Service<Uri> for Connections<C>
where
    C: Service<Uri, Response: Connection>,
{
    type Response = Measured<C::Response>;
    type Error = C::Error;
    type Future = Connecting<C::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let lifetime = self.duration.clone().map(|duration| (Origin::of(&uri).ok(), duration));
        Connecting { dial: self.inner.call(uri), lifetime }
    }
}

impl<F, T, E> Future for Connecting<F>
where
    F: Future<Output = Result<T, E>>,
    T: Connection,
{
    type Output = Result<Measured<T>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let io = ready!(this.dial.poll(cx))?;
        let begin = |(origin, duration)| Lifetime::begin(&io.connected(), origin, duration);
        let _lifetime = this.lifetime.take().map(begin);
        Poll::Ready(Ok(Measured { io, _lifetime }))
    }
}

// === Measured ===

impl<T: Connection> Connection for Measured<T> {
    fn connected(&self) -> Connected {
        self.io.connected()
    }
}

impl<T: Read + Unpin> Read for Measured<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: Write + Unpin> Write for Measured<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

// === Lifetime ===

impl Lifetime {
    fn begin(connected: &Connected, origin: Option<Origin>, duration: Histogram<f64>) -> Self {
        let mut attributes = SmallVec::new();
        if let Some(origin) = origin {
            attributes.push(KeyValue::new("server.address", host(&origin).to_owned()));
            attributes.push(KeyValue::new("server.port", i64::from(origin.port())));
        }
        if connected.is_negotiated_h2() {
            attributes.push(KeyValue::new("network.protocol.version", "2"));
        }
        Self { opened: Instant::now(), attributes, duration }
    }
}

impl Drop for Lifetime {
    fn drop(&mut self) {
        self.duration.record(self.opened.elapsed().as_secs_f64(), &self.attributes);
    }
}

/// The boundaries that the conventions give for `http.client.connection.duration`.
const CONNECTION_SECONDS: [f64; 14] =
    [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
