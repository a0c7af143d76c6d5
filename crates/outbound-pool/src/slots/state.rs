//! What is under the lock, and every move that can be made there from outside.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    mem,
    task::Waker,
    time::{Duration, SystemTime},
};

use outbound_core::CallSite;
use slab::Slab;
use tokio::time::Instant;

use super::list::{Linked, Links, List};
use crate::{
    events::{Event, What, Why},
    stats::{Counts, Totals},
};

pub(super) struct State<K, C> {
    pub(super) limits: Limits,
    /// Nothing is shelved any more: what comes back is closed.
    pub(super) shut: bool,
    /// Nobody is served any more either.
    pub(super) closed: bool,
    /// They want to know when the last socket is closed.
    pub(super) closers: Vec<Waker>,
    /// Somebody listens to what happens.
    pub(super) observed: bool,
    pub(super) hosts: Slab<Host<K>>,
    /// Those for whoever takes what there is, and those that are kept apart.
    pub(super) by_key: [HashMap<K, usize>; 2],
    /// The host that was asked for last, or one that has gone since.
    pub(super) last: usize,
    pub(super) records: Slab<Record<C>>,
    pub(super) waiters: Slab<Waiter<C>>,
    /// All idle records, the least recently used first.
    pub(super) shelf: List<ALL>,
    /// Those of them that are not parked yet.
    pub(super) unparked: List<UNPARKED>,
    /// When each record has lived long enough, where that is limited.
    pub(super) lifetimes: BTreeSet<(Instant, RecordId)>,
    /// For each host that may dial but has waiters without a dial: the oldest of them.
    pub(super) blocked: BTreeMap<Ticket, usize>,
    /// Waiters without a dial, over all hosts.
    pub(super) undialed: usize,
    /// Shared records in use that take no more exchanges.
    pub(super) draining: usize,
    pub(super) counts: Counts,
    pub(super) totals: Totals,
    pub(super) tickets: u64,
    pub(super) serials: u64,
    /// Exchanges that got a connection of a host while a waiter of another might have wanted its place.
    pub(super) handed_on: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) total: usize,
    pub(crate) per_host: usize,
    pub(crate) idle: usize,
    pub(crate) idle_per_host: usize,
    pub(crate) waiting: usize,
    /// How long a connection may be idle.
    pub(crate) idle_timeout: Duration,
    /// How long it is idle until it is parked.
    pub(crate) park_after: Duration,
    /// How long it may live, and still take another exchange.
    pub(crate) lifetime: Option<Duration>,
    /// How many exchanges it may carry.
    pub(crate) requests: u64,
    /// What jitter is made of.
    pub(crate) seed: u64,
}

/// A place in the queue: lower is older.
pub(crate) type Ticket = u64;

/// One moment on both clocks: a machine that was suspended knows of it by the second only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) at: Instant,
    pub(crate) wall: SystemTime,
}

pub(super) struct Host<K> {
    pub(super) key: K,
    pub(super) apart: bool,
    pub(super) nature: Nature,
    pub(super) counts: Counts,
    pub(super) shelf: List<HOST>,
    /// Shared records in use that have room for one more exchange.
    pub(super) open: List<HOST>,
    /// Registered waiters that have not been handed a connection.
    pub(super) queue: BTreeMap<Ticket, usize>,
    /// Those of them that have no dial of their own either.
    pub(super) undialed: BTreeMap<Ticket, usize>,
    /// All registered waiters.
    pub(super) registered: usize,
    /// Its entry in `State::blocked`.
    pub(super) blocked: Option<Ticket>,
}

/// What is known of a host's connections. Unless each is for one exchange at a time, one dial at a time is enough for any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    Unknown,
    Exclusive,
    Shared,
}

