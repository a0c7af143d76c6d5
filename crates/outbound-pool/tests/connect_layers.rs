//! The connector layers: alone, under hyper-util's client, under reqwest, and under the pool.

mod support;

use std::{net::SocketAddr, pin::Pin, time::Duration};

use bytes::Bytes;
use http::Uri;
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{self, HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioIo},
};
use outbound_core::{BoxError, Delivery, Elapsed, Failure, Kind, Overloaded, Phase, find};
use outbound_pool::{
    InvalidConfig, Pool,
    connect::{ConnectTimeoutLayer, InMemory, OpenLimitLayer, Tcp, TrackLayer},
};
use outbound_testkit::{BlackHole, Friendly, Gate, TestBody, handler};
use support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    time::Instant,
};
use tower::{Layer, ServiceExt, service_fn};

const LIMIT: Duration = Duration::from_secs(3);

fn a_uri() -> Uri {
    Uri::from_static("http://a.example/")
}

/// hyper-util's client over `connector`.
fn legacy<C>(connector: C) -> Client<C, Empty<Bytes>>
where
    C: connect::Connect + Clone,
{
    Client::builder(TokioExecutor::new()).build(connector)
}

/// A server in memory that reads and says nothing until its client goes away.
fn silent() -> InMemory<impl Fn(DuplexStream) -> Pin<Box<dyn Future<Output = ()> + Send>> + Clone> {
    InMemory::new(|mut io: DuplexStream| -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let _ = io.read_to_end(&mut Vec::new()).await;
        })
    })
}

// === the connect timeout ===

#[tokio::test(start_paused = true)]
async fn a_dial_that_takes_too_long() {
    for (name, takes, expected) in [
        ("at once", Duration::ZERO, Ok(())),
        ("just in time", LIMIT, Ok(())),
        ("a tick late", LIMIT + Duration::from_millis(1), Err(LIMIT)),
        ("never", Duration::MAX, Err(LIMIT)),
    ] {
        let connector = ConnectTimeoutLayer::new(LIMIT).layer(service_fn(move |_: Uri| async move {
            tokio::time::sleep(takes).await;
            Ok::<_, BoxError>(())
        }));
        let begun = Instant::now();
        let dialed = connector.oneshot(a_uri()).await;
        assert_eq!(begun.elapsed(), takes.min(LIMIT), "{name}");
        let limit = dialed.map_err(|error| {
            let elapsed = find::<Elapsed>(&*error).unwrap();
            assert_eq!((elapsed.phase(), elapsed.delivery()), (Phase::Connect, Delivery::NotSent), "{name}");
            elapsed.limit()
        });
        assert_eq!(limit, expected, "{name}");
    }
    // What fails by itself fails with its own error, and no limit is no limit.
    let broken = service_fn(|_: Uri| async { Err::<(), BoxError>("broken".into()) });
    let error = ConnectTimeoutLayer::new(Duration::MAX).layer(broken).oneshot(a_uri()).await.unwrap_err();
    assert_eq!(error.to_string(), "broken");
}

#[tokio::test(start_paused = true)]
async fn a_connect_timeout_under_other_clients() {
    let hole = BlackHole::new();
    let uri: Uri = format!("http://{}/", hole.addr()).parse().unwrap();

    let begun = Instant::now();
    let client = legacy(ConnectTimeoutLayer::new(LIMIT).layer(HttpConnector::new()));
    let error = client.get(uri.clone()).await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 3);
    told("hyper-util", &error);

    let begun = Instant::now();
    let client = reqwest::Client::builder().no_proxy().connector_layer(ConnectTimeoutLayer::new(LIMIT));
    let error = client.build().unwrap().get(uri.to_string()).send().await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 3);
    told("reqwest", &error);

    fn told(name: &str, error: &(dyn std::error::Error + 'static)) {
        assert_eq!(find::<Elapsed>(error).unwrap().limit(), LIMIT, "{name}");
        let failure = Failure::of(error);
        assert_eq!((failure.kind(), failure.phase()), (Kind::Timeout, Some(Phase::Connect)), "{name}");
        assert_eq!(failure.delivery(), Delivery::NotSent, "{name}");
    }
}

