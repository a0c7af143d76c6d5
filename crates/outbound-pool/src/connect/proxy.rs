//! Through a proxy, where the environment or somebody else says so.

use std::{
    error::Error,
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use http::{StatusCode, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::{
        legacy::connect::{
            Connected, Connection,
            proxy::{SocksV4, SocksV5, Tunnel},
        },
        proxy::matcher::{Intercept, Matcher},
    },
    rt::TokioIo,
};
use outbound_core::{AtProxy, BoxError, Kind, Phase};
use tower_service::Service;

use super::{
    Connect, ProxyAuthorization,
    encrypted::{For, is_https},
    report,
    watched::{Watch, Watched},
};

/// Opens connections through the proxy that a [`Matcher`] names for the URI, and directly where it names none.
///
/// ```no_run
/// use outbound_pool::{Pool, connect::{Matcher, Proxy, Tcp, Tls, webpki_roots}};
///
/// // HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, as curl reads them.
/// let connector = Tls::new(Proxy::new(Tcp::new(), Matcher::from_env()), webpki_roots());
/// let pool = Pool::builder().build(connector)?;
///
/// // Or one proxy for all but what is inside, itself spoken to over TLS.
/// let matcher = Matcher::builder().all("https://user:password@proxy.example").no("localhost, .internal").build();
/// let to_proxy = Tls::new(Tcp::new(), webpki_roots());
/// let pool = Pool::builder().build(Tls::new(Proxy::new(to_proxy, matcher), webpki_roots()))?;
/// # Ok::<(), outbound_pool::InvalidConfig>(())
/// ```
///
/// | proxy | `https` URI | `http` URI |
/// |---|---|---|
/// | `http://`, or no scheme | a tunnel by CONNECT (RFC 9110, 9.3.6) | forwards each request (RFC 9112, 3.2.2) |
/// | `https://` | likewise, encrypted by an inner `Tls` | likewise |
/// | `socks5://`, `socks5h://` | a SOCKS 5 tunnel (RFC 1928, 1929) | likewise |
/// | `socks4://`, `socks4a://` | a SOCKS 4a tunnel, without credentials | likewise |
///
/// - **Order:** inside `Tls`, which encrypts from here to the origin through the tunnel; outside of what opens sockets. Whatever is
///   inside sees the proxy's address: a hook of [`Tcp::admit`](super::Tcp::admit), say.
/// - **Names** are resolved by the proxy, under `socks5` and `socks4` too.
/// - **Credentials** in a proxy's URI go to that proxy and nowhere else; no error and no `Debug` shows them.
/// - **The environment** is read once, by `Matcher::from_env`. In a CGI script, where `REQUEST_METHOD` is set, no variable counts,
///   because `HTTP_PROXY` may be a request's header there (<https://httpoxy.org>). A value that is no proxy's URI counts as none, and
///   `NO_PROXY=*` is all names but not all addresses.
/// - **Isolation:** which proxy, if any, and with which credentials, follows from the URI's origin alone as long as the connector
///   lives. So a pool, which keeps connections by origin, never uses one for another proxy. It takes two pools to have two.
/// - **Errors:** [`NoTunnel`] if the proxy will not, or what its dial failed with; both within an
///   [`AtProxy`](outbound_core::AtProxy). Nothing was sent.
#[derive(Clone, Debug)]
pub struct Proxy<C> {
    inner: C,
    matcher: Arc<Matcher>,
    enforce_http: bool,
}

/// What [`Proxy`] has opened.
#[derive(Debug)]
pub struct Proxied<T> {
    io: T,
    /// Requests go to a proxy that forwards them, perhaps to those only who show this.
    forwarding: Option<Option<ProxyAuthorization>>,
}

/// The proxy was there and opened no tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoTunnel {
    /// It answered so. [`PROXY_AUTHENTICATION_REQUIRED`](StatusCode::PROXY_AUTHENTICATION_REQUIRED): it wants other credentials.
    Answered(StatusCode),
    /// It speaks SOCKS, and this is its reason.
    Socks(String),
    /// It closed the connection.
    Closed,
    /// What it said is no HTTP.
    Garbled,
}

