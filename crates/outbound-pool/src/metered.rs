//! A connection's I/O with a counter, and with whatever has to outlive the socket.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Counts what passes: above the socket, below the protocol.
pub(crate) trait Meter {
    /// Fails if it was too much.
    fn read(&self, bytes: usize) -> io::Result<()>;

    /// `all` that there was, or a part of it.
    fn wrote(&self, bytes: usize, all: bool);

    /// All that there was to be written is written.
    fn flushed(&self) {}
}

pub(crate) struct Metered<T, M, S> {
    io: T,
    meter: Arc<M>,
    /// Declared last: dropped when the socket has been.
    _slot: S,
}

impl<T, M: Meter, S> Metered<T, M, S> {
    pub(crate) fn new(io: T, meter: Arc<M>, slot: S) -> Self {
        Self { io, meter, _slot: slot }
    }

    fn wrote(&self, written: Poll<io::Result<usize>>, offered: usize) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.meter.wrote(bytes, bytes == offered);
        }
        written
    }
}

impl<T: AsyncRead + Unpin, M: Meter, S: Unpin> AsyncRead for Metered<T, M, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        Poll::Ready(self.meter.read(buf.filled().len() - before))
    }
}

impl<T: AsyncWrite + Unpin, M: Meter, S: Unpin> AsyncWrite for Metered<T, M, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(written, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(written, bufs.iter().map(|buf| buf.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.meter.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
