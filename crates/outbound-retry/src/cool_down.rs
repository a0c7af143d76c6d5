//! Leave an origin alone that has asked for it, with all calls and not just the one that was told.
//!
//! ```
//! use http::{Request, Response};
//! use http_body_util::Empty;
//! use outbound_core::{BoxError, CoolingDown, find};
//! use outbound_retry::cool_down::{CoolDownLayer, WhileCooling};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), BoxError> {
//! let busy = service_fn(async |_: Request<()>| {
//!     Response::builder().status(429).header("retry-after", "7").body(Empty::<&[u8]>::new())
//! });
//! let client = CoolDownLayer::new(WhileCooling::FailFast).layer(busy);
//! let request = || Request::get("http://example.com/").body(()).unwrap();
//!
//! assert_eq!(client.clone().oneshot(request()).await?.status(), 429);
//! let error = client.oneshot(request()).await.unwrap_err(); // nothing was sent
//! let left = find::<CoolingDown>(&*error).unwrap().left();
//! assert_eq!(left.as_secs(), 7); // and some more, lest all come back at once
//! # Ok(())
//! # }
//! ```
//!
//! - **Use it** under load against a peer that limits rates: one answer is enough to know.
//! - **Do not use it** where one origin serves parts that limit independently of each other.
//! - **Order:** inside retry, which waits as long as a [`CoolingDown`] says; outside limits, so that a call that waits holds no permit.
//! - **Holds** the request, and no readiness of the service inside, while it waits: that which had been got is given back, and another
//!   got at the end. Up to 256 origins that have asked are remembered, and looked up without a lock; for those after them there is no gate.
//! - **Does not hold** or change a response.
//! - **Errors:** [`CoolingDown`], if calls fail fast or the wait would end after the [`Deadline`]; [`Elapsed`], if that passed before the
//!   service inside was ready again. Nothing was sent.
//! - **Panics** if called outside a Tokio runtime with its timer on.

use std::{
    fmt,
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, StatusCode};
use outbound_core::{BoxError, CoolingDown, Deadline, Elapsed, Origin, Phase};
use rand::RngExt;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    answer::Answer,
    per_origin::PerOrigin,
    random::Random,
    retry_after::{AboveCap, Advice, RetryAfter},
};

/// Adds [`CoolDown`] to a service. All services that it makes share what they know of the origins.
#[derive(Clone, Debug)]
pub struct CoolDownLayer {
    rules: Rules,
    gates: Arc<Gates>,
}

/// Lets no call through to an origin that has asked to be left alone.
#[derive(Clone, Debug)]
pub struct CoolDown<S> {
    inner: S,
    rules: Arc<Rules>,
    gates: Arc<Gates>,
}

/// What becomes of the calls to an origin that wants none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WhileCooling {
    /// They wait.
    #[default]
    Wait,
    /// They fail with [`CoolingDown`].
    FailFast,
}

pin_project_lite::pin_project! {
    /// The response, once the gate is open.
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S::Future>,
        waiting: Option<Waiting<S, B>>,
        origin: Option<Origin>,
        deadline: Deadline,
        rules: Arc<Rules>,
        gates: Arc<Gates>,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Gate,
        Wait { #[pin] sleep: Sleep },
        Ready,
        Open { #[pin] response: F },
    }
}

/// A call that found the gate closed.
struct Waiting<S, B> {
    inner: S,
    request: Request<B>,
    since: Instant,
}

#[derive(Clone, Debug)]
struct Rules {
    meanwhile: WhileCooling,
    retry_after: RetryAfter,
    spread: Duration,
    random: Random,
}

#[derive(Debug)]
struct Gates {
    begun: Instant,
    /// Until when each is closed, in nanoseconds from `begun`.
    until: PerOrigin<Option<AtomicU64>>,
}

// === CoolDownLayer ===

impl CoolDownLayer {
    /// Heeds `Retry-After` on 429 and 503 up to 60 seconds, and lets calls go on within a second of its end.
    pub fn new(meanwhile: WhileCooling) -> Self {
        let statuses = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        let rules = Rules {
            meanwhile,
            retry_after: RetryAfter::default().statuses(statuses).above_cap(AboveCap::Clamp),
            spread: Duration::from_secs(1),
            random: Random::default(),
        };
        let origins = NonZeroUsize::MIN.saturating_add(255);
        let gates = Gates { begun: Instant::now(), until: PerOrigin::new(origins, None) };
        Self { rules, gates: Arc::new(gates) }
    }

    /// Heeds what servers say so; what is above its cap closes the gate for as long as the cap.
    #[must_use]
    pub fn retry_after(mut self, retry_after: RetryAfter) -> Self {
        self.rules.retry_after = retry_after.above_cap(AboveCap::Clamp);
        self
    }

    /// Calls go on within so long of the end, those that failed fast too if they wait as long as [`CoolingDown`] says: all at once they
    /// would be the next overload.
    #[must_use]
    pub fn spread(mut self, spread: Duration) -> Self {
        self.rules.spread = spread;
        self
    }

    /// Draws the spread from here.
    #[must_use]
    pub fn random(mut self, random: Random) -> Self {
        self.rules.random = random;
        self
    }
}

impl<S> Layer<S> for CoolDownLayer {
    type Service = CoolDown<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CoolDown { inner, rules: Arc::new(self.rules.clone()), gates: self.gates.clone() }
    }
}