pub(super) struct Record<C> {
    pub(super) host: usize,
    pub(super) serial: u64,
    pub(super) stage: Stage<C>,
    pub(super) links: Links,
    /// Exchanges that it has been given to: at first the one that it is dialed for.
    pub(super) granted: u64,
    /// When it has lived long enough.
    pub(super) retires: Option<Instant>,
    /// It takes no more exchanges, for this reason.
    pub(super) why: Option<Why>,
    /// It is idle, and has been asked to be nothing but its socket.
    pub(super) asked_to_park: bool,
    /// And it is.
    pub(super) parked: bool,
}

pub(super) enum Stage<C> {
    Dialing,
    /// With one exchange, which has the connection.
    Active(Use),
    Idle {
        connection: C,
        since: Now,
    },
    /// With so many exchanges at once, each of which has a handle of its own; idle if there are none.
    Shared {
        connection: C,
        streams: usize,
        /// How many there may be.
        room: usize,
        used: Use,
        /// Since when it has been idle, if it is.
        since: Now,
    },
    /// Not for HTTP any more, but its socket is open.
    Detached(Use),
    /// Given up, but its socket is not closed yet.
    Closing,
}

/// What a record counts as in [`Counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Dialing,
    Active,
    Idle,
    Closing,
}

/// Who has it, and since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    pub(super) since: Instant,
    pub(super) site: Option<CallSite>,
}

pub(super) struct Waiter<C> {
    pub(super) host: usize,
    pub(super) ticket: Ticket,
    pub(super) site: Option<CallSite>,
    pub(super) waker: Option<Waker>,
    pub(super) grant: Option<Grant<C>>,
    /// It has been granted a dial, and not said that this dial is over.
    pub(super) dialing: bool,
    /// `State::handed_on` when it came.
    pub(super) came_at: u64,
}

/// Which record, and that it is still the one that was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RecordId {
    pub(super) index: usize,
    pub(super) serial: u64,
}

pub(super) enum Grant<C> {
    Reuse(Reuse<C>),
    Dial(RecordId),
}

pub(super) struct Reuse<C> {
    pub(super) id: RecordId,
    pub(super) connection: C,
    /// Since when it had been idle; `None` if it came straight from another exchange, or carries others.
    pub(super) idle_since: Option<Instant>,
}

pub(super) enum Acquired<C> {
    Now(Ticket, Reuse<C>),
    Later(Ticket, usize),
}

/// Nobody can be served, now or ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No capacity, and no room to wait for it.
    Full {
        /// The limit on connections that is reached.
        limit: usize,
        /// So many wait already.
        waiting: usize,
    },
    /// The pool is closed.
    Closed,
}

/// What is to be done once the lock has been let go: user code runs here, so it may come back to us.
pub(super) struct Effects<K, C>(Vec<Effect<K, C>>);

pub(super) enum Effect<K, C> {
    Wake(Waker),
    /// A waker nobody waits with any more: dropping one is user code too.
    Forget(Waker),
    /// What a connection has given back.
    Shed(Box<dyn Send>),
    Close(C),
    Tell(Event<K>),
}

/// Who asks for a connection, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// Its old place, if it has had one.
    pub(crate) ticket: Option<Ticket>,
    pub(crate) site: Option<CallSite>,
    pub(crate) now: Now,
    /// What the host's connections are taken for until one is open.
    pub(crate) nature: Nature,
    /// Only a connection will do that was opened for such as this one.
    pub(crate) apart: bool,
}

/// A connection, as far as the machine is concerned.
pub(crate) trait Share {
    /// Another handle to a connection that carries several exchanges at once. Never asked of any other.
    fn share(&self) -> Self;

    /// Makes an idle connection give back what it can do without until it is used again: what is returned is dropped outside the lock.
    fn park(&mut self) -> Option<Box<dyn Send>>;
}

// === State: taking ===

