//! What an adaptive limit is told of the calls, and what it does with what it learns.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{Request, Response};
use http_body_util::BodyExt;
use outbound_core::{BoxError, Elapsed, Exchange, Kind, OnEnd, Overloaded, Phase, TransportError};
use outbound_limit::{AdaptiveLimit, AdaptiveLimitLayer, Aimd, Algorithm, Release, Sample};
use outbound_testkit::{Gate, Plan, Probe, TestBody, cancel_at_each_poll};
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceExt};

const MS: Duration = Duration::from_millis(1);

/// Keeps what it is told, and has the limit that the test says.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<(Vec<Sample>, usize)>>);

impl Recorder {
    fn with_limit(limit: usize) -> Self {
        Self(Arc::new(Mutex::new((Vec::new(), limit))))
    }

    fn set(&self, limit: usize) {
        self.0.lock().unwrap().1 = limit;
    }

    fn samples(&self) -> Vec<Sample> {
        self.0.lock().unwrap().0.clone()
    }
}

impl Algorithm for Recorder {
    fn limit(&self) -> usize {
        self.0.lock().unwrap().1
    }

    fn update(&mut self, sample: &Sample) {
        self.0.lock().unwrap().0.push(*sample);
    }
}

fn request() -> Request<TestBody> {
    Request::get("http://a.example/").body(TestBody::new()).unwrap()
}

