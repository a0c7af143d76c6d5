//! A fleet of clients, the service they all call, and an outage of it.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use outbound_core::BoxError;
use outbound_retry::{Backoff, Budget, Decision, Outcome, Policy, Random, Replay, RetryLayer, Standard};
use tokio::time::{Instant, sleep, sleep_until};
use tower::{Layer, Service, ServiceExt, service_fn};

/// Each process has so many clients, which share one retry layer; each client makes one call a second, whatever became of
/// the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fleet {
    pub(crate) processes: u32,
    pub(crate) clients: u32,
    /// How long all is well, how long nothing is, and how long it is watched after that, in seconds.
    pub(crate) before: u64,
    pub(crate) outage: u64,
    pub(crate) after: u64,
}

/// How a fleet retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// As the layer does by itself.
    Default,
    /// The same without a budget.
    NoBudget,
    /// What `reqwest-retry` does with `ExponentialBackoff::builder().build_with_max_retries(3)`: from one second, doubling up to half
    /// an hour, full jitter.
    ReqwestRetry,
}

/// What the service saw, second by second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
    pub(crate) offered: Vec<u32>,
    pub(crate) served: Vec<u32>,
}

/// It can serve a fifth more than it is asked for when all is well, a tenth of a second at a time; the rest is turned away.
#[derive(Debug)]
struct Server {
    fleet: Fleet,
    begun: Instant,
    load: Mutex<(Load, u64, u32)>,
}

impl Fleet {
    /// Calls a second.
    pub(crate) fn calls(self) -> u32 {
        self.processes * self.clients
    }

    pub(crate) fn capacity(self) -> u32 {
        self.calls() * 12 / 10
    }

    pub(crate) fn seconds(self) -> u64 {
        self.before + self.outage + self.after
    }

    /// Runs it on a clock of its own, as fast as this machine can.
    pub(crate) fn run(self, strategy: Strategy) -> Load {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime without I/O");
        runtime.block_on(async {
            let seconds = self.seconds() as usize;
            let load = Load { offered: vec![0; seconds], served: vec![0; seconds] };
            let server =
                Arc::new(Server { fleet: self, begun: Instant::now(), load: Mutex::new((load, 0, 0)) });
            for process in 0..self.processes {
                self.start(strategy, process, &server);
            }
            sleep(Duration::from_secs(self.seconds())).await;
            server.load().0.clone()
        })
    }

    fn start(self, strategy: Strategy, process: u32, server: &Arc<Server>) {
        let random = Random::seeded(u64::from(process) << 32);
        let standard = Standard::default().random(random.clone());
        match strategy {
            Strategy::Default => self.call(RetryLayer::new(standard), process, server),
            Strategy::NoBudget => self.call(RetryLayer::new(standard).budget(Budget::off()), process, server),
            Strategy::ReqwestRetry => {
                let backoff =
                    Backoff::new(Duration::from_secs(1), Duration::from_secs(30 * 60)).expect("a range");
                let policy = move |outcome: &Outcome<'_>| match outcome.status() {
                    Some(status) if !status.is_success() => {
                        let wait = random.draw(|random| {
                            backoff.wait(outcome.attempt().number(), outcome.waited(), random)
                        });
                        Decision::Retry(wait)
                    }
                    _ => Decision::Stop,
                };
                let four = NonZeroU32::MIN.saturating_add(3);
                self.call(RetryLayer::new(policy).max_attempts(four).budget(Budget::off()), process, server);
            }
        }
    }

    /// The clients' calls, spread evenly over each second.
    fn call<P>(self, layer: RetryLayer<P>, process: u32, server: &Arc<Server>)
    where
        P: Policy + Clone + Send + Sync + 'static,
    {
        let service = layer.layer(server.clone().service());
        let gap = Duration::from_secs(1) / self.clients;
        let (first, calls) =
            (server.begun + gap * process / self.processes, self.seconds() as u32 * self.clients);
        tokio::spawn(async move {
            for n in 0..calls {
                sleep_until(first + gap * n).await;
                let request = Request::get("http://service/").body(Empty::<Bytes>::new());
                tokio::spawn(service.clone().oneshot(request.expect("a request")));
            }
        });
    }
}

impl Server {
    fn load(&self) -> std::sync::MutexGuard<'_, (Load, u64, u32)> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn service(
        self: Arc<Self>,
    ) -> impl Service<
        Request<Replay<Empty<Bytes>>>,
        Response = Response<Empty<Bytes>>,
        Error = BoxError,
        Future: Send,
    > + Clone
    + Send
    + 'static {
        service_fn(move |_| {
            let mut response = Response::new(Empty::new());
            if !self.serve() {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            std::future::ready(Ok(response))
        })
    }

    fn serve(&self) -> bool {
        let tenth = (self.begun.elapsed().as_millis() / 100) as u64;
        let second = (tenth / 10) as usize;
        let (load, slot, taken) = &mut *self.load();
        let Some(offered) = load.offered.get_mut(second) else { return false };
        *offered += 1;
        if *slot != tenth {
            (*slot, *taken) = (tenth, 0);
        }
        let Fleet { before, outage, .. } = self.fleet;
        let down = (before..before + outage).contains(&(second as u64));
        let serves = !down && *taken < self.fleet.capacity() / 10;
        *taken += u32::from(serves);
        load.served[second] += u32::from(serves);
        serves
    }
}
