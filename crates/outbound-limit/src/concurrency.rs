//! The layer that limits how many calls are under way.

use std::{
    fmt,
    hash::Hash,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Method, Request, Response, StatusCode, request::Parts};
use http_body::Body;
use outbound_core::{BoxError, Deadline, Failure, OnEnd, Origin, Overloaded, Witness};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    algorithm::Sample,
    limiter::{Limiter, Limits},
    per_key::{PerKey, PerOrigin},
    place::{Asked, Patience, Permit, Release, Wait, how_to_wait},
    request,
    verdict::Verdict,
};

/// Lets at most so many calls be under way at once: from the permit until the response body has ended.
///
/// Services made by one layer, by its clones, or by layers with the same [`Limiter`] share the limit.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimitLayer<L = Limiter> {
    limits: L,
    options: Options,
}

/// How long a call counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Until the response body has ended or is dropped; where there is none, until the head.
    #[default]
    Body,
    /// Until the response head: for downloads so long that they would leave nothing to anybody else.
    Head,
}

/// The service of [`ConcurrencyLimitLayer`] and [`AdaptiveLimitLayer`](crate::AdaptiveLimitLayer).
///
/// Ready when the service inside is: a call waits in its future, not in `poll_ready`.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimit<S, L = Limiter> {
    inner: S,
    limits: L,
    options: Options,
}

pin_project! {
    /// Waits for a permit, then for the response. Dropping it gives back either at once.
    pub struct ResponseFuture<S, B>
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
        // In a box, so that the calls that need not wait are no larger for it.
        Waiting { waiting: Pin<Box<Waiting<S, B>>> },
        Running { #[pin] response: F, call: Option<Call> },
    }
}

pin_project! {
    /// A call that waits for a permit.
    struct Waiting<S, B> {
        #[pin]
        wait: Wait,
        call: Option<(S, Request<B>)>,
        options: Options,
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) patience: Patience,
    pub(crate) scope: Scope,
    pub(crate) witness: Option<Arc<dyn Witness>>,
    /// Only calls to its own origin are in a call's way.
    is_per_origin: bool,
}

/// A call under way.
struct Call {
    permit: Permit,
    scope: Scope,
    is_head: bool,
    /// Where a sample is wanted: when it began, and how many were under way then.
    clock: Option<(Instant, usize)>,
}

// === ConcurrencyLimitLayer ===

impl ConcurrencyLimitLayer {
    /// `limit` calls at once, or the [`Limiter`] to share. See there for 0, and for how to change it.
    pub fn new(limit: impl Into<Limiter>) -> Self {
        Self { limits: limit.into(), options: Options::new("concurrency limit") }
    }

    /// The limit is one of its own for each origin (scheme, host, port) that a request goes to.
    #[must_use]
    pub fn per_origin(self) -> ConcurrencyLimitLayer<PerOrigin> {
        let mut layer: ConcurrencyLimitLayer<PerOrigin> = self.per_key(|parts| Origin::of(&parts.uri).ok());
        layer.options.is_per_origin = true;
        layer
    }

    /// The limit is one of its own for each key that `key_of` gives a request: the number is kept, nothing is shared with
    /// the [`Limiter`] any more.
    ///
    /// ```
    /// # use outbound_limit::ConcurrencyLimitLayer;
    /// let layer = ConcurrencyLimitLayer::new(4).per_key(|request| request.headers.get("tenant").cloned());
    /// # let _ = layer.handle().stats_of(&None);
    /// ```
    #[must_use]
    pub fn per_key<K, F>(self, key_of: F) -> ConcurrencyLimitLayer<PerKey<K, F>>
    where
        K: Hash + Eq + Send + Sync + 'static,
        F: Fn(&Parts) -> K,
    {
        let limits = PerKey::new(self.limits.stats().limit, key_of);
        ConcurrencyLimitLayer { limits, options: self.options }
    }
}

impl<L: Limits> ConcurrencyLimitLayer<L> {
    how_to_wait!(options.patience);
    who_counts!();

    /// What its calls are counted by: the handle to watch it and to change it.
    pub fn handle(&self) -> L
    where
        L: Clone,
    {
        self.limits.clone()
    }
}

impl<S, L: Clone> Layer<S> for ConcurrencyLimitLayer<L> {
    type Service = ConcurrencyLimit<S, L>;

    fn layer(&self, inner: S) -> Self::Service {
        ConcurrencyLimit::new(inner, self.limits.clone(), self.options.clone())
    }
}

// === ConcurrencyLimit ===

impl<S, L> ConcurrencyLimit<S, L> {
    pub(crate) fn new(inner: S, limits: L, options: Options) -> Self {
        Self { inner, limits, options }
    }
}

