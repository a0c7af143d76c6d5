//! What the tests of leaks share.
#![allow(dead_code, reason = "each test file is a crate of its own")]

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::Request;
use outbound_guard::{Holding, Leak, LeakDetector, LeakGuard, LeakGuardLayer};
use outbound_testkit::{Plan, Probe, TestBody};
use tokio::time::Instant;
use tower::Layer;

/// What was found: when, of which kind, by which line.
pub(crate) type Found = (Duration, &'static str, Option<u32>);

/// All that was told, with the time since it was made.
#[derive(Clone)]
pub(crate) struct Log(Arc<Inner>);

struct Inner {
    begun: Instant,
    found: Mutex<Vec<Found>>,
    last: Mutex<Option<Leak>>,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner { begun: Instant::now(), found: Mutex::default(), last: Mutex::default() }))
    }

    /// For a guard to tell.
    pub(crate) fn callback(&self) -> impl Fn(&Leak) + Send + Sync + use<> {
        let inner = self.0.clone();
        move |leak| {
            let line = leak.site().map(|site| site.location().line());
            inner.found.lock().unwrap().push((inner.begun.elapsed(), leak.kind(), line));
            *inner.last.lock().unwrap() = Some(leak.clone());
        }
    }

    pub(crate) fn take(&self) -> Vec<Found> {
        std::mem::take(&mut self.0.found.lock().unwrap())
    }

    /// How long it had been there then.
    pub(crate) fn since(&self, then: Instant) -> Duration {
        then - self.0.begun
    }

    pub(crate) fn last(&self) -> Leak {
        self.0.last.lock().unwrap().clone().expect("something was found")
    }

    pub(crate) fn last_holding(&self) -> Option<Holding> {
        self.0.last.lock().unwrap().as_ref()?.holding().cloned()
    }
}

/// A guard with its defaults over a service that does as `plans` say.
pub(crate) fn watched(plans: impl IntoIterator<Item = Plan>) -> (LeakGuard<Probe>, LeakDetector, Log) {
    let log = Log::new();
    let (layer, detector) = LeakGuardLayer::builder().callback(log.callback()).pair();
    (layer.layer(Probe::pair(plans).0), detector, log)
}

pub(crate) fn get() -> Request<TestBody> {
    Request::get("http://user:secret@a.example/path?token=secret").body(TestBody::new()).unwrap()
}

pub(crate) fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// Once, for nobody.
pub(crate) fn futures_poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// What is ready at its first poll.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    match futures_poll(std::pin::pin!(future)) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it is not ready yet"),
    }
}
