//! How a connection is opened: connectors, layers around them, and what they tell the pool.
//!
//! A connector is what hyper-util's client takes too: a `Service<Uri>` whose response reads, writes and implements
//! [`Connection`]. Those here are such connectors, and so is hyper-util's `HttpConnector`. They are stacked from the socket outwards:
//!
#![cfg_attr(
    all(feature = "proxy", feature = "webpki-roots"),
    doc = r"
```
use outbound_pool::{Pool, connect::{Matcher, Proxy, Tcp, Tls, public_only, webpki_roots}};

let connector = Tcp::new().admit(public_only); // no address that is inside
let connector = Proxy::new(connector, Matcher::from_env()); // through a proxy, if the environment says so
let connector = Tls::new(connector, webpki_roots()); // encrypted from here to the origin
let pool = Pool::builder().build(connector)?;
# Ok::<(), outbound_pool::InvalidConfig>(())
```"
)]
//!
//! | to connect … | take |
//! |---|---|
//! | over TCP | [`Tcp`] |
//! | and encrypt what is `https` | `Tls` around it, with `webpki_roots()`, `platform_verifier()` or a configuration of your own |
//! | with one version of HTTP only | `Tls::protocols` |
//! | through a proxy | `Proxy`, inside `Tls` (feature `proxy`) |
//! | to a Unix socket | `Unix` |
//! | to a server within the process, for tests | [`InMemory`] |
//!
//! | to have … | take |
//! |---|---|
//! | names resolved without blocking a thread | `Hickory` (feature `hickory`) |
//! | names resolved by a function of your own | [`Resolver::with_lookup`] if it blocks, else any `Service<Name>` |
//! | addresses refused before they are dialed | [`Tcp::admit`], with [`public_only`] or a rule of your own |
//! | a limit of time for a dial, under another client | [`ConnectTimeoutLayer`] |
//! | a limit of open connections, under another client | [`OpenLimitLayer`] |
//! | an account of connections and bytes | [`TrackLayer`] |
//!
//! What a connector does for a URI follows from the URI's origin and the connector alone: which proxy, which TLS configuration,
//! which protocols. So the pool keeps connections by origin, and two pools are what keeps two such choices apart.
//!
//! A connector that wants to do well by the pool does three things more, all optional: it calls [`report`] as it goes from phase to
//! phase, it adds a [`Liveness`] to its [`Connected`](hyper_util::client::legacy::connect::Connected), and it offers no HTTP/2 when
//! [`http1_only`] is true.

mod admit;
mod dial;
mod encrypted;
mod forwarding;
#[cfg(feature = "hickory")]
mod hickory;
mod in_memory;
mod open_limit;
#[cfg(feature = "proxy")]
mod proxy;
mod resolver;
mod socket;
mod tcp;
mod timeout;
#[cfg(feature = "rustls")]
mod tls;
mod track;
#[cfg(unix)]
mod unix;
mod watched;

pub use admit::{NotAdmitted, public_only};
pub use dial::{http1_only, report};
pub use encrypted::NotEncrypted;
pub use forwarding::ProxyAuthorization;
#[cfg(feature = "hickory")]
pub use hickory::Hickory;
#[cfg(feature = "hickory")]
pub use hickory_resolver;
#[cfg(feature = "proxy")]
pub use hyper_util::client::proxy::matcher::Matcher;
pub use in_memory::{InMemory, Pipe};
pub use open_limit::{OpenLimit, OpenLimitLayer, Place};
#[cfg(feature = "proxy")]
pub use proxy::{NoTunnel, Proxied, Proxy};
pub use resolver::{NotResolved, Resolver};
pub use socket::Socket;
pub use tcp::{NoAddress, Tcp};
pub use timeout::{ConnectTimeout, ConnectTimeoutLayer, Connecting};
#[cfg(feature = "platform-verifier")]
pub use tls::platform_verifier;
#[cfg(feature = "webpki-roots")]
pub use tls::webpki_roots;
#[cfg(feature = "rustls")]
pub use tls::{MaybeTls, NoHttp2, Protocols, Tls};
pub use track::{Meter, Track, TrackLayer, Tracked, Tracker, Traffic};
pub use watched::Watched;

#[cfg(unix)]
pub use unix::Unix;

pub(crate) use dial::{Dialed, Limits, Opening, Progress, kind_of};
pub(crate) use forwarding::Forwarding;

use std::{fmt, net::SocketAddr, sync::Arc};

use http::Uri;
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::Connection;
use outbound_core::BoxError;
use tower_service::Service;

/// Any connector that hyper-util's client would take. Implemented for all of them; not to be implemented by hand.
pub trait Connect:
    Service<Uri, Response = Self::Io, Error = Self::Failure, Future = Self::Opening>
    + Clone
    + Send
    + Sync
    + 'static
{
    /// What it opens.
    type Io: Read + Write + Connection + Unpin + Send + 'static;
    /// How it fails.
    type Failure: Into<BoxError>;
    /// Its future.
    type Opening: Future<Output = Result<Self::Io, Self::Failure>> + Send + 'static;
}

impl<S> Connect for S
where
    S: Service<Uri> + Clone + Send + Sync + 'static,
    S::Response: Read + Write + Connection + Unpin + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Io = S::Response;
    type Failure = S::Error;
    type Opening = S::Future;
}

/// Asks an idle connection's socket whether the peer has closed it, or said something nobody asked for.
///
/// A connector adds one with `Connected::extra`. Without it the pool learns of a close only when the runtime has polled the
/// socket, and what happens before that is left to the one transparent resend.
#[derive(Clone)]
pub struct Liveness(Arc<dyn Fn() -> bool + Send + Sync>);

/// The two ends of a connection; a connector adds it with `Connected::extra`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Ours.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
}

impl Liveness {
    /// `ask` must not block, and takes `true` for a connection that is open with nothing to read.
    pub fn new(ask: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// Whether the connection can be used.
    pub fn is_alive(&self) -> bool {
        (self.0)()
    }
}

impl fmt::Debug for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Liveness").finish_non_exhaustive()
    }
}