impl<S, L, B, ResBody> Service<Request<B>> for ConcurrencyLimit<S, L>
where
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
    S::Error: Into<BoxError>,
    L: Limits,
    ResBody: Body,
{
    type Response = Response<OnEnd<ResBody, Release>>;
    type Error = BoxError;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let deadline = Deadline::of(&request).unwrap_or_default();
        if deadline.is_past() {
            return ResponseFuture::turned_away(request::too_late());
        }
        match self.options.patience.ask(self.limits.held_by(&mut request), deadline) {
            Asked::Granted(permit) => {
                let call = Some(Call::new(permit, self.options.scope, &request));
                ResponseFuture { state: State::Running { response: self.inner.call(request), call } }
            }
            Asked::Waiting(wait) => {
                let clone = self.inner.clone();
                let readied = mem::replace(&mut self.inner, clone);
                let (call, options) = (Some((readied, request)), self.options.clone());
                let waiting = Box::pin(Waiting { wait, call, options });
                ResponseFuture { state: State::Waiting { waiting } }
            }
            Asked::TurnedAway(error) => {
                ResponseFuture::turned_away(self.options.explain(error, &request).into())
            }
        }
    }
}

// === ResponseFuture ===

impl<S: Service<Request<B>>, B> ResponseFuture<S, B> {
    fn turned_away(error: BoxError) -> Self {
        Self { state: State::TurnedAway { error: Some(error) } }
    }
}

impl<S, B, ResBody> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    S::Error: Into<BoxError>,
    ResBody: Body,
{
    type Output = Result<Response<OnEnd<ResBody, Release>>, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let running = match state.as_mut().project() {
                StateProj::TurnedAway { error } => {
                    return Poll::Ready(Err(error.take().expect("not polled after it was ready")));
                }
                StateProj::Waiting { waiting } => {
                    let waiting = waiting.as_mut().project();
                    let asked = ready!(waiting.wait.poll(cx));
                    let (mut service, request) = waiting.call.take().expect("not polled after it was ready");
                    let permit = asked.map_err(|error| waiting.options.explain(error, &request))?;
                    let call = Call::new(permit, waiting.options.scope, &request);
                    State::Running { response: service.call(request), call: Some(call) }
                }
                StateProj::Running { response, call } => {
                    let mut call = || call.take().expect("not polled after it was ready");
                    return match response.poll(cx) {
                        Poll::Ready(Ok(response)) => {
                            let release = call().answered(&response);
                            Poll::Ready(Ok(response.map(|body| OnEnd::new(body, release))))
                        }
                        Poll::Ready(Err(error)) => Poll::Ready(Err(call().failed(error.into()))),
                        Poll::Pending => Poll::Pending,
                    };
                }
            };
            state.set(running);
        }
    }
}

impl<S: Service<Request<B>>, B> fmt::Debug for ResponseFuture<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

// === Options ===

impl Options {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { patience: Patience::new(name), scope: Scope::default(), witness: None, is_per_origin: false }
    }

    /// The error names where the request was going, and who is in its way.
    fn explain<B>(&self, error: Overloaded, request: &Request<B>) -> Overloaded {
        let error = request::aimed(error, request);
        let origin = error.origin().filter(|_| self.is_per_origin);
        let oldest = self.witness.as_ref().and_then(|witness| witness.oldest(origin));
        oldest.into_iter().fold(error, Overloaded::held_by)
    }
}

// === Call ===

impl Call {
    fn new<B>(permit: Permit, scope: Scope, request: &Request<B>) -> Self {
        let clock = permit.held().clock().map(|now| (now, permit.held().gate().in_use()));
        Self { permit, scope, is_head: request.method() == Method::HEAD, clock }
    }

    /// The head has arrived: until when the permit is held.
    #[inline]
    fn answered<B: Body>(self, response: &Response<B>) -> Release {
        self.learn(|| Verdict::of_status(response.status()));
        let over = self.scope == Scope::Head || self.is_head || is_bodyless(response);
        Release((!over).then_some(self.permit))
    }

    fn failed(self, error: BoxError) -> BoxError {
        self.learn(|| Verdict::of_failure(&Failure::of(&*error)));
        error
    }

    fn learn(&self, verdict: impl FnOnce() -> Verdict) {
        if let Some((started, in_flight)) = self.clock
            && let Some(overloaded) = verdict().overloaded()
        {
            let sample = Sample { started, rtt: started.elapsed(), in_flight, overloaded };
            self.permit.held().learn(&sample);
        }
    }
}

/// Whether there is nothing to read, whatever the body's `is_end_stream` says: RFC 9110, 6.4.1.
fn is_bodyless<B: Body>(response: &Response<B>) -> bool {
    matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || response.body().size_hint().exact() == Some(0)
}

/// The options of a limit on calls under way.
macro_rules! who_counts {
    () => {
        /// Who of those that wait goes next: [`Order::Fifo`](crate::Order::Fifo) by default.
        #[must_use]
        pub fn order(mut self, order: crate::Order) -> Self {
            self.options.patience.order = order;
            self
        }

        /// Until when a call counts: [`Scope::Body`](crate::Scope::Body) by default.
        #[must_use]
        pub fn scope(mut self, scope: crate::Scope) -> Self {
            self.options.scope = scope;
            self
        }

        /// Whom to ask who is in the way of a call that is turned away, so that the error names the oldest call under way, and the
        /// line that made it: outbound-guard's `LeakDetector::witness`, of a guard inside this layer.
        ///
        /// A limit per origin asks for calls to that origin; any other for all, whichever key they have.
        #[must_use]
        pub fn witness(mut self, witness: std::sync::Arc<dyn outbound_core::Witness>) -> Self {
            self.options.witness = Some(witness);
            self
        }
    };
}

pub(crate) use who_counts;
