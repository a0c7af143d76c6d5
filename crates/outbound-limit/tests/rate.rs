//! When calls start, who is turned away, and what is left behind.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{Request, Response};
use outbound_core::{BoxError, Deadline, Delivery, Elapsed, Failure, Kind, Overloaded, Phase, find};
use outbound_limit::{RateLimit, RateLimitLayer, RateLimiter};
use outbound_testkit::{Plan, Probe, ProbeHandle, TestBody, cancel_at_each_poll};
use proptest::prelude::*;
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceExt};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Ten a second, two at once: a token each 100 ms.
fn layer() -> RateLimitLayer {
    RateLimitLayer::new(10, SECOND).unwrap().burst(2).unwrap()
}

fn limited(layer: &RateLimitLayer) -> (RateLimit<Probe>, ProbeHandle) {
    let (probe, handle) = Probe::pair([Plan::new()]);
    (layer.layer(probe), handle)
}

fn request() -> Request<TestBody> {
    Request::get("http://a.example/").body(TestBody::new()).unwrap()
}

async fn call(service: &RateLimit<Probe>) -> Result<Response<TestBody>, BoxError> {
    service.clone().oneshot(request()).await
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn waiting(limiter: &RateLimiter) -> usize {
    let stats = limiter.stats();
    assert_eq!(stats.in_use, 0, "tokens do not come back");
    stats.waiting
}

#[tokio::test(start_paused = true)]
async fn a_burst_then_one_by_one_in_order() {
    let layer = layer();
    let (service, _) = limited(&layer);
    let started = Instant::now();
    let calls = (0..6).map(|index| {
        let service = service.clone();
        tokio::spawn(async move {
            call(&service).await.unwrap();
            (index, started.elapsed())
        })
    });
    // Spawned and polled in this order.
    let calls: Vec<_> = calls.collect();
    let mut times = Vec::new();
    for call in calls {
        times.push(call.await.unwrap());
    }
    let expected = [0, 0, 100, 200, 300, 400].map(|millis| millis * MS);
    assert_eq!(times, Vec::from_iter((0..).zip(expected)));
    let stats = layer.handle().stats();
    assert_eq!((stats.limit, stats.waiting, stats.longest_wait, stats.rejected), (2, 0, 400 * MS, 0));

    // After a pause there are as many at once again, and no more.
    advance(10 * SECOND).await;
    let paused = Instant::now();
    for after in [0, 0, 100] {
        call(&service).await.unwrap();
        assert_eq!(paused.elapsed(), after * MS);
    }
}

#[tokio::test(start_paused = true)]
async fn by_default_the_burst_is_all_of_a_period() {
    let layer = RateLimitLayer::new(3, SECOND).unwrap().max_wait(Duration::ZERO);
    let (service, _) = limited(&layer);
    for _ in 0..3 {
        call(&service).await.unwrap();
    }
    assert!(call(&service).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn turned_away_at_once_where_no_token_can_come_in_time() {
    // Two tokens are taken, and `line` calls wait for the next, which comes after 100 ms.
    for (name, layer, deadline, line, room) in [
        ("failing, not waiting", layer().max_wait(Duration::ZERO), Duration::MAX, 0, 100 * MS),
        ("no places to wait", layer().max_waiting(0), Duration::MAX, 0, 100 * MS),
        ("1 ms too little", layer().max_wait(99 * MS), Duration::MAX, 0, 100 * MS),
        ("the deadline is earlier", layer(), 99 * MS, 0, 100 * MS),
        ("the deadline is on the very tick", layer(), 100 * MS, 0, 100 * MS),
        ("those in line come first", layer().max_wait(299 * MS), Duration::MAX, 4, 300 * MS),
    ] {
        let layer = layer.name("quota");
        let patient = layer.clone().max_wait(SECOND).max_waiting(9);
        let (service, probe) = limited(&layer);
        let (patient, _) = limited(&patient);
        for _ in 0..2 {
            call(&service).await.unwrap();
        }
        let mut waiting: Vec<_> = (0..line).map(|_| Box::pin(call(&patient))).collect();
        for call in &mut waiting {
            assert!(poll_once(call.as_mut()).is_pending(), "{name}");
        }
        let mut request = request();
        Deadline::after(deadline).tighten(&mut request);
        let started = Instant::now();
        let error = service.oneshot(request).await.unwrap_err();
        assert_eq!(started.elapsed(), Duration::ZERO, "{name}");
        let millis = room.as_millis();
        assert_eq!(
            error.to_string(),
            format!(
                "http://a.example: quota is overloaded: all 2 in use, {line} waiting, room in {millis} ms"
            ),
            "{name}"
        );
        assert_eq!(find::<Overloaded>(&*error).unwrap().time_to_room(), Some(room), "{name}");
        let failure = Failure::of(&*error);
        assert_eq!((failure.kind(), failure.delivery()), (Kind::Overloaded, Delivery::NotSent), "{name}");
        assert_eq!((layer.handle().stats().rejected, probe.counts().calls), (1, 2), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn more_than_may_wait_and_longer_than_one_may() {
    let layer = layer().max_waiting(2).max_wait(150 * MS);
    let limiter = layer.handle();
    let (service, _) = limited(&layer);
    for _ in 0..2 {
        call(&service).await.unwrap();
    }
    let started = Instant::now();
    let mut first = pin!(call(&service));
    let mut second = pin!(call(&service));
    assert!(poll_once(first.as_mut()).is_pending());
    assert!(poll_once(second.as_mut()).is_pending());
    let error = call(&service).await.unwrap_err();
    let error = find::<Overloaded>(&*error).unwrap();
    assert_eq!((error.limit(), error.waiting(), error.time_waited()), (2, 2, Duration::ZERO));

    first.await.unwrap();
    assert_eq!(started.elapsed(), 100 * MS);
    // At the head now, it knows that its token comes after 200 ms: too late, so it does not wait for that.
    let error = second.await.unwrap_err();
    assert_eq!(started.elapsed(), 100 * MS);
    let error = find::<Overloaded>(&*error).unwrap();
    assert_eq!((error.time_waited(), error.time_to_room()), (100 * MS, Some(100 * MS)));
    assert_eq!((waiting(&limiter), limiter.stats().rejected), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn patience_ends_in_line_too() {
    let layer = layer().max_wait(50 * MS);
    let (service, _) = limited(&layer);
    let (patient, _) = limited(&layer.clone().max_wait(SECOND));
    for _ in 0..2 {
        call(&service).await.unwrap();
    }
    let mut head = pin!(call(&patient));
    assert!(poll_once(head.as_mut()).is_pending());
    let started = Instant::now();
    let error = call(&service).await.unwrap_err();
    assert_eq!((started.elapsed(), waiting(&layer.handle())), (50 * MS, 1));
    assert_eq!(find::<Overloaded>(&*error).unwrap().time_waited(), 50 * MS);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_after_the_deadline() {
    let layer = layer();
    let (service, probe) = limited(&layer);
    let mut late = request();
    Deadline::after(Duration::ZERO).tighten(&mut late);
    let error = service.clone().oneshot(late).await.unwrap_err();
    assert_eq!(find::<Elapsed>(&*error).unwrap().phase(), Phase::Queue);
    for _ in 0..2 {
        call(&service).await.unwrap();
    }
    // The token comes a tick before, and nobody asks for it until then.
    let mut tight = request();
    Deadline::after(101 * MS).tighten(&mut tight);
    let mut tight = pin!(service.clone().oneshot(tight));
    assert!(poll_once(tight.as_mut()).is_pending());
    advance(101 * MS).await;
    let error = tight.await.unwrap_err();
    assert_eq!(find::<Overloaded>(&*error).unwrap().time_waited(), 101 * MS);
    assert_eq!(probe.counts().calls, 2);
    call(&service).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_poll_it_leaves_the_line() {
    for (name, ahead) in [("at the head of the line", 0), ("behind another", 1)] {
        let layer = layer();
        let limiter = layer.handle();
        let (service, probe) = limited(&layer);
        for _ in 0..2 {
            call(&service).await.unwrap();
        }
        // Holds the head of the line, since nobody polls it again.
        let mut line: Vec<_> = (0..ahead).map(|_| Box::pin(call(&service))).collect();
        for call in &mut line {
            assert!(poll_once(call.as_mut()).is_pending());
        }
        let mut polls = 0;
        let done = cancel_at_each_poll(
            50,
            || async { call(&service).await.map(drop) },
            async |k| {
                polls = k;
                assert_eq!(waiting(&limiter), ahead, "{name}, dropped at poll {k}");
                probe.assert_idle();
            },
        )
        .await;
        assert_eq!(done.is_some(), ahead == 0, "{name}");
        assert!(polls > 1, "{name}: {polls}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_head_of_the_line_may_leave() {
    let layer = layer();
    let (service, _) = limited(&layer);
    for _ in 0..2 {
        call(&service).await.unwrap();
    }
    let started = Instant::now();
    let mut head = Box::pin(call(&service));
    let mut next = Box::pin(call(&service));
    assert!(poll_once(head.as_mut()).is_pending());
    assert!(poll_once(next.as_mut()).is_pending());
    drop(head);
    next.await.unwrap();
    assert_eq!(started.elapsed(), 100 * MS, "the token that the head did not take");
}

#[tokio::test(start_paused = true)]
async fn clones_share_and_the_readied_service_is_called() {
    let layer = layer();
    let (mut service, _) = limited(&layer);
    let (other, _) = limited(&layer.clone());
    let started = Instant::now();
    call(&other).await.unwrap();
    for after in [0, 100] {
        poll_fn(|cx| Service::<Request<TestBody>>::poll_ready(&mut service, cx)).await.unwrap();
        service.call(request()).await.unwrap();
        assert_eq!(started.elapsed(), after * MS);
    }
}

#[tokio::test(start_paused = true)]
async fn keys_have_a_bucket_each_and_full_ones_are_forgotten() {
    let layer = layer().max_wait(Duration::ZERO).per_origin();
    let handle = layer.handle();
    let service = layer.layer(Probe::pair([Plan::new()]).0);
    let call = async |host: &str| {
        let request = Request::get(format!("http://{host}.example/")).body(TestBody::new()).unwrap();
        service.clone().oneshot(request).await
    };
    for host in ["a", "a", "b", "b"] {
        call(host).await.unwrap();
    }
    for host in ["a", "b"] {
        let error = call(host).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("http://{host}.example: rate limit")), "{error}");
    }
    assert_eq!((handle.keys(), handle.stats().rejected, handle.stats().limit), (2, 2, 2));

    // Nobody gains tokens by being forgotten too early.
    for index in 0..200 {
        call(&index.to_string()).await.unwrap();
    }
    assert_eq!(handle.keys(), 202);
    assert!(call("a").await.is_err());
    // Two tokens take 200 ms to come back. Then all are as new, and the next call of all frees them.
    advance(200 * MS).await;
    for index in 0..100 {
        call(&format!("late-{index}")).await.unwrap();
        assert_eq!(handle.keys(), index + 1);
    }
    assert_eq!(handle.stats().rejected, 3, "what they counted stays");
}

#[test]
fn rates_that_cannot_be_are_errors() {
    let century = SECOND * 60 * 60 * 24 * 365 * 100;
    for (name, layer) in [
        ("none at all", RateLimitLayer::new(0, SECOND)),
        ("in no time", RateLimitLayer::new(1, Duration::ZERO)),
        ("less than a nanosecond each", RateLimitLayer::new(2, Duration::from_nanos(1))),
        ("longer than a century", RateLimitLayer::new(1, 2 * century)),
        ("no burst", layer().burst(0)),
        ("a burst of a century", RateLimitLayer::new(1, century).and_then(|layer| layer.burst(2))),
        ("for ever", RateLimitLayer::new(1, Duration::MAX)),
    ] {
        assert!(layer.is_err(), "{name}");
    }
    RateLimitLayer::new(1, century).unwrap();
    RateLimitLayer::new(u32::MAX, SECOND * 5).unwrap();
}

#[test]
fn send_where_the_parts_are() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Send + Sync + Clone>() {}
    is_sync::<RateLimitLayer>();
    is_sync::<RateLimit<Probe>>();
    is_send::<outbound_limit::RateLimitFuture<Probe, TestBody>>();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// A bucket of time: it fills as time passes, and each call that starts takes an interval of it.
    #[test]
    fn what_starts_at_once_is_what_a_bucket_has(
        calls in 1..20_u32,
        period in prop_oneof![Just(1_000_u64), 1..5_000_u64],
        burst in 1..8_u32,
        pauses in prop::collection::vec(prop_oneof![3 => Just(0_u64), 2 => 1..300_u64, 1 => 1_000..9_000_u64], 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let period = Duration::from_millis(period);
            let layer = RateLimitLayer::new(calls, period).unwrap().burst(burst).unwrap();
            let (service, _) = limited(&layer.max_wait(Duration::ZERO));
            let interval = period / calls;
            let full = interval * burst;
            let mut level = full;
            for (number, pause) in pauses.into_iter().enumerate() {
                let pause = Duration::from_millis(pause);
                advance(pause).await;
                level = full.min(level + pause);
                let has = level >= interval;
                level -= if has { interval } else { Duration::ZERO };
                let started = call(&service).await;
                let room = started.as_ref().err().and_then(|error| find::<Overloaded>(&**error)?.time_to_room());
                prop_assert_eq!(started.is_ok(), has, "call {}", number);
                prop_assert_eq!(room, (!has).then(|| interval - level), "call {}", number);
            }
            Ok(())
        })?;
    }
}
