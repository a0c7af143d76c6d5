//! One exchange after another: when a connection may be used again, and what goes over it.

mod support;

use std::{
    collections::VecDeque,
    convert::Infallible,
    marker::PhantomPinned,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use outbound_core::{Attempt, BoxError, ConnectionInfo, Exchange, Phase, Timings};
use outbound_pool::{Body, Pool, connect::Tcp};
use outbound_testkit::{Answer, Friendly, Gate, Hostile, Received, Script, TestBody, Upstream, handler};
use support::*;
use tokio::net::TcpStream;
use tower::service_fn;

/// Reads data until the body says that it has ended, and not once more.
async fn read_exactly(body: &mut Body) -> Bytes {
    let mut all = Vec::new();
    while !body.is_end_stream() {
        match body.frame().await {
            Some(frame) => all.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default()),
            None => break,
        }
    }
    all.into()
}

const REQUESTS: usize = 20;

#[test]
fn sequential_requests_share_one_connection_whatever_ends_the_response() {
    let hello = || Answer::new(200, "hello");
    for (name, method, answer, body) in [
        ("content-length", Method::GET, hello(), "hello"),
        ("content-length 0", Method::GET, Answer::new(200, ""), ""),
        ("chunked", Method::GET, hello().chunked(2), "hello"),
        ("chunked, empty", Method::GET, Answer::new(200, "").chunked(1), ""),
        (
            "trailers",
            Method::GET,
            hello().chunked(2).header("trailer", "x-sum").trailer("x-sum", "5"),
            "hello",
        ),
        ("HEAD", Method::HEAD, hello().cut_body(0), ""),
        ("204", Method::GET, Answer::new(204, ""), ""),
        ("204 with a length", Method::GET, Answer::new(204, "").header("content-length", "5"), ""),
        ("304 with a length", Method::GET, Answer::new(304, "").header("content-length", "5"), ""),
        ("HTTP/1.0 keep-alive", Method::GET, hello().http_10().header("connection", "keep-alive"), "hello"),
        ("interim response", Method::GET, Answer::new(200, "hello"), "hello"),
        ("two equal lengths", Method::GET, hello().header("content-length", "5"), "hello"),
        ("a large body", Method::GET, Answer::new(200, vec![b'x'; 300_000]), ""),
    ] {
        let script = match name {
            "interim response" => Script::new().read_head().respond(Answer::new(103, "")).respond(answer),
            _ => Script::new().exchange(answer),
        };
        let test = async || {
            let upstream = Hostile::new(Script::new().forever(script.clone())).start();
            let pool = pool();
            for number in 0..REQUESTS {
                let request = request(method.clone(), upstream.uri("/"), Empty::<Bytes>::new());
                let mut response = send(&pool, request).await.expect(name).into_body();
                let read = read_exactly(&mut response).await;
                if name != "a large body" {
                    assert_eq!(read, body, "{name}, request {number}");
                }
                // Before the caller saw the end, the connection was back: no turn of the runtime in between.
                assert_eq!(busy(pool.stats().connections), 0, "{name}, request {number}");
            }
            assert_eq!(upstream.sightings().connections.len(), 1, "{name}: {}", upstream.sightings());
            assert_eq!(pool.stats().totals.reused, REQUESTS as u64 - 1, "{name}");
            leaves_nothing(name, pool, &[&upstream]).await;
        };
        on_each_runtime(test);
    }
}

