//! How many descriptors are open. Alone in its process, so that nobody else opens any: one test after another.
#![cfg(target_os = "linux")]

use std::{
    fs::File,
    sync::{Arc, Mutex},
};

use outbound_core::Construction;
use outbound_guard::LeakGuardLayer;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn descriptors_are_those_of_this_process() {
    counted();
    told_when_a_fifth_is_left();
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

fn open(files: u64) -> Vec<File> {
    (0..files).map(|_| File::open("/dev/null").unwrap()).collect()
}
