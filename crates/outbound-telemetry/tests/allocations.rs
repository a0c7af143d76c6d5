//! What an attempt allocates for being told of, beside the same attempt that is not.

use std::{
    convert::Infallible,
    pin::pin,
    task::{Context, Poll, Waker},
};

use allocation_counter::measure;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::{Empty, Full};
use opentelemetry::{
    Context as Trace,
    global::{get_text_map_propagator, set_text_map_propagator},
    metrics::MeterProvider as _,
    propagation::{Injector, TextMapCompositePropagator},
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::{
    metrics::{ManualReader, SdkMeterProvider},
    propagation::TraceContextPropagator,
};
use outbound_core::{Exchange, UrlTemplate};
use outbound_telemetry::TelemetryLayer;
use tower::{Layer, Service, service_fn};

#[test]
fn a_warm_attempt_allocates_nothing() {
    let meters = SdkMeterProvider::builder().with_reader(ManualReader::builder().build()).build();
    for (name, meter) in [("no SDK", opentelemetry::global::meter("none")), ("the SDK", meters.meter("test"))]
    {
        let mut service = TelemetryLayer::new(&meter).body_sizes(true).layer(answering());
        for (which, expected) in [("first", None), ("second", Some(0)), ("third", Some(0))] {
            let mut request = request("http://a.example/users/1");
            UrlTemplate::new("/users/{id}").attach(&mut request);
            Exchange::track(&mut request);
            let allocated = allocated(&mut service, request);
            assert!(expected.is_none_or(|expected| allocated == expected), "{name}, {which}: {allocated}");
        }
    }
}

#[test]
fn off_allocates_nothing() {
    let mut service = TelemetryLayer::off().layer(answering());
    assert_eq!(allocated(&mut service, request("http://a.example/")), 0);
}

/// The record of the exchange, which is one for all layers: by whoever comes first.
#[test]
fn what_travels_is_made_once() {
    let mut service = TelemetryLayer::new(&opentelemetry::global::meter("none")).layer(answering());
    allocated(&mut service, request("http://a.example/"));
    let record = measure(|| drop(Exchange::track(&mut request("http://a.example/")))).count_total
        - measure(|| drop(request("http://a.example/"))).count_total;
    assert_eq!(allocated(&mut service, request("http://a.example/")), record);
}

/// One host for each place is kept; of more than there are places, some cost a copy of their name per call, and no more.
#[test]
fn a_host_too_many_costs_one() {
    let mut service = TelemetryLayer::new(&opentelemetry::global::meter("none")).layer(answering());
    let mut round = || {
        let calls = (0..200).map(|host| {
            let mut request = request(&format!("http://{host}.example/"));
            Exchange::track(&mut request);
            allocated(&mut service, request)
        });
        calls.collect::<Vec<_>>()
    };
    round();
    let second = round();
    assert!(second.iter().all(|&allocated| allocated <= 1), "{second:?}");
    let kept = second.iter().filter(|&&allocated| allocated == 0).count();
    assert!((50..=64).contains(&kept), "{kept} of 64 places filled");
}

/// Two headers: the propagator makes a string of each, and the map makes room.
#[test]
fn a_trace_costs_its_headers() {
    let span = SpanContext::new(
        TraceId::from(7),
        SpanId::from(7),
        TraceFlags::SAMPLED,
        true,
        TraceState::from_key_value([("vendor", "1")]).unwrap(),
    );
    let _current = Trace::new().with_remote_span_context(span).attach();
    let mut service = TelemetryLayer::new(&opentelemetry::global::meter("none")).layer(answering());
    let tracked = || {
        let mut request = request("http://a.example/");
        Exchange::track(&mut request);
        request
    };
    allocated(&mut service, tracked());
    assert_eq!(allocated(&mut service, tracked()), 0, "no propagator");
    set_text_map_propagator(TraceContextPropagator::new());
    let written = measure(|| {
        let mut headers = Headers(HeaderMap::new());
        get_text_map_propagator(|propagator| propagator.inject(&mut headers));
    });
    let told = allocated(&mut service, tracked());
    set_text_map_propagator(TextMapCompositePropagator::new(Vec::new()));
    assert_eq!((told, written.count_total), (12, 12), "beside the plainest way to write them");
}

/// How many allocations one call through `service` makes, from the call to the end of the body.
fn allocated<S, B>(service: &mut S, request: Request<Empty<Bytes>>) -> u64
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error: std::fmt::Debug>,
    B: Body,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let mut request = Some(request);
    let counted = measure(|| {
        let mut call = pin!(service.call(request.take().expect("one call")));
        let Poll::Ready(response) = call.as_mut().poll(&mut cx) else { panic!("it answers at once") };
        let mut body = pin!(response.unwrap().into_body());
        let ready: [bool; 2] = std::array::from_fn(|_| body.as_mut().poll_frame(&mut cx).is_ready());
        assert_eq!(ready, [true, true]);
    });
    counted.count_total
}

fn request(uri: &str) -> Request<Empty<Bytes>> {
    Request::get(uri).body(Empty::new()).unwrap()
}

fn answering() -> impl Service<Request<Empty<Bytes>>, Response = Response<Full<Bytes>>, Error = Infallible> {
    service_fn(|_| async { Ok(Response::new(Full::from(Bytes::from_static(b"hello")))) })
}

struct Headers(HeaderMap);

impl Injector for Headers {
    fn set(&mut self, key: &str, value: String) {
        self.0.insert(HeaderName::try_from(key).unwrap(), HeaderValue::try_from(value).unwrap());
    }
}
