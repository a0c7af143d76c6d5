//! A connection that is idle for a while is its socket and little else, and nobody can tell.

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{Empty, Full};
use outbound_core::{Failure, Kind};
use outbound_pool::{Pool, Stats, connect::Tcp};
use outbound_testkit::{Answer, Friendly, Gate, Hostile, Script, Upstream, handler};
use support::*;

const PARK: Duration = Duration::from_secs(2);

/// A pool with one connection to `upstream`, parked.
async fn parked(upstream: &Upstream) -> Pool<Tcp> {
    let pool = build(Pool::builder().park_after(PARK));
    fetch(&pool, get(upstream.uri("/"))).await.unwrap();
    park(&pool, 1).await;
    pool
}

async fn park(pool: &Pool<Tcp>, connections: usize) {
    quiet(pool).await;
    tokio::time::advance(PARK).await;
    until(pool, "the connections to be parked", |stats| stats.parked == connections).await;
}

fn used(stats: &Stats) -> (u64, u64, u64) {
    (stats.totals.opened, stats.totals.reused, stats.totals.lost)
}

#[tokio::test(start_paused = true)]
async fn a_parked_connection_carries_the_next_exchange() {
    let _frozen = Frozen::new();
    let upstream = Friendly::new(handler::echo).start();
    let pool = build(Pool::builder().park_after(PARK));
    for round in 0..5 {
        for method in [Method::GET, Method::POST, Method::PUT] {
            let body = Full::new(Bytes::from(format!("{method} {round}")));
            let request = Request::builder().method(&method).uri(upstream.uri("/")).body(body).unwrap();
            let answered = fetch(&pool, request).await.unwrap();
            assert_eq!(answered.body(), &format!("{method} {round}"));
        }
        assert_eq!(pool.stats().parked, 0, "in use a moment ago");
        park(&pool, 1).await;
        assert_eq!(pool.stats().connections.idle, 1, "a parked connection is idle");
    }
    assert_eq!(upstream.sightings().connections.len(), 1, "one socket for all");
    leaves_nothing("reuse", pool, &[&upstream]).await;
}

#[tokio::test(start_paused = true)]
async fn not_before_its_time() {
    let _frozen = Frozen::new();
    let upstream = Friendly::new(handler::hello).start();
    let pool = build(Pool::builder().park_after(PARK));
    fetch(&pool, get(upstream.uri("/"))).await.unwrap();
    quiet(&pool).await;
    tokio::time::advance(PARK - Duration::from_millis(2)).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(pool.stats().parked, 0);
    tokio::time::advance(Duration::from_millis(2)).await;
    until(&pool, "the connection to be parked", |stats| stats.parked == 1).await;
    leaves_nothing("time", pool, &[&upstream]).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_a_parked_connection_is_noticed() {
    let _frozen = Frozen::new();
    let gate = Gate::new("close");
    let upstream = Hostile::new(Script::new().exchange(Answer::new(200, "hello")).wait(&gate).close())
        .then(Script::hello())
        .start();
    let pool = parked(&upstream).await;
    gate.open();
    let stats = until(&pool, "the close", |stats| stats.connections.open() == 0).await;
    assert_eq!(used(&stats), (1, 0, 1), "opened, reused, lost");
    fetch(&pool, get(upstream.uri("/"))).await.unwrap();
    leaves_nothing("closed", pool, &[&upstream]).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_server_says_unasked_answers_nobody() {
    let _frozen = Frozen::new();
    let gate = Gate::new("close");
    let stray = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
    let upstream =
        Hostile::new(Script::new().exchange(Answer::new(200, "hello")).wait(&gate).write(stray).stall())
            .then(Script::hello())
            .start();
    let pool = parked(&upstream).await;
    gate.open();
    until(&pool, "the close", |stats| stats.connections.open() == 0).await;
    let answered = fetch(&pool, get(upstream.uri("/"))).await.unwrap();
    assert_eq!(answered.body(), "hello");
    leaves_nothing("stray", pool, &[&upstream]).await;
}

/// Taken from the pool before the runtime has seen what the socket has to say.
#[tokio::test(start_paused = true)]
async fn a_close_that_only_the_socket_knows_of_costs_no_call() {
    let _frozen = Frozen::new();
    for method in [Method::GET, Method::POST] {
        let gate = Gate::new("close");
        let upstream = Hostile::new(Script::new().exchange(Answer::new(200, "hello")).wait(&gate).close())
            .then(Script::hello())
            .own_thread()
            .start();
        let pool = parked(&upstream).await;
        gate.open();
        // This thread's runtime does not turn meanwhile.
        while upstream.sightings().connections.iter().any(|connection| connection.ended.is_none()) {
            std::thread::yield_now();
        }
        let request =
            Request::builder().method(&method).uri(upstream.uri("/")).body(Empty::<Bytes>::new()).unwrap();
        let answered = fetch(&pool, request).await.unwrap();
        assert_eq!(answered.body(), "hello", "{method}");
        leaves_nothing("unseen", pool, &[&upstream]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_parked_connection_expires_and_is_closed_like_any_other() {
    let _frozen = Frozen::new();
    let upstream = Friendly::new(handler::hello).start();
    let pool = build(Pool::builder().park_after(PARK).idle_timeout(Duration::from_secs(10)));
    fetch(&pool, get(upstream.uri("/"))).await.unwrap();
    park(&pool, 1).await;
    tokio::time::advance(Duration::from_secs(8)).await;
    let stats = until(&pool, "the end of its time", |stats| stats.connections.open() == 0).await;
    assert_eq!(stats.totals.expired, 1);
    upstream.all_closed().await;

    let pool = parked(&upstream).await;
    pool.close(Duration::from_secs(1)).await;
    assert_eq!(pool.stats().connections.open(), 0);
    upstream.all_closed().await;
    let late = fetch(&pool, get(upstream.uri("/"))).await.unwrap_err();
    assert_eq!(Failure::of(&*late).kind(), Kind::Canceled);
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_upgrade_was_refused_goes_on_as_it_was() {
    let _frozen = Frozen::new();
    let upstream = Friendly::new(handler::hello).start();
    let pool = build(Pool::builder().park_after(PARK));
    let mut request = get(upstream.uri("/"));
    request.headers_mut().insert("connection", "upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "chat".parse().unwrap());
    fetch(&pool, request).await.unwrap();
    quiet(&pool).await;
    tokio::time::advance(PARK).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let stats = pool.stats();
    assert_eq!((stats.connections.idle, stats.parked, stats.totals.lost), (1, 0, 0), "hyper keeps it");
    fetch(&pool, get(upstream.uri("/"))).await.unwrap();
    assert_eq!(upstream.sightings().connections.len(), 1);
    leaves_nothing("refused", pool, &[&upstream]).await;
}

/// Parked and taken at the same time, from several threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parking_and_using_at_once_loses_nothing() {
    let upstream = Friendly::new(handler::hello).own_thread().start();
    let pool = build(Pool::builder().park_after(Duration::ZERO).max_connections(4));
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let (pool, uri) = (pool.clone(), upstream.uri("/"));
            tokio::spawn(async move {
                for call in 0..200 {
                    fetch(&pool, get(uri.clone())).await.unwrap();
                    if (caller + call) % 16 == 0 {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(upstream.sightings().connections.len() <= 4, "no connection was lost");
    leaves_nothing("at once", pool, &[&upstream]).await;
}
