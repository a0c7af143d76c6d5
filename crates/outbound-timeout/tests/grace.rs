//! What a call is granted when its timer is late, to the instant: a stall is a clock that jumps.

use std::{convert::Infallible, future::pending, pin::pin, time::Duration};

use http::{Request, Response};
use http_body_util::BodyExt;
use outbound_core::{BoxError, Deadline, Elapsed, Failure, find};
use outbound_testkit::TestBody;
use outbound_timeout::{DeadlineLayer, StallMonitor, TimeoutLayer};
use tokio::{
    task::{coop::consume_budget, yield_now},
    time::{Instant, advance, sleep, sleep_until},
};
use tower::{Layer, Service, ServiceExt, service_fn};

/// Name, deadline, stalls, when the peer's answer is there and how many turns of the reactor it then takes to reach the call,
/// when the call ends, and by how much its limit of 100 ms was late if it fails.
type Row = (&'static str, u64, &'static [u64], u64, usize, u64, Option<u64>);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // On time: what the reactor has, or finds at its next turns, still counts.
    ("a task in between",            MAX, &[],         100, 0,  100, None),
    ("two turns in between",         MAX, &[],         100, 2,  100, None),
    ("the peer is late",             MAX, &[],         101, 0,  100, Some(0)),
    // Late: as long again, but no longer than the limit itself.
    ("answered in the stall",        MAX, &[300],      20,  0,  300, None),
    ("five turns to reach us",       MAX, &[300],      20,  5,  300, None),
    ("answered when the stall ends", MAX, &[300],      300, 0,  300, None),
    ("answered in the grace",        MAX, &[300],      400, 0,  400, None),
    ("answered after it",            MAX, &[300],      401, 0,  400, Some(300)),
    ("never answered",               MAX, &[300],      MAX, 0,  400, Some(300)),
    ("a short stall, a short grace", MAX, &[150],      MAX, 0,  200, Some(100)),
    ("a few ticks: on time",         MAX, &[102],      MAX, 0,  102, Some(2)),
    ("a tick a turn at least",       MAX, &[103],      MAX, 0,  113, Some(13)),
    ("a stall that ends in time",    MAX, &[99],       MAX, 0,  100, Some(0)),
    // A stall in the grace takes one of its ten turns.
    ("a second stall",               MAX, &[300, 500], 850, 0,  850, None),
    ("a second stall, no answer",    MAX, &[300, 500], MAX, 0,  890, Some(790)),
    // No grace lasts longer than a deadline that is still to come.
    ("a deadline in the grace",      350, &[300],      MAX, 0,  350, Some(250)),
];

