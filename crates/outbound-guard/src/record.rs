//! What is known of one open call while it goes on, written by whoever polls it and read by the sweep: atomics, no lock.

use std::{
    sync::{
        Arc,
        atomic::Ordering::{AcqRel, Acquire, Relaxed},
    },
    task::{Wake, Waker},
    time::Duration,
};

use tokio::time::Instant;

use crate::sync::{AtomicU8, AtomicU64, AtomicWaker};

/// The record of a call, used again for the next when it is over.
///
/// It stands between the reader's waker and whatever wakes it, and so knows whose turn it is: the peer's after a poll that was
/// pending, and the reader's from when that was woken. Only the latter makes it *idle*.
///
/// A waker of an earlier call may still be about. If it wakes this one, the reader is polled once for nothing, no more.
#[derive(Debug)]
pub(crate) struct Record {
    epoch: Instant,
    /// [`AWAITED`], or since when it is idle: nanoseconds after `epoch`, times four, and what has been done about it.
    turn: AtomicU64,
    stage: AtomicU8,
    read: AtomicU64,
    /// [`UNKNOWN`] unless the head declared a length.
    declared: AtomicU64,
    reader: AtomicWaker,
}

/// How far a call has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its response is to come.
    Call,
    /// Its response's body is with the caller.
    Body,
}

/// Nobody has polled since then, in nanoseconds, though there is something to poll for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Idle {
    pub(crate) since: u64,
    pub(crate) told: bool,
    /// The body has been taken away from the caller, who has not noticed yet.
    pub(crate) reclaimed: bool,
}

impl Record {
    pub(crate) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            turn: AtomicU64::new(AWAITED),
            stage: AtomicU8::new(Stage::Call as u8),
            read: AtomicU64::new(0),
            declared: AtomicU64::new(UNKNOWN),
            reader: AtomicWaker::new(),
        }
    }

    /// Of a new call, which nobody has polled yet.
    pub(crate) fn begin(&self, now: Instant) {
        self.stage.store(Stage::Call as u8, Relaxed);
        self.read.store(0, Relaxed);
        self.declared.store(UNKNOWN, Relaxed);
        self.idle_from(now);
    }

    /// The reader polls, and hands on this record's own waker. Returned is how it was idle, if that has been told.
    ///
    /// What is pending has to be followed by [`pending`](Self::pending), what is ready by [`answered`](Self::answered),
    /// [`read`](Self::read) or [`end`](Self::end).
    #[inline]
    pub(crate) fn polled(&self) -> Option<Idle> {
        Idle::from_turn(self.turn.swap(AWAITED, AcqRel)).filter(|idle| idle.told)
    }

    /// The reader waits for the peer, to be woken by `waker`.
    #[inline]
    pub(crate) fn pending(&self, waker: &Waker) {
        self.reader.register(waker);
        // It may have been woken before there was anybody to wake.
        if self.turn.load(Acquire) != AWAITED {
            waker.wake_by_ref();
        }
    }

    /// The head has come: the caller has a body now.
    pub(crate) fn answered(&self, declared: Option<u64>) {
        self.declared.store(declared.unwrap_or(UNKNOWN), Relaxed);
        self.stage.store(Stage::Body as u8, Relaxed);
        self.idle_from(Instant::now());
    }

    /// So many bytes have been handed to the caller.
    pub(crate) fn read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Relaxed);
        self.idle_from(Instant::now());
    }

    /// The call is over. Returns since when it was idle.
    pub(crate) fn end(&self) -> Option<Idle> {
        drop(self.reader.take());
        Idle::from_turn(self.turn.swap(AWAITED, AcqRel))
    }

    /// Since when it is idle; `None` while the peer is awaited.
    pub(crate) fn idle(&self) -> Option<Idle> {
        Idle::from_turn(self.turn.load(Acquire))
    }

    /// It is told now that it is idle, unless that is no longer so.
    pub(crate) fn tell(&self, idle: Idle) -> bool {
        let (untold, told) = (Idle { told: false, ..idle }, Idle { told: true, ..idle });
        self.turn.compare_exchange(untold.into_turn(), told.into_turn(), AcqRel, Relaxed).is_ok()
    }

    /// The body that has been idle `since` then is taken away now, unless somebody has polled it meanwhile. In one step: the record
    /// could be another call's in the next.
    pub(crate) fn reclaim(&self, since: u64) -> bool {
        let reclaimed = |turn| {
            let idle = Idle::from_turn(turn).filter(|idle| idle.since == since)?;
            Some(Idle { reclaimed: true, ..idle }.into_turn())
        };
        self.turn.fetch_update(AcqRel, Acquire, reclaimed).is_ok()
    }

    pub(crate) fn stage(&self) -> Stage {
        [Stage::Call, Stage::Body][usize::from(self.stage.load(Relaxed))]
    }

    /// Whether the body has been taken away from the caller, who has not noticed yet.
    pub(crate) fn is_reclaimed(&self) -> bool {
        self.idle().is_some_and(|idle| idle.reclaimed)
    }

    pub(crate) fn bytes_read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    pub(crate) fn declared(&self) -> Option<u64> {
        Some(self.declared.load(Relaxed)).filter(|&bytes| bytes != UNKNOWN)
    }

    /// It is the reader's turn from now on.
    fn idle_from(&self, now: Instant) {
        self.turn.store(self.idle_since(now).into_turn(), Relaxed);
    }

    fn idle_since(&self, now: Instant) -> Idle {
        Idle { since: nanos(self.epoch, now), told: false, reclaimed: false }
    }
}

impl Wake for Record {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.turn.load(Relaxed) == AWAITED {
            let idle = self.idle_since(Instant::now());
            let _ = self.turn.compare_exchange(AWAITED, idle.into_turn(), AcqRel, Relaxed);
        }
        self.reader.wake();
    }
}

impl Idle {
    /// For how long it has been at `now`.
    pub(crate) fn until(self, epoch: Instant, now: Instant) -> Duration {
        Duration::from_nanos(nanos(epoch, now).saturating_sub(self.since))
    }

    fn from_turn(turn: u64) -> Option<Self> {
        (turn != AWAITED).then_some(Self { since: turn >> 2, told: turn & 1 != 0, reclaimed: turn & 2 != 0 })
    }

    fn into_turn(self) -> u64 {
        self.since << 2 | u64::from(self.reclaimed) << 1 | u64::from(self.told)
    }
}

/// From `epoch` to `now`, in nanoseconds.
pub(crate) fn nanos(epoch: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(epoch).as_nanos()).unwrap_or(u64::MAX)
}

/// It is the peer's turn.
const AWAITED: u64 = u64::MAX;
const UNKNOWN: u64 = u64::MAX;

#[cfg(all(test, outbound_loom))]
#[path = "record_model.rs"]
mod model;
