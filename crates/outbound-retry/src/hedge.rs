//! Send a second attempt when the first is slow, and take whichever succeeds first.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Empty;
//! use outbound_core::{Attempt, BoxError};
//! use outbound_retry::{Replay, hedge::HedgeLayer};
//! use tokio::time::{Instant, sleep};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), BoxError> {
//! // Slow now and then.
//! let server = service_fn(async |request: Request<Replay<Empty<Bytes>>>| {
//!     let slow = Attempt::of(&request).unwrap() == Attempt::FIRST;
//!     sleep(Duration::from_millis(if slow { 3000 } else { 20 })).await;
//!     Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
//! });
//! let client = HedgeLayer::new(Duration::from_millis(100)).layer(server);
//!
//! let begun = Instant::now();
//! client.oneshot(Request::get("http://example.com/").body(Empty::new())?).await?;
//! assert_eq!(begun.elapsed(), Duration::from_millis(120));
//! # Ok(())
//! # }
//! ```
//!
//! - **Use it** to cut the slowest percents of reads (Dean and Barroso, "The Tail at Scale": hedged requests).
//! - **Do not use it** against a peer that is slow because it is overloaded, unless its budget is small.
//! - **Order:** inside retry; outside limits and timeouts, of which each attempt has its own.
//! - **Costs** a request that may be hedged one allocation; one that may not, none.
//! - **Holds** the head of the request until the response; both attempts, while both are in flight. The slower one is dropped.
//! - **Does not hold** or send twice a request with a body, or of a method that is not idempotent (RFC 9110, 9.2.2) unless the caller
//!   said [`Idempotent`](outbound_core::Idempotent): that passes through as it is. Nor does it send or pay for a second one that could
//!   begin only at the [`Deadline`] or after it.
//! - **Errors:** none of its own. The first *success* wins; if both attempts fail, the later failure is the result. A failure of the first
//!   before the second was sent is the result at once: trying again is for retry.
//! - **Panics** if called outside a Tokio runtime with its timer on.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, request::Parts};
use http_body::Body;
use outbound_core::{Attempt, BoxError, CallContext, Carried, Deadline};
use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use self::latency::Latencies;
pub use self::latency::Percentile;
use crate::{
    answer::Answer,
    budget::{Budget, Stake},
    head::Head,
    policy::{RETRYABLE, is_idempotent},
    replay::Replay,
    statuses::Statuses,
};

mod latency;

/// Adds [`Hedge`] to a service.
#[derive(Clone, Debug)]
pub struct HedgeLayer {
    rules: Rules,
}

/// Sends a second attempt when the first is slow.
#[derive(Clone, Debug)]
pub struct Hedge<S> {
    inner: S,
    rules: Arc<Rules>,
}

/// When the second attempt is sent, if the first has not been answered by then.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum HedgeDelay {
    /// After so long.
    After(Duration),
    /// After as long as so many of the last calls took, once enough are known.
    Percentile(Percentile),
}

pin_project_lite::pin_project! {
    /// The first success of up to two attempts.
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<Replay<B>>>,
    {
        #[pin]
        first: Option<S::Future>,
        #[pin]
        second: Option<S::Future>,
        #[pin]
        hedge: Hedging,
        failed: Option<Result<S::Response, S::Error>>,
        spare: Option<Spare<S>>,
        stake: Stake,
        begun: Instant,
        rules: Arc<Rules>,
        body: std::marker::PhantomData<fn(B)>,
    }
}

pin_project_lite::pin_project! {
    #[project = HedgingProjection]
    enum Hedging {
        Wait { #[pin] sleep: Sleep },
        Ready,
        Over,
    }
}

/// What the second attempt is made of.
struct Spare<S> {
    inner: S,
    head: Box<Head>,
    attempt: Attempt,
    deadline: Deadline,
}

#[derive(Clone, Debug)]
struct Rules {
    delay: HedgeDelay,
    latencies: Option<Arc<Latencies>>,
    budget: Budget,
    failures: Statuses,
}

// === HedgeLayer ===

impl HedgeLayer {
    /// Hedges after `delay`: a [`Duration`], or a [`Percentile`] of the latencies of all services this layer makes.
    ///
    /// Each hedge is charged to a [`Budget`] like a retry; failures are those statuses that are worth a retry.
    pub fn new(delay: impl Into<HedgeDelay>) -> Self {
        let delay = delay.into();
        let latencies = match delay {
            HedgeDelay::After(_) => None,
            HedgeDelay::Percentile(percentile) => Some(Arc::new(Latencies::new(percentile))),
        };
        let rules = Rules { delay, latencies, budget: Budget::default(), failures: RETRYABLE.into() };
        Self { rules }
    }

    /// Bounds the hedges over all calls: give it a clone of the retry layer's. Inside a retry layer the call is charged there anyway.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.rules.budget = budget;
        self
    }

    /// A response with one of these statuses is no success: by default 408, 425, 429, 500, 502, 503 and 504.
    #[must_use]
    pub fn failures(mut self, statuses: impl Into<Statuses>) -> Self {
        self.rules.failures = statuses.into();
        self
    }
}