impl<K: Clone + Eq + Hash, C: Share> State<K, C> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            shut: false,
            closed: false,
            closers: Vec::new(),
            observed: false,
            hosts: Slab::new(),
            by_key: [HashMap::new(), HashMap::new()],
            last: 0,
            records: Slab::new(),
            waiters: Slab::new(),
            shelf: List::new(),
            unparked: List::new(),
            lifetimes: BTreeSet::new(),
            blocked: BTreeMap::new(),
            undialed: 0,
            draining: 0,
            counts: Counts::default(),
            totals: Totals::default(),
            tickets: 0,
            serials: 0,
            handed_on: 0,
        }
    }

    /// A connection at once, or a registration.
    pub(super) fn acquire(
        &mut self,
        key: &K,
        ask: Ask,
        fx: &mut Effects<K, C>,
    ) -> Result<Acquired<C>, Refusal> {
        if self.closed {
            return Err(Refusal::Closed);
        }
        let host = self.host(key, ask.apart);
        let found = host.and_then(|host| self.find(host, ask.now, fx));
        // Who has had a place does not lose it to the limit on newcomers.
        if found.is_none() && ask.ticket.is_none() {
            self.admit(host)?;
        }
        let ticket = ask.ticket.unwrap_or_else(|| next(&mut self.tickets));
        if let Some(index) = found {
            return Ok(Acquired::Now(ticket, self.take(index, ask.now.at, ask.site, fx)));
        }
        let host = host.unwrap_or_else(|| self.open_host(key, ask.apart, ask.nature));
        let waiter = self.waiters.insert(Waiter {
            host,
            ticket,
            site: ask.site,
            waker: None,
            grant: None,
            dialing: false,
            came_at: self.handed_on,
        });
        self.hosts[host].registered += 1;
        self.enqueue(waiter);
        self.settle(fx);
        if self.waiters[waiter].grant.is_none() {
            self.totals.waited += 1;
        }
        Ok(Acquired::Later(ticket, waiter))
    }

    /// Whether a call that finds nothing to use may register.
    fn admit(&mut self, host: Option<usize>) -> Result<(), Refusal> {
        let host = host.map(|host| &self.hosts[host]);
        let host_full = host.is_some_and(|host| host.counts.open() >= self.limits.per_host);
        let all_full = self.counts.open() >= self.limits.total;
        let must_wait = host_full || (all_full && self.shelf.oldest().is_none());
        let limit = if must_wait {
            self.limits.waiting
        } else if host.is_some_and(|host| !host.may_dial()) {
            // The dial that is going on is as good as one of its own, but not for any number.
            self.limits.waiting.max(STREAMS)
        } else {
            return Ok(());
        };
        if self.undialed < limit {
            return Ok(());
        }
        self.totals.overflowed += 1;
        let limit = if host_full { self.limits.per_host } else { self.limits.total };
        Err(Refusal::Full { limit, waiting: self.undialed })
    }

    /// What the waiter has been granted; else `waker` is kept, in exchange for the one before, unless they are the same.
    pub(super) fn poll(&mut self, waiter: usize, waker: &mut Option<Waker>) -> Polled<C> {
        if self.closed {
            return Polled::Closed;
        }
        let waiter = &mut self.waiters[waiter];
        if let Some(grant) = waiter.grant.take() {
            return Polled::Granted(grant);
        }
        if !matches!((&waiter.waker, &*waker), (Some(kept), Some(waker)) if kept.will_wake(waker)) {
            mem::swap(&mut waiter.waker, waker);
        }
        Polled::Pending
    }

    /// The connection the waiter was handed is dead: it takes another that can be used by now, or its old place again.
    pub(super) fn requeue(&mut self, waiter: usize, now: Now, fx: &mut Effects<K, C>) {
        let Waiter { host, site, .. } = self.waiters[waiter];
        match self.find(host, now, fx) {
            Some(index) => {
                let reuse = self.take(index, now.at, site, fx);
                self.grant(waiter, Grant::Reuse(reuse), fx);
            }
            None => self.enqueue(waiter),
        }
        self.settle(fx);
    }

    /// The waiter goes, and what it had been granted goes on to the next.
    pub(super) fn deregister(&mut self, waiter: usize, now: Now, fx: &mut Effects<K, C>) {
        self.withdraw(waiter);
        let Waiter { host, grant, waker, .. } = self.waiters.remove(waiter);
        if self.waiters.is_empty() && self.waiters.capacity() > CROWD {
            self.waiters.shrink_to_fit();
        }
        fx.forget(waker);
        self.hosts[host].registered -= 1;
        match grant {
            Some(Grant::Reuse(Reuse { id, connection, .. })) => {
                let left = self.release(id, connection, now, fx);
                fx.close(left);
            }
            Some(Grant::Dial(id)) => self.free(id, fx),
            None => {}
        }
        self.forget_if_cold(host);
    }

    /// Leave to dial for nobody, as long as the host has fewer than `wanted` connections.
    pub(super) fn reserve(
        &mut self,
        key: &K,
        wanted: usize,
        nature: Nature,
        fx: &mut Effects<K, C>,
    ) -> Vec<RecordId> {
        let host = self.host(key, false).unwrap_or_else(|| self.open_host(key, false, nature));
        let mut reserved = Vec::new();
        let wanted = wanted.min(self.limits.per_host);
        while self.counts.open() < self.limits.total && !self.shut {
            let entry = &self.hosts[host];
            let enough = if entry.nature == Nature::Shared { wanted.min(1) } else { wanted };
            if entry.counts.open() >= enough || !entry.may_dial() {
                break;
            }
            reserved.push(self.insert_dialing(host, fx));
        }
        self.forget_if_cold(host);
        reserved
    }

    /// Nobody waits for this dial any more, or ever did: its first exchange is whichever comes.
    pub(super) fn spare(&mut self, id: RecordId) {
        if self.is_current(id) {
            self.records[id.index].granted = 0;
        }
    }

    /// The dial of this record has succeeded, for one exchange at a time.
    pub(super) fn activate(&mut self, id: RecordId, used: Use, fx: &mut Effects<K, C>) {
        if self.is_current(id) {
            self.opened(id, used.since, Nature::Exclusive);
            self.move_to(id.index, Stage::Active(used));
            self.learned(id, used.since, fx);
        }
    }

    /// The dial of this record has succeeded, for `room` exchanges at once, the first of which is that of `ticket`.
    pub(super) fn activate_shared(
        &mut self,
        id: RecordId,
        (connection, room): (C, usize),
        ticket: Ticket,
        (used, since): (Use, Now),
        fx: &mut Effects<K, C>,
    ) {
        if !self.is_current(id) {
            return fx.close([connection]);
        }
        self.opened(id, used.since, Nature::Shared);
        let room = room.max(1);
        self.move_to(id.index, Stage::Shared { connection, streams: 1, room, used, since });
        let host = self.records[id.index].host;
        if let Some(&waiter) = self.hosts[host].queue.get(&ticket) {
            self.withdraw(waiter);
        }
        if self.shut {
            self.condemn(id, Why::Shutdown, fx);
        }
        self.learned(id, used.since, fx);
    }

    fn opened(&mut self, id: RecordId, now: Instant, nature: Nature) {
        self.totals.opened += 1;
        let lifetime = self.limits.jittered_lifetime(id.serial);
        let record = &mut self.records[id.index];
        record.retires = lifetime.and_then(|lifetime| now.checked_add(lifetime));
        self.lifetimes.extend(record.retires.map(|retires| (retires, id)));
        self.hosts[record.host].nature = nature;
    }

    /// Something is known of a host that was not before: others may be served, or may dial.
    fn learned(&mut self, id: RecordId, now: Instant, fx: &mut Effects<K, C>) {
        self.retire_if_spent(id.index, fx);
        let host = self.records[id.index].host;
        self.serve(host, now, fx);
        self.reindex(host);
        self.settle(fx);
    }

    // --- giving back ---

    /// The exchange on this connection is over and it can carry another. Returned is what the machine has no use for.
    pub(super) fn release(
        &mut self,
        id: RecordId,
        connection: C,
        now: Now,
        fx: &mut Effects<K, C>,
    ) -> Option<C> {
        if !self.is_current(id) {
            return Some(connection);
        }
        if self.records[id.index].granted > 0 {
            self.tell(id, || What::Returned, fx);
        }
        if let Stage::Shared { .. } = self.records[id.index].stage {
            self.release_stream(id.index, now, fx);
            return Some(connection);
        }
        let host = self.records[id.index].host;
        let next = self.hosts[host].queue.first_key_value().map(|(&ticket, &waiter)| (ticket, waiter));
        let mut left = None;
        match next {
            _ if self.records[id.index].why.is_some() => left = Some(self.give_up(id.index, connection)),
            _ if self.shut => {
                self.doom(id.index, Why::Shutdown);
                left = Some(self.give_up(id.index, connection));
            }
            Some((ticket, _)) if self.is_overdue_before(ticket) => {
                self.doom(id.index, Why::Evicted);
                left = Some(self.give_up(id.index, connection));
            }
            Some((_, waiter)) => {
                self.withdraw(waiter);
                let site = self.waiters[waiter].site;
                self.move_to(id.index, Stage::Active(Use { since: now.at, site }));
                self.reused(id, None, now.at, fx);
                self.hand(waiter, Reuse { id, connection, idle_since: None }, fx);
            }
            None => self.shelve(id.index, connection, now, fx),
        }
        self.settle(fx);
        left
    }

    /// One exchange less on a shared connection.
    pub(super) fn release_stream(&mut self, index: usize, now: Now, fx: &mut Effects<K, C>) {
        let host = self.records[index].host;
        self.share(index, |streams, _, since| {
            *streams -= 1;
            *since = now;
        });
        self.close_if_drained(index, fx);
        self.serve(host, now.at, fx);
        self.keep_idle_limits(host, fx);
        self.settle(fx);
    }

    /// What the lease stood for is given back, but not for another exchange: the connection of an exclusive one is closed by whoever has
    /// it; a shared one has lost one exchange.
    pub(super) fn retire(&mut self, id: RecordId, why: Why, now: Now, fx: &mut Effects<K, C>) {
        if !self.is_current(id) {
            return;
        }
        match self.records[id.index].stage {
            Stage::Shared { .. } => self.release_stream(id.index, now, fx),
            _ => {
                self.doom(id.index, why);
                self.move_to(id.index, Stage::Closing);
            }
        }
    }

    /// The connection is no longer for HTTP: it counts until its socket is closed.
    pub(super) fn detach(&mut self, id: RecordId, used: Use) {
        if self.is_current(id) {
            self.doom(id.index, Why::Upgraded);
            self.move_to(id.index, Stage::Detached(used));
        }
    }

    /// The peer has closed the connection that was just taken: it was not reused but lost.
    pub(super) fn bury(&mut self, id: RecordId, now: Now, fx: &mut Effects<K, C>) {
        self.totals.reused -= 1;
        self.condemn(id, Why::Lost, fx);
        self.retire(id, Why::Lost, now, fx);
    }

    /// The socket is closed, and another is dialed in its place; the new record's serial.
    pub(super) fn redial(&mut self, id: RecordId, fx: &mut Effects<K, C>) -> RecordId {
        if !self.is_current(id) {
            return id;
        }
        let why = self.records[id.index].why.unwrap_or(Why::Spent);
        self.tell(id, || What::Closed(why), fx);
        self.totals.closed += 1;
        self.move_to(id.index, Stage::Dialing);
        let serial = next(&mut self.serials);
        let record = &mut self.records[id.index];
        if let Some(retires) = record.retires.take() {
            self.lifetimes.remove(&(retires, id));
        }
        (record.serial, record.granted, record.why) = (serial, 1, None);
        let id = RecordId { index: id.index, serial };
        self.totals.dialed += 1;
        self.tell(id, || What::Dialing, fx);
        self.settle(fx);
        id
    }

    /// The socket is closed, or was never opened.
    pub(super) fn free(&mut self, id: RecordId, fx: &mut Effects<K, C>) {
        self.remove(id, fx);
        self.settle(fx);
    }

    /// A shared connection can carry so many exchanges from now on.
    pub(super) fn resize(&mut self, id: RecordId, room: usize, now: Instant, fx: &mut Effects<K, C>) {
        if self.is_current(id) {
            self.share(id.index, |_, present, _| *present = room);
            self.serve(self.records[id.index].host, now, fx);
            self.settle(fx);
        }
    }
}

