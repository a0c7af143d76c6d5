//! What is under the lock, and every move that can be made there.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    task::Waker,
    time::Duration,
};

use outbound_core::{CallSite, Holders};
use slab::Slab;
use tokio::time::Instant;

use super::list::{Linked, Links, List};
use crate::stats::{Counts, OriginStats, Stats, Totals};

pub(super) struct State<K, C> {
    limits: Limits,
    /// Nothing is shelved any more: what comes back is closed.
    shut: bool,
    hosts: Slab<Host<K>>,
    by_key: HashMap<K, usize>,
    records: Slab<Record<C>>,
    waiters: Slab<Waiter<C>>,
    /// All idle records, the least recently used first.
    shelf: List<ALL>,
    /// For each host that is not full but has waiters without a dial: the oldest of them.
    blocked: BTreeMap<Ticket, usize>,
    /// Waiters without a dial, over all hosts.
    undialed: usize,
    counts: Counts,
    totals: Totals,
    tickets: u64,
    serials: u64,
    /// Connections handed straight on to a waiter so far.
    handed_on: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) total: usize,
    pub(crate) per_host: usize,
    pub(crate) idle: usize,
    pub(crate) idle_per_host: usize,
    pub(crate) waiting: usize,
}

/// A place in the queue: lower is older.
pub(crate) type Ticket = u64;

struct Host<K> {
    key: K,
    counts: Counts,
    shelf: List<HOST>,
    /// Registered waiters that have not been handed a connection.
    queue: BTreeMap<Ticket, usize>,
    /// Those of them that have no dial of their own either.
    undialed: BTreeMap<Ticket, usize>,
    /// All registered waiters.
    registered: usize,
    /// Its entry in `State::blocked`.
    blocked: Option<Ticket>,
}

struct Record<C> {
    host: usize,
    serial: u64,
    stage: Stage<C>,
    links: Links,
}

enum Stage<C> {
    Dialing,
    Active {
        since: Instant,
        site: Option<CallSite>,
    },
    Idle {
        connection: C,
        since: Instant,
    },
    /// Given up, but its socket is not closed yet.
    Closing,
}

struct Waiter<C> {
    host: usize,
    ticket: Ticket,
    site: Option<CallSite>,
    waker: Option<Waker>,
    grant: Option<Grant<C>>,
    /// It has been granted a dial, and not said that this dial is over.
    dialing: bool,
    /// `State::handed_on` when it came.
    came_at: u64,
}

/// Which record, and that it is still the one that was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordId {
    index: usize,
    serial: u64,
}

pub(super) enum Grant<C> {
    Reuse(Reuse<C>),
    Dial(RecordId),
}

pub(super) struct Reuse<C> {
    pub(super) id: RecordId,
    pub(super) connection: C,
    /// Since when it had been idle; `None` if it came straight from another exchange.
    pub(super) idle_since: Option<Instant>,
}

pub(super) enum Acquired<C> {
    Now(Ticket, Reuse<C>),
    Later(Ticket, usize),
}

/// No capacity, and no room to wait for it: so many wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    /// The limit on connections that is reached.
    pub(crate) limit: usize,
    pub(crate) waiting: usize,
}

/// What is to be done once the lock has been let go: user code runs here, so it may come back to us.
pub(super) struct Effects<C> {
    wake: Vec<Waker>,
    /// Wakers nobody waits with any more: dropping one is user code too.
    forget: Option<Waker>,
    close: Vec<C>,
}

/// Who asks for a connection, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    /// Its old place, if it has had one.
    pub(super) ticket: Option<Ticket>,
    pub(super) site: Option<CallSite>,
    pub(super) now: Instant,
}

// === State: taking ===

