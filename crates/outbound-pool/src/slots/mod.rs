//! The slot machine: who may open, hold and reuse a connection, and who waits.
//!
//! One state behind one lock owns idle, dialing, active and closing connections and the waiters for them. It does no I/O and
//! reads no clock, so that loom can model it (`tests/loom.rs`) and proptest can check it against its invariants.
//!
//! - A **record** stands for one connection from the permission to dial until its socket is closed. [`Slot`] holds it, and lives
//!   *inside* the socket's wrapper: as long as there is a socket, its record counts.
//! - A **lease** is the use of a connection for one exchange. It is released (to the oldest waiter, or the shelf) or retired.
//! - A **waiter** is one request's registration. It keeps its place while it dials, so that a connection freed meanwhile still
//!   goes to the oldest, and when what it was handed turns out to be dead.
//!
//! Between calls these hold (`State::check`, after every step of the model tests):
//! 1. Records never exceed the limits, dialing and closing ones included.
//! 2. A waiter without a dial waits only while its host is full, or while all is full.
//! 3. While all is full and such a waiter's host is not, nothing is idle that is not on its way out for it.
//!
//! Wakers run, and connections are dropped, after the lock has been let go ([`Effects`]).

mod lease;
mod list;
#[cfg(test)]
mod model;
mod state;

pub(crate) use lease::{Lease, Slot, Turn, Waiting};
pub(crate) use state::{Full, Limits, Ticket};

use std::{fmt, hash::Hash, sync::Arc, time::Duration};

use outbound_core::{CallSite, Holders};
use tokio::time::Instant;

use crate::{
    stats::Stats,
    sync::{Mutex, MutexGuard},
};
use state::{Acquired, Ask, Effects, State};

/// The machine. `K` is what connections are kept by, `C` the connection itself, which it only keeps and hands out.
pub(crate) struct Slots<K, C> {
    state: Mutex<State<K, C>>,
}

/// What a request gets at once.
pub(crate) enum Acquire<K: Clone + Eq + Hash, C> {
    /// An idle connection.
    Now(Lease<K, C>),
    /// A registration.
    Later(Waiting<K, C>),
}

impl<K: Clone + Eq + Hash, C> Slots<K, C> {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::new(limits)) })
    }

    /// An idle connection to `key`, the most recently used; else a registration.
    pub(crate) fn acquire(self: &Arc<Self>, key: &K, site: Option<CallSite>) -> Result<Acquire<K, C>, Full> {
        self.ask(key, Ask { ticket: None, site, now: Instant::now() })
    }

    /// Asks again from the old place in the queue.
    pub(crate) fn reacquire(
        self: &Arc<Self>,
        key: &K,
        site: Option<CallSite>,
        ticket: Ticket,
    ) -> Result<Acquire<K, C>, Full> {
        self.ask(key, Ask { ticket: Some(ticket), site, now: Instant::now() })
    }

    fn ask(self: &Arc<Self>, key: &K, ask: Ask) -> Result<Acquire<K, C>, Full> {
        let acquired = self.with(|state, fx| state.acquire(key, ask, fx))?;
        Ok(match acquired {
            Acquired::Now(ticket, reuse) => Acquire::Now(Lease::new(self.clone(), ticket, reuse)),
            Acquired::Later(ticket, waiter) => Acquire::Later(Waiting::new(self.clone(), ticket, waiter)),
        })
    }

    /// Closes what has been idle for `timeout`; tells when to look again, as long as there are connections.
    pub(crate) fn expire(&self, timeout: Duration) -> Option<Instant> {
        self.with(|state, fx| state.expire(Instant::now(), timeout, fx))
    }

    /// Closes what is idle, and from now on whatever comes back.
    pub(crate) fn shut(&self) {
        self.with(|state, fx| state.shut(fx));
    }

    /// Whether there is no connection at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.with(|state, _| state.is_empty())
    }

    pub(crate) fn stats(&self) -> Stats<K> {
        self.with(|state, _| state.stats())
    }

    pub(crate) fn holders(&self, key: &K) -> Holders {
        self.with(|state, _| state.holders(key, Instant::now()))
    }

    /// One move under the lock, and its effects after it.
    fn with<T>(&self, act: impl FnOnce(&mut State<K, C>, &mut Effects<C>) -> T) -> T {
        let mut effects = Effects::none();
        let result = act(&mut self.lock(), &mut effects);
        effects.apply();
        result
    }

    /// Nothing that runs under the lock can leave the state half changed, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State<K, C>> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<K, C> fmt::Debug for Slots<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").finish_non_exhaustive()
    }
}
