//! Names, kinds, units, boundaries and attributes, against the conventions as opentelemetry-semantic-conventions has them.

mod support;

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use opentelemetry::trace::SpanKind;
use opentelemetry_semantic_conventions::{attribute, metric};
use outbound_core::{Attempt, UrlTemplate};
use outbound_pool::{Pool, connect::Tcp};
use outbound_telemetry::ConnectionsLayer;
use outbound_testkit::{Answer, Hostile, Script, TestBody};
use support::{Told, get};
use tower::{Layer, ServiceExt, service_fn};

/// "HTTP client metrics" of the semantic conventions 1.42; `time_in_queue` is .NET's, which the conventions list apart.
#[tokio::test]
async fn metrics_are_the_conventions() {
    const TIME_IN_QUEUE: &str = "http.client.request.time_in_queue";
    let seconds: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
    let lifetimes: &[f64] = &[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
    let bytes: &[f64] = &[];
    let server = [attribute::SERVER_ADDRESS, attribute::SERVER_PORT];
    let request = [&server[..], &[attribute::HTTP_REQUEST_METHOD, attribute::URL_TEMPLATE]].concat();
    let ended = [
        &request[..],
        &[attribute::ERROR_TYPE, attribute::HTTP_RESPONSE_STATUS_CODE, attribute::NETWORK_PROTOCOL_VERSION],
    ]
    .concat();
    #[rustfmt::skip]
    let rows = [
        (metric::HTTP_CLIENT_REQUEST_DURATION,    "histogram",     "s",         seconds,   &ended[..],   "Duration of HTTP client requests."),
        (metric::HTTP_CLIENT_ACTIVE_REQUESTS,     "updowncounter", "{request}", &[],       &request[..], "Number of active HTTP requests."),
        (metric::HTTP_CLIENT_REQUEST_BODY_SIZE,   "histogram",     "By",        bytes,     &ended[..],   "Size of HTTP client request bodies."),
        (metric::HTTP_CLIENT_RESPONSE_BODY_SIZE,  "histogram",     "By",        bytes,     &ended[..],   "Size of HTTP client response bodies."),
        (metric::HTTP_CLIENT_CONNECTION_DURATION, "histogram",     "s",         lifetimes, &server[..],  "The duration of the successfully established outbound HTTP connections."),
        (TIME_IN_QUEUE,                           "histogram",     "s",         seconds,   &request[..], "The amount of time requests spent on a queue waiting for an available connection."),
    ];

    let told = Told::new();
    exchange(&told).await;
    let metrics = told.metrics();
    let names: BTreeSet<_> = metrics.keys().map(String::as_str).collect();
    assert_eq!(names, rows.iter().map(|row| row.0).collect(), "these and no others");
    for (name, kind, unit, bounds, attributes, description) in rows {
        let metric = &metrics[name];
        assert_eq!((metric.kind, &*metric.unit, &*metric.description), (kind, unit, description), "{name}");
        let [point] = &metric.points[..] else { panic!("{name}: one series") };
        if !bounds.is_empty() {
            assert_eq!(point.bounds, bounds, "{name}");
        }
        let keys = point.attributes.split(' ').map(|attribute| attribute.split_once('=').unwrap().0);
        assert_eq!(keys.collect::<BTreeSet<_>>(), attributes.iter().copied().collect(), "{name}");
    }
}

/// "HTTP client span" of the same.
#[tokio::test]
async fn the_span_is_the_conventions() {
    let told = Told::new();
    let port = exchange(&told).await;
    let [span] = &told.spans()[..] else { panic!("one span") };
    assert_eq!((&*span.name, &span.kind), ("PUT /users/{id}", &SpanKind::Client));
    let mut expected = [
        (attribute::ERROR_TYPE, "404"),
        (attribute::HTTP_REQUEST_BODY_SIZE, "5"),
        (attribute::HTTP_REQUEST_METHOD, "PUT"),
        (attribute::HTTP_REQUEST_RESEND_COUNT, "1"),
        (attribute::HTTP_RESPONSE_BODY_SIZE, "4"),
        (attribute::HTTP_RESPONSE_STATUS_CODE, "404"),
        (attribute::NETWORK_PEER_ADDRESS, "127.0.0.1"),
        (attribute::NETWORK_PEER_PORT, &port),
        (attribute::NETWORK_PROTOCOL_VERSION, "1.1"),
        (attribute::SERVER_ADDRESS, "127.0.0.1"),
        (attribute::SERVER_PORT, &port),
        (attribute::URL_FULL, &format!("http://127.0.0.1:{port}/users/7")),
        (attribute::URL_TEMPLATE, "/users/{id}"),
    ]
    .map(|(key, value)| format!("{key}={value}"));
    expected.sort();
    assert_eq!(span.attributes, expected);
}

/// `network.protocol.version`: "The value SHOULD be normalized to lowercase", `1.0`, `1.1`, `2`, `3`.
#[tokio::test(start_paused = true)]
async fn the_version_is_that_of_the_response() {
    for (version, expected) in [
        (Version::HTTP_09, "0.9"),
        (Version::HTTP_10, "1.0"),
        (Version::HTTP_11, "1.1"),
        (Version::HTTP_2, "2"),
        (Version::HTTP_3, "3"),
    ] {
        let told = Told::new();
        let answer = move |_: Request<TestBody>| async move {
            Response::builder().version(version).body(TestBody::new())
        };
        told.layer().layer(service_fn(answer)).oneshot(get("http://a.example/")).await.unwrap();
        let [span] = &told.spans()[..] else { panic!("{version:?}: one span") };
        assert_eq!(span.get(attribute::NETWORK_PROTOCOL_VERSION), Some(expected), "{version:?}");
        let told = told.only(metric::HTTP_CLIENT_REQUEST_DURATION).attributes;
        assert!(told.contains(&format!("network.protocol.version={expected} ")), "{version:?}: {told}");
    }
}

/// One exchange with everything on, over outbound's pool, until its socket has closed. Returns the port.
async fn exchange(told: &Told) -> String {
    let upstream = Hostile::new(Script::new().exchange(Answer::new(404, "none")).stall()).start();
    let connector = ConnectionsLayer::new(&told.meter()).layer(Tcp::new());
    let pool = Pool::builder().build(connector).unwrap();
    let mut request = Request::put(upstream.uri("/users/7")).body(Full::<Bytes>::from("hello")).unwrap();
    UrlTemplate::new("/users/{id}").attach(&mut request);
    Attempt::FIRST.next().attach(&mut request);
    let response = told.layer().body_sizes(true).layer(pool.clone()).oneshot(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "none");
    drop(pool);
    upstream.all_closed().await;
    upstream.addr().port().to_string()
}
