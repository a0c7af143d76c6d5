//! The [`Client`](crate::Client) for programs without a runtime.
//!
//! ```no_run
//! use outbound::{Client, ClientExt};
//!
//! # fn call() -> Result<(), outbound::BoxError> {
//! let client = Client::builder().base_url("https://api.example.com").build_blocking()?;
//! let items: Vec<String> = client.get("/items").send()?.error_for_status()?.json()?;
//! # drop(items);
//! # Ok(())
//! # }
//! ```
//!
//! Same builder, same settings, same stack: it runs on a thread of its own, which drives all connections, and a call blocks the
//! thread that makes it. Any number of threads may share a client.
//!
//! - **Use it** in scripts, tests, and threads of your own.
//! - **Do not use it** inside a Tokio runtime, `spawn_blocking` included: its calls fail there with [`InsideRuntime`], where they would have
//!   kept a worker from everything else.
//! - **Order:** none; it is the end of a stack.
//! - **Holds** one thread, from [`build_blocking`](crate::client::ClientBuilder::build_blocking) until the last clone and the last response
//!   have gone.
//! - **Errors:** those of [`Client`](crate::Client), and [`InsideRuntime`].
//! - **Panics:** none of its own.

use std::{
    error::Error,
    fmt, io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use outbound_core::{BoxError, InvalidRequest};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

use crate::{
    ClientExt, RequestBuilder, ResponseExt,
    client::{Client as AsyncClient, ClientBuilder, InvalidClient, ResponseBody as AsyncBody},
};

/// A client whose calls block: [`ClientBuilder::build_blocking`]. Its requests are made with [`ClientExt`] too.
#[derive(Clone, Debug)]
pub struct Client {
    client: AsyncClient,
    worker: Arc<Worker>,
}

/// A response whose methods block. It is also a reader of its body, of which it keeps no more than one frame.
///
/// Dropped before the end of its body, it closes its connection.
pub struct Response {
    response: http::Response<ResponseBody>,
    worker: Arc<Worker>,
}

/// The body of a [`Response`], from where it was [read](io::Read) to.
pub struct ResponseBody {
    /// What has come of it and was not read yet.
    chunk: Bytes,
    rest: Pin<Box<AsyncBody>>,
}

/// A blocking call was made inside a Tokio runtime, of which it would have kept a worker from everything else.
///
/// Use [`outbound::Client`](crate::Client) there, or a thread of your own.
///
/// **May the peer have acted on the request?** No, if it is `send` that failed, with an [`InvalidRequest`] because of this. Yes, if it is a
/// method of a [`Response`]: that has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InsideRuntime;

/// The thread that drives the connections. It ends with this.
#[derive(Debug)]
struct Worker {
    runtime: Handle,
    _stop: oneshot::Sender<()>,
}

impl ClientBuilder {
    /// The client, for programs without a runtime: see [`blocking`](self).
    ///
    /// # Errors
    /// As [`build`](Self::build); and if no thread can be had.
    #[track_caller]
    pub fn build_blocking(self) -> Result<Client, InvalidClient> {
        let client = self.build()?;
        let worker = Worker::start().map_err(|error| InvalidClient::new("build_blocking", error))?;
        Ok(Client { client, worker: Arc::new(worker) })
    }
}

// === Client ===

impl Client {
    /// The same client without blocking, to look at: its description, its pool. Its connections belong to this one's thread.
    pub fn as_async(&self) -> &AsyncClient {
        &self.client
    }

    /// Closes all connections, of all clones, and blocks until the last socket is closed: [`close`](AsyncClient::close).
    ///
    /// # Errors
    /// [`InsideRuntime`].
    pub fn close(&self) -> Result<(), BoxError> {
        Ok(self.worker.block_on(self.client.close())?)
    }
}

impl ClientExt for Client {}

impl crate::request::sealed::Sealed for Client {}

impl RequestBuilder<Client> {
    /// Sends it, and blocks until the head of the response is there.
    ///
    /// # Errors
    /// [`InsideRuntime`], [`InvalidRequest`] if it could not be made, and what the stack says.
    #[track_caller]
    pub fn send(self) -> Result<Response, BoxError> {
        let Client { client, worker } = self.service.clone();
        let sent = worker.block_on(self.over(client).send());
        let response =
            sent.map_err(|inside| InvalidRequest::new(InsideRuntime::PROBLEM).because(inside))??;
        let response = response.map(|body| ResponseBody { chunk: Bytes::new(), rest: Box::pin(body) });
        Ok(Response { response, worker })
    }
}

// === Response ===

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("status", &self.response.status()).finish_non_exhaustive()
    }
}

