//! The server closes connections that are idle: what the pool hides, and what it must not send twice (rule A).

mod support;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use outbound_core::{BoxError, Delivery, Failure, Idempotent, Kind, Phase};
use outbound_pool::{Pool, Stats, connect::Connect};
use outbound_testkit::{Answer, Gate, Hostile, Lives, Script, TestBody, Upstream};
use support::*;
use tokio::net::TcpStream;
use tower::service_fn;

fn hello() -> Answer {
    Answer::new(200, "hello")
}

/// One exchange, and then whatever `then` says.
fn hello_then(then: impl FnOnce(Script) -> Script) -> Script {
    then(Script::new().exchange(hello()))
}

fn post<B>(upstream: &Upstream, body: B) -> Request<B> {
    request(Method::POST, upstream.uri("/post"), body)
}

/// How a script goes on, so that the connection ends.
type End = fn(Script) -> Script;

/// Requests whose heads arrived, by connection.
fn heads(upstream: &Upstream) -> Vec<usize> {
    upstream.sightings().connections.iter().map(|connection| connection.requests).collect()
}

#[tokio::test]
async fn a_close_that_has_been_seen_costs_nothing_but_a_dial() {
    let ends: [(&str, End); 4] = [
        ("FIN", Script::close),
        ("RST", Script::reset),
        ("half-closed", Script::half_close),
        ("late 408", |script| script.write("HTTP/1.1 408 Request Timeout\r\n\r\n").close()),
    ];
    for (name, end) in ends {
        let goes = Gate::new("goes");
        let script = end(hello_then(|script| script.wait(&goes)));
        let upstream = Hostile::new(script).then(Script::hello()).start();
        let pool = pool();
        fetch(&pool, get(upstream.uri("/"))).await.expect(name);
        goes.open();
        let stats = until(&pool, "the close to be seen", |stats| stats.connections.open() == 0).await;
        assert_eq!(stats.totals.lost, 1, "{name}");
        fetch(&pool, post(&upstream, TestBody::from("once"))).await.expect(name);
        assert_eq!(heads(&upstream), [1, 1], "{name}");
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

/// The runtime does not turn between the server's close and the next request: only the socket itself can tell.
#[tokio::test]
async fn a_close_that_has_not_been_seen_is_found_by_asking_the_socket() {
    let ends: [(&str, End); 3] = [
        ("FIN", Script::close),
        ("RST", Script::reset),
        ("late 408", |script| script.write("HTTP/1.1 408 Request Timeout\r\n\r\n").close()),
    ];
    for (name, end) in ends {
        let methods = [Method::GET, Method::POST, Method::PUT];
        for (method, body) in methods.into_iter().zip([TestBody::new(), "body".into(), "body".into()]) {
            let goes = Gate::new("goes");
            let script = end(hello_then(|script| script.wait(&goes)));
            let upstream = Hostile::new(script).then(Script::hello()).own_thread().start();
            let pool = pool();
            fetch(&pool, get(upstream.uri("/"))).await.expect(name);
            quiet(&pool).await;
            goes.open();
            upstream.until_blocking("the close", |seen| seen.connections[0].ended.is_some());
            let response = fetch(&pool, request(method.clone(), upstream.uri("/"), body)).await;
            response.unwrap_or_else(|error| panic!("{name}, {method}: {error}"));
            assert_eq!(heads(&upstream), [1, 1], "{name}, {method}: nothing was sent to the dead");
            let totals = pool.stats().totals;
            assert_eq!((totals.reused, totals.lost), (0, 1), "{name}, {method}");
            leaves_nothing(name, pool, &[&upstream]).await;
        }
    }
}

#[tokio::test]
async fn several_dead_at_once_are_all_found() {
    const CALLS: usize = 8;
    let (goes, answers) = (Gate::new("goes"), Gate::new("answers"));
    let dies = Script::new().read_head().wait(&answers).respond(hello()).wait(&goes).close();
    let upstream = (0..CALLS - 1)
        .fold(Hostile::new(dies.clone()), |hostile, _| hostile.then(dies.clone()))
        .then(Script::hello())
        .own_thread()
        .start();
    let pool = build(Pool::builder().max_connections(CALLS));
    for round in 1..=2 {
        let calls: Vec<_> = (0..CALLS)
            .map(|_| {
                let (pool, request) = (pool.clone(), post(&upstream, TestBody::from("x")));
                tokio::spawn(async move { fetch(&pool, request).await.map(drop) })
            })
            .collect();
        if round == 1 {
            upstream.heads(CALLS).await;
            answers.open();
        }
        for call in calls {
            call.await.unwrap().unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        if round == 1 {
            goes.open();
            upstream.until_blocking("all to close", |seen| seen.open == 0);
        }
    }
    let seen = upstream.sightings();
    assert!(seen.max_open <= CALLS, "{seen}");
    assert_eq!(seen.requests.len(), 2 * CALLS, "nothing was sent twice");
    leaves_nothing("several", pool, &[&upstream]).await;
}

/// The server closes in the very moment in which the request is on its way: only the method tells whether it may be sent again.
#[tokio::test]
async fn a_request_that_meets_the_close_is_sent_again_only_if_that_is_safe() {
    let ends: [(&str, Kind, End); 3] = [
        ("read, then FIN", Kind::Closed, |script| script.read_head().read_body().close()),
        ("read, then RST", Kind::Reset, |script| script.read_head().read_body().reset()),
        ("FIN at the first byte", Kind::Closed, |script| script.first_byte().close()),
    ];
    // Beyond the 64 KiB that are kept for a second try.
    let large: &str = "x".repeat(40_000).leak();
    let slow = |data: &'static str| TestBody::new().data(data).delay(Duration::from_millis(1)).data(data);
    for (end_name, kind, end) in ends {
        for (name, method, body, idempotent, again) in [
            ("GET", Method::GET, None, false, true),
            ("HEAD", Method::HEAD, None, false, true),
            ("OPTIONS", Method::OPTIONS, None, false, true),
            ("DELETE", Method::DELETE, None, false, true),
            ("PUT without a body", Method::PUT, None, false, true),
            ("PUT with a body", Method::PUT, Some("body".into()), false, true),
            ("PUT with a slow body", Method::PUT, Some(slow("body")), false, true),
            ("PUT with a large body", Method::PUT, Some(slow(large)), false, false),
            ("POST without a body", Method::POST, None, false, false),
            ("POST with a body", Method::POST, Some("body".into()), false, false),
            ("POST said to be idempotent", Method::POST, Some(slow("body")), true, true),
            ("PATCH", Method::PATCH, None, false, false),
        ] {
            if name == "PUT with a large body" && end_name == "FIN at the first byte" {
                // It is a small one still if the close is seen before its second half is taken: nobody can tell.
                continue;
            }
            let case = format!("{name}, {end_name}");
            let closes = Script::new().exchange(hello().header("connection", "close"));
            let upstream = Hostile::new(end(hello_then(|script| script))).then(closes).start();
            let pool = pool();
            fetch(&pool, get(upstream.uri("/"))).await.expect(&case);
            let lives = Lives::new();
            let body = body.unwrap_or_default();
            let length = body.size_hint().exact().unwrap();
            let body = body.counted(&lives);
            let mut request = request(method, upstream.uri("/again?x=y"), body);
            request.headers_mut().append("x-twice", "one".parse().unwrap());
            request.headers_mut().append("x-twice", "two".parse().unwrap());
            if idempotent {
                Idempotent.attach(&mut request);
            }
            let result = send(&pool, request).await;
            if again {
                drop(result.unwrap_or_else(|error| panic!("{case}: {error}")));
                upstream
                    .until("the second", |seen| seen.requests.iter().any(|r| r.connection == 1 && r.complete))
                    .await;
                let requests = upstream.sightings().requests;
                let (last, fields) = (requests.last().unwrap(), ["one", "two"]);
                assert_eq!(last.body.len() as u64, length, "{case}");
                assert_eq!((last.connection, &*last.target), (1, "/again?x=y"), "{case}");
                assert_eq!(last.headers.get_all("x-twice").iter().collect::<Vec<_>>(), fields, "{case}");
                assert_eq!(last.headers.get_all("host").iter().count(), 1, "{case}");
            } else {
                let failure =
                    Failure::of(&*result.err().unwrap_or_else(|| panic!("{case}: it went through")));
                assert_eq!((failure.kind(), failure.delivery()), (kind, Delivery::Maybe), "{case}");
                assert_eq!(upstream.sightings().connections.len(), 1, "{case}: sent again");
            }
            assert_eq!(quiet(&pool).await.connections.open(), 0, "{case}: neither can be used again");
            assert_eq!(lives.alive(), 0, "{case}: the body is still alive");
            leaves_nothing(&case, pool, &[&upstream]).await;
        }
    }
}

#[tokio::test]
async fn a_fresh_connection_that_dies_is_the_callers_to_know() {
    for (name, script, kind) in [
        ("FIN", Script::new().read_head().close(), Kind::Closed),
        ("RST", Script::new().read_head().reset(), Kind::Reset),
    ] {
        let upstream = Hostile::new(script).start();
        let pool = pool();
        let error = fetch(&pool, get(upstream.uri("/"))).await.expect_err(name);
        let failure = Failure::of(&*error);
        let told = (failure.kind(), failure.phase(), failure.delivery());
        assert_eq!(told, (kind, Some(Phase::Head), Delivery::Maybe), "{name}: {error}");
        assert_eq!(heads(&upstream), [1], "{name}: sent again");
        assert_eq!(quiet(&pool).await.connections.open(), 0, "{name}");
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

#[tokio::test]
async fn a_byte_of_response_is_an_answer_and_nothing_is_sent_again() {
    let upstream = Hostile::new(hello_then(|script| script.read_head().write("HTT").close())).start();
    let pool = pool();
    fetch(&pool, get(upstream.uri("/"))).await.unwrap();
    let error = fetch(&pool, get(upstream.uri("/"))).await.unwrap_err();
    let failure = Failure::of(&*error);
    let told = (failure.kind(), failure.phase(), failure.delivery());
    assert_eq!(told, (Kind::Truncated, Some(Phase::Head), Delivery::Maybe), "{error}");
    assert_eq!((heads(&upstream), quiet(&pool).await.connections.open()), (vec![2], 0));
    leaves_nothing("a byte", pool, &[&upstream]).await;
}

/// In the background, so that the test goes on meanwhile.
fn start<C: Connect>(
    pool: &Pool<C>,
    request: Request<impl http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static>,
) -> tokio::task::JoinHandle<Result<(), BoxError>> {
    let pool = pool.clone();
    tokio::spawn(async move { fetch(&pool, request).await.map(drop) })
}

fn at(upstream: &Upstream, path: &str) -> Request<Empty<Bytes>> {
    get(upstream.uri(path))
}

fn targets(upstream: &Upstream, connection: usize) -> Vec<String> {
    let requests = upstream.sightings().requests.into_iter();
    requests.filter(|request| request.connection == connection).map(|request| request.target).collect()
}

#[tokio::test]
async fn nothing_is_sent_a_third_time() {
    let dies = Script::new().read_head().close();
    let upstream = Hostile::new(hello_then(|script| script.read_head().close())).then(dies).start();
    let pool = pool();
    fetch(&pool, at(&upstream, "/")).await.unwrap();
    let error = fetch(&pool, at(&upstream, "/call")).await.unwrap_err();
    let failure = Failure::of(&*error);
    assert_eq!((failure.kind(), failure.delivery()), (Kind::Closed, Delivery::Maybe), "{error}");
    assert_eq!((targets(&upstream, 0), targets(&upstream, 1)), (paths(&["/", "/call"]), paths(&["/call"])));
    leaves_nothing("thrice", pool, &[&upstream]).await;
}

/// The second try is the last: it does not risk a connection that another exchange has just finished with.
#[tokio::test]
async fn what_is_sent_again_waits_for_a_connection_of_its_own() {
    let (dials, frees) = (Gate::new("third dial"), Gate::new("frees"));
    let first = hello_then(|script| script.read_head().close());
    let second = hello_then(|script| script.read_head().wait(&frees).respond(hello()).read_head().close());
    let upstream = Hostile::new(first).then(second).then(Script::hello()).start();
    let pool = Pool::builder().max_connections(2).build(gated(2, &dials)).unwrap();
    let one = send(&pool, at(&upstream, "/")).await.unwrap().into_body();
    fetch(&pool, at(&upstream, "/")).await.unwrap();
    let busy = start(&pool, at(&upstream, "/busy"));
    upstream.heads(3).await;
    one.collect().await.unwrap();
    let call = start(&pool, at(&upstream, "/call"));
    dials.arrived(1).await;
    frees.open();
    busy.await.unwrap().unwrap();
    quiet_but(&pool, 1).await;
    assert!(!call.is_finished());
    dials.open();
    call.await.unwrap().unwrap();
    assert_eq!(targets(&upstream, 0), paths(&["/", "/call"]));
    assert_eq!(targets(&upstream, 1), paths(&["/", "/busy"]));
    assert_eq!(targets(&upstream, 2), paths(&["/call"]));
    leaves_nothing("of its own", pool, &[&upstream]).await;
}

/// Another idle connection may be as dead as the first: it is not tried, although it is there.
#[tokio::test]
async fn the_second_time_is_not_spent_on_another_idle_connection() {
    let dies = hello_then(|script| script.read_head().close());
    let upstream = Hostile::new(dies.clone()).then(dies).then(Script::hello()).start();
    let pool = build(Pool::builder().max_connections(2));
    let one = send(&pool, at(&upstream, "/")).await.unwrap().into_body();
    fetch(&pool, at(&upstream, "/")).await.unwrap();
    one.collect().await.unwrap();
    fetch(&pool, at(&upstream, "/call")).await.unwrap();
    assert_eq!(targets(&upstream, 2), paths(&["/call"]), "{}", upstream.sightings());
    assert!(upstream.max_open() <= 2, "{}", upstream.sightings());
    leaves_nothing("another", pool, &[&upstream]).await;
}

fn paths(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|&path| path.to_owned()).collect()
}

async fn quiet_but<C>(pool: &Pool<C>, dialing: usize) {
    let left = |stats: &Stats| busy(stats.connections) == dialing && stats.connections.dialing == dialing;
    until(pool, "nothing but dials", left).await;
}

/// FAULTS, section 5: the waiter transparently dials, and keeps its position.
#[tokio::test]
async fn who_is_handed_a_dead_connection_is_still_the_first_in_the_queue() {
    let goes = Gate::new("goes");
    let upstream = Hostile::new(hello_then(|script| script.wait(&goes).close()))
        .then(Script::hello())
        .own_thread()
        .start();
    let pool = build(Pool::builder().max_connections(1));
    let body = send(&pool, at(&upstream, "/")).await.unwrap().into_body();
    let waiters: Vec<_> = ["/1", "/2", "/3"]
        .into_iter()
        .map(|path| start(&pool, post(&upstream, TestBody::from("x")).map_path(path)))
        .collect();
    until(&pool, "three to wait", |stats| stats.waiting == 3).await;
    let mut read = pin!(body.collect());
    // The end of the body hands the connection to the first; before that one looks at it, it is closed.
    std::future::poll_fn(|cx| {
        let read = read.as_mut().poll(cx);
        if read.is_ready() {
            goes.open();
            upstream.until_blocking("the close", |seen| seen.connections[0].ended.is_some());
        }
        read
    })
    .await
    .unwrap();
    for waiter in waiters {
        waiter.await.unwrap().unwrap();
    }
    assert_eq!((targets(&upstream, 0), targets(&upstream, 1)), (paths(&["/"]), paths(&["/1", "/2", "/3"])));
    leaves_nothing("handed dead", pool, &[&upstream]).await;
}

trait MapPath {
    fn map_path(self, path: &str) -> Self;
}

impl<B> MapPath for Request<B> {
    fn map_path(mut self, path: &str) -> Self {
        let uri = Uri::builder().scheme("http").authority(self.uri().authority().unwrap().clone());
        *self.uri_mut() = uri.path_and_query(path).build().unwrap();
        self
    }
}

/// Rule A for any method: the socket takes not one byte, so the whole request, with what hyper had taken of its body, goes elsewhere.
#[tokio::test]
async fn a_request_of_which_not_one_byte_was_written_is_sent_again_whole() {
    let big = || vec![b'x'; 3_000_000];
    for (name, body, read) in [
        ("one frame", TestBody::from("hello"), "hello".len()),
        ("frames", TestBody::new().data("he").data("llo"), 5),
        ("frames and pauses", TestBody::new().data("he").pending(1).data("llo").pending(1), 5),
        ("unknown length", TestBody::new().data("he").data("llo").unsized_hint().unannounced_end(), 5),
        ("trailers", TestBody::from("hello").trailer("x-sum", "5").unsized_hint(), 5),
        ("more than hyper buffers", TestBody::new().data(big()).data(big()), 6_000_000),
        ("empty", TestBody::new(), 0),
    ] {
        for method in [Method::POST, Method::PUT, Method::PATCH] {
            let case = format!("{name}, {method}");
            let goes = Gate::new("goes");
            let upstream = Hostile::new(hello_then(|script| script.wait(&goes).reset()))
                .then(Script::hello())
                .own_thread()
                .start();
            // hyper-util's own connector knows no `Liveness`: the pool cannot ask.
            let pool = Pool::builder().build(HttpConnector::new()).unwrap();
            fetch(&pool, get(upstream.uri("/"))).await.expect(&case);
            quiet(&pool).await;
            goes.open();
            upstream.until_blocking("the reset", |seen| seen.connections[0].ended.is_some());
            let lives = Lives::new();
            let mut request = request(method.clone(), upstream.uri("/again"), body.clone().counted(&lives));
            request.headers_mut().insert("trailer", "x-sum".parse().unwrap());
            fetch(&pool, request).await.unwrap_or_else(|error| panic!("{case}: {error}"));
            let last = upstream.requests(2).await.pop().unwrap();
            assert_eq!((last.connection, last.body.len()), (1, read), "{case}");
            if name == "trailers" {
                assert!(last.raw.ends_with(b"0\r\nx-sum: 5\r\n\r\n"), "{case}: {:?}", last.raw);
            }
            assert_eq!(
                upstream.sightings().connections[0].bytes_in,
                head_len(&upstream),
                "{case}: some of it was sent"
            );
            quiet(&pool).await;
            assert_eq!(lives.alive(), 0, "{case}");
            leaves_nothing(&case, pool, &[&upstream]).await;
        }
    }
}

fn head_len(upstream: &Upstream) -> u64 {
    upstream.sightings().requests[0].raw.len() as u64
}

/// A dial that was overtaken ends on the shelf: it has served nobody, but it has been idle, and the server may have closed it.
#[tokio::test]
async fn a_connection_that_has_only_been_idle_is_no_fresh_one() {
    let (dials, holds) = (Gate::new("second dial"), Gate::new("holds"));
    let first = Script::new().exchange(hello()).exchange(hello()).read_head().wait(&holds).respond(hello());
    let upstream = Hostile::new(first).then(Script::new().read_head().close()).then(Script::hello()).start();
    let pool = Pool::builder().build(gated(1, &dials)).unwrap();
    let body = send(&pool, at(&upstream, "/")).await.unwrap().into_body();
    let overtakes = start(&pool, at(&upstream, "/overtakes"));
    dials.arrived(1).await;
    body.collect().await.unwrap();
    overtakes.await.unwrap().unwrap();
    let held = start(&pool, at(&upstream, "/held"));
    upstream.heads(3).await;
    dials.open();
    until(&pool, "the dial to end on the shelf", |stats| stats.connections.idle == 1).await;
    fetch(&pool, at(&upstream, "/call")).await.unwrap();
    assert_eq!((targets(&upstream, 1), targets(&upstream, 2)), (paths(&["/call"]), paths(&["/call"])));
    holds.open();
    held.await.unwrap().unwrap();
    leaves_nothing("only idle", pool, &[&upstream]).await;
}

/// What was written to the first connection stays written, whatever happens to the second.
#[tokio::test]
async fn a_dial_that_fails_after_the_request_was_sent_once_does_not_say_that_nothing_was_sent() {
    let upstream = Hostile::new(hello_then(|script| script.read_head().close())).start();
    let dials = Arc::new(AtomicUsize::new(0));
    let connector = service_fn(move |uri: Uri| {
        let number = dials.fetch_add(1, SeqCst);
        async move {
            if number > 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
            }
            let address: std::net::SocketAddr = uri.authority().unwrap().as_str().parse().unwrap();
            TcpStream::connect(address).await.map(TokioIo::new)
        }
    });
    let pool = Pool::builder().build(connector).unwrap();
    fetch(&pool, at(&upstream, "/")).await.unwrap();
    let error = fetch(&pool, at(&upstream, "/")).await.unwrap_err();
    let failure = Failure::of(&*error);
    assert_eq!((failure.kind(), failure.phase()), (Kind::Refused, Some(Phase::Connect)), "{error}");
    assert_eq!(failure.delivery(), Delivery::Maybe, "{error}");
    assert_eq!(failure.snapshot().unwrap().bytes_out, head_len(&upstream), "{error}");
    assert_eq!(quiet(&pool).await.connections.open(), 0);
}
