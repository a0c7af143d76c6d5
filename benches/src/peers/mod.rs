//! Everybody who is asked, behind one face.

pub(crate) mod cache;
pub(crate) mod hyper_util;
mod outbound;
pub(crate) mod raw;
mod reqwest;
pub(crate) mod service;
mod socket;

use clap::ValueEnum;

use crate::work::{Http, Order};

/// A client, alone or under its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub(crate) enum Peer {
    /// A socket and a loop: what Tokio alone costs.
    Socket,
    /// `hyper::client::conn`.
    Raw,
    /// hyper-util's `pool::map` and `pool::cache`.
    Cache,
    /// hyper-util's legacy client.
    Legacy,
    /// The same under tower's Retry, ConcurrencyLimit and Timeout.
    LegacyTower,
    /// The same under tower-resilience's retry, bulkhead and time limiter.
    LegacyResilience,
    /// reqwest.
    Reqwest,
    /// reqwest under reqwest-middleware and reqwest-retry.
    ReqwestRetry,
    /// The bare pool.
    Pool,
    /// The pool under the leak guard,
    Guard,
    /// and the attempt's timeout,
    Timeout,
    /// and the concurrency limit,
    Limit,
    /// and retry,
    Retry,
    /// and the deadline: the whole documented stack.
    Stack,
    /// The preset, `outbound::Client`: redirects, decompression, default headers and proxies besides.
    Client,
}

/// What one task does its exchanges with.
pub(crate) trait Worker: Send + 'static {
    /// One exchange, its response read to the end.
    fn exchange(&mut self) -> impl Future<Output = ()> + Send;
}

/// What is to be done with a peer.
pub(crate) trait Visit {
    /// What comes of it.
    type Output;

    /// With a peer whose workers `hire` makes: those of a pool share it, others have a connection each.
    fn visit<W: Worker>(self, hire: impl AsyncFn() -> W) -> impl Future<Output = Self::Output>;
}

// === Peer ===

impl Peer {
    /// As the tables say it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Socket => "a minimal Tokio loop",
            Self::Raw => "raw hyper::client::conn",
            Self::Cache => "hyper-util pool: map + cache",
            Self::Legacy => "hyper-util legacy",
            Self::LegacyTower => "hyper-util legacy + tower's three",
            Self::LegacyResilience => "hyper-util legacy + tower-resilience's three",
            Self::Reqwest => "reqwest",
            Self::ReqwestRetry => "reqwest + middleware + retry",
            Self::Pool => "outbound: pool",
            Self::Guard => "outbound: guard, pool",
            Self::Timeout => "outbound: timeout, guard, pool",
            Self::Limit => "outbound: limit, timeout, guard, pool",
            Self::Retry => "outbound: retry, limit, timeout, guard, pool",
            Self::Stack => "outbound: the whole stack",
            Self::Client => "outbound: Client",
        }
    }

    /// The title of the one of this name.
    pub(crate) fn titled(name: &str) -> &'static str {
        Self::from_str(name, false).map_or("?", Self::title)
    }

    /// Those that the tables compare; the others tell layers apart.
    pub(crate) const COMPARED: [Self; 10] = [
        Self::Raw,
        Self::Pool,
        Self::Stack,
        Self::Client,
        Self::Cache,
        Self::Legacy,
        Self::LegacyTower,
        Self::LegacyResilience,
        Self::Reqwest,
        Self::ReqwestRetry,
    ];

    /// Whether it can be asked in this version.
    pub(crate) fn speaks(self, http: Http) -> bool {
        http == Http::H1 || !matches!(self, Self::Socket | Self::Cache)
    }

    /// `visit`s this peer, which asks for `order`.
    pub(crate) async fn accept<V: Visit>(self, order: &Order, visit: V) -> V::Output {
        match self {
            Self::Socket => visit.visit(async || socket::Socket::connect(order).await).await,
            Self::Raw => raw::accept(order, visit).await,
            Self::Cache => cache::accept(order, visit).await,
            Self::Legacy | Self::LegacyTower | Self::LegacyResilience => {
                hyper_util::accept(self, order, visit).await
            }
            Self::Reqwest | Self::ReqwestRetry => reqwest::accept(self, order, visit).await,
            Self::Pool
            | Self::Guard
            | Self::Timeout
            | Self::Limit
            | Self::Retry
            | Self::Stack
            | Self::Client => outbound::accept(self, order, visit).await,
        }
    }
}
