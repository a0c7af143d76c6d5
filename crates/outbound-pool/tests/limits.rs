//! Limits hold as the server sees them, nobody waits in vain, and time limits end on their tick.

mod support;

use std::{panic::Location, time::Duration};

use http_body_util::BodyExt;
use outbound_core::{
    CallSite, Deadline, Delivery, Elapsed, Exchange, Failure, Kind, Overloaded, Phase, TransportError, find,
};
use outbound_pool::{Pool, connect::Tcp};
use outbound_testkit::{Answer, BlackHole, Friendly, Gate, Hostile, Script, TestBody, Upstream, handler};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use support::*;
use tokio::time::{Instant, advance};

const SEED: u64 = 0x0b0e;

fn several_threads() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap()
}

/// All calls at once; how many failed, and with what the first.
async fn storm(pool: &Pool<Tcp>, uris: Vec<http::Uri>) {
    let calls: Vec<_> = uris
        .into_iter()
        .map(|uri| {
            let pool = pool.clone();
            tokio::spawn(async move { fetch(&pool, get(uri)).await.map(drop) })
        })
        .collect();
    let mut failed = Vec::new();
    for call in calls {
        failed.extend(call.await.unwrap().err());
    }
    assert!(failed.is_empty(), "{} failed, the first: {}", failed.len(), failed[0]);
}

/// Connections that each serve a random number of requests, and then end in a random way; all after them serve for ever.
/// On a thread of its own nothing comes between the end of a socket and its end in the books.
fn capricious(random: &mut StdRng, connections: usize) -> Upstream {
    let mut script = || {
        let serves = Script::new()
            .repeat(random.random_range(0..6), Script::new().exchange(Answer::new(200, "hello")));
        match random.random_range(0..4) {
            0 => serves.close(),
            1 => serves.first_byte().close(),
            2 => serves.read_head().close(),
            _ => serves.read_head().reset(),
        }
    };
    // A fresh connection that dies is the caller's to know, so each answers at least once.
    let mut alive = || Script::new().exchange(Answer::new(200, "hello")).then(script());
    let first = Hostile::new(alive());
    (1..connections)
        .fold(first, |hostile, _| hostile.then(alive()))
        .then(Script::hello())
        .own_thread()
        .start()
}

trait Then {
    fn then(self, next: Script) -> Script;
}

impl Then for Script {
    fn then(self, next: Script) -> Script {
        self.repeat(1, next)
    }
}

#[test]
fn the_server_never_sees_more_sockets_than_allowed() {
    let mut random = StdRng::seed_from_u64(SEED);
    for (name, total, per_host) in [("50", 50, 50), ("per host", 128, 7), ("one", 1, 1)] {
        several_threads().block_on(async {
            let upstream = capricious(&mut random, 400);
            let limits = Pool::builder().max_connections(total).max_connections_per_host(per_host);
            let pool = build(limits);
            for _ in 0..3 {
                storm(&pool, (0..300).map(|number| upstream.uri(&format!("/{number}"))).collect()).await;
            }
            let seen = upstream.sightings();
            assert!(seen.max_open <= per_host, "{name}: {} open at once", seen.max_open);
            leaves_nothing(name, pool, &[&upstream]).await;
        });
    }
}

#[test]
fn while_nothing_is_closed_there_are_no_more_accepts_than_connections() {
    several_threads().block_on(async {
        let gate = Gate::new("answers");
        let upstream = Friendly::new(handler::gated(&gate, handler::hello)).start();
        let pool = build(Pool::builder().max_connections(50));
        let storming = storm(&pool, vec![upstream.uri("/"); 300]);
        let watching = async {
            gate.arrived(50).await;
            until(&pool, "the others to wait", |stats| stats.waiting == 250).await;
            assert_eq!(upstream.sightings().connections.len(), 50);
            gate.open();
        };
        tokio::join!(storming, watching);
        assert_eq!(upstream.sightings().connections.len(), 50);
        let totals = pool.stats().totals;
        assert_eq!((totals.dialed, totals.reused, totals.waited), (50, 250, 250));
        leaves_nothing("50 of 300", pool, &[&upstream]).await;
    });
}

