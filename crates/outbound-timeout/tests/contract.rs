//! What every layer owes the service inside and the caller outside.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use outbound_core::Elapsed;
use outbound_testkit::{Plan, Probe, Scripted, TestBody, cancel_at_each_poll};
use outbound_timeout::{
    DeadlineLayer, ResponseFuture, StallMonitor, Throughput, Timeout, TimeoutBody, TimeoutLayer, WithDeadline,
};
use tower::{ServiceBuilder, ServiceExt};

type Stack = WithDeadline<Timeout<Probe>>;

#[tokio::test(start_paused = true)]
async fn the_readied_service_is_the_one_called() {
    let (service, probe) = stack([Plan::new().ready_after(3)]);
    for _ in 0..3 {
        let response = service.clone().oneshot(Request::new(TestBody::new())).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    assert_eq!((probe.counts().calls, probe.counts().readied), (3, 3));
    probe.assert_idle();
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_service_pass_as_they_are() {
    for (name, plan) in
        [("not ready", Plan::new().readiness_error("broken")), ("not answered", Plan::new().error("broken"))]
    {
        let (service, _probe) = stack([plan]);
        let error = service.oneshot(Request::new(TestBody::new())).await.unwrap_err();
        assert!(error.is::<Scripted>(), "{name}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_is_let_go_at_once() {
    let answer = || TestBody::new().data("a").pending(2).data("b").delay(ms(5)).data("c");
    let (service, probe) = stack([Plan::new().delay(ms(5)).answers_after(2).body(answer())]);
    let call = || async {
        let response = service.clone().oneshot(Request::new(TestBody::new())).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    };
    let read = cancel_at_each_poll(99, call, async |_| probe.assert_idle()).await;
    assert_eq!(read.unwrap(), "abc");
}

/// The connection of a call that timed out goes then, and not when the caller drops what is left.
#[tokio::test(start_paused = true)]
async fn what_times_out_is_let_go_at_once() {
    let (service, probe) = stack([Plan::new().never_answers()]);
    let mut call = Box::pin(service.oneshot(Request::new(TestBody::new())));
    let error = (&mut call).await.unwrap_err();
    assert!(error.is::<Elapsed>(), "{error}");
    probe.assert_idle();
    drop(call);
}

#[test]
fn nothing_keeps_them_from_other_threads() {
    fn send<T: Send>() {}
    fn cloned<T: Clone + std::fmt::Debug + Send + Sync>() {}
    cloned::<(
        DeadlineLayer,
        TimeoutLayer,
        StallMonitor,
        Throughput,
        Timeout<Full<Bytes>>,
        WithDeadline<Full<Bytes>>,
    )>();
    send::<(ResponseFuture<std::future::Ready<Result<Response<()>, Infallible>>>, TimeoutBody<Full<Bytes>>)>(
    );
}

fn stack(plans: impl IntoIterator<Item = Plan>) -> (Stack, outbound_testkit::ProbeHandle) {
    let (inner, probe) = Probe::pair(plans);
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::new(ms(2000)))
        .layer(TimeoutLayer::new(ms(1000)))
        .service(inner);
    (service, probe)
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}
