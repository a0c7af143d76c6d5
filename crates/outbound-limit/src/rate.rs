//! The layer that limits how many calls start in a stretch of time.

use std::{
    fmt,
    hash::Hash,
    mem,
    num::NonZeroU32,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use governor::Quota;
use http::{Request, request::Parts};
use outbound_core::{BoxError, Deadline, Origin};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    bucket::{Asked, Bucket, Wait, checked},
    invalid::InvalidOption,
    place::{Patience, how_to_wait},
    rate_per_key::RatePerKey,
    request,
    stats::Stats,
};

/// Lets at most so many calls start in a stretch of time: a token bucket.
///
/// Calls that find no token wait in line for one, or are turned away: at once where it is known that a token cannot come
/// in time. `max_wait(Duration::ZERO)` makes that all of them. [`Overloaded`](outbound_core::Overloaded) says after how long there will be a token.
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
        match bucket.ask(self.patience, deadline) {
            Asked::Taken => RateLimitFuture { state: State::Running { response: self.inner.call(request) } },
            Asked::Waiting(wait) => {
                let clone = self.inner.clone();
                let readied = mem::replace(&mut self.inner, clone);
                RateLimitFuture { state: State::Waiting { wait, call: Some((readied, request)) } }
            }
            Asked::TurnedAway(error) => RateLimitFuture::turned_away(request::aimed(error, &request).into()),
        }
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
