//! What can go wrong with a connection or an exchange, and what the caller is told (FAULTS, sections 2 and 3).

mod support;

use std::{io, net::SocketAddr, time::Duration};

use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::dns::Name;
use outbound_core::{BoxError, Delivery, Elapsed, Exchange, Failure, Kind, Phase, find};
use outbound_pool::{
    HeadTooLarge, Pool,
    connect::{Connect, Tcp, Tls},
};
use outbound_testkit::{
    Answer, BlackHole, Certificate, Friendly, Gate, Hostile, Refusal, Script, TestBody, Upstream, handler,
};
use support::{told::*, *};
use tokio::time::Instant;
use tower::{ServiceExt, service_fn};

// === the exchange (section 3) ===

#[tokio::test]
async fn exchanges_that_fail_before_the_head() {
    let answer = |bytes: &'static str| Script::new().read_head().read_body().write(bytes);
    let many: &str = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101)).leak();
    let huge: &str = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(3_000_000)).leak();
    let interim: &str = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000).leak();
    let long: &str = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(500_000)).leak();
    let read = || Script::new().read_head().read_body();
    let (head, maybe) = (Phase::Head, Delivery::Maybe);
    for (name, script, expected) in [
        (
            "FIN before the head",
            read().close(),
            told(
                Kind::Closed,
                head,
                maybe,
                "http://ADDR: connection closed by the peer while waiting for the response head after T, new connection #1 to ADDR: 86 bytes sent, 0 received",
            ),
        ),
        (
            "RST before the head",
            read().reset(),
            told(
                Kind::Reset,
                head,
                maybe,
                "http://ADDR: connection reset while waiting for the response head after T, new connection #1 to ADDR: 86 bytes sent, 0 received",
            ),
        ),
        (
            "FIN within the head",
            answer("HTTP/1.1 200 O").close(),
            told(
                Kind::Truncated,
                head,
                maybe,
                "http://ADDR: response cut short while waiting for the response head after T, new connection #1 to ADDR: 86 bytes sent, 14 received",
            ),
        ),
        (
            "RST within the head",
            answer("HTTP/1.1 200 O").delay(Duration::from_millis(20)).reset(),
            told(Kind::Reset, head, maybe, ""),
        ),
        (
            "not HTTP",
            answer("SSH-2.0-OpenSSH_9.2\r\n"),
            told(
                Kind::Protocol,
                head,
                maybe,
                "http://ADDR: protocol broken by the peer while waiting for the response head after T, new connection #1 to ADDR: 86 bytes sent, 21 received",
            ),
        ),
        ("TLS", answer("\u{15}\u{3}\u{3}\0\u{2}\u{2}\n"), told(Kind::Protocol, head, maybe, "")),
        ("too many fields", answer(many), told(Kind::TooLarge, head, maybe, "")),
        ("a long field", answer(long), told(Kind::TooLarge, head, maybe, "")),
        ("a huge field", answer(huge), told(Kind::TooLarge, head, maybe, "")),
        (
            "interim responses without end",
            read().forever(Script::new().write(interim)),
            told(Kind::TooLarge, head, maybe, ""),
        ),
        (
            "space before a colon",
            answer("HTTP/1.1 200 OK\r\nx : y\r\n\r\n"),
            told(Kind::Protocol, head, maybe, ""),
        ),
        (
            "a folded line",
            answer("HTTP/1.1 200 OK\r\nx: y\r\n z\r\n\r\n"),
            told(Kind::Protocol, head, maybe, ""),
        ),
        (
            "two lengths",
            answer("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello"),
            told(Kind::Protocol, head, maybe, ""),
        ),
        (
            "a signed length",
            answer("HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello"),
            told(Kind::Protocol, head, maybe, ""),
        ),
        (
            // hyper does not tell this from a head that is too large.
            "the greatest length",
            answer("HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\nhello"),
            told(Kind::TooLarge, head, maybe, ""),
        ),
    ] {
        for method in [Method::GET, Method::POST] {
            let upstream = Hostile::new(script.clone()).start();
            let body = if method == Method::POST { TestBody::from("hello") } else { TestBody::new() };
            let line = if method == Method::POST { "" } else { expected.line };
            let request = secretive(method.clone(), &upstream.uri("/"), body);
            let expected = Told { line, ..expected };
            fails(&format!("{name}, {method}"), pool(), &[&upstream], request, expected).await;
        }
    }
}

