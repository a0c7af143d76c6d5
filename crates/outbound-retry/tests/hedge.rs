//! A second attempt when the first is slow.

use std::time::Duration;

use http::{Method, Request};
use outbound_core::{Attempt, Deadline, Idempotent};
use outbound_retry::{
    Budget, Ratio, RetryLayer, Share,
    hedge::{Hedge, HedgeLayer, Percentile},
};
use outbound_testkit::{Gate, Plan, Probe, ProbeHandle, Scripted, TestBody, cancel_at_each_poll};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

const SECOND: Duration = Duration::from_secs(1);

fn request(method: Method, body: TestBody) -> Request<TestBody> {
    Request::builder().method(method).uri("http://example.com/").body(body).unwrap()
}

fn get() -> Request<TestBody> {
    request(Method::GET, TestBody::new())
}

fn over(layer: &HedgeLayer, plans: impl IntoIterator<Item = Plan>) -> (Hedge<Probe>, ProbeHandle) {
    let (probe, handle) = Probe::pair(plans);
    (layer.layer(probe), handle)
}

fn after(seconds: u64) -> Plan {
    Plan::new().delay(Duration::from_secs(seconds))
}

#[tokio::test(start_paused = true)]
async fn the_first_success_wins() {
    let layer = HedgeLayer::new(2 * SECOND);
    #[rustfmt::skip]
    let table = [
        // name                            first                    second                        result  took  sent
        ("the first is fast",              after(1),                after(1),                     Ok(200), 1,   1),
        ("just before the delay",          after(2),                after(1),                     Ok(200), 2,   1),
        ("the first is slow",              after(9),                after(1),                     Ok(200), 3,   2),
        ("the second is slower",           after(5),                after(9),                     Ok(200), 5,   2),
        ("the first fails before",         after(1).status(503),    after(1),                     Ok(503), 1,   1),
        ("the first errs before",          after(1).error("one"),   after(1),                     Err("one"), 1, 1),
        ("the first fails, then success",  after(3).status(503),    after(4),                     Ok(200), 6,   2),
        ("the second fails, then success", after(9),                after(1).status(503),         Ok(200), 9,   2),
        ("the second errs, then success",  after(9),                after(1).error("two"),        Ok(200), 9,   2),
        ("both fail, the second later",    after(3).error("one"),   after(4).status(503),         Ok(503), 6,   2),
        ("both fail, the first later",     after(9).error("one"),   after(1).status(503),         Err("one"), 9, 2),
        ("404 is a success",               after(9),                after(1).status(404),         Ok(404), 3,   2),
        ("the second is not ready",        after(9),                after(0).readiness_error("x"), Ok(200), 9,  1),
        ("the second is never ready",      after(9),                after(0).never_ready(),       Ok(200), 9,   1),
    ];
    for (name, first, second, expected, took, sent) in table {
        let (service, probe) = over(&layer, [first, second]);
        let begun = Instant::now();
        let result = service.oneshot(get()).await;
        let result = result.map(|response| response.status().as_u16());
        let result = result.map_err(|error| error.downcast_ref::<Scripted>().unwrap().0);
        assert_eq!((result, begun.elapsed()), (expected, took * SECOND), "{name}");
        assert_eq!(probe.counts().calls, sent, "{name}");
        assert_eq!(probe.counts().futures, 0, "{name}: the slower one is dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_is_idempotent_and_has_no_body_is_sent_twice() {
    let mut told = request(Method::POST, TestBody::new());
    Idempotent.attach(&mut told);
    for (name, request, sent) in [
        ("GET", get(), 2),
        ("DELETE", request(Method::DELETE, TestBody::new()), 2),
        ("POST", request(Method::POST, TestBody::new()), 1),
        ("idempotent POST", told, 2),
        ("PUT with a body", request(Method::PUT, TestBody::from("hello")), 1),
    ] {
        let (service, probe) = over(&HedgeLayer::new(SECOND), [after(9).reads_body(), after(1)]);
        service.oneshot(request).await.unwrap();
        assert_eq!(probe.counts().calls, sent, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hedge_is_the_next_attempt_of_the_same_request() {
    let (service, probe) = over(&HedgeLayer::new(SECOND), [after(9), after(1)]);
    let mut request = get();
    request.headers_mut().insert("x-a", "1".parse().unwrap());
    service.oneshot(request).await.unwrap();
    let seen = probe.requests();
    assert_eq!(seen[0].headers(), seen[1].headers());
    let numbers: Vec<_> = seen.iter().map(|request| Attempt::of(request).unwrap().number()).collect();
    assert_eq!(numbers, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn hedges_are_charged_to_the_budget() {
    let none = || Budget::new(Ratio::default().percent(0).floor(0));
    for (name, layer, sent) in [
        ("its own", HedgeLayer::new(SECOND).budget(none()), 1),
        ("off", HedgeLayer::new(SECOND).budget(Budget::off()), 2),
    ] {
        let (service, probe) = over(&layer, [after(9), after(1)]);
        service.oneshot(get()).await.unwrap();
        assert_eq!(probe.counts().calls, sent, "{name}");
    }
    // Inside retry the call's ledger pays, whatever the hedge's own budget is.
    for (name, budget, sent) in [("none", none(), 1), ("default", Budget::default(), 2)] {
        let (service, probe) = over(&HedgeLayer::new(SECOND).budget(Budget::off()), [after(9), after(1)]);
        RetryLayer::default().budget(budget).layer(service).oneshot(get()).await.unwrap();
        assert_eq!(probe.counts().calls, sent, "retry's: {name}");
    }
    // What a hedge holds of a share is back when the call is over.
    let layer = HedgeLayer::new(SECOND).budget(Budget::new(Share::default().percent(0).floor(1)));
    for _ in 0..3 {
        let (service, probe) = over(&layer, [after(9), after(1)]);
        service.oneshot(get()).await.unwrap();
        assert_eq!(probe.counts().calls, 2);
    }
}

/// Nor is anything charged for what would be sent too late.
#[tokio::test(start_paused = true)]
async fn nothing_is_sent_once_the_deadline_has_passed() {
    let within = |milliseconds| {
        let mut request = get();
        Deadline::after(Duration::from_millis(milliseconds)).tighten(&mut request);
        request
    };
    for (name, total, sent) in [("due on the deadline", 1000, 1), ("due before", 1001, 2)] {
        let budget = Budget::new(Ratio::default().percent(0).floor(0));
        for (budget, sent, refused) in [(Budget::off(), sent, 0), (budget, 1, sent - 1)] {
            let (service, probe) =
                over(&HedgeLayer::new(SECOND).budget(budget.clone()), [after(9), after(1)]);
            service.oneshot(within(total)).await.unwrap();
            assert_eq!((probe.counts().calls, budget.refused()), (sent, refused as u64), "{name}");
        }
    }
    let gate = Gate::new("ready");
    let (service, probe) = over(&HedgeLayer::new(SECOND), [after(9), Plan::new().ready_at(&gate)]);
    let call = tokio::spawn(service.oneshot(within(2000)));
    gate.arrived(1).await;
    tokio::time::advance(SECOND).await;
    gate.open();
    assert_eq!(call.await.unwrap().unwrap().status(), 200);
    assert_eq!(probe.counts().calls, 1, "ready too late");
}

#[tokio::test(start_paused = true)]
async fn a_percentile_needs_samples_and_then_follows_them() {
    let layer = HedgeLayer::new(Percentile::new(95.0).unwrap());
    let (service, probe) = over(&layer, [Plan::new().delay(Duration::from_millis(100))]);
    for _ in 0..128 {
        service.clone().oneshot(get()).await.unwrap();
    }
    assert_eq!(probe.counts().calls, 128, "too little was known to hedge");
    let (service, _) = over(&layer, [after(9), after(1)]);
    let begun = Instant::now();
    service.oneshot(get()).await.unwrap();
    // 100 ms is in the bucket that ends at 114.688 ms; the timer is a millisecond coarse.
    assert_eq!(begun.elapsed(), Duration::from_millis(115) + SECOND);
    for percent in [0.0, 100.0, -1.0, f64::NAN] {
        assert!(Percentile::new(percent).is_err(), "{percent}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_leaves_nothing() {
    let plans = [after(9), Plan::new().ready_after(2).answers_after(2)];
    let (service, probe) = over(&HedgeLayer::new(Duration::from_millis(1)), plans);
    let call = || {
        let call = service.clone().oneshot(get());
        async { call.await.unwrap().status() }
    };
    let done = cancel_at_each_poll(20, call, async |polls| {
        probe.assert_idle();
        assert_eq!(probe.counts().services, 1, "after {polls} polls");
    });
    assert_eq!(done.await.unwrap(), 200);
}
