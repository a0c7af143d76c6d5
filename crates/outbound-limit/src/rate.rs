//! The layer that limits how many calls start in a stretch of time.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::Hash,
    mem,
    num::NonZeroU32,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use governor::{
    Quota,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use http::{Request, request::Parts};
use outbound_core::{BoxError, Deadline, Origin, Overloaded};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    gate::{Entered, Gate},
    invalid::InvalidOption,
    order::Order,
    place::{Held, Patience, Permit, Place, how_to_wait},
    request,
    stats::Stats,
};

/// Lets at most so many calls start in a stretch of time: a token bucket.
///
/// Calls that find no token wait in line for one, or are turned away: at once where it is known that a token cannot come
/// in time. `max_wait(Duration::ZERO)` makes that all of them. [`Overloaded`] says after how long there will be a token.
///
/// ```
/// # use std::time::Duration;
/// # use http::{Request, Response};
/// # use outbound_core::{Overloaded, find};
/// # use outbound_limit::RateLimitLayer;
/// # use tower::{Layer, ServiceExt, service_fn};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), outbound_core::BoxError> {
/// let layer = RateLimitLayer::new(10, Duration::from_secs(1))?.burst(1)?.max_wait(Duration::from_millis(150));
/// let client = layer.layer(service_fn(async |_: Request<()>| {
///     Ok::<_, std::convert::Infallible>(Response::new(()))
/// }));
/// let calls = [(); 3].map(|()| client.clone().oneshot(Request::new(())));
/// let [first, second, third] = calls;
/// let (first, second, third) = tokio::join!(first, second, third);
/// assert!(first.is_ok() && second.is_ok());
/// let error = third.unwrap_err();
/// assert_eq!(find::<Overloaded>(&*error).unwrap().time_to_room(), Some(Duration::from_millis(100)));
/// # Ok(())
/// # }
/// ```
///
/// Services made by one layer or its clones share the bucket. The timer ticks in milliseconds: while calls wait, a rate of more
/// than a thousand a second is reached only with a burst of more than a thousandth of it.
#[derive(Clone, Debug)]
pub struct RateLimitLayer<L = RateLimiter> {
    limits: L,
    patience: Patience,
}

/// The service of [`RateLimitLayer`].
///
/// Ready when the service inside is: a call waits in its future, not in `poll_ready`.
#[derive(Clone, Debug)]
pub struct RateLimit<S, L = RateLimiter> {
    inner: S,
    limits: L,
    patience: Patience,
}

/// One rate for all, and a handle to watch it, shared by its clones.
#[derive(Clone)]
pub struct RateLimiter(Arc<Bucket>);

/// The same rate for each key apart, and a handle to watch it, shared by its clones.
///
/// A key is forgotten once its bucket is full again: not at the very moment, but before as many again have become known.
/// A call takes one short lock to find its key, whose `Hash` and `Eq` run under it and must not make calls themselves.
pub struct RatePerKey<K, F = fn(&Parts) -> K> {
    keys: Arc<Mutex<Keys<K>>>,
    key_of: F,
}

/// What rates are kept by: one [`RateLimiter`] for all calls, or a [`RatePerKey`]. Not to be implemented elsewhere.
pub trait Rates {
    #[doc(hidden)]
    fn bucket_of<B>(&self, request: Request<B>) -> (Request<B>, Arc<Bucket>);
}

