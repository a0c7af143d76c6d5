//! What `Tls` offers, what it makes of the answer, and what the pool makes of that.
#![cfg(feature = "rustls")]

mod support;

use std::time::Duration;

use http::Method;
use hyper_util::client::legacy::connect::Connection;
use outbound_core::{Delivery, Failure, Kind, Phase, find};
use outbound_pool::{
    Pool,
    connect::{NoHttp2, Protocols, Tcp, Tls},
};
use outbound_testkit::{Certificate, Frame, Friendly, Gate, Hostile, Script, TestBody, handler};
use support::{told::*, *};
use tower::ServiceExt;

#[tokio::test]
async fn the_server_chooses_among_the_protocols_that_are_offered() {
    use Protocols::{Both, Http1, Http2};
    let local = Certificate::local();
    for (name, offered, known, is_h2) in [
        ("both, the server prefers h2", Both, &["h2", "http/1.1"][..], Some(true)),
        ("both, the server knows no h2", Both, &["http/1.1"], Some(false)),
        ("both, the server knows no ALPN", Both, &[], Some(false)),
        ("both, the server knows neither", Both, &["h3"], None),
        ("h1, the server knows both", Http1, &["h2", "http/1.1"], Some(false)),
        ("h1, the server knows no ALPN", Http1, &[], Some(false)),
        ("h1, the server knows no h1", Http1, &["h2"], None),
        ("h2, the server knows both", Http2, &["http/1.1", "h2"], Some(true)),
        ("h2, the server knows no h2", Http2, &["http/1.1"], None),
        ("h2, the server knows no ALPN", Http2, &[], None),
    ] {
        let certificate = local.clone().alpn(known.iter().copied());
        let upstream = Hostile::new(Script::hello()).tls(certificate).start();
        let connector = Tls::new(Tcp::new(), local.client([])).protocols(offered);
        let opened = connector.clone().oneshot(upstream.uri("/")).await;
        assert_eq!(opened.map(|io| io.connected().is_negotiated_h2()).ok(), is_h2, "{name}");

        if is_h2.is_none() {
            let pool = Pool::builder().build(connector).unwrap();
            let error = fetch(&pool, get(upstream.uri("/"))).await.map(drop).unwrap_err();
            let failure = Failure::of(&*error);
            assert_eq!((failure.kind(), failure.phase()), (Kind::Tls, Some(Phase::Tls)), "{name}: {error}");
            assert_eq!(failure.delivery(), Delivery::NotSent, "{name}: {error}");
            assert_eq!(find::<NoHttp2>(&*error).is_some(), known.is_empty(), "{name}: {error:?}");
            leaves_nothing(name, pool, &[&upstream]).await;
        }
    }
}

/// To know that plain connections speak HTTP/2 is no reason to speak it to a server that has not chosen it.
#[tokio::test]
async fn prior_knowledge_is_about_plain_connections() {
    let local = Certificate::local();
    for (name, known, version) in [
        ("h2", &["h2", "http/1.1"][..], http::Version::HTTP_2),
        ("the server knows no h2", &["http/1.1"], http::Version::HTTP_11),
        ("the server knows no ALPN", &[], http::Version::HTTP_11),
    ] {
        let upstream = Friendly::new(handler::hello);
        let upstream = if version == http::Version::HTTP_2 { upstream.http2() } else { upstream };
        let upstream = upstream.tls(local.clone().alpn(known.iter().copied())).start();
        let pool = Pool::builder().http2_prior_knowledge(true);
        let pool = pool.build(Tls::new(Tcp::new(), local.client([]))).unwrap();
        let response = fetch(&pool, get(upstream.uri("/"))).await.expect(name);
        assert_eq!(response.version(), version, "{name}");
        leaves_nothing_by(name, pool, &[&upstream], Healthy::Http2).await;
    }
}

/// The handshake was a success, and what comes after it is no failure of it: as over plain connections (`http2_faults`).
#[tokio::test]
async fn a_server_that_chooses_http_2_and_never_gets_to_speak_it() {
    const CANNOT: u32 = 1;
    let local = Certificate::local();
    let bad = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    for (name, script, kind) in [
        ("no SETTINGS", Script::new().http2(), Kind::Timeout),
        ("HTTP/1.1", Script::new().http2().write(bad), Kind::Protocol),
        ("FIN", Script::new().http2().close(), Kind::Closed),
        ("RST", Script::new().http2().reset(), Kind::Reset),
        ("GOAWAY", Script::new().http2().write(Frame::go_away(0, CANNOT)).close(), Kind::Closed),
    ] {
        let upstream = Hostile::new(script).tls(local.clone().alpn(["h2"])).start();
        let pool = Pool::builder().http2_handshake_timeout(Duration::from_millis(20));
        let pool = pool.build(Tls::new(Tcp::new(), local.client([]))).unwrap();
        let expected = told(kind, Phase::Connect, Delivery::NotSent, "");
        let request = secretive(Method::POST, &upstream.uri("/"), TestBody::from("body"));
        fails(name, pool, &[&upstream], request, expected).await;
    }
}

/// How many sockets a burst of calls to a cold host takes.
#[tokio::test]
async fn a_cold_burst_shares_one_dial_where_the_server_speaks_http_2() {
    const CALLS: usize = 20;
    let local = Certificate::local();
    for (name, known, dials, version) in [
        ("h2", &["h2", "http/1.1"][..], 1, http::Version::HTTP_2),
        ("the server knows no h2", &["http/1.1"], CALLS, http::Version::HTTP_11),
        ("the server knows no ALPN", &[], CALLS, http::Version::HTTP_11),
    ] {
        let all_are_there = Gate::new("all are there");
        let upstream = Friendly::new(handler::gated(&all_are_there, handler::hello));
        let upstream = if dials == 1 { upstream.http2() } else { upstream };
        let upstream = upstream.tls(local.clone().alpn(known.iter().copied())).start();
        let pool = Pool::builder().build(Tls::new(Tcp::new(), local.client([]))).unwrap();
        let calls: Vec<_> = (0..CALLS)
            .map(|_| {
                let (pool, uri) = (pool.clone(), upstream.uri("/"));
                tokio::spawn(async move { fetch(&pool, get(uri)).await })
            })
            .collect();
        all_are_there.arrived(CALLS).await;
        let stats = pool.stats();
        assert_eq!((stats.totals.dialed, stats.exchanges), (dials as u64, CALLS), "{name}: {stats:?}");
        all_are_there.open();
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap().version(), version, "{name}");
        }
        assert_eq!(upstream.sightings().connections.len(), dials, "{name}");
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}
