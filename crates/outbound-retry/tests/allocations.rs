//! What a call costs that succeeds at once.

use std::{
    future::{Future, Ready, ready},
    num::NonZeroU32,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use allocation_counter::measure;
use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use outbound_core::{BoxError, Deadline};
use outbound_retry::{
    Replay, RetryLayer,
    cool_down::{CoolDownLayer, WhileCooling},
    hedge::HedgeLayer,
};
use tower::{Layer, Service, ServiceBuilder};

/// Reads the whole request, and answers.
#[derive(Clone)]
struct Server;

impl Service<Request<Replay<Full<Bytes>>>> for Server {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Replay<Full<Bytes>>>) -> Self::Future {
        let mut body = request.into_body();
        while !body.is_end_stream() {
            assert!(pin!(body.frame()).poll(&mut Context::from_waker(Waker::noop())).is_ready());
        }
        ready(Ok(Response::new(Full::default())))
    }
}

fn allocations<L>(layer: &L, request: Request<Full<Bytes>>) -> u64
where
    L: Layer<Server>,
    L::Service: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = BoxError>,
{
    let mut service = layer.layer(Server);
    let mut cx = Context::from_waker(Waker::noop());
    let mut response = None;
    let counted = measure(|| {
        assert!(service.poll_ready(&mut cx).is_ready());
        let Poll::Ready(answer) = pin!(service.call(request)).poll(&mut cx) else { unreachable!() };
        response = Some(answer);
    });
    assert_eq!(response.unwrap().unwrap().status(), 200);
    counted.count_total
}

fn request(method: Method, body: &'static [u8], fields: usize, context: bool) -> Request<Full<Bytes>> {
    let uri: Uri = "http://example.com/a/path?and=a&query".parse().unwrap();
    let mut request = Request::builder().method(method).uri(uri).body(Full::from(body)).unwrap();
    for n in 0..fields {
        let name: http::HeaderName = format!("x-field-{n}").parse().unwrap();
        request.headers_mut().append(name, format!("its value, number {n}").parse().unwrap());
    }
    if context {
        Deadline::NEVER.tighten(&mut request);
    }
    request
}

#[test]
fn a_call_that_could_be_retried_costs_one_and_its_body_another() {
    // Tokio's clock needs a runtime; what a thread allocates once, it allocates here.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _guard = runtime.enter();
    let retry = RetryLayer::default();
    let once = RetryLayer::default().max_attempts(NonZeroU32::MIN);
    allocations(&retry, request(Method::GET, b"", 0, true));

    #[rustfmt::skip]
    let table = [
        ("GET",                          &retry, request(Method::GET, b"", 0, true),           1),
        ("GET with ten fields",          &retry, request(Method::GET, b"", 10, true),          1),
        ("PUT with a body",              &retry, request(Method::PUT, b"hello", 10, true),     2),
        ("POST with a body",             &retry, request(Method::POST, b"hello", 10, true),    2),
        ("GET, one attempt allowed",     &once,  request(Method::GET, b"", 10, true),          0),
        ("PUT, one attempt allowed",     &once,  request(Method::PUT, b"hello", 10, true),     0),
        ("bare, one attempt allowed",    &once,  request(Method::PUT, b"hello", 10, false),    0),
        ("CONNECT",                      &retry, request(Method::CONNECT, b"", 10, true),      0),
        // The entry in `http::Extensions`: a box, a table, and the entry. Made once for the whole stack.
        ("nobody has put context on it", &retry, request(Method::GET, b"", 10, false),         1 + 3),
        // Fields of more than some 400 bytes do not fit in.
        ("GET with a hundred fields",    &retry, request(Method::GET, b"", 100, true),         2),
    ];
    for (name, layer, request, expected) in table {
        assert_eq!(allocations(layer, request), expected, "{name}");
    }
}

#[test]
fn a_call_that_could_be_hedged_costs_one_and_one_that_could_not_none() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _guard = runtime.enter();
    let hedge = HedgeLayer::new(Duration::from_secs(1));
    for (name, request, expected) in [
        ("GET", request(Method::GET, b"", 10, true), 1),
        ("PUT with a body", request(Method::PUT, b"hello", 10, true), 0),
        ("POST", request(Method::POST, b"", 10, true), 0),
    ] {
        assert_eq!(allocations(&hedge, request), expected, "{name}");
    }
}

#[test]
fn a_call_passes_the_open_gate_for_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _guard = runtime.enter();
    let gate = CoolDownLayer::new(WhileCooling::Wait);
    let retry = ServiceBuilder::new().layer(RetryLayer::default()).layer(gate);
    // The second call to the origin: the first made its gate.
    allocations(&retry, request(Method::GET, b"", 10, true));
    assert_eq!(allocations(&retry, request(Method::GET, b"", 10, true)), 1, "retry's own");
}

#[test]
fn keeping_a_head_costs_less_than_cloning_it() {
    let request = request(Method::GET, b"", 10, true);
    let clone = measure(|| drop((request.headers().clone(), request.extensions().clone())));
    assert_eq!(clone.count_total, 2 + 10 + 10 + 3, "the map, its names and values, the extensions");
}

#[test]
fn a_response_is_not_burdened() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _guard = runtime.enter();
    let mut service = RetryLayer::default().layer(Server);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let request = request(Method::GET, b"", 0, true);
    let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(&mut cx) else { unreachable!() };
    assert!(response.extensions().is_empty());
}
