//! What came of an attempt, as metric and span tell it.

mod support;

use std::{io, pin::pin, time::Duration};

use http::{Method, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use opentelemetry::trace::{SpanKind, Status};
use outbound_core::{
    BoxError, CoolingDown, Elapsed, Exchange, Kind, Origin, Overloaded, Phase, Snapshot, TransportError,
    UrlTemplate,
};
use outbound_retry::RetryLayer;
use outbound_testkit::{Plan, Probe, TestBody};
use outbound_timeout::{DeadlineLayer, TimeoutLayer};
use support::{ACTIVE, DURATION, Told, get, ms};
use tokio::time::sleep;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

/// Semantic conventions, "HTTP spans": a client's span is an error from 400 on, with the status as its type.
#[tokio::test(start_paused = true)]
async fn a_status_is_an_error_from_400_on() {
    for (status, error_type) in [
        (200, None),
        (204, None),
        (302, None),
        (399, None),
        (400, Some("400")),
        (404, Some("404")),
        (499, Some("499")),
        (500, Some("500")),
        (503, Some("503")),
        (599, Some("599")),
        (600, None),
    ] {
        let told = Told::new();
        let body = TestBody::new().delay(ms(2)).data("x");
        let (inner, _probe) = Probe::pair([Plan::new().delay(ms(5)).status(status).body(body)]);
        let response = told.layer().layer(inner).oneshot(get("http://a.example/")).await.unwrap();
        assert_eq!(told.only(ACTIVE).value, 1.0, "{status}: the body has not ended");
        response.into_body().collect().await.unwrap();

        let error = error_type.map_or(String::new(), |error| format!("error.type={error} "));
        let duration = told.only(DURATION);
        assert_eq!(
            duration.attributes,
            format!(
                "{error}http.request.method=GET http.response.status_code={status} \
                 network.protocol.version=1.1 server.address=a.example server.port=80"
            ),
            "{status}"
        );
        assert_eq!((duration.count, duration.value), (1, 0.007), "{status}: the body counts");
        assert_eq!(told.only(ACTIVE).value, 0.0, "{status}");

        let [span] = &told.spans()[..] else { panic!("{status}: one span") };
        assert_eq!(span.get("error.type"), error_type, "{status}");
        assert_eq!(span.get("http.response.status_code"), Some(&*status.to_string()), "{status}");
        let expected = if error_type.is_some() { Status::error("") } else { Status::Unset };
        assert_eq!((&span.status, &span.kind), (&expected, &SpanKind::Client), "{status}");
    }
}

/// Before the head and within the body: the type is the failure's kind, and the line is told if it is one of ours.
#[tokio::test(start_paused = true)]
async fn a_failure_is_an_error_of_its_kind() {
    let origin = || Origin::of(&"http://a.example".parse().unwrap()).unwrap();
    let transport = || TransportError::new(Kind::Refused, Snapshot::from(&Exchange::new()));
    type Raise = Box<dyn Fn() -> outbound_core::BoxError + Send + Sync>;
    #[rustfmt::skip]
    let rows: [(&str, Raise, &str, bool); 6] = [
        ("timeout",      Box::new(|| Elapsed::new(Phase::Head, ms(10)).into()),              "timeout",    true),
        ("overloaded",   Box::new(|| Overloaded::new("limit", 5, 2).into()),                 "overloaded", true),
        ("cooling down", Box::new(move || CoolingDown::new(origin(), ms(2000)).into()),      "overloaded", true),
        ("transport",    Box::new(move || transport().because("it says secret").into()),     "refused",    true),
        ("foreign",      Box::new(|| io::Error::from(io::ErrorKind::ConnectionReset).into()), "reset",     false),
        ("unknown",      Box::new(|| "no idea, but https://a.example/?secret".into()),       "other",      false),
    ];
    for (name, raise, error_type, is_ours) in rows {
        let told = Told::new();
        let (inner, _probe) = Probe::pair([Plan::new().error_from(raise)]);
        let error = told.layer().layer(inner).oneshot(get("http://a.example/")).await.unwrap_err();
        let line = if is_ours { error.to_string() } else { String::new() };
        assert!(!line.contains("secret"), "{name}: {line}");
        let expected = format!(
            "error.type={error_type} http.request.method=GET server.address=a.example server.port=80"
        );
        assert_eq!(told.only(DURATION).attributes, expected, "{name}");
        assert_eq!(told.only(ACTIVE).value, 0.0, "{name}");
        let [span] = &told.spans()[..] else { panic!("{name}: one span") };
        assert_eq!(span.get("error.type"), Some(error_type), "{name}");
        assert_eq!(span.status, Status::error(line), "{name}");
    }
}

/// The head decides, unless the body fails where it had promised well.
#[tokio::test(start_paused = true)]
async fn how_the_body_ends_counts_too() {
    let body = || TestBody::new().data("ab").data("cd");
    #[rustfmt::skip]
    let rows = [
        ("read to its end",      200, body(),                       9, None),
        ("dropped unread",       200, body(),                       0, None),
        ("dropped half read",    200, body(),                       1, None),
        ("empty, never read",    200, TestBody::new(),              0, None),
        ("failed",               200, body().error("broken"),       9, Some("other")),
        ("an error, dropped",    503, body(),                       0, Some("503")),
        ("an error, and failed", 503, body().error("broken"),       9, Some("503")),
    ];
    for (name, status, body, frames, error_type) in rows {
        let told = Told::new();
        let (inner, _probe) = Probe::pair([Plan::new().status(status).body(body)]);
        let response = told.layer().layer(inner).oneshot(get("http://a.example/")).await.unwrap();
        {
            let mut body = pin!(response.into_body());
            for _ in 0..frames {
                let _ = body.frame().await;
            }
        }
        let [span] = &told.spans()[..] else { panic!("{name}: one span, once") };
        assert_eq!(span.get("error.type"), error_type, "{name}");
        assert_eq!((told.only(DURATION).count, told.only(ACTIVE).value), (1, 0.0), "{name}");
    }
}

/// With the last frame where the body says that it is, and before anybody asks where there is none.
#[tokio::test(start_paused = true)]
async fn the_end_is_told_before_the_caller_learns_of_it() {
    let told = Told::new();
    let (inner, _probe) = Probe::pair([Plan::new().body(TestBody::new().data("a").data("b")), Plan::new()]);
    let service = told.layer().layer(inner);
    let mut body = service.clone().oneshot(get("http://a.example/")).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(told.spans().len(), 0, "one more to come");
    body.frame().await.unwrap().unwrap();
    assert_eq!(told.spans().len(), 1, "the last");
    let body = service.oneshot(get("http://a.example/")).await.unwrap().into_body();
    assert_eq!((told.spans().len(), body.is_end_stream()), (2, true), "nothing to come");
}

/// Who stands outside gives the attempt up and has the error; what is told is no other. On the span too.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_its_deadline_ends_is_a_timeout() {
    let body = || TestBody::new().data("ab");
    #[rustfmt::skip]
    let rows = [
        ("no head",              Plan::new().never_answers(),                         Reads::All,     Some("timeout")),
        ("a body that stalls",   Plan::new().body(body().stall()),                    Reads::All,     Some("timeout")),
        ("a body without end",   Plan::new().body(body().endless("cd")),              Reads::Slowly,  Some("timeout")),
        ("an error that stalls", Plan::new().status(503).body(body().stall()),        Reads::All,     Some("503")),
        ("closed on the tick",   Plan::new().delay(ms(1000)).error_from(closed),      Reads::All,     None),
        ("kept, and dropped",    Plan::new().body(body().stall()),                    Reads::One,     None),
        ("kept unread",          Plan::new().body(body()),                            Reads::Nothing, None),
        ("ended on the tick",    Plan::new().body(body().delay(ms(1000)).data("cd")), Reads::All,     None),
    ];
    for (name, plan, reads, error_type) in rows {
        for is_limited in [false, true] {
            let told = Told::new();
            let (inner, _probe) = Probe::pair([plan.clone()]);
            let (deadline, telemetry) = (DeadlineLayer::new(ms(1000)), told.layer());
            if is_limited {
                let limited = TimeoutLayer::new(Duration::MAX).layer(inner);
                read(deadline.layer(telemetry.layer(limited)), reads).await;
            } else {
                read(deadline.layer(telemetry.layer(inner)), reads).await;
            }
            let name = format!("{name}, a timeout inside: {is_limited}");
            let [span] = &told.spans()[..] else { panic!("{name}: one span") };
            assert_eq!(span.get("error.type"), error_type, "{name}");
            assert_eq!(span.status != Status::Unset, error_type.is_some(), "{name}");
            let attributes = told.only(DURATION).attributes;
            assert_eq!(attributes.contains("error.type=timeout"), error_type == Some("timeout"), "{name}");
            assert_eq!(told.only(ACTIVE).value, 0.0, "{name}");
        }
    }
}

