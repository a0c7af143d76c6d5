//! The one record of an attempt, which the pool writes and everybody else reads.

use std::{
    array,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::Ordering::{AcqRel, Acquire, Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    connection::{ConnectionInfo, Timings},
    context::{Attempt, CallSite, Carried, Message},
    origin::Origin,
    sync::{AtomicBool, AtomicU8, AtomicU64},
    words::{Delivery, Phase},
};

/// What is going on with one attempt, as it happens: phase, bytes, connection, time.
///
/// The pool writes it; timeouts, the leak guard and telemetry read it. It is one allocation, and cloning shares it.
/// Whoever wants to look first puts it on the request with [`Exchange::track`]; the pool then reports on it, and carries it
/// over to the response. A retry layer gives each attempt its own.
///
/// Phase, bytes and times are read without a lock; what names the route (origin, attempt, call site, connection) is behind one.
///
/// ```
/// use outbound_core::{Delivery, Exchange, Phase};
///
/// let mut request = http::Request::new(());
/// let exchange = Exchange::track(&mut request);
/// exchange.enter(Phase::Send);
/// exchange.wrote(42);
/// assert_eq!((exchange.phase(), exchange.delivery()), (Phase::Send, Delivery::Maybe));
/// ```
#[derive(Clone, Debug)]
pub struct Exchange(Arc<Record>);

#[derive(Debug)]
struct Record {
    begun: Instant,
    /// The present [`Stay`], in one word: whoever sees the phase sees when it was entered, and not when another was.
    stay: AtomicU64,
    /// Nanoseconds spent in each phase that has been left.
    spent: [AtomicU64; Phase::ALL.len()],
    /// Nanoseconds from when the request that was answered had been sent to the answer.
    answered_within: AtomicU64,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
    /// When the request last moved on, in nanoseconds since `begun`; [`STARVED`] while its body has nothing to give.
    moved: AtomicU64,
    refused: AtomicBool,
    /// What has become of the connection: [`KEPT`], [`CLOSED`], or neither yet.
    connection: AtomicU8,
    route: Mutex<Route>,
}

/// A phase, and when it was entered, in nanoseconds since the record began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stay {
    phase: Phase,
    since: u64,
}

#[derive(Debug, Default)]
struct Route {
    origin: Option<Origin>,
    attempt: Option<Attempt>,
    call_site: Option<CallSite>,
    connection: Option<ConnectionInfo>,
}

impl Exchange {
    /// A record that begins now, in [`Phase::Queue`].
    pub fn new() -> Self {
        Self::begun_at(Instant::now())
    }

    /// A record that begins at `now`, for who has just asked the clock.
    pub fn begun_at(now: Instant) -> Self {
        Self(Arc::new(Record::begun_at(now)))
    }

    /// The record on `message`, if somebody put one there.
    pub fn of(message: &impl Message) -> Option<Self> {
        Carried::of(message)?.exchange.clone()
    }

    /// The record on `message`, put there now if there was none.
    pub fn track(message: &mut impl Message) -> Self {
        Carried::on(message).exchange.get_or_insert_with(Self::new).clone()
    }

    /// Puts this record on `message` in place of any other.
    pub fn attach(self, message: &mut impl Message) {
        Carried::on(message).exchange = Some(self);
    }

    /// A record that begins `now`, in the same allocation if nobody else holds this one.
    #[must_use]
    pub fn renewed(mut self, now: Instant) -> Self {
        match Arc::get_mut(&mut self.0) {
            Some(record) => {
                *record = Record::begun_at(now);
                self
            }
            None => Self::begun_at(now),
        }
    }

    // --- what readers ask ---

    /// Where the attempt is now.
    pub fn phase(&self) -> Phase {
        self.stay().phase
    }

    /// When it entered that phase: in [`Phase::Head`] the instant at which the request had been sent.
    pub fn since(&self) -> Instant {
        self.instant(self.stay())
    }

    /// When it began.
    pub fn begun(&self) -> Instant {
        self.0.begun
    }

    /// Bytes of the request written to a socket so far, TLS records not counted as more than what they carry.
    pub fn bytes_out(&self) -> u64 {
        self.0.bytes_out.load(Relaxed)
    }

    /// Bytes of the response read so far, counted like [`bytes_out`](Self::bytes_out).
    pub fn bytes_in(&self) -> u64 {
        self.0.bytes_in.load(Relaxed)
    }

