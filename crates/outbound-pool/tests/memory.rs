//! What an idle connection costs, counted on the live heap of the thread that has it.

mod support;

use std::{
    future::Future,
    task::{Context, Waker},
    time::Duration,
};

use allocation_counter::measure;
use http_body_util::BodyExt;
use outbound_pool::{Pool, connect::Tcp};
use outbound_testkit::{Friendly, Upstream, handler};
use support::*;
use tokio::runtime::Runtime;

const CONNECTIONS: usize = 200;
const CROWD: usize = 10_000;

/// Bytes of the heap that each of many connections keeps, of which so many are parked, once 64 KiB have gone through it.
fn kept(runtime: &Runtime, upstream: &Upstream, pool: &Pool<Tcp>, parked: usize) -> i64 {
    let live = measure(|| {
        runtime.block_on(async {
            let mut responses = Vec::new();
            for _ in 0..CONNECTIONS {
                // Each holds its connection until it is read.
                responses.push(send(pool, get(upstream.uri("/"))).await.unwrap());
            }
            for response in responses {
                response.into_body().collect().await.unwrap();
            }
            until(pool, "all to be idle", |stats| {
                (stats.connections.idle, stats.parked) == (CONNECTIONS, parked)
            })
            .await;
            // The drivers' turn.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        });
    });
    live.bytes_current / CONNECTIONS as i64
}

/// FAULTS, section 5: ten thousand waiters, all of whom go.
#[test]
fn a_crowd_that_has_gone_has_left_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let upstream = Friendly::new(handler::hello).own_thread().start();
    let pool = build(Pool::builder().max_connections(1).max_waiting(CROWD));
    let held = runtime.block_on(send(&pool, get(upstream.uri("/")))).unwrap();
    let live = measure(|| {
        runtime.block_on(async {
            let mut crowd = Vec::new();
            for _ in 0..CROWD {
                let mut call = Box::pin(send(&pool, get(upstream.uri("/"))));
                assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                crowd.push(call);
            }
            assert_eq!(pool.stats().waiting, CROWD);
        });
    });
    assert_eq!(pool.stats().waiting, 0);
    println!("{CROWD} waiters have left {} bytes", live.bytes_current);
    assert!(live.bytes_current < 8 * 1_024, "{} bytes", live.bytes_current);
    runtime.block_on(held.into_body().collect()).unwrap();
    runtime.block_on(leaves_nothing("a crowd", pool, &[&upstream]));
}

#[test]
fn a_parked_connection_costs_no_more_than_two_kilobytes() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let upstream = Friendly::new(handler::fixed(64 * 1024)).own_thread().start();
    let limits = || Pool::builder().max_connections(CONNECTIONS).max_connections_per_host(CONNECTIONS);
    let (driven, parked) =
        (limits().park_after(Duration::MAX), limits().park_after(Duration::from_millis(1)));
    let (driven, parked) = (driven.build(Tcp::new()).unwrap(), parked.build(Tcp::new()).unwrap());
    let driven = kept(&runtime, &upstream, &driven, 0);
    let parked = kept(&runtime, &upstream, &parked, CONNECTIONS);
    println!("an idle connection keeps {driven} bytes, a parked one {parked}");
    assert!(parked <= 2_048, "{parked} bytes");
    assert!(driven > 4 * parked, "a test that counts too little: {driven} bytes");
}