/// Of several attempts the last alone is too late; one that its caller gives up in time is not.
#[tokio::test(start_paused = true)]
async fn a_deadline_is_not_blamed_for_what_ended_before_it() {
    let told = Told::new();
    let (inner, _probe) = Probe::pair([Plan::new().status(503), Plan::new().never_answers()]);
    let layers = ServiceBuilder::new().layer(DeadlineLayer::new(ms(30_000))).layer(RetryLayer::default());
    layers.layer(told.layer()).service(inner).oneshot(get("http://a.example/")).await.map(drop).unwrap_err();
    let types = |told: &Told| {
        told.spans().iter().map(|span| span.get("error.type").map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(types(&told), [Some("503".to_owned()), Some("timeout".to_owned())]);

    let told = Told::new();
    let stalls = Plan::new().body(TestBody::new().stall());
    let (inner, _probe) = Probe::pair([Plan::new().never_answers(), stalls]);
    let service = DeadlineLayer::new(ms(1000)).layer(told.layer().layer(inner));
    for _ in 0..2 {
        let _ = tokio::time::timeout(ms(999), read(service.clone(), Reads::All)).await;
    }
    assert_eq!(types(&told), [None, None]);
}

/// How a caller reads.
#[derive(Clone, Copy)]
enum Reads {
    All,
    /// A frame each millisecond.
    Slowly,
    /// One frame, and holds the body for longer than it may take.
    One,
    /// Likewise, without the frame.
    Nothing,
}

async fn read<S, B>(service: S, reads: Reads)
where
    S: Service<Request<TestBody>, Response = Response<B>, Error = BoxError>,
    B: Body,
{
    let Ok(response) = service.oneshot(get("http://a.example/")).await else { return };
    let mut body = pin!(response.into_body());
    while !matches!(reads, Reads::Nothing) && matches!(body.frame().await, Some(Ok(_))) {
        match reads {
            Reads::Slowly => sleep(ms(1)).await,
            Reads::One => break,
            _ => {}
        }
    }
    if let Reads::One | Reads::Nothing = reads {
        sleep(ms(2000)).await;
    }
}

fn closed() -> TransportError {
    TransportError::new(Kind::Canceled, Snapshot::from(&Exchange::new()))
}

/// Nobody erred: no status, no type, and nothing is active any more.
#[tokio::test(start_paused = true)]
async fn a_cancelled_call_is_no_error() {
    let told = Told::new();
    let (inner, probe) = Probe::pair([Plan::new().never_answers(), Plan::new().error_from(closed)]);
    let service = told.layer().layer(inner);
    tokio::time::timeout(ms(30), service.clone().oneshot(get("http://a.example/"))).await.unwrap_err();
    service.oneshot(get("http://a.example/")).await.unwrap_err();
    probe.assert_idle();

    let duration = told.only(DURATION);
    assert_eq!(duration.attributes, "http.request.method=GET server.address=a.example server.port=80");
    assert_eq!((duration.count, duration.value), (2, 0.03));
    assert_eq!(told.only(ACTIVE).value, 0.0);
    for span in told.spans() {
        assert_eq!((&span.status, span.get("error.type")), (&Status::Unset, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_is_told_as_far_as_it_can_be() {
    #[rustfmt::skip]
    let rows = [
        ("a method",        "GET",  "http://a.example/x",          None,         "GET",           "http.request.method=GET server.address=a.example server.port=80"),
        ("https",           "PUT",  "https://a.example/x",         None,         "PUT",           "http.request.method=PUT server.address=a.example server.port=443"),
        ("a port",          "GET",  "http://A.example:8080/x",     None,         "GET",           "http.request.method=GET server.address=a.example server.port=8080"),
        ("IPv6",            "GET",  "http://[::1]:8080/x",         None,         "GET",           "http.request.method=GET server.address=::1 server.port=8080"),
        ("QUERY",           "QUERY","http://a.example/x",          None,         "QUERY",         "http.request.method=QUERY server.address=a.example server.port=80"),
        ("unknown method",  "BREW", "http://a.example/x",          None,         "HTTP",          "http.request.method=_OTHER server.address=a.example server.port=80"),
        ("lower case",      "get",  "http://a.example/x",          None,         "HTTP",          "http.request.method=_OTHER server.address=a.example server.port=80"),
        ("a template",      "GET",  "http://a.example/users/1",    Some(USERS),  "GET /users/{id}", "http.request.method=GET server.address=a.example server.port=80 url.template=/users/{id}"),
        ("no origin",       "GET",  "/x",                          None,         "GET",           "http.request.method=GET"),
    ];
    for (name, method, uri, template, span_name, attributes) in rows {
        let told = Told::new();
        let (inner, _probe) = Probe::pair([Plan::new()]);
        let mut request: Request<TestBody> = get(uri);
        *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
        if let Some(template) = template {
            template.attach(&mut request);
        }
        told.layer().layer(inner).oneshot(request).await.unwrap();
        assert_eq!(told.only(ACTIVE).attributes, attributes, "{name}");
        let [span] = &told.spans()[..] else { panic!("{name}: one span") };
        assert_eq!(span.name, span_name, "{name}");
        let original = (span_name == "HTTP").then_some(method);
        assert_eq!(span.get("http.request.method_original"), original, "{name}");
        for attribute in attributes.split(' ') {
            assert!(span.attributes.iter().any(|it| it == attribute), "{name}: {attribute} in {span:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn known_methods_can_be_others() {
    let told = Told::new();
    let (inner, _probe) = Probe::pair([Plan::new()]);
    let service = told.layer().known_methods(&["BREW"]).layer(inner);
    for method in ["BREW", "GET"] {
        let mut request = get("http://a.example/");
        *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
        service.clone().oneshot(request).await.unwrap();
    }
    let names: Vec<_> = told.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["BREW", "HTTP"]);
}

#[tokio::test(start_paused = true)]
async fn sizes_are_told_where_they_are_certain() {
    let sized = || TestBody::new().data("0123").data("45");
    #[rustfmt::skip]
    let rows = [
        ("both",               true,  sized(),                 Plan::new().body(sized()),                     9, Some(6.0), Some(6.0)),
        ("not asked for",      false, sized(),                 Plan::new().body(sized()),                     9, None,      None),
        ("upload unsized",     true,  sized().unsized_hint(),  Plan::new().body(TestBody::new()),             9, None,      Some(0.0)),
        ("no answer",          true,  sized(),                 Plan::new().error("broken"),                   9, None,      None),
        ("half read",          true,  sized(),                 Plan::new().body(sized()),                     1, Some(6.0), None),
        ("failed",             true,  sized(),                 Plan::new().body(sized().error("broken")),     9, Some(6.0), None),
        ("length unannounced", true,  TestBody::new(),         Plan::new().body(sized().unsized_hint()),      9, Some(0.0), Some(6.0)),
    ];
    for (name, asked, upload, plan, frames, sent, received) in rows {
        let told = Told::new();
        let (inner, _probe) = Probe::pair([plan]);
        let request = Request::post("http://a.example/").body(upload).unwrap();
        if let Ok(response) = told.layer().body_sizes(asked).layer(inner).oneshot(request).await {
            let mut body = pin!(response.into_body());
            for _ in 0..frames {
                let _ = body.frame().await;
            }
        }
        let metrics = told.metrics();
        let [span] = &told.spans()[..] else { panic!("{name}: one span") };
        for (part, size) in [("request", sent), ("response", received)] {
            let metric = metrics.get(&format!("http.client.{part}.body.size"));
            assert_eq!(metric.map(|metric| metric.points[0].value), size, "{name}: {part}");
            let size = size.map(|size| size.to_string());
            assert_eq!(span.get(&format!("http.{part}.body.size")), size.as_deref(), "{name}: {part}");
        }
    }
}

const USERS: UrlTemplate = UrlTemplate::new("/users/{id}");
