//! How connections come before they are asked for, and go when their time has come.

mod support;

use std::time::Duration;

use http::Response;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use outbound_core::{Delivery, Failure, Kind, Phase, find};
use outbound_pool::{
    Builder, Closed, Missed, Pool, What, Why,
    connect::{Connect, InMemory, Tcp, Tls, report},
};
use outbound_testkit::{Answer, Certificate, Friendly, Gate, Hostile, Script, handler};
use support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};
use tower::ServiceExt;

#[tokio::test]
async fn a_connection_carries_as_many_requests_as_it_may() {
    let upstream = Friendly::new(handler::hello).start();
    let pool = build(Pool::builder().max_requests_per_connection(3));
    for _ in 0..7 {
        fetch(&pool, get(upstream.uri("/"))).await.unwrap();
    }
    assert_eq!(upstream.sightings().connections.len(), 3);
    assert_eq!(pool.stats().totals.retired, 2);
    leaves_nothing("requests", pool, &[&upstream]).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_lives_no_longer_than_it_may() {
    let frozen = Frozen::new();
    let upstream = Friendly::new(handler::hello).start();
    let pool = build(Pool::builder().max_lifetime(Duration::from_secs(20)).seed(7));
    fetch(&pool, get(upstream.uri("/"))).await.unwrap();
    tokio::time::advance(Duration::from_secs(17)).await;
    assert_eq!(quiet(&pool).await.connections.idle, 1, "the jitter is a tenth at most");
    tokio::time::advance(Duration::from_secs(3)).await;
    let stats = until(&pool, "the end of its life", |stats| stats.connections.open() == 0).await;
    assert_eq!((stats.totals.retired, stats.totals.expired), (1, 0));
    drop(frozen);
}

#[tokio::test]
async fn connections_are_opened_ahead_within_the_limits() {
    let upstream = Friendly::new(handler::hello).start();
    let pool = build(Pool::builder().max_connections_per_host(4));
    assert_eq!(pool.prewarm(&upstream.uri("/"), 3).await.unwrap(), 3);
    assert_eq!(pool.prewarm(&upstream.uri("/"), 9).await.unwrap(), 1, "the limit is four");
    assert_eq!(pool.stats().connections.idle, 4);
    fetch(&pool, get(upstream.uri("/"))).await.unwrap();
    assert_eq!(upstream.sightings().connections.len(), 4);
    leaves_nothing("prewarm", pool, &[&upstream]).await;
}

/// Nobody has used them yet.
#[tokio::test]
async fn a_connection_that_was_opened_ahead_carries_as_many_requests_as_any() {
    for (name, healthy) in [("HTTP/1.1", Healthy::Http1), ("HTTP/2", Healthy::Http2)] {
        let (upstream, is_http2) = (Friendly::new(handler::hello), healthy == Healthy::Http2);
        let upstream = if is_http2 { upstream.http2() } else { upstream }.start();
        let pool = build(Pool::builder().max_requests_per_connection(1).http2_prior_knowledge(is_http2));
        assert_eq!(pool.prewarm(&upstream.uri("/"), 1).await.expect(name), 1, "{name}");
        assert_eq!(pool.stats().connections.idle, 1, "{name}");
        for expected in [1, 2] {
            fetch(&pool, get(upstream.uri("/"))).await.expect(name);
            assert_eq!(upstream.sightings().connections.len(), expected, "{name}");
        }
        leaves_nothing_by(name, pool, &[&upstream], healthy).await;
    }
}

#[tokio::test]
async fn a_closed_pool_serves_nobody_and_has_no_sockets() {
    let upstream = Hostile::new(Script::new().read_head().stall()).start();
    let pool = build(Pool::builder().max_connections(1));
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let (pool, uri) = (pool.clone(), upstream.uri("/"));
            tokio::spawn(async move { fetch(&pool, get(uri)).await.unwrap_err() })
        })
        .collect();
    until(&pool, "one to be sent, one to wait", |s| (s.exchanges, s.waiting) == (1, 1)).await;
    pool.close(Duration::from_millis(20)).await;
    assert_eq!(pool.stats().connections.open(), 0);
    let mut deliveries = Vec::new();
    for call in calls {
        deliveries.push(Failure::of(&*call.await.unwrap()).delivery());
    }
    deliveries.sort();
    assert_eq!(deliveries, [Delivery::NotSent, Delivery::Maybe]);
    let late = fetch(&pool, get(upstream.uri("/"))).await.unwrap_err();
    let failure = Failure::of(&*late);
    assert_eq!((failure.kind(), failure.delivery()), (Kind::Canceled, Delivery::NotSent), "{late}");
    pool.close(Duration::ZERO).await;
}

