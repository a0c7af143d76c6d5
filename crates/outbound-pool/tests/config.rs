//! Bad input is told by a typed error, before anything is opened.

mod support;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use http::Uri;
use outbound_core::{Delivery, Failure, InvalidOrigin, Kind, find};
use outbound_pool::{
    Builder, InvalidConfig, Pool,
    connect::{NotEncrypted, Tcp, Tls},
};
use outbound_testkit::{Certificate, Friendly, handler};
use support::*;

#[test]
fn limits_that_make_no_sense_are_not_built() {
    type Set = fn(Builder) -> Builder;
    let zero: [(&str, Set); 8] = [
        ("max_connections", |builder| builder.max_connections(0)),
        ("max_connections_per_host", |builder| builder.max_connections_per_host(0)),
        ("acquire_timeout", |builder| builder.acquire_timeout(Duration::ZERO)),
        ("idle_timeout", |builder| builder.idle_timeout(Duration::ZERO)),
        ("resolve_timeout", |builder| builder.resolve_timeout(Duration::ZERO)),
        ("connect_timeout", |builder| builder.connect_timeout(Duration::ZERO)),
        ("tls_timeout", |builder| builder.tls_timeout(Duration::ZERO)),
        ("max_head_size", |builder| builder.max_head_size(0)),
    ];
    for (name, set) in zero {
        let error = set(Pool::builder()).build(Tcp::new()).expect_err(name);
        assert_eq!(error, InvalidConfig::Zero(name));
        assert_eq!(error.to_string(), format!("{name} is zero: no call could pass"));
    }
    let above: [(&str, &str, Set); 4] = [
        ("max_connections_per_host", "max_connections", |builder| {
            builder.max_connections(9).max_connections_per_host(10)
        }),
        ("max_idle", "max_connections", |builder| builder.max_connections(9).max_idle(10)),
        ("max_idle_per_host", "max_connections_per_host", |builder| {
            builder.max_connections_per_host(9).max_idle_per_host(10)
        }),
        ("max_idle_per_host", "max_idle", |builder| builder.max_idle(9).max_idle_per_host(10)),
    ];
    for (part, whole, set) in above {
        let error = set(Pool::builder()).build(Tcp::new()).expect_err(part);
        assert_eq!(error, InvalidConfig::Above(part, whole));
        assert_eq!(error.to_string(), format!("{part} is above {whole}, which it is part of"));
    }
}

#[tokio::test]
async fn extreme_limits_work() {
    let upstream = Friendly::new(handler::hello).start();
    let (most, ever) = (usize::MAX, Duration::MAX);
    let greatest = Pool::builder()
        .max_connections(most)
        .max_connections_per_host(most)
        .max_idle(most)
        .max_idle_per_host(most)
        .max_waiting(most)
        .idle_timeout(ever)
        .acquire_timeout(ever)
        .resolve_timeout(ever)
        .connect_timeout(ever)
        .tls_timeout(ever);
    let least = Pool::builder().max_connections(1).max_idle(0).max_waiting(0);
    for (name, builder) in [("greatest", greatest), ("least", least), ("default", Pool::builder())] {
        let pool = build(builder);
        for _ in 0..3 {
            fetch(&pool, get(upstream.uri("/"))).await.expect(name);
            quiet(&pool).await;
        }
        drop(pool);
        upstream.all_closed().await;
    }
}

#[tokio::test]
async fn a_uri_that_leads_nowhere_opens_nothing() {
    let dials = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = dials.clone();
    let connector = tower::service_fn(move |uri: Uri| {
        count.fetch_add(1, SeqCst);
        tower::ServiceExt::oneshot(Tcp::new(), uri)
    });
    let pool = Pool::builder().build(connector).unwrap();
    for (uri, expected) in [
        ("/path?query", InvalidOrigin::NoScheme),
        ("*", InvalidOrigin::NoScheme),
        ("example.com", InvalidOrigin::NoScheme),
        ("example.com:80", InvalidOrigin::NoScheme),
        ("ftp://example.com/", InvalidOrigin::UnknownScheme("ftp".into())),
        ("ws://example.com/", InvalidOrigin::UnknownScheme("ws".into())),
        ("http://:80/", InvalidOrigin::NoHost),
        ("http://user@/", InvalidOrigin::NoHost),
        ("http://example.com:0/", InvalidOrigin::BadPort),
        ("http://example.com:65536/", InvalidOrigin::BadPort),
    ] {
        // What the `http` crate does not parse does not get here.
        let Ok(parsed) = uri.parse() else { continue };
        let error = fetch(&pool, get(parsed)).await.expect_err(uri);
        assert_eq!(find::<InvalidOrigin>(&*error), Some(&expected), "{uri}");
        let failure = Failure::of(&*error);
        assert_eq!((failure.kind(), failure.delivery()), (Kind::Invalid, Delivery::NotSent), "{uri}");
    }
    let totals = pool.stats().totals;
    assert_eq!((dials.load(SeqCst), totals.dialed, totals.waited), (0, 0, 0));
}

/// The request would go over the wire for everybody to read.
#[tokio::test]
async fn a_connector_that_does_not_encrypt_refuses_https() {
    let certificate = Certificate::local();
    let upstream = Friendly::new(handler::hello).tls(certificate.clone()).start();
    let pool = pool();
    let error = fetch(&pool, get(upstream.uri("/"))).await.unwrap_err();
    assert!(find::<NotEncrypted>(&*error).is_some(), "{error}");
    let failure = Failure::of(&*error);
    assert_eq!((failure.kind(), failure.delivery()), (Kind::Invalid, Delivery::NotSent), "{error}");
    assert!(upstream.sightings().connections.is_empty());
    leaves_nothing("https", pool, &[&upstream]).await;

    // Somebody else may encrypt.
    let handshake = build_with(Tcp::new().enforce_http(false));
    let error = fetch(&handshake, get(upstream.uri("/"))).await.unwrap_err();
    assert!(find::<NotEncrypted>(&*error).is_none(), "{error}");

    // And what encrypts does so for https only.
    let plain = Friendly::new(handler::hello).start();
    let both = build_with(Tls::new(Tcp::new(), certificate.client([])));
    for upstream in [&upstream, &plain] {
        fetch(&both, get(upstream.uri("/"))).await.unwrap();
    }
}