#[test]
fn a_connection_that_may_not_be_used_again_is_not() {
    let hello = || Answer::new(200, "hello");
    let raw = |bytes: &'static str| Script::new().read_head().read_body().write(bytes);
    let twice =
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    let unasked =
        |answer: Answer| Script::new().exchange(answer).write("HTTP/1.1 408 Request Timeout\r\n\r\n");
    for (name, method, script) in [
        ("connection: close", Method::GET, Script::new().exchange(hello().header("connection", "close"))),
        ("close in a list", Method::GET, Script::new().exchange(hello().header("connection", "x-y, Close"))),
        (
            "close in a second field",
            Method::GET,
            Script::new().exchange(hello().header("connection", "keep-alive").header("connection", "close")),
        ),
        ("HTTP/1.0", Method::GET, Script::new().exchange(hello().http_10())),
        ("close-delimited", Method::GET, Script::new().exchange(hello().until_close()).close()),
        (
            "content-length and chunked",
            Method::GET,
            raw(
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            ),
        ),
        (
            "chunked twice",
            Method::GET,
            raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ),
        (
            "chunked in two fields",
            Method::GET,
            raw(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            ),
        ),
        ("101 nobody asked for", Method::GET, raw("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n")),
        ("a second response", Method::GET, raw(twice)),
        ("a late 408", Method::GET, unasked(hello())),
        ("a late 408 after 204", Method::GET, unasked(Answer::new(204, ""))),
        ("a late 408 after HEAD", Method::HEAD, unasked(hello().cut_body(0))),
        ("HEAD with a body", Method::HEAD, Script::new().exchange(hello())),
        ("a CONNECT that was granted", Method::CONNECT, raw("HTTP/1.1 200 OK\r\n\r\n")),
    ] {
        let test = async || {
            // A connection plays its script once, and then is silent: a second request on it would never be answered.
            let upstream = Hostile::new(script.clone()).start();
            let pool = pool();
            for number in 0..4 {
                let request = request(method.clone(), upstream.uri("/"), Empty::<Bytes>::new());
                let mut response = send(&pool, request).await.expect(name).into_body();
                let read = read_exactly(&mut response).await;
                assert!(read.is_empty() || read == "hello", "{name}, request {number}: {read:?}");
                if name.starts_with("a late") {
                    // What comes after the next request was sent cannot be told from its answer; this comes before.
                    until(&pool, "the stray bytes to be noticed", |stats| stats.connections.idle == 0).await;
                }
            }
            let seen = upstream.sightings();
            assert_eq!(seen.connections.len(), 4, "{name}: {seen}");
            assert!(seen.connections.iter().all(|connection| connection.requests == 1), "{name}: {seen}");
            leaves_nothing(name, pool, &[&upstream]).await;
        };
        on_each_runtime(test);
    }
}

/// What comes when nobody has asked for anything is no part of the exchange before it.
#[tokio::test]
async fn stray_bytes_are_nobodys() {
    let goes = Gate::new("goes");
    let script = Script::new()
        .exchange(Answer::new(204, ""))
        .wait(&goes)
        .write("HTTP/1.1 408 Request Timeout\r\n\r\n");
    let upstream = Hostile::new(script).start();
    let pool = pool();
    let mut request = get(upstream.uri("/"));
    let exchange = Exchange::track(&mut request);
    fetch(&pool, request).await.unwrap();
    let read = exchange.bytes_in();
    goes.open();
    until(&pool, "them to be noticed", |stats| stats.connections.open() == 0).await;
    assert_eq!(exchange.bytes_in(), read);
    leaves_nothing("stray", pool, &[&upstream]).await;
}

