//! How connections end: by the clock, or with the pool.

use std::{hash::Hash, task::Waker};

use tokio::time::Instant;

use super::state::{Effects, Share, Stage, State};
use crate::events::Why;

impl<K: Clone + Eq + Hash, C: Share> State<K, C> {
    /// Closes what has been idle or has lived for long enough, parks what has been idle for a while; tells when to look again: when the next is due, or could be at the
    /// earliest. `None` when there are no connections.
    pub(super) fn expire(&mut self, now: Instant, fx: &mut Effects<K, C>) -> Option<Instant> {
        let timeout = self.limits.idle_timeout;
        let mut next = now + timeout;
        while let Some(index) = self.shelf.oldest() {
            let due = self.idle_since(index).at + timeout;
            if due > now {
                next = due;
                break;
            }
            self.close_idle(index, Why::Idle, fx);
        }
        let park_after = self.limits.park_after;
        while let Some(index) = self.unparked.oldest() {
            let due = self.idle_since(index).at + park_after;
            if due > now {
                break;
            }
            self.park(index, fx);
        }
        if self.counts.open() > self.counts.closing && !self.is_all_parked() {
            let first = self.unparked.oldest().map_or(now, |index| self.idle_since(index).at);
            next = next.min(first + park_after);
        }
        while let Some(&(due, id)) = self.lifetimes.first() {
            if due > now {
                next = next.min(due);
                break;
            }
            self.lifetimes.remove(&(due, id));
            self.condemn(id, Why::Lifetime, fx);
        }
        self.settle(fx);
        (!self.is_empty()).then_some(next)
    }

    /// Closes what is idle, and from now on whatever comes back.
    pub(super) fn shut(&mut self, fx: &mut Effects<K, C>) {
        self.shut = true;
        while let Some(index) = self.shelf.oldest() {
            self.close_idle(index, Why::Shutdown, fx);
        }
        let shared = self.records.iter().filter(|(_, record)| matches!(record.stage, Stage::Shared { .. }));
        let shared: Vec<_> = shared.map(|(index, _)| self.id(index)).collect();
        for id in shared {
            self.condemn(id, Why::Shutdown, fx);
        }
    }

    /// Besides, serves nobody any more: who waits is told.
    pub(super) fn close(&mut self, fx: &mut Effects<K, C>) {
        self.shut(fx);
        self.closed = true;
        fx.wake(self.waiters.iter_mut().filter_map(|(_, waiter)| waiter.waker.take()));
    }

    /// Whether the last socket is closed; else `waker` is woken then.
    pub(super) fn poll_closed(&mut self, waker: &mut Option<Waker>) -> bool {
        if self.is_empty() {
            return true;
        }
        let is_kept = |waker: &Waker| self.closers.iter().any(|kept| kept.will_wake(waker));
        if !waker.as_ref().is_some_and(is_kept) {
            self.closers.extend(waker.take());
        }
        false
    }

    /// Whether no connection is, or can come to be, idle and not parked without anybody noticing.
    fn is_all_parked(&self) -> bool {
        self.unparked.oldest().is_none() && self.counts.active + self.counts.dialing == 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.counts.open() == 0
    }
}
