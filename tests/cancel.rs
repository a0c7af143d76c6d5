//! Whoever goes away, at whatever poll and wherever the call is, leaves nothing of it behind in the whole stack; and neither does
//! user code that panics.

use std::{
    future::pending,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{Method, Request, Uri};
use hyper_util::client::legacy::connect::dns::Name;
use outbound::{
    BoxError, Exchange, Phase,
    guard::Leak,
    pool::connect::{Connect, Tcp, Tls},
    retry::{BodyFactory, Decision, Outcome},
};
use outbound_testkit::{
    Answer, BlackHole, Certificate, Frame, FrameKind, Friendly, Gate, Hostile, Script, Sightings, TestBody,
    Upstream, cancel_at_each_poll, handler,
};
use outbound_tests::{
    case::uri,
    frames,
    stack::{Setup, Stack, read},
};
use tower::{ServiceExt, service_fn};

/// Cancels the call at each of its polls, up to [`MOST`]: what came of it if it got that far. One of them has to have been where it was to
/// be cancelled: in this phase, with so many bytes of a response.
async fn cancelled_anywhere(
    stack: Stack,
    upstream: Option<Upstream>,
    request: impl Fn() -> (Method, Uri, TestBody),
    (phase, bytes_in): (Phase, u64),
) -> Option<Result<Vec<u8>, String>> {
    let mut calls = Vec::new();
    let call = || {
        let (method, uri, body) = request();
        let (client, mut request) = (stack.client.clone(), stack.request(method, uri, body));
        calls.push(Exchange::track(&mut request));
        async move {
            match client.oneshot(request).await {
                Ok(response) => read(response.into_body()).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        }
    };
    let done = cancel_at_each_poll(MOST, call, async |polls| {
        let stats = stack.quiet().await;
        assert_eq!(stack.guard.snapshot().len(), 0, "cancelled at poll {polls}");
        if let Some(upstream) = &upstream {
            let what = format!("the sockets, cancelled at poll {polls}");
            upstream.until(&what, |seen| seen.open == stats.connections.idle).await;
        }
    })
    .await;
    let was_there = |call: &Exchange| call.phase() == phase && call.bytes_in() >= bytes_in;
    let were: Vec<_> = calls.iter().map(|call| (call.phase(), call.bytes_in())).collect();
    assert!(calls.iter().any(was_there), "never in {phase:?} with {bytes_in} bytes, but: {were:?}");
    stack.leaves_nothing(Vec::from_iter(upstream)).await;
    done
}

/// A stack whose guard may see bodies dropped.
fn stack<C: Connect>(connector: C) -> Stack {
    Setup { leaks: ABANDONED, ..Setup::default() }.over(connector)
}

fn put(upstream: &Upstream) -> impl Fn() -> (Method, Uri, TestBody) + use<> {
    let uri = upstream.uri("/");
    move || (Method::PUT, uri.clone(), "hello".into())
}

// === establishing a connection ===

#[tokio::test]
async fn while_resolving() {
    let nobody = service_fn(|_: Name| pending::<Result<std::vec::IntoIter<SocketAddr>, BoxError>>());
    let request = || (Method::GET, uri("name.example"), TestBody::new());
    assert_eq!(
        cancelled_anywhere(stack(Tcp::with_resolver(nobody)), None, request, (Phase::Resolve, 0)).await,
        None
    );
}

#[tokio::test]
async fn while_dialing() {
    let hole = BlackHole::new();
    let request = || (Method::GET, uri(hole.addr()), TestBody::new());
    assert_eq!(cancelled_anywhere(stack(Tcp::new()), None, request, (Phase::Connect, 0)).await, None);
}

/// Before the server has said anything, and within what it says: a record of 512 bytes, of which the first is there.
#[tokio::test]
async fn while_shaking_hands() {
    let local = Certificate::local();
    let silent = Script::new().first_byte();
    for (name, script) in
        [("silence", silent.clone()), ("half a record", silent.write(&b"\x16\x03\x03\x02\x00\x02"[..]))]
    {
        let upstream =
            Hostile::new(Script::new().before_handshake(script.stall())).tls(local.clone()).start();
        let (stack, request) = (stack(Tls::new(Tcp::new(), local.client([]))), put(&upstream));
        let done = cancelled_anywhere(stack, Some(upstream), request, (Phase::Tls, 0)).await;
        assert_eq!(done, None, "{name}");
    }
}

#[tokio::test]
async fn before_the_settings() {
    let upstream = Hostile::new(Script::new().first_byte().stall()).start();
    let (stack, request) = (http2(), put(&upstream));
    assert_eq!(cancelled_anywhere(stack, Some(upstream), request, (Phase::Connect, 0)).await, None);
}

// === exchanging ===

#[tokio::test]
async fn while_it_is_sent_and_answered() {
    let half = Answer::new(200, "hello world");
    for (name, script, reached) in [
        ("nothing is read", Script::new().read_head().stall(), (Phase::Head, 0)),
        ("no answer", Script::new().read_head().read_body(), (Phase::Head, 0)),
        ("half a head", Script::new().exchange(half.clone().cut_head(20)), (Phase::Head, 20)),
        ("half a body", Script::new().exchange(half.clone().cut_body(5)), (Phase::Body, 40)),
        ("half a chunked body", Script::new().exchange(half.chunked(3).cut_body(10)), (Phase::Body, 50)),
    ] {
        let upstream = Hostile::new(script).start();
        let request = put(&upstream);
        let done = cancelled_anywhere(stack(Tcp::new()), Some(upstream), request, reached).await;
        assert_eq!(done, None, "{name}");
    }
}

#[tokio::test]
async fn while_an_upload_goes_on() {
    for body in
        [TestBody::new().data("x").pending(3).data("x").stall(), TestBody::new().endless(vec![b'x'; 100_000])]
    {
        let upstream = Hostile::new(Script::new().read_head().read_body()).start();
        let to = upstream.uri("/");
        let request = || (Method::PUT, to.clone(), body.clone());
        let done = cancelled_anywhere(stack(Tcp::new()), Some(upstream), request, (Phase::Send, 0)).await;
        assert_eq!(done, None);
    }
}

#[tokio::test]
async fn while_an_http2_stream_is_open() {
    use frames::*;
    let head = |script: Script, stream| script.write(Frame::response(stream, 200, &[]));
    for (name, script, phase) in [
        ("no answer", settled(&[]), Phase::Head),
        ("no window", settled(&[(4, 0)]), Phase::Send),
        ("no body", each(settled(&[]), 1, head), Phase::Body),
    ] {
        let upstream = Hostile::new(script).start();
        let request = put(&upstream);
        assert_eq!(cancelled_anywhere(http2(), Some(upstream), request, (phase, 0)).await, None, "{name}");
    }
}

/// And once not at all: it gets done somewhere on the way.
#[tokio::test]
async fn on_the_way_to_a_good_end() {
    let local = Certificate::local();
    for (name, http2, tls) in [("HTTP/1.1", false, false), ("HTTP/2", true, false), ("TLS", false, true)] {
        let upstream = Friendly::new(handler::echo);
        let upstream = if http2 { upstream.http2() } else { upstream };
        let upstream = if tls { upstream.tls(local.clone()) } else { upstream }.start();
        let setup = Setup { leaks: ABANDONED, http2, ..Setup::default() };
        let stack = setup.over(Tls::new(Tcp::new(), local.client([])));
        let request = put(&upstream);
        let done = cancelled_anywhere(stack, Some(upstream), request, (Phase::Body, 0)).await;
        assert_eq!(done, Some(Ok(b"hello".to_vec())), "{name}");
    }
}

// === waiting ===

#[tokio::test]
async fn while_waiting_for_a_permit_or_a_connection() {
    for (permits, connections, phase) in [(1, 8, Phase::Queue), (8, 1, Phase::Acquire)] {
        let upstream = Friendly::new(handler::hello).start();
        let pool = outbound::Pool::builder().max_connections(connections);
        let stack = Setup { permits, pool, ..Setup::default() }.over(Tcp::new());
        let request = || stack.request(Method::GET, upstream.uri("/"), TestBody::new());
        let held = stack.client.clone().oneshot(request()).await.unwrap();
        let mut calls = Vec::new();
        let done = cancel_at_each_poll(
            MOST,
            || {
                let mut request = request();
                calls.push(Exchange::track(&mut request));
                stack.client.clone().oneshot(request)
            },
            async |polls| {
                let (pool, limit) = (stack.stats(), stack.limiter.stats());
                assert_eq!(
                    (pool.waiting, limit.waiting, limit.in_use),
                    (0, 0, 1),
                    "cancelled at poll {polls}"
                );
            },
        );
        assert!(done.await.is_none());
        assert_eq!(calls.last().map(Exchange::phase), Some(phase), "{calls:?}");
        read(held.into_body()).await.unwrap();
        assert_eq!(upstream.sightings().requests.len(), 1);
        stack.leaves_nothing(vec![upstream]).await;
    }
}

/// Neither permit nor connection nor body is held while it sleeps, and none comes back when it is cancelled.
#[tokio::test]
async fn while_it_backs_off() {
    let busy = Answer::new(503, "busy").header("retry-after", "20");
    let upstream = Hostile::new(Script::new().forever(Script::new().exchange(busy))).start();
    let (stack, request) = (stack(Tcp::new()), put(&upstream));
    // The 503 was there, and read.
    assert_eq!(cancelled_anywhere(stack, Some(upstream), request, (Phase::Body, 50)).await, None);
}

#[tokio::test]
async fn after_any_number_of_frames() {
    for frames in 0..=6 {
        let answer = Answer::new(200, "hello world").chunked(2);
        let script = Script::new().read_head().dribble(answer, 1, Duration::from_micros(50)).stall();
        let upstream = Hostile::new(script).start();
        let stack = stack(Tcp::new());
        let request = stack.request(Method::GET, upstream.uri("/"), TestBody::new());
        let mut body = stack.client.clone().oneshot(request).await.unwrap().into_body();
        for _ in 0..frames {
            http_body_util::BodyExt::frame(&mut body).await;
        }
        drop(body);
        assert_eq!(stack.limiter.stats().in_use, 0, "the permit goes with the body, after {frames} frames");
        stack.leaves_nothing(vec![upstream]).await;
    }
}

#[tokio::test]
async fn after_any_number_of_frames_of_a_stream() {
    for frames in 0..=6 {
        let head = frames::asked().write(Frame::response(1, 200, &[]));
        let script = (0..6).fold(head, |script, _| script.write(Frame::data(1, "he")));
        let upstream = Hostile::new(script).start();
        let stack = http2();
        let request = stack.request(Method::GET, upstream.uri("/"), TestBody::new());
        let mut body = stack.client.clone().oneshot(request).await.unwrap().into_body();
        for _ in 0..frames {
            http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap();
        }
        drop(body);
        assert_eq!(stack.limiter.stats().in_use, 0, "the permit goes with the body, after {frames} frames");
        let resets = |seen: &Sightings| {
            let frames = seen.connections.iter().flat_map(|connection| &connection.frames);
            frames.filter(|frame| frame.kind == FrameKind::RST_STREAM).map(Frame::code).collect::<Vec<_>>()
        };
        upstream.until("the reset", |seen| !resets(seen).is_empty()).await;
        assert_eq!(resets(&upstream.sightings()), [Some(frames::CANCEL)], "after {frames} frames");
        assert_eq!(upstream.open(), 1, "the connection goes on, after {frames} frames");
        stack.leaves_nothing(vec![upstream]).await;
    }
}

// === panics ===

/// Calls and reads, in a task of its own: whether that panicked.
async fn panics(stack: &Stack, request: Request<TestBody>) -> bool {
    let client = stack.client.clone();
    let call = tokio::spawn(async move {
        let response = AssertUnwindSafe(client).0.oneshot(request).await?;
        read(response.into_body()).await
    });
    call.await.is_err_and(|error| error.is_panic())
}

/// A policy, a connector, a resolver: the panic is the caller's own, and nobody else's.
#[tokio::test]
async fn user_code_that_panics() {
    let upstream = || Friendly::new(handler::hello).start();
    let once = |what: &'static str| {
        let calls = Arc::new(AtomicUsize::new(0));
        move || assert_ne!(calls.fetch_add(1, SeqCst), 0, "{what} was told to panic")
    };

    let panic = once("the connector");
    let connector = service_fn(move |uri: Uri| {
        panic();
        Tcp::new().oneshot(uri)
    });
    let (stack, upstream_1) = (stack(connector), upstream());
    assert!(panics(&stack, stack.request(Method::PUT, upstream_1.uri("/"), "x".into())).await, "connector");
    stack.leaves_nothing(vec![upstream_1]).await;

    let panic = Arc::new(once("the dial"));
    let connector = service_fn(move |uri: Uri| {
        let panic = panic.clone();
        async move {
            panic();
            Tcp::new().oneshot(uri).await
        }
    });
    let (stack, upstream_2) = (self::stack(connector), upstream());
    assert!(panics(&stack, stack.request(Method::PUT, upstream_2.uri("/"), "x".into())).await, "dial");
    stack.leaves_nothing(vec![upstream_2]).await;

    let resolver = service_fn(|_: Name| async { panic!("the resolver was told to panic") });
    let resolver = resolver.map_result(|result: Result<std::vec::IntoIter<SocketAddr>, BoxError>| result);
    let stack = self::stack(Tcp::with_resolver(resolver));
    assert!(
        panics(&stack, stack.request(Method::GET, uri("name.example"), TestBody::new())).await,
        "resolver"
    );
    stack.leaves_nothing(Vec::new()).await;
}

#[tokio::test]
async fn a_policy_that_panics() {
    let upstream = Hostile::new(Script::new().exchange(Answer::new(503, "busy"))).start();
    let stack = Setup { leaks: ABANDONED, ..Setup::default() }.over_with(
        |outcome: &Outcome<'_>| match outcome.status() {
            Some(status) if status == 503 => panic!("the policy was told to panic"),
            _ => Decision::Stop,
        },
        Tcp::new(),
    );
    assert!(panics(&stack, stack.request(Method::PUT, upstream.uri("/"), "x".into())).await);
    stack.leaves_nothing(vec![upstream]).await;
}

