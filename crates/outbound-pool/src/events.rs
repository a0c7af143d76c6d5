//! What happens to a pool's connections, as it happens.

use std::{fmt, sync::Arc, time::Duration};

use outbound_core::{Established, Origin};
use tokio::sync::broadcast;

/// Something happened to one connection: [`Pool::events`](crate::Pool::events).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event<K = Origin> {
    /// Where it leads.
    pub origin: K,
    /// Its number within its pool: [`Established::id`].
    pub connection: u64,
    /// What happened.
    pub what: What,
}

/// What may happen to a connection, in the order in which it does; how far that is the order in which it is told: [`Events`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum What {
    /// Leave was given to open it.
    Dialing,
    /// It is open: how long each phase took is in [`Established::timings`].
    Opened(Arc<Established>),
    /// It was given to another exchange; `idle` is how long it had been idle, `None` if it was not.
    Reused {
        /// For how long it had been idle.
        idle: Option<Duration>,
    },
    /// An exchange is over, and it can carry another.
    Returned,
    /// Its socket is closed, or was never opened.
    Closed(Why),
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// It could not be opened, or nobody wanted it any more.
    NotOpened,
    /// It was idle for `idle_timeout`.
    Idle,
    /// It had lived for `max_lifetime`.
    Lifetime,
    /// It had carried `max_requests_per_connection`.
    Requests,
    /// More than `max_idle` or `max_idle_per_host` were idle.
    Surplus,
    /// Another origin needed its place.
    Evicted,
    /// The peer closed it while it was idle.
    Lost,
    /// Its last exchange left it unfit for another: it failed, was dropped, or one of both sides said `close`.
    Spent,
    /// HTTP/2: the peer said GOAWAY, refused too much, or stopped to answer.
    Drained,
    /// It is not for HTTP any more: `CONNECT`, or `101 Switching Protocols`.
    Upgraded,
    /// The pool was closed, or its last handle dropped.
    Shutdown,
}

/// A pool's events from the moment of asking on: [`Pool::events`](crate::Pool::events).
///
/// Nothing waits for a slow reader: it finds out how many events it has missed.
///
/// They come in the order in which they happen, but for what several threads do at the same moment: of a connection that one thread
/// returns and another takes at once, [`What::Reused`] may come before [`What::Returned`].
pub struct Events(pub(crate) broadcast::Receiver<Event>);

/// So many events were not read in time and are lost; the next one is the oldest that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed(pub u64);

// === Events ===

impl Events {
    /// The next event; `None` when the pool and all its connections have gone. Cancel-safe.
    ///
    /// # Errors
    /// [`Missed`], if some were not read in time; the call after it goes on.
    pub async fn next(&mut self) -> Option<Result<Event, Missed>> {
        match self.0.recv().await {
            Ok(event) => Some(Ok(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Err(Missed(missed))),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("kept", &self.0.len()).finish_non_exhaustive()
    }
}

// === Missed ===

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events were not read in time", self.0)
    }
}

impl std::error::Error for Missed {}

// === Why ===

impl Why {
    /// The stable lower-case name, fit for a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotOpened => "not_opened",
            Self::Idle => "idle",
            Self::Lifetime => "lifetime",
            Self::Requests => "requests",
            Self::Surplus => "surplus",
            Self::Evicted => "evicted",
            Self::Lost => "lost",
            Self::Spent => "spent",
            Self::Drained => "drained",
            Self::Upgraded => "upgraded",
            Self::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