#[test]
fn several_hosts_at_the_total_cap_never_deadlock() {
    let mut random = StdRng::seed_from_u64(SEED);
    for (total, per_host) in [(4, 3), (4, 4), (1, 1), (7, 1)] {
        several_threads().block_on(async {
            let upstreams: Vec<_> = (0..8).map(|_| Friendly::new(handler::hello).start()).collect();
            let pool = build(Pool::builder().max_connections(total).max_connections_per_host(per_host));
            let uris = (0..600).map(|_| upstreams[random.random_range(0..8)].uri("/")).collect();
            storm(&pool, uris).await;
            let all: Vec<_> = upstreams.iter().collect();
            leaves_nothing(&format!("{total} of {per_host}"), pool, &all).await;
        });
    }
}

#[tokio::test]
async fn waiters_are_served_in_the_order_of_their_calls() {
    let upstream = Friendly::new(handler::hello).start();
    let pool = build(Pool::builder().max_connections(1));
    let held = send(&pool, get(upstream.uri("/held"))).await.unwrap();
    let mut calls = Vec::new();
    for number in 0..50 {
        let (pool, request) = (pool.clone(), get(upstream.uri(&format!("/{number}"))));
        calls.push(tokio::spawn(async move { fetch(&pool, request).await.map(drop) }));
        tokio::task::yield_now().await;
    }
    until(&pool, "all to wait", |stats| stats.waiting == 50).await;
    held.into_body().collect().await.unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let targets: Vec<_> =
        upstream.sightings().requests.iter().skip(1).map(|request| request.target.clone()).collect();
    assert_eq!(targets, (0..50).map(|number| format!("/{number}")).collect::<Vec<_>>());
    leaves_nothing("in order", pool, &[&upstream]).await;
}

// === who is turned away ===

#[tokio::test(start_paused = true)]
async fn who_waits_in_vain_is_told_who_holds_the_connections() {
    let _frozen = Frozen::new();
    let upstream = Friendly::new(handler::hello).start();
    for (name, total, per_host) in [("of the host", 3, 2), ("of all", 2, 2)] {
        let pool = build(Pool::builder().max_connections(total).max_connections_per_host(per_host));
        let mut request = get(upstream.uri("/"));
        let (site, line): (_, &'static Location<'_>) = (CallSite::here(), Location::caller());
        site.attach(&mut request);
        let held = send(&pool, request).await.unwrap();
        advance(Duration::from_secs(7)).await;
        let younger = send(&pool, get(upstream.uri("/"))).await.unwrap();

        let (waits, mut request) = (pool.clone(), get(upstream.uri("/")));
        let exchange = Exchange::track(&mut request);
        let begun = Instant::now();
        let call = tokio::spawn(async move { fetch(&waits, request).await });
        until(&pool, "it to wait", |stats| stats.waiting == 1).await;
        assert_eq!(exchange.phase(), Phase::Acquire, "{name}");
        advance(Duration::from_millis(29_999)).await;
        turns().await;
        assert!(!call.is_finished(), "{name}");
        advance(Duration::from_millis(1)).await;
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(begun.elapsed(), Duration::from_secs(30), "{name}");

        let origin = exchange.origin().unwrap();
        let expected = format!(
            "{origin}: timed out waiting for a connection for 30 s (limit 30 s): of 2 connections 2 active, 0 idle, \
             0 dialing, 0 closing, 1 waiting; oldest exchange 37 s, begun at {}:{}:",
            line.file(),
            line.line(),
        );
        assert!(error.to_string().starts_with(&expected), "{name}: {error}\n{expected}");
        let holders = find::<TransportError>(&*error).unwrap().holders().unwrap();
        assert_eq!(holders.oldest, Some((Duration::from_secs(37), Some(site))), "{name}");
        let failure = Failure::of(&*error);
        assert_eq!((failure.kind(), failure.phase()), (Kind::Timeout, Some(Phase::Acquire)), "{name}");
        assert_eq!(failure.delivery(), Delivery::NotSent, "{name}");
        assert_eq!(pool.stats().waiting, 0, "{name}");
        held.into_body().collect().await.unwrap();
        younger.into_body().collect().await.unwrap();
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

/// The answer that frees the connection is in its socket in time; it is read late because nobody was run, and so is the clock.
#[test]
#[expect(clippy::disallowed_methods, reason = "blocking the runtime is what this is about")]
fn a_stall_of_our_own_is_no_lack_of_connections() {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let gate = Gate::new("both are under way");
        let passed = gate.clone();
        let respond = move |_| {
            let gate = passed.clone();
            async move {
                gate.pass().await;
                http::Response::new(TestBody::from("hello"))
            }
        };
        let upstream = Friendly::new(respond).own_thread().start();
        let pool = build(Pool::builder().max_connections(1).acquire_timeout(Duration::from_millis(100)));
        let call = || {
            let (pool, request) = (pool.clone(), get(upstream.uri("/")));
            tokio::spawn(async move { fetch(&pool, request).await.map(drop) })
        };
        let holder = call();
        gate.arrived(1).await;
        let waiter = call();
        until(&pool, "it to wait", |stats| stats.waiting == 1).await;
        gate.open();
        std::thread::sleep(Duration::from_millis(300));
        holder.await.unwrap().unwrap();
        waiter.await.unwrap().unwrap();
    });
}