/// What polling a waiter gives.
pub(super) enum Polled<C> {
    Granted(Grant<C>),
    Pending,
    Closed,
}

pub(super) fn next(counter: &mut u64) -> u64 {
    *counter += 1;
    *counter
}

// === Now ===

impl Now {
    pub(crate) fn read() -> Self {
        Self { at: Instant::now(), wall: SystemTime::now() }
    }
}

// === Limits ===

impl Limits {
    /// The lifetime of one connection: up to a tenth shorter than the limit, so that those opened together do not end together.
    pub(super) fn jittered_lifetime(&self, serial: u64) -> Option<Duration> {
        let mut bits = self.seed ^ serial.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let fraction = (bits >> 40) as f64 / (1u64 << 24) as f64;
        self.lifetime.map(|lifetime| lifetime.mul_f64(1.0 - fraction / 10.0))
    }
}

// === Host ===

impl<K> Host<K> {
    /// Whether a waiter of this host may be granted a dial as far as other dials are concerned.
    pub(super) fn may_dial(&self) -> bool {
        self.nature == Nature::Exclusive || self.counts.dialing == 0
    }
}

// === Stage ===

impl<C> Stage<C> {
    /// What it counts as.
    #[inline]
    pub(super) fn counted(&self) -> Counted {
        match self {
            Self::Dialing => Counted::Dialing,
            Self::Idle { .. } | Self::Shared { streams: 0, .. } => Counted::Idle,
            Self::Active(_) | Self::Shared { .. } | Self::Detached(_) => Counted::Active,
            Self::Closing => Counted::Closing,
        }
    }
}

