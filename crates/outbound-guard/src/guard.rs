//! What layers, services and detectors share.

use std::{
    cmp::Reverse,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Request;
use outbound_core::{CallSite, Origin, Witness};
use tokio::time::Instant;

use crate::{
    builder::Options,
    leak::{Holding, Leak},
    process::PROCESS,
    record::Stage,
    registry::{Open, Registry, Ticket},
    reporter::Reporter,
    sweep::Sweep,
};

pub(crate) struct Guard {
    pub(crate) registry: Registry,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) sweep: Sweep,
    pub(crate) held: Duration,
    reclaim_after: Duration,
    clients: AtomicUsize,
    /// Whether clients go with their handles, and not with the services.
    has_handle: AtomicBool,
}

impl Guard {
    /// It hears of all that is built in this process from now on.
    pub(crate) fn new(options: Options, reclaim_after: Option<Duration>) -> Arc<Self> {
        let Options { held, churn, spare_descriptors, backtraces, window, callback } = options;
        let reporter = Arc::new(Reporter::new(callback, window));
        let guard = Arc::new(Self {
            registry: Registry::new(&reporter, backtraces),
            reporter,
            sweep: Sweep::new(),
            held: held.min(FOR_EVER),
            reclaim_after: reclaim_after.unwrap_or(FOR_EVER).min(FOR_EVER),
            clients: AtomicUsize::new(0),
            has_handle: AtomicBool::new(false),
        });
        PROCESS.tell(&guard, churn, spare_descriptors);
        guard
    }

    pub(crate) fn next_client(&self) -> usize {
        self.clients.fetch_add(1, Relaxed)
    }

    pub(crate) fn has_handle(&self) {
        self.has_handle.store(true, Relaxed);
    }

    pub(crate) fn enter<B>(self: &Arc<Self>, client: usize, request: &Request<B>) -> Ticket {
        let ticket = self.registry.enter(client, request);
        self.sweep.ensure_running(self);
        ticket
    }

    /// Tells what is due at `now`, and when to look again.
    pub(crate) fn sweep(&self, now: Instant) -> Instant {
        let (epoch, at) = (self.registry.epoch, self.registry.nanos(now));
        let after = |since: u64, limit: Duration| since.saturating_add(nanos(limit));
        let (mut held, mut unclaimed) = (Vec::new(), Vec::new());
        let mut next = after(at, self.held.min(self.reclaim_after).min(DESCRIPTORS_EVERY));
        self.registry.visit(|open| {
            let Some(idle) = open.record.idle() else { return };
            // Idle as it was found to be: it may be polled at any moment.
            let holding = || Holding { idle: Some(idle.until(epoch, now)), ..open.holding(epoch, now) };
            let due = after(idle.since, self.held);
            if due <= at && open.record.tell(idle) {
                held.push(holding());
            } else if due > at {
                next = next.min(due);
            }
            if let Some(body) = open.body.as_ref().filter(|_| open.record.stage() == Stage::Body) {
                let due = after(idle.since, self.reclaim_after);
                if due <= at {
                    unclaimed.push((body.clone(), open.record.clone(), idle.since, holding()));
                } else {
                    next = next.min(due);
                }
            }
        });
        held.sort_by_key(|holding| Reverse(holding.age));
        for holding in held {
            self.reporter.tell(&Leak::Held { holding });
        }
        for (body, record, since, holding) in unclaimed {
            if body.reclaim(&|| record.reclaim(since)) {
                self.reporter.tell(&Leak::Reclaimed { holding });
            }
        }
        PROCESS.check_descriptors(now);
        self.registry.instant(next).unwrap_or(now + FOR_EVER)
    }

    /// All that is open, the oldest first.
    pub(crate) fn snapshot(&self) -> Vec<Holding> {
        self.holdings(|_| true)
    }

    /// The last clone of a service has gone, or of a handle to all of them: its bodies should have gone before.
    pub(crate) fn client_dropped(&self, client: Option<usize>) {
        if client.is_some() && self.has_handle.load(Relaxed) {
            return;
        }
        let is_its = |open: &Open| client.is_none_or(|client| open.call.client == client);
        let holdings = self.holdings(|open| is_its(open) && open.record.stage() == Stage::Body);
        if !holdings.is_empty() {
            self.reporter.tell(&Leak::ClientDropped { holdings });
        }
    }

    /// Nobody looks any more: what has not been told by now never would be.
    pub(crate) fn close(&self) {
        for holding in self.holdings(|open| open.record.idle().is_none_or(|idle| !idle.told)) {
            self.reporter.tell(&Leak::Forgotten { holding });
        }
    }

    fn holdings(&self, mut wanted: impl FnMut(&Open) -> bool) -> Vec<Holding> {
        let (now, mut holdings) = (Instant::now(), Vec::new());
        self.registry.visit(|open| {
            if wanted(open) {
                holdings.push(open.holding(self.registry.epoch, now));
            }
        });
        holdings.sort_by_key(|holding| Reverse(holding.age));
        holdings
    }
}

impl Witness for Guard {
    fn oldest(&self, origin: Option<&Origin>) -> Option<(Duration, Option<CallSite>)> {
        let mut oldest: Option<(Instant, Option<CallSite>)> = None;
        self.registry.visit(|Open { call, .. }| {
            // In this order: an origin costs more than a look at the clock's numbers, and few calls are older than all before them.
            let is_oldest = oldest.is_none_or(|(began, _)| call.began < began);
            if is_oldest && origin.is_none_or(|origin| call.origin().as_ref() == Some(origin)) {
                oldest = Some((call.began, call.site));
            }
        });
        oldest.map(|(began, site)| (began.elapsed(), site))
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("held", &self.held)
            .field("totals", &self.reporter.totals())
            .finish_non_exhaustive()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// How often descriptors are counted while calls are open.
const DESCRIPTORS_EVERY: Duration = Duration::from_secs(5);

/// As long as the clock can be added to it without overflow, and longer than any process.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