#[tokio::test]
async fn a_connect_timeout_that_does_not_strike_changes_nothing() {
    let upstream = Friendly::new(handler::hello).start();
    let layer = ConnectTimeoutLayer::new(LIMIT);
    let client = legacy(layer.layer(HttpConnector::new()));
    let response = client.get(upstream.uri("/")).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    let client = reqwest::Client::builder().no_proxy().connector_layer(layer).build().unwrap();
    assert_eq!(
        client.get(upstream.uri("/").to_string()).send().await.unwrap().text().await.unwrap(),
        "hello"
    );
    let pool = build_with(layer.layer(Tcp::new()));
    assert_eq!(fetch(&pool, get(upstream.uri("/"))).await.unwrap().body(), "hello");
}

/// The limit is shared among the addresses of a name, so that a silent one leaves time for the next.
#[tokio::test(start_paused = true)]
async fn a_connect_timeout_over_several_addresses() {
    let (upstream, hole) = (Friendly::new(handler::hello).start(), BlackHole::new());
    let addresses = [hole.addr(), upstream.addr()];
    let resolver = service_fn(move |_| std::future::ready(Ok::<_, BoxError>(addresses.into_iter())));
    let connector = ConnectTimeoutLayer::new(LIMIT).layer(Tcp::with_resolver(resolver));
    connector.oneshot(a_uri()).await.unwrap();
}

// === the limit of open connections ===