#[tokio::test]
async fn a_pool_that_is_closed_while_it_dials_tells_so_and_closes_the_socket() {
    let gate = Gate::new("the handshake");
    let stalls = Script::new().before_handshake(Script::new().first_byte().wait(&gate));
    let local = Certificate::local();
    let upstream = Hostile::new(stalls).tls(local.clone()).start();
    let pool = build_with(Tls::new(Tcp::new(), local.client([])));
    let call = tokio::spawn({
        let (pool, request) = (pool.clone(), get(upstream.uri("/")));
        async move { fetch(&pool, request).await.unwrap_err() }
    });
    gate.arrived(1).await;
    pool.close(Duration::from_secs(5)).await;
    let error = call.await.unwrap();
    let failure = Failure::of(&*error);
    let told = (failure.kind(), failure.phase(), failure.delivery());
    assert_eq!(told, (Kind::Canceled, Some(Phase::Tls), Delivery::NotSent), "{error}");
    let stats = pool.stats();
    assert_eq!((stats.connections.open(), stats.waiting, stats.exchanges), (0, 0, 0), "{stats:?}");
    gate.open();
    upstream.all_closed().await;
}

/// Of two closes the first says how long what goes on may take, as long as it is waited for.
#[tokio::test]
async fn a_second_close_cuts_nothing_off_that_the_first_allows() {
    let day = Duration::from_secs(24 * 3600);
    for first_goes in [false, true] {
        let gate = Gate::new("the answer");
        let upstream = Friendly::new(handler::gated(&gate, handler::hello)).start();
        let pool = pool();
        let call = tokio::spawn({
            let (pool, request) = (pool.clone(), get(upstream.uri("/")));
            async move { fetch(&pool, request).await }
        });
        gate.arrived(1).await;
        let mut first = Box::pin(pool.close(day));
        tokio::select! { biased; () = &mut first => panic!("an exchange goes on"), () = async {} => {} }
        if first_goes {
            drop(first);
            pool.close(Duration::ZERO).await;
            assert_eq!(pool.stats().connections.open(), 0, "who is in charge now?");
            call.await.unwrap().unwrap_err();
        } else {
            pool.close(Duration::ZERO).await;
            assert_eq!(pool.stats().exchanges, 1);
            let second = pool.close(day);
            gate.open();
            tokio::join!(first, second);
            assert_eq!(call.await.unwrap().unwrap().body(), "hello");
        }
        upstream.all_closed().await;
    }
}

/// Whoever dials, and for whom: that of a call that waits is played above.
#[tokio::test]
async fn no_dial_outlives_a_close() {
    for name in ["ahead", "for a second try", "overtaken"] {
        let (dials, answers) = (Gate::new("the dial"), Gate::new("the answer"));
        let dies = Script::new().exchange(Answer::new(200, "hello")).read_head().close();
        let hello = Script::new().read_head().wait(&answers).write("HTTP/1.1 204 Yes\r\n\r\n");
        let script = if name == "overtaken" { hello.clone().repeat(1, hello) } else { dies };
        let upstream = Hostile::new(script).start();
        let free = usize::from(name != "ahead");
        let pool = build_with(gated(free, &dials));
        let call = || {
            let (pool, request) = (pool.clone(), get(upstream.uri("/")));
            tokio::spawn(async move { fetch(&pool, request).await.map(drop) })
        };
        let ended = match name {
            "ahead" => {
                let (pool, uri) = (pool.clone(), upstream.uri("/"));
                tokio::spawn(async move { pool.prewarm(&uri, 1).await.map(drop) })
            }
            "overtaken" => {
                let first = call();
                answers.arrived(1).await;
                let second = call();
                dials.arrived(1).await;
                answers.open();
                first.await.unwrap().unwrap();
                second
            }
            _ => {
                call().await.unwrap().unwrap();
                call()
            }
        };
        dials.arrived(1).await;
        if name == "overtaken" {
            ended.await.unwrap().unwrap();
            assert_eq!(pool.stats().connections.dialing, 1);
            pool.close(Duration::from_secs(24 * 3600)).await;
        } else {
            pool.close(Duration::from_secs(24 * 3600)).await;
            let error = ended.await.unwrap().expect_err(name);
            assert_eq!(Failure::of(&*error).kind(), Kind::Canceled, "{name}: {error}");
            assert!(find::<Closed>(&*error).is_some(), "{name}: {error:?}");
        }
        assert_eq!(pool.stats().connections.open(), 0, "{name}");
        upstream.all_closed().await;
    }
}

