//! Which connection carried an exchange, and where its time went.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::Version;
use tokio::time::Instant;

use crate::{
    context::{Carried, Message},
    words::Phase,
};

/// What is known of a connection from the moment it is open: one record, shared by all exchanges on it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Established {
    /// Counts up from 1 within one pool.
    pub id: u64,
    /// When it became usable.
    pub opened: Instant,
    /// The HTTP version spoken on it.
    pub version: Version,
    /// Our end, where the transport has addresses.
    pub local: Option<SocketAddr>,
    /// The peer's end, where the transport has addresses.
    pub remote: Option<SocketAddr>,
    /// Whether it goes through a proxy.
    pub proxied: bool,
    /// How long resolving, connecting (over HTTP/2 until the server's SETTINGS) and the TLS handshake took.
    pub timings: Timings,
}

/// The connection that carried one exchange, as it was when the exchange took it.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    established: Arc<Established>,
    served: u64,
    idle: Duration,
}

/// How long an attempt spent in each [`Phase`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings([Duration; Phase::ALL.len()]);

// === Established ===

impl Established {
    /// A connection that is usable from now on, of which nothing else is known yet.
    pub fn now(id: u64, version: Version) -> Self {
        Self {
            id,
            opened: Instant::now(),
            version,
            local: None,
            remote: None,
            proxied: false,
            timings: Timings::default(),
        }
    }
}

// === ConnectionInfo ===

impl ConnectionInfo {
    /// `established`, which has served so many requests before and has been idle for so long.
    pub fn new(established: Arc<Established>, served: u64, idle: Duration) -> Self {
        Self { established, served, idle }
    }

    /// The connection that carried the exchange of `message`, where an [`Exchange`](crate::Exchange) rode on the request.
    pub fn of(message: &impl Message) -> Option<Self> {
        Carried::of(message)?.exchange.as_ref()?.connection()
    }

    /// What it has been since it was opened.
    pub fn established(&self) -> &Established {
        &self.established
    }

    /// Its number within its pool, from 1.
    pub fn id(&self) -> u64 {
        self.established.id
    }

    /// Whether it had served a request before this one.
    pub fn is_reused(&self) -> bool {
        self.served > 0
    }

    /// How many requests it had served before this one.
    pub fn served(&self) -> u64 {
        self.served
    }

    /// How long it had been idle when this exchange took it.
    pub fn idle(&self) -> Duration {
        self.idle
    }
}

// === Timings ===

impl Timings {
    /// The timings of the exchange of `message` so far, where an [`Exchange`](crate::Exchange) rode on the request.
    pub fn of(message: &impl Message) -> Option<Self> {
        Some(Carried::of(message)?.exchange.as_ref()?.timings())
    }

    /// The time spent in `phase`; zero where it was skipped, as connecting is on a reused connection.
    pub fn spent(&self, phase: Phase) -> Duration {
        self.0[phase as usize]
    }

    /// The sum over all phases.
    pub fn total(&self) -> Duration {
        self.0.iter().fold(Duration::ZERO, |sum, &spent| sum.saturating_add(spent))
    }

    /// Adds to the time spent in `phase`.
    pub fn add(&mut self, phase: Phase, spent: Duration) {
        let sum = &mut self.0[phase as usize];
        *sum = sum.saturating_add(spent);
    }
}