impl<K: Clone + Eq + Hash, C> State<K, C> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            shut: false,
            hosts: Slab::new(),
            by_key: HashMap::new(),
            records: Slab::new(),
            waiters: Slab::new(),
            shelf: List::new(),
            blocked: BTreeMap::new(),
            undialed: 0,
            counts: Counts::default(),
            totals: Totals::default(),
            tickets: 0,
            serials: 0,
            handed_on: 0,
        }
    }

    /// An idle connection at once, or a registration.
    pub(super) fn acquire(&mut self, key: &K, ask: Ask, fx: &mut Effects<C>) -> Result<Acquired<C>, Full> {
        let host = self.by_key.get(key).copied();
        let idle = host.and_then(|host| self.hosts[host].shelf.newest());
        // Who has had a place does not lose it to the limit on newcomers.
        if idle.is_none() && ask.ticket.is_none() {
            self.admit(host)?;
        }
        let ticket = ask.ticket.unwrap_or_else(|| next(&mut self.tickets));
        if let Some(index) = idle {
            return Ok(Acquired::Now(ticket, self.take_idle(index, ask.now, ask.site)));
        }
        let host = host.unwrap_or_else(|| self.open_host(key));
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

    /// Whether a call that finds nothing idle may register.
    fn admit(&mut self, host: Option<usize>) -> Result<(), Full> {
        let host_full = host.is_some_and(|host| self.hosts[host].counts.open() >= self.limits.per_host);
        let all_full = self.counts.open() >= self.limits.total;
        let must_wait = host_full || (all_full && self.shelf.oldest().is_none());
        if must_wait && self.undialed >= self.limits.waiting {
            self.totals.overflowed += 1;
            let limit = if host_full { self.limits.per_host } else { self.limits.total };
            return Err(Full { limit, waiting: self.undialed });
        }
        Ok(())
    }

    /// What the waiter has been granted; else its waker is kept, and the one it replaces returned to be dropped outside the lock.
    pub(super) fn poll(&mut self, waiter: usize, waker: &Waker) -> Result<Grant<C>, Option<Waker>> {
        let waiter = &mut self.waiters[waiter];
        if let Some(grant) = waiter.grant.take() {
            return Ok(grant);
        }
        match &waiter.waker {
            Some(kept) if kept.will_wake(waker) => Err(None),
            _ => Err(waiter.waker.replace(waker.clone())),
        }
    }

    /// The connection the waiter was handed is dead: it takes another that is idle by now, or its old place again.
    pub(super) fn requeue(&mut self, waiter: usize, now: Instant, fx: &mut Effects<C>) {
        let Waiter { host, site, .. } = self.waiters[waiter];
        match self.hosts[host].shelf.newest() {
            Some(idle) => {
                let reuse = self.take_idle(idle, now, site);
                self.grant(waiter, Grant::Reuse(reuse), fx);
            }
            None => self.enqueue(waiter),
        }
        self.settle(fx);
    }

    /// The waiter goes, and what it had been granted goes on to the next.
    pub(super) fn deregister(&mut self, waiter: usize, now: Instant, fx: &mut Effects<C>) {
        self.withdraw(waiter);
        let Waiter { host, grant, waker, .. } = self.waiters.remove(waiter);
        fx.forget = waker;
        self.hosts[host].registered -= 1;
        match grant {
            Some(Grant::Reuse(Reuse { id, connection, .. })) => self.release(id, connection, now, fx),
            Some(Grant::Dial(id)) => self.free(id, fx),
            None => {}
        }
        self.forget_if_cold(host);
    }

    /// The dial of this record has succeeded.
    pub(super) fn activate(&mut self, id: RecordId, now: Instant, site: Option<CallSite>) {
        if self.is_current(id) {
            self.move_to(id.index, Stage::active(now, site));
            self.totals.opened += 1;
        }
    }

    // --- giving back ---

    /// The exchange on this connection is over and it can carry another.
    pub(super) fn release(&mut self, id: RecordId, connection: C, now: Instant, fx: &mut Effects<C>) {
        if !self.is_current(id) {
            return fx.close.push(connection);
        }
        let host = self.records[id.index].host;
        let next = self.hosts[host].queue.first_key_value().map(|(&ticket, &waiter)| (ticket, waiter));
        match next {
            _ if self.shut => self.give_up(id.index, connection, fx),
            Some((ticket, _)) if self.is_overdue_before(ticket) => {
                self.totals.evicted += 1;
                self.give_up(id.index, connection, fx);
            }
            Some((_, waiter)) => {
                self.withdraw(waiter);
                let site = self.waiters[waiter].site;
                self.move_to(id.index, Stage::active(now, site));
                self.handed_on += 1;
                self.totals.reused += 1;
                let grant = Grant::Reuse(Reuse { id, connection, idle_since: None });
                // A dial it was granted but has not begun is not needed any more.
                if let Some(Grant::Dial(unused)) = self.grant(waiter, grant, fx) {
                    self.waiters[waiter].dialing = false;
                    self.remove(unused, fx);
                }
            }
            None => self.shelve(id.index, connection, now, fx),
        }
        self.settle(fx);
    }

    /// The connection will not be used again; it counts until its socket is closed.
    pub(super) fn retire(&mut self, id: RecordId) {
        if self.is_current(id) {
            self.move_to(id.index, Stage::Closing);
        }
    }

    /// The peer has closed the connection that was just taken: it was not reused but lost.
    pub(super) fn bury(&mut self, id: RecordId) {
        self.totals.reused -= 1;
        self.totals.lost += 1;
        self.retire(id);
    }

    /// The socket is closed, and another is dialed in its place.
    pub(super) fn redial(&mut self, id: RecordId, fx: &mut Effects<C>) {
        if self.is_current(id) {
            self.move_to(id.index, Stage::Dialing);
            self.totals.closed += 1;
            self.totals.dialed += 1;
            self.settle(fx);
        }
    }

    /// The socket is closed, or was never opened.
    pub(super) fn free(&mut self, id: RecordId, fx: &mut Effects<C>) {
        self.remove(id, fx);
        self.settle(fx);
    }

    /// Closes what has been idle for `timeout`; tells when to look again: when the next is due, or could be at the earliest.
    pub(super) fn expire(&mut self, now: Instant, timeout: Duration, fx: &mut Effects<C>) -> Option<Instant> {
        while let Some(index) = self.shelf.oldest() {
            let Stage::Idle { since, .. } = self.records[index].stage else {
                unreachable!("only idle records are shelved")
            };
            if since + timeout > now {
                return Some(since + timeout);
            }
            let (connection, _) = self.unshelve(index, Stage::Closing);
            fx.close.push(connection);
            self.totals.expired += 1;
        }
        (!self.is_empty()).then(|| now + timeout)
    }

    /// Closes what is idle, and from now on whatever comes back.
    pub(super) fn shut(&mut self, fx: &mut Effects<C>) {
        self.shut = true;
        while let Some(index) = self.shelf.oldest() {
            let (connection, _) = self.unshelve(index, Stage::Closing);
            fx.close.push(connection);
        }
    }

    // --- the moves inside ---

    /// Grants dials, the oldest waiter first, as long as there is room; makes room where idle connections take it.
    fn settle(&mut self, fx: &mut Effects<C>) {
        while let Some((_, &host)) = self.blocked.first_key_value() {
            if self.counts.open() < self.limits.total {
                self.grant_dial(host, fx);
            } else if let Some(idle) =
                self.shelf.oldest().filter(|_| self.wants_more_than(self.counts.closing))
            {
                self.evict(idle, fx);
            } else {
                break;
            }
        }
    }

    /// Whether more waiters than `closing` could dial if only there were room.
    fn wants_more_than(&self, closing: usize) -> bool {
        let mut wanted = 0;
        self.blocked.values().any(|&host| {
            let host = &self.hosts[host];
            wanted += host.undialed.len().min(self.limits.per_host - host.counts.open());
            wanted > closing
        })
    }

    /// Whether a waiter of another host has been passed over so often that it goes before `ticket`: once by each connection.
    fn is_overdue_before(&self, ticket: Ticket) -> bool {
        self.counts.closing == 0
            && self.blocked.first_key_value().is_some_and(|(oldest, &host)| {
                let waiter = &self.waiters[self.hosts[host].undialed[oldest]];
                *oldest < ticket && self.handed_on - waiter.came_at >= self.limits.total as u64
            })
    }

    fn grant_dial(&mut self, host: usize, fx: &mut Effects<C>) {
        let Some((ticket, waiter)) = self.hosts[host].undialed.pop_first() else {
            unreachable!("a blocked host has a waiter without a dial")
        };
        debug_assert_eq!(self.waiters[waiter].ticket, ticket);
        self.undialed -= 1;
        let serial = next(&mut self.serials);
        let record = Record { host, serial, stage: Stage::Dialing, links: Links::default() };
        let index = self.records.insert(record);
        self.counts.dialing += 1;
        self.hosts[host].counts.dialing += 1;
        self.totals.dialed += 1;
        self.waiters[waiter].dialing = true;
        self.reindex(host);
        self.grant(waiter, Grant::Dial(RecordId { index, serial }), fx);
    }

    fn grant(&mut self, waiter: usize, grant: Grant<C>, fx: &mut Effects<C>) -> Option<Grant<C>> {
        let waiter = &mut self.waiters[waiter];
        fx.wake.extend(waiter.waker.take());
        waiter.grant.replace(grant)
    }

    fn enqueue(&mut self, waiter: usize) {
        let Waiter { host, ticket, dialing, .. } = self.waiters[waiter];
        let entry = &mut self.hosts[host];
        entry.queue.insert(ticket, waiter);
        if !dialing {
            entry.undialed.insert(ticket, waiter);
            self.undialed += 1;
        }
        self.reindex(host);
    }

    /// Out of the queues; it stays registered.
    fn withdraw(&mut self, waiter: usize) {
        let Waiter { host, ticket, .. } = self.waiters[waiter];
        let entry = &mut self.hosts[host];
        entry.queue.remove(&ticket);
        self.undialed -= usize::from(entry.undialed.remove(&ticket).is_some());
        self.reindex(host);
    }

    fn shelve(&mut self, index: usize, connection: C, now: Instant, fx: &mut Effects<C>) {
        let host = self.records[index].host;
        if self.limits.idle.min(self.limits.idle_per_host) == 0 {
            self.totals.surplus += 1;
            return self.give_up(index, connection, fx);
        }
        self.move_to(index, Stage::Idle { connection, since: now });
        self.shelf.push(&mut self.records, index);
        self.hosts[host].shelf.push(&mut self.records, index);
        let surplus = if self.hosts[host].counts.idle > self.limits.idle_per_host {
            self.hosts[host].shelf.oldest()
        } else if self.counts.idle > self.limits.idle {
            self.shelf.oldest()
        } else {
            None
        };
        if let Some(index) = surplus {
            let (connection, _) = self.unshelve(index, Stage::Closing);
            fx.close.push(connection);
            self.totals.surplus += 1;
        }
    }

    fn take_idle(&mut self, index: usize, now: Instant, site: Option<CallSite>) -> Reuse<C> {
        let (connection, since) = self.unshelve(index, Stage::active(now, site));
        self.totals.reused += 1;
        Reuse { id: self.id(index), connection, idle_since: Some(since) }
    }

    fn unshelve(&mut self, index: usize, stage: Stage<C>) -> (C, Instant) {
        self.shelf.remove(&mut self.records, index);
        let host = self.records[index].host;
        self.hosts[host].shelf.remove(&mut self.records, index);
        match self.move_to(index, stage) {
            Stage::Idle { connection, since } => (connection, since),
            _ => unreachable!("only idle records are shelved"),
        }
    }

    fn evict(&mut self, index: usize, fx: &mut Effects<C>) {
        let (connection, _) = self.unshelve(index, Stage::Closing);
        fx.close.push(connection);
        self.totals.evicted += 1;
    }

    fn give_up(&mut self, index: usize, connection: C, fx: &mut Effects<C>) {
        self.move_to(index, Stage::Closing);
        fx.close.push(connection);
    }

    fn move_to(&mut self, index: usize, stage: Stage<C>) -> Stage<C> {
        let record = &mut self.records[index];
        let left = std::mem::replace(&mut record.stage, stage);
        for counts in [&mut self.counts, &mut self.hosts[record.host].counts] {
            *left.count(counts) -= 1;
            *record.stage.count(counts) += 1;
        }
        left
    }

    fn remove(&mut self, id: RecordId, fx: &mut Effects<C>) {
        if !self.is_current(id) {
            return;
        }
        if let Stage::Idle { .. } = self.records[id.index].stage {
            let (connection, _) = self.unshelve(id.index, Stage::Closing);
            fx.close.push(connection);
            self.totals.lost += 1;
        }
        let Record { host, stage, .. } = self.records.remove(id.index);
        *stage.count(&mut self.counts) -= 1;
        *stage.count(&mut self.hosts[host].counts) -= 1;
        self.totals.closed += 1;
        self.reindex(host);
        self.forget_if_cold(host);
    }

    /// Puts the host's oldest waiter without a dial on `blocked`, or takes it off, as its counts demand.
    fn reindex(&mut self, host: usize) {
        let entry = &mut self.hosts[host];
        let room = entry.counts.open() < self.limits.per_host;
        let oldest = entry.undialed.first_key_value().map(|(&ticket, _)| ticket).filter(|_| room);
        if entry.blocked != oldest {
            if let Some(ticket) = std::mem::replace(&mut entry.blocked, oldest) {
                self.blocked.remove(&ticket);
            }
            if let Some(ticket) = oldest {
                self.blocked.insert(ticket, host);
            }
        }
    }

    fn open_host(&mut self, key: &K) -> usize {
        let host = self.hosts.insert(Host {
            key: key.clone(),
            counts: Counts::default(),
            shelf: List::new(),
            queue: BTreeMap::new(),
            undialed: BTreeMap::new(),
            registered: 0,
            blocked: None,
        });
        self.by_key.insert(key.clone(), host);
        host
    }

    /// A host without records and waiters takes no memory.
    fn forget_if_cold(&mut self, host: usize) {
        let is_cold = |host: &Host<K>| host.registered == 0 && host.counts.open() == 0;
        if self.hosts.get(host).is_some_and(is_cold) {
            let host = self.hosts.remove(host);
            self.by_key.remove(&host.key);
        }
    }

    fn id(&self, index: usize) -> RecordId {
        RecordId { index, serial: self.records[index].serial }
    }

    fn is_current(&self, id: RecordId) -> bool {
        self.records.get(id.index).is_some_and(|record| record.serial == id.serial)
    }

    // --- seeing ---

    pub(super) fn is_empty(&self) -> bool {
        self.counts.open() == 0
    }

    pub(super) fn stats(&self) -> Stats<K> {
        let origin = |host: &Host<K>| OriginStats {
            origin: host.key.clone(),
            connections: host.counts,
            waiting: host.undialed.len(),
        };
        Stats {
            connections: self.counts,
            waiting: self.undialed,
            totals: self.totals,
            origins: self.hosts.iter().map(|(_, host)| origin(host)).collect(),
        }
    }

    /// Who holds the connections that a waiter for `key` waits for.
    pub(super) fn holders(&self, key: &K, now: Instant) -> Holders {
        let host = self.by_key.get(key).map(|&host| (host, &self.hosts[host]));
        let in_host = host.is_some_and(|(_, host)| host.counts.open() >= self.limits.per_host);
        let counts = host.filter(|_| in_host).map_or(self.counts, |(_, host)| host.counts);
        let waiting = host.map_or(0, |(_, host)| host.undialed.len());
        let mine = |record: &&Record<C>| !in_host || host.is_some_and(|(host, _)| host == record.host);
        let active = self.records.iter().map(|(_, record)| record).filter(mine);
        let oldest = active.filter_map(|record| match record.stage {
            Stage::Active { since, site } => Some((since, site)),
            _ => None,
        });
        let mut holders = Holders::default();
        holders.active = counts.active;
        holders.idle = counts.idle;
        holders.dialing = counts.dialing;
        holders.closing = counts.closing;
        holders.waiting = waiting;
        holders.limit = if in_host { self.limits.per_host } else { self.limits.total };
        holders.oldest = oldest.min_by_key(|&(since, _)| since).map(|(since, site)| (now - since, site));
        holders
    }

    /// The invariants of the module's head, and that every count and index is what it counts.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let open = self.records.len();
        assert_eq!(open, self.counts.open(), "records and counts");
        assert!(open <= self.limits.total, "{open} of {} open", self.limits.total);
        assert!(self.counts.idle <= self.limits.idle, "idle");
        assert_eq!(self.hosts.len(), self.by_key.len(), "hosts and keys");
        assert_eq!(
            self.hosts.iter().map(|(_, host)| host.undialed.len()).sum::<usize>(),
            self.undialed,
            "undialed"
        );
        let blocked = self.hosts.iter().filter_map(|(key, host)| Some((host.blocked?, key)));
        assert_eq!(blocked.collect::<BTreeMap<_, _>>(), self.blocked, "blocked");
        for (key, host) in &self.hosts {
            let mut counts = Counts::default();
            let records = self.records.iter().map(|(_, record)| record).filter(|record| record.host == key);
            records.for_each(|record| *record.stage.count(&mut counts) += 1);
            assert_eq!(counts, host.counts, "counts of a host");
            assert!(
                counts.open() <= self.limits.per_host,
                "{} of {} open",
                counts.open(),
                self.limits.per_host
            );
            assert!(counts.idle <= self.limits.idle_per_host, "idle of a host");
            assert!(counts.open() + host.registered > 0, "a cold host is kept");
            let registered = self.waiters.iter().filter(|(_, waiter)| waiter.host == key).count();
            assert_eq!(registered, host.registered, "registered");
            assert!(counts.idle == 0 || host.queue.is_empty(), "idle while one waits for it");
            let host_full = counts.open() >= self.limits.per_host;
            let all_full = open >= self.limits.total;
            assert!(host.undialed.is_empty() || host_full || all_full, "a waiter waits while there is room");
            if !host.undialed.is_empty() && !host_full {
                assert!(
                    self.counts.idle == 0 || !self.wants_more_than(self.counts.closing),
                    "idle while blocked"
                );
            }
        }
    }
}

fn next(counter: &mut u64) -> u64 {
    *counter += 1;
    *counter
}

// === Stage ===

impl<C> Stage<C> {
    fn active(since: Instant, site: Option<CallSite>) -> Self {
        Self::Active { since, site }
    }

    fn count<'a>(&self, counts: &'a mut Counts) -> &'a mut usize {
        match self {
            Self::Dialing => &mut counts.dialing,
            Self::Active { .. } => &mut counts.active,
            Self::Idle { .. } => &mut counts.idle,
            Self::Closing => &mut counts.closing,
        }
    }
}

impl<C> Linked for Record<C> {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

// === Effects ===

impl<C> Effects<C> {
    pub(super) const fn none() -> Self {
        Self { wake: Vec::new(), forget: None, close: Vec::new() }
    }

    /// Wakes and closes. The lock must not be held.
    pub(super) fn apply(self) {
        let Self { wake, forget, close } = self;
        drop((forget, close));
        wake.into_iter().for_each(Waker::wake);
    }
}

/// The two lists an idle record is in.
const ALL: usize = 0;
const HOST: usize = 1;
