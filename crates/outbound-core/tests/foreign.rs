//! `Failure::of` over real errors of hyper, hyper-util's legacy client and h2, each raised by what really raises it.
//!
//! hyper and hyper-util tell some sorts of error apart in their text only: this table is what notices when that changes.
#![cfg(feature = "hyper")]

use std::{
    error::Error,
    future::ready,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri, Version};
use http_body::{Body, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use outbound_core::{BoxError, Delivery, Elapsed, Exchange, Failure, Kind, Phase, TransportError};
use outbound_testkit::{Answer, BlackHole, Hostile, Refusal, Script, TestBody};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    net::TcpStream,
    time::sleep,
};
use tower::service_fn;

type Read = (Kind, Option<Phase>, Delivery);

const SEND: Option<Phase> = Some(Phase::Send);
const HEAD: Option<Phase> = Some(Phase::Head);
const BODY: Option<Phase> = Some(Phase::Body);

#[track_caller]
fn check(name: &str, error: &(dyn Error + 'static), expected: Read) {
    let failure = Failure::of(error);
    let read = (failure.kind(), failure.phase(), failure.delivery());
    assert_eq!(read, expected, "{name}: {error:?}");
    assert_eq!(failure.error_type(), expected.0.as_str(), "{name}");
    assert_eq!(failure.late_by(), Duration::ZERO, "{name}");
    assert!(failure.snapshot().is_none(), "{name}");
}

// === HTTP/1 over hyper's connection ===

#[tokio::test(start_paused = true)]
async fn http1_answers() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let long = format!("HTTP/1.1 200 OK\r\nx-long: {}\r\n\r\n", "x".repeat(500_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x-many: x\r\n".repeat(101));
    let rows: [(&str, &[&str], Read); 16] = [
        ("closed before the head", &[""], (Kind::Closed, HEAD, Delivery::Maybe)),
        ("closed within the head", &["HTTP/1.1 200 OK\r\nx-a:"], (Kind::Closed, HEAD, Delivery::Maybe)),
        ("no HTTP", &["\x16\x03\x01\x02\x00 TLS?\r\n\r\n"], (Kind::Protocol, HEAD, Delivery::Maybe)),
        ("a bad status", &["HTTP/1.1 2000 OK\r\n\r\n"], (Kind::Protocol, HEAD, Delivery::Maybe)),
        (
            "a space before the colon",
            &["HTTP/1.1 200 OK\r\nx-a : b\r\n\r\n"],
            (Kind::Protocol, HEAD, Delivery::Maybe),
        ),
        (
            "two lengths",
            &["HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n"],
            (Kind::Protocol, HEAD, Delivery::Maybe),
        ),
        (
            "a length with a sign",
            &["HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n"],
            (Kind::Protocol, HEAD, Delivery::Maybe),
        ),
        ("a long header", &[&long], (Kind::TooLarge, HEAD, Delivery::Maybe)),
        ("many headers", &[&many], (Kind::TooLarge, HEAD, Delivery::Maybe)),
        ("a body too short", &[head, "12345"], (Kind::Truncated, BODY, Delivery::Answered)),
        ("no body at all", &[head], (Kind::Truncated, BODY, Delivery::Answered)),
        ("cut within a chunk", &[chunked, "a\r\n12345"], (Kind::Truncated, BODY, Delivery::Answered)),
        ("cut between chunks", &[chunked, "5\r\n12345\r\n"], (Kind::Truncated, BODY, Delivery::Answered)),
        ("a chunk size of letters", &[chunked, "zz\r\n"], (Kind::Protocol, BODY, Delivery::Answered)),
        (
            "a chunk size too large",
            &[chunked, "fffffffffffffffff\r\n"],
            (Kind::Protocol, BODY, Delivery::Answered),
        ),
        (
            "trailers without a colon",
            &[chunked, "0\r\nx y\r\n\r\n"],
            (Kind::Protocol, BODY, Delivery::Answered),
        ),
    ];
    for (name, answer, expected) in rows {
        let error = http1(get(), async |mut peer| {
            read_head(&mut peer).await;
            for bytes in answer {
                let _ = peer.write_all(bytes.as_bytes()).await;
                tokio::task::yield_now().await;
            }
        });
        check(name, &error.await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn http1_sockets() {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, UnexpectedEof};
    let tls = || io::Error::new(UnexpectedEof, "peer closed connection without sending TLS close_notify");
    let nested = io::Error::other(io::Error::from(ConnectionReset));
    let rows: [(&str, Broken, Read); 12] = [
        ("head reset", Broken::read(ConnectionReset), (Kind::Reset, None, Delivery::Maybe)),
        ("head reset, told twice", Broken::read(nested), (Kind::Reset, None, Delivery::Maybe)),
        ("head's pipe broken", Broken::read(BrokenPipe), (Kind::Reset, None, Delivery::Maybe)),
        ("head timed out", Broken::read(TimedOut), (Kind::Timeout, None, Delivery::Maybe)),
        ("head cut by TLS", Broken::read(tls()), (Kind::Closed, None, Delivery::Maybe)),
        ("head failed somehow", Broken::read(io::Error::other("?")), (Kind::Other, None, Delivery::Maybe)),
        ("body reset", Broken::body_read(ConnectionReset), (Kind::Reset, BODY, Delivery::Answered)),
        ("body timed out", Broken::body_read(TimedOut), (Kind::Timeout, BODY, Delivery::Answered)),
        ("body cut by TLS", Broken::body_read(tls()), (Kind::Truncated, BODY, Delivery::Answered)),
        (
            "body failed somehow",
            Broken::body_read(io::Error::other("?")),
            (Kind::Truncated, BODY, Delivery::Answered),
        ),
        ("write reset", Broken::write(ConnectionReset), (Kind::Reset, SEND, Delivery::Maybe)),
        ("write to nobody", Broken::write(BrokenPipe), (Kind::Reset, SEND, Delivery::Maybe)),
    ];
    for (name, io, expected) in rows {
        let (mut sender, driver) = http1::handshake(TokioIo::new(io)).await.unwrap();
        tokio::spawn(driver);
        let error = match sender.send_request(get()).await {
            Ok(response) => response.collect().await.unwrap_err(),
            Err(error) => error,
        };
        check(name, &error, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn http1_request_bodies() {
    let post = |body| Request::post("/").header("host", "a").body(body).unwrap();
    let own = io::Error::from(io::ErrorKind::ConnectionReset);
    let other_call: BoxError =
        TransportError::new(Kind::Timeout, &Exchange::new()).because(Elapsed::new(Phase::Head, HOUR)).into();
    let short = TestBody::new().data("12345").hint(SizeHint::with_exact(10)).unannounced_end();
    let rows: [(&str, Request<Upload>, Kind); 5] = [
        ("fails", post(failing(0, "no")), Kind::RequestBody),
        ("fails later", post(failing(2, "no")), Kind::RequestBody),
        ("fails as a socket would", post(failing(0, own)), Kind::RequestBody),
        ("is the response of another call of ours", post(failing(0, other_call)), Kind::RequestBody),
        ("is too short", post(upload(short)), Kind::RequestBody),
    ];
    for (name, request, kind) in rows {
        let error = http1(request, async |_peer| sleep(HOUR).await);
        check(name, &error.await, (kind, SEND, Delivery::Maybe));
    }
}

/// The pool's error around it is this call's again.
#[tokio::test(start_paused = true)]
async fn http1_request_body_told_by_the_pool() {
    let other_call: BoxError = TransportError::new(Kind::Timeout, &Exchange::new()).into();
    let request = Request::post("/").header("host", "a").body(failing(0, other_call)).unwrap();
    let error = http1(request, async |_peer| sleep(HOUR).await).await;
    let exchange = Exchange::new();
    exchange.enter(Phase::Body);
    let failure = Failure::of(&TransportError::new(Kind::RequestBody, &exchange).because(error));
    assert_eq!((failure.kind(), failure.phase()), (Kind::RequestBody, BODY));
    assert_eq!(failure.snapshot().unwrap().phase, Phase::Body);
}

/// The body of the request that fails is the body of a response that failed: what hyper says of that one is not about this call.
#[tokio::test(start_paused = true)]
async fn http1_request_body_is_a_broken_response() {
    let body = http1_response(get(), half_a_body).await.unwrap().into_body();
    let request = Request::post("/").header("host", "a").body(body).unwrap();
    let error = http1(request, async |_peer| sleep(HOUR).await);
    check("proxied", &error.await, (Kind::RequestBody, SEND, Delivery::Maybe));
}

#[tokio::test(start_paused = true)]
async fn http1_connections_that_are_gone() {
    // Closed while idle: hyper never began the request.
    let (io, peer) = duplex(1024);
    let (mut sender, driver) = http1::handshake(TokioIo::new(io)).await.unwrap();
    drop(peer);
    let _ = driver.await;
    let error = sender.send_request(get()).await.unwrap_err();
    check("closed while idle", &error, (Kind::Closed, None, Delivery::NotSent));
    let error = sender.ready().await.unwrap_err();
    check("never ready", &error, (Kind::Closed, None, Delivery::NotSent));

    // A late 408 on an idle connection, with a request already in the queue.
    let (mut sender, driver) = http1::handshake(TokioIo::new(Broken::unasked())).await.unwrap();
    let sent = sender.send_request(get());
    let (error, _) = tokio::join!(sent, driver);
    check("a late answer to nobody", &error.unwrap_err(), (Kind::Closed, None, Delivery::NotSent));

    let (_sender, driver) = http1::handshake::<_, Upload>(TokioIo::new(Broken::unasked())).await.unwrap();
    let error = driver.await.unwrap_err();
    check("the connection's own word of it", &error, (Kind::Protocol, None, Delivery::Maybe));

    // The connection's task is dropped under the request.
    let (io, mut peer) = duplex(1024);
    let (mut sender, driver) = http1::handshake(TokioIo::new(io)).await.unwrap();
    let driver = tokio::spawn(driver);
    let sent = sender.send_request(get());
    let (error, ()) = tokio::join!(sent, async {
        read_head(&mut peer).await;
        driver.abort();
    });
    check("its task is gone", &error.unwrap_err(), (Kind::Closed, None, Delivery::Maybe));

    // The request's body panics in that task.
    let (io, _peer) = duplex(1024);
    let (mut sender, driver) = http1::handshake(TokioIo::new(io)).await.unwrap();
    let driver = tokio::spawn(driver);
    let request = Request::post("/").header("host", "a").body(TestBody::new().data("a").panic()).unwrap();
    let error = sender.send_request(request).await.unwrap_err();
    assert!(driver.await.unwrap_err().is_panic());
    check("its body panicked", &error, (Kind::RequestBody, SEND, Delivery::Maybe));
}

/// An upgrade that never happens is not a request that was never sent.
#[tokio::test(start_paused = true)]
async fn http1_upgrade_without_a_connection() {
    let (io, mut peer) = duplex(1024);
    let (mut sender, driver) = http1::handshake(TokioIo::new(io)).await.unwrap();
    let driver = tokio::spawn(driver.with_upgrades());
    let request = Request::post("/").header("host", "a").header("upgrade", "x").body(TestBody::new().stall());
    let (response, ()) = tokio::join!(sender.send_request(request.unwrap()), async {
        read_head(&mut peer).await;
        peer.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n").await.unwrap();
    });
    driver.abort();
    let error = hyper::upgrade::on(response.unwrap()).await.unwrap_err();
    assert!(error.is_canceled());
    check("upgrade", &error, (Kind::Other, None, Delivery::Maybe));
}

// === HTTP/2 over hyper's connection ===

#[tokio::test(start_paused = true)]
async fn http2_answers() {
    let length_5 = frame(HEADERS, END_HEADERS, 1, &[0x88, 0x0f, 0x0d, 0x01, b'5']);
    let head = frame(HEADERS, END_HEADERS, 1, &[0x88]);
    let rst = |reason: u32| frame(RST_STREAM, 0, 1, &reason.to_be_bytes());
    let goaway =
        |last: u32, reason: u32| frame(GOAWAY, 0, 0, &[last.to_be_bytes(), reason.to_be_bytes()].concat());
    let window = |stream, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    let then = |first: &[u8], second: &[u8]| [first, second].concat();
    let none = Vec::new();
    // After these frames the peer either stays, or closes.
    const STAYS: bool = false;
    const CLOSES: bool = true;
    let rows: [(&str, Vec<u8>, bool, Read); 23] = [
        ("refused", rst(7), STAYS, (Kind::Reset, None, Delivery::Refused)),
        ("reset: cancel", rst(8), STAYS, (Kind::Reset, None, Delivery::Maybe)),
        ("reset: internal error", rst(2), STAYS, (Kind::Reset, None, Delivery::Maybe)),
        ("reset: flow control", rst(3), STAYS, (Kind::Reset, None, Delivery::Maybe)),
        ("reset: calm", rst(11), STAYS, (Kind::Reset, None, Delivery::Maybe)),
        ("reset: no error", rst(0), STAYS, (Kind::Reset, None, Delivery::Maybe)),
        ("goaway below", goaway(0, 0), STAYS, (Kind::Closed, None, Delivery::Refused)),
        ("goaway below, internal error", goaway(0, 2), STAYS, (Kind::Closed, None, Delivery::Maybe)),
        ("goaway below, calm", goaway(0, 11), STAYS, (Kind::Closed, None, Delivery::Maybe)),
        ("goaway below, “refused”", goaway(0, 7), STAYS, (Kind::Closed, None, Delivery::Maybe)),
        ("goaway at, closes", goaway(1, 0), CLOSES, (Kind::Closed, None, Delivery::Maybe)),
        ("goaway at, internal error, closes", goaway(1, 2), CLOSES, (Kind::Closed, None, Delivery::Maybe)),
        ("goaway far above, closes", goaway(0x7fff_ffff, 0), CLOSES, (Kind::Closed, None, Delivery::Maybe)),
        ("closes", none, CLOSES, (Kind::Closed, None, Delivery::Maybe)),
        (
            "speaks HTTP/1",
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            STAYS,
            (Kind::Protocol, None, Delivery::Maybe),
        ),
        ("window of nothing", window(1, 0), STAYS, (Kind::Protocol, None, Delivery::Maybe)),
        (
            "connection's window too large",
            window(0, 0x7fff_ffff),
            STAYS,
            (Kind::Protocol, None, Delivery::Maybe),
        ),
        ("data before the head", frame(DATA, 0, 1, b"12345"), STAYS, (Kind::Protocol, None, Delivery::Maybe)),
        ("body reset", then(&head, &rst(2)), STAYS, (Kind::Reset, BODY, Delivery::Answered)),
        ("body refused, after a head", then(&head, &rst(7)), STAYS, (Kind::Reset, BODY, Delivery::Answered)),
        ("body cut", head.clone(), CLOSES, (Kind::Truncated, BODY, Delivery::Answered)),
        (
            "body too long",
            then(&length_5, &frame(DATA, END_STREAM, 1, &[0; 10])),
            STAYS,
            (Kind::Protocol, BODY, Delivery::Answered),
        ),
        (
            "body too short",
            then(&length_5, &frame(DATA, END_STREAM, 1, &[0; 3])),
            STAYS,
            (Kind::Protocol, BODY, Delivery::Answered),
        ),
    ];
    for (name, frames, closes, expected) in rows {
        let error = http2(get2(), async |mut peer| {
            peer.write_all(&frames).await.unwrap();
            if !closes {
                sleep(HOUR).await;
            }
        });
        check(name, &error.await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn http2_requests() {
    let post = |body| Request::post("http://a/").version(Version::HTTP_2).body(body).unwrap();
    let other_call: BoxError = TransportError::new(Kind::Timeout, &Exchange::new()).into();
    let relative =
        Request::builder().uri("/").version(Version::HTTP_2).body(upload(TestBody::new())).unwrap();
    let rows: [(&str, Request<Upload>, Read); 4] = [
        ("body fails", post(failing(0, "no")), (Kind::RequestBody, SEND, Delivery::Maybe)),
        ("body fails later", post(failing(2, "no")), (Kind::RequestBody, SEND, Delivery::Maybe)),
        ("body of another call", post(failing(0, other_call)), (Kind::RequestBody, SEND, Delivery::Maybe)),
        ("no scheme", relative, (Kind::Invalid, None, Delivery::Maybe)),
    ];
    for (name, request, expected) in rows {
        let error = http2(request, async |_peer| sleep(HOUR).await);
        check(name, &error.await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn http2_ping_unanswered() {
    let (io, peer) = duplex(1024);
    let serving = tokio::spawn(raw_http2(peer, async |_peer| sleep(HOUR).await));
    let (mut sender, driver) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2))
        .handshake(TokioIo::new(io))
        .await
        .unwrap();
    tokio::spawn(driver);
    let error = sender.send_request(get2()).await.unwrap_err();
    check("ping unanswered", &error, (Kind::Timeout, None, Delivery::Maybe));
    serving.abort();
}

#[tokio::test(start_paused = true)]
async fn http2_connection_that_is_gone() {
    let (io, peer) = duplex(1024);
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    drop(peer);
    let _ = tokio::spawn(driver).await.unwrap();
    let error = sender.send_request(get2()).await.unwrap_err();
    check("closed while idle", &error, (Kind::Closed, None, Delivery::NotSent));
}

// === bare h2 ===

#[tokio::test]
async fn h2_alone() {
    let sent = || async {
        let (io, peer) = duplex(1024);
        tokio::spawn(raw_http2(peer, async |_peer| sleep(HOUR).await));
        let (sender, driver) = h2::client::handshake(io).await.unwrap();
        tokio::spawn(driver);
        sender.ready().await.unwrap()
    };
    let request = || Request::get("http://a/").body(()).unwrap();

    let (response, mut stream) = sent().await.send_request(request(), false).unwrap();
    stream.send_reset(h2::Reason::CANCEL);
    let error = response.await.unwrap_err();
    check("reset by ourselves", &error, (Kind::RequestBody, SEND, Delivery::Maybe));

    let (_response, mut stream) = sent().await.send_request(request(), true).unwrap();
    let error = stream.send_data(Bytes::new(), true).unwrap_err();
    check("misused", &error, (Kind::Invalid, None, Delivery::Maybe));

    let error = h2::Error::from(h2::Reason::REFUSED_STREAM);
    check("a reason that nobody sent", &error, (Kind::Protocol, None, Delivery::Maybe));

    let io = Broken::read(io::ErrorKind::UnexpectedEof);
    let (_sender, driver) = h2::client::handshake(io).await.unwrap();
    let error = driver.await.unwrap_err();
    check("cut by TLS before any body", &error, (Kind::Closed, None, Delivery::Maybe));
}

// === hyper-util's legacy client ===

#[tokio::test]
async fn legacy_client() {
    let client = || Client::builder(TokioExecutor::new()).build_http::<Upload>();
    let get = |uri: Uri| Request::get(uri).body(upload(TestBody::new())).unwrap();
    let refusal = Refusal::new();
    let refused: Uri = format!("http://{}/", refusal.addr()).parse().unwrap();
    let upstream = |script| Hostile::new(script).start();
    let closing = upstream(Script::new().read_head().close());
    let resetting = upstream(Script::new().read_head().reset());
    let truncating = upstream(Script::new().exchange(Answer::new(200, "0123456789").cut_body(5)).close());
    let good = upstream(Script::hello());

    let failing = Request::post(good.uri("/")).body(failing(1, "no")).unwrap();
    let connect10 =
        Request::connect("http://a/").version(Version::HTTP_10).body(upload(TestBody::new())).unwrap();
    let mut http2_get = get(good.uri("/"));
    *http2_get.version_mut() = Version::HTTP_2;
    let connect = Some(Phase::Connect);
    let rows: [(&str, Request<Upload>, Read); 9] = [
        ("refused", get(refused), (Kind::Refused, connect, Delivery::NotSent)),
        ("https without TLS", get("https://a/".parse().unwrap()), (Kind::Other, connect, Delivery::NotSent)),
        ("closed before the head", get(closing.uri("/")), (Kind::Closed, HEAD, Delivery::Maybe)),
        ("reset before the head", get(resetting.uri("/")), (Kind::Reset, None, Delivery::Maybe)),
        ("cut body", get(truncating.uri("/")), (Kind::Truncated, BODY, Delivery::Answered)),
        ("request body fails", failing, (Kind::RequestBody, SEND, Delivery::Maybe)),
        ("relative", get("/".parse().unwrap()), (Kind::Invalid, None, Delivery::NotSent)),
        ("CONNECT over HTTP/1.0", connect10, (Kind::Invalid, None, Delivery::NotSent)),
        ("HTTP/2 over HTTP/1", http2_get, (Kind::Invalid, None, Delivery::NotSent)),
    ];
    for (name, request, expected) in rows {
        let error: BoxError = match client().request(request).await {
            Ok(response) => response.collect().await.unwrap_err().into(),
            Err(error) => error.into(),
        };
        check(name, &*error, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn legacy_connectors() {
    let get = |uri: String| Request::get(uri).body(TestBody::new()).unwrap();
    type Fails = fn() -> io::Error;
    let rows: [(&str, Fails, Kind); 3] = [
        ("no such name", || io::Error::other("failed to lookup address information"), Kind::Resolve),
        ("resolver timed out", || io::ErrorKind::TimedOut.into(), Kind::Timeout),
        ("resolver out of descriptors", || io::Error::from_raw_os_error(24), Kind::Exhausted),
    ];
    for (name, error, kind) in rows {
        let resolver = service_fn(move |_: Name| ready(Err::<std::vec::IntoIter<SocketAddr>, _>(error())));
        let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new_with_resolver(resolver));
        let error = client.request(get("http://a.test/".into())).await.unwrap_err();
        check(name, &error, (kind, Some(Phase::Resolve), Delivery::NotSent));
    }

    let hole = BlackHole::new();
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(HOUR));
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let error = client.request(get(format!("http://{}/", hole.addr()))).await.unwrap_err();
    check("no answer to SYN", &error, (Kind::Timeout, Some(Phase::Connect), Delivery::NotSent));
}

/// What a connector says of its own connection, to a proxy or of ours, is said of connecting.
#[tokio::test(start_paused = true)]
async fn legacy_client_over_other_connectors() {
    let fail = async |error: BoxError| {
        let error = Arc::new(Mutex::new(Some(error)));
        let connector = service_fn(move |_: Uri| {
            let error = error.lock().unwrap().take().unwrap();
            ready(Err::<TokioIo<TcpStream>, _>(error))
        });
        let client = Client::builder(TokioExecutor::new()).build(connector);
        client.request(Request::get("http://a/").body(TestBody::new()).unwrap()).await.unwrap_err()
    };
    let connect = Some(Phase::Connect);
    let rows: [(&str, BoxError, Read); 3] = [
        ("proxy closes", http1(get(), close).await.into(), (Kind::Closed, connect, Delivery::NotSent)),
        (
            "proxy's body cut",
            http1(get(), half_a_body).await.into(),
            (Kind::Truncated, connect, Delivery::NotSent),
        ),
        (
            "proxy refuses a stream",
            http2(get2(), refuse).await.into(),
            (Kind::Reset, connect, Delivery::NotSent),
        ),
    ];
    for (name, error, expected) in rows {
        check(name, &fail(error).await, expected);
    }

    let error = fail(Elapsed::new(Phase::Tls, HOUR).took(HOUR * 2).into()).await;
    let failure = Failure::of(&error);
    assert_eq!(
        (failure.kind(), failure.phase(), failure.delivery(), failure.late_by()),
        (Kind::Timeout, Some(Phase::Tls), Delivery::NotSent, HOUR)
    );
}

// === Peers ===

type Upload = UnsyncBoxBody<Bytes, BoxError>;

const HOUR: Duration = Duration::from_secs(3600);

fn get() -> Request<Upload> {
    Request::get("/").header("host", "a").body(upload(TestBody::new())).unwrap()
}

fn get2() -> Request<Upload> {
    Request::get("http://a/").version(Version::HTTP_2).body(upload(TestBody::new())).unwrap()
}

fn upload(body: TestBody) -> Upload {
    body.map_err(Into::into).boxed_unsync()
}

/// So many frames, and then this error.
fn failing(frames: usize, error: impl Into<BoxError>) -> Upload {
    let mut error = Some(error.into());
    let body = (0..frames).fold(TestBody::new(), |body, _| body.data("frame")).error("no");
    body.map_err(move |_| error.take().unwrap()).boxed_unsync()
}

/// How the exchange with `peer` fails: at its head or in its body.
async fn http1<B>(request: Request<B>, peer: impl AsyncFnOnce(DuplexStream)) -> hyper::Error
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let (io, far) = duplex(1 << 16);
    let (mut sender, driver) = http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(driver);
    tokio::select! {
        error = async { first_error(sender.send_request(request).await).await } => error,
        () = async { peer(far).await; sleep(HOUR).await } => panic!("neither answered nor failed"),
    }
}

async fn http1_response<B>(
    request: Request<B>,
    peer: impl AsyncFnOnce(DuplexStream),
) -> hyper::Result<Response<Incoming>>
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let (io, far) = duplex(1 << 16);
    let (mut sender, driver) = http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(driver);
    let (response, ()) = tokio::join!(sender.send_request(request), peer(far));
    response
}

/// How the exchange fails with a peer that does this once it has read the request's head.
async fn http2(request: Request<Upload>, then: impl AsyncFnOnce(DuplexStream)) -> hyper::Error {
    let (io, far) = duplex(1 << 16);
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(driver);
    tokio::select! {
        error = async { first_error(sender.send_request(request).await).await } => error,
        () = async { raw_http2(far, then).await; sleep(HOUR).await } => panic!("neither answered nor failed"),
    }
}

async fn first_error(response: hyper::Result<Response<Incoming>>) -> hyper::Error {
    match response {
        Ok(response) => response.collect().await.expect_err("read to its end"),
        Err(error) => error,
    }
}

async fn read_head(peer: &mut DuplexStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(peer.read_u8().await.unwrap());
    }
}

async fn close(mut peer: DuplexStream) {
    read_head(&mut peer).await;
}

async fn half_a_body(mut peer: DuplexStream) {
    read_head(&mut peer).await;
    peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345").await.unwrap();
}

async fn refuse(mut peer: DuplexStream) {
    peer.write_all(&frame(RST_STREAM, 0, 1, &7_u32.to_be_bytes())).await.unwrap();
    sleep(HOUR).await;
}

async fn raw_http2(mut peer: DuplexStream, then: impl AsyncFnOnce(DuplexStream)) {
    peer.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    peer.read_exact(&mut [0; 24]).await.unwrap();
    loop {
        let mut head = [0; 9];
        peer.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        peer.read_exact(&mut vec![0; length as usize]).await.unwrap();
        if head[3] == HEADERS {
            return then(peer).await;
        }
    }
}

/// RFC 9113, 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = &(payload.len() as u32).to_be_bytes()[1..];
    [length, &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A socket that breaks.
struct Broken {
    asked: bool,
    answer: &'static [u8],
    read: Option<io::Error>,
    write: Option<io::Error>,
}

impl Broken {
    /// Once something was written, reading fails.
    fn read(error: impl Into<io::Error>) -> Self {
        Self { asked: false, answer: b"", read: Some(error.into()), write: None }
    }

    /// As soon as something was written, half a response comes; then reading fails.
    fn body_read(error: impl Into<io::Error>) -> Self {
        Self { answer: b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345", ..Self::read(error) }
    }

    fn write(error: impl Into<io::Error>) -> Self {
        Self { asked: false, answer: b"", read: None, write: Some(error.into()) }
    }

    /// A response comes although nothing was written.
    fn unasked() -> Self {
        Self { asked: true, answer: b"HTTP/1.1 408 Request Timeout\r\n\r\n", read: None, write: None }
    }
}

impl AsyncRead for Broken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.asked {
            false => Poll::Pending,
            true if !self.answer.is_empty() => {
                buf.put_slice(std::mem::take(&mut self.answer));
                Poll::Ready(Ok(()))
            }
            true => self.read.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error))),
        }
    }
}

impl AsyncWrite for Broken {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.asked = true;
        cx.waker().wake_by_ref();
        Poll::Ready(self.write.take().map_or(Ok(buf.len()), Err))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
