//! The documented stack: what only shows when the layers stand on each other.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use outbound::{
    Attempt, BoxError, ConnectionInfo, Delivery, Elapsed, Failure, Kind, Phase, Pool, ServiceBuilderExt,
    TimeoutLayer, Timings, find,
    pool::{Builder, connect::Tcp},
    retry,
};
use outbound_testkit::{Answer, Gate, Hostile, Refusal, Script, TestBody, Upstream};
use tower::{Service, ServiceBuilder, ServiceExt};

type Client = Pool<Tcp>;

fn pool(limits: Builder) -> Client {
    limits.build(Tcp::new()).expect("valid limits")
}

fn request(method: Method, uri: Uri, body: &'static str) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::from(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    request
}

fn get(upstream: &Upstream, path: &str) -> Request<Full<Bytes>> {
    request(Method::GET, upstream.uri(path), "")
}

/// The stack of the README over `pool`, with so many permits.
fn stack(
    pool: &Client,
    permits: usize,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send + use<>>,
    Error = BoxError,
    Future: Send,
> + Clone
+ use<> {
    ServiceBuilder::new()
        .deadline(Duration::from_secs(30))
        .retries(retry::Standard::default())
        .concurrency(permits)
        .attempt_timeout(Duration::from_secs(10))
        .service(pool.clone())
}

/// *Limit inside retry*: a call that waits to try again holds neither permit nor connection, and does not wait for itself.
#[tokio::test]
async fn with_one_permit_and_one_connection_another_call_runs_while_the_first_backs_off() {
    let busy = Answer::new(503, "busy").header("retry-after", "1");
    let script = Script::new().exchange(busy).forever(Script::new().exchange(Answer::new(200, "ok")));
    let upstream = Hostile::new(script).start();
    let pool = pool(Pool::builder().max_connections(1));
    let client = stack(&pool, 1);

    let first = tokio::spawn(client.clone().oneshot(get(&upstream, "/first")));
    upstream.requests(1).await;
    let other = client.clone().oneshot(get(&upstream, "/other")).await.unwrap();
    assert_eq!(other.into_body().collect().await.unwrap().to_bytes(), "ok");
    let first = first.await.unwrap().unwrap();
    assert_eq!((first.status(), Attempt::of(&first).map(Attempt::number)), (StatusCode::OK, Some(2)));

    let targets: Vec<_> = upstream.requests(3).await.into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/first", "/other", "/first"]);
    assert_eq!(
        upstream.sightings().connections.len(),
        1,
        "the failed response was drained, its connection kept"
    );
}

/// What happened is told on the response: which attempt, on which connection, where the time went.
#[tokio::test]
async fn context_travels_from_the_bottom_to_the_caller() {
    let script = Script::new().exchange(Answer::new(503, "")).exchange(Answer::new(200, "ok"));
    let upstream = Hostile::new(script).start();
    let pool = pool(Pool::builder());
    let response = stack(&pool, 8).oneshot(get(&upstream, "/")).await.unwrap();
    assert_eq!(Attempt::of(&response).map(Attempt::number), Some(2));
    let connection = ConnectionInfo::of(&response).expect("the timeout has asked for it");
    assert_eq!((connection.id(), connection.served()), (1, 1));
    let timings = Timings::of(&response).expect("beside the connection");
    assert_eq!(timings.spent(Phase::Connect), Duration::ZERO, "it was open already");
}

/// A request of which nothing was sent is sent again whatever its method; one that may have been applied is not.
#[tokio::test]
async fn a_post_is_seen_once_unless_nothing_of_it_was_sent() {
    let upstream = Hostile::new(Script::new().read_head().read_body().close()).start();
    let pool = pool(Pool::builder());
    let error =
        stack(&pool, 8).oneshot(request(Method::POST, upstream.uri("/"), "once")).await.err().unwrap();
    let failure = Failure::of(&*error);
    assert_eq!((failure.kind(), failure.delivery()), (Kind::Closed, Delivery::Maybe), "{error}");
    assert_eq!(upstream.sightings().requests.len(), 1);

    let nobody = Refusal::new();
    let uri: Uri = format!("http://{}/", nobody.addr()).parse().unwrap();
    let error = stack(&pool, 8).oneshot(request(Method::POST, uri, "never")).await.err().unwrap();
    assert_eq!(Failure::of(&*error).attempt().map(Attempt::number), Some(3), "{error}");
    assert_eq!(pool.stats().totals.dialed, 4, "one for the first upstream, three for the second");
}

/// A call that is dropped anywhere leaves nothing behind: not a permit, not a connection, not a waiter.
#[tokio::test]
async fn a_dropped_call_gives_everything_back() {
    let gate = Gate::new("answer");
    let script = Script::new().read_head().wait(&gate).answer(200, "late");
    let upstream = Hostile::new(script).then(Script::hello()).start();
    let pool = pool(Pool::builder().max_connections(1));
    let client = stack(&pool, 1);
    let abandoned = tokio::spawn(client.clone().oneshot(get(&upstream, "/abandoned")));
    upstream.heads(1).await;
    let waiting = tokio::spawn(client.clone().oneshot(get(&upstream, "/waiting")));
    tokio::task::yield_now().await;
    abandoned.abort();
    let answered = waiting.await.unwrap().unwrap();
    assert_eq!(answered.into_body().collect().await.unwrap().to_bytes(), "hello");
    let stats = pool.stats();
    assert_eq!((stats.waiting, stats.connections.active), (0, 0), "{stats:?}");
    drop((pool, client));
    upstream.all_closed().await;
}

/// *Write-idle is about the peer*: an upload whose own source pauses is not a peer that takes nothing.
#[tokio::test]
async fn an_upload_that_pauses_by_itself_meets_the_deadline_and_not_the_write_idle_limit() {
    let upstream = Hostile::new(Script::new().read_head().read_body()).start();
    let limits = TimeoutLayer::new(Duration::MAX).write_idle(Duration::from_millis(10));
    let client = ServiceBuilder::new()
        .deadline(Duration::from_millis(200))
        .layer(limits)
        .service(pool(Pool::builder()));
    let body = TestBody::new().data("the rest comes").stall();
    let request = Request::post(upstream.uri("/")).body(body).unwrap();
    let error = client.oneshot(request).await.err().unwrap();
    assert_eq!(find::<Elapsed>(&*error).map(Elapsed::name), Some("deadline"), "{error}");
}
