//! A connection as the pool keeps it, of either version of HTTP.

use std::{fmt, net::SocketAddr, sync::Arc};

use http::{Extensions, Version};
use hyper_util::client::legacy::connect::{Connected, HttpInfo};
use outbound_core::{BoxError, CallSite, Established, Origin, Phase};
use tokio::time::Instant;

use crate::{
    config::Http,
    connect::{Addresses, Dialed, Forwarding, Liveness},
    events::{Event, What},
    http1::Http1,
    http2::Http2,
    keeper::Keeper,
    slots::{self, Share, Ticket},
};

pub(crate) type Slots = slots::Slots<Origin, Connection>;
pub(crate) type Slot = slots::Slot<Origin, Connection>;
pub(crate) type Lease = slots::Lease<Origin, Connection>;
pub(crate) type Waiting = slots::Waiting<Origin, Connection>;

pub(crate) enum Connection {
    /// For one exchange at a time.
    Http1(Box<Http1>),
    /// For several at once, each of which has a handle.
    Http2(Arc<Http2>),
}

/// A connection that has just been opened, and the right to its socket.
pub(crate) struct Opened {
    connection: Connection,
    slot: Arc<Slot>,
}

/// What a connector told of its connection.
pub(crate) struct Described {
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    pub(crate) liveness: Option<Liveness>,
    /// It leads to a proxy that forwards each request.
    pub(crate) forwarding: Option<Forwarding>,
}

// === Connection ===

impl Share for Connection {
    fn share(&self) -> Self {
        match self {
            Self::Http2(connection) => Self::Http2(connection.clone()),
            Self::Http1(_) => unreachable!("HTTP/1.1 is for one exchange at a time"),
        }
    }

    fn park(&mut self) -> Option<Box<dyn Send>> {
        match self {
            Self::Http1(connection) => connection.park(),
            Self::Http2(_) => None,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http1(connection) => connection.fmt(f),
            Self::Http2(connection) => connection.fmt(f),
        }
    }
}

// === Opened ===

impl Opened {
    /// Speaks the version that was negotiated, or is known beforehand, over what was dialed, and starts to drive it.
    pub(crate) async fn new<T>(
        dialed: Dialed<T>,
        slot: Arc<Slot>,
        origin: &Origin,
        http: Http,
        keeper: &Arc<Keeper>,
    ) -> Result<Self, BoxError>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let Dialed { io, connected, timings } = dialed;
        let described = Described::of(&connected);
        // What is known beforehand is about plain connections, and about the origin: not about a proxy that forwards.
        let is_known = http.prior_knowledge && !origin.is_https() && described.forwarding.is_none();
        let is_http2 = connected.is_negotiated_h2() || is_known;
        let version = if is_http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        let mut established = Established::now(slot.serial(), version);
        established.local = described.local;
        established.remote = described.remote;
        established.proxied = connected.is_proxied();
        established.timings = timings;
        let (place, means) = ((origin, &slot), (http, keeper));
        let (established, connection) = if is_http2 {
            let since = established.opened;
            let greeted = move || {
                established.opened = Instant::now();
                established.timings.add(Phase::Connect, established.opened - since);
                Arc::new(established)
            };
            let connection = Http2::open(io, greeted, described, &slot, means).await?;
            (connection.established.clone(), Connection::Http2(connection))
        } else {
            let established = Arc::new(established);
            let connection = Http1::open(io, established.clone(), described, place, means).await?;
            (established, Connection::Http1(connection))
        };
        keeper.ensure_running();
        slot.slots().tell(|| Event {
            origin: origin.clone(),
            connection: established.id,
            what: What::Opened(established.clone()),
        });
        Ok(Self { connection, slot })
    }

    /// For whoever comes next.
    pub(crate) fn spare(self) {
        self.slot.spare();
        self.lease(0, None).release();
    }

    /// In use from now on, by the request that holds `ticket`.
    pub(crate) fn lease(self, ticket: Ticket, site: Option<CallSite>) -> Lease {
        let Self { connection, slot } = self;
        match &connection {
            Connection::Http1(_) => slot.lease(connection, ticket, site),
            Connection::Http2(shared) => {
                let handle = shared.clone();
                slot.share(connection, || handle.room(), ticket, site)
            }
        }
    }
}

// === Described ===

impl Described {
    fn of(connected: &Connected) -> Self {
        let mut extras = Extensions::new();
        connected.get_extras(&mut extras);
        let info = extras.get::<HttpInfo>();
        let addresses = extras.get::<Addresses>();
        Self {
            local: addresses.map(|ends| ends.local).or(info.map(HttpInfo::local_addr)),
            remote: addresses.map(|ends| ends.remote).or(info.map(HttpInfo::remote_addr)),
            liveness: extras.get::<Liveness>().cloned(),
            forwarding: Forwarding::of(connected, &extras),
        }
    }
}
