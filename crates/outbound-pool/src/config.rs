//! The limits of a pool, checked before anything is opened.

use std::{
    error::Error,
    fmt,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use outbound_core::Construction;

use crate::{
    connect::{self, Connect},
    pool::Pool,
    slots,
};

/// The limits of a pool: [`Pool::builder`].
///
/// | limit | default | why |
/// |---|---|---|
/// | `max_connections` | 512 | half of the 1,024 descriptors that a process is commonly given |
/// | `max_connections_per_host` | 128, or `max_connections` if lower | no origin takes all; more than most servers handle at once |
/// | `max_idle` | `max_connections` | idle connections are cheap beside the handshakes they save |
/// | `max_idle_per_host` | `max_connections_per_host` | likewise |
/// | `idle_timeout` | 50 s | below the 60 s after which common load balancers drop an idle connection |
/// | `park_after` | 2 s | an idle HTTP/1.1 connection is then its socket and little else; the buffers come back with the next exchange |
/// | `max_waiting` | 4,096 | a queue is finite |
/// | `acquire_timeout` | 30 s | who has waited that long is better told |
/// | `resolve_timeout` | 5 s | one try of the usual resolver |
/// | `connect_timeout` | 10 s | three SYN retransmissions (1 + 2 + 4 s); what OkHttp takes |
/// | `tls_timeout` | 10 s | what Go takes |
/// | `max_lifetime` | none | a server that wants its connections closed says so |
/// | `max_requests_per_connection` | none | likewise |
/// | `drain` | 64 KiB, 100 ms | about what a handshake costs |
/// | `http2_handshake_timeout` | 10 s | what the TLS handshake gets |
/// | `http2_keep_alive` | off | some servers take pings amiss |
/// | `http2_ping_timeout` | 10 s | several retransmissions |
/// | `max_head_size` | 64 KiB | several times what servers send; eight times what they commonly take |
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    max_connections: usize,
    max_connections_per_host: Option<usize>,
    max_idle: Option<usize>,
    max_idle_per_host: Option<usize>,
    max_waiting: usize,
    idle_timeout: Duration,
    acquire_timeout: Duration,
    dial: connect::Limits,
    http: Http,
    park_after: Duration,
    max_lifetime: Duration,
    max_requests: u64,
    seed: Option<u64>,
}

/// These limits make no sense: nothing was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidConfig {
    /// This limit is zero, so that no call could ever pass.
    Zero(&'static str),
    /// The first limit is above the second, which would make it void.
    Above(&'static str, &'static str),
}

/// The limits that are not the slot machine's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) acquire: Duration,
    pub(crate) dial: connect::Limits,
}

/// What is asked of the protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Http {
    pub(crate) max_head_size: usize,
    /// Plain connections are HTTP/2 without asking.
    pub(crate) prior_knowledge: bool,
    pub(crate) handshake_timeout: Duration,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) ping_timeout: Duration,
    /// Bytes, and for how long.
    pub(crate) drain: (u64, Duration),
}

// === Builder ===

impl Builder {
    pub(crate) const fn new() -> Self {
        Self {
            max_connections: 512,
            max_connections_per_host: None,
            max_idle: None,
            max_idle_per_host: None,
            max_waiting: 4_096,
            idle_timeout: Duration::from_secs(50),
            acquire_timeout: Duration::from_secs(30),
            dial: connect::Limits {
                resolve: Duration::from_secs(5),
                connect: Duration::from_secs(10),
                tls: Duration::from_secs(10),
            },
            http: Http {
                max_head_size: 64 * 1024,
                prior_knowledge: false,
                handshake_timeout: Duration::from_secs(10),
                keep_alive: None,
                ping_timeout: Duration::from_secs(10),
                drain: (64 * 1024, Duration::from_millis(100)),
            },
            park_after: Duration::from_secs(2),
            max_lifetime: Duration::MAX,
            max_requests: u64::MAX,
            seed: None,
        }
    }