/// On one thread hyper is through with the connection when the caller reads the end: it is not even offered.
#[tokio::test]
async fn a_connection_that_is_over_with_its_response_is_never_idle() {
    for (name, answer) in
        [("close-delimited", Answer::new(200, "hello").until_close()), ("length", Answer::new(200, "hello"))]
    {
        let upstream = Hostile::new(Script::new().exchange(answer).close()).own_thread().start();
        let pool = pool();
        let mut body = send(&pool, get(upstream.uri("/"))).await.expect(name).into_body();
        upstream.until("the close", |seen| seen.open == 0).await;
        tokio::task::yield_now().await;
        while body.frame().await.is_some() {}
        let stats = pool.stats();
        assert_eq!((stats.connections.idle, stats.totals.lost), (0, 0), "{name}: {stats:?}");
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

#[tokio::test]
async fn a_request_that_asks_the_server_to_close_ends_its_connection() {
    let upstream = Hostile::new(Script::hello()).start();
    let pool = pool();
    for _ in 0..3 {
        let mut request = get(upstream.uri("/"));
        request.headers_mut().insert(header::CONNECTION, "close".parse().unwrap());
        fetch(&pool, request).await.unwrap();
    }
    assert_eq!(upstream.sightings().connections.len(), 3);
    leaves_nothing("close", pool, &[&upstream]).await;
}

#[tokio::test]
async fn a_body_dropped_half_way_closes_its_connection_at_once() {
    for (name, answer) in [
        ("content-length", Answer::new(200, vec![b'x'; 10_000_000])),
        ("chunked", Answer::new(200, vec![b'x'; 10_000_000]).chunked(1000)),
        ("cut", Answer::new(200, "hello world").cut_body(5)),
    ] {
        for frames in 0..3 {
            let upstream = Hostile::new(Script::new().exchange(answer.clone())).start();
            let pool = build(Pool::builder().drain(0, Duration::ZERO));
            let mut body = send(&pool, get(upstream.uri("/"))).await.expect(name).into_body();
            for _ in 0..frames.min(if name == "cut" { 1 } else { 3 }) {
                body.frame().await.unwrap().unwrap();
            }
            drop(body);
            assert_eq!(pool.stats().connections.active, 0, "{name}: no longer in use");
            assert!(upstream.ended(0).await.by_peer(), "{name}");
            leaves_nothing(name, pool, &[&upstream]).await;
        }
    }
}

/// hyper 1.12 keeps a connection whose response is complete and whose upload is not for ever.
#[tokio::test]
async fn a_response_before_the_end_of_the_upload_ends_its_connection() {
    let early = Script::new().read_head().respond(Answer::new(413, "too large"));
    let goes_on = Gate::new("goes on");
    for (name, script, body) in [
        ("the server stays silent", early.clone().stall(), TestBody::new().data("half").stall()),
        (
            "the upload never ends",
            early.clone().read_exactly(usize::MAX),
            TestBody::new().endless(vec![0; 9000]),
        ),
        (
            "the upload ends later",
            early.clone().read_body(),
            TestBody::new().data("half").wait(&goes_on).data("rest"),
        ),
    ] {
        goes_on.close();
        let upstream = Hostile::new(script).start();
        let pool = pool();
        let response = fetch(&pool, request(Method::POST, upstream.uri("/"), body)).await.expect(name);
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE, "{name}");
        assert_eq!(pool.stats().connections.idle, 0, "{name}: not free for others");
        goes_on.open();
        upstream.ended(0).await;
        assert_eq!(pool.stats().totals.reused, 0, "{name}");
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

/// RFC 9110, 10.1.1. hyper does not wait for the 100, so that the body may be on its way already.
#[tokio::test]
async fn a_final_answer_where_the_request_expects_100_continue() {
    for (name, script, reused) in [
        (
            "100 first",
            Script::new().read_head().respond(Answer::new(100, "")).read_body().answer(200, "ok"),
            1,
        ),
        ("the body is read", Script::new().read_head().read_body().answer(417, "no"), 1),
        ("the body is not read", Script::new().read_head().answer(417, "no").close(), 0),
    ] {
        let upstream = Hostile::new(Script::new().forever(script)).start();
        let pool = pool();
        for _ in 0..2 {
            let mut request = request(Method::POST, upstream.uri("/"), TestBody::from("hello"));
            request.headers_mut().insert(header::EXPECT, "100-continue".parse().unwrap());
            let answered = fetch(&pool, request).await.expect(name);
            assert_eq!(answered.status() == StatusCode::OK, name == "100 first", "{name}");
            if reused == 0 {
                until(&pool, "the close", |stats| stats.connections.open() == 0).await;
            }
        }
        assert_eq!(quiet(&pool).await.totals.reused, reused, "{name}");
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

/// A body that hyper stops polling once the length is reached, before the body has said that it is over.
#[tokio::test]
async fn an_upload_whose_length_is_reached_is_over_although_its_end_is_unannounced() {
    for (name, length, body) in [
        ("exact hint", None, TestBody::new().data("he").data("llo").unannounced_end()),
        ("declared", Some("5"), TestBody::new().data("he").data("llo").unsized_hint().unannounced_end()),
        ("unknown", None, TestBody::new().data("he").data("llo").unsized_hint().unannounced_end()),
        ("empty, unknown", None, TestBody::new().unsized_hint().unannounced_end()),
    ] {
        for method in [Method::POST, Method::GET] {
            let upstream = Hostile::new(Script::hello()).start();
            let pool = pool();
            for _ in 0..3 {
                let mut request = request(method.clone(), upstream.uri("/"), body.clone());
                if let Some(length) = length {
                    request.headers_mut().insert(header::CONTENT_LENGTH, length.parse().unwrap());
                }
                fetch(&pool, request).await.expect(name);
            }
            let seen = upstream.sightings();
            assert_eq!(seen.connections.len(), 1, "{name}, {method}: {seen}");
            leaves_nothing(name, pool, &[&upstream]).await;
        }
    }
}

// === what goes over the wire ===

async fn sent<B>(pool: &Pool<Tcp>, upstream: &Upstream, request: Request<B>) -> Received
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    let before = upstream.sightings().requests.len();
    fetch(pool, request).await.unwrap();
    upstream.requests(before + 1).await.pop().unwrap()
}

#[tokio::test]
async fn the_target_is_in_origin_form_and_the_host_is_named_once() {
    let upstream = Hostile::new(Script::hello()).start();
    let port = upstream.addr().port();
    let at = |rest: &str| rest.replace("PORT", &port.to_string());
    let pool = pool();
    for (name, method, uri, target, host) in [
        ("path and query", Method::GET, "http://127.0.0.1:PORT/a/b?c=d&e", "/a/b?c=d&e", "127.0.0.1:PORT"),
        ("no path", Method::GET, "http://127.0.0.1:PORT", "/", "127.0.0.1:PORT"),
        ("only a query", Method::GET, "http://127.0.0.1:PORT?q", "/?q", "127.0.0.1:PORT"),
        ("userinfo", Method::GET, "http://me:secret@127.0.0.1:PORT/x", "/x", "127.0.0.1:PORT"),
        ("CONNECT", Method::CONNECT, "http://me:secret@127.0.0.1:PORT/x", "127.0.0.1:PORT", "127.0.0.1:PORT"),
        ("upper case", Method::GET, "HTTP://LocalHost:PORT/X", "/X", "localhost:PORT"),
    ] {
        let received =
            sent(&pool, &upstream, request(method, at(uri).parse().unwrap(), Empty::<Bytes>::new())).await;
        assert_eq!(received.target, at(target), "{name}");
        assert_eq!(received.headers.get_all(header::HOST).iter().collect::<Vec<_>>(), [&at(host)], "{name}");
        let raw = String::from_utf8(received.raw).unwrap();
        assert!(raw.contains("HTTP/1.1\r\n") && !raw.contains("secret"), "{name}: {raw}");
    }
    let mut own_host = get(upstream.uri("/"));
    own_host.headers_mut().insert(header::HOST, "virtual.example".parse().unwrap());
    let received = sent(&pool, &upstream, own_host).await;
    assert_eq!(received.headers.get_all(header::HOST).iter().collect::<Vec<_>>(), ["virtual.example"]);
    let mut http2 = get(upstream.uri("/"));
    *http2.version_mut() = Version::HTTP_2;
    let received = sent(&pool, &upstream, http2).await;
    assert!(received.raw.starts_with(b"GET / HTTP/1.1\r\n"), "another version than asked for");
    leaves_nothing("targets", pool, &[&upstream]).await;
}

#[tokio::test]
async fn a_default_port_is_not_in_the_host_field_and_an_ipv6_literal_keeps_its_brackets() {
    let upstream = Friendly::new(handler::hello).start();
    let address = upstream.addr();
    // Whatever the URI says.
    let connector =
        service_fn(move |_: Uri| async move { TcpStream::connect(address).await.map(TokioIo::new) });
    let pool = Pool::builder().build(connector).unwrap();
    for (uri, host) in [
        ("http://example.com/", "example.com"),
        ("http://example.com:80/", "example.com"),
        ("http://example.com:/", "example.com"),
        ("http://example.com:443/", "example.com:443"),
        ("http://[::1]/", "[::1]"),
        ("http://[::1]:8080/", "[::1]:8080"),
        ("http://user@[::1]:8080/", "[::1]:8080"),
    ] {
        let before = upstream.sightings().requests.len();
        fetch(&pool, get(uri.parse().unwrap())).await.unwrap();
        let received = upstream.requests(before + 1).await.pop().unwrap();
        assert_eq!(received.headers[header::HOST], host, "{uri}");
    }
    // Spellings of one origin share its connections.
    assert_eq!(upstream.sightings().connections.len(), 4);
    leaves_nothing("hosts", pool, &[]).await;
}

#[tokio::test]
async fn an_ipv6_literal_is_connected_to() {
    let Ok(listener) = tokio::net::TcpListener::bind("[::1]:0").await else {
        return eprintln!("skipped: no IPv6 on this machine");
    };
    let port = listener.local_addr().unwrap().port();
    let serve = async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 1000];
        let read = socket.read(&mut request).await.unwrap();
        socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        String::from_utf8(request[..read].to_vec()).unwrap()
    };
    let pool = pool();
    let (response, request) =
        tokio::join!(fetch(&pool, get(format!("http://[::1]:{port}/").parse().unwrap())), serve);
    assert_eq!(response.unwrap().status(), StatusCode::NO_CONTENT);
    assert!(request.contains(&format!("host: [::1]:{port}\r\n")), "{request}");
}

// === request bodies ===

pin_project_lite::pin_project! {
    /// Data that is not `Bytes`, in a body that may not be moved and says neither its length nor its end.
    #[derive(Default)]
    struct Odd {
        frames: VecDeque<VecDeque<u8>>,
        #[pin]
        pinned: PhantomPinned,
    }
}

impl http_body::Body for Odd {
    type Data = VecDeque<u8>;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<VecDeque<u8>>, Infallible>>> {
        Poll::Ready(self.project().frames.pop_front().map(|frame| Ok(Frame::data(frame))))
    }
}

/// Two halves, so that the data is not contiguous.
fn odd(frames: &[&str]) -> Odd {
    let frame = |data: &&str| {
        let mut frame = VecDeque::from(data.as_bytes()[1..].to_vec());
        frame.push_front(data.as_bytes()[0]);
        frame
    };
    Odd { frames: frames.iter().map(frame).collect(), pinned: PhantomPinned }
}

#[tokio::test]
async fn bodies_of_any_type_go_through_one_pool() {
    let upstream = Hostile::new(Script::hello()).start();
    let pool = pool();
    let (length, chunked) = ("content-length", "transfer-encoding");
    let check = |name: &str, received: &Received, body: &str, framing: Option<(&str, &str)>| {
        assert_eq!(received.body, body.as_bytes(), "{name}");
        for field in [length, chunked] {
            let expected = framing.filter(|&(name, _)| name == field).map(|(_, value)| value);
            let found = received.headers.get(field).map(|value| value.to_str().unwrap());
            assert_eq!(found, expected, "{name}: {field}");
        }
    };
    let post = |body| request(Method::POST, upstream.uri("/"), body);

    let received =
        sent(&pool, &upstream, request(Method::POST, upstream.uri("/"), Full::new("full".as_bytes()))).await;
    check("full", &received, "full", Some((length, "4")));
    let received =
        sent(&pool, &upstream, request(Method::POST, upstream.uri("/"), odd(&["not", "contiguous"]))).await;
    check("odd", &received, "notcontiguous", Some((chunked, "chunked")));
    let received = sent(&pool, &upstream, request(Method::POST, upstream.uri("/"), "text".to_owned())).await;
    check("string", &received, "text", Some((length, "4")));
    let received = sent(&pool, &upstream, get(upstream.uri("/"))).await;
    check("no body", &received, "", None);
    for (name, body, read, framing) in [
        ("frames", TestBody::new().data("a").pending(2).data("").data("bc"), "abc", (length, "3")),
        ("unknown length", TestBody::new().data("a").data("bc").unsized_hint(), "abc", (chunked, "chunked")),
        ("end unannounced", TestBody::new().data("a").unannounced_end(), "a", (length, "1")),
        ("unknown and empty", TestBody::new().unsized_hint().unannounced_end(), "", (chunked, "chunked")),
        // RFC 9110, 8.6: a method that expects content says that there is none.
        ("empty", TestBody::new(), "", (length, "0")),
        ("pending", TestBody::new().pending(3).data("a").pending(3), "a", (length, "1")),
    ] {
        check(name, &sent(&pool, &upstream, post(body)).await, read, Some(framing));
    }
    let boxed = TestBody::from("boxed").map_err(BoxError::from).boxed();
    let received = sent(&pool, &upstream, request(Method::PUT, upstream.uri("/"), boxed)).await;
    check("boxed", &received, "boxed", Some((length, "5")));

    let mut declared = post(TestBody::new().data("he").data("llo").unsized_hint());
    declared.headers_mut().insert(length, "5".parse().unwrap());
    check("declared length", &sent(&pool, &upstream, declared).await, "hello", Some((length, "5")));

    let mut trailers = post(TestBody::from("hello").trailer("x-sum", "5").unsized_hint());
    trailers.headers_mut().insert(header::TRAILER, "x-sum".parse().unwrap());
    let received = sent(&pool, &upstream, trailers).await;
    assert!(received.raw.ends_with(b"0\r\nx-sum: 5\r\n\r\n"), "{:?}", received.raw);

    assert_eq!(upstream.sightings().connections.len(), 1, "all over one connection");
    leaves_nothing("bodies", pool, &[&upstream]).await;
}

#[tokio::test]
async fn a_large_upload_and_a_large_download_at_once_arrive_whole() {
    let upstream = Friendly::new(handler::echo).start();
    let pool = pool();
    let chunk = vec![b'x'; 100_000];
    for round in 0..3 {
        let body = (0..50).fold(TestBody::new(), |body, _| body.data(chunk.clone()));
        let response = fetch(&pool, request(Method::POST, upstream.uri("/"), body)).await.unwrap();
        assert_eq!(response.body().len(), 5_000_000, "round {round}");
    }
    assert_eq!(upstream.sightings().connections.len(), 1);
    leaves_nothing("echo", pool, &[&upstream]).await;
}

// === what comes back ===

#[tokio::test]
async fn trailers_and_length_of_the_response_are_the_servers() {
    let chunked = Answer::new(200, "hello").chunked(2).header("trailer", "x-sum").trailer("x-sum", "5");
    let upstream = Hostile::new(Script::new().exchange(chunked).exchange(Answer::new(200, "hello"))).start();
    let pool = pool();
    let body = send(&pool, get(upstream.uri("/"))).await.unwrap().into_body();
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (None, false));
    let read = body.collect().await.unwrap();
    assert_eq!(
        read.trailers(),
        Some(&HeaderMap::from_iter([("x-sum".parse().unwrap(), "5".parse().unwrap())]))
    );
    let mut body = send(&pool, get(upstream.uri("/"))).await.unwrap().into_body();
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(5), false));
    assert_eq!(body.connection().unwrap().served(), 1);
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().remaining(), 5);
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(0), true));
    assert!(body.frame().await.is_none() && body.frame().await.is_none(), "ended once and for all");
    assert!(body.connection().is_none() && body.timings().is_none(), "the connection is somebody else's now");
}