pin_project! {
    /// Waits for a token, then for the response. Dropping it leaves the line at once.
    pub struct RateLimitFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B, S::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, B, F> {
        TurnedAway { error: Option<BoxError> },
        Waiting { #[pin] wait: Wait, call: Option<(S, Request<B>)> },
        Running { #[pin] response: F },
    }
}

/// The tokens, and the line of those who wait for one: only its head, who holds the gate's one permit, watches the tokens.
pub struct Bucket {
    quota: Quota,
    clock: Clock,
    tokens: governor::RateLimiter<NotKeyed, InMemoryState, Clock, NoOpMiddleware<Nanos>>,
    /// When the last token was taken, in nanoseconds since the clock's start.
    taken: AtomicU64,
    line: Gate,
}

/// Tokio's clock, for governor.
#[derive(Clone, Copy)]
struct Clock(Instant);

struct Keys<K> {
    quota: Quota,
    buckets: HashMap<K, Arc<Bucket>>,
    /// With so many keys, it is time to look for those to forget.
    crowded: usize,
    rejected: u64,
    longest_wait: Duration,
}

/// What came of asking for a token.
enum Asked {
    Taken,
    Waiting(Wait),
    TurnedAway(Overloaded),
}

pin_project! {
    struct Wait {
        turn: Turn,
        waiter: Waiter,
        // Until patience ends, then until the token comes.
        #[pin]
        sleep: Sleep,
    }
}

enum Turn {
    InLine(Place),
    /// At the head of the line, which nobody else is while this is held.
    First(#[expect(dead_code, reason = "held")] Permit),
    Over,
}

/// Who waits, and for how long already.
struct Waiter {
    bucket: Arc<Bucket>,
    patience: Patience,
    deadline: Deadline,
    since: Instant,
    limit: Duration,
}

// === RateLimitLayer ===

impl RateLimitLayer {
    /// `calls` in each `period`, evenly: a token comes every `period / calls`. As many may come at once after a pause, unless
    /// [`burst`](Self::burst) says otherwise.
    ///
    /// # Errors
    /// Unless there is at least one call in a period, and one call takes from 1 ns to 100 years.
    pub fn new(calls: u32, period: Duration) -> Result<Self, InvalidOption> {
        let every = period.checked_div(calls).and_then(Quota::with_period);
        let (Some(every), Some(burst)) = (every, NonZeroU32::new(calls)) else {
            return Err(InvalidOption::new(
                "rate",
                "at least one call in each period of at least 1 ns a call",
            ));
        };
        Ok(Self { limits: RateLimiter::new(checked(every, burst)?), patience: Patience::new("rate limit") })
    }

    /// How many calls may start at once after a pause; by default all of a period.
    ///
    /// # Errors
    /// Unless there is at least one, and it takes at most 100 years for as many tokens to come.
    pub fn burst(self, calls: u32) -> Result<Self, InvalidOption> {
        let burst = NonZeroU32::new(calls).ok_or(InvalidOption::new("burst", "at least one call"))?;
        let quota = checked(self.limits.0.quota, burst)?;
        Ok(Self { limits: RateLimiter::new(quota), ..self })
    }

    /// The rate is one of its own for each origin (scheme, host, port) that a request goes to.
    #[must_use]
    pub fn per_origin(self) -> RateLimitLayer<RatePerKey<Option<Origin>>> {
        self.per_key(|parts| Origin::of(&parts.uri).ok())
    }

    /// The rate is one of its own for each key that `key_of` gives a request.
    #[must_use]
    pub fn per_key<K, F>(self, key_of: F) -> RateLimitLayer<RatePerKey<K, F>>
    where
        K: Hash + Eq,
        F: Fn(&Parts) -> K,
    {
        RateLimitLayer { limits: RatePerKey::new(self.limits.0.quota, key_of), patience: self.patience }
    }
}

impl<L: Rates> RateLimitLayer<L> {
    how_to_wait!(patience);

    /// The handle to watch it.
    pub fn handle(&self) -> L
    where
        L: Clone,
    {
        self.limits.clone()
    }
}

impl<S, L: Clone> Layer<S> for RateLimitLayer<L> {
    type Service = RateLimit<S, L>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit { inner, limits: self.limits.clone(), patience: self.patience }
    }
}

// === RateLimit ===

impl<S, L, B> Service<Request<B>> for RateLimit<S, L>
where
    S: Service<Request<B>> + Clone,
    S::Error: Into<BoxError>,
    L: Rates,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RateLimitFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let deadline = Deadline::of(&request).unwrap_or_default();
        if deadline.is_past() {
            return RateLimitFuture::turned_away(request::too_late());
        }
        let (request, bucket) = self.limits.bucket_of(request);
        let state = match bucket.ask(self.patience, deadline) {
            Asked::Taken => State::Running { response: self.inner.call(request) },
            Asked::Waiting(wait) => {
                let clone = self.inner.clone();
                let readied = mem::replace(&mut self.inner, clone);
                State::Waiting { wait, call: Some((readied, request)) }
            }
            Asked::TurnedAway(error) => {
                return RateLimitFuture::turned_away(request::aimed(error, &request).into());
            }
        };
        RateLimitFuture { state }
    }
}

// === RateLimitFuture ===

impl<S: Service<Request<B>>, B> RateLimitFuture<S, B> {
    fn turned_away(error: BoxError) -> Self {
        Self { state: State::TurnedAway { error: Some(error) } }
    }
}

