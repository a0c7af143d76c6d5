//! The documented stack, and what holds after anything that may have happened to it.

use std::{
    fmt,
    num::NonZeroU32,
    panic::Location,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use outbound::{
    Attempt, BoxError, ConcurrencyLimitLayer, Failure, LeakDetector, LeakGuardLayer, Pool, RetryLayer,
    ServiceBuilderExt, TimeoutLayer,
    guard::Leak,
    limit::Limiter,
    pool::{Builder, Stats, connect::Connect},
    retry::{Backoff, Jitter, Policy, Standard},
};
use outbound_testkit::{Friendly, Lives, TestBody, Upstream, handler};
use tokio::{runtime::Handle, task::yield_now};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

/// The documented stack, whatever its connector.
pub type Client = BoxCloneSyncService<Request<TestBody>, Response<ResponseBody>, BoxError>;

/// A response body of it.
pub type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// The documented stack: deadline, retry, limit, timeout, guard, pool. What the test does not say is as a user gets it, but for the
/// backoff, which is a millisecond.
#[derive(Clone, Debug)]
pub struct Setup {
    /// For the whole call.
    pub deadline: Duration,
    /// Calls at once.
    pub permits: usize,
    /// Of each attempt.
    pub timeout: TimeoutLayer,
    /// What is retried, and when.
    pub policy: Standard,
    /// The pool's limits.
    pub pool: Builder,
    /// HTTP/2 without asking.
    pub http2: bool,
    /// What has no setting here is at the most that it can be.
    pub at_most: bool,
    /// Kinds of leaks that the test makes on purpose.
    pub leaks: &'static [&'static str],
}

/// A stack under test, and every gauge there is in it.
pub struct Stack {
    /// What the test calls.
    pub client: Client,
    /// The permits of its limit.
    pub limiter: Limiter,
    /// The handle of its guard.
    pub guard: LeakDetector,
    pool: Arc<dyn Fn() -> Stats + Send + Sync>,
    close: Arc<dyn Fn() -> Closing + Send + Sync>,
    attempts: Arc<Mutex<Vec<String>>>,
    told: Arc<Mutex<Vec<String>>>,
    bodies: Lives,
    is_closed: AtomicBool,
    http2: bool,
    tasks: usize,
}

/// Says that [`leaves_nothing`](Stack::leaves_nothing) has found nothing.
#[derive(Debug)]
pub struct Nothing(());

type Closing = Pin<Box<dyn Future<Output = ()> + Send>>;

// === Setup ===

impl Default for Setup {
    fn default() -> Self {
        let tick = Duration::from_millis(1);
        let backoff = Backoff::new(tick, tick).expect("a floor that is no higher than its ceiling");
        Self {
            deadline: Duration::from_secs(30),
            permits: 8,
            timeout: TimeoutLayer::new(Duration::from_secs(10)),
            policy: Standard::default().backoff(backoff.jitter(Jitter::None)),
            pool: Pool::builder(),
            http2: false,
            at_most: false,
            leaks: &[],
        }
    }
}

impl Setup {
    /// The stack over a pool of `connector`'s connections.
    ///
    /// # Panics
    /// Outside a runtime, or if the pool's limits make no sense.
    pub fn over<C: Connect>(self, connector: C) -> Stack {
        let policy = self.policy.clone();
        self.over_with(policy, connector)
    }

    /// With another policy.
    ///
    /// # Panics
    /// As [`over`](Self::over).
    pub fn over_with<C: Connect>(
        self,
        policy: impl Policy + Clone + Send + Sync + 'static,
        connector: C,
    ) -> Stack {
        self.build(policy, |_| {}, connector)
    }

    /// With somebody else who is told of leaks.
    ///
    /// # Panics
    /// As [`over`](Self::over).
    pub fn told_with<C: Connect>(
        self,
        callback: impl Fn(&Leak) + Send + Sync + 'static,
        connector: C,
    ) -> Stack {
        let policy = self.policy.clone();
        self.build(policy, callback, connector)
    }