    /// Since when the peer has not taken what is there to be sent; `None` outside [`Phase::Send`], and while the request's own
    /// body has nothing to give.
    pub fn unmoved_since(&self) -> Option<Instant> {
        let (stay, moved) = (self.stay(), self.0.moved.load(Relaxed));
        let sending = stay.phase == Phase::Send && moved != STARVED;
        sending.then(|| self.instant(stay).max(self.0.begun + Duration::from_nanos(moved)))
    }

    /// Whether the peer may have acted on the request.
    pub fn delivery(&self) -> Delivery {
        if self.0.refused.load(Relaxed) {
            Delivery::Refused
        } else if self.phase() == Phase::Body {
            Delivery::Answered
        } else if self.bytes_out() == 0 {
            Delivery::NotSent
        } else {
            Delivery::Maybe
        }
    }

    /// When the request had been sent, the last time if it was sent again; `None` while it has not. One that was answered before had been
    /// sent when the answer came.
    pub fn sent_at(&self) -> Option<Instant> {
        let stay = self.stay();
        match stay.phase {
            Phase::Head => Some(self.instant(stay)),
            Phase::Body => {
                let within = Duration::from_nanos(self.0.answered_within.load(Relaxed));
                self.instant(stay).checked_sub(within)
            }
            _ => None,
        }
    }

    /// Where the request goes.
    pub fn origin(&self) -> Option<Origin> {
        self.route().origin.clone()
    }

    /// Which attempt of the call it is, where a retry layer counts them.
    pub fn attempt(&self) -> Option<Attempt> {
        self.route().attempt
    }

    /// The line that made the call, where it is known.
    pub fn call_site(&self) -> Option<CallSite> {
        self.route().call_site
    }

    /// The connection that carries it.
    pub fn connection(&self) -> Option<ConnectionInfo> {
        self.route().connection.clone()
    }

    /// Whether its connection serves others after it (`true`), or was closed with it; `None` as long as that is undecided, and where
    /// nobody tells.
    pub fn is_kept(&self) -> Option<bool> {
        match self.0.connection.load(Relaxed) {
            KEPT => Some(true),
            CLOSED => Some(false),
            _ => None,
        }
    }

    /// The time spent in each phase so far, the present one included.
    pub fn timings(&self) -> Timings {
        let mut timings = Timings::default();
        for (&phase, spent) in Phase::ALL.iter().zip(&self.0.spent) {
            timings.add(phase, Duration::from_nanos(spent.load(Relaxed)));
        }
        let stay = self.stay();
        timings.add(stay.phase, self.instant(stay).elapsed());
        timings
    }

    // --- what the pool reports ---

    /// The attempt is in `phase` from now on.
    pub fn enter(&self, phase: Phase) {
        self.enter_at(phase, Instant::now());
    }

    /// Likewise, from `now` on, for who has just looked at the clock.
    pub fn enter_at(&self, phase: Phase, now: Instant) {
        let stay = Stay { phase, since: self.0.passed(now) };
        let left = self.0.stay.swap(stay.into_word(), AcqRel);
        self.0.left(left, stay);
    }

    /// All of the request has been sent: what was in [`Phase::Send`] is in [`Phase::Head`] from now on. An answer that came earlier,
    /// on another thread, stays one.
    pub fn sent(&self) {
        if self.phase() != Phase::Send {
            return;
        }
        let stay = Stay { phase: Phase::Head, since: self.0.passed(Instant::now()) };
        let sends = |word| (Stay::from_word(word).phase == Phase::Send).then_some(stay.into_word());
        if let Ok(left) = self.0.stay.fetch_update(AcqRel, Relaxed, sends) {
            self.0.left(left, stay);
        }
    }

    /// It carries `message` to `origin`.
    pub fn aim(&self, origin: Origin, message: &impl Message) {
        let carried = Carried::of(message);
        let mut route = self.route();
        route.origin = Some(origin);
        route.attempt = carried.and_then(|carried| carried.attempt);
        route.call_site = carried.and_then(|carried| carried.call_site);
    }

    /// `connection` carries it from now on.
    pub fn connected(&self, connection: ConnectionInfo) {
        self.route().connection = Some(connection);
    }

    /// `bytes` more of the request were written.
    pub fn wrote(&self, bytes: usize) {
        self.carried(bytes);
        if self.0.moved.load(Relaxed) != STARVED {
            self.fed();
        }
    }

    /// Likewise, and whether it moves on is told by what comes next: no clock is read.
    pub fn carried(&self, bytes: usize) {
        self.0.bytes_out.fetch_add(bytes as u64, Relaxed);
    }

