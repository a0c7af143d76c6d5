//! What every layer owes the service inside and the caller outside.

mod support;

use std::{convert::Infallible, fmt::Debug, future::Ready};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use outbound_guard::{
    GuardedBody, Leak, LeakDetector, LeakGuard, LeakGuardLayer, Observe, Reclaimable, Reclaiming,
    ResponseFuture, SendExt,
};
use outbound_testkit::{Plan, Probe, Scripted, TestBody, assert_body_contract, cancel_at_each_poll};
use support::*;
use tower::{Layer, ServiceExt};

#[tokio::test(start_paused = true)]
async fn the_readied_service_is_the_one_called() {
    let (layer, detector) = LeakGuardLayer::pair();
    let (inner, probe) = Probe::pair([Plan::new().ready_after(3).body(TestBody::new().data("a"))]);
    let service = layer.layer(inner);
    for round in 0..6 {
        let response = if round % 2 == 0 {
            service.clone().oneshot(get()).await.unwrap()
        } else {
            service.send(get()).await.unwrap()
        };
        response.into_body().collect().await.unwrap();
    }
    assert_eq!((probe.counts().calls, probe.counts().readied), (6, 6));
    probe.assert_idle();
    detector.assert_no_leaks();
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_service_pass_as_they_are() {
    for (name, plan) in
        [("not ready", Plan::new().readiness_error("broken")), ("not answered", Plan::new().error("broken"))]
    {
        let (service, detector, log) = watched([plan]);
        let error = service.send(get()).await.unwrap_err();
        assert!(error.is::<Scripted>(), "{name}: {error}");
        detector.assert_no_leaks();
        assert_eq!(log.take(), [], "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_is_let_go_at_once() {
    let answer = || TestBody::new().data("a").pending(2).data("b").delay(ms(5)).data("c");
    let (inner, probe) = Probe::pair([Plan::new().delay(ms(5)).answers_after(2).body(answer())]);
    let (layer, detector) = LeakGuardLayer::pair();
    let service = layer.layer(inner);
    let call = || async {
        let response = service.clone().oneshot(get()).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    };
    let read = cancel_at_each_poll(99, call, async |_| {
        probe.assert_idle();
        detector.assert_no_leaks();
    })
    .await;
    assert_eq!(read.unwrap(), "abc");
}

#[tokio::test(start_paused = true)]
async fn a_panic_inside_ends_the_call() {
    let (service, detector, log) = watched([Plan::new().body(TestBody::new().data("a").panic())]);
    let body = service.send(get()).await.unwrap().into_body();
    tokio::spawn(body.collect()).await.unwrap_err();
    assert_eq!(log.take().len(), 1, "abandoned");
    detector.assert_no_leaks();
}

#[tokio::test(start_paused = true)]
async fn the_body_is_the_body_inside() {
    let (layer, _detector) = LeakGuardLayer::pair();
    assert_body_contract(|body| {
        let service = layer.layer(Probe::pair([Plan::new().body(body)]).0);
        now(service.oneshot(get())).unwrap().into_body()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_may_be_reclaimed_is_the_body_inside() {
    let (layer, _detector) = LeakGuardLayer::builder().reclaim_after(ms(60_000)).pair();
    assert_body_contract(|body| {
        let service = layer.layer(Probe::pair([Plan::new().body(body)]).0);
        now(service.oneshot(get())).unwrap().into_body()
    })
    .await;
}

#[test]
fn nothing_keeps_them_from_other_threads() {
    fn send<T: Send>() {}
    fn cloned<T: Clone + Debug + Send + Sync>() {}
    type Body = Full<Bytes>;
    cloned::<(LeakGuardLayer, LeakGuardLayer<Reclaiming>, LeakGuard<Body>, LeakDetector, Leak, Observe)>();
    send::<(GuardedBody<Body>, GuardedBody<Reclaimable<Body>>)>();
    send::<ResponseFuture<Ready<Result<Response<Body>, Infallible>>, Observe>>();
}
