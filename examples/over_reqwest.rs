//! Can I keep reqwest? `cargo run --example over_reqwest`
//!
//! Two lines make a `Service<Request<Body>>` of a `reqwest::Client`, and every layer stands on it: here a deadline, retries, a limit that counts
//! bodies, and a timeout. Redirects, cookies, TLS and connections stay reqwest's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use http::{Request, Response};
use outbound::{Attempt, BoxError, ClientExt, Failure, Kind, ResponseExt, ServiceBuilderExt, retry};
use outbound_examples::server::Server;
use tower::{ServiceBuilder, service_fn};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let requests = Arc::new(AtomicUsize::new(0));
    // Of three answers two are 503.
    let unsteady = async move || match requests.fetch_add(1, Relaxed) % 3 {
        2 => (StatusCode::OK, "hello"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
    };
    let slow = async || tokio::time::sleep(Duration::from_secs(60)).await;
    let server = Server::start(1, Router::new().route("/", get(unsteady)).route("/slow", get(slow)));

    let reqwest = reqwest::Client::new();
    let before = reqwest.get(server.url()).send().await?.text().await?;
    println!("before: {before}");
    assert_eq!(before, "busy");

    // The two lines: a request in, a response out.
    let service = service_fn(move |request: Request<_>| {
        let sending =
            reqwest::Request::try_from(request.map(reqwest::Body::wrap)).map(|it| reqwest.execute(it));
        async { Ok::<_, BoxError>(Response::<reqwest::Body>::from(sending?.await?)) }
    });
    let client = ServiceBuilder::new()
        .deadline(Duration::from_secs(2))
        .retries(retry::Standard::default())
        .concurrency(64)
        .attempt_timeout(Duration::from_millis(500))
        .service(service);

    let response = client.get(format!("{}/", server.url())).send().await?;
    let attempt = Attempt::of(&response).unwrap_or(Attempt::FIRST);
    let after = format!("{} at attempt {attempt}", response.text().await?);
    println!("after:  {after}");
    assert_eq!(after, "hello at attempt 2");

    let slow = client.get(format!("{}/slow", server.url())).send().await;
    let error = slow.expect_err("it takes a minute");
    let kind = Failure::of(&*error).kind();
    println!("slow:   {error} ({kind})");
    assert_eq!(kind, Kind::Timeout);
    Ok(())
}
