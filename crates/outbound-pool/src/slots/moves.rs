//! The moves inside the machine, of which those from outside are made.

use std::{collections::BTreeMap, hash::Hash};

use outbound_core::CallSite;
use tokio::time::Instant;

use super::{
    list::{Links, List},
    state::{
        Effects, Grant, Host, Nature, Now, Record, RecordId, Reuse, Share, Stage, State, Ticket, Use, Waiter,
        next,
    },
};
use crate::{
    events::{Event, What, Why},
    stats::Counts,
};

/// The list that a record is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spot {
    /// That of all idle ones, and its host's.
    Shelf,
    /// Its host's of shared ones with room.
    Open,
    Nowhere,
}

// === State: finding and taking ===

impl<K: Clone + Eq + Hash, C: Share> State<K, C> {
    /// A connection that can be used: one that is in use already and has room, else the one used last.
    pub(super) fn find(&mut self, host: usize, now: Now, fx: &mut Effects<K, C>) -> Option<usize> {
        while let Some(index) = self.hosts[host].open.oldest() {
            if !self.is_overdue_before(Ticket::MAX) {
                return Some(index);
            }
            self.condemn(self.id(index), Why::Evicted, fx);
        }
        while let Some(index) = self.newest_idle(host) {
            let Some(why) = self.is_stale(index, now) else { return Some(index) };
            self.close_idle(index, why, fx);
        }
        None
    }

    /// The idle one used last, of those that allow an exchange: one whose peer allows none, or may not be there any more, is idle too.
    fn newest_idle(&mut self, host: usize) -> Option<usize> {
        self.hosts[host].shelf.newest_such(&mut self.records, |record| !record.is_barred())
    }

    /// Whether it has been idle for longer than it may by either clock, or has lived too long, and nobody has noticed: the runtime,
    /// or the whole machine, may have stood still.
    fn is_stale(&self, index: usize, now: Now) -> Option<Why> {
        let (since, timeout) = (self.idle_since(index), self.limits.idle_timeout);
        if now.at.saturating_duration_since(since.at) >= timeout
            || now.wall.duration_since(since.wall).is_ok_and(|idle| idle >= timeout)
        {
            return Some(Why::Idle);
        }
        let is_old = self.records[index].retires.is_some_and(|retires| retires <= now.at);
        is_old.then_some(Why::Lifetime)
    }

    pub(super) fn idle_since(&self, index: usize) -> Now {
        match self.records[index].stage {
            Stage::Idle { since, .. } | Stage::Shared { since, .. } => since,
            _ => unreachable!("only idle records are shelved"),
        }
    }

    /// For one more exchange. The record is idle, or shared with room.
    pub(super) fn take(
        &mut self,
        index: usize,
        now: Instant,
        site: Option<CallSite>,
        fx: &mut Effects<K, C>,
    ) -> Reuse<C> {
        let id = self.id(index);
        let used = Use { since: now, site };
        let (connection, idle_since) = match &mut self.records[index].stage {
            Stage::Shared { connection, streams, used: present, since, .. } => {
                let idle_since = (*streams == 0).then_some(since.at);
                let connection = connection.share();
                if idle_since.is_some() {
                    *present = used;
                }
                self.share(index, |streams, _, _| *streams += 1);
                (connection, idle_since)
            }
            _ => {
                let (connection, since) = self.unshelve(index, Stage::Active(used));
                (connection, Some(since.at))
            }
        };
        self.reused(id, idle_since, now, fx);
        Reuse { id, connection, idle_since }
    }

    /// It has been given to one more exchange.
    pub(super) fn reused(
        &mut self,
        id: RecordId,
        idle_since: Option<Instant>,
        now: Instant,
        fx: &mut Effects<K, C>,
    ) {
        self.totals.reused += 1;
        self.handed_on += u64::from(idle_since.is_none());
        self.records[id.index].granted += 1;
        self.tell(id, || What::Reused { idle: idle_since.map(|since| now - since) }, fx);
        self.retire_if_spent(id.index, fx);
    }

    /// After its last exchange a connection takes no more.
    pub(super) fn retire_if_spent(&mut self, index: usize, fx: &mut Effects<K, C>) {
        if self.records[index].granted >= self.limits.requests {
            self.condemn(self.id(index), Why::Requests, fx);
        }
    }

    /// Gives what its shared connections have room for to a host's waiters, the oldest first.
    pub(super) fn serve(&mut self, host: usize, now: Instant, fx: &mut Effects<K, C>) {
        while let Some((&ticket, &waiter)) = self.hosts[host].queue.first_key_value() {
            let Some(index) = self.hosts[host].open.oldest().or_else(|| self.newest_idle(host)) else {
                break;
            };
            if self.is_overdue_before(ticket) {
                self.condemn(self.id(index), Why::Evicted, fx);
                continue;
            }
            self.withdraw(waiter);
            let site = self.waiters[waiter].site;
            let reuse = self.take(index, now, site, fx);
            self.hand(waiter, reuse, fx);
        }
    }