#[tokio::test]
async fn who_finds_the_queue_full_is_turned_away_at_once() {
    let (a, b) = (Friendly::new(handler::hello).start(), Friendly::new(handler::hello).start());
    for (name, total, per_host, waiting, limit) in
        [("per host", 3, 1, 2, 1), ("in total", 1, 1, 2, 1), ("nobody waits", 2, 2, 0, 2)]
    {
        let limits = Pool::builder().max_connections(total).max_connections_per_host(per_host);
        let pool = build(limits.max_waiting(waiting));
        let mut held = Vec::new();
        for _ in 0..per_host {
            held.push(send(&pool, get(a.uri("/"))).await.unwrap());
        }
        let waiters: Vec<_> = (0..waiting)
            .map(|_| {
                let (pool, request) = (pool.clone(), get(a.uri("/")));
                tokio::spawn(async move { fetch(&pool, request).await.map(drop) })
            })
            .collect();
        until(&pool, "them to wait", |stats| stats.waiting == waiting).await;
        let refused = if total == per_host { &b } else { &a };
        let error = fetch(&pool, get(refused.uri("/"))).await.expect_err(name);
        let overloaded = find::<Overloaded>(&*error).expect(name);
        assert_eq!((overloaded.limit(), overloaded.waiting()), (limit, waiting), "{name}");
        let expected = format!("the connection pool is overloaded: all {limit} in use, {waiting} waiting");
        assert_eq!(error.to_string(), expected, "{name}");
        assert_eq!(Failure::of(&*error).delivery(), Delivery::NotSent, "{name}");
        assert_eq!(pool.stats().totals.overflowed, 1, "{name}");
        if total > per_host {
            fetch(&pool, get(b.uri("/"))).await.expect("another host has room");
        }
        for response in held {
            response.into_body().collect().await.unwrap();
        }
        for waiter in waiters {
            waiter.await.unwrap().unwrap();
        }
        leaves_nothing(name, pool, &[&a, &b]).await;
    }
}

