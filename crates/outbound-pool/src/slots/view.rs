//! What the machine tells of itself.

use std::{collections::HashMap, hash::Hash};

use outbound_core::Holders;
use tokio::time::Instant;

use super::state::{Host, Record, Share, Stage, State, Use};
use crate::stats::{OriginStats, Stats};

impl<K: Clone + Eq + Hash, C: Share> State<K, C> {
    pub(super) fn stats(&self) -> Stats<K> {
        let mut origins: Vec<OriginStats<K>> = Vec::with_capacity(self.hosts.len());
        let mut whole = HashMap::new();
        let (apart, others): (Vec<_>, Vec<_>) = self.hosts.iter().partition(|(_, host)| host.apart);
        for (_, Host { key, apart, counts, undialed, .. }) in others.into_iter().chain(apart) {
            let waiting = undialed.len();
            match whole.get(key).filter(|_| *apart) {
                Some(&index) => {
                    let origin: &mut OriginStats<K> = &mut origins[index];
                    origin.connections.add(*counts);
                    origin.waiting += waiting;
                }
                None => {
                    whole.insert(key, origins.len());
                    origins.push(OriginStats { origin: key.clone(), connections: *counts, waiting });
                }
            }
        }
        let streams = self.records.iter().map(|(_, record)| match record.stage {
            Stage::Active(_) => 1,
            Stage::Shared { streams, .. } => streams,
            _ => 0,
        });
        let parked = self.records.iter().filter(|(_, record)| record.parked).count();
        Stats {
            parked,
            connections: self.counts,
            exchanges: streams.sum(),
            waiting: self.undialed,
            totals: self.totals,
            origins,
        }
    }

    /// Who holds the connections that a waiter for `key` waits for.
    pub(super) fn holders(&self, key: &K, apart: bool, now: Instant) -> Holders {
        let host = self.by_key[usize::from(apart)].get(key).map(|&host| (host, &self.hosts[host]));
        let in_host = host.is_some_and(|(_, host)| host.counts.open() >= self.limits.per_host);
        let counts = host.filter(|_| in_host).map_or(self.counts, |(_, host)| host.counts);
        let waiting = host.map_or(0, |(_, host)| host.undialed.len());
        let mine = |record: &&Record<C>| !in_host || host.is_some_and(|(host, _)| host == record.host);
        let active = self.records.iter().map(|(_, record)| record).filter(mine);
        let oldest = active.filter_map(|record| match record.stage {
            Stage::Active(used) | Stage::Detached(used) => Some(used),
            Stage::Shared { used, streams: 1.., .. } => Some(used),
            _ => None,
        });
        let mut holders = Holders::default();
        holders.active = counts.active;
        holders.idle = counts.idle;
        holders.dialing = counts.dialing;
        holders.closing = counts.closing;
        holders.waiting = waiting;
        holders.limit = if in_host { self.limits.per_host } else { self.limits.total };
        holders.oldest = oldest.min_by_key(|used| used.since).map(|Use { since, site }| (now - since, site));
        holders
    }

    /// The invariants of the module's head, and that every count and index is what it counts.
    #[cfg(test)]
    pub(super) fn check(&self) {
        use std::collections::BTreeMap;

        use super::state::{Counted, Nature};
        use crate::stats::Counts;

        let open = self.records.len();
        assert_eq!(open, self.counts.open(), "records and counts");
        assert!(open <= self.limits.total, "{open} of {} open", self.limits.total);
        assert!(self.counts.idle <= self.limits.idle, "idle");
        assert_eq!(self.hosts.len(), self.by_key.iter().map(HashMap::len).sum(), "hosts and keys");
        let undialed = self.hosts.iter().map(|(_, host)| host.undialed.len()).sum::<usize>();
        assert_eq!(undialed, self.undialed, "undialed");
        let blocked = self.hosts.iter().filter_map(|(key, host)| Some((host.blocked?, key)));
        assert_eq!(blocked.collect::<BTreeMap<_, _>>(), self.blocked, "blocked");
        let draining = |record: &&Record<C>| {
            record.why.is_some() && matches!(record.stage, Stage::Shared { streams: 1.., .. })
        };
        let records = || self.records.iter().map(|(_, record)| record);
        assert_eq!(records().filter(draining).count(), self.draining, "draining");
        for record in records() {
            let Stage::Shared { streams, .. } = record.stage else { continue };
            assert!(streams > 0 || record.why.is_none(), "drained, and not closed");
        }
        let unparked =
            records().filter(|record| record.stage.counted() == Counted::Idle && !record.asked_to_park);
        assert_eq!(
            self.unparked.oldest().is_some(),
            unparked.count() > 0,
            "what is idle and not parked is on its list"
        );
        for (index, host) in &self.hosts {
            let mut counts = Counts::default();
            let records = || records().filter(|record| record.host == index);
            records().for_each(|record| *counts.of(record.stage.counted()) += 1);
            assert_eq!(counts, host.counts, "counts of a host");
            let per_host = self.limits.per_host;
            assert!(counts.open() <= per_host, "{} of {per_host} open", counts.open());
            assert!(counts.idle <= self.limits.idle_per_host, "idle of a host");
            assert!(counts.open() + host.registered > 0, "a cold host is kept");
            let registered = self.waiters.iter().filter(|(_, waiter)| waiter.host == index).count();
            assert_eq!(registered, host.registered, "registered");
            let barred = records().filter(|record| record.is_barred()).count();
            assert!(counts.idle == barred || host.queue.is_empty(), "idle while one waits for it");
            let with_room = records().any(|record| match record.stage {
                Stage::Shared { streams: streams @ 1.., room, .. } => streams < room && record.why.is_none(),
                _ => false,
            });
            assert_eq!(host.open.oldest().is_some(), with_room, "what has room is on the list");
            assert!(!with_room || host.queue.is_empty(), "room for one more while one waits for it");
            assert_eq!(host.shelf.oldest().is_some(), counts.idle > 0, "what is idle is on the shelf");
            let host_full = counts.open() >= per_host;
            let all_full = open >= self.limits.total;
            let has_dial = host.nature != Nature::Exclusive && counts.dialing > 0;
            let has_room = !host_full && !all_full && !has_dial;
            assert!(host.undialed.is_empty() || !has_room, "a waiter waits while there is room");
            if !host.undialed.is_empty() && !host_full && !has_dial {
                let enough = self.counts.idle == 0 || !self.wants_more_than(self.counts.closing);
                assert!(enough, "idle while blocked");
            }
        }
    }
}
