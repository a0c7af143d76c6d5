//! What the tests of leaks share.
#![allow(dead_code, reason = "each test file is a crate of its own")]

use std::{
    pin::Pin,
    sync::{Arc, Mutex, atomic::{AtomicU32, Ordering::Relaxed}},
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::Request;
use outbound_guard::{Holding, Leak, LeakDetector, LeakGuard, LeakGuardLayer};
use outbound_testkit::{Plan, Probe, TestBody};
use tokio::time::Instant;
use tower::Layer;

/// What was found: when, of which kind, by which line.
pub type Found = (Duration, &'static str, Option<u32>);

/// All that was told, with the time since it was made.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    begun: Instant,
    found: Mutex<Vec<Found>>,
    last: Mutex<Option<Leak>>,
    line: AtomicU32,
}

impl Log {
    pub fn new() -> Self {
        let (begun, line) = (Instant::now(), AtomicU32::new(0));
        Self(Arc::new(Inner { begun, found: Mutex::default(), last: Mutex::default(), line }))
    }

    /// Keeps what is of this package: others in the process build pools, too.
    pub fn callback(&self) -> impl Fn(&Leak) + Send + Sync + use<> {
        let inner = self.0.clone();
        move |leak| {
            let line = leak.site().map(|site| site.location().line());
            inner.found.lock().unwrap().push((inner.begun.elapsed(), leak.kind(), line));
            *inner.last.lock().unwrap() = Some(leak.clone());
        }
    }

    pub fn take(&self) -> Vec<Found> {
        std::mem::take(&mut self.0.found.lock().unwrap())
    }

    pub fn last(&self) -> Leak {
        self.0.last.lock().unwrap().clone().expect("something was found")
    }

    pub fn last_holding(&self) -> Option<Holding> {
        self.0.last.lock().unwrap().as_ref()?.holding().cloned()
    }

    pub fn at_line(&self, line: u32) {
        self.0.line.store(line, Relaxed);
    }

    pub fn line(&self) -> u32 {
        self.0.line.load(Relaxed)
    }
}

/// A guard with its defaults over a service that does as `plans` say.
pub fn watched(plans: impl IntoIterator<Item = Plan>) -> (LeakGuard<Probe>, LeakDetector, Log) {
    let log = Log::new();
    let (layer, detector) = LeakGuardLayer::builder().callback(log.callback()).pair();
    (layer.layer(Probe::pair(plans).0), detector, log)
}

pub fn get() -> Request<TestBody> {
    Request::get("http://user:secret@a.example/path?token=secret").body(TestBody::new()).unwrap()
}

pub fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// Once, for nobody.
pub fn futures_poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}
