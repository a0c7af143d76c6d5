//! A server's end of a connection, plain or encrypted.

use std::{
    io::{self, Read, Result},
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

use crate::Ended;

#[derive(Debug)]
pub(crate) enum Wire {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

// === Wire ===

impl Wire {
    pub(crate) fn new(socket: TcpStream) -> Self {
        // A dribbled byte is to leave when it is written.
        let _ = socket.set_nodelay(true);
        Wire::Plain(socket)
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Wire::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Wire::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Ends our side with FIN; with `goodbye`, TLS announces it.
    pub(crate) async fn fin(&mut self, goodbye: bool) {
        if goodbye {
            let _ = self.shutdown().await;
        } else {
            let _ = SockRef::from(self.socket()).shutdown(Shutdown::Write);
        }
    }

    /// Empties the kernel's receive buffer, so that dropping the socket does not reset it.
    pub(crate) fn drain(&self) {
        let mut socket = &*SockRef::from(self.socket());
        let mut scrap = [0; 8192];
        while matches!(socket.read(&mut scrap), Ok(1..)) {}
    }

    /// Makes dropping the socket reset it.
    pub(crate) fn reset_on_drop(&self) {
        let _ = SockRef::from(self.socket()).set_linger(Some(Duration::ZERO));
    }

    /// Resolves when the client has closed its side, without reading what it sent before.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) async fn closed(&self) -> Ended {
        use tokio::io::Interest;
        // Urgent data is never sent; what these interests report besides is “closed for reading” and errors.
        let interest = Interest::PRIORITY | Interest::ERROR;
        match self.socket().ready(interest).await {
            Ok(_) => match self.socket().take_error() {
                Ok(None) => Ended::ByPeerFin,
                _ => Ended::ByPeerReset,
            },
            Err(error) => ended_by(&error),
        }
    }

    /// Resolves when the client has closed its side; hidden here by bytes that nobody has read.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(crate) async fn closed(&self) -> Ended {
        match self.socket().peek(&mut [0]).await {
            Ok(0) => Ended::ByPeerFin,
            Ok(_) => std::future::pending().await,
            Err(error) => ended_by(&error),
        }
    }
}

/// Who ended a connection whose reading or writing failed.
pub(crate) fn ended_by(error: &io::Error) -> Ended {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Ended::ByPeerFin,
        _ => Ended::ByPeerReset,
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            Wire::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            #[cfg(feature = "tls")]
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        match self.get_mut() {
            Wire::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            #[cfg(feature = "tls")]
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            Wire::Plain(socket) => Pin::new(socket).poll_flush(cx),
            #[cfg(feature = "tls")]
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self.get_mut() {
            Wire::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            #[cfg(feature = "tls")]
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
