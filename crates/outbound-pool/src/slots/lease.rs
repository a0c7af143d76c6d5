//! The three things the slot machine hands out. Dropping any of them at any time gives back what it stands for.

use std::{
    fmt,
    hash::Hash,
    ops::{Deref, DerefMut},
    sync::Arc,
    task::{Context, Poll},
};

use outbound_core::CallSite;
use tokio::time::Instant;

use super::{
    Slots,
    state::{Grant, RecordId, Reuse, Ticket},
};

/// The right to have one socket. It is kept beside the socket and dropped after it.
pub(crate) struct Slot<K: Clone + Eq + Hash, C> {
    slots: Arc<Slots<K, C>>,
    id: RecordId,
}

/// A connection in use by one exchange: [`release`](Self::release) it when it can carry another; dropped, it is closed.
pub(crate) struct Lease<K: Clone + Eq + Hash, C> {
    slots: Arc<Slots<K, C>>,
    id: RecordId,
    ticket: Ticket,
    idle_since: Option<Instant>,
    connection: Option<C>,
}

/// A registered request.
pub(crate) struct Waiting<K: Clone + Eq + Hash, C> {
    slots: Arc<Slots<K, C>>,
    ticket: Ticket,
    waiter: usize,
}

/// What a waiter gets.
pub(crate) enum Turn<K: Clone + Eq + Hash, C> {
    /// A connection that another exchange has finished with.
    Reuse(Lease<K, C>),
    /// Leave to open one. It goes on waiting meanwhile.
    Dial(Slot<K, C>),
}

// === Slot ===

impl<K: Clone + Eq + Hash, C> Slot<K, C> {
    /// The dial has succeeded: `connection` is in use from now on, by the request that holds `ticket`.
    pub(crate) fn lease(&self, connection: C, ticket: Ticket, site: Option<CallSite>) -> Lease<K, C> {
        let (slots, id) = (self.slots.clone(), self.id);
        slots.with(|state, _| state.activate(id, Instant::now(), site));
        Lease { slots, id, ticket, idle_since: None, connection: Some(connection) }
    }
}

impl<K: Clone + Eq + Hash, C> Slot<K, C> {
    /// Its socket is closed: it stands for another that is being dialed.
    pub(crate) fn redial(&self) {
        self.slots.with(|state, fx| state.redial(self.id, fx));
    }
}

impl<K: Clone + Eq + Hash, C> Drop for Slot<K, C> {
    fn drop(&mut self) {
        self.slots.with(|state, fx| state.free(self.id, fx));
    }
}

// === Lease ===

impl<K: Clone + Eq + Hash, C> Lease<K, C> {
    pub(super) fn new(slots: Arc<Slots<K, C>>, ticket: Ticket, reuse: Reuse<C>) -> Self {
        let Reuse { id, connection, idle_since } = reuse;
        Self { slots, id, ticket, idle_since, connection: Some(connection) }
    }

    /// Since when the connection had been idle; `None` if it is new or came straight from another exchange.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        self.idle_since
    }

    /// The connection can carry another exchange: it goes to the oldest waiter, or on the shelf.
    pub(crate) fn release(mut self) {
        let connection = self.connection.take().expect("a lease holds its connection until it ends");
        self.slots.with(|state, fx| state.release(self.id, connection, Instant::now(), fx));
    }
}

impl<K: Clone + Eq + Hash, C> Lease<K, C> {
    /// The connection turns out to be dead before it was used: it is closed. Returns the place to ask again from.
    pub(crate) fn bury(mut self) -> Ticket {
        self.slots.with(|state, _| state.bury(self.id));
        drop(self.connection.take());
        self.ticket
    }

    /// The connection will not be used again; the caller closes it.
    pub(crate) fn retire(mut self) -> C {
        self.slots.with(|state, _| state.retire(self.id));
        self.connection.take().expect("a lease holds its connection until it ends")
    }
}

impl<K: Clone + Eq + Hash, C> Deref for Lease<K, C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.connection.as_ref().expect("a lease holds its connection until it ends")
    }
}

impl<K: Clone + Eq + Hash, C> DerefMut for Lease<K, C> {
    fn deref_mut(&mut self) -> &mut C {
        self.connection.as_mut().expect("a lease holds its connection until it ends")
    }
}

impl<K: Clone + Eq + Hash, C> Drop for Lease<K, C> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.slots.with(|state, _| state.retire(self.id));
            drop(connection);
        }
    }
}

// === Waiting ===

impl<K: Clone + Eq + Hash, C> Waiting<K, C> {
    pub(super) fn new(slots: Arc<Slots<K, C>>, ticket: Ticket, waiter: usize) -> Self {
        Self { slots, ticket, waiter }
    }

    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn<K, C>> {
        let polled = self.slots.with(|state, _| state.poll(self.waiter, cx.waker()));
        // A waker that was replaced is dropped here, outside the lock.
        match polled {
            Ok(Grant::Reuse(reuse)) => {
                Poll::Ready(Turn::Reuse(Lease::new(self.slots.clone(), self.ticket, reuse)))
            }
            Ok(Grant::Dial(id)) => Poll::Ready(Turn::Dial(Slot { slots: self.slots.clone(), id })),
            Err(_replaced) => Poll::Pending,
        }
    }

    /// What it was handed is dead: it waits on, at its old place.
    pub(crate) fn requeue(&mut self) {
        self.slots.with(|state, fx| state.requeue(self.waiter, Instant::now(), fx));
    }
}

impl<K: Clone + Eq + Hash, C> Drop for Waiting<K, C> {
    fn drop(&mut self) {
        self.slots.with(|state, fx| state.deregister(self.waiter, Instant::now(), fx));
    }
}

impl<K: Clone + Eq + Hash, C> fmt::Debug for Slot<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.id).finish()
    }
}

impl<K: Clone + Eq + Hash, C> fmt::Debug for Lease<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.id).finish()
    }
}
