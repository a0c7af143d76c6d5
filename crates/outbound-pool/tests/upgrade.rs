//! Connections that are asked for themselves, by `CONNECT` or `Upgrade`: over HTTP/1.1, whatever else the server speaks.
#![cfg(feature = "rustls")]

mod support;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use outbound_core::{Delivery, Failure, Kind, Phase};
use outbound_pool::{
    Pool, What, Why,
    connect::{Connect, Protocols, Tcp, Tls},
};
use outbound_testkit::{
    Answer, Certificate, Ended, Frame, FrameKind, Friendly, Hostile, Script, Upstream, handler,
};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: parrot\r\n\r\n";
const CONNECTED: &str = "HTTP/1.1 200 OK\r\n\r\n";

fn upgrade(uri: Uri) -> Request<Empty<Bytes>> {
    let mut request = get(uri);
    request.headers_mut().insert(header::CONNECTION, "upgrade".parse().unwrap());
    request.headers_mut().insert(header::UPGRADE, "parrot".parse().unwrap());
    request
}

fn connect(uri: Uri) -> Request<Empty<Bytes>> {
    request(Method::CONNECT, uri, Empty::new())
}

/// Grants it, hears four bytes, and says others.
fn parrot(grant: &'static str) -> Script {
    Script::new().read_head().write(grant).read_exactly(4).write("pong").read_exactly(3).close()
}

/// An HTTP/2 server that answers one request after the other.
fn http2() -> Script {
    let greeted = Script::new().http2().write(Frame::settings(&[]));
    (1..20).step_by(2).fold(greeted, |script, stream| {
        let head = script.until_frame(FrameKind::HEADERS).write(Frame::response(stream, 200, &[]));
        head.write(Frame::data(stream, "hello").end())
    })
}

fn over_tls(certificate: &Certificate) -> Pool<impl Connect + use<>> {
    Pool::builder().build(Tls::new(Tcp::new(), certificate.client([]))).unwrap()
}

/// A server that can speak both versions, and chooses HTTP/2 where it may.
fn both(script: Script, then: Script, certificate: &Certificate) -> Upstream {
    Hostile::new(script).then(then).tls(certificate.clone().alpn(["h2", "http/1.1"])).start()
}

/// Talks over the connection that `request` asks for, while the pool serves others; then closes it.
async fn talks<C: Connect>(
    name: &str,
    pool: Pool<C>,
    request: Request<Empty<Bytes>>,
    upstream: &Upstream,
    healthy: Healthy,
) {
    let (mut events, before) = (pool.events(), pool.stats());
    let mut response = send(&pool, request).await.expect(name);
    assert!([101, 200].contains(&response.status().as_u16()), "{name}: {}", response.status());
    let upgraded = hyper::upgrade::on(&mut response).await.expect(name);
    drop(response);
    let stats = pool.stats();
    assert_eq!(stats.connections.active, before.connections.active + 1, "{name}: it counts: {stats:?}");
    assert_eq!(stats.origins.len(), 1, "{name}: one origin: {stats:?}");
    assert_eq!(stats.origins[0].connections, stats.connections, "{name}");
    let mut io = TokioIo::new(upgraded);
    io.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    io.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"pong", "{name}");
    io.write_all(b"bye").await.unwrap();
    assert_eq!(io.read(&mut answer).await.unwrap(), 0, "{name}");
    assert_eq!(pool.stats().connections.active, before.connections.active + 1, "{name}: its socket is open");
    drop(io);
    let mut why = None;
    while why.is_none() {
        if let What::Closed(closed) = events.next().await.unwrap().unwrap().what {
            why = Some(closed);
        }
    }
    assert_eq!(why, Some(Why::Upgraded), "{name}");
    assert_eq!(pool.stats().connections.active, before.connections.active, "{name}: its place is free");
    leaves_nothing_by(name, pool, &[upstream], healthy).await;
}

#[tokio::test]
async fn over_http_1() {
    for (name, request, grant) in
        [("upgrade", upgrade as fn(Uri) -> Request<_>, SWITCHING), ("CONNECT", connect, CONNECTED)]
    {
        let upstream = Hostile::new(parrot(grant)).start();
        talks(name, pool(), request(upstream.uri("/")), &upstream, Healthy::Http1).await;
        let asked = &upstream.sightings().requests[0];
        match name {
            "CONNECT" => assert_eq!(asked.target, upstream.addr().to_string()),
            _ => assert_eq!(
                (&asked.headers["upgrade"], &asked.headers["connection"]),
                (&"parrot".parse().unwrap(), &"upgrade".parse().unwrap())
            ),
        }
        assert_eq!(upstream.ended(0).await, Ended::ByUsFin, "{name}");
    }
}

