//! A share of the calls of the last seconds, and a floor.

use std::{array, sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::Instant;

use crate::{invalid::InvalidSetting, sync::AtomicU64};

/// Retries are at most so many per cent of the calls of the last seconds, and so many a second besides: by default 20 %, 10 a
/// second, over 10 seconds (the figures of Finagle's `RetryBudget`).
///
/// Over any time, retries ≤ calls × percent / 100 + floor × (time + window). What a quiet window saves up can be spent at once, and is
/// forgotten after it; then retries come as evenly as calls do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    percent: u32,
    floor: u32,
    window: Duration,
}

/// What calls have brought and no retry has taken, by the tenth of the window in which they brought it. Each is taken once: no race
/// can overdraw it, and nothing is shared but what is counted.
#[derive(Debug)]
pub(super) struct Window {
    deposit: u32,
    /// In nanoseconds.
    tenth: u64,
    begun: Instant,
    /// Each the number of its turn, and what is left of it.
    slots: [AtomicU64; SLOTS as usize],
    floor: Floor,
}

/// So many retries a second, as a virtual clock (the "generic cell rate algorithm", ITU-T I.371): a retry moves it on by an interval,
/// and it may be ahead by a window.
#[derive(Debug)]
struct Floor {
    interval: Option<u64>,
    window: u64,
    clock: AtomicU64,
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
        Self {
            deposit: ratio.percent,
            tenth: nanos(ratio.window / SLOTS),
            begun: Instant::now(),
            slots: array::from_fn(|_| AtomicU64::new(0)),
            floor: Floor {
                interval: 1_000_000_000_u64.checked_div(ratio.floor.into()).map(|nanos| nanos.max(1)),
                window: nanos(ratio.window),
                clock: AtomicU64::new(0),
            },
        }
    }

    pub(super) fn deposit(&self) {
        self.put(self.turn(self.now()), self.deposit);
    }

    /// Deposits first: they are forgotten sooner.
    pub(super) fn withdraw(&self) -> bool {
        let now = self.now();
        self.take(self.turn(now)) || self.floor.take(now)
    }

    fn now(&self) -> u64 {
        nanos(self.begun.elapsed())
    }

    fn turn(&self, now: u64) -> u32 {
        (now / self.tenth) as u32
    }

    fn put(&self, turn: u32, amount: u32) {
        let _ = self.slots[(turn % SLOTS) as usize].fetch_update(Relaxed, Relaxed, |packed| {
            let (held_turn, held) = unpack(packed);
            // A thread that was held up for a whole window finds a later turn here, and counts as that.
            let held = if held_turn < turn { 0 } else { held };
            Some(pack(turn.max(held_turn), held.saturating_add(amount)))
        });
    }

    /// Takes what a retry costs, of the oldest first.
    fn take(&self, turn: u32) -> bool {
        let by_age = || (1..=SLOTS).map(|ahead| &self.slots[(turn.wrapping_add(ahead) % SLOTS) as usize]);
        let live = |packed| Some(unpack(packed)).filter(|&(held_turn, _)| held_turn + SLOTS > turn);
        let all = by_age().filter_map(|slot| live(slot.load(Relaxed))).map(|(_, held)| u64::from(held));
        if all.sum::<u64>() < RETRY.into() {
            return false;
        }
        let mut owed = RETRY;
        for slot in by_age() {
            let part = |packed| live(packed).map(|(turn, held)| pack(turn, held.saturating_sub(owed)));
            if let Ok(packed) = slot.fetch_update(Relaxed, Relaxed, part) {
                owed -= unpack(packed).1.min(owed);
            }
            if owed == 0 {
                return true;
            }
        }
        // Others were faster.
        self.put(turn, RETRY - owed);
        false
    }
}

// === Floor ===

impl Floor {
    fn take(&self, now: u64) -> bool {
        let Some(interval) = self.interval else { return false };
        let tick = |clock: u64| {
            let clock = clock.max(now).saturating_add(interval);
            (clock - now <= self.window).then_some(clock)
        };
        self.clock.fetch_update(Relaxed, Relaxed, tick).is_ok()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn pack(turn: u32, amount: u32) -> u64 {
    u64::from(turn) << 32 | u64::from(amount)
}

fn unpack(packed: u64) -> (u32, u32) {
    ((packed >> 32) as u32, packed as u32)
}

/// Tenths; in a model fewer, for every interleaving looks at each.
const SLOTS: u32 = if cfg!(all(test, outbound_loom)) { 3 } else { 10 };
/// What a retry costs, where a call brings as much as its per cent.
const RETRY: u32 = 100;

#[cfg(all(test, outbound_loom))]
mod model {
    use std::sync::Arc;

    use super::*;
    use crate::budget::model::{at_once, model};

    fn window(percent: u32, floor: u32) -> Window {
        Window::new(Ratio::default().percent(percent).floor(floor))
    }

    /// Two want what only suffices for one, and it lies in two parts: neither loses what it took when it cannot have both.
    #[test]
    fn what_is_there_is_taken_once_and_what_is_not_enough_is_put_back() {
        model(|| {
            let window = Arc::new(window(0, 0));
            window.put(1, 60);
            window.put(2, 60);
            let taken = at_once(&window, |window| window.take(3));
            assert!(taken <= 1, "{taken} of 1.2 retries");
            // Who went without has put back what it held.
            assert_eq!(taken + usize::from(window.take(3)), 1);
        });
    }

    #[test]
    fn what_calls_bring_meanwhile_is_not_lost() {
        model(|| {
            let window = Arc::new(window(100, 0));
            window.put(1, 100);
            let taken = at_once(&window, |window| {
                window.put(1, 50);
                window.take(1)
            });
            assert!((1..=2).contains(&taken), "{taken}");
            assert_eq!(taken + usize::from(window.take(1)), 2, "100 and twice 50 are two retries");
        });
    }

    /// The slot of a turn that has passed is begun anew by one of two, and both find their deposits there.
    #[test]
    fn a_slot_is_begun_anew_once() {
        model(|| {
            let window = Arc::new(window(100, 0));
            window.put(1, 70);
            at_once(&window, |window| {
                window.put(1 + SLOTS, 50);
                false
            });
            assert!(window.take(1 + SLOTS), "twice 50");
            assert!(!window.take(1 + SLOTS), "the 70 are forgotten");
        });
    }

    #[test]
    fn the_floor_is_no_more_than_it_is() {
        model(|| {
            let floor = Floor { interval: Some(10), window: 30, clock: AtomicU64::new(0) };
            let floor = Arc::new(floor);
            let taken = at_once(&floor, |floor| floor.take(5) & floor.take(5));
            let rest = usize::from(floor.take(5));
            assert_eq!((taken, rest), (1, 0), "three at an instant");
        });
    }
}