#[test]
fn a_limit_of_none() {
    assert_eq!(OpenLimitLayer::new(0).unwrap_err(), InvalidConfig::Zero("the limit of open connections"));
    assert!(OpenLimitLayer::new(usize::MAX).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_place_is_held_until_the_connection_is_dropped() {
    let connector = OpenLimitLayer::new(2).unwrap().layer(silent());
    let dial = || tokio::spawn(connector.clone().oneshot(a_uri()));
    let (first, second) = (dial().await.unwrap().unwrap(), dial().await.unwrap().unwrap());
    let waiting = [dial(), dial(), dial()];
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(waiting.iter().all(|dial| !dial.is_finished()));
    let [third, fourth, fifth] = waiting;
    // First come, first served; and who goes away is passed over.
    fourth.abort();
    drop(second);
    let third = third.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!fifth.is_finished());
    drop((first, third));
    fifth.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_place_is_given_back_by_a_dial_that_comes_to_nothing() {
    let fails = service_fn(|uri: Uri| async move {
        match uri.path() {
            "/fails" => Err::<TokioIo<TcpStream>, BoxError>("broken".into()),
            "/hangs" => std::future::pending().await,
            _ => panic!("the connector was told to panic"),
        }
    });
    let connector = OpenLimitLayer::new(1).unwrap().layer(fails);
    let dial = |uri| tokio::spawn(connector.clone().oneshot(Uri::from_static(uri)));
    for round in 0..2 {
        assert_eq!(
            dial("http://a.example/fails").await.unwrap().unwrap_err().to_string(),
            "broken",
            "{round}"
        );
        assert!(dial("http://a.example/panics").await.unwrap_err().is_panic(), "{round}");
        let hangs = dial("http://a.example/hangs");
        tokio::time::sleep(Duration::from_secs(1)).await;
        hangs.abort();
        assert!(hangs.await.unwrap_err().is_cancelled(), "{round}");
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_wait_or_one_for_too_long() {
    let limit = OpenLimitLayer::new(1).unwrap().max_waiting(1).max_wait(LIMIT);
    let connector = limit.layer(silent());
    let open = connector.clone().oneshot(a_uri()).await.unwrap();
    let begun = Instant::now();
    let waits = tokio::spawn(connector.clone().oneshot(a_uri()));
    tokio::task::yield_now().await;
    for (error, waiting, after, line) in [
        (
            connector.clone().oneshot(a_uri()).await.map(drop).unwrap_err(),
            1,
            Duration::ZERO,
            "the limit of open connections is overloaded: all 1 in use, 1 waiting",
        ),
        (
            waits.await.unwrap().map(drop).unwrap_err(),
            0,
            LIMIT,
            "the limit of open connections is overloaded: all 1 in use, 0 waiting, gave up after 3 s",
        ),
    ] {
        let overloaded = find::<Overloaded>(&*error).unwrap();
        assert_eq!((overloaded.limit(), overloaded.waiting(), overloaded.time_waited()), (1, waiting, after));
        assert_eq!(error.to_string(), line);
    }
    assert_eq!(begun.elapsed(), LIMIT);
    drop(open);
    connector.oneshot(a_uri()).await.unwrap();
}

/// Clients ask for as much as they like: the server never sees more sockets than allowed.
#[tokio::test]
async fn the_limit_holds_under_other_clients() {
    let (track, tracker) = TrackLayer::pair();
    let limit = OpenLimitLayer::new(3).unwrap();
    let upstream = Friendly::new(handler::hello).start();
    let client = legacy(track.layer(limit.layer(HttpConnector::new())));
    let calls = (0..60).map(|_| {
        let (client, uri) = (client.clone(), upstream.uri("/"));
        tokio::spawn(
            async move { client.get(uri).await?.into_body().collect().await.map_err(BoxError::from) },
        )
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap().to_bytes(), "hello");
    }
    assert!(upstream.max_open() <= 3, "{}", upstream.max_open());
    assert!(tracker.traffic().dialed > 3, "it asked for more: {:?}", tracker.traffic());
}

/// The pool's own limit is wider: its dials wait, and their limits of time go on.
#[tokio::test(start_paused = true)]
async fn the_limit_under_the_pool() {
    let frozen = Frozen::new();
    let gate = Gate::new("answers");
    let upstream = Friendly::new(handler::gated(&gate, handler::hello)).start();
    let limit = OpenLimitLayer::new(1).unwrap();
    let pool = Pool::builder().connect_timeout(LIMIT).build(limit.layer(Tcp::new())).unwrap();
    let call = |pool: &Pool<_>| {
        let (pool, uri) = (pool.clone(), upstream.uri("/"));
        tokio::spawn(async move { fetch(&pool, get(uri)).await.map(drop) })
    };
    let first = call(&pool);
    upstream.requests(1).await;
    let second = call(&pool);
    until(&pool, "a dial that waits", |stats| stats.connections.dialing == 1).await;
    tokio::time::advance(LIMIT).await;
    let error = second.await.unwrap().unwrap_err();
    let failure = Failure::of(&*error);
    assert_eq!((failure.kind(), failure.phase()), (Kind::Timeout, Some(Phase::Acquire)), "{error}");
    assert_eq!(failure.delivery(), Delivery::NotSent);
    gate.open();
    first.await.unwrap().unwrap();
    assert_eq!(upstream.max_open(), 1);
    drop((pool, frozen));
    tokio::time::resume();
    upstream.all_closed().await;
}

// === tracking ===

#[tokio::test(start_paused = true)]
async fn what_passes_is_counted() {
    let (layer, tracker) = TrackLayer::pair();
    let echo = InMemory::new(|io: DuplexStream| async move {
        let (mut read, mut write) = tokio::io::split(io);
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let connector = layer.layer(echo);
    let mut first =
        connector.clone().oneshot("http://me:secret@a.example/path".parse().unwrap()).await.unwrap();
    tokio::time::advance(Duration::from_secs(5)).await;
    let second = connector.clone().oneshot("https://b.example:8443/".parse().unwrap()).await.unwrap();
    first.inner_mut().write_all(b"hello").await.unwrap();
    first.inner_mut().read_exact(&mut [0; 3]).await.unwrap();
    let seen: Vec<_> = tracker
        .connections()
        .into_iter()
        .map(|seen| {
            (seen.id, seen.origin.unwrap().to_string(), seen.age.as_secs(), seen.bytes_in, seen.bytes_out)
        })
        .collect();
    let expected =
        [(1, "http://a.example".to_owned(), 5, 3, 5), (2, "https://b.example:8443".to_owned(), 0, 0, 0)];
    assert_eq!(seen, expected);
    let traffic = tracker.traffic();
    assert_eq!(
        (traffic.dialing, traffic.open, traffic.dialed, traffic.opened, traffic.failed),
        (0, 2, 2, 2, 0)
    );
    assert_eq!((traffic.bytes_in, traffic.bytes_out), (3, 5));

    drop((first, second));
    let traffic = tracker.traffic();
    assert_eq!((traffic.open, traffic.opened), (0, 2));
    assert_eq!((traffic.bytes_in, traffic.bytes_out), (3, 5), "what has passed stays");
    assert!(tracker.connections().is_empty());
    assert!(!format!("{tracker:?}").contains("secret"));
}

#[tokio::test]
async fn dials_that_come_to_nothing_are_counted() {
    let (layer, tracker) = TrackLayer::pair();
    let resolver = service_fn(|name: Name| async move {
        match name.as_str() {
            "fails" => Err::<std::vec::IntoIter<SocketAddr>, BoxError>("broken".into()),
            _ => std::future::pending().await,
        }
    });
    let connector = layer.layer(Tcp::with_resolver(resolver));
    let failed = connector.clone().oneshot(Uri::from_static("http://fails/")).await;
    assert!(failed.is_err());
    let hangs = tokio::spawn(connector.clone().oneshot(Uri::from_static("http://hangs/")));
    tokio::task::yield_now().await;
    let counts = || {
        let traffic = tracker.traffic();
        (traffic.dialing, traffic.dialed, traffic.failed, traffic.opened, traffic.open)
    };
    assert_eq!(counts(), (1, 2, 1, 0, 0));
    hangs.abort();
    let _ = hangs.await;
    assert_eq!(counts(), (0, 2, 1, 0, 0));
}

#[tokio::test]
async fn tracking_under_other_clients() {
    let upstream = Friendly::new(handler::hello).start();
    let (layer, tracker) = TrackLayer::pair();
    let client = legacy(layer.layer(HttpConnector::new()));
    let response = client.get(upstream.uri("/")).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    let seen = tracker.connections();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].bytes_out > 0 && seen[0].bytes_in > seen[0].bytes_out, "{seen:?}");
    drop(client);
    upstream.all_closed().await;
    assert_eq!(tracker.traffic().open, 0);

    // The pool counts the same bytes.
    let (layer, tracker) = TrackLayer::pair();
    let pool = build_with(layer.layer(Tcp::new()));
    let mut request = request(http::Method::POST, upstream.uri("/"), TestBody::from("hello"));
    let exchange = outbound_core::Exchange::track(&mut request);
    fetch(&pool, request).await.unwrap();
    let traffic = tracker.traffic();
    assert_eq!((traffic.bytes_out, traffic.bytes_in), (exchange.bytes_out(), exchange.bytes_in()));
    leaves_nothing("tracking", pool, &[&upstream]).await;
    assert_eq!(tracker.traffic().open, 0);
}

/// All at once, in either order.
#[tokio::test]
async fn layers_upon_layers() {
    let upstream = Friendly::new(handler::hello).start();
    let (track, tracker) = TrackLayer::pair();
    let (limit, timeout) = (OpenLimitLayer::new(1).unwrap(), ConnectTimeoutLayer::new(LIMIT));
    let there = track.layer(limit.layer(timeout.layer(Tcp::new())));
    let back = timeout.layer(limit.layer(track.layer(Tcp::new())));
    assert_eq!(fetch(&build_with(there), get(upstream.uri("/"))).await.unwrap().body(), "hello");
    assert_eq!(fetch(&build_with(back), get(upstream.uri("/"))).await.unwrap().body(), "hello");
    upstream.all_closed().await;
    assert_eq!((tracker.traffic().opened, tracker.traffic().open), (2, 0));
}