    /// Connections open at once over all origins: those being opened and those being closed count too.
    pub const fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Connections open at once to one origin, counted likewise.
    /// Where HTTP/2 is spoken, those that upgrades and `CONNECT` take for themselves are counted apart, as many again (Go does so, too).
    pub const fn max_connections_per_host(mut self, connections: usize) -> Self {
        self.max_connections_per_host = Some(connections);
        self
    }

    /// Connections kept idle over all origins; 0 keeps none.
    pub const fn max_idle(mut self, connections: usize) -> Self {
        self.max_idle = Some(connections);
        self
    }

    /// Connections kept idle to one origin; 0 keeps none.
    pub const fn max_idle_per_host(mut self, connections: usize) -> Self {
        self.max_idle_per_host = Some(connections);
        self
    }

    /// How long a connection may be idle until it is closed; `Duration::MAX` for ever.
    pub const fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// How long an HTTP/1.1 connection is idle until it is parked: its buffers are given back, and its socket is watched, until it is used
    /// again; at least 1 ms, `Duration::MAX` for never. An HTTP/2 connection is not parked.
    pub const fn park_after(mut self, idle: Duration) -> Self {
        self.park_after = idle;
        self
    }

    /// How many calls may wait for a connection. One more is turned away at once with
    /// [`Overloaded`](outbound_core::Overloaded); 0 lets none wait.
    pub const fn max_waiting(mut self, calls: usize) -> Self {
        self.max_waiting = calls;
        self
    }

