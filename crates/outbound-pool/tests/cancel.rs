//! Whoever goes away, at whatever moment, leaves nothing behind and stands in nobody's way.

mod support;

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use outbound_core::{BoxError, Failure, Kind};
use outbound_pool::{
    Pool,
    connect::{Connect, Socket, Tcp, Tls},
};
use outbound_testkit::{
    Answer, BlackHole, Certificate, Friendly, Gate, Hostile, Lives, Script, TestBody, Upstream,
    cancel_at_each_poll, handler,
};
use support::*;
use tokio::task::JoinHandle;
use tower::{Service, ServiceExt, service_fn};

const MOST: usize = 12;

/// Cancels the call at each of its polls: the pool is as it was before, and the server has no socket that the pool does not have.
async fn cancelled_anywhere<C: Connect>(
    name: &str,
    pool: Pool<C>,
    upstream: Option<&Upstream>,
    request: impl Fn() -> Request<TestBody>,
) -> Option<Result<http::Response<Bytes>, BoxError>> {
    let lives = Lives::new();
    let call = || {
        let (mut request, pool) = (request(), pool.clone());
        let body = std::mem::take(request.body_mut()).counted(&lives);
        *request.body_mut() = body;
        async move { fetch(&pool, request).await }
    };
    let done = cancel_at_each_poll(MOST, call, async |polls| {
        let stats = quiet(&pool).await;
        assert_eq!(lives.alive(), 0, "{name}, cancelled at poll {polls}: the body is alive");
        if let Some(upstream) = upstream {
            let what = format!("{name}, cancelled at poll {polls}: the sockets");
            upstream.until(&what, |seen| seen.open == stats.connections.idle).await;
        }
    })
    .await;
    leaves_nothing(name, pool, upstream.as_slice()).await;
    done
}

fn to(upstream: &Upstream) -> impl Fn() -> Request<TestBody> {
    let uri = upstream.uri("/");
    move || request(Method::POST, uri.clone(), TestBody::from("hello"))
}

#[tokio::test]
async fn while_dialing() {
    let hole = BlackHole::new();
    let uri: Uri = format!("http://{}/", hole.addr()).parse().unwrap();
    let request = || request(Method::GET, uri.clone(), TestBody::new());
    assert!(cancelled_anywhere("black hole", pool(), None, request).await.is_none());
}

#[tokio::test]
async fn while_shaking_hands() {
    let certificate = Certificate::local();
    let stalls = Script::new().before_handshake(Script::new().first_byte().stall());
    let upstream = Hostile::new(stalls).tls(certificate.clone()).start();
    let pool = build_with(Tls::new(Tcp::new(), certificate.client([])));
    assert!(cancelled_anywhere("TLS", pool, Some(&upstream), to(&upstream)).await.is_none());
}

#[tokio::test]
async fn while_sending() {
    let upstream = Hostile::new(Script::new().read_head().read_body()).start();
    for (name, body) in [
        ("the body stalls", TestBody::new().data("x").pending(3).data("x").stall()),
        ("the body never ends", TestBody::new().endless(vec![b'x'; 100_000])),
    ] {
        let uri = upstream.uri("/");
        let request = || request(Method::PUT, uri.clone(), body.clone());
        assert!(cancelled_anywhere(name, pool(), Some(&upstream), request).await.is_none());
    }
}

#[tokio::test]
async fn while_waiting_for_the_head() {
    for (name, script) in [
        ("silence", Script::new().exchange(Answer::new(200, "hello").cut_head(0))),
        ("half a head", Script::new().exchange(Answer::new(200, "hello").cut_head(20))),
    ] {
        let upstream = Hostile::new(script).start();
        assert!(cancelled_anywhere(name, pool(), Some(&upstream), to(&upstream)).await.is_none());
    }
}

#[tokio::test]
async fn while_reading_the_body() {
    for (name, answer) in [
        ("length", Answer::new(200, "hello world").cut_body(5)),
        ("chunked", Answer::new(200, "hello world").chunked(3).cut_body(10)),
    ] {
        let upstream = Hostile::new(Script::new().exchange(answer)).start();
        assert!(cancelled_anywhere(name, pool(), Some(&upstream), to(&upstream)).await.is_none());
    }
}

/// And once not at all: an exchange that gets done somewhere on the way.
#[tokio::test]
async fn on_the_way_to_a_good_end() {
    for (name, idle) in [("cold", false), ("warm", true)] {
        let upstream = Friendly::new(handler::echo).start();
        let pool = pool();
        if idle {
            fetch(&pool, to(&upstream)()).await.unwrap();
        }
        let done = cancelled_anywhere(name, pool, Some(&upstream), to(&upstream)).await;
        assert_eq!(done.unwrap().unwrap().body(), "hello", "{name}");
    }
}