impl Response {
    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Its header fields.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// [`ResponseExt::bytes`].
    ///
    /// # Errors
    /// As there, and [`InsideRuntime`].
    pub fn bytes(self) -> Result<Bytes, BoxError> {
        self.worker.block_on(self.response.bytes())?
    }

    /// [`ResponseExt::bytes_within`].
    ///
    /// # Errors
    /// As there, and [`InsideRuntime`].
    pub fn bytes_within(self, limit: usize) -> Result<Bytes, BoxError> {
        self.worker.block_on(self.response.bytes_within(limit))?
    }

    /// [`ResponseExt::text`].
    ///
    /// # Errors
    /// As there, and [`InsideRuntime`].
    pub fn text(self) -> Result<String, BoxError> {
        self.worker.block_on(self.response.text())?
    }

    /// [`ResponseExt::text_within`].
    ///
    /// # Errors
    /// As there, and [`InsideRuntime`].
    pub fn text_within(self, limit: usize) -> Result<String, BoxError> {
        self.worker.block_on(self.response.text_within(limit))?
    }

    /// [`ResponseExt::json`].
    ///
    /// # Errors
    /// As there, and [`InsideRuntime`].
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned + Send + 'static>(self) -> Result<T, BoxError> {
        self.worker.block_on(self.response.json())?
    }

    /// [`ResponseExt::json_within`].
    ///
    /// # Errors
    /// As there, and [`InsideRuntime`].
    #[cfg(feature = "json")]
    pub fn json_within<T: serde::de::DeserializeOwned + Send + 'static>(
        self,
        limit: usize,
    ) -> Result<T, BoxError> {
        self.worker.block_on(self.response.json_within(limit))?
    }

    /// [`ResponseExt::error_for_status`].
    ///
    /// # Errors
    /// As there, and [`InsideRuntime`].
    pub fn error_for_status(self) -> Result<Self, BoxError> {
        let Self { response, worker } = self;
        let response = worker.block_on(response.error_for_status())??;
        Ok(Self { response, worker })
    }

    /// The response as it is without blocking. Its body needs the client's thread: keep the client for as long.
    ///
    /// To send it on, make a [`Body::stream`](crate::Body::stream) of its body. A [`Body::blocking_reader`](crate::Body::blocking_reader) of the
    /// response itself is read inside a runtime, and fails with [`InsideRuntime`].
    pub fn into_inner(self) -> http::Response<ResponseBody> {
        self.response
    }
}

/// Its errors are found in an [`io::Error`] by [`find`](crate::find) as anywhere else.
impl io::Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ResponseBody { chunk, rest } = self.response.body_mut();
        while chunk.is_empty() && !buffer.is_empty() {
            let frame = self.worker.block_on(rest.frame()).map_err(io::Error::other)?;
            match frame.transpose().map_err(io::Error::other)?.map(Frame::into_data) {
                None => break,
                Some(Ok(data)) => *chunk = data,
                Some(Err(_trailers)) => {}
            }
        }
        let length = buffer.len().min(chunk.len());
        chunk.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

// === ResponseBody ===

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.chunk.is_empty() {
            self.rest.as_mut().poll_frame(cx)
        } else {
            Poll::Ready(Some(Ok(Frame::data(mem::take(&mut self.chunk)))))
        }
    }

    fn is_end_stream(&self) -> bool {
        self.chunk.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (here, rest) = (self.chunk.len() as u64, self.rest.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(here));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(here));
        }
        hint
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

// === Worker ===

impl Worker {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new().name("outbound".to_owned()).spawn(move || {
            let _ = runtime.block_on(stopped);
            // Work on its blocking pool ends in its own time.
            runtime.shutdown_background();
        })?;
        Ok(Self { runtime: handle, _stop: stop })
    }

    fn block_on<F: Future>(&self, future: F) -> Result<F::Output, InsideRuntime> {
        if Handle::try_current().is_ok() {
            return Err(InsideRuntime);
        }
        Ok(self.runtime.block_on(future))
    }
}

// === InsideRuntime ===

impl InsideRuntime {
    const PROBLEM: &str = "a blocking call inside a Tokio runtime would stop one of its workers";
}

impl fmt::Display for InsideRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: use outbound::Client there, or a thread of your own", Self::PROBLEM)
    }
}

impl Error for InsideRuntime {}
