//! What is nobody's business is told to nobody.

mod support;

use http_body_util::BodyExt;
use outbound_testkit::{Plan, Probe, TestBody};
use support::{Told, get};
use tower::{Layer, ServiceExt};

const URI: &str = "https://user:secret@a.example/path?token=secret";

#[tokio::test(start_paused = true)]
async fn no_span_and_no_metric_has_userinfo_or_query() {
    let foreign = || format!("error sending request for {URI}");
    for (name, plan) in [
        ("answered", Plan::new().header("x-token", "secret")),
        ("failed", Plan::new().error_from(foreign)),
        ("failed in the body", Plan::new().body(TestBody::new().error("secret"))),
        ("an error", Plan::new().status(401).header("www-authenticate", "secret")),
    ] {
        let told = Told::new();
        let (inner, _probe) = Probe::pair([plan]);
        let mut request = get(URI);
        request.headers_mut().insert("authorization", "secret".parse().unwrap());
        if let Ok(response) = told.layer().body_sizes(true).layer(inner).oneshot(request).await {
            let _ = response.into_body().collect().await;
        }
        let all = format!("{:?} {:?}", told.spans(), told.metrics());
        assert!(!all.contains("secret") && !all.contains("token"), "{name}: {all}");
        let full = told.spans()[0].get("url.full").map(str::to_owned);
        assert_eq!(full.as_deref(), Some("https://REDACTED:REDACTED@a.example/path"), "{name}");
    }
}