#[tokio::test]
async fn while_waiting_for_a_connection() {
    let upstream = Friendly::new(handler::hello).start();
    let pool = build(Pool::builder().max_connections(1));
    let held = send(&pool, get(upstream.uri("/"))).await.unwrap();
    let call = || send(&pool, get(upstream.uri("/")));
    let done = cancel_at_each_poll(MOST, call, async |polls| {
        let stats = pool.stats();
        assert_eq!((stats.waiting, stats.connections.active), (0, 1), "cancelled at poll {polls}");
    });
    assert!(done.await.is_none());
    held.into_body().collect().await.unwrap();
    assert_eq!(upstream.sightings().requests.len(), 1);
    leaves_nothing("waiting", pool, &[&upstream]).await;
}

#[tokio::test]
async fn after_any_number_of_frames() {
    let answer = Answer::new(200, "hello world").chunked(2);
    for frames in 0..=7 {
        let upstream = Hostile::new(
            Script::new().read_head().dribble(answer.clone(), 1, Duration::from_micros(50)).stall(),
        )
        .start();
        let pool = build(Pool::builder().drain(0, Duration::ZERO));
        let mut body = send(&pool, get(upstream.uri("/"))).await.unwrap().into_body();
        for _ in 0..frames {
            body.frame().await;
        }
        drop(body);
        assert_eq!(pool.stats().connections.active, 0, "after {frames} frames");
        leaves_nothing(&format!("{frames} frames"), pool, &[&upstream]).await;
    }
}

#[tokio::test]
async fn before_its_first_poll_a_call_is_nothing() {
    let pool = pool();
    drop(pool.clone().call(get("http://127.0.0.1:9/".parse().unwrap())));
    let (stats, fresh) = (pool.stats(), support::pool().stats());
    assert_eq!(stats, fresh);
}

// === the others ===

type Call = JoinHandle<Result<(), BoxError>>;

fn start<C: Connect>(pool: &Pool<C>, upstream: &Upstream) -> Call {
    let (pool, request) = (pool.clone(), get(upstream.uri("/")));
    tokio::spawn(async move { fetch(&pool, request).await.map(drop) })
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn between_the_grant_and_its_poll_the_connection_goes_to_the_next() {
    let upstream = Friendly::new(handler::hello).start();
    let pool = build(Pool::builder().max_connections(1));
    let held = send(&pool, get(upstream.uri("/"))).await.unwrap();
    let mut leaves = Box::pin(send(&pool, get(upstream.uri("/leaves"))));
    let mut stays = Box::pin(send(&pool, get(upstream.uri("/stays"))));
    assert!(poll_once(leaves.as_mut()).is_pending() && poll_once(stays.as_mut()).is_pending());
    held.into_body().collect().await.unwrap();
    assert_eq!(pool.stats().connections.active, 1, "granted already");
    drop(leaves);
    stays.await.unwrap().into_body().collect().await.unwrap();
    let seen = upstream.sightings();
    assert_eq!((seen.connections.len(), seen.requests.len()), (1, 2), "{seen}");
    leaves_nothing("granted", pool, &[&upstream]).await;
}

#[tokio::test]
async fn who_stops_dialing_makes_room_for_the_next() {
    let (upstream, gate) = (Friendly::new(handler::hello).start(), Gate::new("dial"));
    let pool = Pool::builder().max_connections(1).build(gated(0, &gate)).unwrap();
    let first = start(&pool, &upstream);
    gate.arrived(1).await;
    let second = start(&pool, &upstream);
    until(&pool, "it to wait", |stats| stats.waiting == 1).await;
    first.abort();
    gate.arrived(2).await;
    gate.open();
    second.await.unwrap().unwrap();
    leaves_nothing("dial cancelled", pool, &[&upstream]).await;
}

#[tokio::test]
async fn a_dial_that_fails_wakes_the_next() {
    let (upstream, gate) = (Friendly::new(handler::hello).start(), Gate::new("fails"));
    let (dials, fails) = (Arc::new(AtomicUsize::new(0)), gate.clone());
    let connector = service_fn(move |uri: Uri| {
        let (number, fails) = (dials.fetch_add(1, SeqCst), fails.clone());
        async move {
            if number < 2 {
                fails.pass().await;
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
            }
            Tcp::new().oneshot(uri).await
        }
    });
    let pool = Pool::builder().max_connections(1).build(connector).unwrap();
    let mut calls = Vec::new();
    for waiting in 0..4 {
        calls.push(start(&pool, &upstream));
        gate.arrived(1).await;
        until(&pool, "it to wait", |stats| stats.waiting == waiting).await;
    }
    gate.open();
    for (number, call) in calls.into_iter().enumerate() {
        // Each dial is its caller's: those who wait behind are not told of others' failures.
        match call.await.unwrap() {
            Ok(()) => assert!(number >= 2, "call {number}"),
            Err(error) => {
                assert_eq!(Failure::of(&*error).kind(), Kind::Refused, "{error}");
                assert!(number < 2, "call {number}: {error}");
            }
        }
    }
    leaves_nothing("dial failed", pool, &[&upstream]).await;
}

#[tokio::test]
async fn a_dial_that_was_overtaken_is_finished_and_used() {
    let gate = Gate::new("dial");
    let answers = Gate::new("answers");
    let upstream = Friendly::new(handler::gated(&answers, handler::hello)).start();
    let pool = build_with(gated(1, &gate));
    let first = start(&pool, &upstream);
    answers.arrived(1).await;
    let second = start(&pool, &upstream);
    gate.arrived(1).await;
    answers.let_one_through();
    first.await.unwrap().unwrap();
    answers.arrived(2).await;
    assert_eq!(upstream.sightings().connections.len(), 1, "the second overtook its dial");
    gate.open();
    until(&pool, "the dial to end", |stats| stats.connections.idle == 1).await;
    let third = start(&pool, &upstream);
    answers.open();
    second.await.unwrap().unwrap();
    third.await.unwrap().unwrap();
    let totals = pool.stats().totals;
    assert_eq!((totals.dialed, totals.opened, totals.reused), (2, 2, 2));
    leaves_nothing("overtaken", pool, &[&upstream]).await;
}

#[tokio::test]
async fn a_dial_that_was_overtaken_and_fails_is_nobodys_failure() {
    let (gate, answers) = (Gate::new("dial"), Gate::new("answers"));
    let upstream = Friendly::new(handler::gated(&answers, handler::hello)).start();
    let (dials, fails) = (Arc::new(AtomicUsize::new(0)), gate.clone());
    let connector = service_fn(move |uri: Uri| {
        let (number, fails) = (dials.fetch_add(1, SeqCst), fails.clone());
        async move {
            if number == 1 {
                fails.pass().await;
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
            }
            Tcp::new().oneshot(uri).await
        }
    });
    let pool = build_with(connector);
    let first = start(&pool, &upstream);
    answers.arrived(1).await;
    let second = start(&pool, &upstream);
    gate.arrived(1).await;
    answers.open();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    gate.open();
    leaves_nothing("overtaken, failed", pool, &[&upstream]).await;
}

#[tokio::test]
async fn a_pool_that_goes_while_it_dials_closes_what_comes_of_it() {
    let (gate, answers) = (Gate::new("dial"), Gate::new("answers"));
    let upstream = Friendly::new(handler::gated(&answers, handler::hello)).start();
    let pool = build_with(gated(1, &gate));
    let first = start(&pool, &upstream);
    answers.arrived(1).await;
    let overtakes = start(&pool, &upstream);
    gate.arrived(1).await;
    answers.open();
    first.await.unwrap().unwrap();
    overtakes.await.unwrap().unwrap();
    drop(pool);
    upstream.all_closed().await;
    gate.open();
    upstream.accepted(2).await;
    upstream.all_closed().await;
}

// === panics ===

/// Panics where it is told to, the first time.
#[derive(Clone)]
struct Panics {
    at: &'static str,
    times: Arc<AtomicUsize>,
}

impl Panics {
    fn now(&self, at: &str) {
        if self.at == at && self.times.fetch_add(1, SeqCst) == 0 {
            panic!("the connector was told to panic");
        }
    }
}

impl Service<Uri> for Panics {
    type Response = TokioIo<Socket>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.now("poll_ready");
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.now("call");
        let this = self.clone();
        Box::pin(async move {
            this.now("future");
            tokio::task::yield_now().await;
            this.now("second poll");
            Tcp::new().oneshot(uri).await
        })
    }
}