/// It has been let in once; that its connection was dead is no reason to turn it away.
#[tokio::test]
async fn who_comes_back_from_a_dead_connection_needs_no_room_in_the_queue() {
    type End = fn(Script) -> Script;
    let ends: [(&str, End); 2] =
        [("closed unseen", Script::close), ("read, then closed", |script| script.read_head().close())];
    for (name, end) in ends {
        let goes = Gate::new("goes");
        let script = end(Script::new().exchange(Answer::new(200, "hello")).wait(&goes));
        let upstream = Hostile::new(script).then(Script::hello()).own_thread().start();
        let pool = build(Pool::builder().max_connections(1).max_waiting(0));
        fetch(&pool, get(upstream.uri("/"))).await.unwrap();
        quiet(&pool).await;
        goes.open();
        if name == "closed unseen" {
            upstream.until_blocking("the close", |seen| seen.connections[0].ended.is_some());
        }
        fetch(&pool, get(upstream.uri("/"))).await.expect(name);
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

// === idle connections ===

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_on_the_tick_of_its_timeout() {
    let _frozen = Frozen::new();
    let upstream = Friendly::new(handler::hello).start();
    let timeout = Duration::from_secs(10);
    let pool = build(Pool::builder().idle_timeout(timeout));
    // Two connections, idle since 0 s and 4 s.
    let (first, second) =
        (send(&pool, get(upstream.uri("/"))).await, send(&pool, get(upstream.uri("/"))).await);
    first.unwrap().into_body().collect().await.unwrap();
    advance(Duration::from_secs(4)).await;
    second.unwrap().into_body().collect().await.unwrap();
    for (wait, left) in [(5_999, 2), (1, 1), (3_999, 1), (1, 0)] {
        advance(Duration::from_millis(wait)).await;
        turns().await;
        assert_eq!(pool.stats().connections.idle, left, "after {wait} ms more");
        upstream.until("the sockets", |seen| seen.open == left).await;
    }
    assert_eq!(pool.stats().totals.expired, 2);

    // One that is used again begins anew, and one in use never expires.
    let held = send(&pool, get(upstream.uri("/"))).await.unwrap();
    advance(3 * timeout).await;
    assert_eq!(held.into_body().collect().await.unwrap().to_bytes(), "hello");
    for _ in 0..3 {
        advance(timeout - Duration::from_millis(1)).await;
        fetch(&pool, get(upstream.uri("/"))).await.unwrap();
    }
    assert_eq!(upstream.sightings().connections.len(), 3);
    advance(timeout).await;
    upstream.all_closed().await;
    leaves_nothing("idle timeout", pool, &[&upstream]).await;
}

/// Enough for everybody who was woken to run.
async fn turns() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

/// The task that looks after them ends with its runtime; the pool does not.
#[test]
fn idle_connections_expire_on_a_second_runtime_too() {
    let upstream = Friendly::new(handler::hello).own_thread().start();
    let pool = build(Pool::builder().idle_timeout(Duration::from_secs(10)));
    for round in 1..=3 {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let _frozen = Frozen::new();
            fetch(&pool, get(upstream.uri("/"))).await.unwrap();
            quiet(&pool).await;
            if round > 1 {
                advance(Duration::from_secs(10)).await;
                let stats = until(&pool, "it to expire", |stats| stats.connections.open() == 0).await;
                assert_eq!(stats.totals.expired, round - 1);
            }
        });
    }
}

#[tokio::test]
async fn no_more_than_the_idle_limits_stay_open() {
    for (name, idle, idle_per_host, stay) in [
        ("in total", 3, 3, [3, 0]),
        ("per host", 9, 2, [2, 2]),
        ("both", 3, 2, [2, 1]),
        ("none", 0, 0, [0, 0]),
    ] {
        let upstreams = [Friendly::new(handler::hello).start(), Friendly::new(handler::hello).start()];
        let limits = Pool::builder().max_connections(20).max_idle(idle).max_idle_per_host(idle_per_host);
        let pool = build(limits);
        // The second host first, so that the first host's are the fresher.
        for upstream in upstreams.iter().rev() {
            let mut held = Vec::new();
            for _ in 0..5 {
                held.push(send(&pool, get(upstream.uri("/"))).await.unwrap());
            }
            for response in held {
                response.into_body().collect().await.unwrap();
            }
        }
        let stats = quiet(&pool).await;
        for (upstream, stay) in upstreams.iter().zip(stay) {
            upstream.until(&format!("{name}: {stay} to stay"), |seen| seen.open == stay).await;
        }
        assert_eq!(stats.totals.surplus, 10 - stay.iter().sum::<usize>() as u64, "{name}");
        leaves_nothing(name, pool, &[&upstreams[0], &upstreams[1]]).await;
    }
}

// === the end of a pool ===

