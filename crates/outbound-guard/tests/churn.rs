//! What is built again and again, and descriptors. The guard hears of all that is built in its process: so one test after another.

mod support;

use std::num::NonZeroU32;

use outbound_core::{CallSite, Construction};
use outbound_guard::{LeakDetector, LeakGuardLayer, SendExt};
use outbound_pool::{Pool, connect::Tcp};
use outbound_testkit::{Plan, Probe, TestBody};
use support::*;
use tokio::{
    sync::{Mutex, MutexGuard},
    time::{Instant, sleep},
};
use tower::Layer;

static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test(start_paused = true)]
async fn a_line_that_builds_again_and_again_is_told_once_a_window() {
    let (_alone, _detector, log) = three_in_a_minute().await;
    let mut line = 0;
    for _ in 0..10 {
        build("client");
        line = line!() - 1;
        sleep(ms(1_000)).await;
    }
    assert_eq!(log.take(), [(ms(2_000), "churn", Some(line))]);
    let here = CallSite::here().location().file();
    let said = log.last().to_string();
    assert_eq!(said, format!("3 clients built within 2 s at {here}:{line}:9: build one and share it"));
    sleep(ms(52_000)).await;
    for _ in 0..3 {
        build("client");
    }
    assert_eq!(log.take(), [(ms(62_000), "churn", Some(line + 10))], "another line");
}

#[tokio::test(start_paused = true)]
async fn it_is_told_again_when_it_goes_on() {
    let (_alone, _detector, log) = three_in_a_minute().await;
    let mut line = 0;
    for _ in 0..100 {
        build("client");
        line = line!() - 1;
        sleep(ms(1_000)).await;
    }
    assert_eq!(log.take(), [(ms(2_000), "churn", Some(line)), (ms(63_000), "churn", Some(line))]);
}

#[tokio::test(start_paused = true)]
async fn building_now_and_then_is_no_churn() {
    let (_alone, _detector, log) = three_in_a_minute().await;
    for _ in 0..1_000 {
        build("client");
        sleep(ms(30_001)).await;
    }
    for _ in 0..2 {
        build("client");
        build("pool");
        build("client");
        build("client");
    }
    assert_eq!(log.take(), [], "each line and each thing on its own");
}

/// The window is closed at both ends, for what counts and for what is muted.
#[tokio::test(start_paused = true)]
async fn the_window_ends_with_its_last_millisecond() {
    let (_alone, _detector, log) = three_in_a_minute().await;
    #[rustfmt::skip]
    let rows: [(&str, &[u64], &[u64]); 4] = [
        ("three in a minute",          &[0, 30_000, 60_000, 90_000, 120_000], &[60_000]),
        ("a millisecond more",         &[0, 30_000, 60_001, 90_001, 120_002], &[]),
        ("again, a minute after",      &[0, 0, 0, 1, 2, 60_000],              &[0]),
        ("again, a millisecond later", &[0, 0, 0, 1, 2, 60_001],              &[0, 60_001]),
    ];
    for (name, built, told) in rows {
        let begun = log.since(Instant::now());
        for &at in built {
            sleep(begun + ms(at) - log.since(Instant::now())).await;
            build(name);
        }
        let found: Vec<_> = log.take().into_iter().map(|(at, kind, _)| (at - begun, kind)).collect();
        let expected: Vec<_> = told.iter().map(|&at| (ms(at), "churn")).collect();
        assert_eq!(found, expected, "{name}");
    }
}

/// All guards hear of it, and one tells: the oldest of those that have somebody to tell.
#[tokio::test(start_paused = true)]
async fn however_many_guards_hear_of_it_one_tells() {
    let _alone = ALONE.lock().await;
    let log = Log::new();
    let builder = |fewer: u32| LeakGuardLayer::builder().churn(NonZeroU32::new(fewer).unwrap(), ms(60_000));
    let silent = builder(3).pair().1;
    let never = builder(u32::MAX).callback(log.callback()).pair().1;
    let standing =
        [builder(4), builder(3), builder(3)].map(|builder| builder.callback(log.callback()).pair().1);
    let mut line = 0;
    let mut twenty = async || {
        for _ in 0..20 {
            // Gone before the next.
            let _own = builder(3).callback(log.callback()).pair();
            build("client");
            line = line!() - 1;
        }
        assert_eq!(log.take().len(), 1);
        assert!(log.last().to_string().contains(&format!(":{line}:")), "{}", log.last());
        sleep(ms(60_001)).await;
    };
    let churns = |detector: &LeakDetector| detector.stats().totals.churn;
    twenty().await;
    assert_eq!(standing.each_ref().map(churns), [0, 1, 0]);
    drop(standing);
    twenty().await;
    assert_eq!([&silent, &never].map(churns), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_pool_tells_which_line_built_it() {
    let (_alone, _detector, log) = three_in_a_minute().await;
    let mut line = 0;
    for _ in 0..3 {
        let _pool = Pool::builder().max_connections(9).build(Tcp::new()).unwrap();
        line = line!() - 1;
        Pool::builder().max_connections(0).build(Tcp::new()).unwrap_err();
    }
    assert_eq!(log.take(), [(ms(0), "churn", Some(line))]);
    assert!(log.last().to_string().starts_with("3 pools built within 0 s at "));
}

#[tokio::test(start_paused = true)]
async fn descriptors_are_told_when_few_are_left() {
    let _alone = ALONE.lock().await;
    let log = Log::new();
    let (layer, detector) =
        LeakGuardLayer::builder().spare_descriptors(u64::MAX).callback(log.callback()).pair();
    let Some(descriptors) = detector.descriptors() else { return };
    let client = layer.layer(Probe::pair([Plan::new().body(TestBody::new().data("a"))]).0);
    let body = client.send(get()).await.unwrap();
    sleep(ms(9_000)).await;
    assert_eq!(log.take(), [(ms(0), "descriptors", None)], "with the first call");
    let said = log.last().to_string();
    assert!(said.ends_with(&format!(" of {} file descriptors are open", descriptors.limit)), "{said}");
    sleep(ms(60_000)).await;
    assert_eq!(detector.stats().totals.descriptors, 1, "once");
    drop(body);
}

async fn three_in_a_minute() -> (MutexGuard<'static, ()>, LeakDetector, Log) {
    let alone = ALONE.lock().await;
    let log = Log::new();
    let builder = LeakGuardLayer::builder().churn(NonZeroU32::new(3).unwrap(), ms(60_000));
    (alone, builder.callback(log.callback()).pair().1, log)
}

#[track_caller]
fn build(what: &'static str) {
    Construction::announce(what);
}
