//! One answer is enough for all calls to an origin.

use std::time::Duration;

use http::Request;
use outbound_core::{CoolingDown, Deadline, Retries, find};
use outbound_retry::{
    Random, RetryAfter, RetryLayer,
    cool_down::{CoolDown, CoolDownLayer, WhileCooling},
};
use outbound_testkit::{Gate, Plan, Probe, ProbeHandle, TestBody, cancel_at_each_poll};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};

const SECOND: Duration = Duration::from_secs(1);

fn get(host: &str) -> Request<TestBody> {
    Request::get(format!("http://{host}/")).body(TestBody::new()).unwrap()
}

fn over(layer: &CoolDownLayer, plans: impl IntoIterator<Item = Plan>) -> (CoolDown<Probe>, ProbeHandle) {
    let (probe, handle) = Probe::pair(plans);
    (layer.layer(probe), handle)
}

fn busy(status: u16) -> Plan {
    Plan::new().status(status).header("retry-after", "7")
}

fn prompt(meanwhile: WhileCooling) -> CoolDownLayer {
    CoolDownLayer::new(meanwhile).spread(Duration::ZERO)
}

#[tokio::test(start_paused = true)]
async fn the_others_wait_or_fail_fast_and_other_origins_do_not() {
    for (name, first, host, waited, failed) in [
        ("429", busy(429), "a", 7, true),
        ("503", busy(503), "a", 7, true),
        ("the same origin, spelled otherwise", busy(503), "A:80", 7, true),
        ("another origin", busy(503), "b", 0, false),
        ("another status", busy(500), "a", 0, false),
        ("nothing said", Plan::new().status(503), "a", 0, false),
        ("garbage", Plan::new().status(503).header("retry-after", "-1"), "a", 0, false),
        ("above the cap", Plan::new().status(503).header("retry-after", "9999"), "a", 60, true),
    ] {
        for meanwhile in [WhileCooling::Wait, WhileCooling::FailFast] {
            let (service, probe) = over(&prompt(meanwhile), [first.clone(), Plan::new()]);
            service.clone().oneshot(get("a")).await.unwrap();
            let begun = Instant::now();
            match service.oneshot(get(host)).await {
                Ok(_) => assert_eq!(begun.elapsed(), waited * SECOND, "{name}"),
                Err(error) => {
                    let left = find::<CoolingDown>(&*error).unwrap().left();
                    assert_eq!((meanwhile, left), (WhileCooling::FailFast, waited * SECOND), "{name}");
                    assert_eq!(probe.counts().calls, 1, "{name}: nothing was sent");
                }
            }
            let refused = failed && meanwhile == WhileCooling::FailFast;
            assert_eq!(probe.counts().calls, 2 - usize::from(refused), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_cannot_wait_that_long_fails_at_once() {
    let (service, probe) = over(&prompt(WhileCooling::Wait), [busy(503), Plan::new()]);
    service.clone().oneshot(get("a")).await.unwrap();
    for (total, fits) in [(7 * SECOND, false), (7 * SECOND + Duration::from_millis(1), true)] {
        let mut request = get("a");
        Deadline::after(total).tighten(&mut request);
        assert_eq!(service.clone().oneshot(request).await.is_ok(), fits, "{total:?}");
    }
    assert_eq!(probe.counts().calls, 2);
}

#[tokio::test(start_paused = true)]
async fn they_go_on_one_after_the_other() {
    let layer = CoolDownLayer::new(WhileCooling::Wait).spread(4 * SECOND).random(Random::seeded(1));
    let (service, _) = over(&layer, [busy(503), Plan::new()]);
    service.clone().oneshot(get("a")).await.unwrap();
    let begun = Instant::now();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let call = service.clone().oneshot(get("a"));
            tokio::spawn(async move {
                call.await.unwrap();
                begun.elapsed()
            })
        })
        .collect();
    let mut waits = Vec::new();
    for call in calls {
        waits.push(call.await.unwrap());
    }
    waits.sort();
    waits.dedup();
    assert!(waits.len() > 40, "{waits:?}");
    assert!(waits[0] >= 7 * SECOND && waits[waits.len() - 1] <= 11 * SECOND + Duration::from_millis(1));
}

#[tokio::test(start_paused = true)]
async fn under_retry_those_that_failed_fast_do_not_come_back_at_once_either() {
    let layer = CoolDownLayer::new(WhileCooling::FailFast).spread(4 * SECOND).random(Random::seeded(1));
    let (service, _) = over(&layer, [busy(503), Plan::new()]);
    service.clone().oneshot(get("a")).await.unwrap();
    let mut left = Vec::new();
    for _ in 0..50 {
        let error = service.clone().oneshot(get("a")).await.unwrap_err();
        left.push(find::<CoolingDown>(&*error).unwrap().left());
    }
    left.sort();
    left.dedup();
    assert!(left.len() > 40 && left[0] >= 7 * SECOND && left[left.len() - 1] <= 11 * SECOND, "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_once_the_deadline_has_passed() {
    let gate = Gate::new("ready");
    let (service, probe) = over(&prompt(WhileCooling::Wait), [busy(503), Plan::new().ready_at(&gate)]);
    service.clone().oneshot(get("a")).await.unwrap();
    let mut request = get("a");
    Deadline::after(8 * SECOND).tighten(&mut request);
    gate.let_one_through();
    let call = tokio::spawn(service.oneshot(request));
    gate.arrived(2).await;
    tokio::time::advance(SECOND).await;
    gate.open();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "http://a: timed out after 8 s waiting for its turn (deadline)");
    assert_eq!(probe.counts().calls, 1);
}

/// Of those that nothing was heard of nothing is remembered.
#[tokio::test(start_paused = true)]
async fn however_many_origins_are_well_the_next_has_its_gate() {
    let mut plans = vec![Plan::new(); 300];
    plans.push(busy(429));
    let (service, probe) = over(&prompt(WhileCooling::FailFast), plans);
    for host in 0..=300 {
        service.clone().oneshot(get(&format!("host-{host}"))).await.unwrap();
    }
    service.oneshot(get("host-300")).await.unwrap_err();
    assert_eq!(probe.counts().calls, 301);
}

/// It may be a permit, and others could use it meanwhile.
#[tokio::test(start_paused = true)]
async fn readiness_is_not_held_through_the_wait() {
    let (mut service, probe) = over(&prompt(WhileCooling::Wait), [busy(503), Plan::new()]);
    service.clone().oneshot(get("a")).await.unwrap();
    let call = ServiceExt::<Request<TestBody>>::ready(&mut service).await.unwrap().call(get("a"));
    let counts = probe.counts();
    assert_eq!((counts.readied, counts.calls, counts.readied_not_called), (2, 1, 1));
    assert_eq!(call.await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn an_answer_during_the_wait_prolongs_it() {
    let slow = Plan::new().status(503).header("retry-after", "7").delay(3 * SECOND);
    let (service, probe) = over(&prompt(WhileCooling::Wait), [slow, busy(503), Plan::new()]);
    let slow = tokio::spawn(service.clone().oneshot(get("a")));
    probe.called(1).await;
    service.clone().oneshot(get("a")).await.unwrap();
    let begun = Instant::now();
    service.oneshot(get("a")).await.unwrap();
    assert_eq!(begun.elapsed(), 10 * SECOND, "seven from the second answer's third");
    slow.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn under_retry_a_call_waits_as_long_as_it_takes() {
    for meanwhile in [WhileCooling::Wait, WhileCooling::FailFast] {
        let (service, probe) = over(&prompt(meanwhile), [busy(429), Plan::new()]);
        let service = RetryLayer::default().layer(service);
        let begun = Instant::now();
        let first = tokio::spawn(service.clone().oneshot(get("a")));
        probe.called(1).await;
        tokio::task::yield_now().await;
        let mut request = get("a");
        let retries = Retries::track(&mut request);
        let second = service.oneshot(request).await.unwrap();
        assert_eq!(
            (first.await.unwrap().unwrap().status(), second.status()),
            (http::StatusCode::OK, http::StatusCode::OK)
        );
        assert_eq!((begun.elapsed(), probe.counts().calls), (7 * SECOND, 3));
        assert_eq!(retries.count(), u32::from(meanwhile == WhileCooling::FailFast));
    }
}

#[tokio::test(start_paused = true)]
async fn errors_pass_and_a_dropped_wait_leaves_nothing() {
    let (service, _) = over(&prompt(WhileCooling::Wait), [Plan::new().error("broken")]);
    assert_eq!(service.oneshot(get("a")).await.unwrap_err().to_string(), "broken");

    let plans = [busy(503), Plan::new().ready_after(2).answers_after(2)];
    let (service, probe) = over(&prompt(WhileCooling::Wait), plans);
    service.clone().oneshot(get("a")).await.unwrap();
    // Unwoken it is polled each millisecond: the gate opens while the seventh call is under way.
    tokio::time::advance(7 * SECOND - Duration::from_millis(20)).await;
    let call = || {
        let call = service.clone().oneshot(get("a"));
        async { call.await.unwrap().status() }
    };
    let done = cancel_at_each_poll(20, call, async |polls| {
        probe.assert_idle();
        assert_eq!(probe.counts().services, 1, "after {polls} polls");
    });
    assert_eq!(done.await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn it_reads_what_it_is_told_to_read() {
    let layer =
        prompt(WhileCooling::Wait).retry_after(RetryAfter::default().rate_limit(true).cap(9 * SECOND));
    let first = Plan::new().status(429).header("x-ratelimit-reset", "30");
    let (service, _) = over(&layer, [first, Plan::new()]);
    service.clone().oneshot(get("a")).await.unwrap();
    let begun = Instant::now();
    service.oneshot(get("a")).await.unwrap();
    assert_eq!(begun.elapsed(), 9 * SECOND);
}