// === Proxy ===

impl<C> Proxy<C> {
    /// What `matcher` names is dialed by `inner`, and so is everything that it does not name.
    pub fn new(inner: C, matcher: Matcher) -> Self {
        Self { inner, matcher: Arc::new(matcher), enforce_http: true }
    }

    /// Whether an `https` URI is refused with [`NotEncrypted`](super::NotEncrypted) unless `Tls` is around; `true` by default.
    /// Set it to `false` where somebody else encrypts what this opens.
    #[must_use]
    pub fn enforce_http(mut self, enforce: bool) -> Self {
        self.enforce_http = enforce;
        self
    }
}

impl<C: Connect> Service<Uri> for Proxy<C> {
    type Response = Proxied<C::Io>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let enforce_http = self.enforce_http;
        let Some(proxy) = self.matcher.intercept(&uri) else {
            let opening = self.inner.call(uri);
            return Box::pin(async move {
                Ok(Proxied { io: opening.await.map_err(Into::into)?, forwarding: None })
            });
        };
        let opening = door(proxy.uri()).map(|door| For::Proxy.open(self.inner.call(door)));
        Box::pin(async move {
            let is_https = is_https(&uri, enforce_http)?;
            let through = async {
                let io = opening?.await.map_err(Into::into)?;
                report(Phase::Connect);
                enter(&proxy, io, &uri, is_https).await
            };
            let proxied = through.await.map_err(|error| AtProxy::new(name(proxy.uri()), error))?;
            if is_https {
                // Whoever wraps this one encrypts it.
                report(Phase::Tls);
            }
            Ok(proxied)
        })
    }
}

/// Speaks to `proxy` over `io`, until what is said next is meant for whom `uri` names.
async fn enter<T>(proxy: &Intercept, io: T, uri: &Uri, is_https: bool) -> Result<Proxied<T>, BoxError>
where
    T: Read + Write + Unpin + Send + 'static,
{
    let is_socks = proxy.uri().scheme_str().is_some_and(|scheme| scheme.starts_with("socks"));
    if !is_socks && !is_https {
        let authorization = proxy.basic_auth().cloned().map(ProxyAuthorization::new);
        return Ok(Proxied { io, forwarding: Some(authorization) });
    }
    let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    let target = at_port(uri.scheme_str().unwrap_or_default(), uri, port)?;
    let heard = Arc::new(Heard::default());
    let ready = Ready(Some(TokioIo::new(Watched::new(io, heard.clone()))));
    let entered = match proxy.uri().scheme_str() {
        Some("socks4" | "socks4a") => {
            SocksV4::new(Uri::default(), ready).call(target).await.map_err(|error| error.to_string())
        }
        Some("socks5" | "socks5h") => {
            let mut socks = SocksV5::new(Uri::default(), ready);
            if let Some((user, password)) = proxy.raw_auth() {
                socks = socks.with_auth(user.to_owned(), password.to_owned());
            }
            socks.call(target).await.map_err(|error| error.to_string())
        }
        _ => {
            let mut tunnel = Tunnel::new(Uri::default(), ready);
            if let Some(authorization) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(authorization.clone());
            }
            tunnel.call(target).await.map_err(|error| error.to_string())
        }
    };
    match entered {
        Ok(io) => Ok(Proxied { io: io.into_inner().into_inner(), forwarding: None }),
        Err(said) => Err(heard.lock().why(&said, is_socks)),
    }
}

/// Where to dial `proxy`: its URI, with a scheme that any connector knows.
fn door(proxy: &Uri) -> Result<Uri, http::Error> {
    let (scheme, port) = match proxy.scheme_str() {
        Some("https") => ("https", 443),
        Some("http") => ("http", 80),
        // RFC 1928, 3.
        _ => ("http", 1080),
    };
    at_port(scheme, proxy, proxy.port_u16().unwrap_or(port))
}

