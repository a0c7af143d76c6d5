//! Over real clients and real sockets.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use outbound_core::{Attempt, BoxError, Failure, GaveUp, Idempotent, Kind, Retries};
use outbound_retry::{Backoff, Replay, RetryLayer, Standard};
use outbound_testkit::{Answer, Friendly, Hostile, Refusal, Script, Upload};
use tower::{Layer, Service, ServiceExt, service_fn};

type Answered = (u16, u32, Bytes);

fn layer() -> RetryLayer {
    let none = Backoff::new(Duration::ZERO, Duration::ZERO).unwrap();
    // These sockets are real: time enough for a busy machine.
    RetryLayer::new(Standard::default().backoff(none)).drain(65_536, Duration::MAX)
}

fn legacy() -> Client<HttpConnector, Replay<Full<Bytes>>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// reqwest has requests and responses of its own: each way is one line.
fn with_reqwest()
-> impl Service<Request<Replay<Full<Bytes>>>, Response = Response<reqwest::Body>, Error = BoxError, Future: Send>
+ Clone
+ Send {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    service_fn(move |request: Request<Replay<Full<Bytes>>>| {
        let client = client.clone();
        async move {
            let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap))?;
            Ok(Response::from(client.execute(request).await?))
        }
    })
}

async fn send<S, R>(service: S, request: Request<Full<Bytes>>) -> Result<Answered, BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error = BoxError>,
    R: Body<Error: Into<BoxError>>,
{
    let response = service.oneshot(request).await?;
    let attempt = Attempt::of(&response).unwrap_or(Attempt::FIRST).number();
    let status = response.status().as_u16();
    Ok((status, attempt, response.into_body().collect().await.map_err(Into::into)?.to_bytes()))
}

/// Sends the same request with both clients, each to an upstream of its own.
async fn with_both<F>(upstream: F, request: impl Fn(http::Uri) -> Request<Full<Bytes>>) -> [Outcome; 2]
where
    F: Fn() -> outbound_testkit::Upstream,
{
    let (one, two) = (upstream(), upstream());
    let first = send(layer().layer(legacy()), request(one.uri("/path"))).await;
    let second = send(layer().layer(with_reqwest()), request(two.uri("/path"))).await;
    [("legacy", first, one), ("reqwest", second, two)]
}

type Outcome = (&'static str, Result<Answered, BoxError>, outbound_testkit::Upstream);

fn request(method: Method, body: &'static str) -> impl Fn(http::Uri) -> Request<Full<Bytes>> {
    move |uri| Request::builder().method(&method).uri(uri).body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn a_failed_response_is_drained_and_its_connection_used_again() {
    let upstream = || {
        // The body is on its way when the head arrives: dropped now, it would take the connection with it.
        let failure = Answer::new(503, vec![b'x'; 20_000]).to_bytes();
        let (now, later) = (failure.slice(..1000), failure.slice(1000..));
        let script = Script::new().read_head().write(now).delay(Duration::from_millis(20)).write(later);
        Hostile::new(script.exchange(Answer::new(200, "ok")).close()).start()
    };
    for (client, result, upstream) in with_both(upstream, request(Method::GET, "")).await {
        assert_eq!(result.unwrap(), (200, 2, "ok".into()), "{client}");
        let requests = upstream.requests(2).await;
        assert_eq!(requests[1].connection, 0, "{client}: the same connection");
    }
}

#[tokio::test]
async fn a_put_arrives_whole_each_time() {
    let upstream = || {
        let script =
            Script::new().exchange(Answer::new(503, "sorry")).exchange(Answer::new(200, "ok")).close();
        Hostile::new(script).start()
    };
    for (client, result, upstream) in with_both(upstream, request(Method::PUT, "hello")).await {
        assert_eq!(result.unwrap(), (200, 2, "ok".into()), "{client}");
        for received in upstream.requests(2).await {
            assert_eq!(
                (received.body.as_slice(), received.complete),
                (b"hello".as_slice(), true),
                "{client}"
            );
            assert_eq!(received.headers["content-length"], "5", "{client}");
        }
    }
}

#[tokio::test]
async fn a_post_is_seen_once_unless_the_caller_says_otherwise() {
    let upstream = || Hostile::new(Script::new().read_head().read_body().close()).start();
    for (client, result, upstream) in with_both(upstream, request(Method::POST, "pay")).await {
        result.unwrap_err();
        assert_eq!(upstream.sightings().requests.len(), 1, "{client}");
    }
    let told = |uri| {
        let mut request = request(Method::POST, "pay")(uri);
        Idempotent.attach(&mut request);
        request
    };
    for (client, result, upstream) in with_both(upstream, told).await {
        result.unwrap_err();
        assert_eq!(upstream.sightings().requests.len(), 3, "{client}");
    }
}

#[tokio::test]
async fn a_post_is_sent_again_where_nobody_listened() {
    let nobody = Refusal::new();
    let mut request = request(Method::POST, "pay")(format!("http://{}/", nobody.addr()).parse().unwrap());
    let retries = Retries::track(&mut request);
    let error = send(layer().layer(legacy()), request).await.unwrap_err();
    assert_eq!(Failure::of(&*error).kind(), Kind::Refused);
    assert_eq!((retries.count(), retries.gave_up()), (2, Some(GaveUp::Attempts)));
}

#[tokio::test]
async fn an_early_answer_to_an_endless_upload_closes_its_connection() {
    // The server reads on: what it does not take, hyper cannot give up.
    let early = Script::new().read_head().answer(503, "busy").read_body().stall();
    let upstream = Hostile::new(early).then(Script::new().exchange(Answer::new(200, "ok")).close()).start();
    // More than fits into the sockets: the first attempt is in the middle of it when the answer comes.
    let client: Client<_, Replay<Chunks>> = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::put(upstream.uri("/")).body(Chunks(CHUNKS)).unwrap();
    let response = layer().replay_limit(usize::MAX).layer(client).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(upstream.ended(0).await.by_peer(), "the first upload does not go on for ever");
    let requests = upstream.sightings().requests;
    assert!(!requests[0].complete, "nobody takes the part for the whole");
    assert_eq!(requests[1].body.len(), CHUNKS * 65_536, "the whole of it, from the first byte");
}

const CHUNKS: usize = 800;

/// So many chunks of 64 KiB.
struct Chunks(usize);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(left) = self.0.checked_sub(1) else { return Poll::Ready(None) };
        self.0 = left;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![7; 65_536])))))
    }
}

#[tokio::test]
async fn a_friendly_server_sees_one_attempt() {
    let upstream = || {
        Friendly::new(async |request: Request<Upload>| {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Response::new(Full::new(body))
        })
        .start()
    };
    for (client, result, upstream) in with_both(upstream, request(Method::POST, "hello")).await {
        assert_eq!(result.unwrap(), (200, 1, "hello".into()), "{client}");
        assert_eq!(upstream.sightings().requests.len(), 1, "{client}");
    }
}
