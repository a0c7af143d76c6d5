//! TCP: resolve, then connect, each in its own phase.

use std::{
    error::Error,
    fmt, io,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::{Uri, uri::Scheme};
use hyper_util::{
    client::legacy::connect::{
        Connected, Connection, HttpConnector,
        dns::{GaiResolver, Name},
    },
    rt::TokioIo,
};
use outbound_core::{BoxError, Phase};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};
use tower_service::Service;

#[cfg(feature = "rustls")]
use super::tls::is_encrypted;
use super::{Addresses, Liveness, dial::connect_limit, report};

/// Opens TCP connections: names by `R` (the system's resolver by default), addresses in parallel by Happy Eyeballs (RFC 8305,
/// hyper-util's), `TCP_NODELAY` on.
///
/// While two addresses race, one connection of the pool's count is two sockets.
#[derive(Clone, Debug)]
pub struct Tcp<R = GaiResolver> {
    resolver: R,
    happy_eyeballs: Duration,
    keepalive: Option<Duration>,
    local_address: Option<IpAddr>,
    enforce_http: bool,
}

/// An open TCP connection that can be asked whether it is alive while somebody else owns it.
#[derive(Debug)]
pub struct Socket {
    read: OwnedReadHalf,
    /// Shared with the [`Liveness`] alone, which asks only while nobody writes.
    write: Arc<Mutex<OwnedWriteHalf>>,
}

/// The name exists, but has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAddress;

/// The URI is `https`, and nobody would encrypt the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotEncrypted;

// === Tcp ===

impl Tcp {
    /// Names resolved by the system.
    pub fn new() -> Self {
        Self::with_resolver(GaiResolver::new())
    }
}

impl<R> Tcp<R> {
    /// Names resolved by `resolver`: what hyper-util's `HttpConnector` takes.
    pub fn with_resolver(resolver: R) -> Self {
        let (happy_eyeballs, keepalive) = (HAPPY_EYEBALLS, Some(KEEPALIVE));
        Self { resolver, happy_eyeballs, keepalive, local_address: None, enforce_http: true }
    }

    /// How long the preferred address family is alone in the race; 300 ms by default.
    #[must_use]
    pub fn happy_eyeballs(mut self, head_start: Duration) -> Self {
        self.happy_eyeballs = head_start;
        self
    }

    /// How long a connection is silent until the kernel probes it; 60 s by default, `None` for never.
    #[must_use]
    pub fn keepalive(mut self, silence: Option<Duration>) -> Self {
        self.keepalive = silence;
        self
    }

    /// The address to connect from.
    #[must_use]
    pub fn local_address(mut self, address: IpAddr) -> Self {
        self.local_address = Some(address);
        self
    }

    /// Whether an `https` URI is refused with [`NotEncrypted`] unless `Tls` is around; `true` by default. Set it to
    /// `false` where somebody else encrypts what this opens.
    #[must_use]
    pub fn enforce_http(mut self, enforce: bool) -> Self {
        self.enforce_http = enforce;
        self
    }
}

impl Default for Tcp {
    fn default() -> Self {
        Self::new()
    }
}

impl<R> Service<Uri> for Tcp<R>
where
    R: Service<Name> + Clone + Send + 'static,
    R::Response: Iterator<Item = SocketAddr>,
    R::Error: Into<BoxError>,
    R::Future: Send,
{
    type Response = TokioIo<Socket>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.resolver.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let fresh = self.clone();
        let ready = std::mem::replace(self, fresh);
        Box::pin(ready.open(uri))
    }
}

impl<R> Tcp<R>
where
    R: Service<Name> + Send,
    R::Response: Iterator<Item = SocketAddr>,
    R::Error: Into<BoxError>,
    R::Future: Send,
{
    async fn open(mut self, uri: Uri) -> Result<TokioIo<Socket>, BoxError> {
        let is_https = uri.scheme() == Some(&Scheme::HTTPS);
        if is_https && self.enforce_http && !is_encrypted() {
            return Err(NotEncrypted.into());
        }
        let host = uri.host().unwrap_or_default();
        let is_address = host.starts_with('[') || host.parse::<IpAddr>().is_ok();
        let addresses = if is_address {
            Addrs::default()
        } else {
            report(Phase::Resolve);
            let resolved: Addrs = self.resolver.call(host.parse()?).await.map_err(Into::into)?.collect();
            if resolved.0.is_empty() {
                return Err(NoAddress.into());
            }
            resolved
        };
        report(Phase::Connect);
        let mut connector = HttpConnector::new_with_resolver(addresses);
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_keepalive(self.keepalive);
        connector.set_local_address(self.local_address);
        // Shared among the addresses, so that a silent one leaves time for the next; the pool's own timer ends the last.
        connector.set_connect_timeout(connect_limit().map(|limit| limit.saturating_add(GRACE)));
        connector.set_happy_eyeballs_timeout(Some(self.happy_eyeballs));
        let stream = connector.call(uri).await?;
        if is_https {
            // Whoever wraps this one encrypts it.
            report(Phase::Tls);
        }
        Ok(TokioIo::new(Socket::new(stream.into_inner())))
    }
}

/// A resolver that has resolved already.
#[derive(Clone, Debug, Default)]
struct Addrs(Vec<SocketAddr>);

impl FromIterator<SocketAddr> for Addrs {
    fn from_iter<I: IntoIterator<Item = SocketAddr>>(addresses: I) -> Self {
        Self(addresses.into_iter().collect())
    }
}

impl Service<Name> for Addrs {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        std::future::ready(Ok(std::mem::take(&mut self.0).into_iter()))
    }
}

// === Socket ===

impl Socket {
    fn new(stream: TcpStream) -> Self {
        let (read, write) = stream.into_split();
        Self { read, write: Arc::new(Mutex::new(write)) }
    }

    /// A peek tells what the reactor may not have seen yet: an end of stream, a reset, or bytes nobody asked for.
    fn liveness(&self) -> Liveness {
        let write = Arc::downgrade(&self.write);
        Liveness::new(move || {
            let Some(write) = write.upgrade() else { return false };
            let write = lock(&write);
            let peeked = SockRef::from(write.as_ref()).peek(&mut [MaybeUninit::uninit()]);
            peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        })
    }
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.liveness());
        match (self.read.local_addr(), self.read.peer_addr()) {
            (Ok(local), Ok(remote)) => connected.extra(Addresses { local, remote }),
            _ => connected,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().read).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
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

    /// A TCP socket has nothing to flush.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.write)).poll_shutdown(cx)
    }
}

#[cfg(not(feature = "rustls"))]
fn is_encrypted() -> bool {
    false
}

fn lock(write: &Mutex<OwnedWriteHalf>) -> MutexGuard<'_, OwnedWriteHalf> {
    write.lock().unwrap_or_else(PoisonError::into_inner)
}

// === NoAddress ===

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name resolved to no address")
    }
}

impl Error for NoAddress {}

// === NotEncrypted ===

impl fmt::Display for NotEncrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the URI is https, and the connector does not encrypt: put connect::Tls around it")
    }
}

impl Error for NotEncrypted {}

/// RFC 8305, section 5, recommends 250 ms; Go and hyper-util take 300.
const HAPPY_EYEBALLS: Duration = Duration::from_millis(300);
/// Ticks of Tokio's timer, rounded up.
const GRACE: Duration = Duration::from_millis(10);
/// Well below the minutes after which NATs and balancers forget a silent connection.
const KEEPALIVE: Duration = Duration::from_secs(60);