/// What makes the body of a second attempt, what says which addresses may be dialed.
#[tokio::test]
async fn a_factory_or_an_admission_that_panics() {
    let busy = Hostile::new(Script::new().exchange(Answer::new(503, "busy"))).start();
    let stack = self::stack(Tcp::new());
    let mut request = stack.request(Method::PUT, busy.uri("/"), "x".into());
    BodyFactory::new(|| -> TestBody { panic!("the factory was told to panic") }).attach(&mut request);
    assert!(panics(&stack, request).await, "factory");
    stack.leaves_nothing(vec![busy]).await;

    let upstream = Friendly::new(handler::hello).start();
    let calls = AtomicUsize::new(0);
    let once = Tcp::new().admit(move |_| match calls.fetch_add(1, SeqCst) {
        0 => panic!("the admission was told to panic"),
        _ => Ok(()),
    });
    let stack = self::stack(once);
    assert!(panics(&stack, stack.request(Method::PUT, upstream.uri("/"), "x".into())).await, "admission");
    stack.leaves_nothing(vec![upstream]).await;
}

/// hyper's task polls it, and the panic comes back as the request body's failure.
#[tokio::test]
async fn a_request_body_that_panics() {
    for (name, body) in [
        ("at once", TestBody::new().panic()),
        ("later", TestBody::new().data("half").pending(2).panic()),
        (
            "after the server has answered",
            TestBody::new().data("half").delay(Duration::from_millis(20)).panic(),
        ),
    ] {
        let upstream = Hostile::new(Script::new().read_head().answer(200, "early")).start();
        let stack = Setup::default().over(Tcp::new());
        let line = stack.call(stack.request(Method::PUT, upstream.uri("/"), body)).await;
        assert!(line.starts_with("request_body/") || line == "200", "{name}: {line}");
        stack.leaves_nothing(vec![upstream]).await;
    }
}

