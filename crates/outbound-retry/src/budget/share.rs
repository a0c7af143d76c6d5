//! A share of the calls in flight, and a floor.

use std::sync::atomic::Ordering::Relaxed;

use crate::sync::AtomicU64;

/// Calls that are being retried, their backoff included, are at most so many per cent of all calls in flight, or so many if that is
/// more: by default 20 %, at least 3 (Envoy's `retry_budget`).
///
/// A call is in flight until the head of its final response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    percent: u32,
    floor: u32,
}

/// Calls in flight in the upper half, those of them that are being retried in the lower: one word, so that both are known at once.
#[derive(Debug)]
pub(super) struct Active {
    rule: Share,
    counts: AtomicU64,
}

// === Share ===

impl Share {
    /// So many retries for a hundred calls in flight.
    #[must_use]
    pub fn percent(self, percent: u32) -> Self {
        Self { percent, ..self }
    }

    /// So many retries in flight, however few calls there are.
    #[must_use]
    pub fn floor(self, floor: u32) -> Self {
        Self { floor, ..self }
    }
}

impl Default for Share {
    fn default() -> Self {
        Self { percent: 20, floor: 3 }
    }
}

// === Active ===

impl Active {
    pub(super) fn new(rule: Share) -> Self {
        Self { rule, counts: AtomicU64::new(0) }
    }

    pub(super) fn enter(&self) {
        self.counts.fetch_add(CALL, Relaxed);
    }

    pub(super) fn leave(&self) {
        self.counts.fetch_sub(CALL, Relaxed);
    }

    pub(super) fn withdraw(&self) -> bool {
        let Share { percent, floor } = self.rule;
        let room = |counts: u64| {
            let (calls, retries) = (counts / CALL, counts % CALL);
            let share = calls * u64::from(percent) / 100;
            (retries < share.max(floor.into())).then(|| counts + 1)
        };
        self.counts.fetch_update(Relaxed, Relaxed, room).is_ok()
    }

    pub(super) fn settle(&self) {
        self.counts.fetch_sub(1, Relaxed);
    }
}

const CALL: u64 = 1 << 32;

#[cfg(all(test, outbound_loom))]
mod model {
    use std::sync::Arc;

    use super::*;
    use crate::budget::model::{at_once, model};

    #[test]
    fn never_more_are_retried_than_their_share() {
        model(|| {
            let active = Arc::new(Active::new(Share::default().percent(50).floor(0)));
            active.enter();
            let taken = at_once(&active, |active| {
                active.enter();
                let granted = active.withdraw();
                if granted {
                    active.settle();
                }
                active.leave();
                granted
            });
            assert!(
                (1..=2).contains(&taken),
                "{taken}: with two or three calls there is room for one at a time"
            );
            active.leave();
            assert_eq!(active.counts.load(Relaxed), 0);
        });
    }
}
