//! What every layer owes the service inside and the caller outside.

mod support;

use std::{
    convert::Infallible,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use outbound_core::BoxError;
use outbound_telemetry::{
    Connecting, Connections, ConnectionsLayer, Measured, ResponseFuture, Telemetry, TelemetryBody,
    TelemetryLayer, Watch,
};
use outbound_testkit::{Plan, Probe, Scripted, TestBody, assert_body_contract, cancel_at_each_poll};
use support::{Told, get, ms};
use tower::{Layer, ServiceExt, service_fn};

#[tokio::test(start_paused = true)]
async fn the_readied_service_is_the_one_called() {
    let (inner, probe) = Probe::pair([Plan::new().ready_after(3)]);
    let service = Told::new().layer().layer(inner);
    for _ in 0..3 {
        service.clone().oneshot(get("http://a.example/")).await.unwrap().into_body().collect().await.unwrap();
    }
    assert_eq!((probe.counts().calls, probe.counts().readied), (3, 3));
    probe.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_service_pass_as_they_are() {
    for (name, plan) in
        [("not ready", Plan::new().readiness_error("broken")), ("not answered", Plan::new().error("broken"))]
    {
        let (inner, _probe) = Probe::pair([plan]);
        let error = Told::new().layer().layer(inner).oneshot(get("http://a.example/")).await.unwrap_err();
        assert!(error.is::<Scripted>(), "{name}: {error}");
    }
}

/// Made ready and not called is no attempt.
#[tokio::test(start_paused = true)]
async fn what_is_not_called_is_not_told() {
    let told = Told::new();
    let (inner, _probe) = Probe::pair([Plan::new()]);
    let mut service = told.layer().layer(inner);
    ServiceExt::<Request<TestBody>>::ready(&mut service).await.unwrap();
    drop(service.clone());
    drop(service);
    assert_eq!((told.metrics().len(), told.spans().len()), (0, 0));
}

/// Off, it is the service inside, with a body of the same type as on: no header is added, nothing told, and nothing put on the request.
#[tokio::test(start_paused = true)]
async fn off_is_the_service_inside() {
    let told = Told::new();
    let off = TelemetryLayer::off();
    assert!(off.meter().is_none() && told.layer().meter().is_some());
    let mut services = vec![told.layer().layer(Probe::pair([Plan::new()]).0)];
    for plan in [Plan::new().body(TestBody::new().data("a").data("b")), Plan::new().error("broken")] {
        services.push(off.layer(Probe::pair([plan]).0));
    }
    let failing = services.pop().unwrap();
    assert!(failing.oneshot(get("http://a.example/")).await.unwrap_err().is::<Scripted>());
    let answered = services.pop().unwrap().oneshot(get("http://a.example/")).await.unwrap();
    assert_eq!(answered.into_body().collect().await.unwrap().to_bytes(), "ab");
    assert_eq!((told.metrics().len(), told.spans().len()), (0, 0));

    let bare = off.layer(service_fn(|request: Request<Full<Bytes>>| async move {
        assert!(request.headers().is_empty() && request.extensions().is_empty());
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    bare.oneshot(Request::new(Full::default())).await.unwrap();
    assert_body_contract(|body| {
        let mut call =
            Box::pin(off.layer(Probe::pair([Plan::new().body(body)]).0).oneshot(get("http://a.example/")));
        let Poll::Ready(response) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("it answers at once")
        };
        response.unwrap().into_body()
    })
    .await;
}

/// Wherever it is dropped: nothing is held, nothing is active, and it has been told once.
#[tokio::test(start_paused = true)]
async fn an_attempt_is_told_once_wherever_it_is_dropped() {
    let told = Told::new();
    let answer = || TestBody::new().data("a").pending(2).data("b").delay(ms(5)).data("c");
    let (inner, probe) = Probe::pair([Plan::new().delay(ms(5)).answers_after(2).body(answer())]);
    let service = told.layer().layer(inner);
    let call = || async {
        let response = service.clone().oneshot(get("http://a.example/")).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    };
    let read = cancel_at_each_poll(99, call, async |_| {
        probe.assert_idle();
        assert_eq!(told.active(), 0.0);
    })
    .await;
    assert_eq!(read.unwrap(), "abc");
    let calls = probe.counts().calls;
    assert_eq!((told.measured(), told.spans().len()), (calls, calls));
}

#[tokio::test(start_paused = true)]
async fn the_body_is_as_it_was() {
    let told = Told::new();
    let layer = told.layer().body_sizes(true);
    assert_body_contract(|body| {
        let (inner, _probe) = Probe::pair([Plan::new().body(body)]);
        let mut call = Box::pin(layer.layer(inner).oneshot(get("http://a.example/")));
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(response) = call.as_mut().poll(&mut cx) else { panic!("it answers at once") };
        response.unwrap().into_body()
    })
    .await;
}

#[test]
fn nothing_keeps_them_from_other_threads() {
    fn send<T: Send>() {}
    fn cloned<T: Clone + std::fmt::Debug + Send + Sync>() {}
    type Answer = std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>;
    cloned::<(TelemetryLayer, Telemetry<Full<Bytes>>, ConnectionsLayer, Connections<Full<Bytes>>)>();
    send::<(ResponseFuture<Answer>, TelemetryBody<Full<Bytes>>, Connecting<Answer>, Measured<Full<Bytes>>)>();
    send::<(Watch<Full<Bytes>>, BoxError)>();
}