// === CoolDown ===

impl<S, B> Service<Request<B>> for CoolDown<S>
where
    S: Service<Request<B>> + Clone,
    S::Response: Answer,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let origin = Origin::of(request.uri()).ok();
        let deadline = Deadline::of(&request).unwrap_or_default();
        let (state, waiting) = match self.gates.closed_until(origin.as_ref()) {
            None => (State::Open { response: self.inner.call(request) }, None),
            Some(_) => {
                let inner = self.inner.clone();
                // What was ready is dropped: what it has reserved is for others to use meanwhile.
                self.inner = inner.clone();
                (State::Gate, Some(Waiting { inner, request, since: Instant::now() }))
            }
        };
        let (rules, gates) = (self.rules.clone(), self.gates.clone());
        ResponseFuture { state, waiting, origin, deadline, rules, gates }
    }
}

// === ResponseFuture ===

impl<S, B> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
    S::Response: Answer,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProjection::Gate => match this.gates.closed_until(this.origin.as_ref()) {
                    None => State::Ready,
                    Some(until) => State::Wait {
                        sleep: sleep_until(this.rules.resume(this.origin, until, *this.deadline)?),
                    },
                },
                // Another answer may have closed the gate again meanwhile.
                StateProjection::Wait { sleep } => {
                    ready!(sleep.poll(cx));
                    State::Gate
                }
                StateProjection::Ready => {
                    let waiting = this.waiting.as_mut().expect("a call is not polled after its end");
                    ready!(waiting.inner.poll_ready(cx)).map_err(Into::into)?;
                    let Waiting { mut inner, request, since } =
                        this.waiting.take().expect("it was there a line ago");
                    if this.deadline.is_past() {
                        return Poll::Ready(Err(overdue(this.origin, *this.deadline, since).into()));
                    }
                    State::Open { response: inner.call(request) }
                }
                StateProjection::Open { response } => {
                    let response = ready!(response.poll(cx)).map_err(Into::into)?;
                    let (status, headers) = response.head();
                    if let Advice::Wait(wait) = this.rules.retry_after.advice(status, headers) {
                        this.gates.close(this.origin.as_ref(), wait);
                    }
                    return Poll::Ready(Ok(response));
                }
            };
            this.state.set(next);
        }
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("origin", &self.origin).finish_non_exhaustive()
    }
}

// === Rules ===

impl Rules {
    /// When a call may go on that found the gate closed.
    fn resume(
        &self,
        origin: &Option<Origin>,
        until: Instant,
        deadline: Deadline,
    ) -> Result<Instant, CoolingDown> {
        let spread = self.random.draw(|random| self.spread.mul_f64(random.random()));
        let resume = until.checked_add(spread).unwrap_or(until);
        let too_late = deadline.instant().is_some_and(|end| resume >= end);
        match origin {
            Some(origin) if too_late || self.meanwhile == WhileCooling::FailFast => {
                let left = resume.saturating_duration_since(Instant::now());
                Err(CoolingDown::new(origin.clone(), left))
            }
            _ => Ok(resume),
        }
    }
}

// === Gates ===

impl Gates {
    fn closed_until(&self, origin: Option<&Origin>) -> Option<Instant> {
        let until = Duration::from_nanos(self.until.get(origin).as_ref()?.load(Relaxed));
        Some(self.begun + until).filter(|&until| until > Instant::now())
    }

    fn close(&self, origin: Option<&Origin>, wait: Duration) {
        if let Some(gate) = self.until.of(origin, |_| Some(AtomicU64::new(0))) {
            let until = self.begun.elapsed().saturating_add(wait);
            gate.fetch_max(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        }
    }
}

fn overdue(origin: &Option<Origin>, deadline: Deadline, since: Instant) -> Elapsed {
    let limit = deadline.instant().unwrap_or(since).saturating_duration_since(since);
    let elapsed = Elapsed::new(Phase::Queue, limit).named("deadline").took(since.elapsed());
    origin.iter().cloned().fold(elapsed, Elapsed::to)
}