#[tokio::test]
async fn the_last_clone_takes_idle_connections_with_it_but_not_what_is_at_work() {
    let (answers, ends) = (Gate::new("answers"), Gate::new("ends"));
    let idle = Friendly::new(handler::hello).start();
    let waits = Friendly::new(handler::gated(&answers, handler::hello)).start();
    let streams = Hostile::new(
        Script::new()
            .read_head()
            .write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel")
            .wait(&ends)
            .write("lo"),
    )
    .start();
    let pool = pool();
    fetch(&pool, get(idle.uri("/"))).await.unwrap();
    let in_flight = tokio::spawn(tower::ServiceExt::oneshot(pool.clone(), get(waits.uri("/"))));
    answers.arrived(1).await;
    let body = send(&pool, get(streams.uri("/"))).await.unwrap().into_body();
    drop(pool);
    answers.open();
    let response = in_flight.await.unwrap().unwrap();
    idle.all_closed().await;
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    waits.all_closed().await;
    assert_eq!(streams.open(), 1, "its body is still being read");
    ends.open();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
    streams.all_closed().await;
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

// === the deadline ===

#[tokio::test(start_paused = true)]
async fn the_deadline_cuts_waiting_short() {
    let _frozen = Frozen::new();
    let upstream = Friendly::new(handler::hello).start();
    let pool = build(Pool::builder().max_connections(1));
    let held = send(&pool, get(upstream.uri("/held"))).await.unwrap();
    let (waits, mut request) = (pool.clone(), get(upstream.uri("/late")));
    Deadline::after(Duration::from_secs(2)).tighten(&mut request);
    let call = tokio::spawn(async move { fetch(&waits, request).await });
    until(&pool, "it to wait", |stats| stats.waiting == 1).await;
    advance(Duration::from_secs(2)).await;
    let error = call.await.unwrap().unwrap_err();
    let elapsed = find::<Elapsed>(&*error).unwrap();
    assert_eq!((elapsed.phase(), elapsed.limit()), (Phase::Acquire, Duration::from_secs(2)), "{error}");
    held.into_body().collect().await.unwrap();
    assert_eq!(upstream.sightings().requests.len(), 1);
    leaves_nothing("deadline", pool, &[&upstream]).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_once_the_deadline_has_passed() {
    let frozen = Frozen::new();
    let upstream = Friendly::new(handler::hello).start();
    let late = Duration::from_secs(2);
    let with_deadline = || {
        let mut request = get(upstream.uri("/late"));
        Deadline::after(late).tighten(&mut request);
        request
    };

    // It has passed before the first poll.
    let pool = pool();
    let call = send(&pool, with_deadline());
    advance(late).await;
    let error = call.await.unwrap_err();
    assert_eq!(find::<Elapsed>(&*error).unwrap().phase(), Phase::Queue, "{error}");
    assert_eq!(pool.stats().totals.dialed, 0);

    // It passes while a dial is going on.
    let gate = Gate::new("dials");
    let slow = build_with(gated(0, &gate));
    let (dials, request) = (slow.clone(), with_deadline());
    let call = tokio::spawn(async move { fetch(&dials, request).await });
    gate.arrived(1).await;
    advance(late).await;
    let error = call.await.unwrap().unwrap_err();
    let elapsed = find::<Elapsed>(&*error).unwrap();
    assert_eq!(
        (elapsed.phase(), elapsed.limit(), elapsed.elapsed()),
        (Phase::Connect, late, late),
        "{error}"
    );
    assert_eq!(Failure::of(&*error).delivery(), Delivery::NotSent);
    quiet(&slow).await;

    // It passes in the moment in which a connection comes free.
    let goes = Gate::new("goes");
    let closes = Script::new().exchange(Answer::new(200, "hello")).wait(&goes).close();
    let other = Hostile::new(closes).then(Script::hello()).start();
    let one = build(Pool::builder().max_connections(1));
    let held = send(&one, get(other.uri("/held"))).await.unwrap();
    let (waits, mut request) = (one.clone(), with_deadline());
    *request.uri_mut() = other.uri("/late");
    let call = tokio::spawn(async move { fetch(&waits, request).await });
    until(&one, "it to wait", |stats| stats.waiting == 1).await;
    let mut body = held.into_body();
    // The clock moves with the first poll of `advance`; nobody else runs before the body ends.
    assert!(poll_once(std::pin::pin!(advance(late))).is_none());
    body.frame().await.unwrap().unwrap();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(Failure::of(&*error).kind(), Kind::Timeout, "{error}");
    assert_eq!(quiet(&one).await.connections.idle, 1, "the connection is kept for others");
    goes.open();
    until(&one, "its end to be seen", |stats| stats.connections.open() == 0).await;

    let sent = upstream.sightings().requests.len() + other.sightings().requests.len();
    assert_eq!(sent, 1, "{}, {}", upstream.sightings(), other.sightings());
    gate.open();
    drop(frozen);
    tokio::time::resume();
    for pool in [pool, one] {
        leaves_nothing("past", pool, &[]).await;
    }
    leaves_nothing("past", slow, &[&upstream]).await;
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_takes_no_longer_than_the_deadline() {
    let hole = BlackHole::new();
    let mut request = get(format!("http://{}/", hole.addr()).parse().unwrap());
    Deadline::after(Duration::from_secs(3)).tighten(&mut request);
    let begun = Instant::now();
    let error = fetch(&pool(), request).await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 3);
    assert_eq!(Failure::of(&*error).phase(), Some(Phase::Connect), "{error}");
}
