//! The slot machine: who may open, hold and reuse a connection, and who waits.
//!
//! One state behind one lock owns idle, dialing, active and closing connections and the waiters for them. It does no I/O and
//! reads no clock but through its callers, so that loom can model it and proptest can check it against its invariants.
//!
//! - A **record** stands for one connection from the permission to dial until its socket is closed. [`Slot`] holds it, and lives
//!   *inside* the socket's wrapper: as long as there is a socket, its record counts.
//! - A **lease** is the use of a connection for one exchange. It is released (to the oldest waiter, or the shelf) or retired. A
//!   *shared* connection has as many leases as it has exchanges; it is released with the last.
//! - A **waiter** is one request's registration. It keeps its place while it dials, so that a connection freed meanwhile still
//!   goes to the oldest, and when what it was handed turns out to be dead.
//!
//! Between calls these hold (`State::check`, after every step of the model tests):
//! 1. Records never exceed the limits, dialing and closing ones included.
//! 2. A waiter without a dial waits only while its host is full, or while all is full, or while its host, whose connections are
//!    shared as far as is known, is dialing for another.
//! 3. While all is full and such a waiter's host is not, nothing is idle that is not on its way out for it.
//! 4. Nobody waits for a host of which a connection is idle, or shared, and has room.
//!
//! Wakers run, and connections are dropped, after the lock has been let go ([`Effects`]).

mod ending;
mod lease;
mod list;
#[cfg(test)]
pub(crate) mod model;
mod moves;
mod state;
mod view;

pub(crate) use lease::{Lease, Slot, Turn, Waiting};
pub(crate) use state::{Ask, Limits, Nature, Now, Refusal, Share, Ticket};

use std::{
    fmt,
    hash::Hash,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use outbound_core::Holders;
use tokio::{sync::broadcast, time::Instant};

use crate::{
    events::Event,
    stats::Stats,
    sync::{Mutex, MutexGuard},
};
use state::{Acquired, Effect, Effects, State};

/// The machine. `K` is what connections are kept by, `C` the connection itself, which it only keeps and hands out.
pub(crate) struct Slots<K, C> {
    state: Mutex<State<K, C>>,
    /// Where events go, once somebody has asked for them.
    events: OnceLock<broadcast::Sender<Event<K>>>,
}

/// What a request gets at once.
pub(crate) enum Acquire<K: Clone + Eq + Hash, C: Share> {
    /// A connection.
    Now(Lease<K, C>),
    /// A registration.
    Later(Waiting<K, C>),
}

impl<K: Clone + Eq + Hash, C: Share> Slots<K, C> {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::new(limits)), events: OnceLock::new() })
    }

    /// A connection to `key`: a shared one in use that has room, or the idle one used last; else a registration.
    pub(crate) fn acquire(self: &Arc<Self>, key: &K, ask: Ask) -> Result<Acquire<K, C>, Refusal> {
        let acquired = self.with(|state, fx| state.acquire(key, ask, fx))?;
        Ok(match acquired {
            Acquired::Now(ticket, reuse) => Acquire::Now(Lease::new(self.clone(), ticket, reuse)),
            Acquired::Later(ticket, waiter) => Acquire::Later(Waiting::new(self.clone(), ticket, waiter)),
        })
    }

    /// Leave to dial for nobody, as long as `key` has fewer than `wanted` connections.
    pub(crate) fn reserve(self: &Arc<Self>, key: &K, wanted: usize, nature: Nature) -> Vec<Slot<K, C>> {
        let reserved = self.with(|state, fx| state.reserve(key, wanted, nature, fx));
        reserved.into_iter().map(|id| Slot::new(self.clone(), id)).collect()
    }

    /// Closes what has been idle or has lived for long enough; tells when to look again, as long as there are connections.
    pub(crate) fn expire(&self) -> Option<Instant> {
        self.with(|state, fx| state.expire(Instant::now(), fx))
    }

    /// Closes what is idle, and from now on whatever comes back.
    pub(crate) fn shut(&self) {
        self.with(|state, fx| state.shut(fx));
    }

    /// Besides, serves nobody any more.
    pub(crate) fn close(&self) {
        self.with(|state, fx| state.close(fx));
    }

    /// Waits until the last socket is closed.
    pub(crate) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        // A waker is user code: it is cloned and dropped outside the lock.
        let mut waker = Some(cx.waker().clone());
        match self.with(|state, _| state.poll_closed(&mut waker)) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Whether there is no connection at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.with(|state, _| state.is_empty())
    }

    pub(crate) fn stats(&self) -> Stats<K> {
        self.with(|state, _| state.stats())
    }

    pub(crate) fn holders(&self, key: &K, apart: bool) -> Holders {
        self.with(|state, _| state.holders(key, apart, Instant::now()))
    }

    /// What happens from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<Event<K>> {
        let receiver = self.events.get_or_init(|| broadcast::channel(EVENTS).0).subscribe();
        self.with(|state, _| state.observed = true);
        receiver
    }

    pub(crate) fn tell(&self, event: impl FnOnce() -> Event<K>) {
        if let Some(events) = self.events.get() {
            // Nobody may be listening any more.
            let _ = events.send(event());
        }
    }

    /// One move under the lock, and its effects after it.
    fn with<T>(&self, act: impl FnOnce(&mut State<K, C>, &mut Effects<K, C>) -> T) -> T {
        let mut effects = Effects::none();
        let result = act(&mut self.lock(), &mut effects);
        if !effects.is_none() {
            self.apply(effects);
        }
        result
    }

    fn apply(&self, effects: Effects<K, C>) {
        for effect in effects {
            match effect {
                Effect::Wake(waker) => waker.wake(),
                Effect::Forget(waker) => drop(waker),
                Effect::Shed(shed) => drop(shed),
                Effect::Close(connection) => drop(connection),
                Effect::Tell(event) => self.tell(|| event),
            }
        }
    }

    /// Nothing that runs under the lock can leave the state half changed, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State<K, C>> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Events that are kept for a slow reader.
const EVENTS: usize = 1_024;

impl<K, C> fmt::Debug for Slots<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").finish_non_exhaustive()
    }
}
