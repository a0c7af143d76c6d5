//! What a call costs when nobody is in its way.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use allocation_counter::measure;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use outbound_limit::{AdaptiveLimitLayer, ConcurrencyLimitLayer, Gradient2, RateLimitLayer, Windowed};
use tower::{Layer, Service};

type Answer = Result<Response<Full<Bytes>>, Infallible>;

/// Answers with a body of one frame, and allocates nothing.
fn inner() -> impl Service<
    Request<()>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future = std::future::Ready<Answer>,
> + Clone {
    tower::service_fn(|_| ready(Ok(Response::new(Full::new(Bytes::from_static(b"body"))))))
}

/// The allocations of one call, its response body dropped at the end.
fn allocations<S: Service<Request<()>>>(service: &mut S, request: Request<()>) -> u64 {
    let mut cx = Context::from_waker(Waker::noop());
    measure(|| {
        assert!(service.poll_ready(&mut cx).is_ready());
        let response = pin!(service.call(request)).poll(&mut cx);
        assert!(matches!(response, Poll::Ready(Ok(_))));
    })
    .count_total
}

fn to(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

#[test]
fn one_limit_for_all_costs_none() {
    let mut service = ConcurrencyLimitLayer::new(1).layer(inner());
    let first = allocations(&mut service, to("http://a.example/"));
    let second = allocations(&mut service, to("http://a.example/"));
    assert_eq!((first, second), (0, 0));
}

#[tokio::test]
async fn nor_does_one_that_is_learnt() {
    let mut service = AdaptiveLimitLayer::new(Windowed::new(Gradient2::default())).layer(inner());
    let calls: u64 = (0..100).map(|_| allocations(&mut service, to("http://a.example/"))).sum();
    assert_eq!(calls, 0);
}

#[test]
fn nor_does_a_rate() {
    let mut service = RateLimitLayer::new(100, Duration::from_secs(1)).unwrap().layer(inner());
    let calls: u64 = (0..100).map(|_| allocations(&mut service, to("http://a.example/"))).sum();
    assert_eq!(calls, 0);
}

#[test]
fn a_limit_per_origin_costs_one_for_a_key_that_is_not_in_use_and_none_for_one_that_is() {
    let mut service = ConcurrencyLimitLayer::new(2).per_origin().layer(inner());
    let mut cx = Context::from_waker(Waker::noop());
    let mut held = Vec::with_capacity(50);
    for index in 0..50 {
        let uri = format!("http://{index}.example/");
        let (first, second) = (to(&uri), to(&uri));
        let mut response = None;
        let seen = measure(|| response = Some(service.call(first))).count_total;
        assert_eq!(seen, 1, "first call of key {index}");
        let Poll::Ready(Ok(response)) = pin!(response.unwrap()).poll(&mut cx) else {
            panic!("answers at once")
        };
        held.push(response);
        assert_eq!(allocations(&mut service, second), 0, "second call of key {index}");
    }
    drop(held);
    assert_eq!(allocations(&mut service, to("http://0.example/")), 1, "forgotten, and met again");
}