impl<S, B> Future for RateLimitFuture<S, B>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let running = match state.as_mut().project() {
                StateProj::TurnedAway { error } => {
                    return Poll::Ready(Err(error.take().expect("not polled after it was ready")));
                }
                StateProj::Waiting { wait, call } => {
                    let asked = ready!(wait.poll(cx));
                    let (mut service, request) = call.take().expect("not polled after it was ready");
                    asked.map_err(|error| request::aimed(error, &request))?;
                    State::Running { response: service.call(request) }
                }
                StateProj::Running { response } => return response.poll(cx).map_err(Into::into),
            };
            state.set(running);
        }
    }
}

impl<S: Service<Request<B>>, B> fmt::Debug for RateLimitFuture<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitFuture").finish_non_exhaustive()
    }
}

// === RateLimiter ===

impl RateLimiter {
    fn new(quota: Quota) -> Self {
        Self(Arc::new(Bucket::new(quota)))
    }

    /// What it is doing.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}

impl Rates for RateLimiter {
    fn bucket_of<B>(&self, request: Request<B>) -> (Request<B>, Arc<Bucket>) {
        (request, self.0.clone())
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RateLimiter").field(&self.stats()).finish()
    }
}

// === RatePerKey ===

impl<K, F> RatePerKey<K, F> {
    /// How many keys are known.
    pub fn keys(&self) -> usize {
        self.lock().buckets.len()
    }

    /// What all keys are doing together; `limit` is that of each.
    pub fn stats(&self) -> Stats {
        let keys = self.lock();
        let start = Stats {
            limit: keys.quota.burst_size().get() as usize,
            in_use: 0,
            waiting: 0,
            rejected: keys.rejected,
            longest_wait: keys.longest_wait,
        };
        keys.buckets.values().map(|bucket| bucket.stats()).fold(start, Stats::and)
    }

    fn lock(&self) -> MutexGuard<'_, Keys<K>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq, F> RatePerKey<K, F> {
    fn new(quota: Quota, key_of: F) -> Self {
        let buckets = HashMap::with_capacity(CROWDED);
        let keys = Keys { quota, buckets, crowded: CROWDED, rejected: 0, longest_wait: Duration::ZERO };
        Self { keys: Arc::new(Mutex::new(keys)), key_of }
    }
}

impl<K: Hash + Eq, F: Fn(&Parts) -> K> Rates for RatePerKey<K, F> {
    fn bucket_of<B>(&self, request: Request<B>) -> (Request<B>, Arc<Bucket>) {
        let (parts, body) = request.into_parts();
        let key = (self.key_of)(&parts);
        let mut keys = self.lock();
        let forgotten = keys.forget_full();
        let quota = keys.quota;
        let bucket = match keys.buckets.entry(key) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(new) => new.insert(Arc::new(Bucket::new(quota))).clone(),
        };
        drop(keys);
        drop(forgotten);
        (Request::from_parts(parts, body), bucket)
    }
}

impl<K, F: Clone> Clone for RatePerKey<K, F> {
    fn clone(&self) -> Self {
        Self { keys: self.keys.clone(), key_of: self.key_of.clone() }
    }
}

impl<K, F> fmt::Debug for RatePerKey<K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RatePerKey").field("keys", &self.keys()).field("stats", &self.stats()).finish()
    }
}

// === Keys ===

impl<K: Hash + Eq> Keys<K> {
    /// Forgets the keys that are as good as new, if there are many: each call pays for as many as it has added, on average.
    fn forget_full(&mut self) -> Vec<(K, Arc<Bucket>)> {
        if self.buckets.len() < self.crowded {
            return Vec::new();
        }
        let forgotten: Vec<_> = self.buckets.extract_if(|_, bucket| bucket.is_as_new()).collect();
        for (_, bucket) in &forgotten {
            self.rejected += bucket.line.rejected();
            self.longest_wait = self.longest_wait.max(bucket.line.longest_wait());
        }
        self.crowded = CROWDED.max(2 * self.buckets.len());
        self.buckets.shrink_to(self.crowded);
        forgotten
    }
}

// === Bucket ===

impl Bucket {
    fn new(quota: Quota) -> Self {
        let clock = Clock(Instant::now());
        Self {
            quota,
            clock,
            tokens: governor::RateLimiter::direct_with_clock(quota, clock),
            taken: AtomicU64::new(0),
            line: Gate::new(1),
        }
    }