/// Another connection is opened for it, for which nothing but HTTP/1.1 is offered.
#[tokio::test]
async fn to_a_host_with_which_others_speak_http_2() {
    let local = Certificate::local();
    for (name, request, grant) in
        [("upgrade", upgrade as fn(Uri) -> Request<_>, SWITCHING), ("CONNECT", connect, CONNECTED)]
    {
        let upstream = both(http2(), parrot(grant), &local);
        let pool = over_tls(&local);
        assert_eq!(fetch(&pool, get(upstream.uri("/"))).await.unwrap().version(), http::Version::HTTP_2);
        talks(name, pool, request(upstream.uri("/")), &upstream, Healthy::Http1).await;
        let seen = upstream.sightings();
        assert_eq!((seen.connections.len(), seen.requests.len()), (2, 1), "{name}: {seen}");
    }
}

#[tokio::test]
async fn to_a_host_of_which_nothing_is_known() {
    let local = Certificate::local();
    let upstream = both(parrot(SWITCHING), http2(), &local);
    let pool = over_tls(&local);
    talks("cold", pool, upgrade(upstream.uri("/")), &upstream, Healthy::Http1).await;
    assert_eq!(upstream.sightings().connections.len(), 1);
}

#[tokio::test]
async fn to_a_host_that_is_known_to_speak_http_2() {
    let upstream = Hostile::new(parrot(SWITCHING)).start();
    let pool = build(Pool::builder().http2_prior_knowledge(true));
    talks("prior knowledge", pool, upgrade(upstream.uri("/")), &upstream, Healthy::Http2).await;
}

/// The connection is one like others, for the next that asks.
#[tokio::test]
async fn an_upgrade_that_is_not_granted() {
    let local = Certificate::local();
    let no = Script::new().forever(Script::new().exchange(Answer::new(426, "no")));
    let upstream = both(http2(), no, &local);
    let pool = over_tls(&local);
    fetch(&pool, get(upstream.uri("/"))).await.unwrap();
    for _ in 0..3 {
        let refused = fetch(&pool, upgrade(upstream.uri("/"))).await.unwrap();
        assert_eq!((refused.status(), &refused.body()[..]), (StatusCode::UPGRADE_REQUIRED, &b"no"[..]));
        let next = fetch(&pool, get(upstream.uri("/"))).await.unwrap();
        assert_eq!(next.version(), http::Version::HTTP_2, "others do not take it");
    }
    let stats = quiet(&pool).await;
    assert_eq!((stats.connections.idle, stats.totals.opened, stats.origins.len()), (2, 2, 1), "{stats:?}");
    leaves_nothing("refused", pool, &[&upstream]).await;
}

#[tokio::test]
async fn it_counts_against_the_limits() {
    let upstream = Friendly::new(handler::hello).http2().start();
    let pool = build(Pool::builder().http2_prior_knowledge(true).max_connections(1).max_waiting(0));
    let held = send(&pool, get(upstream.uri("/"))).await.unwrap();
    let error = send(&pool, upgrade(upstream.uri("/"))).await.unwrap_err();
    assert_eq!(Failure::of(&*error).kind(), Kind::Overloaded, "{error}");
    drop(held);
    leaves_nothing_by("limit", pool, &[&upstream], Healthy::Http2).await;
}

/// Whoever allows nothing but HTTP/2 has no upgrades.
#[tokio::test]
async fn where_http_2_is_all_that_is_offered() {
    let local = Certificate::local();
    for request in [upgrade, connect] {
        let upstream = both(http2(), http2(), &local);
        let connector = Tls::new(Tcp::new(), local.client([])).protocols(Protocols::Http2);
        let pool = Pool::builder().build(connector).unwrap();
        let error = fetch(&pool, request(upstream.uri("/"))).await.unwrap_err();
        let failure = Failure::of(&*error);
        assert_eq!((failure.kind(), failure.delivery()), (Kind::Invalid, Delivery::NotSent), "{error}");
        assert_eq!(failure.phase(), Some(Phase::Send), "{error}");
        fetch(&pool, get(upstream.uri("/"))).await.unwrap();
        drop(pool);
        upstream.all_closed().await;
    }
}
