//! The three things the slot machine hands out. Dropping any of them at any time gives back what it stands for.

use std::{
    fmt,
    hash::Hash,
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use outbound_core::CallSite;
use tokio::time::Instant;

use super::{
    Slots,
    state::{Grant, Now, Polled, RecordId, Reuse, Share, Ticket, Use},
};
use crate::events::Why;

/// The right to have one socket. It is kept beside the socket and dropped after it.
pub(crate) struct Slot<K: Clone + Eq + Hash, C: Share> {
    slots: Arc<Slots<K, C>>,
    index: usize,
    serial: AtomicU64,
}

/// A connection in use by one exchange: [`release`](Self::release) it when it can carry another. Dropped, it is closed, or if it is
/// shared this exchange's part in it ends.
pub(crate) struct Lease<K: Clone + Eq + Hash, C: Share> {
    slots: Arc<Slots<K, C>>,
    id: RecordId,
    ticket: Ticket,
    idle_since: Option<Instant>,
    connection: Option<C>,
}

/// A registered request.
pub(crate) struct Waiting<K: Clone + Eq + Hash, C: Share> {
    slots: Arc<Slots<K, C>>,
    ticket: Ticket,
    waiter: usize,
}

/// What a waiter gets.
pub(crate) enum Turn<K: Clone + Eq + Hash, C: Share> {
    /// A connection that another exchange has finished with, or that has room for one more.
    Reuse(Lease<K, C>),
    /// Leave to open one. It goes on waiting meanwhile.
    Dial(Slot<K, C>),
    /// The pool is closed.
    Closed,
}

// === Slot ===

impl<K: Clone + Eq + Hash, C: Share> Slot<K, C> {
    pub(super) fn new(slots: Arc<Slots<K, C>>, id: RecordId) -> Self {
        Self { slots, index: id.index, serial: AtomicU64::new(id.serial) }
    }

    /// The number of the connection it stands for.
    pub(crate) fn serial(&self) -> u64 {
        self.serial.load(Relaxed)
    }

    pub(crate) fn slots(&self) -> &Arc<Slots<K, C>> {
        &self.slots
    }

    /// Nobody waits for its dial any more, or ever did.
    pub(crate) fn spare(&self) {
        self.slots.with(|state, _| state.spare(self.id()));
    }

    /// The dial has succeeded: `connection` is in use from now on, by the request that holds `ticket`.
    pub(crate) fn lease(&self, connection: C, ticket: Ticket, site: Option<CallSite>) -> Lease<K, C> {
        let used = Use { since: Instant::now(), site };
        self.slots.with(|state, fx| state.activate(self.id(), used, fx));
        self.leased(connection, ticket)
    }

    /// Likewise, and it can carry as many exchanges at once as `room` says once the lock is held: of that and a
    /// [`resize`](Self::resize) at the same time the later has the last word.
    pub(crate) fn share(
        &self,
        connection: C,
        room: impl FnOnce() -> usize,
        ticket: Ticket,
        site: Option<CallSite>,
    ) -> Lease<K, C> {
        let (now, kept) = (Now::read(), connection.share());
        let used = Use { since: now.at, site };
        self.slots.with(|state, fx| {
            state.activate_shared(self.id(), (kept, room()), ticket, (used, now), fx);
        });
        self.leased(connection, ticket)
    }

    fn leased(&self, connection: C, ticket: Ticket) -> Lease<K, C> {
        let (slots, id) = (self.slots.clone(), self.id());
        Lease { slots, id, ticket, idle_since: None, connection: Some(connection) }
    }

    /// It can carry so many exchanges at once from now on.
    pub(crate) fn resize(&self, room: usize) {
        self.slots.with(|state, fx| state.resize(self.id(), room, Instant::now(), fx));
    }

    /// It takes no more exchanges; those that it carries go on.
    pub(crate) fn condemn(&self, why: Why) {
        self.slots.with(|state, fx| state.condemn(self.id(), why, fx));
    }

    /// Its socket is closed: it stands for another that is being dialed.
    pub(crate) fn redial(&self) {
        let id = self.slots.with(|state, fx| state.redial(self.id(), fx));
        self.serial.store(id.serial, Relaxed);
    }

    fn id(&self) -> RecordId {
        RecordId { index: self.index, serial: self.serial() }
    }
}

impl<K: Clone + Eq + Hash, C: Share> Drop for Slot<K, C> {
    fn drop(&mut self) {
        self.slots.with(|state, fx| state.free(self.id(), fx));
    }
}

// === Lease ===

impl<K: Clone + Eq + Hash, C: Share> Lease<K, C> {
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
        let connection = self.take();
        let left = self.slots.with(|state, fx| state.release(self.id, connection, Now::read(), fx));
        drop(left);
    }

    /// The connection turns out to be dead before it was used: it is closed. Returns the place to ask again from.
    pub(crate) fn bury(mut self) -> Ticket {
        let connection = self.take();
        self.slots.with(|state, fx| state.bury(self.id, Now::read(), fx));
        drop(connection);
        self.ticket
    }

    /// The connection will not be used again; the caller closes it.
    pub(crate) fn retire(mut self) -> C {
        let connection = self.take();
        self.slots.with(|state, fx| state.retire(self.id, Why::Spent, Now::read(), fx));
        connection
    }

    /// The connection's socket is not for HTTP any more.
    pub(crate) fn detach(mut self) -> C {
        let connection = self.take();
        let used = Use { since: Instant::now(), site: None };
        self.slots.with(|state, _| state.detach(self.id, used));
        connection
    }

    fn take(&mut self) -> C {
        self.connection.take().expect("a lease holds its connection until it ends")
    }
}

