//! What a call is judged by.

use std::time::Duration;

use outbound_core::{BoxError, Deadline, Elapsed, Exchange, Phase};
use tokio::time::Instant;

use crate::{stall::StallMonitor, throughput::Throughput};

/// One limit as it stands now: which one, from when it counts, and when it runs out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) name: &'static str,
    pub(crate) from: Instant,
    pub(crate) due: Instant,
}

/// The limits of an attempt, each [`Duration::MAX`] for none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) head: Duration,
    pub(crate) write_idle: Duration,
    pub(crate) read_idle: Duration,
    pub(crate) throughput: Option<Throughput>,
}

/// All that one call is judged by, first while its head is awaited and then while its body is read.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    begun: Instant,
    pub(crate) deadline: Option<Limit>,
    pub(crate) limits: Limits,
    exchange: Option<Exchange>,
    pub(crate) monitor: Option<StallMonitor>,
}

// === Limit ===

impl Limit {
    /// `None` where it would run out later than the clock can tell.
    pub(crate) fn new(name: &'static str, from: Instant, limit: Duration) -> Option<Self> {
        Some(Self { name, from, due: from.checked_add(limit)? })
    }

    pub(crate) fn length(&self) -> Duration {
        self.due.saturating_duration_since(self.from)
    }

    /// It ran out before anything was sent.
    pub(crate) fn barred(self) -> BoxError {
        Elapsed::new(Phase::Queue, self.length()).named(self.name).into()
    }

    /// The one that runs out first, and of two at the very same instant the one named first.
    pub(crate) fn first(limits: impl IntoIterator<Item = Option<Self>>) -> Option<Self> {
        limits.into_iter().flatten().min_by_key(|limit| limit.due)
    }
}

// === Limits ===

impl Limits {
    pub(crate) const NONE: Self =
        Self { head: Duration::MAX, write_idle: Duration::MAX, read_idle: Duration::MAX, throughput: None };
}

// === Watch ===

impl Watch {
    pub(crate) fn new(
        begun: Instant,
        limits: Limits,
        deadline: Option<Deadline>,
        exchange: Option<Exchange>,
        monitor: Option<StallMonitor>,
    ) -> Self {
        let deadline =
            deadline.and_then(Deadline::instant).map(|due| Limit { name: "deadline", from: begun, due });
        Self { begun, deadline, limits, exchange, monitor }
    }

    /// Why nothing may be sent at all: a limit that ran out before it began.
    pub(crate) fn barred(&self) -> Option<Limit> {
        let head = Limit::new(HEAD, self.begun, self.limits.head);
        Limit::first([self.deadline, head]).filter(|limit| limit.due <= self.begun)
    }

    /// What runs out first while the head is awaited. A limit that has not begun to count could begin now, and not earlier:
    /// so none of them ever runs out sooner than it was said to before.
    pub(crate) fn until_head(&self, now: Instant) -> Option<Limit> {
        let sent = self.exchange.as_ref().map_or(self.begun, |exchange| match exchange.phase() {
            // Nobody below reports.
            Phase::Queue => self.begun,
            Phase::Head => exchange.since().max(self.begun),
            // Somebody below holds the response back, to buffer its body perhaps.
            Phase::Body => {
                let answered_within = exchange.timings().spent(Phase::Head);
                exchange.since().checked_sub(answered_within).map_or(self.begun, |sent| sent.max(self.begun))
            }
            _ => now,
        });
        let untaken = self.exchange.as_ref().and_then(Exchange::unmoved_since).unwrap_or(now);
        Limit::first([
            self.deadline,
            Limit::new(HEAD, sent, self.limits.head),
            Limit::new("write-idle", untaken, self.limits.write_idle),
        ])
    }

    /// `limit` ran out before the head came. What nobody reports on may have been sent.
    pub(crate) fn no_head(&self, limit: Limit, now: Instant) -> BoxError {
        self.elapsed(self.reported().map_or(Phase::Head, Exchange::phase), limit, now)
    }

    /// `limit` ran out before the body ended.
    pub(crate) fn no_end(&self, limit: Limit, now: Instant) -> BoxError {
        self.elapsed(Phase::Body, limit, now)
    }

    fn elapsed(&self, phase: Phase, limit: Limit, now: Instant) -> BoxError {
        let elapsed = Elapsed::new(phase, limit.length()).named(limit.name).took(now - limit.from);
        match self.reported() {
            Some(exchange) => elapsed.during(exchange),
            None => elapsed,
        }
        .into()
    }

    /// The record of the exchange, if anybody below writes it.
    fn reported(&self) -> Option<&Exchange> {
        self.exchange.as_ref().filter(|exchange| exchange.phase() != Phase::Queue)
    }
}

const HEAD: &str = Phase::Head.as_str();
