//! What a permit is held for, who gets the next one, and what comes back when things go wrong.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use outbound_core::{BoxError, Deadline, Delivery, Elapsed, Failure, Kind, OnEnd, Overloaded, Phase, find};
use outbound_limit::{ConcurrencyLimit, ConcurrencyLimitLayer, Limiter, Order, Release, Scope};
use outbound_testkit::{Gate, Plan, Probe, ProbeHandle, TestBody, assert_body_contract, cancel_at_each_poll};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceExt};

type Limited = ConcurrencyLimit<Probe>;
type Answered = Response<OnEnd<TestBody, Release>>;

const MS: Duration = Duration::from_millis(1);

fn limited(layer: &ConcurrencyLimitLayer, plans: impl IntoIterator<Item = Plan>) -> (Limited, ProbeHandle) {
    let (probe, handle) = Probe::pair(plans);
    (layer.layer(probe), handle)
}

fn request() -> Request<TestBody> {
    Request::get("http://a.example/").body(TestBody::new()).unwrap()
}

async fn ready(service: &mut Limited) -> &mut Limited {
    poll_fn(|cx| Service::<Request<TestBody>>::poll_ready(service, cx)).await.unwrap();
    service
}

async fn call(service: &mut Limited) -> Result<Answered, BoxError> {
    ready(service).await.call(request()).await
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn counts(limiter: &Limiter) -> (usize, usize) {
    let stats = limiter.stats();
    (stats.in_use, stats.waiting)
}

fn overloaded(error: &BoxError) -> (usize, usize, Duration) {
    let error = find::<Overloaded>(&**error).expect("overloaded");
    (error.limit(), error.waiting(), error.time_waited())
}

// === What a permit is held for ===

#[tokio::test(start_paused = true)]
async fn the_next_call_starts_when_the_body_has_ended() {
    // What is left of the response is kept until the end.
    type EndBody = fn(Answered) -> Pin<Box<dyn Future<Output = Option<Answered>>>>;
    let read: EndBody = |mut response| {
        Box::pin(async {
            while let Some(Ok(_)) = response.body_mut().frame().await {}
            Some(response)
        })
    };
    let dropped: EndBody = |_| Box::pin(async { None });
    let half: EndBody = |mut response| {
        Box::pin(async move {
            response.body_mut().frame().await.unwrap().unwrap();
            None
        })
    };
    let last_frame: EndBody = |mut response| {
        Box::pin(async move {
            response.body_mut().frame().await.unwrap().unwrap();
            response.body_mut().frame().await.unwrap().unwrap();
            Some(response)
        })
    };
    type MakeBody = fn() -> TestBody;
    let body: MakeBody = || TestBody::new().data("ab").data("cd");
    let rows: [(&str, MakeBody, EndBody); 7] = [
        ("read to the end", body, read),
        ("dropped unread", body, dropped),
        ("dropped half read", body, half),
        ("the last frame taken, the body kept", body, last_frame),
        ("failed", || TestBody::new().data("ab").error("broken"), read),
        ("trailers", || TestBody::new().data("ab").trailer("x", "y"), read),
        ("an end that was not announced", || TestBody::from("ab").unannounced_end(), read),
    ];
    for (name, body, end) in rows {
        let layer = ConcurrencyLimitLayer::new(1);
        let limiter = layer.handle();
        let (mut service, probe) = limited(&layer, [Plan::new().body(body()), Plan::new()]);

        let first = call(&mut service).await.unwrap();
        let mut second = pin!(ready(&mut service).await.call(request()));
        assert!(poll_once(second.as_mut()).is_pending(), "{name}");
        assert_eq!((counts(&limiter), probe.counts().calls), ((1, 1), 1), "{name}");

        let kept = end(first).await;
        second.await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((counts(&limiter), probe.counts().calls), ((0, 0), 2), "{name}");
        drop(kept);
        assert_eq!(counts(&limiter), (0, 0), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_body_the_next_call_starts_at_the_head() {
    let secret = || TestBody::new().unannounced_end().unsized_hint();
    for (name, method, plan, released) in [
        ("204", Method::GET, Plan::new().status(204).body(secret()), true),
        ("304", Method::GET, Plan::new().status(304).body(secret()), true),
        ("HEAD", Method::HEAD, Plan::new().body(secret()), true),
        ("zero length", Method::GET, Plan::new().body(TestBody::new().unannounced_end()), true),
        ("ended from the start", Method::GET, Plan::new().body(TestBody::new()), true),
        ("a length", Method::GET, Plan::new().body("x"), false),
        ("a length unknown", Method::GET, Plan::new().body(secret()), false),
    ] {
        let layer = ConcurrencyLimitLayer::new(1);
        let (service, _) = limited(&layer, [plan]);
        let request = Request::builder().method(method).body(TestBody::new()).unwrap();
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(layer.handle().stats().in_use == 0, released, "{name}");
        drop(response);
        assert_eq!(layer.handle().stats().in_use, 0, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn scope_head_lets_go_of_a_body() {
    let layer = ConcurrencyLimitLayer::new(1).scope(Scope::Head);
    let (mut service, _) = limited(&layer, [Plan::new().body("long")]);
    let first = call(&mut service).await.unwrap();
    let second = call(&mut service).await.unwrap();
    assert_eq!(counts(&layer.handle()), (0, 0));
    assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "long");
    drop(second);
    assert_eq!(counts(&layer.handle()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_gives_its_permit_back_and_its_error_untouched() {
    let layer = ConcurrencyLimitLayer::new(1);
    let (mut service, _) = limited(&layer, [Plan::new().error("broken")]);
    let mut failing = pin!(ready(&mut service).await.call(request()));
    let error = poll_fn(|cx| failing.as_mut().poll(cx)).await.unwrap_err();
    assert_eq!(error.to_string(), "broken");
    assert_eq!(counts(&layer.handle()), (0, 0), "before the future is dropped");
}

#[tokio::test]
async fn bodies_keep_their_contract() {
    let layer = ConcurrencyLimitLayer::new(100);
    assert_body_contract(|body| {
        let echo = tower::service_fn(|request: Request<TestBody>| async {
            Ok::<_, BoxError>(Response::new(request.into_body()))
        });
        let mut response = pin!(layer.layer(echo).oneshot(Request::new(body)));
        match poll_once(response.as_mut()) {
            Poll::Ready(response) => response.unwrap().into_body(),
            Poll::Pending => panic!("answers at once"),
        }
    })
    .await;
}

// === Who waits, and how long ===

#[tokio::test(start_paused = true)]
async fn the_order_of_those_who_wait() {
    for (name, order, expected) in [
        ("FIFO", Order::Fifo, [0, 1, 2]),
        ("LIFO", Order::Lifo, [2, 1, 0]),
        ("CoDel", Order::CODEL, [0, 1, 2]),
    ] {
        let layer = ConcurrencyLimitLayer::new(1).order(order);
        let (mut service, probe) = limited(&layer, [Plan::new()]);
        let limiter = layer.handle();
        limiter.set_limit(0);
        let mut calls = Vec::new();
        for index in 0..3 {
            let request = Request::get(format!("http://a.example/{index}")).body(TestBody::new()).unwrap();
            calls.push(Box::pin(ready(&mut service).await.call(request)));
            assert!(poll_once(calls[index].as_mut()).is_pending(), "{name}");
        }
        limiter.set_limit(1);
        for index in expected {
            assert!(poll_once(calls[index].as_mut()).is_ready(), "{name}: {index}");
        }
        let paths: Vec<_> = probe.requests().iter().map(|request| request.uri().path().to_owned()).collect();
        assert_eq!(paths, expected.map(|index| format!("/{index}")), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_overtakes_the_line() {
    let layer = ConcurrencyLimitLayer::new(1);
    let (mut service, _) = limited(&layer, [Plan::new().body("a"), Plan::new()]);
    let first = call(&mut service).await.unwrap();
    let mut second = pin!(ready(&mut service.clone()).await.call(request()));
    drop(first);
    // The permit is the second's, even before it has been polled: the third has to wait.
    let mut third = pin!(ready(&mut service).await.call(request()));
    assert!(poll_once(third.as_mut()).is_pending());
    assert!(poll_once(second.as_mut()).is_ready());
    assert!(poll_once(third.as_mut()).is_ready());
}

#[tokio::test(start_paused = true)]
async fn one_more_than_may_wait_is_turned_away_at_once() {
    for max_waiting in [0, 1, 2] {
        let layer = ConcurrencyLimitLayer::new(1).max_waiting(max_waiting);
        let (mut service, probe) = limited(&layer, [Plan::new().body("a")]);
        let _first = call(&mut service).await.unwrap();
        let mut waiting = Vec::new();
        for _ in 0..max_waiting {
            waiting.push(ready(&mut service).await.call(request()));
        }
        let error = call(&mut service).await.unwrap_err();
        assert_eq!(overloaded(&error), (1, max_waiting, Duration::ZERO));
        assert_eq!(
            error.to_string(),
            format!("http://a.example: concurrency limit is overloaded: all 1 in use, {max_waiting} waiting")
        );
        let failure = Failure::of(&*error);
        assert_eq!(failure.kind(), Kind::Overloaded);
        assert_eq!((failure.phase(), failure.delivery()), (Some(Phase::Queue), Delivery::NotSent));
        assert_eq!((layer.handle().stats().rejected, probe.counts().calls), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_turned_away() {
    let second = Duration::from_secs(1);
    let never = Duration::MAX;
    for (name, max_wait, deadline, waited) in [
        ("max_wait", second, never, second),
        ("the deadline is earlier", second, 300 * MS, 300 * MS),
        ("the deadline is later", 300 * MS, second, 300 * MS),
        ("no max_wait", never, second, second),
        ("by default", Duration::from_secs(30), never, Duration::from_secs(30)),
    ] {
        let mut layer = ConcurrencyLimitLayer::new(0).name("github");
        if name != "by default" {
            layer = layer.max_wait(max_wait);
        }
        let (mut service, probe) = limited(&layer, [Plan::new()]);
        let mut request = request();
        Deadline::after(deadline).tighten(&mut request);
        let started = Instant::now();
        let error = ready(&mut service).await.call(request).await.unwrap_err();
        assert_eq!(started.elapsed(), waited, "{name}");
        assert_eq!(overloaded(&error), (0, 0, waited), "{name}");
        assert_eq!(find::<Overloaded>(&*error).unwrap().limiter(), "github", "{name}");
        let stats = layer.handle().stats();
        assert_eq!((stats.rejected, stats.longest_wait, stats.waiting), (1, waited, 0), "{name}");
        assert_eq!(probe.counts().calls, 0, "{name}");
    }
}

/// The permit was due in time: it comes late because nobody was run, and so does the end of patience.
#[tokio::test(start_paused = true)]
async fn a_stall_of_our_own_is_nothing_to_turn_a_call_away_for() {
    let layer = ConcurrencyLimitLayer::new(1).max_wait(100 * MS);
    let (service, probe) = limited(&layer, [Plan::new().delay(50 * MS).answers_after(3), Plan::new()]);
    let call = || tokio::spawn(service.clone().oneshot(request()));
    let holder = call();
    probe.called(1).await;
    let waiter = call();
    while layer.handle().stats().waiting == 0 {
        tokio::task::yield_now().await;
    }
    advance(300 * MS).await;
    holder.await.unwrap().unwrap();
    waiter.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_after_the_deadline() {
    let layer = ConcurrencyLimitLayer::new(1);
    let limiter = layer.handle();
    let (mut service, probe) = limited(&layer, [Plan::new()]);

    // It has passed before the call: not the limit's fault.
    let mut late = request();
    Deadline::after(Duration::ZERO).tighten(&mut late);
    let error = ready(&mut service).await.call(late).await.unwrap_err();
    assert_eq!(find::<Elapsed>(&*error).unwrap().phase(), Phase::Queue);

    // It passes while the permit is on its way.
    limiter.set_limit(0);
    let mut tight = request();
    Deadline::after(5 * MS).tighten(&mut tight);
    let mut call = pin!(ready(&mut service).await.call(tight));
    assert!(poll_once(call.as_mut()).is_pending());
    advance(5 * MS).await;
    limiter.set_limit(1);
    let Poll::Ready(Err(error)) = poll_once(call.as_mut()) else { panic!("sent") };
    assert_eq!(overloaded(&error), (1, 0, 5 * MS));
    assert_eq!((counts(&limiter), probe.counts().calls), ((0, 0), 0));
}

#[tokio::test(start_paused = true)]
async fn a_permit_beats_patience_that_ends_on_the_same_tick() {
    let layer = ConcurrencyLimitLayer::new(0).max_wait(5 * MS);
    let (mut service, _) = limited(&layer, [Plan::new()]);
    let mut call = pin!(ready(&mut service).await.call(request()));
    assert!(poll_once(call.as_mut()).is_pending());
    advance(5 * MS).await;
    layer.handle().set_limit(1);
    assert!(matches!(poll_once(call.as_mut()), Poll::Ready(Ok(_))));
}

#[tokio::test(start_paused = true)]
async fn codel_sheds_from_a_line_that_stands_only() {
    let order = Order::CoDel { target: 5 * MS, interval: 100 * MS };
    // One permit, given back after `held`; three calls wait for it from the start, and one from `late` on.
    for (name, held, late, shed) in [
        ("a burst passes whole", 100 * MS, 50 * MS, [false, false, false, false]),
        ("a line that stands is cut down", 101 * MS, 96 * MS, [true, true, true, false]),
        ("down to the target", 101 * MS, 95 * MS, [true, true, true, true]),
    ] {
        let layer = ConcurrencyLimitLayer::new(0).order(order);
        let limiter = layer.handle();
        let (mut service, _) = limited(&layer, [Plan::new()]);
        let mut calls = Vec::new();
        for _ in 0..3 {
            calls.push(Box::pin(ready(&mut service).await.call(request())));
        }
        advance(late).await;
        calls.push(Box::pin(ready(&mut service).await.call(request())));
        advance(held - late).await;
        limiter.set_limit(1);
        for (index, (call, shed)) in calls.iter_mut().zip(shed).enumerate() {
            let Poll::Ready(result) = poll_once(call.as_mut()) else { panic!("{name}: {index} waits") };
            assert_eq!(result.is_err(), shed, "{name}: {index}");
        }
        let shed = shed.iter().filter(|&&shed| shed).count() as u64;
        assert_eq!((counts(&limiter), limiter.stats().rejected), ((0, 0), shed), "{name}");
    }
}

// === Sharing, changing, watching ===

#[tokio::test(start_paused = true)]
async fn clones_layers_and_services_share_one_limit() {
    let limiter = Limiter::new(2);
    let layer = ConcurrencyLimitLayer::new(limiter.clone());
    let other = ConcurrencyLimitLayer::new(limiter.clone()).max_waiting(0);
    let (mut a, _) = limited(&layer, [Plan::new().body("a")]);
    let (mut b, _) = limited(&layer.clone(), [Plan::new().body("b")]);
    let (mut c, _) = limited(&other, [Plan::new()]);
    let first = call(&mut a).await.unwrap();
    let second = call(&mut b.clone()).await.unwrap();
    assert_eq!(counts(&limiter), (2, 0));
    assert_eq!(overloaded(&call(&mut c).await.unwrap_err()), (2, 0, Duration::ZERO));
    drop((first, second));
    call(&mut b).await.unwrap();
    call(&mut c).await.unwrap();
    assert_eq!(counts(&limiter), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_limit_changes_under_calls_in_flight() {
    let layer = ConcurrencyLimitLayer::new(3);
    let limiter = layer.handle();
    let (mut service, _) = limited(&layer, [Plan::new().body("a")]);
    let mut bodies = Vec::new();
    for _ in 0..3 {
        bodies.push(call(&mut service).await.unwrap());
    }
    limiter.set_limit(1);
    assert_eq!((limiter.stats().limit, limiter.stats().in_use), (1, 3), "those under way finish");

    let mut waiting = pin!(ready(&mut service).await.call(request()));
    for left in [2, 1] {
        bodies.pop();
        assert!(poll_once(waiting.as_mut()).is_pending());
        assert_eq!(counts(&limiter), (left, 1));
    }
    bodies.pop();
    let Poll::Ready(Ok(first)) = poll_once(waiting.as_mut()) else { panic!("below the limit") };

    let mut waiting: Vec<_> = Vec::new();
    for _ in 0..4 {
        waiting.push(Box::pin(ready(&mut service).await.call(request())));
    }
    limiter.set_limit(4);
    let started: Vec<_> = waiting.iter_mut().map(|call| poll_once(call.as_mut())).collect();
    let going = started.iter().map(Poll::is_ready).collect::<Vec<_>>();
    assert_eq!(going, [true, true, true, false], "as many as it grew by");
    assert_eq!(counts(&limiter), (4, 1));
    drop((first, started, waiting));
    assert_eq!(counts(&limiter), (0, 0));

    limiter.set_limit(usize::MAX);
    call(&mut service).await.unwrap();
    assert!(limiter.stats().limit > usize::MAX / 10);
    limiter.set_limit(0);
    assert_eq!((limiter.stats().limit, counts(&limiter)), (0, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn the_handle_watches() {
    let layer = ConcurrencyLimitLayer::new(1);
    let limiter = layer.handle();
    let gate = Gate::new("answer");
    let (mut service, _) = limited(&layer, [Plan::new().wait(&gate), Plan::new()]);
    let mut first = Box::pin(ready(&mut service).await.call(request()));
    assert!(poll_once(first.as_mut()).is_pending());
    let second = ready(&mut service).await.call(request());
    let third = ready(&mut service).await.call(request());
    let stats = limiter.stats();
    assert_eq!((stats.limit, stats.in_use, stats.waiting, stats.rejected), (1, 1, 2, 0));
    assert_eq!(stats.longest_wait, Duration::ZERO, "none has ended");
    advance(7 * MS).await;
    drop(third);
    assert_eq!(limiter.stats().longest_wait, 7 * MS, "given up by the caller");
    advance(2 * MS).await;
    drop(first);
    second.await.unwrap();
    assert_eq!(limiter.stats().longest_wait, 9 * MS, "ended with a permit");
    assert_eq!(limiter.stats().rejected, 0);
}

// === The contract of a layer ===

#[tokio::test(start_paused = true)]
async fn the_service_made_ready_is_the_one_called() {
    let layer = ConcurrencyLimitLayer::new(1);
    let (mut service, probe) = limited(&layer, [Plan::new().body("a"), Plan::new()]);
    // The probe panics where another is called. At once, then after waiting:
    let first = call(&mut service).await.unwrap();
    let mut second = pin!(ready(&mut service).await.call(request()));
    assert!(poll_once(second.as_mut()).is_pending());
    drop(first);
    second.await.unwrap();
    // Ready and never called, or a clone: holds nothing.
    ready(&mut service).await;
    let clone = service.clone();
    assert_eq!(counts(&layer.handle()), (0, 0));
    drop((service, clone));
    assert_eq!((probe.counts().calls, counts(&layer.handle())), (2, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn an_error_or_delay_in_getting_ready_holds_nothing() {
    let layer = ConcurrencyLimitLayer::new(1);
    let (mut service, _) = limited(&layer, [Plan::new().readiness_error("broken")]);
    let error = poll_fn(|cx| Service::<Request<TestBody>>::poll_ready(&mut service, cx)).await.unwrap_err();
    assert_eq!(error.to_string(), "broken");
    let (mut service, _) = limited(&layer, [Plan::new().never_ready()]);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Service::<Request<TestBody>>::poll_ready(&mut service, &mut cx).is_pending());
    assert_eq!(counts(&layer.handle()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_poll_it_gives_everything_back() {
    for (name, limit) in [("running", 1), ("waiting", 0)] {
        let layer = ConcurrencyLimitLayer::new(limit);
        let limiter = layer.handle();
        let plan = || Plan::new().answers_after(20).body(TestBody::new().data("a").pending(20).data("b"));
        let (service, probe) = limited(&layer, [plan()]);
        let whole = || {
            let service = service.clone();
            async move {
                let response = service.oneshot(request()).await?;
                response.into_body().collect().await.map_err(BoxError::from)?;
                Ok::<_, BoxError>(())
            }
        };
        let mut polls = 0;
        let done = cancel_at_each_poll(50, whole, async |k| {
            polls = k;
            assert_eq!(counts(&limiter), (0, 0), "{name}, dropped at poll {k}");
            probe.assert_idle();
        })
        .await;
        assert_eq!(done.is_some(), limit == 1, "{name}");
        assert!(polls > 40, "{name}: {polls}");
    }
}

/// Twenty thousand steps at random: what is counted is what is alive, whatever the order of calls, polls, reads and drops.
#[tokio::test(start_paused = true)]
async fn what_is_in_use_is_what_is_alive() {
    enum Alive<F> {
        Calling(Pin<Box<F>>),
        Reading(Box<Answered>, bool),
    }
    let mut random = StdRng::seed_from_u64(5);
    let layer = ConcurrencyLimitLayer::new(3).max_waiting(5);
    let limiter = layer.handle();
    let gate = Gate::new("heads");
    let body = || TestBody::new().data("a").trailer("b", "c");
    let plans = [
        Plan::new().body(body()),
        Plan::new().wait(&gate).body(body()),
        Plan::new().status(204),
        Plan::new().error("broken"),
        Plan::new().body(TestBody::new().data("a").error("broken")),
    ];
    let (mut service, probe) = limited(&layer, (0..5_000).map(|index| plans[index % 5].clone()));
    let mut alive = Vec::new();
    let mut rejected = 0;
    for step in 0..20_000 {
        let some = random.random_range(0..alive.len().max(1));
        match random.random_range(0..5) {
            0 => alive.push(Alive::Calling(Box::pin(ready(&mut service).await.call(request())))),
            1 if !alive.is_empty() => drop(alive.swap_remove(some)),
            2 => gate.let_one_through(),
            _ if !alive.is_empty() => match &mut alive[some] {
                Alive::Calling(call) => match poll_once(call.as_mut()) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(response)) => {
                        let ended = response.body().is_end_stream();
                        alive[some] = Alive::Reading(Box::new(response), ended);
                    }
                    Poll::Ready(Err(error)) => {
                        rejected += u64::from(find::<Overloaded>(&*error).is_some());
                        alive.swap_remove(some);
                    }
                },
                Alive::Reading(response, ended) => {
                    let frame = poll_once(pin!(response.body_mut().frame()));
                    *ended |= matches!(frame, Poll::Ready(None | Some(Err(_))));
                    *ended |= response.body().is_end_stream();
                }
            },
            _ => {}
        }
        let reading = alive.iter().filter(|one| matches!(one, Alive::Reading(_, false))).count();
        let calling = alive.iter().filter(|one| matches!(one, Alive::Calling(_))).count();
        let stats = limiter.stats();
        let running = probe.counts().futures;
        assert!(stats.in_use <= 3 && stats.waiting <= 5, "step {step}: {stats:?}");
        assert!(stats.in_use >= reading + running, "step {step}: {stats:?}, {reading} read, {running} run");
        assert!(stats.in_use + stats.waiting <= reading + calling, "step {step}: {stats:?}");
        assert!(
            stats.waiting == 0 || stats.in_use == 3,
            "step {step}: somebody waits for nothing: {stats:?}"
        );
    }
    drop(alive);
    assert_eq!(counts(&limiter), (0, 0));
    assert!(rejected > 0 && probe.counts().calls > 1_000, "{rejected}, {:?}", probe.counts());
}

#[tokio::test(start_paused = true)]
async fn a_grant_to_a_call_that_was_dropped_passes_on() {
    let layer = ConcurrencyLimitLayer::new(1);
    let (mut service, _) = limited(&layer, [Plan::new().body("a"), Plan::new()]);
    let first = call(&mut service).await.unwrap();
    let mut second = Box::pin(ready(&mut service).await.call(request()));
    let mut third = pin!(ready(&mut service).await.call(request()));
    assert!(poll_once(second.as_mut()).is_pending());
    assert!(poll_once(third.as_mut()).is_pending());
    drop(first);
    drop(second);
    assert!(poll_once(third.as_mut()).is_ready());
    assert_eq!(counts(&layer.handle()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_panic_gives_the_permit_back() {
    for (name, plan) in [
        ("call", Plan::new().call_panic()),
        ("future", Plan::new().future_panic()),
        ("body", Plan::new().body(TestBody::new().data("a").panic())),
    ] {
        for waits in [false, true] {
            let layer = ConcurrencyLimitLayer::new(usize::from(!waits));
            let limiter = layer.handle();
            let (mut service, _) = limited(&layer, [plan.clone(), Plan::new()]);
            ready(&mut service).await;
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let mut response = Box::pin(service.call(request()));
                if waits {
                    assert!(poll_once(response.as_mut()).is_pending());
                    limiter.set_limit(1);
                }
                let Poll::Ready(Ok(response)) = poll_once(response.as_mut()) else { return };
                let mut body = pin!(response.into_body());
                while let Poll::Ready(Some(_)) =
                    body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop()))
                {}
            }));
            assert!(panicked.is_err(), "{name}");
            assert_eq!(counts(&limiter), (0, 0), "{name}, waited: {waits}");
            call(&mut service).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

#[test]
fn send_where_the_parts_are() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Send + Sync + Clone>() {}
    is_sync::<ConcurrencyLimitLayer>();
    is_sync::<ConcurrencyLimit<Probe>>();
    is_send::<outbound_limit::ResponseFuture<Probe, TestBody>>();
    is_send::<OnEnd<TestBody, Release>>();

    // And nobody has to be.
    let layer = ConcurrencyLimitLayer::new(1);
    let mut service = layer.layer(tower::service_fn(|_: Request<()>| {
        let local = std::rc::Rc::new(());
        async move {
            drop(local);
            Ok::<_, BoxError>(Response::new(TestBody::new()))
        }
    }));
    let mut response = pin!(service.call(Request::new(())));
    assert!(
        matches!(poll_once(response.as_mut()), Poll::Ready(Ok(response)) if response.status() == StatusCode::OK)
    );
}
