//! A socket that can be asked whether it is alive while somebody else owns it.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use hyper_util::client::legacy::connect::{Connected, Connection};
use socket2::SockRef;
#[cfg(unix)]
use tokio::net::unix;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, tcp},
};

use super::{Addresses, Liveness};

/// An open socket that can be asked whether it is alive while somebody else owns it: its [`Liveness`].
#[derive(Debug)]
pub struct Socket<R = tcp::OwnedReadHalf, W = tcp::OwnedWriteHalf> {
    read: R,
    /// Shared with the [`Liveness`] alone, which asks only while nobody writes.
    write: Arc<Mutex<W>>,
}

/// An end of a socket that can be looked at without reading from it.
trait Peek: Send + 'static {
    /// What the reactor may not have seen yet: an end of stream, a reset, or bytes nobody asked for.
    fn peek(&self, buf: &mut [MaybeUninit<u8>]) -> io::Result<usize>;
}

// === Socket ===

impl Socket {
    pub(super) fn tcp(stream: TcpStream) -> Self {
        let (read, write) = stream.into_split();
        Self { read, write: Arc::new(Mutex::new(write)) }
    }
}

#[cfg(unix)]
impl Socket<unix::OwnedReadHalf, unix::OwnedWriteHalf> {
    pub(super) fn unix(stream: tokio::net::UnixStream) -> Self {
        let (read, write) = stream.into_split();
        Self { read, write: Arc::new(Mutex::new(write)) }
    }
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(liveness(&self.write));
        match (self.read.local_addr(), self.read.peer_addr()) {
            (Ok(local), Ok(remote)) => connected.extra(Addresses { local, remote }),
            _ => connected,
        }
    }
}

/// The ends of a Unix socket have no address that would tell anybody anything.
#[cfg(unix)]
impl Connection for Socket<unix::OwnedReadHalf, unix::OwnedWriteHalf> {
    fn connected(&self) -> Connected {
        Connected::new().extra(liveness(&self.write))
    }
}

impl<R: AsyncRead + Unpin, W: Unpin> AsyncRead for Socket<R, W> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().read).poll_read(cx, buf)
    }
}

impl<R: Unpin, W: AsyncWrite + Unpin> AsyncWrite for Socket<R, W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.write)).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.write)).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// A socket has nothing to flush.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.write)).poll_shutdown(cx)
    }
}

// === Peek ===

impl Peek for tcp::OwnedWriteHalf {
    fn peek(&self, buf: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        SockRef::from(self.as_ref()).peek(buf)
    }
}

#[cfg(unix)]
impl Peek for unix::OwnedWriteHalf {
    fn peek(&self, buf: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        SockRef::from(self.as_ref()).peek(buf)
    }
}

fn liveness<W: Peek>(write: &Arc<Mutex<W>>) -> Liveness {
    let write = Arc::downgrade(write);
    Liveness::new(move || {
        let Some(write) = write.upgrade() else { return false };
        let peeked = lock(&write).peek(&mut [MaybeUninit::uninit()]);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    })
}

fn lock<W>(write: &Mutex<W>) -> MutexGuard<'_, W> {
    write.lock().unwrap_or_else(PoisonError::into_inner)
}