/// Over HTTP/2 the caller polls it, so the panic is the caller's; the other streams go on.
#[tokio::test]
async fn a_request_body_that_panics_over_http2() {
    let gate = Gate::new("answer");
    let upstream = Friendly::new(handler::gated(&gate, handler::hello)).http2().start();
    let stack = http2();
    let other = tokio::spawn({
        let (client, request) =
            (stack.client.clone(), stack.request(Method::GET, upstream.uri("/"), TestBody::new()));
        async move { read(client.oneshot(request).await?.into_body()).await }
    });
    gate.arrived(1).await;
    let body = TestBody::new().data("half").pending(2).panic();
    assert!(panics(&stack, stack.request(Method::PUT, upstream.uri("/"), body)).await);
    gate.open();
    assert_eq!(other.await.unwrap().unwrap(), b"hello");
    stack.leaves_nothing(vec![upstream]).await;
}

/// The guard's callback runs in the drop of a body.
#[tokio::test]
async fn a_callback_that_panics() {
    let upstream = Hostile::new(Script::new().exchange(Answer::new(200, "hello world").cut_body(5))).start();
    let stack = Setup::default()
        .told_with(|leak: &Leak| panic!("the callback was told to panic: {leak}"), Tcp::new());
    let request = stack.request(Method::GET, upstream.uri("/"), TestBody::new());
    let client = stack.client.clone();
    let dropped = tokio::spawn(async move { drop(client.oneshot(request).await) });
    assert!(dropped.await.unwrap_err().is_panic());
    stack.leaves_nothing(vec![upstream]).await;
}

fn http2() -> Stack {
    Setup { leaks: ABANDONED, http2: true, ..Setup::default() }.over(Tcp::new())
}

const MOST: usize = 12;
const ABANDONED: &[&str] = &["abandoned"];