impl<S> Layer<S> for HedgeLayer {
    type Service = Hedge<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Hedge { inner, rules: Arc::new(self.rules.clone()) }
    }
}

// === Hedge ===

impl<S, B> Service<Request<B>> for Hedge<S>
where
    S: Service<Request<Replay<B>>> + Clone,
    S::Response: Answer,
    S::Error: Into<BoxError>,
    B: Body,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let ledger = Carried::of(&parts).and_then(|carried| carried.ledger.as_ref());
        let stake = self.rules.budget.stake(&parts.uri, ledger);
        let begun = Instant::now();
        let delay = self.rules.delay().filter(|_| body.is_end_stream() && is_idempotent(&parts));
        let deadline = Deadline::of(&parts).unwrap_or_default();
        let due = delay.and_then(|delay| begun.checked_add(delay));
        let (hedge, spare) = match due.filter(|&due| deadline.instant().is_none_or(|end| due < end)) {
            Some(due) => {
                (Hedging::Wait { sleep: sleep_until(due) }, Some(self.spare(&mut parts, &stake, deadline)))
            }
            None => (Hedging::Over, None),
        };
        ResponseFuture {
            first: Some(self.inner.call(Request::from_parts(parts, Replay::once(body)))),
            second: None,
            hedge,
            failed: None,
            spare,
            stake,
            begun,
            rules: self.rules.clone(),
            body: std::marker::PhantomData,
        }
    }
}

impl<S: Clone> Hedge<S> {
    fn spare(&self, request: &mut Parts, stake: &Stake, deadline: Deadline) -> Spare<S> {
        let attempt = Attempt::of(request).unwrap_or(Attempt::FIRST);
        if let Some(ledger) = stake.ledger() {
            ledger.attach(request);
        }
        let mut head = Box::new(Head::without_fields(request, CallContext::of(request)));
        head.keep(&request.headers);
        attempt.attach(request);
        Spare { inner: self.inner.clone(), head, attempt: attempt.next(), deadline }
    }
}

// === ResponseFuture ===

impl<S, B> Future for ResponseFuture<S, B>
where
    S: Service<Request<Replay<B>>>,
    S::Response: Answer,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            for (attempt, hedged) in [(this.first.as_mut(), false), (this.second.as_mut(), true)] {
                let Some(result) = poll_attempt(attempt, cx) else { continue };
                if this.rules.is_success(&result) {
                    this.rules.record(this.begun.elapsed());
                    if !hedged {
                        this.stake.forfeit();
                    }
                    this.stake.succeeded();
                    return Poll::Ready(result);
                }
                *this.failed = Some(result);
            }
            if this.first.is_none()
                && this.second.is_none()
                && let Some(failed) = this.failed.take()
            {
                return Poll::Ready(failed);
            }
            let next = match this.hedge.as_mut().project() {
                HedgingProjection::Over => return Poll::Pending,
                HedgingProjection::Wait { sleep } => {
                    ready!(sleep.poll(cx));
                    let is_late = this.spare.as_ref().is_none_or(|spare| spare.deadline.is_past());
                    if !is_late && this.stake.withdraw(None) { Hedging::Ready } else { Hedging::Over }
                }
                HedgingProjection::Ready => {
                    if let Some(spare) = this.spare.as_mut()
                        && ready!(spare.inner.poll_ready(cx)).is_ok()
                        && !spare.deadline.is_past()
                    {
                        tracing::debug!(attempt = spare.attempt.number(), "hedging");
                        let request = spare.head.request(spare.attempt, Replay::nothing());
                        this.second.set(Some(spare.inner.call(request)));
                    }
                    *this.spare = None;
                    Hedging::Over
                }
            };
            this.hedge.set(next);
        }
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<Replay<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

// === HedgeDelay ===

impl From<Duration> for HedgeDelay {
    fn from(delay: Duration) -> Self {
        Self::After(delay)
    }
}

impl From<Percentile> for HedgeDelay {
    fn from(percentile: Percentile) -> Self {
        Self::Percentile(percentile)
    }
}

// === Rules ===

impl Rules {
    fn delay(&self) -> Option<Duration> {
        match (&self.delay, &self.latencies) {
            (HedgeDelay::After(delay), _) => Some(*delay),
            (HedgeDelay::Percentile(_), latencies) => latencies.as_ref()?.get(),
        }
    }

    fn record(&self, latency: Duration) {
        if let Some(latencies) = &self.latencies {
            latencies.record(latency);
        }
    }

    fn is_success<A: Answer, E>(&self, result: &Result<A, E>) -> bool {
        result.as_ref().is_ok_and(|response| !self.failures.contains(response.head().0))
    }
}

fn poll_attempt<F: Future>(mut attempt: Pin<&mut Option<F>>, cx: &mut Context<'_>) -> Option<F::Output> {
    match attempt.as_mut().as_pin_mut()?.poll(cx) {
        Poll::Ready(result) => {
            attempt.set(None);
            Some(result)
        }
        Poll::Pending => None,
    }
}