    fn build<C: Connect>(
        self,
        policy: impl Policy + Clone + Send + Sync + 'static,
        callback: impl Fn(&Leak) + Send + Sync + 'static,
        connector: C,
    ) -> Stack {
        // Before anything of the stack is running.
        let tasks = Handle::current().metrics().num_alive_tasks();
        let pool =
            self.pool.http2_prior_knowledge(self.http2).build(connector).expect("limits that make sense");
        let (told, attempts) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let limiter = Limiter::new(self.permits);
        let (expected, heard) = (self.leaks, told.clone());
        let mut limit = ConcurrencyLimitLayer::new(limiter.clone());
        let mut guard = LeakGuardLayer::builder();
        if self.at_most {
            limit = limit.max_wait(Duration::MAX);
            guard = guard.held(Duration::MAX).window(Duration::MAX);
        }
        let (guard_layer, guard) = guard
            // All tests build their pools in one line.
            .churn(NonZeroU32::MAX, Duration::from_secs(1))
            .spare_descriptors(0)
            .callback(move |leak: &Leak| {
                callback(leak);
                if !expected.contains(&leak.kind()) {
                    heard.lock().expect("nobody panics with it").push(leak.to_string());
                }
            })
            .pair();
        let noted = attempts.clone();
        let client = ServiceBuilder::new()
            .map_response(|response: Response<_>| response.map(BodyExt::boxed_unsync))
            .deadline(self.deadline)
            .layer(RetryLayer::new(policy))
            .map_result(move |result| note(&noted, result))
            .layer(limit)
            .layer(self.timeout)
            .layer(guard_layer)
            .service(pool.clone());
        Stack {
            client: BoxCloneSyncService::new(client),
            limiter,
            guard,
            close: Arc::new({
                let pool = pool.clone();
                move || {
                    let pool = pool.clone();
                    Box::pin(async move { pool.close(Duration::ZERO).await })
                }
            }),
            is_closed: AtomicBool::new(false),
            pool: Arc::new(move || pool.stats()),
            attempts,
            told,
            bodies: Lives::new(),
            http2: self.http2,
            tasks,
        }
    }
}

/// How an attempt ended, in a word.
fn note<B>(
    noted: &Mutex<Vec<String>>,
    result: Result<Response<B>, BoxError>,
) -> Result<Response<B>, BoxError> {
    let line = match &result {
        Ok(response) => response.status().as_str().to_owned(),
        Err(error) => in_short(error),
    };
    let mut noted = noted.lock().expect("nobody panics with it");
    // Only `call` clears them: a soak that calls the client itself must not gather them for ever.
    if noted.len() < MOST_NOTED {
        noted.push(line);
    }
    drop(noted);
    result
}

/// Kind, phase and delivery.
pub fn in_short(error: &BoxError) -> String {
    let failure = Failure::of(&**error);
    let phase = failure.phase().map_or("?", |phase| phase.as_str());
    format!("{}/{phase}/{}", failure.kind(), failure.delivery())
}

// === Stack ===

impl Stack {
    /// The pool's gauges.
    pub fn stats(&self) -> Stats {
        (self.pool)()
    }

    /// Closes the pool: from now on every call has to fail, and to say so.
    pub async fn close(&self) {
        self.is_closed.store(true, SeqCst);
        (self.close)().await;
    }

    /// A request whose body is looked after: it has to be dropped by the end.
    pub fn request(&self, method: Method, uri: Uri, body: TestBody) -> Request<TestBody> {
        let mut request = Request::new(body.counted(&self.bodies));
        (*request.method_mut(), *request.uri_mut()) = (method, uri);
        request
    }

    /// Sends it and reads the response to its end: what came of each attempt, and of the body if that failed.
    ///
    /// # Panics
    /// If the body says anything after its end, or the number of attempts is told wrong.
    pub async fn call(&self, request: Request<TestBody>) -> String {
        self.attempts.lock().expect("nobody panics with it").clear();
        let (mut line, number) = match self.client.clone().oneshot(request).await {
            Ok(response) => {
                let number = Attempt::of(&response);
                match read(response.into_body()).await {
                    Ok(_) => (String::new(), number),
                    Err(error) => (format!(", then {}", in_short(&error)), number),
                }
            }
            Err(error) => (String::new(), Failure::of(&*error).attempt()),
        };
        let attempts = self.attempts.lock().expect("nobody panics with it");
        if let Some(number) = number {
            assert_eq!(
                number.number() as usize,
                attempts.len(),
                "attempts as told, and as seen: {attempts:?}"
            );
        }
        line.insert_str(0, &transcript(&attempts));
        line
    }

