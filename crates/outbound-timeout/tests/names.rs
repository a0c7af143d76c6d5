//! What the line of a limit that ran out says of its call where nobody below reports: where it went, and which attempt it was.

use std::{convert::Infallible, future::pending, time::Duration};

use http::{Request, Response};
use http_body_util::BodyExt;
use outbound_core::{Attempt, Deadline, Failure};
use outbound_testkit::{Plan, Probe, TestBody};
use outbound_timeout::{DeadlineLayer, TimeoutLayer};
use tower::{Layer, Service, ServiceExt, service_fn};

const HALF: Duration = Duration::from_millis(500);

fn third(uri: &str) -> Request<TestBody> {
    let mut request = Request::get(uri).body(TestBody::new()).unwrap();
    Attempt::FIRST.next().next().attach(&mut request);
    request
}

#[tokio::test(start_paused = true)]
async fn it_says_where_the_request_went_and_which_attempt_it_was() {
    const SECRETS: &str = "http://user:secret@A.example:8080/secret?secret";
    let silent = || Probe::pair([Plan::new().never_answers()]).0;
    let stuck = || Probe::pair([Plan::new().body(TestBody::new().data("a").stall())]).0;
    let first = || Request::get(SECRETS).body(TestBody::new()).unwrap();
    let past = || {
        let mut request = third(SECRETS);
        Deadline::after(Duration::ZERO).tighten(&mut request);
        request
    };
    let timeout = TimeoutLayer::new(HALF);
    let deadline = DeadlineLayer::new(HALF);
    let head = "http://a.example:8080: timed out after 500 ms waiting for the response head";
    let body = "http://a.example:8080: timed out after 500 ms reading the response body";
    #[rustfmt::skip]
    let rows = [
        ("the first",          timeout.layer(silent()),  first(),                   head.to_owned()),
        ("the third",          timeout.layer(silent()),  third(SECRETS),            format!("{head}, attempt 3")),
        ("its body",           timeout.layer(stuck()),   third(SECRETS),            format!("{body} (read-idle), attempt 3")),
        ("nothing was sent",   timeout.layer(silent()),  past(),                    "http://a.example:8080: timed out after 0 s waiting for its turn (deadline), attempt 3".to_owned()),
        ("https",              timeout.layer(silent()),  third("https://a.example"), format!("{}, attempt 3", head.replace("http:", "https:").replace(":8080", ""))),
        ("no origin",          timeout.layer(silent()),  third("/path"),            "timed out after 500 ms waiting for the response head, attempt 3".to_owned()),
    ];
    for (name, service, request, expected) in rows {
        let error = match service.oneshot(request).await {
            Ok(response) => response.into_body().collect().await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.to_string(), expected, "{name}");
        let failure = Failure::of(&*error);
        assert_eq!(failure.origin().is_some(), name != "no origin", "{name}");
        assert_eq!(
            failure.attempt().map_or(1, Attempt::number),
            if name == "the first" { 1 } else { 3 },
            "{name}"
        );
        assert!(!format!("{error:?}").contains("secret"), "{name}: {error:?}");
    }
    let error = deadline.layer(silent()).oneshot(first()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{head} (deadline)"));
    let mut service =
        timeout.layer(service_fn(|_: Request<TestBody>| pending::<Result<Response<()>, Infallible>>()));
    let debug = format!("{:?}", service.call(third(SECRETS)));
    assert!(debug.contains("http://a.example:8080") && !debug.contains("secret"), "{debug}");
}