    /// Takes a token, or tells how long it is until one comes.
    fn take(&self) -> Result<(), Duration> {
        let now = governor::clock::Clock::now(&self.clock);
        self.tokens.check().map_err(|not_until| not_until.wait_time_from(now))?;
        self.taken.store(now.into(), Relaxed);
        Ok(())
    }

    fn ask(self: Arc<Self>, patience: Patience, deadline: Deadline) -> Asked {
        let wait = match self.line.is_idle().then(|| self.take()) {
            Some(Ok(())) => return Asked::Taken,
            Some(Err(wait)) => wait,
            // At least: the one at the head may have its token any moment, the others need one each.
            None => self.quota.replenish_interval().saturating_mul(saturating(self.line.stats().waiting)),
        };
        let waiter = Waiter {
            limit: patience.max_wait.min(deadline.left()),
            since: Instant::now(),
            bucket: self,
            patience,
            deadline,
        };
        let places = patience.max_waiting.checked_sub(1).filter(|_| !waiter.limit.is_zero());
        let (Some(behind_head), true) = (places, wait <= waiter.limit) else {
            return Asked::TurnedAway(waiter.turned_away().room_in(wait));
        };
        let held = waiter.bucket.clone();
        let turn = match held.line.enter(Order::Fifo, behind_head, waiter.since) {
            Entered::Granted => Turn::First(Permit::new(held)),
            Entered::InLine(ticket) => Turn::InLine(Place::new(held, ticket)),
            Entered::Full(_) => return Asked::TurnedAway(waiter.turned_away()),
        };
        Asked::Waiting(Wait { turn, sleep: sleep(waiter.limit), waiter })
    }

    fn is_as_new(self: &Arc<Self>) -> bool {
        let since_taken =
            self.clock.0.elapsed().saturating_sub(Duration::from_nanos(self.taken.load(Relaxed)));
        Arc::strong_count(self) == 1 && since_taken >= self.quota.burst_size_replenished_in()
    }

    fn stats(&self) -> Stats {
        let line = self.line.stats();
        let limit = self.quota.burst_size().get() as usize;
        Stats { limit, in_use: 0, waiting: line.in_use + line.waiting, ..line }
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.stats()).finish()
    }
}

impl Held for Bucket {
    fn gate(&self) -> &Gate {
        &self.line
    }
}

// === Wait ===

impl Wait {
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Overloaded>> {
        let mut this = self.project();
        if let Turn::InLine(place) = this.turn {
            match place.poll(cx) {
                Poll::Ready(Some(permit)) => *this.turn = Turn::First(permit),
                Poll::Pending if this.sleep.as_mut().poll(cx).is_pending() => return Poll::Pending,
                _ => return Poll::Ready(Err(this.waiter.gives_up(this.turn))),
            }
        }
        // Nothing is sent once the deadline has passed, whatever tokens there are.
        while !this.waiter.deadline.is_past() {
            let Err(wait) = this.waiter.bucket.take() else { return Poll::Ready(Ok(())) };
            if this.waiter.since.elapsed().saturating_add(wait) > this.waiter.limit {
                return Poll::Ready(Err(this.waiter.gives_up(this.turn).room_in(wait)));
            }
            this.sleep.as_mut().reset(Instant::now() + wait);
            ready!(this.sleep.as_mut().poll(cx));
        }
        Poll::Ready(Err(this.waiter.gives_up(this.turn)))
    }
}

// === Waiter ===

impl Waiter {
    fn turned_away(&self) -> Overloaded {
        let Stats { limit, waiting, .. } = self.bucket.stats();
        self.patience.turned_away(&self.bucket.line, limit, waiting)
    }

    fn gives_up(&self, turn: &mut Turn) -> Overloaded {
        *turn = Turn::Over;
        self.turned_away().waited(self.since.elapsed())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.bucket.line.waited(self.since.elapsed());
    }
}

// === Clock ===

impl governor::clock::Clock for Clock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

/// `every` with room for `burst` tokens, if those come within what the clock can count.
fn checked(every: Quota, burst: NonZeroU32) -> Result<Quota, InvalidOption> {
    let full = every.replenish_interval().checked_mul(burst.get());
    let holds = full.is_some_and(|full| full <= CENTURY);
    InvalidOption::unless(holds, "burst", "so small that as many tokens come within 100 years")?;
    Ok(every.allow_burst(burst))
}

fn saturating(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// So many keys are kept without a look at them.
const CROWDED: usize = 56;
