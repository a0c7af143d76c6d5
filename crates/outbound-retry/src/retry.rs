//! The layer: one loop around the service inside.

use std::{
    fmt,
    num::NonZeroU32,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Buf;
use http::{Method, Request, Uri, request::Parts};
use http_body::Body;
use outbound_core::{
    Attempt, BoxError, CallContext, Carried, Deadline, Elapsed, Failure, GaveUp, Origin, Phase, Retries,
};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    answer::Answer,
    budget::{Budget, Stake},
    head::Head,
    policy::{Decision, Outcome, Policy, Standard},
    replay::{BodyFactory, Cap, Kept, Replay, Room},
};

/// Adds [`Retry`] to a service.
///
/// Up to 3 attempts, a [`Budget`] of 20 % and at least 10 a second, 64 KiB kept of each body, and the [`Standard`] policy unless another is
/// given. Nothing waits beyond the [`Deadline`] on the request.
///
/// # What it costs
/// One allocation for a call that could be retried, one for its body if it has one, and one for each further attempt. What is in there besides may need its own: more than some
/// 400 bytes of header fields, a body of more than four chunks or with trailers, a chunk that is shared for the first time (`Bytes` made from a `Vec`), extensions on the request
/// that are not outbound's; a layer whose budget is off makes a record to see whether one inside has run out; and where neither the caller nor a layer outside has put any of outbound's context on the request yet, the entry
/// in its `http::Extensions`, which the whole stack then shares.
#[derive(Clone)]
pub struct RetryLayer<P = Standard> {
    rules: Rules<P>,
}

/// Sends a request again, as far as the policy, the budget, the deadline and the body allow.
pub struct Retry<S, P = Standard> {
    inner: S,
    shared: Arc<Shared<S, P>>,
}

/// What all clones and all their calls have in common.
struct Shared<S, P> {
    rules: Rules<P>,
    /// Clones of it make the further attempts: the service that was ready makes the first, and most calls have no other. It is cloned
    /// under the lock, so its `Clone` may not call this layer.
    spare: Mutex<S>,
}

pin_project_lite::pin_project! {
    /// The call, over all its attempts.
    ///
    /// Dropping it at any time gives up the attempt in flight and gives back what the call holds of the budget.
    pub struct ResponseFuture<S, P, B>
    where
        S: Service<Request<Replay<B>>>,
        S::Response: Answer,
    {
        #[pin]
        state: State<S::Future, <S::Response as Answer>::Body>,
        stake: Stake,
        // In a box, so that nobody above carries it about.
        call: Option<Box<Call<S, P, B>>>,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProjection]
    enum State<F, R> {
        // Of a call that cannot be retried.
        Once { #[pin] response: F },
        Attempt { #[pin] response: F },
        Drain { #[pin] body: R, left: u64, #[pin] timeout: Sleep },
        Wait { #[pin] sleep: Sleep },
        Ready,
    }
}

/// What the further attempts of a call need.
struct Call<S, P, B> {
    shared: Arc<Shared<S, P>>,
    head: Head,
    kept: Option<Arc<Kept<B>>>,
    idempotent: bool,
    deadline: Deadline,
    retries: Option<Retries>,
    attempt: Attempt,
    /// How long the wait before this attempt was.
    waited: Duration,
    next: Option<Box<Next<S, B>>>,
}

/// An attempt to come. In a box, for most calls have none.
struct Next<S, B> {
    /// Not ready until it is asked.
    inner: S,
    begins: Instant,
    body: Replay<B>,
    /// The error it follows, if it follows one: the result if it cannot begin.
    error: Option<BoxError>,
}

#[derive(Clone)]
struct Rules<P> {
    policy: P,
    max_attempts: NonZeroU32,
    budget: Budget,
    replay: Cap,
    drain: Drain,
}

/// What follows an outcome: another attempt after so long, with this body; or why not, and how long the wait would have been.
type Sequel<B> = Result<(Duration, Replay<B>), (GaveUp, Option<Duration>)>;

/// Where a request goes, for an event.
struct Target<'a>(&'a Uri);

/// How much of a failed response is read so that its connection can be used again.
#[derive(Clone, Copy, Debug)]
struct Drain {
    bytes: u64,
    time: Duration,
}

// === RetryLayer ===

impl<P> RetryLayer<P> {
    /// Retries as `policy` says.
    pub fn new(policy: P) -> Self {
        let replay = Cap { each: 64 * 1024, sum: None };
        let drain = Drain { bytes: 64 * 1024, time: Duration::from_millis(50) };
        let max_attempts = NonZeroU32::MIN.saturating_add(2);
        Self { rules: Rules { policy, max_attempts, budget: Budget::default(), replay, drain } }
    }

    /// At most so many attempts for a call, the first included: by default 3.
    #[must_use]
    pub fn max_attempts(mut self, max_attempts: NonZeroU32) -> Self {
        self.rules.max_attempts = max_attempts;
        self
    }

    /// Bounds the attempts beyond the first, over all calls. A layer inside or outside may be given a clone.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.rules.budget = budget;
        self
    }

    /// Keeps at most so many bytes of each request's body: by default 64 KiB. A larger one is retried while nothing of it has been read.
    #[must_use]
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.rules.replay.each = bytes;
        self
    }

    /// Keeps at most so many bytes of all requests' bodies together, over all services this layer makes: by default no such limit.
    #[must_use]
    pub fn replay_limit_total(mut self, bytes: usize) -> Self {
        self.rules.replay.sum = Some(Arc::new(Room::new(bytes)));
        self
    }

    /// Reads at most so many bytes of a failed response, for at most so long, so that its connection can be used again: by default 64 KiB and
    /// 50 ms. A response that says that it is longer is dropped at once, and so is any when the deadline does not leave that time. It counts as
    /// part of the wait.
    #[must_use]
    pub fn drain(mut self, bytes: u64, time: Duration) -> Self {
        self.rules.drain = Drain { bytes, time };
        self
    }
}

/// With the [`Standard`] policy.
impl Default for RetryLayer {
    fn default() -> Self {
        Self::new(Standard::default())
    }
}

impl<S: Clone, P: Clone> Layer<S> for RetryLayer<P> {
    type Service = Retry<S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        let (rules, spare) = (self.rules.clone(), Mutex::new(inner.clone()));
        Retry { inner, shared: Arc::new(Shared { rules, spare }) }
    }
}

