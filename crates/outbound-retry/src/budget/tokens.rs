//! A bucket of tokens that failures drain and successes refill.

use std::sync::atomic::Ordering::Relaxed;

use outbound_core::Kind;

use crate::sync::AtomicU64;

/// A retry takes tokens out of a bucket, more of them after a timeout; when it succeeds they come back, and a call that succeeds
/// at once brings one: by default 500 tokens, 5 for a retry, 10 after a timeout (the AWS SDKs' standard retry mode).
///
/// While nothing succeeds there are capacity ÷ cost retries, and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tokens {
    capacity: u32,
    cost: u32,
    timeout_cost: u32,
    reward: u32,
}

#[derive(Debug)]
pub(super) struct Bucket {
    rule: Tokens,
    tokens: AtomicU64,
}

// === Tokens ===

impl Tokens {
    /// How many there are when all is well.
    #[must_use]
    pub fn capacity(self, capacity: u32) -> Self {
        Self { capacity, ..self }
    }

    /// What a retry costs; zero makes it free.
    #[must_use]
    pub fn cost(self, cost: u32) -> Self {
        Self { cost, ..self }
    }

    /// What a retry after a timeout costs: it has held resources for long, here and at the peer.
    #[must_use]
    pub fn timeout_cost(self, timeout_cost: u32) -> Self {
        Self { timeout_cost, ..self }
    }

    /// What a call brings that succeeds at once.
    #[must_use]
    pub fn reward(self, reward: u32) -> Self {
        Self { reward, ..self }
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self { capacity: 500, cost: 5, timeout_cost: 10, reward: 1 }
    }
}

// === Bucket ===

impl Bucket {
    pub(super) fn new(rule: Tokens) -> Self {
        Self { rule, tokens: AtomicU64::new(rule.capacity.into()) }
    }

    pub(super) fn withdraw(&self, kind: Option<Kind>) -> Option<u64> {
        let timed_out = kind == Some(Kind::Timeout);
        let cost = u64::from(if timed_out { self.rule.timeout_cost } else { self.rule.cost });
        self.tokens.fetch_update(Relaxed, Relaxed, |tokens| tokens.checked_sub(cost)).is_ok().then_some(cost)
    }

    pub(super) fn refund(&self, paid: u64) {
        let capacity = u64::from(self.rule.capacity);
        let refill = |tokens: u64| (tokens < capacity).then(|| tokens.saturating_add(paid).min(capacity));
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, refill);
    }

    /// On the way of every call: a full bucket is only looked at.
    pub(super) fn reward(&self) {
        self.refund(self.rule.reward.into());
    }
}

#[cfg(all(test, outbound_loom))]
mod model {
    use std::sync::Arc;

    use super::*;
    use crate::budget::model::{at_once, model};

    #[test]
    fn it_is_neither_overdrawn_nor_overfilled() {
        model(|| {
            let bucket = Arc::new(Bucket::new(Tokens::default().capacity(12).cost(5).reward(3)));
            let taken = at_once(&bucket, |bucket| {
                let paid = bucket.withdraw(None);
                bucket.reward();
                paid.is_some()
            });
            assert_eq!(taken, 2);
            // 12 - 5 - 5 and twice 3, of which the first may have found it nearly full.
            let left = bucket.tokens.load(Relaxed);
            assert!((5..=8).contains(&left), "{left} tokens");
        });
    }
}