    /// To a waiter; a dial it was granted but has not begun is not needed any more.
    pub(super) fn hand(&mut self, waiter: usize, reuse: Reuse<C>, fx: &mut Effects<K, C>) {
        if let Some(Grant::Dial(unused)) = self.grant(waiter, Grant::Reuse(reuse), fx) {
            self.waiters[waiter].dialing = false;
            self.remove(unused, fx);
        }
    }

    // --- granting dials ---

    /// Grants dials, the oldest waiter first, as long as there is room; makes room where idle connections take it.
    pub(super) fn settle(&mut self, fx: &mut Effects<K, C>) {
        while let Some((_, &host)) = self.blocked.first_key_value() {
            if self.counts.open() < self.limits.total {
                self.grant_dial(host, fx);
            } else if let Some(idle) =
                self.shelf.oldest().filter(|_| self.wants_more_than(self.counts.closing))
            {
                self.close_idle(idle, Why::Evicted, fx);
            } else {
                break;
            }
        }
    }

    /// Whether more waiters than `closing` could dial if only there were room.
    pub(super) fn wants_more_than(&self, closing: usize) -> bool {
        let mut wanted = 0;
        self.blocked.values().any(|&host| {
            let host = &self.hosts[host];
            let room = match host.nature {
                Nature::Exclusive => self.limits.per_host - host.counts.open(),
                _ => 1,
            };
            wanted += host.undialed.len().min(room);
            wanted > closing
        })
    }

    /// Whether a waiter of another host has been passed over so often that it goes before `ticket`: once by each connection.
    pub(super) fn is_overdue_before(&self, ticket: Ticket) -> bool {
        self.counts.closing + self.draining == 0
            && self.blocked.first_key_value().is_some_and(|(oldest, &host)| {
                let waiter = &self.waiters[self.hosts[host].undialed[oldest]];
                *oldest < ticket && self.handed_on - waiter.came_at >= self.limits.total as u64
            })
    }

    fn grant_dial(&mut self, host: usize, fx: &mut Effects<K, C>) {
        let Some((ticket, waiter)) = self.hosts[host].undialed.pop_first() else {
            unreachable!("a blocked host has a waiter without a dial")
        };
        debug_assert_eq!(self.waiters[waiter].ticket, ticket);
        self.undialed -= 1;
        self.waiters[waiter].dialing = true;
        let id = self.insert_dialing(host, fx);
        self.grant(waiter, Grant::Dial(id), fx);
    }

    pub(super) fn insert_dialing(&mut self, host: usize, fx: &mut Effects<K, C>) -> RecordId {
        let serial = next(&mut self.serials);
        let index = self.records.insert(Record {
            host,
            serial,
            stage: Stage::Dialing,
            links: Links::default(),
            granted: 1,
            retires: None,
            why: None,
            asked_to_park: false,
            parked: false,
        });
        self.counts.dialing += 1;
        self.hosts[host].counts.dialing += 1;
        self.totals.dialed += 1;
        self.reindex(host);
        let id = RecordId { index, serial };
        self.tell(id, || What::Dialing, fx);
        id
    }

    pub(super) fn grant(
        &mut self,
        waiter: usize,
        grant: Grant<C>,
        fx: &mut Effects<K, C>,
    ) -> Option<Grant<C>> {
        let waiter = &mut self.waiters[waiter];
        fx.wake(waiter.waker.take());
        waiter.grant.replace(grant)
    }

