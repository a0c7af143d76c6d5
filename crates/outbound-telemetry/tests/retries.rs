//! Under a retry layer: each attempt is a span of its own.

mod support;

use opentelemetry_semantic_conventions::attribute::HTTP_REQUEST_RESEND_COUNT;
use outbound_core::UrlTemplate;
use outbound_retry::{RetryLayer, Standard};
use outbound_testkit::{Plan, Probe};
use support::{Told, get};
use tower::{ServiceBuilder, ServiceExt};

#[tokio::test(start_paused = true)]
async fn resends_are_counted_from_the_second_attempt_on() {
    let told = Told::new();
    let (inner, probe) = Probe::pair([Plan::new().status(503), Plan::new().status(503), Plan::new()]);
    let service =
        ServiceBuilder::new().layer(RetryLayer::new(Standard::default())).layer(told.layer()).service(inner);
    let mut request = get("http://a.example/users/1");
    UrlTemplate::new("/users/{id}").attach(&mut request);
    service.oneshot(request).await.unwrap();
    assert_eq!(probe.counts().calls, 3);

    let spans = told.spans();
    let told_of = |key| spans.iter().map(|span| span.get(key)).collect::<Vec<_>>();
    assert_eq!(told_of(HTTP_REQUEST_RESEND_COUNT), [None, Some("1"), Some("2")]);
    assert_eq!(told_of("http.response.status_code"), [Some("503"), Some("503"), Some("200")]);
    assert_eq!(told_of("url.template"), [Some("/users/{id}"); 3], "each attempt is told of it");

    assert_eq!((told.measured(), told.active()), (3, 0.0));
}
