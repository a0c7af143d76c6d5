//! How a connection is opened: connectors, and what they tell the pool.
//!
//! A connector is what hyper-util's client takes too: a `Service<Uri>` whose response reads, writes and implements
//! [`Connection`]. [`Tcp`] and [`Tls`] are such connectors, and so is hyper-util's `HttpConnector`. One that wants to do well by
//! the pool does two things more, both optional: it calls [`report`] as it goes from phase to phase, and it adds a
//! [`Liveness`] to its [`Connected`](hyper_util::client::legacy::connect::Connected).

mod admit;
mod dial;
mod encrypted;
mod forwarding;
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
pub use dial::report;
pub use encrypted::NotEncrypted;
pub use forwarding::ProxyAuthorization;
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
