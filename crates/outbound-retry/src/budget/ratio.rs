//! A share of the calls of the last seconds, and a floor.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use crate::invalid::InvalidSetting;

/// Retries are at most so many per cent of the calls of the last seconds, and so many a second besides: by default 20 %, 10 a
/// second, over 10 seconds (Finagle's `RetryBudget`).
///
/// In a window, retries ≤ calls × percent / 100 + floor × window. The window moves in tenths of itself, and what a quiet time saves up
/// is forgotten after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    percent: u32,
    floor: u32,
    window: Duration,
}

/// The balance is the sum of the slots and a reserve. Calls add, retries take; what a slot has added or taken is undone when the
/// window has moved past it. A retry is one compare-and-swap on the balance, so that no race can overdraw it.
#[derive(Debug)]
pub(super) struct Window {
    deposit: i32,
    slot: Duration,
    begun: Instant,
    balance: AtomicI64,
    /// Each the number of its turn, and what that turn has added.
    slots: [AtomicU64; SLOTS as usize],
}

// === Ratio ===

impl Ratio {
    /// So many retries for a hundred calls.
    #[must_use]
    pub fn percent(self, percent: u32) -> Self {
        Self { percent, ..self }
    }

    /// So many retries a second whatever the traffic: without them a client with few calls would have none.
    #[must_use]
    pub fn floor(self, per_second: u32) -> Self {
        Self { floor: per_second, ..self }
    }

    /// For how long a call counts.
    ///
    /// # Errors
    /// If it is less than a second.
    pub fn window(self, window: Duration) -> Result<Self, InvalidSetting> {
        if window < Duration::from_secs(1) {
            return Err(InvalidSetting("the window of a retry budget is at least a second"));
        }
        Ok(Self { window, ..self })
    }
}

impl Default for Ratio {
    fn default() -> Self {
        Self { percent: 20, floor: 10, window: Duration::from_secs(10) }
    }
}

// === Window ===

impl Window {
    pub(super) fn new(ratio: Ratio) -> Self {
        let reserve = f64::from(ratio.floor) * ratio.window.as_secs_f64() * RETRY as f64;
        Self {
            deposit: i32::try_from(ratio.percent).unwrap_or(i32::MAX),
            slot: ratio.window / SLOTS,
            begun: Instant::now(),
            balance: AtomicI64::new(reserve as i64),
            slots: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    pub(super) fn deposit(&self) {
        self.record(self.turn(), self.deposit, true);
    }

    pub(super) fn withdraw(&self) -> bool {
        let turn = self.turn();
        self.forget(turn);
        let take = |balance: i64| (balance >= RETRY).then(|| balance - RETRY);
        let paid = self.balance.fetch_update(Relaxed, Relaxed, take).is_ok();
        if paid {
            self.record(turn, -(RETRY as i32), false);
        }
        paid
    }

    fn turn(&self) -> u32 {
        (self.begun.elapsed().as_nanos() / self.slot.as_nanos()) as u32
    }

    /// Adds to the slot of this turn, and to the balance too unless that is done; what the slot held from a turn long past is undone.
    fn record(&self, turn: u32, amount: i32, balance: bool) {
        let slot = &self.slots[(turn % SLOTS) as usize];
        let (mut added, mut undone) = (0, 0);
        let _ = slot.fetch_update(Relaxed, Relaxed, |packed| {
            let (held_turn, held) = unpack(packed);
            // A thread that was held up for a whole window finds a later turn here, and counts as that.
            let (turn, kept) = if held_turn >= turn { (held_turn, held) } else { (turn, 0) };
            let sum = kept.saturating_add(amount);
            (added, undone) = (i64::from(sum) - i64::from(kept), i64::from(held) - i64::from(kept));
            Some(pack(turn, sum))
        });
        self.balance.fetch_add(if balance { added } else { 0 } - undone, Relaxed);
    }

    /// Undoes the slots that the window has moved past.
    fn forget(&self, turn: u32) {
        for slot in &self.slots {
            let past =
                |packed| (unpack(packed).0.saturating_add(SLOTS) <= turn).then(|| pack(turn - SLOTS, 0));
            let (_, held) = unpack(slot.load(Relaxed));
            if held != 0
                && let Ok(packed) = slot.fetch_update(Relaxed, Relaxed, past)
            {
                self.balance.fetch_sub(i64::from(unpack(packed).1), Relaxed);
            }
        }
    }
}

fn pack(turn: u32, amount: i32) -> u64 {
    u64::from(turn) << 32 | u64::from(amount as u32)
}

fn unpack(packed: u64) -> (u32, i32) {
    ((packed >> 32) as u32, packed as u32 as i32)
}

const SLOTS: u32 = 10;
/// What a retry costs, where a call brings as much as its per cent.
const RETRY: i64 = 100;
