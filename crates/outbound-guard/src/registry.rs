//! Who holds what: every open call is registered here, and nothing else.
//!
//! There are several shards with a lock each, and a thread uses always the same one. A call that begins and ends on one thread
//! takes no lock that another core has: only the sweep comes by from time to time, and a call that moved to another thread ends in
//! the shard where it began.

use std::{
    backtrace::Backtrace,
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Waker},
    thread,
    time::Duration,
};

use http::{Request, Uri, Version};
use outbound_core::{Attempt, CallSite, Carried, End, Exchange, Origin, Phase};
use slab::Slab;
use tokio::time::Instant;
use tracing::{Metadata, dispatcher};

use crate::{
    builder::Backtraces,
    leak::{Holding, Leak},
    reclaim::Reclaim,
    record::{Idle, Record, Stage, nanos},
    reporter::Reporter,
};

/// All open calls.
pub(crate) struct Registry {
    pub(crate) epoch: Instant,
    shards: Box<[Arc<Shard>]>,
    backtraces: Backtraces,
}

/// The calls that began on some of the threads. Alone on its cache lines.
#[repr(align(128))]
pub(crate) struct Shard {
    epoch: Instant,
    reporter: Arc<Reporter>,
    calls: Mutex<Calls>,
}

#[derive(Default)]
struct Calls {
    open: Slab<Open>,
    /// Records to be used again.
    spare: Vec<Arc<Record>>,
    /// Calls since the last backtrace.
    unsampled: u32,
}

/// An open call.
pub(crate) struct Open {
    pub(crate) record: Arc<Record>,
    pub(crate) call: Call,
    pub(crate) body: Option<Arc<dyn Reclaim>>,
}

/// What is known of a call from the start.
pub(crate) struct Call {
    pub(crate) began: Instant,
    /// The number of the service that made it.
    pub(crate) client: usize,
    uri: Uri,
    pub(crate) site: Option<CallSite>,
    span: Option<&'static Metadata<'static>>,
    attempt: Option<Attempt>,
    exchange: Option<Exchange>,
    backtrace: Option<Arc<Backtrace>>,
}

/// A registered call. Dropping it ends the call: before its head it was cancelled, after it the body was abandoned.
pub(crate) struct Ticket {
    shard: Arc<Shard>,
    record: Arc<Record>,
    /// The record's own.
    waker: Waker,
    key: usize,
    end: End,
}

// === Registry ===

impl Registry {
    pub(crate) fn new(reporter: &Arc<Reporter>, backtraces: Backtraces) -> Self {
        let epoch = Instant::now();
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let shard = || Arc::new(Shard { epoch, reporter: reporter.clone(), calls: Mutex::default() });
        let shards = (0..SHARDS_PER_CORE * threads).map(|_| shard()).collect();
        Self { epoch, shards, backtraces }
    }

    /// Enters the call that `request` begins, made by `client`.
    pub(crate) fn enter<B>(&self, client: usize, request: &Request<B>) -> Ticket {
        let shard = &self.shards[thread_number() % self.shards.len()];
        let carried = Carried::of(request);
        let mut call = Call {
            began: Instant::now(),
            client,
            uri: request.uri().clone(),
            site: carried.and_then(|carried| carried.call_site),
            span: dispatcher::get_default(|dispatch| dispatch.current_span().metadata()),
            attempt: carried.and_then(|carried| carried.attempt),
            exchange: carried.and_then(|carried| carried.exchange.clone()),
            backtrace: None,
        };
        if self.backtraces != Backtraces::Off && shard.lock().is_sampled(self.backtraces) {
            call.backtrace = Some(Arc::new(Backtrace::force_capture()));
        }
        shard.clone().enter(call)
    }

    /// Visits all open calls, a shard at a time under its lock, but for those whose body has been taken away. `visit` must not call
    /// what is not ours.
    pub(crate) fn visit(&self, mut visit: impl FnMut(&Open)) {
        for shard in &self.shards {
            let calls = shard.lock();
            calls
                .open
                .iter()
                .filter(|(_, open)| !open.record.is_reclaimed())
                .for_each(|(_, open)| visit(open));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.lock().open.is_empty())
    }

    /// Nanoseconds since the registry was made, in which records count.
    pub(crate) fn nanos(&self, now: Instant) -> u64 {
        nanos(self.epoch, now)
    }

    /// The instant so many nanoseconds after the registry was made; `None` beyond what the clock can tell.
    pub(crate) fn instant(&self, nanos: u64) -> Option<Instant> {
        self.epoch.checked_add(Duration::from_nanos(nanos))
    }
}

// === Shard ===

impl Shard {
    #[inline]
    fn enter(self: Arc<Self>, call: Call) -> Ticket {
        let mut calls = self.lock();
        let record = calls.spare.pop().unwrap_or_else(|| Arc::new(Record::new(self.epoch)));
        record.begin(call.began);
        let key = calls.open.insert(Open { record: record.clone(), call, body: None });
        drop(calls);
        let waker = Waker::from(record.clone());
        Ticket { shard: self, record, waker, key, end: End::Dropped }
    }

