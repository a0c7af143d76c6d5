//! An I/O object with somebody who watches what passes over it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::rt::{Read, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Somebody who watches.
pub(super) trait Watch {
    /// This was read; nothing is the end.
    fn read(&self, _read: &[u8]) {}

    /// So many bytes were written.
    fn wrote(&self, _bytes: usize) {}

    /// Reading or writing failed.
    fn failed(&self, _error: &io::Error) {}
}

/// A connection that is watched, or that holds something until its socket has been closed.
#[derive(Debug)]
pub struct Watched<T, W> {
    io: TokioIo<T>,
    /// Dropped after the socket.
    watch: W,
}

impl<T, W> Watched<T, W> {
    pub(super) fn new(io: T, watch: W) -> Self {
        Self { io: TokioIo::new(io), watch }
    }

    /// The connection, which nobody watches any more.
    #[cfg(feature = "proxy")]
    pub(super) fn into_inner(self) -> T {
        self.io.into_inner()
    }
}

impl<T: Connection, W> Connection for Watched<T, W> {
    fn connected(&self) -> Connected {
        self.io.inner().connected()
    }
}

impl<T: Read + Unpin, W: Watch + Unpin> AsyncRead for Watched<T, W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, has_room) = (buf.filled().len(), buf.remaining() > 0);
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        match &polled {
            Poll::Ready(Ok(())) if has_room => self.watch.read(&buf.filled()[before..]),
            Poll::Ready(Err(error)) => self.watch.failed(error),
            _ => {}
        }
        polled
    }
}

impl<T: Write + Unpin, W: Watch + Unpin> AsyncWrite for Watched<T, W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        wrote(&self.watch, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        wrote(&self.watch, polled)
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

fn wrote(watch: &impl Watch, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    match &polled {
        Poll::Ready(Ok(bytes)) => watch.wrote(*bytes),
        Poll::Ready(Err(error)) => watch.failed(error),
        Poll::Pending => {}
    }
    polled
}