/// However much of it comes at once: with its body, and into a buffer that has grown on the responses before.
#[tokio::test]
async fn a_head_is_no_larger_than_allowed() {
    let head = |bytes: usize| {
        let frame = "HTTP/1.1 200 OK\r\ncontent-length: 50000\r\nx: \r\n\r\n".len();
        format!("HTTP/1.1 200 OK\r\ncontent-length: 50000\r\nx: {}\r\n\r\n", "y".repeat(bytes - frame))
    };
    let body = "z".repeat(50_000);
    for (name, limit, bytes, before, is_too_large) in [
        ("within", 1_024, 1_024, 0, false),
        ("a byte too much", 1_024, 1_025, 0, true),
        ("in one read", 1_024, 8_000, 0, true),
        ("into a grown buffer", 65_536, 300_000, 9, true),
        ("within, and so", 65_536, 65_536, 9, false),
    ] {
        let grown = Answer::new(200, vec![b'x'; 400_000]);
        let script = Script::new().repeat(before, Script::new().exchange(grown));
        let script = script.read_head().write(head(bytes) + &body);
        let upstream = Hostile::new(script).start();
        let pool = build(Pool::builder().max_head_size(limit));
        for _ in 0..before {
            fetch(&pool, get(upstream.uri("/"))).await.expect(name);
        }
        let told = fetch(&pool, get(upstream.uri("/"))).await;
        assert_eq!(told.is_err(), is_too_large, "{name}: {:?}", told.map(|response| response.status()));
        if let Err(error) = told {
            let failure = Failure::of(&*error);
            assert_eq!((failure.kind(), failure.delivery()), (Kind::TooLarge, Delivery::Maybe), "{name}");
            assert_eq!(find::<HeadTooLarge>(&*error), Some(&HeadTooLarge { limit }), "{name}: {error:?}");
        }
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

#[tokio::test]
async fn a_connection_reset_as_soon_as_it_is_accepted() {
    let upstream = Hostile::new(Script::new().reset()).start();
    let pool = pool();
    let error = fetch(&pool, get(upstream.uri("/"))).await.unwrap_err();
    let failure = Failure::of(&*error);
    // The race is the network's: the bytes that were written decide.
    let written = failure.snapshot().unwrap().bytes_out;
    let delivery = if written == 0 { Delivery::NotSent } else { Delivery::Maybe };
    assert_eq!((failure.kind(), failure.delivery()), (Kind::Reset, delivery), "{error}");
    let phase = if written == 0 { Phase::Send } else { Phase::Head };
    assert_eq!(failure.phase(), Some(phase), "{error}");
    assert_eq!(quiet(&pool).await.connections.open(), 0);
    assert_eq!(upstream.sightings().connections.len(), 1, "it was fresh: nothing is sent again");
    leaves_nothing("reset at once", pool, &[&upstream]).await;
}

#[tokio::test]
async fn bodies_that_fail_to_arrive() {
    let ten = || Answer::new(200, "0123456789");
    let raw = |bytes: &'static str| Script::new().read_head().write(bytes);
    let later = |script: Script| script.delay(Duration::from_millis(20)).reset();
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    for (name, script, kind, line) in [
        (
            "5 of 10 bytes, FIN",
            Script::new().exchange(ten().cut_body(5)).close(),
            Kind::Truncated,
            "http://ADDR: response cut short while reading the response body after T, new connection #1 to ADDR: 86 bytes sent, 44 received",
        ),
        ("5 of 10 bytes, RST", later(Script::new().exchange(ten().cut_body(5))), Kind::Reset, ""),
        ("within a chunk", Script::new().exchange(ten().chunked(8).cut_body(5)).close(), Kind::Truncated, ""),
        (
            "no last chunk",
            Script::new().exchange(ten().chunked(10).cut_body(14)).close(),
            Kind::Truncated,
            "",
        ),
        ("a chunk size that is none", raw(format!("{chunked}zz\r\n").leak()), Kind::Protocol, ""),
        ("a chunk size too large", raw(format!("{chunked}fffffffffffffffff\r\n").leak()), Kind::Protocol, ""),
        ("no length, RST", later(Script::new().exchange(ten().until_close())), Kind::Reset, ""),
    ] {
        let upstream = Hostile::new(script).start();
        let request = secretive(Method::GET, &upstream.uri("/"), TestBody::new());
        fails(name, pool(), &[&upstream], request, told(kind, Phase::Body, Delivery::Answered, line)).await;
    }
}

#[tokio::test]
async fn an_error_is_the_last_thing_a_body_says() {
    let upstream =
        Hostile::new(Script::new().exchange(Answer::new(200, "0123456789").cut_body(5)).close()).start();
    let pool = pool();
    let mut body = send(&pool, get(upstream.uri("/"))).await.unwrap().into_body();
    let mut frames = 0;
    while let Some(Ok(_)) = body.frame().await {
        frames += 1;
    }
    assert_eq!(frames, 1);
    assert_eq!(pool.stats().connections.active, 0, "the connection is given up with the error");
    assert!(body.frame().await.is_none() && body.frame().await.is_none());
    drop(body);
    leaves_nothing("terminal", pool, &[&upstream]).await;
}

#[tokio::test]
async fn odd_exchanges_that_succeed() {
    let raw = |bytes: &'static str| Script::new().read_head().write(bytes);
    let flood: &str = format!(
        "{}HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 102 Processing\r\n\r\n".repeat(1000)
    )
    .leak();
    for (name, script, survives) in [
        ("bare LF", raw("HTTP/1.1 200 OK\ncontent-length: 5\n\nhello"), true),
        ("a thousand interim responses", raw(flood), true),
        (
            "dribbled",
            Script::new().read_head().dribble(Answer::new(200, "hello"), 1, Duration::from_micros(100)),
            true,
        ),
        ("no length", Script::new().exchange(Answer::new(200, "hello").until_close()).close(), false),
    ] {
        let upstream = Hostile::new(script).start();
        let pool = pool();
        let response = fetch(&pool, get(upstream.uri("/"))).await.expect(name);
        assert_eq!(response.body(), "hello", "{name}");
        assert_eq!(quiet(&pool).await.connections.idle, usize::from(survives), "{name}");
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

#[tokio::test]
async fn request_bodies_that_fail() {
    let (send, maybe, none) = (Phase::Send, Delivery::Maybe, Delivery::NotSent);
    for (name, length, body, delivery, whole) in [
        ("an error at once", None, TestBody::new().error("broken"), none, false),
        (
            "an error later",
            None,
            TestBody::new().data("half").delay(Duration::from_millis(1)).error("broken"),
            maybe,
            false,
        ),
        ("an error within a length", Some("9"), TestBody::new().data("half").error("broken"), none, false),
        ("a panic at once", None, TestBody::new().panic(), none, false),
        (
            "a panic later",
            None,
            TestBody::new().data("half").delay(Duration::from_millis(1)).panic(),
            maybe,
            false,
        ),
        ("shorter than its length", Some("9"), TestBody::new().data("half"), none, false),
        (
            "shorter, its end unannounced",
            Some("9"),
            TestBody::new().data("half").unannounced_end(),
            none,
            false,
        ),
        ("longer than its length", Some("3"), TestBody::new().data("half"), none, false),
        ("a length, and nothing", Some("4"), TestBody::new(), none, false),
        ("a length, and an empty frame", Some("4"), TestBody::new().data(""), none, false),
    ] {
        let upstream = Hostile::new(Script::hello()).start();
        let mut request = secretive(Method::POST, &upstream.uri("/"), body);
        if let Some(length) = length {
            request.headers_mut().insert(header::CONTENT_LENGTH, length.parse().unwrap());
        }
        let pool = pool();
        fails(name, pool, &[&upstream], request, told(Kind::RequestBody, send, delivery, "")).await;
        let seen = upstream.sightings();
        assert!(seen.requests.iter().all(|request| request.complete == whole), "{name}: {seen}");
    }
}

/// hyper asks a body for no more than its length: what would come after it is nobody's.
#[tokio::test]
async fn nothing_is_written_beyond_the_length() {
    let upstream = Hostile::new(Script::hello()).start();
    let pool = pool();
    for body in
        [TestBody::new().data("half").data("more"), TestBody::new().data("half").data("").data("more")]
    {
        let mut request = request_to(&upstream, body);
        request.headers_mut().insert(header::CONTENT_LENGTH, "4".parse().unwrap());
        fetch(&pool, request).await.unwrap();
    }
    for request in upstream.requests(2).await {
        assert_eq!(request.body, b"half");
    }
    assert_eq!(upstream.sightings().connections.len(), 1);
    leaves_nothing("surplus", pool, &[&upstream]).await;
}

#[tokio::test]
async fn uploads_that_the_server_cuts_off() {
    let big = || TestBody::new().endless(vec![b'x'; 100_000]);
    let upstream = Hostile::new(Script::new().read_head().reset()).start();
    let request = secretive(Method::PUT, &upstream.uri("/"), big());
    fails("RST", pool(), &[&upstream], request, told(Kind::Reset, Phase::Send, Delivery::Maybe, "")).await;

    // An answer that came before the end of the connection counts, not the broken pipe.
    for (name, script) in [
        ("413, FIN", Script::new().read_head().answer(413, "too large").close()),
        ("413, drained", Script::new().read_head().answer(413, "too large").read_exactly(usize::MAX)),
    ] {
        let upstream = Hostile::new(script).start();
        let pool = pool();
        let head = send(&pool, request_to(&upstream, big())).await.expect(name);
        assert_eq!(head.status(), StatusCode::PAYLOAD_TOO_LARGE, "{name}");
        assert_eq!(head.into_body().collect().await.expect(name).to_bytes(), "too large", "{name}");
        assert_eq!(pool.stats().connections.idle, 0, "{name}: not free for others");
        assert_eq!(quiet(&pool).await.connections.open(), 0, "{name}");
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

fn request_to(upstream: &Upstream, body: TestBody) -> Request<TestBody> {
    request(Method::POST, upstream.uri("/"), body)
}

// === connecting (section 2) ===

const LIMIT: Duration = Duration::from_secs(3);

fn uri(host: impl std::fmt::Display) -> Uri {
    format!("http://{host}/").parse().unwrap()
}

#[tokio::test]
async fn a_connection_that_is_refused() {
    let refusal = Refusal::new();
    let request = secretive(Method::POST, &uri(refusal.addr()), "x".into());
    let expected = told(
        Kind::Refused,
        Phase::Connect,
        Delivery::NotSent,
        "http://ADDR: connection refused after T, nothing was sent",
    );
    fails("refused", pool(), &[], request, expected).await;
}

#[tokio::test(start_paused = true)]
async fn a_syn_that_nobody_answers() {
    let hole = BlackHole::new();
    let pool = build(Pool::builder().connect_timeout(LIMIT));
    let begun = Instant::now();
    let error = fetch(&pool, get(uri(hole.addr()))).await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), LIMIT.as_secs());
    let elapsed = find::<Elapsed>(&*error).unwrap();
    assert_eq!((elapsed.phase(), elapsed.limit()), (Phase::Connect, LIMIT), "{error}");
    tokio::time::resume();
    let request = secretive(Method::GET, &uri(hole.addr()), TestBody::new());
    let pool = build(Pool::builder().connect_timeout(Duration::from_millis(10)));
    let expected = told(
        Kind::Timeout,
        Phase::Connect,
        Delivery::NotSent,
        "http://ADDR: timed out connecting for T (limit T), nothing was sent",
    );
    fails("black hole", pool, &[], request, expected).await;
}

#[tokio::test]
async fn a_connector_without_descriptors_or_ports() {
    for (name, error) in
        [("EMFILE", libc_error::EMFILE), ("ENFILE", libc_error::ENFILE), ("no port", libc_error::NO_PORT)]
    {
        let connector = service_fn(move |uri: Uri| async move {
            match uri.host() {
                Some("a.example") => Err(io::Error::from_raw_os_error(error).into()),
                _ => Tcp::new().oneshot(uri).await,
            }
        });
        let pool = Pool::builder().build(connector).unwrap();
        let request = secretive(Method::POST, &uri("a.example"), "x".into());
        let expected = told(
            Kind::Exhausted,
            Phase::Connect,
            Delivery::NotSent,
            "http://ADDR: out of descriptors or ports while connecting after T, nothing was sent",
        );
        fails(name, pool, &[], request, expected).await;
    }
}

/// Linux's numbers; those of the first two are every Unix's.
mod libc_error {
    pub(super) const EMFILE: i32 = 24;
    pub(super) const ENFILE: i32 = 23;
    #[cfg(target_os = "linux")]
    pub(super) const NO_PORT: i32 = 99;
    #[cfg(not(target_os = "linux"))]
    pub(super) const NO_PORT: i32 = 49;
}

// === names ===

/// A pool whose names are resolved by `answer`; anything else than `name.example` by itself.
fn resolving<F>(answer: impl Fn() -> F + Clone + Send + Sync + 'static) -> Pool<impl Connect>
where
    F: Future<Output = Result<Vec<SocketAddr>, BoxError>> + Send + 'static,
{
    let resolver = service_fn(move |name: Name| {
        assert_eq!(name.as_str(), "name.example");
        let answer = answer();
        async move { answer.await.map(Vec::into_iter) }
    });
    let builder = Pool::builder().resolve_timeout(LIMIT).connect_timeout(Duration::from_millis(200));
    builder.build(Tcp::with_resolver(resolver)).unwrap()
}

#[tokio::test]
async fn names_that_lead_nowhere() {
    let nxdomain = || async { Err(io::Error::other("no such name").into()) };
    let expected = told(
        Kind::Resolve,
        Phase::Resolve,
        Delivery::NotSent,
        "http://ADDR: name not resolved after T (no such name), nothing was sent",
    );
    let request = secretive(Method::POST, &uri("name.example"), "x".into());
    fails("NXDOMAIN", resolving(nxdomain), &[], request, expected).await;

    let expected = told(
        Kind::Resolve,
        Phase::Resolve,
        Delivery::NotSent,
        "http://ADDR: name not resolved after T (the name resolved to no address), nothing was sent",
    );
    let request = secretive(Method::POST, &uri("name.example"), "x".into());
    let pool = resolving(|| async { Ok(Vec::new()) });
    fails("no address", pool, &[], request, expected).await;

    let pool = resolving(|| async { panic!("the resolver was told to panic") });
    let (call, request) = (pool.clone(), get(uri("name.example")));
    let panicked = tokio::spawn(async move { fetch(&call, request).await.map(drop) }).await;
    assert!(panicked.unwrap_err().is_panic());
    leaves_nothing("a panic", pool, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_takes_too_long() {
    let pool = resolving(std::future::pending);
    let begun = Instant::now();
    let error = fetch(&pool, get(uri("name.example"))).await.unwrap_err();
    assert_eq!(begun.elapsed(), LIMIT);
    let failure = Failure::of(&*error);
    assert_eq!((failure.kind(), failure.phase()), (Kind::Timeout, Some(Phase::Resolve)), "{error}");
    assert_eq!(failure.delivery(), Delivery::NotSent);
    assert_eq!(
        normal(&error.to_string(), failure.origin().unwrap()),
        "http://ADDR: timed out resolving the host name for T (limit T), nothing was sent"
    );
    assert_eq!(pool.stats().connections.open(), 0);
    tokio::time::resume();
    leaves_nothing("a slow name", pool, &[]).await;
}

#[tokio::test]
async fn one_dead_address_of_several_is_passed_over() {
    let (upstream, refusal) = (Friendly::new(handler::hello).start(), Refusal::new());
    for order in [[refusal.addr(), upstream.addr()], [upstream.addr(), refusal.addr()]] {
        let pool = resolving(move || async move { Ok(order.to_vec()) });
        fetch(&pool, get(uri("name.example"))).await.unwrap();
        assert_eq!(quiet(&pool).await.connections.idle, 1, "and it can be used again");
        leaves_nothing("dead address", pool, &[&upstream]).await;
    }
}

/// The first address swallows every SYN; the second must get its share of the time.
#[tokio::test]
async fn one_silent_address_of_several_is_passed_over() {
    let (upstream, hole) = (Friendly::new(handler::hello).start(), BlackHole::new());
    let addresses = [hole.addr(), upstream.addr()];
    let pool = resolving(move || async move { Ok(addresses.to_vec()) });
    fetch(&pool, get(uri("name.example"))).await.unwrap();
    leaves_nothing("silent address", pool, &[&upstream]).await;
}

// === TLS ===

fn tls(certificate: &Certificate) -> Pool<impl Connect + use<>> {
    Pool::builder().tls_timeout(LIMIT).build(Tls::new(Tcp::new(), certificate.client([]))).unwrap()
}

#[tokio::test]
async fn certificates_that_are_not_to_be_trusted() {
    let (local, other) = (Certificate::local(), Certificate::local());
    let (named, expired) = (Certificate::named("elsewhere.example"), Certificate::expired());
    for (name, serves, trusts, line) in [
        (
            "unknown issuer",
            &local,
            &other,
            "https://ADDR: certificate not trusted after T (invalid peer certificate: UnknownIssuer), nothing was sent",
        ),
        (
            "wrong name",
            &named,
            &named,
            "https://ADDR: certificate not trusted after T (invalid peer certificate: certificate not valid for name \"127.0.0.1\"; certificate is only valid for DnsName(\"elsewhere.example\")), nothing was sent",
        ),
        // It says when, too.
        ("expired", &expired, &expired, ""),
    ] {
        let upstream = Hostile::new(Script::hello()).tls(serves.clone()).start();
        let request = secretive(Method::GET, &upstream.uri("/"), TestBody::new());
        let expected = told(Kind::Certificate, Phase::Tls, Delivery::NotSent, line);
        fails(name, tls(trusts), &[&upstream], request, expected).await;
        assert!(upstream.sightings().requests.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn handshakes_that_fail() {
    let local = Certificate::local();
    let before = |script: Script| Script::new().before_handshake(script);
    for (name, script, kind, line) in [
        (
            "FIN",
            before(Script::new().first_byte().close()),
            Kind::Tls,
            "https://ADDR: TLS handshake failed after T (tls handshake eof), nothing was sent",
        ),
        (
            "RST",
            before(Script::new().first_byte().reset()),
            Kind::Reset,
            "https://ADDR: connection reset in the TLS handshake after T, nothing was sent",
        ),
        (
            "plain HTTP",
            before(Script::new().first_byte().write("HTTP/1.1 400 Bad Request\r\n\r\n").stall()),
            Kind::Tls,
            "https://ADDR: TLS handshake failed after T (received corrupt message of type InvalidContentType), nothing was sent",
        ),
    ] {
        let upstream = Hostile::new(script).tls(local.clone()).start();
        let request = secretive(Method::GET, &upstream.uri("/"), TestBody::new());
        fails(name, tls(&local), &[&upstream], request, told(kind, Phase::Tls, Delivery::NotSent, line))
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls() {
    let frozen = Frozen::new();
    let local = Certificate::local();
    let upstream = Hostile::new(Script::new().before_handshake(Script::new().first_byte().stall()))
        .tls(local.clone())
        .start();
    let pool = tls(&local);
    let mut request = get(upstream.uri("/"));
    let exchange = Exchange::track(&mut request);
    let call = tokio::spawn({
        let pool = pool.clone();
        async move { fetch(&pool, request).await }
    });
    until(&pool, "the handshake", |_| exchange.phase() == Phase::Tls).await;
    tokio::time::advance(LIMIT - Duration::from_millis(1)).await;
    until(&pool, "some turns", |_| true).await;
    assert!(!call.is_finished());
    tokio::time::advance(Duration::from_millis(1)).await;
    let error = call.await.unwrap().unwrap_err();
    let elapsed = find::<Elapsed>(&*error).unwrap();
    assert_eq!((elapsed.phase(), elapsed.elapsed(), elapsed.limit()), (Phase::Tls, LIMIT, LIMIT), "{error}");
    assert_eq!(Failure::of(&*error).delivery(), Delivery::NotSent);
    let line = "https://ADDR: timed out in the TLS handshake for 3 s (limit 3 s), nothing was sent";
    assert_eq!(error.to_string(), line.replace("ADDR", &upstream.addr().to_string()));
    drop(frozen);
    tokio::time::resume();
    leaves_nothing("stall", pool, &[&upstream]).await;
}

#[tokio::test]
async fn over_tls_with_a_configuration_of_ones_own() {
    let local = Certificate::local();
    let upstream = Friendly::new(handler::echo).tls(local.clone()).start();
    let pool = tls(&local);
    for served in 0..5 {
        let mut request = request(Method::POST, upstream.uri("/"), TestBody::from("hello"));
        let exchange = Exchange::track(&mut request);
        let response = fetch(&pool, request).await.unwrap();
        assert_eq!(response.body(), "hello");
        let connection = exchange.connection().unwrap();
        assert_eq!((connection.id(), connection.served()), (1, served));
        let dial = connection.established().timings;
        assert!(!dial.spent(Phase::Connect).is_zero() && !dial.spent(Phase::Tls).is_zero(), "{dial:?}");
        assert!(dial.spent(Phase::Resolve).is_zero(), "an address needs no resolver: {dial:?}");
        assert_eq!(exchange.timings().spent(Phase::Tls).is_zero(), served > 0);
        assert_eq!(connection.established().remote, Some(upstream.addr()));
    }
    assert_eq!(upstream.sightings().connections.len(), 1);
    leaves_nothing("TLS", pool, &[&upstream]).await;
}

#[tokio::test]
async fn a_truncated_tls_stream_is_no_end_of_a_body() {
    let local = Certificate::local();
    let cut = Script::new().exchange(Answer::new(200, "hello").until_close()).cut();
    let upstream = Hostile::new(cut).tls(local.clone()).start();
    let request = secretive(Method::GET, &upstream.uri("/"), TestBody::new());
    let expected = told(Kind::Truncated, Phase::Body, Delivery::Answered, "");
    fails("no goodbye", tls(&local), &[&upstream], request, expected).await;
}

#[tokio::test]
async fn a_tls_connection_closed_while_idle_is_found() {
    let (local, goes) = (Certificate::local(), Gate::new("goes"));
    let first = Script::new().exchange(Answer::new(200, "hello")).wait(&goes).close();
    let upstream = Hostile::new(first).then(Script::hello()).tls(local.clone()).own_thread().start();
    let pool = tls(&local);
    fetch(&pool, get(upstream.uri("/"))).await.unwrap();
    quiet(&pool).await;
    goes.open();
    upstream.until_blocking("the close", |seen| seen.connections[0].ended.is_some());
    fetch(&pool, request(Method::POST, upstream.uri("/"), TestBody::from("x"))).await.unwrap();
    assert_eq!(upstream.sightings().requests.len(), 2);
    leaves_nothing("TLS idle", pool, &[&upstream]).await;
}