    /// The request's body has nothing to give until [`fed`](Self::fed): that nothing is written is not the peer's doing.
    pub fn starved(&self) {
        self.0.moved.store(STARVED, Relaxed);
    }

    /// The request's body has given something to send, or has ended.
    pub fn fed(&self) {
        self.0.moved.store(self.0.passed(Instant::now()), Relaxed);
    }

    /// `bytes` more of the response were read.
    pub fn read(&self, bytes: usize) {
        self.0.bytes_in.fetch_add(bytes as u64, Relaxed);
    }

    /// The peer says that it did not process the request.
    pub fn refused(&self) {
        self.0.refused.store(true, Relaxed);
    }

    /// It is over, and its connection serves others, or is closed with it.
    pub fn keeps(&self, connection: bool) {
        self.0.connection.store(if connection { KEPT } else { CLOSED }, Relaxed);
    }

    fn stay(&self) -> Stay {
        Stay::from_word(self.0.stay.load(Acquire))
    }

    /// When it was entered.
    fn instant(&self, stay: Stay) -> Instant {
        self.0.begun + Duration::from_nanos(stay.since)
    }

    fn route(&self) -> MutexGuard<'_, Route> {
        self.0.route.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Exchange {
    fn default() -> Self {
        Self::new()
    }
}

impl Record {
    fn begun_at(begun: Instant) -> Self {
        Self {
            begun,
            stay: AtomicU64::new(Stay { phase: Phase::Queue, since: 0 }.into_word()),
            spent: array::from_fn(|_| AtomicU64::new(0)),
            answered_within: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            connection: AtomicU8::new(0),
            route: Mutex::default(),
        }
    }

    /// The phase of the word `left` has been left for `next`.
    fn left(&self, left: u64, next: Stay) {
        let left = Stay::from_word(left);
        let spent = next.since.saturating_sub(left.since);
        self.spent[left.phase as usize].fetch_add(spent, Relaxed);
        if (left.phase, next.phase) == (Phase::Head, Phase::Body) {
            self.answered_within.store(spent, Relaxed);
        }
    }

    /// Nanoseconds from its beginning to `now`.
    fn passed(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.begun);
        passed.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(passed.subsec_nanos()))
    }
}

impl Stay {
    fn from_word(word: u64) -> Self {
        Self { phase: Phase::ALL[(word & PHASE) as usize], since: word >> PHASE.count_ones() }
    }

    /// The instant has room for 73 years.
    fn into_word(self) -> u64 {
        self.since << PHASE.count_ones() | self.phase as u64
    }
}

/// The bits of the phase.
const PHASE: u64 = 7;
const _: () = assert!(Phase::ALL.len() as u64 == PHASE + 1);
const STARVED: u64 = u64::MAX;
const KEPT: u8 = 1;
const CLOSED: u8 = 2;

#[cfg(all(test, outbound_loom))]
mod model {
    use loom::{model, thread};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The connection's task has sent the request while the caller's task has the answer already.
    #[test]
    fn an_answer_stays_one_whenever_the_request_is_sent() {
        model(|| {
            let exchange = Exchange::new();
            exchange.enter(Phase::Send);
            let connection = thread::spawn({
                let exchange = exchange.clone();
                move || exchange.sent()
            });
            exchange.enter(Phase::Body);
            assert_eq!(exchange.phase(), Phase::Body);
            connection.join().unwrap();
            assert_eq!((exchange.phase(), exchange.delivery()), (Phase::Body, Delivery::Answered));
        });
    }

    /// A head limit that counted from when something else began would be over too early or too late.
    #[test]
    fn who_sees_a_phase_sees_when_it_was_entered() {
        model(|| {
            let begun = Instant::now();
            let exchange = Exchange::begun_at(begun);
            let pool = thread::spawn({
                let exchange = exchange.clone();
                move || {
                    exchange.enter_at(Phase::Send, begun + SECOND);
                    exchange.starved();
                    exchange.enter_at(Phase::Head, begun + 2 * SECOND);
                }
            });
            let stay = exchange.stay();
            assert_eq!(
                exchange.instant(stay) - begun,
                match stay.phase {
                    Phase::Queue => Duration::ZERO,
                    Phase::Send => SECOND,
                    _ => 2 * SECOND,
                }
            );
            let unmoved = exchange.unmoved_since();
            assert!(unmoved.is_none_or(|since| since - begun == SECOND), "of the phase that it is about");
            pool.join().unwrap();
            assert_eq!(exchange.timings().spent(Phase::Send), SECOND);
        });
    }
}