// === Counts ===

impl Counts {
    pub(super) fn add(&mut self, other: Self) {
        self.dialing += other.dialing;
        self.active += other.active;
        self.idle += other.idle;
        self.closing += other.closing;
    }

    pub(super) fn of(&mut self, counted: Counted) -> &mut usize {
        match counted {
            Counted::Dialing => &mut self.dialing,
            Counted::Active => &mut self.active,
            Counted::Idle => &mut self.idle,
            Counted::Closing => &mut self.closing,
        }
    }
}

impl<C> Linked for Record<C> {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

// === Effects ===

impl<K, C> Effects<K, C> {
    pub(super) const fn none() -> Self {
        Self(Vec::new())
    }

    pub(super) const fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn wake(&mut self, wakers: impl IntoIterator<Item = Waker>) {
        self.0.extend(wakers.into_iter().map(Effect::Wake));
    }

    pub(super) fn forget(&mut self, waker: Option<Waker>) {
        self.0.extend(waker.map(Effect::Forget));
    }

    pub(super) fn shed(&mut self, shed: Option<Box<dyn Send>>) {
        self.0.extend(shed.map(Effect::Shed));
    }

    pub(super) fn close(&mut self, connections: impl IntoIterator<Item = C>) {
        self.0.extend(connections.into_iter().map(Effect::Close));
    }

    pub(super) fn tell(&mut self, event: Event<K>) {
        self.0.push(Effect::Tell(event));
    }
}

impl<K, C> IntoIterator for Effects<K, C> {
    type Item = Effect<K, C>;
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The lists an idle record is in, the last of them until it is parked; a shared one in use that has room is in one of its host's.
pub(super) const ALL: usize = 0;
pub(super) const HOST: usize = 1;
pub(super) const UNPARKED: usize = 2;
/// How many exchanges a shared connection is expected to carry at least, until it says so itself (RFC 9113, 6.5.2).
const STREAMS: usize = 100;
/// Room for more waiters than these is given back when all have gone.
const CROWD: usize = 64;
