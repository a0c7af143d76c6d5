//! The upstream that behaves.

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    future::Future,
    io::Result as IoResult,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
#[cfg(feature = "http2")]
use hyper::server::conn::http2;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
#[cfg(feature = "http2")]
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{
    Ended, Received, Upstream,
    sightings::{Entry, Page},
    wire::{Wire, ended_by},
};

/// A well-behaved upstream: hyper's server over a handler, which sees each request and makes its response.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use outbound_testkit::{Friendly, handler};
/// use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::TcpStream};
///
/// let upstream = Friendly::new(handler::hello).start();
/// let mut client = TcpStream::connect(upstream.addr()).await.unwrap();
/// client.write_all(b"GET /greeting HTTP/1.0\r\n\r\n").await.unwrap();
/// let mut response = String::new();
/// client.read_to_string(&mut response).await.unwrap();
/// assert!(response.ends_with("hello"));
/// assert_eq!(upstream.requests(1).await[0].target, "/greeting");
/// # }
/// ```
#[derive(Clone)]
#[must_use = "it listens once started"]
pub struct Friendly<H> {
    handler: H,
    own_thread: bool,
    http2: bool,
    #[cfg(feature = "tls")]
    tls: Option<crate::Certificate>,
}

/// A request body on its way to a handler; what the handler reads is noted.
#[derive(Debug)]
pub struct Upload {
    body: Incoming,
    page: Page,
    request: usize,
}

/// Notes how its socket ends.
struct Watched {
    // Dropped in this order: an entry says “ended” when the socket is gone.
    wire: Wire,
    entry: Entry,
}

// === Friendly ===

impl<H, F, B> Friendly<H>
where
    H: Fn(Request<Upload>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Lets `handler` answer every request.
    pub fn new(handler: H) -> Self {
        Friendly {
            handler,
            own_thread: false,
            http2: false,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Runs on a thread and runtime of its own: it goes on while the test's runtime is blocked, and Tokio's clock is the
    /// real one there.
    pub fn own_thread(mut self) -> Self {
        self.own_thread = true;
        self
    }

    /// Speaks HTTP/2, and nothing else.
    #[cfg(feature = "http2")]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Serves TLS with this certificate.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, certificate: crate::Certificate) -> Self {
        self.tls = Some(certificate);
        self
    }

    /// Starts listening on a free loopback port.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with I/O and time (unless on its own thread), or when no port is free.
    pub fn start(self) -> Upstream {
        let handler = Arc::new(self.handler);
        let http2 = self.http2;
        #[cfg(feature = "tls")]
        if let Some(certificate) = self.tls {
            let acceptor = certificate.acceptor();
            return Upstream::launch("https", self.own_thread, move |socket, entry| {
                let (handler, acceptor) = (handler.clone(), acceptor.clone());
                async move {
                    let Wire::Plain(socket) = Wire::new(socket) else {
                        unreachable!("nothing was encrypted yet")
                    };
                    match crate::tls::handshake(&acceptor, socket).await {
                        Ok(wire) => serve(wire, entry, handler, http2).await,
                        Err(ended) => entry.ended(ended),
                    }
                }
            });
        }
        Upstream::launch("http", self.own_thread, move |socket: TcpStream, entry| {
            serve(Wire::new(socket), entry, handler.clone(), http2)
        })
    }
}

impl<H> fmt::Debug for Friendly<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Friendly").finish_non_exhaustive()
    }
}

async fn serve<H, F, B>(wire: Wire, entry: Entry, handler: Arc<H>, http2: bool)
where
    H: Fn(Request<Upload>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let page = Page::clone(&entry);
    let note = page.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let response = handler(Upload::of(request, &note));
        async move { Ok::<_, Infallible>(response.await) }
    });
    let io = TokioIo::new(Watched { wire, entry });
    #[cfg(feature = "http2")]
    if http2 {
        // The tasks of its streams end with their connection: hyper watches for that.
        let server = http2::Builder::new(TokioExecutor::new());
        let mut connection = pin!(server.serve_connection(io, service));
        let _ = connection.as_mut().await;
        return page.ended(Ended::ByUsFin);
    }
    debug_assert!(!http2, "only a setter that is not compiled in says so");
    let mut connection = pin!(http1::Builder::new().serve_connection(io, service));
    let _ = connection.as_mut().await;
    // What is still open here, hyper gave up.
    page.ended(Ended::ByUsFin);
}

// === Upload ===

impl Upload {
    fn of(request: Request<Incoming>, page: &Page) -> Request<Upload> {
        let (parts, body) = request.into_parts();
        let index = page.request(Received {
            connection: page.number(),
            method: parts.method.clone(),
            target: parts.uri.to_string(),
            headers: parts.headers.clone(),
            body: Vec::new(),
            raw: Vec::new(),
            complete: body.is_end_stream(),
        });
        Request::from_parts(parts, Upload { body, page: page.clone(), request: index })
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let ended = frame.is_none() || this.body.is_end_stream();
        let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        this.page.update(this.request, |request| {
            request.body.extend_from_slice(data.map_or(&[], |data| data));
            request.complete |= ended && !matches!(frame, Some(Err(_)));
        });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === Watched ===

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<IoResult<()>> {
        let before = buf.remaining();
        let read = ready!(Pin::new(&mut self.wire).poll_read(cx, buf));
        match (&read, before - buf.remaining()) {
            (Ok(()), 0) if before > 0 => self.entry.ended(Ended::ByPeerFin),
            (Ok(()), n) => self.entry.connection(|connection| connection.bytes_in += n as u64),
            (Err(error), _) => self.entry.ended(ended_by(error)),
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<IoResult<usize>> {
        let written = ready!(Pin::new(&mut self.wire).poll_write(cx, buf));
        if let Err(error) = &written {
            self.entry.ended(ended_by(error));
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        self.entry.ended(Ended::ByUsFin);
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}
