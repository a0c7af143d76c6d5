//! The service that catches a layer breaking Tower's contract.

use std::{
    collections::BTreeSet,
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use tower_service::Service;

use crate::{
    Gate, Lives, Scripted, TestBody,
    board::Board,
    pause::{Pause, Paused},
};

type BoxError = Box<dyn Error + Send + Sync>;

/// A scripted service that panics when it is called without having been made ready.
///
/// A clone starts un-readied, and readiness is used up by a call: so a layer passes only if it calls the very service
/// it made ready. Each call follows the next [`Plan`], the last one again and again; a plan belongs to the service
/// from its first `poll_ready` to its `call`, and goes back if the service is dropped in between.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::future::poll_fn;
/// use http::Request;
/// use outbound_testkit::{Plan, Probe, TestBody};
/// use tower_service::Service;
///
/// let (mut service, handle) = Probe::pair([Plan::new().status(503), Plan::new()]);
/// for status in [503, 200] {
///     poll_fn(|cx| Service::<Request<TestBody>>::poll_ready(&mut service, cx)).await.unwrap();
///     let response = service.call(Request::new(TestBody::new())).await.unwrap();
///     assert_eq!(response.status(), status);
/// }
/// assert_eq!(handle.counts().calls, 2);
/// # }
/// ```
#[derive(Debug)]
pub struct Probe {
    shared: Arc<Shared>,
    readiness: Readiness,
}

/// What one call of a [`Probe`] does: how it gets ready, what it reads, what it waits for, what comes of it.
#[derive(Clone)]
pub struct Plan {
    before_ready: Vec<Pause>,
    readiness: Outcome,
    call_panics: bool,
    frames: usize,
    before_answer: Vec<Pause>,
    answer: Outcome,
    status: StatusCode,
    headers: HeaderMap,
    body: TestBody,
}

/// What the probes of one [`pair`](Probe::pair) have seen.
#[derive(Clone, Debug)]
pub struct ProbeHandle(Arc<Shared>);

/// Numbers of a [`Probe`] and all its clones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// `poll_ready` calls.
    pub readiness_polls: usize,
    /// Times a service turned ready.
    pub readied: usize,
    /// Services dropped ready and not called.
    pub readied_not_called: usize,
    /// Calls.
    pub calls: usize,
    /// Response futures dropped before they were done.
    pub cancelled: usize,
    /// Services alive now, the first one included.
    pub services: usize,
    /// Response futures alive now.
    pub futures: usize,
    /// Response bodies alive now.
    pub bodies: usize,
}

/// The response future of [`Probe`].
pub struct ProbeFuture<B> {
    shared: Arc<Shared>,
    number: usize,
    plan: Plan,
    pauses: std::vec::IntoIter<Pause>,
    paused: Option<Paused>,
    body: Pin<Box<B>>,
    done: bool,
}

#[derive(Debug)]
struct Shared {
    plans: Vec<Plan>,
    board: Board<Record>,
    bodies: Lives,
}

#[derive(Debug, Default)]
struct Record {
    counts: Counts,
    requests: Vec<Request<Bytes>>,
    next_plan: usize,
    given_back: BTreeSet<usize>,
}

#[derive(Debug)]
enum Readiness {
    No,
    Waiting { plan: usize, pauses: std::vec::IntoIter<Pause>, paused: Option<Paused> },
    Yes { plan: usize },
}

#[derive(Clone)]
enum Outcome {
    Good,
    Fail(Arc<dyn Fn() -> BoxError + Send + Sync>),
    Panic,
}

// === Probe ===

impl Probe {
    /// A service that follows these plans, and the handle to observe it and its clones.
    ///
    /// # Panics
    ///
    /// When there is no plan.
    pub fn pair(plans: impl IntoIterator<Item = Plan>) -> (Self, ProbeHandle) {
        let plans = Vec::from_iter(plans);
        assert!(!plans.is_empty(), "a probe needs a plan");
        let shared = Arc::new(Shared { plans, board: Board::default(), bodies: Lives::new() });
        (Probe::new(shared.clone()), ProbeHandle(shared))
    }

    fn new(shared: Arc<Shared>) -> Self {
        shared.board.write(|record| record.counts.services += 1);
        Probe { shared, readiness: Readiness::No }
    }
}

