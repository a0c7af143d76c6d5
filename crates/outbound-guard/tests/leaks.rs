//! Each kind of leak is found once, at the very instant, by the right line; and what is none is not.

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use http_body_util::BodyExt;
use outbound_core::Exchange;
use outbound_guard::{GuardedBody, LeakGuardLayer, Reclaimable, SendExt};
use outbound_testkit::{Gate, Plan, Probe, TestBody};
use support::*;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt};

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_reads_is_held_until_it_comes_back() {
    for (name, back) in [("read", true), ("dropped", false)] {
        let (client, _detector, log) = watched([Plan::new().body(TestBody::new().data("0123456789"))]);
        let mut body = client.send(get()).await.unwrap().into_body();
        let line = line!() - 1;
        sleep(ms(41_000)).await;
        assert_eq!(log.take(), [(ms(10_000), "held", Some(line))], "{name}");
        if back {
            body.frame().await.unwrap().unwrap();
        }
        drop(body);
        let returned = (ms(41_000), "returned", Some(line));
        let abandoned = (ms(41_000), "abandoned", Some(line));
        let expected = if back { vec![returned] } else { vec![returned, abandoned] };
        assert_eq!(log.take(), expected, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_counts_from_the_last_frame() {
    let (client, _detector, log) = watched([Plan::new().body(TestBody::new().data("a").data("b").data("c"))]);
    let mut body = client.send(get()).await.unwrap().into_body();
    let line = line!() - 1;
    for _ in 0..2 {
        sleep(ms(9_999)).await;
        body.frame().await.unwrap().unwrap();
    }
    sleep(ms(20_000)).await;
    body.frame().await.unwrap().unwrap();
    let begun = ms(2 * 9_999);
    assert_eq!(
        log.take(),
        [(begun + ms(10_000), "held", Some(line)), (begun + ms(20_000), "returned", Some(line)),]
    );
}

/// What comes due at the same instant is told by age, wherever it is kept: the younger call has the place of one that is over.
#[tokio::test(start_paused = true)]
async fn of_several_that_are_due_the_oldest_is_told_first() {
    let (client, _detector, log) = watched([Plan::new().body(TestBody::new().data("a").data("b"))]);
    let over = client.send(get()).await.unwrap();
    let mut older = client.send(get()).await.unwrap().into_body();
    let line = line!() - 1;
    over.into_body().collect().await.unwrap();
    sleep(ms(1_000)).await;
    let mut younger = client.send(get()).await.unwrap().into_body();
    sleep(ms(1_000)).await;
    for body in [&mut younger, &mut older] {
        body.frame().await.unwrap().unwrap();
    }
    sleep(ms(60_000)).await;
    let held = |line| (ms(12_000), "held", Some(line));
    assert_eq!(log.take(), [held(line), held(line + 4)]);
}

/// Twice held is told twice.
#[tokio::test(start_paused = true)]
async fn it_is_told_again_when_it_is_held_again() {
    let (client, _detector, log) = watched([Plan::new().body(TestBody::new().data("a").data("b"))]);
    let mut body = client.send(get()).await.unwrap().into_body();
    for _ in 0..2 {
        sleep(ms(15_000)).await;
        body.frame().await.unwrap().unwrap();
    }
    let kinds: Vec<_> = log.take().into_iter().map(|(at, kind, _)| (at, kind)).collect();
    assert_eq!(
        kinds,
        [(ms(10_000), "held"), (ms(15_000), "returned"), (ms(25_000), "held"), (ms(30_000), "returned")]
    );
}

/// A peer that says nothing for an hour is none of the reader's doing.
#[tokio::test(start_paused = true)]
async fn waiting_for_the_peer_is_no_leak() {
    let hour = ms(3_600_000);
    let body = TestBody::new().data("a").delay(hour).data("b");
    let (client, detector, log) = watched([Plan::new().delay(hour).body(body)]);
    let reader =
        tokio::spawn(async move { client.send(get()).await.unwrap().into_body().collect().await.unwrap() });
    sleep(hour + hour / 2).await;
    let [holding] = &detector.snapshot()[..] else { panic!("one is open") };
    assert_eq!((holding.age, holding.idle, holding.read), (hour + hour / 2, None, 1));
    assert_eq!(reader.await.unwrap().to_bytes(), "ab");
    assert_eq!(log.take(), []);
}

/// The peer has sent something, and the reader, who had asked for it, has gone away.
#[tokio::test(start_paused = true)]
async fn the_time_counts_from_when_there_is_something_to_read() {
    let gate = Gate::new("data");
    let body = TestBody::new().wait(&gate).data("a");
    let (client, _detector, log) = watched([Plan::new().body(body)]);
    let mut body = client.send(get()).await.unwrap().into_body();
    let line = line!() - 1;
    tokio::time::timeout(ms(5_000), body.frame()).await.unwrap_err();
    sleep(ms(25_000)).await;
    assert_eq!(log.take(), []);
    gate.open();
    sleep(ms(15_000)).await;
    assert_eq!(log.take(), [(ms(40_000), "held", Some(line))]);
}

/// A future that is ready and not polled holds a connection as well as a body does.
#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_polls_is_held() {
    let (client, _detector, log) = watched([Plan::new().delay(ms(1_000))]);
    let mut never = Box::pin(client.send(get()));
    let line = line!() - 1;
    // Nothing is called before the first poll.
    sleep(ms(20_000)).await;
    assert_eq!(log.take(), []);
    assert!(futures_poll(never.as_mut()).is_pending());
    sleep(ms(20_000)).await;
    assert_eq!(log.take(), [(ms(31_000), "held", Some(line))]);
    drop(never);
    assert_eq!(log.take(), [(ms(40_000), "returned", Some(line))]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_dropped_before_its_end_is_abandoned() {
    let frames = || TestBody::new().data("01234").data("56789");
    for (name, body, read, abandoned) in [
        ("unread", frames(), 0, Some((0, Some(10)))),
        ("half read", frames(), 1, Some((5, Some(10)))),
        ("read, and its end foreseen", frames(), 2, None),
        ("read, its end not asked for", frames().unannounced_end(), 2, None),
        ("unsized, half read", frames().unsized_hint(), 1, Some((5, None))),
        (
            "unsized, read, its end not asked for",
            frames().unsized_hint().unannounced_end(),
            2,
            Some((10, None)),
        ),
        ("unsized, read to its end", frames().unsized_hint().unannounced_end(), 3, None),
        ("failed", TestBody::new().data("a").error("broken"), 2, None),
        ("empty", TestBody::new(), 0, None),
    ] {
        let (client, detector, log) = watched([Plan::new().body(body)]);
        let mut body = client.send(get()).await.unwrap().into_body();
        let line = line!() - 1;
        for _ in 0..read {
            let _ = body.frame().await;
        }
        drop(body);
        let expected: Vec<_> = abandoned.iter().map(|_| (ms(0), "abandoned", Some(line))).collect();
        assert_eq!(log.take(), expected, "{name}");
        let bytes = log.last_holding().map(|holding| (holding.read, holding.declared));
        assert_eq!(bytes, abandoned, "{name}");
        detector.assert_no_leaks();
    }
}

/// Whoever keeps it then keeps nothing.
#[tokio::test(start_paused = true)]
async fn a_body_without_more_to_read_is_not_held() {
    let frames = || TestBody::new().data("01234").data("56789");
    for (name, body, read) in [
        ("empty", TestBody::new(), 0),
        ("declared to be empty", TestBody::new().unannounced_end(), 0),
        ("its end foreseen", frames(), 2),
        ("read to its end", frames().unsized_hint().unannounced_end(), 3),
    ] {
        let (client, detector, log) = watched([Plan::new().body(body)]);
        let mut body = client.send(get()).await.unwrap().into_body();
        for _ in 0..read {
            let _ = body.frame().await;
        }
        detector.assert_no_leaks();
        sleep(ms(60_000)).await;
        assert_eq!(log.take(), [], "{name}");
        drop(body);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cancelled_is_no_leak() {
    let answered = Plan::new().body(TestBody::new().data("a"));
    let (client, detector, log) = watched([answered, Plan::new().never_answers()]);
    client.send(get()).await.unwrap().into_body().collect().await.unwrap();
    tokio::time::timeout(ms(60_000), client.send(get())).await.unwrap_err();
    assert_eq!(log.take(), []);
    detector.assert_no_leaks();
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_is_found() {
    let gate = Gate::new("data");
    for (name, body, told) in [
        ("nobody waits", TestBody::new().data("a"), (ms(10_000), "held")),
        ("somebody waited", TestBody::new().wait(&gate).data("a"), (ms(60_000), "forgotten")),
    ] {
        let (client, detector, log) = watched([Plan::new().body(body)]);
        let mut body = Box::pin(client.send(get()).await.unwrap().into_body());
        let line = line!() - 1;
        if name == "somebody waited" {
            assert!(futures_poll(std::pin::pin!(body.frame())).is_pending());
        }
        let _ = std::mem::ManuallyDrop::new(body);
        sleep(ms(60_000)).await;
        drop(detector);
        let (at, kind) = told;
        assert_eq!(log.take(), [(at, kind, Some(line))], "{name}");
    }
}

/// A call whose response never comes, of which only its future's address is left, or a task that nobody ends.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_forgotten_is_found() {
    let (client, detector, log) = watched([Plan::new().never_answers()]);
    let mut forgotten = Box::pin(client.send(get()));
    let line = line!() - 1;
    assert!(futures_poll(forgotten.as_mut()).is_pending());
    let _ = std::mem::ManuallyDrop::new(forgotten);
    let stuck = tokio::spawn(client.send(get()));
    sleep(ms(60_000)).await;
    assert_eq!(log.take(), [], "they wait for the peer");
    drop((client, detector));
    let forgotten = |line| (ms(60_000), "forgotten", Some(line));
    assert_eq!(log.take(), [forgotten(line), forgotten(line + 4)]);
    stuck.abort();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_before_its_bodies_is_told() {
    let log = Log::new();
    let (layer, _detector) = LeakGuardLayer::builder().callback(log.callback()).pair();
    let (inner, _probe) = Probe::pair([Plan::new().body(TestBody::new().data("a"))]);
    let (client, other) = (layer.layer(inner.clone()), layer.layer(inner));
    let clone = client.clone();
    let first = client.send(get()).await.unwrap();
    let line = line!() - 1;
    sleep(ms(1_000)).await;
    let second = clone.send(get()).await.unwrap();
    drop((client, other));
    assert_eq!(log.take(), [], "a clone is left, and the other client has no body out");
    drop(clone);
    assert_eq!(log.take(), [(ms(1_000), "client_dropped", Some(line))]);
    assert!(log.last().to_string().starts_with("client dropped with 2 responses open, the oldest: "));
    drop((first, second));
}

/// Layers outside keep services for as long as they like: their user's client is another thing.
#[tokio::test(start_paused = true)]
async fn a_client_goes_with_its_handle_where_it_has_one() {
    let (service, detector, log) = watched([Plan::new().body(TestBody::new().data("a"))]);
    let (handle, later) = (detector.client(), detector.client());
    let clone = handle.clone();
    let body = service.send(get()).await.unwrap();
    let line = line!() - 1;
    drop((service, handle));
    assert_eq!(log.take(), [], "a clone is left");
    drop(clone);
    assert_eq!(log.take(), [(ms(0), "client_dropped", Some(line))]);
    drop(body);
    drop(later);
    assert_eq!(log.take().len(), 1, "abandoned; and nothing was open any more");
}

/// `oneshot` drops its client while the call is under way, as it should.
#[tokio::test(start_paused = true)]
async fn a_client_that_goes_before_its_answer_is_none() {
    let (client, detector, log) = watched([Plan::new().delay(ms(1_000)).body(TestBody::new().data("a"))]);
    let response = client.oneshot(get()).await.unwrap();
    response.into_body().collect().await.unwrap();
    assert_eq!(log.take(), []);
    detector.assert_no_leaks();
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_calls_that_behave_are_not_told() {
    let bodies = [TestBody::new(), TestBody::new().data("a"), TestBody::new().data("a").pending(2).data("b")];
    let (client, detector, log) = watched(bodies.map(|body| Plan::new().answers_after(2).body(body)));
    for call in 0..10_000_u64 {
        let response = client.send(get()).await.unwrap();
        if call % 100 == 0 {
            sleep(ms(9_999)).await;
        }
        response.into_body().collect().await.unwrap();
    }
    assert_eq!(log.take(), []);
    detector.assert_no_leaks();
    let stats = detector.stats();
    assert_eq!((stats.calls, stats.bodies, stats.held, stats.oldest), (0, 0, 0, None));
    assert_eq!(stats.totals, Default::default());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_held_for_too_long_is_reclaimed_where_that_is_wanted() {
    let log = Log::new();
    let (inner, probe) = Probe::pair([Plan::new().body(TestBody::new().data("01234").data("56789"))]);
    let (layer, detector) =
        LeakGuardLayer::builder().reclaim_after(ms(55_500)).callback(log.callback()).pair();
    let client = layer.layer(inner);
    let mut body = client.send(get()).await.unwrap().into_body();
    let line = line!() - 1;
    body.frame().await.unwrap().unwrap();
    sleep(ms(55_499)).await;
    assert_eq!(log.take(), [(ms(10_000), "held", Some(line))]);
    assert_eq!(probe.counts().bodies, 1);
    sleep(ms(1)).await;
    tokio::task::yield_now().await;
    assert_eq!(log.take(), [(ms(55_500), "reclaimed", Some(line))]);
    assert_eq!(probe.counts().bodies, 0, "and its connection with it");
    detector.assert_no_leaks();
    let stats = detector.stats();
    assert_eq!((stats.bodies, stats.held, stats.oldest), (0, 0, None), "nobody holds it any more");
    assert!(detector.witness().oldest(None).is_none());
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "timed out after 55.5 s reading the response body (reclaim_after)");
    assert!(body.frame().await.is_none());
    drop(body);
    assert_eq!(log.take(), [(ms(55_500), "returned", Some(line))]);
    detector.assert_no_leaks();

    let unnoticed = client.send(get()).await.unwrap();
    sleep(ms(60_000)).await;
    assert_eq!(log.take().len(), 2, "held, reclaimed");
    drop((client, detector));
    assert_eq!(log.take(), [], "it is neither forgotten nor left over from its client");
    drop(unnoticed);
}

/// Whichever limit is the shorter, and whenever the body came.
#[tokio::test(start_paused = true)]
async fn a_body_is_reclaimed_to_the_tick() {
    for (name, after, told) in [
        ("before it counts as held", ms(2_000), vec![(ms(2_500), "reclaimed")]),
        ("in that moment", ms(10_000), vec![(ms(10_500), "held"), (ms(10_500), "reclaimed")]),
        ("never", Duration::MAX, vec![(ms(10_500), "held")]),
    ] {
        let log = Log::new();
        let (layer, _detector) =
            LeakGuardLayer::builder().reclaim_after(after).callback(log.callback()).pair();
        let client = layer.layer(Probe::pair([Plan::new().delay(ms(500)).body(TestBody::new().data("a"))]).0);
        let body = client.send(get()).await.unwrap();
        sleep(ms(60_000)).await;
        let found: Vec<_> = log.take().into_iter().map(|(at, kind, _)| (at, kind)).collect();
        assert_eq!(found, told, "{name}");
        drop(body);
    }
}

/// Somebody polls it in the very moment in which it is due.
#[tokio::test(start_paused = true)]
async fn a_body_that_comes_back_in_time_is_not_reclaimed() {
    type Held = GuardedBody<Reclaimable<TestBody>>;
    let held: Arc<Mutex<Option<Held>>> = Arc::default();
    let (log, polled) = (Log::new(), held.clone());
    let tell = log.callback();
    let (layer, _detector) = LeakGuardLayer::builder()
        .reclaim_after(ms(10_000))
        .callback(move |leak| {
            tell(leak);
            if leak.kind() == "held" {
                now(polled.lock().unwrap().as_mut().unwrap().frame()).unwrap().unwrap();
            }
        })
        .pair();
    let client = layer.layer(Probe::pair([Plan::new().body(TestBody::new().data("a").data("b"))]).0);
    *held.lock().unwrap() = Some(client.send(get()).await.unwrap().into_body());
    sleep(ms(19_999)).await;
    let kinds: Vec<_> = log.take().into_iter().map(|(at, kind, _)| (at, kind)).collect();
    assert_eq!(kinds, [(ms(10_000), "held"), (ms(10_000), "returned")]);
    held.lock().unwrap().take();
}

/// Nothing runs while nothing is open.
#[tokio::test(start_paused = true)]
async fn the_sweep_ends_with_the_last_call() {
    let (client, _detector, log) = watched([Plan::new().body(TestBody::new().data("a"))]);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 0);
    for round in 0..3 {
        let body = client.send(get()).await.unwrap();
        assert_eq!(tasks(), 1, "round {round}");
        sleep(ms(100_000)).await;
        assert_eq!(tasks(), 1, "round {round}");
        drop(body);
        sleep(ms(10_000)).await;
        assert_eq!(tasks(), 0, "round {round}");
    }
    assert_eq!(log.take().len(), 9, "held, returned, abandoned");
}

#[tokio::test(start_paused = true)]
async fn the_sweep_ends_with_the_guard() {
    let (client, detector, _log) = watched([Plan::new().body(TestBody::new().data("a"))]);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let body = client.send(get()).await.unwrap();
    sleep(ms(1)).await;
    assert_eq!(tasks(), 1);
    drop((client, detector));
    tokio::task::yield_now().await;
    assert_eq!(tasks(), 0);
    drop(body);
}

/// A look at all calls that took 100 ms is followed by a rest of 900: what comes due meanwhile is told when that is over.
#[tokio::test(start_paused = true)]
async fn the_sweep_takes_a_tenth_of_the_time_at_most() {
    let log = Log::new();
    let tell = log.callback();
    let (layer, _detector) = LeakGuardLayer::builder()
        .callback(move |leak| {
            tell(leak);
            // The clock jumps at its first poll.
            let _ = futures_poll(std::pin::pin!(tokio::time::advance(ms(100))));
        })
        .pair();
    let client = layer.layer(Probe::pair([Plan::new().body(TestBody::new().data("a"))]).0);
    let mut bodies = vec![client.send(get()).await.unwrap()];
    for pause in [500, 600] {
        sleep(ms(pause)).await;
        bodies.push(client.send(get()).await.unwrap());
    }
    sleep(ms(60_000)).await;
    let found: Vec<_> = log.take().into_iter().map(|(at, kind, _)| (at, kind)).collect();
    // Due at 10, 10.5 and 11.1 s. The second look begins at 11.0 s, takes as long, and rests until 12.0 s.
    assert_eq!(found, [(ms(10_000), "held"), (ms(11_000), "held"), (ms(12_000), "held")]);
    drop(bodies);
}

/// Where everything is due at once, the task sleeps for a tick of the timer between looks: others run.
#[tokio::test(start_paused = true)]
async fn the_sweep_rests_for_a_tick_at_least() {
    let log = Log::new();
    let (layer, _detector) = LeakGuardLayer::builder().held(Duration::ZERO).callback(log.callback()).pair();
    let client = layer.layer(Probe::pair([Plan::new().body(TestBody::new().data("a"))]).0);
    let bodies = [client.send(get()).await.unwrap(), client.send(get()).await.unwrap()];
    tokio::task::yield_now().await;
    assert_eq!(log.take().len(), 2);
    let third = client.send(get()).await.unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(log.take(), [], "no time has passed");
    sleep(ms(1)).await;
    tokio::task::yield_now().await;
    assert_eq!(log.take().len(), 1);
    drop((bodies, third));
}

/// A callback must not panic. If it does, whoever ran it pays, and nobody else: no lock is poisoned, and the next call has a sweep again.
#[tokio::test(start_paused = true)]
async fn a_callback_that_panics_harms_no_other_call() {
    let log = Log::new();
    let (tell, panics) = (log.callback(), Arc::new(Mutex::new(true)));
    let may_panic = panics.clone();
    let (layer, detector) = LeakGuardLayer::builder()
        .callback(move |leak| {
            tell(leak);
            let panics = *may_panic.lock().unwrap();
            assert!(!panics, "for no good reason");
        })
        .pair();
    let client = layer.layer(Probe::pair([Plan::new().body(TestBody::new().data("a").data("b"))]).0);
    let body = client.send(get()).await.unwrap();
    sleep(ms(20_000)).await;
    assert_eq!(log.take().len(), 1, "the sweep has met its end");
    tokio::spawn(async move { drop(body) }).await.unwrap_err();
    detector.assert_no_leaks();
    assert_eq!(log.take().len(), 1, "returned, and nobody was left to tell of abandoned");

    *panics.lock().unwrap() = false;
    let body = client.send(get()).await.unwrap();
    sleep(ms(20_000)).await;
    drop(body);
    let kinds: Vec<_> = log.take().into_iter().map(|(_, kind, _)| kind).collect();
    assert_eq!(kinds, ["held", "returned", "abandoned"]);
    let totals = detector.stats().totals;
    assert_eq!((totals.held, totals.returned, totals.abandoned), (2, 2, 1));
}

/// Outside a runtime everything works but the sweep.
#[test]
fn no_runtime_is_needed_to_call_or_to_drop() {
    let (mut client, detector, log) = watched([Plan::new().body(TestBody::new().data("a"))]);
    let mut request = get();
    Exchange::track(&mut request);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(Service::<Request<TestBody>>::poll_ready(&mut client, &mut cx).is_ready());
    let call = client.call(request);
    assert_eq!(detector.snapshot().len(), 1);
    drop(call);
    detector.assert_no_leaks();
    assert_eq!(log.take(), []);
}

/// A runtime that ends takes the sweep with it; the next call starts one where it is.
#[test]
fn the_sweep_moves_to_another_runtime() {
    let (client, _detector, log) = watched([Plan::new().body(TestBody::new().data("a"))]);
    for _ in 0..2 {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let begun = Instant::now();
            let body = client.send(get()).await.unwrap();
            sleep(Duration::from_secs(3600)).await;
            assert_eq!(begun.elapsed(), Duration::from_secs(3600));
            drop(body);
        });
        let kinds: Vec<_> = log.take().into_iter().map(|(_, kind, _)| kind).collect();
        assert_eq!(kinds, ["held", "returned", "abandoned"]);
    }
}