    pub(super) fn enqueue(&mut self, waiter: usize) {
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
    pub(super) fn withdraw(&mut self, waiter: usize) {
        let Waiter { host, ticket, .. } = self.waiters[waiter];
        let entry = &mut self.hosts[host];
        entry.queue.remove(&ticket);
        self.undialed -= usize::from(entry.undialed.remove(&ticket).is_some());
        self.reindex(host);
    }

    // --- keeping and closing ---

    pub(super) fn shelve(&mut self, index: usize, connection: C, now: Now, fx: &mut Effects<K, C>) {
        let host = self.records[index].host;
        self.move_to(index, Stage::Idle { connection, since: now });
        self.keep_idle_limits(host, fx);
    }

    /// Closes the longest idle of this host, or of all, if there are too many.
    pub(super) fn keep_idle_limits(&mut self, host: usize, fx: &mut Effects<K, C>) {
        let surplus = if self.hosts[host].counts.idle > self.limits.idle_per_host {
            self.hosts[host].shelf.oldest()
        } else if self.counts.idle > self.limits.idle {
            self.shelf.oldest()
        } else {
            None
        };
        if let Some(index) = surplus {
            self.close_idle(index, Why::Surplus, fx);
        }
    }

    fn unshelve(&mut self, index: usize, stage: Stage<C>) -> (C, Now) {
        match self.move_to(index, stage) {
            Stage::Idle { connection, since } | Stage::Shared { connection, since, .. } => {
                (connection, since)
            }
            _ => unreachable!("only idle records are shelved"),
        }
    }

    /// Makes an idle connection give back all that it can do without.
    pub(super) fn park(&mut self, index: usize, fx: &mut Effects<K, C>) {
        self.unparked.remove(&mut self.records, index);
        let record = &mut self.records[index];
        record.asked_to_park = true;
        if let Stage::Idle { connection, .. } | Stage::Shared { connection, .. } = &mut record.stage {
            let shed = connection.park();
            record.parked = shed.is_some();
            fx.shed(shed);
        }
    }

    /// Closes an idle connection.
    pub(super) fn close_idle(&mut self, index: usize, why: Why, fx: &mut Effects<K, C>) {
        self.doom(index, why);
        let (connection, _) = self.unshelve(index, Stage::Closing);
        fx.close([connection]);
    }

    /// It takes no more exchanges, and this is why.
    pub(super) fn doom(&mut self, index: usize, why: Why) {
        if self.records[index].why.is_some() {
            return;
        }
        self.change(index, |record| record.why = Some(why));
        match why {
            Why::Idle => self.totals.expired += 1,
            Why::Lifetime | Why::Requests => self.totals.retired += 1,
            Why::Surplus => self.totals.surplus += 1,
            Why::Evicted => self.totals.evicted += 1,
            Why::Lost => self.totals.lost += 1,
            _ => {}
        }
    }

    /// Closes a shared connection that takes no more exchanges, once it has none.
    pub(super) fn close_if_drained(&mut self, index: usize, fx: &mut Effects<K, C>) {
        let record = &self.records[index];
        if record.why.is_some() && matches!(record.stage, Stage::Shared { streams: 0, .. }) {
            let (connection, _) = self.unshelve(index, Stage::Closing);
            fx.close([connection]);
        }
    }

    /// The caller drops the connection, outside the lock.
    pub(super) fn give_up(&mut self, index: usize, connection: C) -> C {
        self.move_to(index, Stage::Closing);
        connection
    }

    /// It takes no more exchanges. If it has none, it is closed; else when the last has ended.
    pub(super) fn condemn(&mut self, id: RecordId, why: Why, fx: &mut Effects<K, C>) {
        if !self.is_current(id) || self.records[id.index].why.is_some() {
            return;
        }
        match self.records[id.index].spot() {
            Spot::Shelf => self.close_idle(id.index, why, fx),
            _ => self.doom(id.index, why),
        }
    }

    pub(super) fn remove(&mut self, id: RecordId, fx: &mut Effects<K, C>) {
        if !self.is_current(id) {
            return;
        }
        let was_open = !matches!(self.records[id.index].stage, Stage::Dialing);
        match self.records[id.index].stage {
            Stage::Idle { .. } | Stage::Shared { .. } => {
                self.doom(id.index, Why::Lost);
                let (connection, _) = self.unshelve(id.index, Stage::Closing);
                fx.close([connection]);
            }
            _ => {}
        }
        let why = self.records[id.index].why.unwrap_or(if was_open { Why::Spent } else { Why::NotOpened });
        self.tell(id, || What::Closed(why), fx);
        let Record { host, stage, retires, .. } = self.records.remove(id.index);
        if let Some(retires) = retires {
            self.lifetimes.remove(&(retires, id));
        }
        *self.counts.of(stage.counted()) -= 1;
        *self.hosts[host].counts.of(stage.counted()) -= 1;
        self.totals.closed += 1;
        self.reindex(host);
        self.forget_if_cold(host);
        if self.shut && self.counts.open() == 0 {
            fx.wake(self.closers.drain(..));
        }
    }

    // --- stages, counts and lists ---

    pub(super) fn move_to(&mut self, index: usize, stage: Stage<C>) -> Stage<C> {
        self.change(index, |record| std::mem::replace(&mut record.stage, stage))
    }

    /// Changes the exchanges on a shared connection, how many there may be, or since when there are none.
    pub(super) fn share(&mut self, index: usize, change: impl FnOnce(&mut usize, &mut usize, &mut Now)) {
        self.change(index, |record| {
            if let Stage::Shared { streams, room, since, .. } = &mut record.stage {
                change(streams, room, since);
            }
        });
    }

    /// Changes a record, and with it all that is derived from it: counts and lists.
    fn change<T>(&mut self, index: usize, change: impl FnOnce(&mut Record<C>) -> T) -> T {
        let record = &mut self.records[index];
        let (spot, counted, draining) = (record.spot(), record.stage.counted(), record.is_draining());
        let changed = change(record);
        let (next_spot, next_counted) = (record.spot(), record.stage.counted());
        self.draining = self.draining + usize::from(record.is_draining()) - usize::from(draining);
        let host = record.host;
        if next_counted != counted {
            for counts in [&mut self.counts, &mut self.hosts[host].counts] {
                *counts.of(counted) -= 1;
                *counts.of(next_counted) += 1;
            }
        }
        if next_spot != spot {
            self.relink(index, spot, next_spot);
        }
        changed
    }

    fn relink(&mut self, index: usize, before: Spot, after: Spot) {
        let (host, records) = (&mut self.hosts[self.records[index].host], &mut self.records);
        match before {
            Spot::Shelf => {
                self.shelf.remove(records, index);
                host.shelf.remove(records, index);
                records[index].parked = false;
                if !std::mem::take(&mut records[index].asked_to_park) {
                    self.unparked.remove(records, index);
                }
            }
            Spot::Open => host.open.remove(records, index),
            Spot::Nowhere => {}
        }
        match after {
            Spot::Shelf => {
                self.shelf.push(records, index);
                host.shelf.push(records, index);
                self.unparked.push(records, index);
            }
            Spot::Open => host.open.push(records, index),
            Spot::Nowhere => {}
        }
    }

    /// Puts the host's oldest waiter without a dial on `blocked`, or takes it off, as its counts demand.
    pub(super) fn reindex(&mut self, host: usize) {
        let entry = &mut self.hosts[host];
        let room = entry.counts.open() < self.limits.per_host && entry.may_dial();
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

    /// The same host is often asked for again: comparing is cheaper than hashing.
    pub(super) fn host(&mut self, key: &K, apart: bool) -> Option<usize> {
        if self.hosts.get(self.last).is_none_or(|host| host.apart != apart || host.key != *key) {
            self.last = *self.by_key[usize::from(apart)].get(key)?;
        }
        Some(self.last)
    }

    pub(super) fn open_host(&mut self, key: &K, apart: bool, nature: Nature) -> usize {
        let host = self.hosts.insert(Host::new(key.clone(), apart, nature));
        self.by_key[usize::from(apart)].insert(key.clone(), host);
        host
    }

    /// A host without records and waiters takes no memory.
    pub(super) fn forget_if_cold(&mut self, host: usize) {
        let is_cold = |host: &Host<K>| host.registered == 0 && host.counts.open() == 0;
        if self.hosts.get(host).is_some_and(is_cold) {
            let host = self.hosts.remove(host);
            self.by_key[usize::from(host.apart)].remove(&host.key);
        }
    }

    pub(super) fn id(&self, index: usize) -> RecordId {
        RecordId { index, serial: self.records[index].serial }
    }

    pub(super) fn is_current(&self, id: RecordId) -> bool {
        self.records.get(id.index).is_some_and(|record| record.serial == id.serial)
    }

    pub(super) fn tell(&self, id: RecordId, what: impl FnOnce() -> What, fx: &mut Effects<K, C>) {
        if self.observed {
            let origin = self.hosts[self.records[id.index].host].key.clone();
            fx.tell(Event { origin, connection: id.serial, what: what() });
        }
    }
}

impl<C> Record<C> {
    fn spot(&self) -> Spot {
        match self.stage {
            Stage::Idle { .. } | Stage::Shared { streams: 0, .. } => Spot::Shelf,
            Stage::Shared { streams, room, .. } if streams < room && self.why.is_none() => Spot::Open,
            _ => Spot::Nowhere,
        }
    }

    /// Idle, and not for anybody at present.
    pub(super) fn is_barred(&self) -> bool {
        matches!(self.stage, Stage::Shared { streams: 0, room: 0, .. })
    }

    /// In use, and not for others any more.
    fn is_draining(&self) -> bool {
        self.why.is_some() && matches!(self.stage, Stage::Shared { streams: 1.., .. })
    }
}

impl<K> Host<K> {
    fn new(key: K, apart: bool, nature: Nature) -> Self {
        Self {
            key,
            apart,
            nature,
            counts: Counts::default(),
            shelf: List::new(),
            open: List::new(),
            queue: BTreeMap::new(),
            undialed: BTreeMap::new(),
            registered: 0,
            blocked: None,
        }
    }
}
