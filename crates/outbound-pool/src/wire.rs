//! What passes over one connection, counted where it passes: below hyper, above the socket.

use std::{
    error::Error,
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use hyper_util::rt::TokioIo;
use outbound_core::{Exchange, Phase};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::upload::Rest;

/// The exchange that a connection carries now, as its socket, its request body and its owner see it.
#[derive(Debug)]
pub(crate) struct Wire {
    current: Mutex<Current>,
    /// Bytes that a response head may have.
    max_head: usize,
}

#[derive(Debug, Default)]
struct Current {
    exchange: Option<Exchange>,
    /// There is a request body, and hyper has not let go of it.
    uploading: bool,
    /// `Exchange::bytes_out` when this connection took it.
    base: u64,
    /// The request body, given back in a state in which it can be sent again.
    rest: Option<Rest>,
    /// `Exchange::bytes_in` at which a response head that is not complete is too large.
    enough: u64,
}

/// The response head, the interim responses (1xx; RFC 9110, 15.2) before it included, is larger than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadTooLarge {
    /// Bytes that are allowed.
    pub limit: usize,
}

/// A connection's I/O with its counter, and with whatever has to outlive the socket.
pub(crate) struct Metered<T, S> {
    io: TokioIo<T>,
    wire: Arc<Wire>,
    /// Declared last: dropped when the socket has been.
    _slot: S,
}

// === Wire ===

impl Wire {
    pub(crate) fn new(max_head: usize) -> Self {
        Self { current: Mutex::default(), max_head }
    }

    /// This connection carries `exchange` from now on.
    pub(crate) fn begin(&self, exchange: Exchange, has_body: bool) {
        let base = exchange.bytes_out();
        let enough = exchange.bytes_in().saturating_add(self.max_head as u64);
        *self.lock() = Current { exchange: Some(exchange), uploading: has_body, base, rest: None, enough };
    }

    /// It carries none any more.
    pub(crate) fn end(&self) {
        let ended = std::mem::take(&mut *self.lock());
        drop(ended);
    }

    /// Whether hyper has all of the request body that it wants.
    pub(crate) fn is_uploaded(&self) -> bool {
        !self.lock().uploading
    }

    /// Whether not a byte of the present request has been written to this connection.
    pub(crate) fn is_untouched(&self) -> bool {
        self.lock().is_untouched()
    }

    /// The request body has been asked for more, and had some or not: what it does not give the peer cannot take.
    pub(crate) fn fed(&self, fed: bool) {
        if let Some(exchange) = &self.lock().exchange {
            if fed { exchange.fed() } else { exchange.starved() }
        }
    }

    /// The request body is at its end.
    pub(crate) fn uploaded(&self) {
        self.lock().uploading = false;
    }

    /// hyper has let go of the request body: at its announced length, which may be before it says that it is over, or with its
    /// connection. `rest` is what can be sent again.
    pub(crate) fn cut_off(&self, rest: Option<Rest>) {
        let mut current = self.lock();
        current.uploading = false;
        let replaced = std::mem::replace(&mut current.rest, rest);
        drop(current);
        drop(replaced);
    }

    /// The request body that was given back.
    pub(crate) fn take_rest(&self) -> Option<Rest> {
        self.lock().rest.take()
    }

    fn wrote(&self, bytes: usize) {
        if let Some(exchange) = &self.lock().exchange {
            exchange.wrote(bytes);
        }
    }

    fn read(&self, bytes: usize) {
        if let Some(exchange) = &self.lock().exchange {
            exchange.read(bytes);
        }
    }

    /// hyper wants to read more. It takes any number of interim responses, without ever turning back to the runtime when they come
    /// fast enough; so this is where that ends.
    fn may_read(&self) -> io::Result<()> {
        let current = self.lock();
        let is_too_large =
            |exchange: &Exchange| exchange.bytes_in() >= current.enough && exchange.phase() < Phase::Body;
        match current.exchange.as_ref().is_some_and(is_too_large) {
            true => Err(io::Error::other(HeadTooLarge { limit: self.max_head })),
            false => Ok(()),
        }
    }

    /// All that hyper had to write is written: if that was the end of the request, the wait for the response begins.
    fn flushed(&self) {
        let current = self.lock();
        if let Some(exchange) = &current.exchange
            && exchange.phase() == Phase::Send
            && !current.uploading
            && !current.is_untouched()
        {
            exchange.enter(Phase::Head);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn is_untouched(&self) -> bool {
        self.exchange.as_ref().is_none_or(|exchange| exchange.bytes_out() == self.base)
    }
}

// === HeadTooLarge ===

impl fmt::Display for HeadTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the head of the response, interim responses included, exceeds {} bytes", self.limit)
    }
}

impl Error for HeadTooLarge {}

// === Metered ===

impl<T, S> Metered<T, S> {
    pub(crate) fn new(io: T, wire: Arc<Wire>, slot: S) -> Self {
        Self { io: TokioIo::new(io), wire, _slot: slot }
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.wire.wrote(bytes);
        }
        written
    }
}

impl<T: hyper::rt::Read + Unpin, S: Unpin> AsyncRead for Metered<T, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.wire.may_read()?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.wire.read(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<T: hyper::rt::Write + Unpin, S: Unpin> AsyncWrite for Metered<T, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.wire.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