impl<K: Clone + Eq + Hash, C: Share> Deref for Lease<K, C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.connection.as_ref().expect("a lease holds its connection until it ends")
    }
}

impl<K: Clone + Eq + Hash, C: Share> DerefMut for Lease<K, C> {
    fn deref_mut(&mut self) -> &mut C {
        self.connection.as_mut().expect("a lease holds its connection until it ends")
    }
}

impl<K: Clone + Eq + Hash, C: Share> Drop for Lease<K, C> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.slots.with(|state, fx| state.retire(self.id, Why::Spent, Now::read(), fx));
            drop(connection);
        }
    }
}

// === Waiting ===

impl<K: Clone + Eq + Hash, C: Share> Waiting<K, C> {
    pub(super) fn new(slots: Arc<Slots<K, C>>, ticket: Ticket, waiter: usize) -> Self {
        Self { slots, ticket, waiter }
    }

    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn<K, C>> {
        // A waker is user code: it is cloned outside the lock, and what is left then of it or of the one before is dropped there.
        let mut waker = Some(cx.waker().clone());
        match self.slots.with(|state, _| state.poll(self.waiter, &mut waker)) {
            Polled::Granted(Grant::Reuse(reuse)) => {
                Poll::Ready(Turn::Reuse(Lease::new(self.slots.clone(), self.ticket, reuse)))
            }
            Polled::Granted(Grant::Dial(id)) => Poll::Ready(Turn::Dial(Slot::new(self.slots.clone(), id))),
            Polled::Closed => Poll::Ready(Turn::Closed),
            Polled::Pending => Poll::Pending,
        }
    }

    /// What it was handed is dead: it waits on, at its old place.
    pub(crate) fn requeue(&mut self) {
        self.slots.with(|state, fx| state.requeue(self.waiter, Now::read(), fx));
    }
}

impl<K: Clone + Eq + Hash, C: Share> Drop for Waiting<K, C> {
    fn drop(&mut self) {
        self.slots.with(|state, fx| state.deregister(self.waiter, Now::read(), fx));
    }
}

impl<K: Clone + Eq + Hash, C: Share> fmt::Debug for Slot<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.id()).finish()
    }
}

impl<K: Clone + Eq + Hash, C: Share> fmt::Debug for Lease<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field(&self.id).finish()
    }
}
