//! TCP: resolve, then connect, each in its own phase.

use std::{
    borrow::Cow,
    error::Error,
    fmt,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{HttpConnector, dns::Name},
    rt::TokioIo,
};
use outbound_core::{BoxError, Phase};
use tower_service::Service;

use super::{NotAdmitted, Resolver, Socket, dial::connect_limit, encrypted::is_https, report};

/// Opens TCP connections: names by `R` (the system's resolver by default), addresses in parallel by Happy Eyeballs (RFC 8305,
/// hyper-util's), `TCP_NODELAY` on.
///
/// While two addresses race, one connection of the pool's count is two sockets.
#[derive(Clone, Debug)]
pub struct Tcp<R = Resolver> {
    resolver: R,
    happy_eyeballs: Duration,
    keepalive: Option<Duration>,
    local_address: Option<IpAddr>,
    admit: Option<Admit>,
    enforce_http: bool,
}

/// The name exists, but has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAddress;

/// What [`Tcp::admit`] was given.
#[derive(Clone)]
struct Admit(Arc<dyn Fn(SocketAddr) -> Result<(), Cow<'static, str>> + Send + Sync>);

// === Tcp ===

impl Tcp {
    /// Names resolved by the system.
    pub fn new() -> Self {
        Self::with_resolver(Resolver::default())
    }
}

impl<R> Tcp<R> {
    /// Names resolved by `resolver`: what hyper-util's `HttpConnector` takes.
    pub fn with_resolver(resolver: R) -> Self {
        let (happy_eyeballs, keepalive) = (HAPPY_EYEBALLS, Some(KEEPALIVE));
        Self { resolver, happy_eyeballs, keepalive, local_address: None, admit: None, enforce_http: true }
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

    /// Asks `hook` about each address, as it would be dialed: an error is the rule that the address breaks. Those that it does not
    /// admit are left out; where none is left the dial fails with [`NotAdmitted`].
    ///
    /// The addresses that it sees are those that are dialed, no matter what the name resolves to later, and an address in the URI is
    /// one of them. With a proxy in between they are the proxy's, and what is behind is the proxy's business. It must not block.
    ///
    /// [`public_only`](super::public_only) is ready-made.
    #[must_use]
    pub fn admit<F>(mut self, hook: F) -> Self
    where
        F: Fn(SocketAddr) -> Result<(), Cow<'static, str>> + Send + Sync + 'static,
    {
        self.admit = Some(Admit(Arc::new(hook)));
        self
    }

    /// Whether an `https` URI is refused with [`NotEncrypted`](super::NotEncrypted) unless `Tls` is around; `true` by default. Set it to
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
        let is_https = is_https(&uri, self.enforce_http)?;
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let host = uri.host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let mut addresses = if let Ok(ip) = bare.parse::<IpAddr>() {
            vec![SocketAddr::new(ip, port)]
        } else {
            report(Phase::Resolve);
            let resolved = self.resolver.call(host.parse()?).await.map_err(Into::into)?;
            let mut addresses: Vec<_> = resolved.collect();
            for address in &mut addresses {
                if uri.port().is_some() || address.port() == 0 {
                    address.set_port(port);
                }
            }
            addresses
        };
        if addresses.is_empty() {
            return Err(NoAddress.into());
        }
        report(Phase::Connect);
        if let Some(admit) = &self.admit {
            addresses = admit.among(addresses)?;
        }
        // It parses an address in the URI once more, to the same end.
        let addresses = Addrs(addresses);
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
        Ok(TokioIo::new(Socket::tcp(stream.into_inner())))
    }
}

/// A resolver that has resolved already.
#[derive(Clone, Debug, Default)]
struct Addrs(Vec<SocketAddr>);

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

// === Admit ===

impl Admit {
    /// Those of `addresses` that may be dialed, at least one.
    fn among(&self, mut addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, NotAdmitted> {
        let (mut first, mut others) = (None, 0);
        addresses.retain(|&address| match (self.0)(address) {
            Ok(()) => true,
            Err(rule) if first.is_none() => {
                first = Some((address, rule));
                false
            }
            Err(_) => {
                others += 1;
                false
            }
        });
        match first {
            Some((address, rule)) if addresses.is_empty() => Err(NotAdmitted::new(address, rule, others)),
            _ => Ok(addresses),
        }
    }
}

impl fmt::Debug for Admit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admit").finish_non_exhaustive()
    }
}

// === NoAddress ===

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name resolved to no address")
    }
}

impl Error for NoAddress {}

/// RFC 8305, section 5, recommends 250 ms; Go and hyper-util take 300.
const HAPPY_EYEBALLS: Duration = Duration::from_millis(300);
/// Ticks of Tokio's timer, rounded up.
const GRACE: Duration = Duration::from_millis(10);
/// Well below the minutes after which NATs and balancers forget a silent connection.
const KEEPALIVE: Duration = Duration::from_secs(60);
