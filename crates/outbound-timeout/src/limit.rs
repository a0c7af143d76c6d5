//! What a call is judged by.

use std::{fmt, mem, sync::Arc, time::Duration};

use http::{
    Request, Uri,
    uri::{Authority, Scheme},
};
use outbound_core::{Attempt, BoxError, Deadline, Elapsed, Exchange, Origin, Phase};
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
}

/// What few layers are told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extras {
    pub(crate) throughput: Option<Throughput>,
    pub(crate) monitor: Option<StallMonitor>,
}

/// What one call is judged by besides, first while its head is awaited and then while its body is read.
#[derive(Debug)]
pub(crate) struct Watch {
    begun: Instant,
    deadline: Option<Instant>,
    exchange: Option<Exchange>,
    target: Target,
    extras: Option<Arc<Extras>>,
}

/// Where a request goes, as it says itself: for an error, where nobody below reports. As little as will do, for it is moved with each call.
#[derive(Default)]
pub(crate) struct Target {
    is_https: bool,
    /// None where the scheme is another than http or https.
    authority: Option<Authority>,
    attempt: Option<Attempt>,
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
    pub(crate) fn barred(self, target: &Target) -> BoxError {
        target.named_in(Elapsed::new(Phase::Queue, self.length()).named(self.name)).into()
    }

    /// Which of the two runs out sooner; at the very same instant `first`.
    pub(crate) fn sooner(first: Option<Self>, second: Option<Self>) -> Option<Self> {
        match (first, second) {
            (Some(first), Some(second)) if second.due < first.due => Some(second),
            (first, second) => first.or(second),
        }
    }
}

// === Limits ===

impl Limits {
    pub(crate) const NONE: Self =
        Self { head: Duration::MAX, write_idle: Duration::MAX, read_idle: Duration::MAX };
}

// === Extras ===

impl Extras {
    /// Those of a layer that is being made.
    pub(crate) fn of(extras: &mut Option<Arc<Self>>) -> &mut Self {
        Arc::make_mut(extras.get_or_insert_default())
    }
}

// === Target ===

impl Target {
    pub(crate) fn of<B>(request: &Request<B>, attempt: Option<Attempt>) -> Self {
        let uri = request.uri();
        let is_https = uri.scheme() == Some(&Scheme::HTTPS);
        let is_http = is_https || uri.scheme() == Some(&Scheme::HTTP);
        Self { is_https, authority: uri.authority().filter(|_| is_http).cloned(), attempt }
    }

    /// Made when it is wanted, for a call that succeeds pays for each step.
    fn origin(&self) -> Option<Origin> {
        let scheme = if self.is_https { Scheme::HTTPS } else { Scheme::HTTP };
        let uri = Uri::builder().scheme(scheme).authority(self.authority.clone()?).path_and_query("/");
        Origin::of(&uri.build().ok()?).ok()
    }

    fn named_in(&self, elapsed: Elapsed) -> Elapsed {
        let elapsed = self.origin().into_iter().fold(elapsed, Elapsed::to);
        self.attempt.into_iter().fold(elapsed, Elapsed::at)
    }
}

/// Without userinfo.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("origin", &self.origin()).field("attempt", &self.attempt).finish()
    }
}

// === Watch ===

impl Watch {
    pub(crate) fn new(
        begun: Instant,
        deadline: Option<Deadline>,
        exchange: Option<Exchange>,
        target: Target,
        extras: Option<Arc<Extras>>,
    ) -> Self {
        Self { begun, deadline: deadline.and_then(Deadline::instant), exchange, target, extras }
    }

    /// The same, for the body to go on with.
    pub(crate) fn take(&mut self) -> Self {
        let (exchange, extras) = (self.exchange.take(), self.extras.take());
        Self { exchange, extras, target: mem::take(&mut self.target), ..*self }
    }

    /// When the call began: nothing is due earlier than what is due then.
    pub(crate) fn begun(&self) -> Instant {
        self.begun
    }

    pub(crate) fn deadline(&self) -> Option<Limit> {
        self.deadline.map(|due| Limit { name: "deadline", from: self.begun, due })
    }

    pub(crate) fn is_past_deadline(&self) -> bool {
        self.deadline.is_some_and(|due| due <= Instant::now())
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    pub(crate) fn monitor(&self) -> Option<&StallMonitor> {
        self.extras.as_ref()?.monitor.as_ref()
    }

    pub(crate) fn throughput(&self) -> Option<Throughput> {
        self.extras.as_ref()?.throughput
    }

    /// Why nothing may be sent at all: a limit that ran out before it began.
    pub(crate) fn barred(&self, limits: &Limits) -> Option<Limit> {
        if self.deadline.is_some_and(|due| due <= self.begun) {
            return self.deadline();
        }
        limits.head.is_zero().then_some(Limit { name: HEAD, from: self.begun, due: self.begun })
    }

    /// Before this nothing runs out while the head is awaited, whenever it begins to count.
    pub(crate) fn first_due(&self, limits: &Limits) -> Option<Instant> {
        let limit = self.begun.checked_add(limits.head.min(limits.write_idle));
        self.deadline.into_iter().chain(limit).min()
    }

    /// What runs out first while the head is awaited. A limit that has not begun to count could begin now, and not earlier:
    /// so none of them ever runs out sooner than it was said to before.
    pub(crate) fn until_head(&self, limits: &Limits, now: Instant) -> Option<Limit> {
        // Answered it may be too: somebody below holds the response back, to buffer its body perhaps. In the queue nobody below reports.
        let sent = self.exchange.as_ref().map_or(self.begun, |exchange| match exchange.phase() {
            Phase::Queue => self.begun,
            _ => exchange.sent_at().map_or(now, |sent| sent.max(self.begun)),
        });
        let untaken = self.exchange.as_ref().and_then(Exchange::unmoved_since).unwrap_or(now);
        let head = Limit::new(HEAD, sent, limits.head);
        let write_idle = Limit::new("write-idle", untaken, limits.write_idle);
        Limit::sooner(Limit::sooner(self.deadline(), head), write_idle)
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
            None => self.target.named_in(elapsed),
        }
        .into()
    }

    /// The record of the exchange, if anybody below writes it.
    fn reported(&self) -> Option<&Exchange> {
        self.exchange.as_ref().filter(|exchange| exchange.phase() != Phase::Queue)
    }
}

const HEAD: &str = Phase::Head.as_str();
