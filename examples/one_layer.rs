//! How do I add one thing to the Tower client I have? `cargo run --example one_layer`
//!
//! An app that calls others through hyper-util's client and tower's own layers gets retries within a budget, and nothing else changes:
//! the limit and the timeout stay tower's, the client stays hyper-util's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy, rt::TokioExecutor};
use outbound::{Attempt, BoxError, RetryLayer};
use outbound_examples::server::Server;
use tower::{Service, ServiceBuilder, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let requests = Arc::new(AtomicUsize::new(0));
    // Of three answers two are 503.
    let unsteady = async move || match requests.fetch_add(1, Relaxed) % 3 {
        2 => (StatusCode::OK, "hello"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
    };
    let server = Server::start(1, Router::new().route("/", get(unsteady)));

    let before = ServiceBuilder::new()
        .concurrency_limit(8)
        .map_err(BoxError::from)
        .timeout(Duration::from_secs(5))
        .service(legacy::Client::builder(TokioExecutor::new()).build_http());
    let after = ServiceBuilder::new()
        .layer(RetryLayer::default()) // the one line that is new
        .concurrency_limit(8)
        .map_err(BoxError::from)
        .timeout(Duration::from_secs(5))
        .service(legacy::Client::builder(TokioExecutor::new()).build_http());

    let before = ask(before, &server).await?;
    println!("before: {before}");
    let after = ask(after, &server).await?;
    println!("after:  {after}");
    assert_eq!(before, r#"503 Service Unavailable b"busy" at attempt 1"#);
    assert_eq!(after, r#"200 OK b"hello" at attempt 2"#);
    Ok(())
}

/// Asks once.
async fn ask<S, B>(client: S, server: &Server) -> Result<String, BoxError>
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = BoxError>,
    B: http_body::Body<Error: Into<BoxError>>,
{
    let response = client.oneshot(Request::get(server.url()).body(Empty::new())?).await?;
    let (status, attempt) = (response.status(), Attempt::of(&response).unwrap_or(Attempt::FIRST));
    let body = response.into_body().collect().await.map_err(Into::into)?.to_bytes();
    Ok(format!("{status} {body:?} at attempt {attempt}"))
}