#[derive(Clone, Debug, PartialEq)]
struct Mine(&'static str);

#[tokio::test]
async fn a_tracked_request_gets_its_context_back_with_the_response() {
    for (name, answer) in [
        ("plain", &b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"[..]),
        ("its own reason phrase", b"HTTP/1.1 200 Fine\r\ncontent-length: 5\r\n\r\nhello"),
    ] {
        for mine in [false, true] {
            let upstream =
                Hostile::new(Script::new().forever(Script::new().read_head().write(answer))).start();
            let pool = pool();
            for served in 0..3 {
                let mut request = get(upstream.uri("/"));
                let exchange = Exchange::track(&mut request);
                Attempt::FIRST.next().attach(&mut request);
                if mine {
                    request.extensions_mut().insert(Mine("mine"));
                }
                let response = send(&pool, request).await.unwrap();
                let case = format!("{name}, with mine: {mine}, request {served}");
                assert_eq!(Attempt::of(&response), Some(Attempt::FIRST.next()), "{case}");
                let connection = ConnectionInfo::of(&response).expect(&case);
                assert_eq!((connection.id(), connection.served()), (1, served), "{case}");
                assert_eq!(connection.established().remote, Some(upstream.addr()), "{case}");
                assert!(connection.established().local.is_some(), "{case}");
                let timings = Timings::of(&response).expect(&case);
                assert_eq!(
                    timings.spent(Phase::Connect).is_zero(),
                    served > 0,
                    "{case}: only the first connected"
                );
                assert_eq!(Exchange::of(&response).unwrap().phase(), Phase::Body, "{case}");
                let head = response.into_body().collect().await.unwrap();
                assert_eq!(head.to_bytes(), "hello");
                assert_eq!(exchange.bytes_in(), answer.len() as u64, "{case}");
                let sent = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", upstream.addr());
                assert_eq!(exchange.bytes_out(), sent.len() as u64, "{case}");
                assert_eq!(exchange.origin().unwrap().port(), upstream.addr().port(), "{case}");
            }
        }
    }
}

/// The end of a body may be reached anywhere, by a poll that no runtime is behind.
#[test]
fn a_body_may_be_read_outside_the_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let pool = pool();
    let (upstream, body) = runtime.block_on(async {
        let upstream = Friendly::new(handler::hello).start();
        let response = send(&pool, get(upstream.uri("/"))).await.unwrap();
        (upstream, response.into_body())
    });
    let mut read = Box::pin(body.collect());
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let read = loop {
        if let Poll::Ready(read) = read.as_mut().poll(&mut cx) {
            break read.unwrap();
        }
    };
    assert_eq!(read.to_bytes(), "hello");
    assert_eq!(pool.stats().connections.idle, 1);
    runtime.block_on(leaves_nothing("outside", pool, &[&upstream]));
}