#[tokio::test(start_paused = true)]
async fn a_late_timer_gives_as_long_again() {
    for &(name, deadline, stalls, answer, turns, at, late) in ROWS {
        let begun = Instant::now();
        let service = TimeoutLayer::new(ms(100)).layer(service_fn(move |_| answers(begun, answer, turns)));
        let mut request = Request::new(());
        Deadline::after(ms(deadline)).tighten(&mut request);
        assert_eq!(ended(service, request, stalls).await, (ms(at), late.map(ms)), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn and_so_does_a_late_deadline() {
    for &(name, _, stalls, answer, turns, at, late) in ROWS.iter().filter(|row| row.1 == MAX) {
        let begun = Instant::now();
        let service = DeadlineLayer::new(ms(100)).layer(service_fn(move |_| answers(begun, answer, turns)));
        assert_eq!(ended(service, Request::new(()), stalls).await, (ms(at), late.map(ms)), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn and_so_does_a_late_body() {
    for (name, stall, body, at, late) in [
        ("all there in the stall", 300, TestBody::new().delay(ms(20)).data("hello"), 300, None),
        ("there in the grace", 300, TestBody::new().delay(ms(399)).data("hello"), 399, None),
        ("not there", 300, TestBody::new().stall(), 400, Some(300)),
        ("no stall", 0, TestBody::new().stall(), 100, Some(0)),
    ] {
        let begun = Instant::now();
        let service = service_fn(|_| std::future::ready(Ok::<_, Infallible>(Response::new(body.clone()))));
        let layer = TimeoutLayer::new(ms(100));
        let response = layer.layer(service).oneshot(Request::new(())).await.unwrap();
        let read = tokio::spawn(response.into_body().collect());
        yield_now().await;
        advance(ms(stall)).await;
        let overrun = read.await.unwrap().err().map(|error| Failure::of(&*error).late_by());
        assert_eq!((begun.elapsed(), overrun), (ms(at), late.map(ms)), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_polls_late_still_has_the_whole_limit() {
    let monitor = StallMonitor::new();
    let layer = TimeoutLayer::new(ms(100)).stall_monitor(&monitor);
    let service = service_fn(|_| async {
        sleep(ms(99)).await;
        Ok::<_, Infallible>(Response::new(()))
    });
    let mut service = layer.layer(service);
    let call = service.ready().await.unwrap().call(Request::new(()));
    advance(ms(300)).await;
    assert!(call.await.is_ok());
    assert_eq!(monitor.count(), 0, "a future that nobody polls is no stall");
}

#[tokio::test(start_paused = true)]
async fn the_monitor_sees_what_the_timers_see() {
    let monitor = StallMonitor::new();
    let timeout = TimeoutLayer::new(ms(100)).stall_monitor(&monitor);
    let deadline = DeadlineLayer::new(ms(100)).stall_monitor(&monitor);
    let seen = || (monitor.count(), monitor.max(), monitor.recent(ms(1000)));

    let never = || service_fn(|_| answers(Instant::now(), MAX, 0));
    for (name, stall, expected) in [
        ("on time", 100, (0, ms(0), ms(0))),
        ("300 ms late", 400, (1, ms(300), ms(300))),
        ("50 ms late", 150, (2, ms(300), ms(50))),
    ] {
        ended(timeout.layer(never()), Request::new(()), &[stall]).await;
        assert_eq!(seen(), expected, "{name}");
    }
    ended(deadline.layer(never()), Request::new(()), &[800]).await;
    assert_eq!(seen(), (3, ms(700), ms(700)), "another layer");

    let now = Instant::now();
    let prompt = service_fn(move |_| answers(now, 20, 0));
    ended(timeout.layer(prompt), Request::new(()), &[200]).await;
    assert_eq!(seen(), (4, ms(700), ms(100)), "one that was answered");

    let prompt = service_fn(|_| async {
        sleep(ms(100)).await;
        Ok::<_, Infallible>(Response::new(()))
    });
    ended(timeout.layer(prompt), Request::new(()), &[]).await;
    assert_eq!(monitor.count(), 4, "one that was answered on the very tick");

    let body = TestBody::new().delay(ms(20)).data("hello");
    let prompt = service_fn(|_| std::future::ready(Ok::<_, Infallible>(Response::new(body.clone()))));
    let response = timeout.layer(prompt).oneshot(Request::new(())).await.unwrap();
    let read = tokio::spawn(response.into_body().collect());
    yield_now().await;
    advance(ms(300)).await;
    read.await.unwrap().unwrap();
    assert_eq!(seen(), (5, ms(700), ms(200)), "and read");

    sleep(ms(1001)).await;
    assert_eq!(seen(), (5, ms(700), ms(0)), "long ago");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_spends_the_whole_budget_is_timed_out_too() {
    let greedy = service_fn(|_| async {
        loop {
            consume_budget().await;
            if false {
                return Ok::<_, Infallible>(Response::new(()));
            }
        }
    });
    let mut call = pin!(tokio::spawn(TimeoutLayer::new(ms(100)).layer(greedy).oneshot(Request::new(()))));
    yield_now().await;
    advance(ms(100)).await;
    for _ in 0..1000 {
        if call.as_mut().is_finished() {
            let error = call.await.unwrap().unwrap_err();
            assert_eq!(find::<Elapsed>(&*error).unwrap().elapsed(), ms(100));
            return;
        }
        yield_now().await;
    }
    panic!("the timer is never looked at");
}

/// When the call ends while its runtime stalls, and by how much its limit was late if it fails.
async fn ended<S>(service: S, request: Request<()>, stalls: &[u64]) -> (Duration, Option<Duration>)
where
    S: Service<Request<()>, Error = BoxError> + Send + 'static,
    S::Future: Send,
    S::Response: Send,
{
    let begun = Instant::now();
    let call = tokio::spawn(service.oneshot(request));
    yield_now().await;
    for &stall in stalls {
        advance(ms(stall)).await;
        yield_now().await;
    }
    let failed = call.await.unwrap().err();
    (begun.elapsed(), failed.map(|error| find::<Elapsed>(&*error).unwrap().late_by()))
}

/// As hyper does: another task has the answer first.
async fn answers(begun: Instant, answer: u64, turns: usize) -> Result<Response<()>, Infallible> {
    if answer == MAX {
        return pending().await;
    }
    let connection = async move {
        sleep_until(begun + ms(answer)).await;
        for _ in 0..turns {
            yield_now().await;
        }
    };
    tokio::spawn(connection).await.unwrap();
    Ok(Response::new(()))
}

fn ms(time: u64) -> Duration {
    if time == MAX { Duration::MAX } else { Duration::from_millis(time) }
}

const MAX: u64 = u64::MAX;
