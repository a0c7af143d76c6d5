//! What a pool tells about itself.

use outbound_core::Origin;

/// A pool at one moment: [`Pool::stats`](crate::Pool::stats).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats<K = Origin> {
    /// Connections over all origins.
    pub connections: Counts,
    /// How many of the idle ones are parked: [`Builder::park_after`](crate::Builder::park_after).
    pub parked: usize,
    /// Exchanges going on: an HTTP/2 connection may carry several.
    pub exchanges: usize,
    /// Calls that wait for a connection and have none being opened for them.
    pub waiting: usize,
    /// What has happened since the pool was built.
    pub totals: Totals,
    /// Each origin that has a connection or a waiting call, in no order. Others take no memory.
    pub origins: Vec<OriginStats<K>>,
}

/// One origin at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OriginStats<K = Origin> {
    /// Which.
    pub origin: K,
    /// Its connections.
    pub connections: Counts,
    /// Calls that wait for one of them and have none being opened for them.
    pub waiting: usize,
}

/// Connections by what they are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Being opened: resolving, connecting, TLS.
    pub dialing: usize,
    /// Carrying an exchange, its response body included.
    pub active: usize,
    /// Open and free.
    pub idle: usize,
    /// Given up, the socket not yet closed.
    pub closing: usize,
}

/// Counters since the pool was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Permissions to open a connection.
    pub dialed: u64,
    /// Connections opened.
    pub opened: u64,
    /// Sockets closed, and dials that came to nothing.
    pub closed: u64,
    /// Times that a connection was taken again after an earlier exchange.
    pub reused: u64,
    /// Calls that had to wait.
    pub waited: u64,
    /// Calls turned away because the queue was full.
    pub overflowed: u64,
    /// Connections closed, or given no more exchanges, to make room for another origin.
    pub evicted: u64,
    /// Idle connections closed by the idle timeout.
    pub expired: u64,
    /// Connections that take no more exchanges because of `max_lifetime` or `max_requests_per_connection`.
    pub retired: u64,
    /// Idle connections closed because more than `max_idle` or `max_idle_per_host` were.
    pub surplus: u64,
    /// Idle connections that the peer closed.
    pub lost: u64,
}

impl Counts {
    /// All that count against the limits.
    pub fn open(&self) -> usize {
        self.dialing + self.active + self.idle + self.closing
    }
}