#[tokio::test]
async fn a_connector_that_panics_takes_only_its_caller_with_it() {
    for at in ["poll_ready", "call", "future", "second poll"] {
        let upstream = Friendly::new(handler::hello).start();
        let connector = Panics { at, times: Arc::default() };
        let pool = Pool::builder().max_connections(1).build(connector).unwrap();
        let (first, second) = (start(&pool, &upstream), start(&pool, &upstream));
        assert!(first.await.unwrap_err().is_panic(), "{at}");
        second.await.unwrap().unwrap_or_else(|error| panic!("{at}: {error}"));
        leaves_nothing(at, pool, &[&upstream]).await;
    }
}

#[test]
fn a_runtime_that_ends_in_the_middle_of_everything_ends_quietly() {
    let upstream = Hostile::new(Script::new().read_head()).own_thread().start();
    let hole = BlackHole::new();
    let pool = pool();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (body, waits) = runtime.block_on(async {
        let friendly = Friendly::new(handler::hello).start();
        let body = send(&pool, get(friendly.uri("/"))).await.unwrap().into_body();
        fetch(&pool, get(friendly.uri("/"))).await.unwrap();
        drop(start(&pool, &upstream));
        drop(tokio::spawn(fetch_owned(pool.clone(), format!("http://{}/", hole.addr()).parse().unwrap())));
        let mut waits = Box::pin(fetch_owned(pool.clone(), upstream.uri("/")));
        assert!(poll_once(waits.as_mut()).is_pending());
        upstream.heads(1).await;
        (body, waits)
    });
    runtime.shutdown_background();
    drop((body, waits));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(leaves_nothing("the next runtime", pool, &[&upstream]));
}

async fn fetch_owned<C: Connect>(pool: Pool<C>, uri: Uri) -> Result<(), BoxError> {
    let request: Request<Empty<Bytes>> = get(uri);
    fetch(&pool, request).await.map(drop)
}