    /// What must hold after anything: gauges at zero, bodies dropped, nothing leaked, a fresh request succeeds (of a closed pool: is told
    /// so); and without the stack all sockets are closed and no task is left.
    ///
    /// # Panics
    /// If any of it does not.
    #[track_caller]
    pub fn leaves_nothing(self, upstreams: Vec<Upstream>) -> impl Future<Output = Nothing> {
        let line = Location::caller();
        async move { self.leaves(upstreams, line).await }
    }

    async fn leaves(self, upstreams: Vec<Upstream>, line: &Location<'_>) -> Nothing {
        self.quiet().await;
        self.guard.assert_no_leaks();
        let healthy = Friendly::new(handler::hello);
        let healthy = if self.http2 { healthy.http2() } else { healthy }.start();
        let answered = self.call(self.request(Method::POST, healthy.uri("/"), "x".into())).await;
        let expected = if self.is_closed.load(SeqCst) { "canceled/queue/not_sent" } else { "200" };
        assert_eq!(answered, expected, "{line}: the next request");
        let stats = self.quiet().await;
        assert_eq!(
            stats.totals.dialed,
            stats.totals.closed + stats.connections.open() as u64,
            "{line}: every dial is open or closed: {stats:?}"
        );
        let Self { client, guard, pool, close, told, tasks, .. } = self;
        drop((client, pool, close));
        healthy.all_closed().await;
        for upstream in &upstreams {
            upstream.all_closed().await;
        }
        drop((healthy, upstreams, guard));
        let told = told.lock().expect("nobody panics with it").join("; ");
        assert!(told.is_empty(), "{line}: the guard told of {told}");
        let alive = || Handle::current().metrics().num_alive_tasks();
        patiently("the last task", || alive() <= tasks, || format!("{line}: {} tasks", alive())).await;
        Nothing(())
    }

    /// Waits until nothing goes on in it.
    pub async fn quiet(&self) -> Stats {
        let is_quiet = || {
            let (stats, limit) = (self.stats(), self.limiter.stats());
            let busy = stats.connections.open() - stats.connections.idle + stats.waiting + stats.exchanges;
            busy + limit.in_use + limit.waiting + self.bodies.alive() == 0
        };
        let state =
            || format!("{:?}, {:?}, {} bodies", self.stats(), self.limiter.stats(), self.bodies.alive());
        patiently("quiet", is_quiet, state).await;
        self.stats()
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Equal outcomes in a row are counted.
fn transcript(attempts: &[String]) -> String {
    let runs = attempts.chunk_by(|a, b| a == b).map(|run| match run.len() {
        1 => run[0].clone(),
        n => format!("{n} × {}", run[0]),
    });
    runs.collect::<Vec<_>>().join(" → ")
}

/// Reads a body to its end, which has to be one.
///
/// # Errors
/// What it fails with.
pub async fn read(body: ResponseBody) -> Result<Vec<u8>, BoxError> {
    let (mut body, mut bytes) = (pin!(body), Vec::new());
    loop {
        let ended = match body.frame().await {
            None => Ok(()),
            Some(Err(error)) => Err(error),
            Some(Ok(frame)) => {
                bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                continue;
            }
        };
        for _ in 0..2 {
            assert!(body.frame().await.is_none(), "a body goes on after its end");
        }
        return ended.map(|()| bytes);
    }
}

/// Turns the runtime until `met`.
///
/// # Panics
/// When that has not happened after 20 seconds of the wall clock.
pub async fn patiently(what: &str, mut met: impl FnMut() -> bool, state: impl Fn() -> String) {
    let begun = SystemTime::now();
    while !met() {
        let waited = begun.elapsed().unwrap_or_default();
        assert!(waited.as_secs() < 20, "waited in vain for {what}: {}", state());
        yield_now().await;
    }
}

/// More attempts than any one call has.
const MOST_NOTED: usize = 1_000;