    fn leave(&self, key: usize) {
        let mut calls = self.lock();
        let open = calls.open.remove(key);
        if calls.spare.len() < SPARE {
            calls.spare.push(open.record.clone());
        }
        // What a burst took is given back.
        let surplus =
            (calls.open.is_empty() && calls.open.capacity() > SPARE).then(|| mem::take(&mut calls.open));
        drop(calls);
        drop((open, surplus));
    }

    /// What was told to be idle has been polled, or is over.
    fn returned(&self, holding: Holding) {
        let after = holding.idle.unwrap_or_default();
        self.reporter.tell(&Leak::Returned { holding, after });
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    fn is_sampled(&mut self, backtraces: Backtraces) -> bool {
        let every = match backtraces {
            Backtraces::Off => return false,
            Backtraces::OneIn(calls) => calls.get(),
            Backtraces::All => 1,
        };
        self.unsampled += 1;
        let is_sampled = self.unsampled >= every;
        if is_sampled {
            self.unsampled = 0;
        }
        is_sampled
    }
}

// === Open ===

impl Call {
    /// Made when somebody asks, for a warm call pays for each step.
    pub(crate) fn origin(&self) -> Option<Origin> {
        Origin::of(&self.uri).ok()
    }
}

impl Open {
    pub(crate) fn holding(&self, epoch: Instant, now: Instant) -> Holding {
        let Self { record, call, .. } = self;
        let has_body = record.stage() != Stage::Call;
        let reported = call.exchange.as_ref().map(Exchange::phase);
        Holding {
            site: call.site,
            span: call.span,
            origin: call.origin(),
            attempt: call.attempt,
            phase: if has_body { Some(Phase::Body) } else { reported },
            age: now.saturating_duration_since(call.began),
            idle: record.idle().map(|idle| idle.until(epoch, now)),
            read: record.bytes_read(),
            declared: record.declared(),
            connection: call.exchange.as_ref().and_then(Exchange::connection),
            backtrace: call.backtrace.clone(),
        }
    }
}

// === Ticket ===

impl Ticket {
    /// The response, or its body, is polled: with this context. (No closure is polled here, for what it returns would be moved once more.)
    #[inline]
    pub(crate) fn polled(&self) -> Context<'_> {
        if let Some(idle) = self.record.polled() {
            self.shard.returned(self.holding(Some(idle)));
        }
        Context::from_waker(&self.waker)
    }

    /// It is pending.
    #[inline]
    pub(crate) fn pending(&self, cx: &Context<'_>) {
        self.record.pending(cx.waker());
    }

    /// The head has come, with a body of so many bytes, which may be reclaimed.
    pub(crate) fn answered(&self, declared: Option<u64>, body: Option<Arc<dyn Reclaim>>) {
        self.record.answered(declared);
        if body.is_some() {
            self.shard.lock().open[self.key].body = body;
        }
    }

    /// So many bytes of the body are handed to the caller.
    pub(crate) fn read(&self, bytes: u64) {
        self.record.read(bytes);
    }

    /// What it holds, having been idle like that until now.
    fn holding(&self, idle: Option<Idle>) -> Holding {
        let Shard { epoch, .. } = *self.shard;
        let now = Instant::now();
        let idle = idle.map(|idle| idle.until(epoch, now));
        Holding { idle, ..self.shard.lock().open[self.key].holding(epoch, now) }
    }

    /// Whether the end of the exchange cost its connection, as far as anybody has told.
    fn cost_connection(&self) -> Option<bool> {
        let exchange = self.shard.lock().open[self.key].call.exchange.clone()?;
        if exchange.connection()?.established().version >= Version::HTTP_2 {
            return Some(false);
        }
        exchange.is_kept().map(|is_kept| !is_kept)
    }

    /// It is over, and how.
    pub(crate) fn end(mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let (idle, record) = (self.record.end(), &self.record);
        let was_told = idle.is_some_and(|idle| idle.told);
        let was_reclaimed = idle.is_some_and(|idle| idle.reclaimed);
        let is_abandoned = self.end == End::Dropped
            && record.stage() == Stage::Body
            && !was_reclaimed
            && record.declared() != Some(record.bytes_read());
        // Before the record is another call's.
        let holding = (was_told || is_abandoned).then(|| self.holding(idle));
        let cost_connection = is_abandoned.then(|| self.cost_connection()).flatten();
        self.shard.leave(self.key);
        let Some(holding) = holding else { return };
        if was_told {
            self.shard.returned(holding.clone());
        }
        if is_abandoned {
            self.shard.reporter.tell(&Leak::Abandoned { holding, cost_connection });
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("record", &self.record).finish_non_exhaustive()
    }
}

/// Counts the threads that make calls, from 0.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Relaxed));
    NUMBER.try_with(|&number| number).unwrap_or_default()
}

/// So that the few threads that a runtime has more than cores get a shard of their own, too.
const SHARDS_PER_CORE: usize = 4;

/// Room for so many calls is kept in a shard when they are over.
const SPARE: usize = 1024;