fn at_port(scheme: &str, uri: &Uri, port: u16) -> Result<Uri, http::Error> {
    let authority = format!("{}:{port}", uri.host().unwrap_or_default());
    Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build()
}

/// The proxy without credentials, which a matcher has taken out, and without a path.
fn name(proxy: &Uri) -> String {
    let authority = proxy.authority().map_or("", |authority| authority.as_str());
    format!("{}://{authority}", proxy.scheme_str().unwrap_or_default())
}

/// A connector that has connected already: what fails before is our own, and so is what has a type.
struct Ready<T>(Option<T>);

impl<T> Service<Uri> for Ready<T> {
    type Response = T;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<T>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        std::future::ready(self.0.take().ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

// === Heard ===

/// What a proxy was heard to say, and how that ended: hyper-util's errors keep little of it.
#[derive(Default)]
struct Heard(Mutex<Said>);

#[derive(Default)]
struct Said {
    /// The beginning: enough for a status line.
    first: Vec<u8>,
    ended: bool,
    failed: Option<io::Error>,
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Arc<Heard> {
    fn read(&self, read: &[u8]) {
        let mut said = self.lock();
        let room = ENOUGH.saturating_sub(said.first.len());
        said.first.extend_from_slice(&read[..read.len().min(room)]);
        said.ended |= read.is_empty();
    }

    fn failed(&self, error: &io::Error) {
        let copy = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
        self.lock().failed = Some(copy);
    }
}

impl Said {
    /// Why there is no tunnel; `error` is what hyper-util makes of it.
    fn why(&mut self, error: &str, is_socks: bool) -> BoxError {
        if let Some(error) = self.failed.take() {
            return error.into();
        }
        if self.ended {
            return NoTunnel::Closed.into();
        }
        if is_socks {
            let reason = error.strip_prefix("SOCKS error: ").unwrap_or(error);
            return NoTunnel::Socks(reason.to_owned()).into();
        }
        self.status().map_or(NoTunnel::Garbled, NoTunnel::Answered).into()
    }

    /// `HTTP/1.x NNN …` (RFC 9112, 4).
    fn status(&self) -> Option<StatusCode> {
        let rest = self.first.strip_prefix(b"HTTP/1.")?.get(1..)?;
        let digits = rest.strip_prefix(b" ")?.get(..3)?;
        StatusCode::from_bytes(digits).ok()
    }
}

// === Proxied ===

impl<T: Connection> Connection for Proxied<T> {
    fn connected(&self) -> Connected {
        let connected = self.io.connected();
        match &self.forwarding {
            Some(Some(authorization)) => connected.proxy(true).extra(authorization.clone()),
            Some(None) => connected.proxy(true),
            None => connected,
        }
    }
}

impl<T: Read + Unpin> Read for Proxied<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: Write + Unpin> Write for Proxied<T> {
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

// === NoTunnel ===

impl NoTunnel {
    /// What it is to the caller: whether another try may help, above all.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Closed => Kind::Closed,
            Self::Garbled => Kind::Protocol,
            // The same request will be refused again, except where the proxy is short of something.
            Self::Answered(StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => Kind::Refused,
            Self::Answered(status) if status.is_client_error() => Kind::Invalid,
            Self::Answered(_) => Kind::Refused,
            Self::Socks(reason) => {
                let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
                if has(&["unreachable"]) {
                    Kind::Unreachable
                } else if has(&["parsing"]) {
                    Kind::Protocol
                } else if has(&["authentication", "credentials", "not allowed", "not support", "255"]) {
                    Kind::Invalid
                } else {
                    Kind::Refused
                }
            }
        }
    }
}

impl fmt::Display for NoTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(status) => write!(f, "the proxy answered {status}"),
            Self::Socks(reason) => write!(f, "the proxy says: {reason}"),
            Self::Closed => f.write_str("the proxy closed the connection"),
            Self::Garbled => f.write_str("what the proxy says is no HTTP"),
        }
    }
}

impl Error for NoTunnel {}

const ENOUGH: usize = 16;
