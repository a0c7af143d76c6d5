//! Connections that never leave the process.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use outbound_core::{BoxError, Phase};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex},
    task::AbortHandle,
};
use tower_service::Service;

use super::{Liveness, report};

/// Opens connections within the process: each is a pair of pipes, whose other end `serve` gets. For tests and benchmarks that
/// want a server and no network.
///
/// ```
/// use hyper::{Response, server::conn::http1, service::service_fn};
/// use hyper_util::rt::TokioIo;
/// use outbound_pool::{Pool, connect::InMemory};
/// # use http_body_util::{BodyExt, Empty};
/// # use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), outbound_core::BoxError> {
/// let connector = InMemory::new(async |io| {
///     let hello = service_fn(async |_| Ok::<_, hyper::Error>(Response::new("hello".to_owned())));
///     let _ = http1::Builder::new().serve_connection(TokioIo::new(io), hello).await;
/// });
/// let pool = Pool::builder().build(connector)?;
///
/// let request = http::Request::get("http://a.example/").body(Empty::<bytes::Bytes>::new())?;
/// let response = pool.oneshot(request).await?;
/// assert_eq!(response.into_body().collect().await?.to_bytes(), "hello");
/// # Ok(())
/// # }
/// ```
///
/// `serve` runs as a task of its own for each connection; when it ends, the connection is at its end. All URIs lead to it, `https`
/// too, unencrypted unless `Tls` is around: nothing is sent anywhere.
#[derive(Clone)]
pub struct InMemory<F> {
    serve: F,
    buffer: usize,
}

/// The client's end of a connection that [`InMemory`] has opened.
#[derive(Debug)]
pub struct Pipe {
    io: DuplexStream,
    served: AbortHandle,
}

// === InMemory ===

impl<F, S> InMemory<F>
where
    F: Fn(DuplexStream) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    /// The other end of each connection goes to `serve`.
    pub fn new(serve: F) -> Self {
        Self { serve, buffer: BUFFER }
    }
}

impl<F> InMemory<F> {
    /// How many bytes fit into each of the two pipes; 64 KiB by default.
    #[must_use]
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.buffer = bytes;
        self
    }
}

impl<F, S> Service<Uri> for InMemory<F>
where
    F: Fn(DuplexStream) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    type Response = TokioIo<Pipe>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        report(Phase::Connect);
        let (io, other) = duplex(self.buffer);
        let served = tokio::spawn((self.serve)(other)).abort_handle();
        std::future::ready(Ok(TokioIo::new(Pipe { io, served })))
    }
}

impl<F> fmt::Debug for InMemory<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InMemory").field("buffer", &self.buffer).finish_non_exhaustive()
    }
}

// === Pipe ===

impl Connection for Pipe {
    fn connected(&self) -> Connected {
        let served = self.served.clone();
        Connected::new().extra(Liveness::new(move || !served.is_finished()))
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
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

const BUFFER: usize = 64 * 1024;
