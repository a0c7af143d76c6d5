//! How many descriptors are open. Alone in its process, so that nobody else opens any: one test after another.
#![cfg(target_os = "linux")]

mod support;

use std::{
    fs::File,
    sync::{Arc, Mutex},
    time::Duration,
};

use outbound_core::Construction;
use outbound_guard::{LeakGuardLayer, SendExt};
use outbound_testkit::{Plan, Probe, TestBody};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::*;
use tokio::time::{Instant, advance, sleep};
use tower::Layer;

#[tokio::test(start_paused = true)]
async fn descriptors_are_those_of_this_process() {
    counted();
    told_when_a_fifth_is_left().await;
    told_once_and_counted_once_a_second().await;
    told_by_the_one_that_wants_the_fewest().await;
    counted_while_a_call_is_open().await;
    told_when_none_is_left_to_count_with().await;
}

fn counted() {
    let (_layer, detector) = LeakGuardLayer::pair();
    let before = detector.descriptors().expect("Linux tells");
    let files = open(50);
    let after = detector.descriptors().unwrap();
    assert_eq!((after.open, after.limit), (before.open + 50, before.limit));
    assert_eq!(after.left() + 50, before.left());
    drop(files);
}

/// Unless something else is wanted.
async fn told_when_a_fifth_is_left() {
    let limit = Rlimit { current: Some(100), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
    for (left, expected) in [(20, vec![]), (19, vec!["81 of 100 file descriptors are open".to_owned()])] {
        let found: Arc<Mutex<Vec<String>>> = Arc::default();
        let tell = found.clone();
        let builder = LeakGuardLayer::builder();
        let (_layer, detector) =
            builder.callback(move |leak| tell.lock().unwrap().push(leak.to_string())).pair();
        let files = open(detector.descriptors().unwrap().left() - left);
        build_later().await;
        drop(files);
        assert_eq!(*found.lock().unwrap(), expected, "{left} left");
        build_later().await;
    }
}

/// What is built in between is no reason to count, and does not put off the next time either. And there may be other guards.
async fn told_once_and_counted_once_a_second() {
    advance(SECOND).await;
    let log = Log::new();
    let begun = Instant::now();
    let standing =
        [(); 3].map(|()| LeakGuardLayer::builder().spare_descriptors(10).callback(log.callback()).pair().1);
    let few_left = || open(standing[0].descriptors().unwrap().left() - 5);
    let mut files = Vec::new();
    #[rustfmt::skip]
    let counts = [
        ("enough",                   0,     false, false),
        ("short within the second",  500,   true,  false),
        ("still within it",          999,   true,  false),
        ("a second after the count", 1_000, true,  true),
        ("told already",             2_000, true,  false),
        ("enough again",             3_000, false, false),
        ("short again, too soon",    3_999, true,  false),
        ("short again",              4_000, true,  true),
    ];
    for (name, at, is_short, told) in counts {
        advance(begun + ms(at) - Instant::now()).await;
        match is_short {
            true if files.is_empty() => files = few_left(),
            true => {}
            false => files.clear(),
        }
        Construction::announce("client");
        let expected = if told { vec![(ms(at), "descriptors", None)] } else { vec![] };
        assert_eq!(log.take(), expected, "{name}");
    }
    drop(files);
    build_later().await;
}

/// As they become fewer, the next one tells.
async fn told_by_the_one_that_wants_the_fewest() {
    let [many, few] = [30, 10].map(|spare| LeakGuardLayer::builder().spare_descriptors(spare).pair().1);
    #[rustfmt::skip]
    let rows = [
        ("fewer than many", 20, [1, 0]),
        ("fewer than few",  5,  [1, 1]),
        ("told already",    4,  [1, 1]),
        ("better",          20, [1, 1]),
        ("worse again",     5,  [1, 2]),
        ("well",            40, [1, 2]),
        ("bad at once",     5,  [1, 3]),
    ];
    for (name, left, told) in rows {
        let files = open(few.descriptors().unwrap().left() - left);
        build_later().await;
        drop(files);
        let found = [&many, &few].map(|detector| detector.stats().totals.descriptors);
        assert_eq!(found, told, "{name}");
    }
    build_later().await;
}

/// Though nothing is built, and no call is ever held for too long.
async fn counted_while_a_call_is_open() {
    let log = Log::new();
    let builder = LeakGuardLayer::builder().held(Duration::MAX).callback(log.callback());
    let (layer, detector) = builder.pair();
    let client = layer.layer(Probe::pair([Plan::new().body(TestBody::new().data("a"))]).0);
    let body = client.send(get()).await.unwrap();
    sleep(ms(1_000)).await;
    let files = open(detector.descriptors().unwrap().left() - 5);
    sleep(ms(60_000)).await;
    assert_eq!(log.take(), [(ms(5_000), "descriptors", None)]);
    drop((files, body));
    build_later().await;
}

async fn told_when_none_is_left_to_count_with() {
    let found: Arc<Mutex<Vec<String>>> = Arc::default();
    let tell = found.clone();
    let builder = LeakGuardLayer::builder();
    let (_layer, detector) = builder.callback(move |leak| tell.lock().unwrap().push(leak.to_string())).pair();
    let files: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let descriptors = detector.descriptors();
    build_later().await;
    drop(files);
    assert_eq!(descriptors.map(|descriptors| descriptors.left()), Some(0));
    assert_eq!(*found.lock().unwrap(), ["100 of 100 file descriptors are open"]);
}

/// When they may be counted again.
async fn build_later() {
    advance(SECOND).await;
    Construction::announce("client");
}

fn open(files: u64) -> Vec<File> {
    (0..files).map(|_| File::open("/dev/null").unwrap()).collect()
}

const SECOND: Duration = Duration::from_secs(1);