    /// How long a call may wait for a connection until one is being opened for it. If this runtime was not running when that ended, those
    /// that hold the connections get [some more](outbound_core::Grace).
    pub const fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = timeout;
        self
    }

    /// How long resolving a name may take.
    pub const fn resolve_timeout(mut self, timeout: Duration) -> Self {
        self.dial.resolve = timeout;
        self
    }

    /// How long connecting may take, over all addresses of a name.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.dial.connect = timeout;
        self
    }

    /// How long the TLS handshake may take.
    pub const fn tls_timeout(mut self, timeout: Duration) -> Self {
        self.dial.tls = timeout;
        self
    }

    /// Bytes that a response head may have, the interim responses (1xx) before it included. Whoever sends more, without end
    /// perhaps, is cut off with [`HeadTooLarge`](crate::HeadTooLarge) once what was read exceeds it. Over HTTP/1.1 interim responses
    /// that come in one read with the head are not counted with it, and there may be 100 fields: more are
    /// [`Kind::TooLarge`](outbound_core::Kind::TooLarge) too, whatever their size.
    pub const fn max_head_size(mut self, bytes: usize) -> Self {
        self.http.max_head_size = bytes;
        self
    }

    /// How long a connection may be open and still be given to another exchange, less up to a tenth, so that those that were
    /// opened together are not closed together; `Duration::MAX`, the default, for ever.
    pub const fn max_lifetime(mut self, lifetime: Duration) -> Self {
        self.max_lifetime = lifetime;
        self
    }

    /// How many exchanges a connection may carry; `u64::MAX`, the default, for any number.
    pub const fn max_requests_per_connection(mut self, requests: u64) -> Self {
        self.max_requests = requests;
        self
    }

    /// How many bytes, for how long, of a response over HTTP/1.1 whose body was dropped are still read, so that its connection can be
    /// used again; 0 bytes closes it at once.
    pub const fn drain(mut self, bytes: u64, time: Duration) -> Self {
        self.http.drain = (bytes, time);
        self
    }

    /// Speaks HTTP/2 over plain connections without asking (RFC 9113, 3.3), except to a proxy that forwards. For `https` what was
    /// negotiated decides, with or without this: a connector that encrypts has to say so by `Connected::negotiated_h2`.
    pub const fn http2_prior_knowledge(mut self, known: bool) -> Self {
        self.http.prior_knowledge = known;
        self
    }

    /// How long an HTTP/2 server may take to say how many streams it allows, before anything is sent.
    pub const fn http2_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.http.handshake_timeout = timeout;
        self
    }

    /// Asks an HTTP/2 server by a ping whether it is there, when it has said nothing for so long while exchanges go on. What it said
    /// nothing while none did counts too: a request after a pause may be followed by a ping at once. Off by default: there are servers
    /// that take it amiss (gRPC: `too_many_pings`).
    pub const fn http2_keep_alive(mut self, interval: Duration) -> Self {
        self.http.keep_alive = Some(interval);
        self
    }

    /// How long the answer to a ping may take. Besides [`http2_keep_alive`](Self::http2_keep_alive) a server is asked when an exchange was given
    /// up of which it had not said a word.
    pub const fn http2_ping_timeout(mut self, timeout: Duration) -> Self {
        self.http.ping_timeout = timeout;
        self
    }

    /// What the jitter of `max_lifetime` is made of: the same seed, the same jitter. Random by default.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// A pool with these limits, whose connections `connector` opens.
    ///
    /// # Errors
    /// [`InvalidConfig`] if a limit is zero that must not be, or above one that it is part of.
    #[track_caller]
    pub fn build<C: Connect>(self, connector: C) -> Result<Pool<C>, InvalidConfig> {
        let limits = self.limits()?;
        let timeouts = Timeouts { acquire: self.acquire_timeout, dial: self.dial };
        Construction::announce("pool");
        Ok(Pool::new(connector, limits, timeouts, self.http))
    }

    fn limits(&self) -> Result<slots::Limits, InvalidConfig> {
        const TOTAL: &str = "max_connections";
        const PER_HOST: &str = "max_connections_per_host";
        const IDLE: &str = "max_idle";
        const IDLE_PER_HOST: &str = "max_idle_per_host";
        let total = self.max_connections;
        let per_host = self.max_connections_per_host.unwrap_or(128.min(total));
        let idle = self.max_idle.unwrap_or(total);
        let idle_per_host = self.max_idle_per_host.unwrap_or(per_host.min(idle));
        for (limit, name) in [
            (total as u128, TOTAL),
            (per_host as u128, PER_HOST),
            (self.acquire_timeout.as_nanos(), "acquire_timeout"),
            (self.idle_timeout.as_nanos(), "idle_timeout"),
            (self.dial.resolve.as_nanos(), "resolve_timeout"),
            (self.dial.connect.as_nanos(), "connect_timeout"),
            (self.dial.tls.as_nanos(), "tls_timeout"),
            (self.http.max_head_size as u128, "max_head_size"),
            (self.http.handshake_timeout.as_nanos(), "http2_handshake_timeout"),
            (self.http.ping_timeout.as_nanos(), "http2_ping_timeout"),
            (self.http.keep_alive.map_or(1, |interval| interval.as_nanos()), "http2_keep_alive"),
            (self.max_lifetime.as_nanos(), "max_lifetime"),
            (u128::from(self.max_requests), "max_requests_per_connection"),
        ] {
            if limit == 0 {
                return Err(InvalidConfig::Zero(name));
            }
        }
        for (part, part_name, whole, whole_name) in [
            (per_host, PER_HOST, total, TOTAL),
            (idle, IDLE, total, TOTAL),
            (idle_per_host, IDLE_PER_HOST, per_host, PER_HOST),
            (idle_per_host, IDLE_PER_HOST, idle, IDLE),
        ] {
            if part > whole {
                return Err(InvalidConfig::Above(part_name, whole_name));
            }
        }
        Ok(slots::Limits {
            total,
            per_host,
            idle,
            idle_per_host,
            waiting: self.max_waiting,
            idle_timeout: self.idle_timeout.min(FOR_EVER),
            park_after: self.park_after.clamp(TICK, FOR_EVER),
            lifetime: (self.max_lifetime < FOR_EVER).then_some(self.max_lifetime),
            requests: self.max_requests,
            seed: self.seed.unwrap_or_else(|| RandomState::new().hash_one(0)),
        })
    }
}

// === InvalidConfig ===

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero(limit) => write!(f, "{limit} is zero: no call could pass"),
            Self::Above(part, whole) => write!(f, "{part} is above {whole}, which it is part of"),
        }
    }
}

impl Error for InvalidConfig {}

/// As long as the clock can be added to it without overflow, and longer than any process.
/// What the runtime's timers can tell apart.
const TICK: Duration = Duration::from_millis(1);
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
