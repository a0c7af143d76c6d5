//! Who is turned away learns who is in the way, if somebody knows.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use outbound_core::{BoxError, CallSite, Origin, Overloaded, Witness, find};
use outbound_limit::{AdaptiveLimitLayer, Aimd, ConcurrencyLimitLayer, Limits};
use outbound_testkit::{Plan, Probe, TestBody};
use tower::{Layer, Service, ServiceExt};

/// Knows of one call, and writes down which origins it is asked for.
#[derive(Debug)]
struct Knows(Option<(Duration, Option<CallSite>)>, Mutex<Vec<Option<Origin>>>);

impl Knows {
    fn of(oldest: Option<(Duration, Option<CallSite>)>) -> Arc<Self> {
        Arc::new(Self(oldest, Mutex::default()))
    }

    fn asked(&self) -> Vec<Option<Origin>> {
        std::mem::take(&mut *self.1.lock().unwrap())
    }
}

impl Witness for Knows {
    fn oldest(&self, origin: Option<&Origin>) -> Option<(Duration, Option<CallSite>)> {
        self.1.lock().unwrap().push(origin.cloned());
        self.0
    }
}

const OLDEST: (Duration, Option<CallSite>) = (Duration::from_secs(41), None);

#[tokio::test(start_paused = true)]
async fn a_call_that_is_turned_away_names_the_oldest() {
    for (name, max_waiting, oldest) in
        [("at once", 0, Some(OLDEST)), ("after waiting", 9, Some(OLDEST)), ("nobody known", 0, None)]
    {
        let witness = Knows::of(oldest);
        let layer = ConcurrencyLimitLayer::new(1).max_waiting(max_waiting).witness(witness.clone());
        let error = second(layer.layer(unread())).await;
        assert_eq!(find::<Overloaded>(&*error).unwrap().oldest(), oldest, "{name}");
        assert_eq!(error.to_string().ends_with("; oldest call 41 s"), oldest.is_some(), "{name}: {error}");
        assert_eq!(witness.asked(), [None], "{name}: the limit is one for all");
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_per_origin_asks_for_that_origin() {
    async fn asked<L: Limits + Clone>(
        layer: impl FnOnce(ConcurrencyLimitLayer) -> ConcurrencyLimitLayer<L>,
    ) -> Vec<Option<Origin>> {
        let witness = Knows::of(Some(OLDEST));
        let layer = layer(ConcurrencyLimitLayer::new(1).max_waiting(0).witness(witness.clone()));
        second(layer.layer(unread())).await;
        witness.asked()
    }
    let origin = Origin::of(&"http://a.example".parse().unwrap()).unwrap();
    assert_eq!(asked(|layer| layer).await, [None]);
    assert_eq!(asked(ConcurrencyLimitLayer::per_origin).await, [Some(origin)]);
    assert_eq!(asked(|layer| layer.per_key(|_| 7)).await, [None]);
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_asks_too() -> Result<(), BoxError> {
    let layer = AdaptiveLimitLayer::new(Aimd::default().limits(1, 1, 1)?).max_waiting(0);
    let error = second(layer.witness(Knows::of(Some(OLDEST))).layer(unread())).await;
    assert_eq!(find::<Overloaded>(&*error).unwrap().oldest(), Some(OLDEST));
    Ok(())
}

fn unread() -> Probe {
    Probe::pair([Plan::new().body(TestBody::new().data("a"))]).0
}

/// How the second of two calls fails while the body of the first is held.
async fn second<S, R>(service: S) -> BoxError
where
    S: Service<Request<TestBody>, Response = R, Error = BoxError> + Clone,
{
    let get = || Request::get("http://a.example/path?query").body(TestBody::new()).unwrap();
    let _held = service.clone().oneshot(get()).await.unwrap_or_else(|error| panic!("{error}"));
    service.oneshot(get()).await.err().expect("the first is in its way")
}
