//! The trace goes on at the peer, unless the caller has said which.

mod support;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use opentelemetry::{
    Context,
    global::set_text_map_propagator,
    trace::{FutureExt, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use outbound_retry::{RetryLayer, Standard};
use outbound_telemetry::{RemoteContextLayer, TelemetryLayer};
use outbound_testkit::{Plan, Probe};
use support::{Told, get, ms};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

/// Where no spans are collected, what is current goes out as it is.
#[tokio::test(start_paused = true)]
async fn the_current_context_goes_out() {
    w3c();
    let meter = opentelemetry::global::meter("none");
    let (inner, probe) = Probe::pair([Plan::new()]);
    let service = TelemetryLayer::new(&meter).layer(inner);
    service.oneshot(get("http://a.example/")).with_context(remote()).await.unwrap();
    assert_eq!(header(&probe.requests()[0], "traceparent"), Some(REMOTE));
    assert_eq!(header(&probe.requests()[0], "tracestate"), Some("vendor=1"));
}

/// Where they are, the peer's parent is the attempt's own span, and that one's is what was current.
#[tokio::test(start_paused = true)]
async fn each_attempt_is_a_parent_of_its_own() {
    w3c();
    let told = Told::new();
    let (inner, probe) = Probe::pair([Plan::new().status(503), Plan::new()]);
    let service =
        ServiceBuilder::new().layer(RetryLayer::new(Standard::default())).layer(told.layer()).service(inner);
    service.oneshot(get("http://a.example/")).with_context(remote()).await.unwrap();
    let sent: Vec<_> =
        probe.requests().iter().map(|request| header(request, "traceparent").unwrap().to_owned()).collect();
    let spans = told.spans();
    let expected: Vec<_> = spans.iter().map(|span| format!("00-{}-{}-01", span.trace, span.id)).collect();
    assert_eq!((sent.len(), sent), (2, expected));
    for span in &spans {
        assert_eq!((&*span.trace, &*span.parent), (&REMOTE[3..35], &REMOTE[36..52]));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_caller_wrote_stays() {
    w3c();
    let told = Told::new();
    let mine = "00-11111111111111111111111111111111-2222222222222222-00";
    for (name, injected, written, expected) in [
        ("a parent", true, [Some(mine), None], [Some(mine), None]),
        ("parent and state", true, [Some(mine), Some("mine=2")], [Some(mine), Some("mine=2")]),
        ("turned off", false, [None, None], [None, None]),
        ("off, and a parent", false, [Some(mine), None], [Some(mine), None]),
    ] {
        let (inner, probe) = Probe::pair([Plan::new()]);
        let mut request = get("http://a.example/");
        for (name, value) in NAMES.into_iter().zip(written) {
            request
                .headers_mut()
                .extend(value.map(|value| (HeaderName::from_static(name), HeaderValue::from_static(value))));
        }
        let service = told.layer().trace_context(injected).layer(inner);
        service.oneshot(request).with_context(remote()).await.unwrap();
        let sent = &probe.requests()[0];
        assert_eq!(NAMES.map(|name| header(sent, name)), expected, "{name}");
    }
}

/// No state, no header for it: an empty one says as much. No trace, none at all.
#[tokio::test(start_paused = true)]
async fn nothing_is_made_up() {
    w3c();
    {
        let told = Told::new();
        let (inner, probe) = Probe::pair([Plan::new()]);
        told.layer().layer(inner).oneshot(get("http://a.example/")).await.unwrap();
        assert_eq!(NAMES.map(|name| probe.requests()[0].headers().contains_key(name)), [true, false]);
    }
    let meter = opentelemetry::global::meter("none");
    let (inner, probe) = Probe::pair([Plan::new()]);
    let service = TelemetryLayer::new(&meter).layer(inner);
    service.oneshot(get("http://a.example/")).await.unwrap();
    assert_eq!(probe.requests()[0].headers().len(), 0);
}

/// In a server: what the request brought is current while it is answered, and only then.
#[tokio::test(start_paused = true)]
async fn an_inbound_context_is_current_while_it_is_answered() {
    w3c();
    let told = Told::new();
    let (inner, probe) = Probe::pair([Plan::new().delay(ms(5))]);
    let client = told.layer().layer(inner);
    let server = RemoteContextLayer::new().layer(service_fn(move |_: Request<()>| {
        let client = client.clone();
        async move {
            tokio::task::yield_now().await;
            client.oneshot(get("http://a.example/")).await
        }
    }));
    // A list may come in several fields (W3C Trace Context, 3.3).
    let inbound = Request::builder().header("traceparent", REMOTE);
    let inbound = inbound.header("tracestate", "vendor=1").header("tracestate", "other=2").body(()).unwrap();
    let (first, second) = tokio::join!(server.clone().oneshot(inbound), server.oneshot(Request::new(())));
    first.unwrap();
    second.unwrap();
    let spans = told.spans();
    let parents: Vec<_> = spans.iter().map(|span| (&*span.trace, &*span.parent)).collect();
    let of_remote = (&REMOTE[3..35], &REMOTE[36..52]);
    let is_of_remote = |&&parent: &&_| parent == of_remote;
    assert_eq!((parents.len(), parents.iter().filter(is_of_remote).count()), (2, 1), "one is of no trace");
    let mut states: Vec<_> =
        probe.requests().iter().map(|it| header(it, "tracestate").map(str::to_owned)).collect();
    states.sort();
    assert_eq!(states, [None, Some("vendor=1,other=2".to_owned())]);
    assert!(!Context::current().has_active_span());
}

/// Global, and the same for every test here.
fn w3c() {
    set_text_map_propagator(TraceContextPropagator::new());
}

/// The context of a call that came in from elsewhere.
fn remote() -> Context {
    let span = SpanContext::new(
        TraceId::from_hex(&REMOTE[3..35]).unwrap(),
        SpanId::from_hex(&REMOTE[36..52]).unwrap(),
        TraceFlags::SAMPLED,
        true,
        TraceState::from_key_value([("vendor", "1")]).unwrap(),
    );
    Context::new().with_remote_span_context(span)
}

fn header<'a>(request: &'a Request<Bytes>, name: &str) -> Option<&'a str> {
    request.headers().get(name).map(|value| value.to_str().unwrap())
}

const NAMES: [&str; 2] = ["traceparent", "tracestate"];
const REMOTE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