impl<P> fmt::Debug for RetryLayer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rules.debug(f, "RetryLayer").finish_non_exhaustive()
    }
}

// === Retry ===

impl<S, P, B> Service<Request<B>> for Retry<S, P>
where
    S: Service<Request<Replay<B>>> + Clone,
    S::Response: Answer,
    S::Error: Into<BoxError>,
    P: Policy,
    B: Body + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S, P, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let rules = &self.shared.rules;
        let idempotent = rules.policy.before(&mut parts);
        if !rules.could_retry(&parts) {
            let ledger = Carried::of(&parts).and_then(|carried| carried.ledger.as_ref());
            let stake = rules.budget.stake(&parts.uri, ledger);
            Attempt::FIRST.note(&mut parts);
            let response = self.inner.call(Request::from_parts(parts, Replay::once(body)));
            return ResponseFuture { state: State::Once { response }, stake, call: None };
        }
        let factory = parts.extensions.remove::<BodyFactory<B>>();
        let carried = Carried::on(&mut parts.extensions);
        let stake = rules.budget.stake(&parts.uri, carried.ledger.as_ref());
        carried.attempt = Some(Attempt::FIRST);
        carried.ledger = stake.ledger();
        if carried.ledger.is_none() {
            // Without a budget to share with the layers inside, their exhaustion is seen here.
            carried.retries.get_or_insert_default();
        }
        let (deadline, retries) = (carried.deadline.unwrap_or_default(), carried.retries.clone());
        let context = Some(CallContext::from(&*carried));
        let kept = Kept::new(body, factory, &rules.replay);
        let first = kept.as_ref().map_or_else(Replay::nothing, Kept::first);
        let mut call = Box::new(Call {
            shared: self.shared.clone(),
            head: Head::without_fields(&parts, context),
            kept,
            idempotent,
            deadline,
            retries,
            attempt: Attempt::FIRST,
            waited: Duration::ZERO,
            next: None,
        });
        call.head.keep(&parts.headers);
        let response = self.inner.call(Request::from_parts(parts, first));
        ResponseFuture { state: State::Attempt { response }, stake, call: Some(call) }
    }
}

impl<S: Clone, P> Clone for Retry<S, P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: self.shared.clone() }
    }
}

impl<S: fmt::Debug, P> fmt::Debug for Retry<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.rules.debug(f, "Retry").field("inner", &self.inner).finish_non_exhaustive()
    }
}

// === ResponseFuture ===

impl<S, P, B> Future for ResponseFuture<S, P, B>
where
    S: Service<Request<Replay<B>>> + Clone,
    S::Response: Answer,
    S::Error: Into<BoxError>,
    P: Policy,
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let call = this.call;
        loop {
            let next = match this.state.as_mut().project() {
                StateProjection::Once { response } => return response.poll(cx).map_err(Into::into),
                StateProjection::Attempt { response } => {
                    let mut result = match response.poll(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(response)) => Ok(response),
                        Poll::Ready(Err(error)) => Err(error.into()),
                    };
                    if !on(call).goes_on_after(&mut result, this.stake) {
                        *call = None;
                        *this.stake = Stake::default();
                        return Poll::Ready(result);
                    }
                    on(call).follow(result)
                }
                StateProjection::Drain { body, left, timeout } => {
                    ready!(poll_drain(body, left, timeout, cx));
                    State::until(on(call).next().begins)
                }
                StateProjection::Wait { sleep } => {
                    ready!(sleep.poll(cx));
                    State::Ready
                }
                StateProjection::Ready => {
                    let next = on(call).next();
                    if let Err(error) = ready!(next.inner.poll_ready(cx)) {
                        return Poll::Ready(Err(next.error.take().unwrap_or_else(|| error.into())));
                    }
                    State::Attempt { response: on(call).begin()? }
                }
            };
            this.state.set(next);
        }
    }
}