async fn call<A: Algorithm>(
    service: &AdaptiveLimit<Probe, A>,
) -> Result<Response<OnEnd<TestBody, Release>>, BoxError> {
    service.clone().oneshot(request()).await
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn what_counts_as_overload() {
    fn elapsed(phase: Phase) -> Plan {
        Plan::new().error_from(move || Elapsed::new(phase, 5 * MS))
    }
    fn failed(kind: io::ErrorKind) -> Plan {
        Plan::new().error_from(move || io::Error::from(kind))
    }
    fn stream_refused() -> TransportError {
        let exchange = Exchange::new();
        exchange.refused();
        TransportError::new(Kind::Reset, &exchange)
    }
    let rows = [
        ("200", Plan::new(), Some(false)),
        ("404", Plan::new().status(404), Some(false)),
        ("429", Plan::new().status(429), Some(true)),
        ("500", Plan::new().status(500), None),
        ("502", Plan::new().status(502), None),
        ("503", Plan::new().status(503), Some(true)),
        ("504", Plan::new().status(504), Some(true)),
        ("no head in time", elapsed(Phase::Head), Some(true)),
        ("no connection in time", elapsed(Phase::Connect), Some(true)),
        ("a timeout of the system", failed(io::ErrorKind::TimedOut), Some(true)),
        ("in a queue of ours too long", elapsed(Phase::Queue), None),
        ("no connection of the pool free in time", elapsed(Phase::Acquire), None),
        ("refused", failed(io::ErrorKind::ConnectionRefused), Some(true)),
        ("a stream refused", Plan::new().error_from(stream_refused), Some(true)),
        ("reset", failed(io::ErrorKind::ConnectionReset), None),
        ("another limit of ours", Plan::new().error_from(|| Overloaded::new("pool", 1, 1)), None),
        ("anything else", Plan::new().error("broken"), None),
    ];
    for (name, plan, overloaded) in rows {
        let recorder = Recorder::with_limit(10);
        let service = AdaptiveLimitLayer::new(recorder.clone()).layer(Probe::pair([plan]).0);
        let _ = call(&service).await;
        let told: Vec<_> = recorder.samples().iter().map(|sample| sample.overloaded).collect();
        assert_eq!(told, Vec::from_iter(overloaded), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_learns_from_the_time_to_the_head_alone() {
    let recorder = Recorder::with_limit(1);
    let layer = AdaptiveLimitLayer::new(recorder.clone());
    let body = || TestBody::new().delay(700 * MS).data("slow");
    let (probe, _) = Probe::pair([Plan::new().delay(30 * MS).body(body())]);
    let service = layer.layer(probe);
    let started = Instant::now();

    let first = call(&service).await.unwrap();
    let mut second = pin!(call(&service));
    assert!(poll_once(second.as_mut()).is_pending());
    advance(5 * MS).await;
    assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "slow");
    let read = Instant::now();
    assert_eq!(read, started + 735 * MS);
    // Neither the first's body nor the second's wait counts.
    drop(second.await.unwrap());

    let sample = |started, in_flight| Sample { started, rtt: 30 * MS, in_flight, overloaded: false };
    assert_eq!(recorder.samples(), [sample(started, 1), sample(read, 1)]);
}

#[tokio::test(start_paused = true)]
async fn in_flight_is_counted_at_the_start() {
    let recorder = Recorder::with_limit(10);
    let (probe, _) = Probe::pair([Plan::new().body("held")]);
    let service = AdaptiveLimitLayer::new(recorder.clone()).layer(probe);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(call(&service).await.unwrap());
    }
    drop(held);
    call(&service).await.unwrap();
    let in_flight: Vec<_> = recorder.samples().iter().map(|sample| sample.in_flight).collect();
    assert_eq!(in_flight, [1, 2, 3, 1], "bodies included");
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_teaches_nothing_and_gives_everything_back() {
    let recorder = Recorder::with_limit(1);
    let layer = AdaptiveLimitLayer::new(recorder.clone());
    let (probe, handle) = Probe::pair([Plan::new().answers_after(60)]);
    let service = layer.layer(probe);
    let done = cancel_at_each_poll(
        50,
        || call(&service),
        async |k| {
            let stats = layer.handle().stats();
            assert_eq!((stats.in_use, stats.waiting), (0, 0), "dropped at poll {k}");
            handle.assert_idle();
        },
    )
    .await;
    assert!(done.is_none());
    assert_eq!(recorder.samples(), []);
}

#[tokio::test(start_paused = true)]
async fn the_limit_follows_the_algorithm() {
    let recorder = Recorder::with_limit(0);
    let layer = AdaptiveLimitLayer::new(recorder.clone());
    let handle = layer.handle();
    assert_eq!(handle.stats().limit, 1, "0 is taken for 1");
    let gate = Gate::new("heads");
    let (probe, _) = Probe::pair([Plan::new().wait(&gate)]);
    let service = layer.layer(probe);
    let mut calls: Vec<_> = (0..4).map(|_| Box::pin(call(&service))).collect();
    // A first round hands out what the second one finds.
    let mut turn = || {
        for _ in 0..2 {
            calls.retain_mut(|call| poll_once(call.as_mut()).is_pending());
        }
        let stats = handle.stats();
        (stats.limit, stats.in_use, stats.waiting)
    };
    assert_eq!(turn(), (1, 1, 3));
    recorder.set(3);
    gate.let_one_through();
    assert_eq!(turn(), (3, 3, 0), "it grows: all who wait start");
    recorder.set(0);
    gate.let_one_through();
    assert_eq!(turn(), (1, 2, 0), "it shrinks under those in flight, and 0 is taken for 1");
    gate.open();
    assert_eq!(turn(), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_readied_service_is_called_and_the_error_names_the_limit() {
    let layer = AdaptiveLimitLayer::new(Aimd::default().limits(1, 1, 1).unwrap()).max_waiting(1);
    let (probe, _) = Probe::pair([Plan::new().body("held"), Plan::new()]);
    let mut service = layer.layer(probe);
    poll_fn(|cx| Service::<Request<TestBody>>::poll_ready(&mut service, cx)).await.unwrap();
    let first = service.call(request()).await.unwrap();
    let mut second = pin!(call(&service));
    assert!(poll_once(second.as_mut()).is_pending());
    let error = call(&service).await.unwrap_err();
    assert_eq!(error.to_string(), "http://a.example: adaptive limit is overloaded: all 1 in use, 1 waiting");
    drop(first);
    second.await.unwrap();
    assert_eq!(layer.handle().stats().rejected, 1);
}