impl<B> Service<Request<B>> for Probe
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Response = Response<TestBody>;
    type Error = BoxError;
    type Future = ProbeFuture<B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.shared.board.write(|record| record.counts.readiness_polls += 1);
        if matches!(self.readiness, Readiness::No) {
            let plan = self.shared.board.write(Record::claim);
            let pauses = self.shared.plan(plan).before_ready.clone().into_iter();
            self.readiness = Readiness::Waiting { plan, pauses, paused: None };
        }
        let plan = match &mut self.readiness {
            Readiness::Waiting { plan, pauses, paused } => {
                ready!(poll_pauses(pauses, paused, cx));
                *plan
            }
            Readiness::Yes { .. } => return Poll::Ready(Ok(())),
            Readiness::No => unreachable!("just left"),
        };
        // The plan is used up by a failure, too.
        self.readiness = Readiness::No;
        match &self.shared.plan(plan).readiness {
            Outcome::Good => {
                self.readiness = Readiness::Yes { plan };
                self.shared.board.write(|record| record.counts.readied += 1);
                Poll::Ready(Ok(()))
            }
            Outcome::Fail(error) => Poll::Ready(Err(error())),
            Outcome::Panic => panic!("the service was told to panic in poll_ready"),
        }
    }

    fn call(&mut self, request: Request<B>) -> ProbeFuture<B> {
        let Readiness::Yes { plan } = self.readiness else {
            panic!("the service was called without having been made ready");
        };
        self.readiness = Readiness::No;
        let plan = self.shared.plan(plan).clone();
        let (parts, body) = request.into_parts();
        let number = self.shared.board.write(|record| {
            record.counts.calls += 1;
            record.requests.push(Request::from_parts(parts, Bytes::new()));
            record.requests.len() - 1
        });
        if plan.call_panics {
            panic!("the service was told to panic in call");
        }
        self.shared.board.write(|record| record.counts.futures += 1);
        ProbeFuture {
            shared: self.shared.clone(),
            number,
            pauses: plan.before_answer.clone().into_iter(),
            plan,
            paused: None,
            body: Box::pin(body),
            done: false,
        }
    }
}

/// The clone is not ready, whatever the original is.
impl Clone for Probe {
    fn clone(&self) -> Self {
        Probe::new(self.shared.clone())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let readiness = std::mem::replace(&mut self.readiness, Readiness::No);
        self.shared.board.write(|record| {
            record.counts.services -= 1;
            match readiness {
                Readiness::No => {}
                Readiness::Waiting { plan, .. } => {
                    record.given_back.insert(plan);
                }
                Readiness::Yes { plan } => {
                    record.given_back.insert(plan);
                    record.counts.readied_not_called += 1;
                }
            }
        });
    }
}

// === Plan ===

impl Plan {
    /// Ready at once; the request body is held but not read; `200` at once, with an empty body.
    pub fn new() -> Self {
        Plan {
            before_ready: Vec::new(),
            readiness: Outcome::Good,
            call_panics: false,
            frames: 0,
            before_answer: Vec::new(),
            answer: Outcome::Good,
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: TestBody::new(),
        }
    }

    /// `poll_ready` is pending this many times, woken at once each time.
    pub fn ready_after(mut self, polls: usize) -> Self {
        self.before_ready.push(Pause::Polls(polls));
        self
    }

    /// `poll_ready` is pending until the test lets it through the gate.
    pub fn ready_at(mut self, gate: &Gate) -> Self {
        self.before_ready.push(Pause::At(gate.clone()));
        self
    }

    /// `poll_ready` is pending for ever.
    pub fn never_ready(mut self) -> Self {
        self.before_ready.push(Pause::Forever);
        self
    }

    /// `poll_ready` fails with [`Scripted`].
    pub fn readiness_error(mut self, message: &'static str) -> Self {
        self.readiness = Outcome::fail(move || Scripted(message));
        self
    }

    /// `poll_ready` panics.
    pub fn readiness_panic(mut self) -> Self {
        self.readiness = Outcome::Panic;
        self
    }

    /// `call` panics.
    pub fn call_panic(mut self) -> Self {
        self.call_panics = true;
        self
    }

    /// Reads the request body to its end before all else; fails as the body fails.
    pub fn reads_body(self) -> Self {
        self.reads_frames(usize::MAX)
    }

    /// Reads this many frames of the request body before all else.
    pub fn reads_frames(mut self, frames: usize) -> Self {
        self.frames = frames;
        self
    }

    /// The response future is pending this many times, woken at once each time.
    pub fn answers_after(mut self, polls: usize) -> Self {
        self.before_answer.push(Pause::Polls(polls));
        self
    }