impl<S, P, B> fmt::Debug for ResponseFuture<S, P, B>
where
    S: Service<Request<Replay<B>>>,
    S::Response: Answer,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

// === State ===

impl<F, R> State<F, R> {
    /// Tokio's timer is a millisecond coarse: what is due is not put to sleep.
    fn until(begins: Instant) -> Self {
        if begins > Instant::now() { Self::Wait { sleep: sleep_until(begins) } } else { Self::Ready }
    }
}

// === Call ===

impl<S, P, B> Call<S, P, B>
where
    S: Service<Request<Replay<B>>> + Clone,
    S::Response: Answer,
    P: Policy,
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Nothing is sent once the deadline has passed: not even if it did while the inner service was getting ready.
    fn begin(&mut self) -> Result<S::Future, BoxError> {
        let Next { mut inner, begins, body, error } =
            *self.next.take().expect("what begins has been prepared");
        if self.deadline.is_past() {
            let elapsed = Elapsed::new(Phase::Queue, self.waited).took(self.waited + begins.elapsed());
            return Err(error.unwrap_or_else(|| elapsed.into()));
        }
        let mut request = self.head.request(self.attempt, body);
        if let Some(retries) = &self.retries {
            retries.clone().attach(&mut request);
        }
        Ok(inner.call(request))
    }

    /// Whether this is not the result.
    #[inline]
    fn goes_on_after(&mut self, result: &mut Result<S::Response, BoxError>, stake: &mut Stake) -> bool {
        if self.attempt > Attempt::FIRST {
            self.take_stock();
        }
        let outcome = self.outcome(result);
        let goes_on = match self.shared.rules.policy.after(&outcome) {
            Decision::Stop if outcome.error().is_none() => {
                stake.succeeded();
                false
            }
            decision => {
                let inside = result.as_ref().ok().and_then(Retries::of);
                let retries = self.retries.clone().or(inside);
                let sequel = self.sequel(decision, &outcome, retries.as_ref(), stake);
                self.tell(&outcome, &sequel);
                self.retries = retries;
                self.prepare(sequel, result.is_ok())
            }
        };
        if let (false, Ok(response)) = (goes_on, result) {
            self.attempt.note(response);
            if let Some(retries) = self.retries.take() {
                retries.attach(response);
            }
        }
        goes_on
    }

    /// What of the body went out again.
    fn take_stock(&self) {
        if let (Some(retries), Some(kept)) = (&self.retries, &self.kept) {
            retries.resend(kept.take_resent());
        }
    }

    /// What becomes of a failed attempt.
    fn follow(
        &mut self,
        result: Result<S::Response, BoxError>,
    ) -> State<S::Future, <S::Response as Answer>::Body> {
        let body = match result {
            Ok(response) => Some(response.into_body()).filter(|body| self.is_worth_draining(body)),
            Err(error) => {
                self.next().error = Some(error);
                None
            }
        };
        match body {
            Some(body) => {
                let Drain { bytes, time } = self.shared.rules.drain;
                State::Drain { body, left: bytes, timeout: sleep(time) }
            }
            None => State::until(self.next().begins),
        }
    }

    fn next(&mut self) -> &mut Next<S, B> {
        self.next.as_mut().expect("there is an attempt to come")
    }

    fn outcome<'a>(&'a self, result: &'a Result<S::Response, BoxError>) -> Outcome<'a> {
        Outcome {
            method: &self.head.method,
            uri: &self.head.uri,
            idempotent: self.idempotent,
            attempt: self.attempt,
            waited: self.waited,
            result: match result {
                Ok(response) => Ok(response.head()),
                Err(error) => Err((error, Failure::of(&**error))),
            },
        }
    }

    /// The cheap and the certain come first; the budget is asked only if nothing else stands against it.
    fn sequel(
        &self,
        decision: Decision,
        outcome: &Outcome<'_>,
        retries: Option<&Retries>,
        stake: &mut Stake,
    ) -> Sequel<B> {
        let wait = match decision {
            Decision::Stop => return Err((GaveUp::Policy, None)),
            Decision::GiveUp(why) => return Err((why, None)),
            Decision::TooLong(wait) => return Err((GaveUp::RetryAfter, Some(wait))),
            Decision::Retry(wait) => wait,
        };
        let exhausted = || retries.and_then(Retries::gave_up) == Some(GaveUp::Budget);
        if self.attempt.number() >= self.shared.rules.max_attempts.get() {
            Err((GaveUp::Attempts, None))
        } else if self.begins_after(wait).is_none() {
            Err((GaveUp::Deadline, Some(wait)))
        } else if !self.kept.as_ref().is_none_or(|kept| kept.can_rewind()) {
            Err((GaveUp::Body, None))
        } else if exhausted() || !stake.withdraw(outcome.failure().map(Failure::kind)) {
            Err((GaveUp::Budget, None))
        } else {
            let body = self.kept.as_ref().map_or_else(|| Some(Replay::nothing()), Kept::rewind);
            let body = body.ok_or((GaveUp::Body, None))?;
            Ok((wait, body))
        }
    }

    /// When an attempt after so long begins, unless that is never or too late.
    fn begins_after(&self, wait: Duration) -> Option<Instant> {
        let begins = Instant::now().checked_add(wait)?;
        self.deadline.instant().is_none_or(|end| begins < end).then_some(begins)
    }

    /// Whether there is another attempt.
    fn prepare(&mut self, sequel: Sequel<B>, on_response: bool) -> bool {
        match sequel {
            Ok((wait, body)) => {
                (self.attempt, self.waited) = (self.attempt.next(), wait);
                let (inner, begins) = (self.shared.spare(), Instant::now() + wait);
                self.next = Some(Box::new(Next { inner, begins, body, error: None }));
                self.retries.get_or_insert_default().retry(wait);
                true
            }
            Err((why, wait)) => {
                if on_response {
                    self.retries.get_or_insert_default();
                }
                if let Some(retries) = &self.retries {
                    retries.give_up(why, wait.and_then(|wait| Instant::now().checked_add(wait)));
                }
                false
            }
        }
    }

    /// Whether the body may end within the bounds, and the deadline leaves the time to see.
    fn is_worth_draining(&self, body: &impl Body) -> bool {
        let Drain { bytes, time } = self.shared.rules.drain;
        // For ever is not too long where nothing ends the call.
        let fits = self.deadline.instant().is_none() || self.begins_after(time).is_some();
        fits && !time.is_zero() && !body.is_end_stream() && body.size_hint().lower() <= bytes
    }

    fn tell(&self, outcome: &Outcome<'_>, sequel: &Sequel<B>) {
        let status = outcome.status().map(|status| status.as_u16());
        let error = outcome.failure().map(Failure::error_type);
        let (origin, attempt) = (Target(outcome.uri()), self.attempt.number());
        match sequel {
            Ok((wait, _)) => {
                tracing::debug!(%origin, attempt, status, error, wait = ?wait, "retrying");
            }
            Err((reason, wait)) => {
                tracing::info!(%origin, attempt, status, error, %reason, wait = ?wait, "gave up");
            }
        }
    }
}