#[tokio::test]
async fn events_tell_a_connections_life_in_order() {
    let upstream = Friendly::new(handler::hello).start();
    let pool = pool();
    let mut events = pool.events();
    for _ in 0..2 {
        fetch(&pool, get(upstream.uri("/"))).await.unwrap();
    }
    pool.close(Duration::from_secs(5)).await;
    let mut told = Vec::new();
    loop {
        let event = events.next().await.unwrap().unwrap();
        assert_eq!(event.connection, 1);
        told.push(match event.what {
            What::Dialing => "dialing",
            What::Opened(_) => "opened",
            What::Reused { idle: Some(_) } => "reused",
            What::Returned => "returned",
            What::Closed(Why::Shutdown) => break,
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(told, ["dialing", "opened", "returned", "reused", "returned"]);
}

/// A server within the process, which leaves after five seconds.
fn in_memory(limits: Builder) -> Pool<impl Connect> {
    let connector = InMemory::new(async |io| {
        let hello = service_fn(async |_| Ok::<_, hyper::Error>(Response::new("hello".to_owned())));
        let serving = http1::Builder::new().serve_connection(TokioIo::new(io), hello);
        let _ = timeout(Duration::from_secs(5), serving).await;
    });
    limits.build(connector).unwrap()
}

#[tokio::test(start_paused = true)]
async fn events_tell_why_a_connection_was_closed() {
    const SECOND: Duration = Duration::from_secs(1);
    type Limits = fn(Builder) -> Builder;
    let table: [(Why, Limits); 6] = [
        (Why::Idle, |limits| limits.idle_timeout(SECOND)),
        (Why::Lifetime, |limits| limits.max_lifetime(SECOND)),
        (Why::Requests, |limits| limits.max_requests_per_connection(1)),
        (Why::Surplus, |limits| limits.max_idle_per_host(0)),
        (Why::Evicted, |limits| limits.max_connections(1)),
        (Why::Lost, |limits| limits),
    ];
    for (why, limits) in table {
        let pool = in_memory(limits(Pool::builder()));
        let mut events = pool.events();
        for uri in ["http://a.example/", "http://b.example/"] {
            fetch(&pool, get(uri.parse().unwrap())).await.unwrap();
        }
        sleep(Duration::from_secs(6)).await;
        let told = loop {
            let event = events.next().await.unwrap().unwrap();
            if let (1, What::Closed(told)) = (event.connection, event.what) {
                break told;
            }
        };
        assert_eq!(told, why);
    }
}

#[tokio::test(start_paused = true)]
async fn who_reads_no_events_learns_how_many_were_missed() {
    let pool = in_memory(Pool::builder());
    let mut events = pool.events();
    for _ in 0..600 {
        fetch(&pool, get("http://a.example/".parse().unwrap())).await.unwrap();
    }
    // Dialing and Opened; Reused but the first time, and Returned: 1,201, of which 1,024 are kept.
    assert_eq!(events.next().await.unwrap().unwrap_err(), Missed(177));
    for _ in 0..1_024 {
        events.next().await.unwrap().unwrap();
    }
    tokio::select! { biased; told = events.next() => panic!("{told:?}"), () = async {} => {} }
}

/// How long each phase took: the SETTINGS of HTTP/2 are waited for while it connects.
#[tokio::test(start_paused = true)]
async fn events_tell_how_long_each_phase_took() {
    let seconds = Duration::from_secs;
    let connector = tower::service_fn(move |uri| async move {
        for (phase, took) in [(Phase::Resolve, 1), (Phase::Connect, 2), (Phase::Tls, 3)] {
            report(phase);
            sleep(seconds(took)).await;
        }
        let server = InMemory::new(move |io| async move {
            sleep(seconds(4)).await;
            let mut greeted = h2::server::handshake(io).await.unwrap();
            let _ = greeted.accept().await;
        });
        server.oneshot(uri).await
    });
    for (name, is_http2, expected) in [("HTTP/1.1", false, [1, 2, 3]), ("HTTP/2", true, [1, 6, 3])] {
        let pool = Pool::builder().http2_prior_knowledge(is_http2).build(connector).unwrap();
        let mut events = pool.events();
        pool.prewarm(&"http://a.example".parse().unwrap(), 1).await.expect(name);
        let opened = loop {
            if let What::Opened(opened) = events.next().await.unwrap().unwrap().what {
                break opened;
            }
        };
        let phases = [Phase::Resolve, Phase::Connect, Phase::Tls];
        assert_eq!(phases.map(|phase| opened.timings.spent(phase)), expected.map(seconds), "{name}");
        assert_eq!(opened.opened, Instant::now(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_dropped_body_is_waited_for_within_bounds() {
    let millis = Duration::from_millis;
    for (name, rest_after, ends) in [("in time", 99, None), ("too late", 101, Some(Why::Spent))] {
        let connector = InMemory::new(move |mut io: tokio::io::DuplexStream| async move {
            io.read_u8().await.unwrap();
            io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello").await.unwrap();
            sleep(millis(rest_after)).await;
            let _ = io.write_all(b"world").await;
            std::future::pending().await
        });
        let pool = Pool::builder().drain(10, millis(100)).build(connector).unwrap();
        let mut events = pool.events();
        let begun = Instant::now();
        drop(send(&pool, get("http://a.example/".parse().unwrap())).await.unwrap());
        let why = loop {
            match events.next().await.unwrap().unwrap().what {
                What::Returned => break None,
                What::Closed(why) => break Some(why),
                _ => {}
            }
        };
        let waited = if ends.is_some() { 100 } else { rest_after };
        assert_eq!((why, begun.elapsed()), (ends, millis(waited)), "{name}");
    }
}

#[tokio::test]
async fn what_is_left_of_a_dropped_body_is_read_within_bounds() {
    for (name, length, survives) in [("little", 20_000, true), ("much", 200_000, false)] {
        let upstream =
            Hostile::new(Script::new().forever(Script::new().exchange(Answer::new(200, vec![b'x'; length]))))
                .start();
        let pool = pool();
        drop(send(&pool, get(upstream.uri("/"))).await.unwrap());
        assert_eq!(quiet(&pool).await.connections.idle, usize::from(survives), "{name}");
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}
