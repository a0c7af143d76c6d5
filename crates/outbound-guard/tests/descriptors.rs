//! How many descriptors are open. Alone in its process, so that nobody else opens any: one test after another.
#![cfg(target_os = "linux")]

use std::{
    fs::File,
    sync::{Arc, Mutex},
    time::Duration,
};

use outbound_core::Construction;
use outbound_guard::LeakGuardLayer;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::Instant;

#[test]
fn descriptors_are_those_of_this_process() {
    counted();
    told_when_a_fifth_is_left();
    told_once_and_counted_once_a_second();
    told_when_none_is_left_to_count_with();
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
fn told_when_a_fifth_is_left() {
    let limit = Rlimit { current: Some(100), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
    let told = |left: u64| {
        let found: Arc<Mutex<Vec<String>>> = Arc::default();
        let tell = found.clone();
        let builder = LeakGuardLayer::builder();
        let (_layer, detector) =
            builder.callback(move |leak| tell.lock().unwrap().push(leak.to_string())).pair();
        let files = open(detector.descriptors().unwrap().left() - left);
        Construction::announce("client");
        drop(files);
        std::mem::take(&mut *found.lock().unwrap())
    };
    assert_eq!(told(20), [""; 0]);
    assert_eq!(told(19), ["81 of 100 file descriptors are open"]);
}

/// What is built in between is no reason to count, and does not put off the next time either.
fn told_once_and_counted_once_a_second() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let begun = Instant::now();
        let found: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let tell = found.clone();
        let (_layer, detector) = LeakGuardLayer::builder()
            .spare_descriptors(10)
            .callback(move |_| tell.lock().unwrap().push(begun.elapsed()))
            .pair();
        let few_left = || open(detector.descriptors().unwrap().left() - 5);
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
            tokio::time::advance(begun + Duration::from_millis(at) - Instant::now()).await;
            match is_short {
                true if files.is_empty() => files = few_left(),
                true => {}
                false => files.clear(),
            }
            Construction::announce("client");
            let expected = if told { vec![Duration::from_millis(at)] } else { vec![] };
            assert_eq!(std::mem::take(&mut *found.lock().unwrap()), expected, "{name}");
        }
    });
}

fn told_when_none_is_left_to_count_with() {
    let found: Arc<Mutex<Vec<String>>> = Arc::default();
    let tell = found.clone();
    let builder = LeakGuardLayer::builder();
    let (_layer, detector) = builder.callback(move |leak| tell.lock().unwrap().push(leak.to_string())).pair();
    let files: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let descriptors = detector.descriptors();
    Construction::announce("client");
    drop(files);
    assert_eq!(descriptors.map(|descriptors| descriptors.left()), Some(0));
    assert_eq!(*found.lock().unwrap(), ["100 of 100 file descriptors are open"]);
}

fn open(files: u64) -> Vec<File> {
    (0..files).map(|_| File::open("/dev/null").unwrap()).collect()
}