impl<S, P, B> Drop for Call<S, P, B> {
    fn drop(&mut self) {
        if let Some(kept) = &self.kept {
            kept.finish();
        }
    }
}

// === Shared ===

impl<S: Clone, P> Shared<S, P> {
    fn spare(&self) -> S {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

// === Rules ===

impl<P> Rules<P> {
    fn could_retry(&self, request: &Parts) -> bool {
        self.max_attempts > NonZeroU32::MIN && request.method != Method::CONNECT
    }

    fn debug<'a, 'f>(&self, f: &'a mut fmt::Formatter<'f>, name: &str) -> fmt::DebugStruct<'a, 'f> {
        let mut debug = f.debug_struct(name);
        debug.field("max_attempts", &self.max_attempts).field("budget", &self.budget);
        debug
    }
}

// === Target ===

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Origin::of(self.0) {
            Ok(origin) => origin.fmt(f),
            Err(_) => f.write_str("-"),
        }
    }
}

fn on<C>(call: &mut Option<Box<C>>) -> &mut C {
    call.as_deref_mut().expect("a call is not polled after its end")
}

/// Reads `body` to its end or to one of the bounds. What is there is read before the time is looked at.
fn poll_drain<R: Body>(
    mut body: Pin<&mut R>,
    left: &mut u64,
    timeout: Pin<&mut Sleep>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    while let Poll::Ready(frame) = body.as_mut().poll_frame(cx) {
        let Some(Ok(frame)) = frame else { return Poll::Ready(()) };
        // An empty frame counts too, or a peer could send them without end.
        let bytes = frame.data_ref().map_or(1, |data| data.remaining().max(1)) as u64;
        if body.is_end_stream() || bytes > *left {
            return Poll::Ready(());
        }
        *left -= bytes;
    }
    timeout.poll(cx)
}