    /// The response future is pending for this long on Tokio's clock, from the poll that gets there.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.before_answer.push(Pause::For(delay));
        self
    }

    /// The response future is pending until the test lets it through the gate.
    pub fn wait(mut self, gate: &Gate) -> Self {
        self.before_answer.push(Pause::At(gate.clone()));
        self
    }

    /// The response future is pending for ever.
    pub fn never_answers(mut self) -> Self {
        self.before_answer.push(Pause::Forever);
        self
    }

    /// The response future fails with [`Scripted`].
    pub fn error(self, message: &'static str) -> Self {
        self.error_from(move || Scripted(message))
    }

    /// The response future fails with what this makes.
    pub fn error_from<E: Into<BoxError>>(mut self, error: impl Fn() -> E + Send + Sync + 'static) -> Self {
        self.answer = Outcome::fail(error);
        self
    }

    /// The response future panics when polled.
    pub fn future_panic(mut self) -> Self {
        self.answer = Outcome::Panic;
        self
    }

    /// The status of the response.
    ///
    /// # Panics
    ///
    /// When it is not a status code.
    pub fn status(mut self, status: u16) -> Self {
        self.status = StatusCode::from_u16(status).expect("a status code");
        self
    }

    /// One more header field of the response.
    ///
    /// # Panics
    ///
    /// When it is not a valid field.
    pub fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }

    /// The body of the response.
    pub fn body(mut self, body: impl Into<TestBody>) -> Self {
        self.body = body.into();
        self
    }
}

impl Default for Plan {
    fn default() -> Self {
        Plan::new()
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("status", &self.status).finish_non_exhaustive()
    }
}

// === ProbeHandle ===

impl ProbeHandle {
    /// The numbers now.
    pub fn counts(&self) -> Counts {
        let counts = self.0.board.read(|record| record.counts);
        Counts { bodies: self.0.bodies.alive(), ..counts }
    }

    /// The requests that were called, with what was read of their bodies.
    pub fn requests(&self) -> Vec<Request<Bytes>> {
        self.0.board.read(|record| record.requests.clone())
    }

    /// Waits for `n` calls.
    ///
    /// # Panics
    ///
    /// When there are fewer after 20 seconds of the wall clock.
    pub async fn called(&self, n: usize) {
        self.0
            .board
            .expect(
                |record| record.counts.calls >= n,
                |record| format!("probe: waited in vain for {n} calls; {:?}", record.counts),
            )
            .await;
    }

    /// Checks that nothing is held: no response future and no response body is alive.
    ///
    /// # Panics
    ///
    /// When one is.
    #[track_caller]
    pub fn assert_idle(&self) {
        let counts = self.counts();
        assert_eq!((counts.futures, counts.bodies), (0, 0), "futures and bodies alive: {counts:?}");
    }
}

// === ProbeFuture ===

impl<B> Future for ProbeFuture<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<TestBody>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        assert!(!this.done, "the response future was polled after it was done");
        while this.plan.frames > 0 {
            match ready!(this.body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => {
                    this.plan.frames -= 1;
                    if let Ok(mut data) = frame.into_data() {
                        this.read(data.copy_to_bytes(data.remaining()));
                    }
                }
                Some(Err(error)) => {
                    this.done = true;
                    return Poll::Ready(Err(error.into()));
                }
                None => this.plan.frames = 0,
            }
        }
        ready!(poll_pauses(&mut this.pauses, &mut this.paused, cx));
        this.done = true;
        Poll::Ready(match &this.plan.answer {
            Outcome::Good => {
                let body = this.plan.body.clone().counted(&this.shared.bodies);
                let mut response = Response::new(body);
                *response.status_mut() = this.plan.status;
                *response.headers_mut() = this.plan.headers.clone();
                Ok(response)
            }
            Outcome::Fail(error) => Err(error()),
            Outcome::Panic => panic!("the response future was told to panic"),
        })
    }
}

impl<B> ProbeFuture<B> {
    fn read(&self, data: Bytes) {
        self.shared.board.write(|record| {
            let so_far = record.requests[self.number].body_mut();
            *so_far = [so_far.as_ref(), &data].concat().into();
        });
    }
}

impl<B> fmt::Debug for ProbeFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeFuture").field("number", &self.number).finish_non_exhaustive()
    }
}

impl<B> Drop for ProbeFuture<B> {
    fn drop(&mut self) {
        self.shared.board.write(|record| {
            record.counts.futures -= 1;
            record.counts.cancelled += usize::from(!self.done);
        });
    }
}

// === Shared ===

impl Shared {
    fn plan(&self, index: usize) -> &Plan {
        &self.plans[index.min(self.plans.len() - 1)]
    }
}

impl Record {
    fn claim(&mut self) -> usize {
        self.given_back.pop_first().unwrap_or_else(|| {
            self.next_plan += 1;
            self.next_plan - 1
        })
    }
}

impl Outcome {
    fn fail<E: Into<BoxError>>(error: impl Fn() -> E + Send + Sync + 'static) -> Self {
        Outcome::Fail(Arc::new(move || error().into()))
    }
}

fn poll_pauses(
    pauses: &mut std::vec::IntoIter<Pause>,
    paused: &mut Option<Paused>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    loop {
        if let Some(paused) = paused {
            ready!(paused.poll(cx));
        }
        match pauses.next() {
            Some(pause) => *paused = Some(pause.begin()),
            None => {
                *paused = None;
                return Poll::Ready(());
            }
        }
    }
}
