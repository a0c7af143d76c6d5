//! Over other clients than outbound's: with less detail, and without lies.

mod support;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, SizeHint};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry::trace::Status;
use outbound_core::{BoxError, Exchange, Kind, Snapshot, TransportError};
use outbound_pool::{Pool, connect::Tcp};
use outbound_telemetry::ConnectionsLayer;
use outbound_testkit::{Answer, Hostile, Refusal, Script, TestBody};
use support::Told;
use tower::{Layer, Service, ServiceExt, util::BoxCloneService};

type AnyClient = BoxCloneService<Request<Full<Bytes>>, Response<AnyBody>, BoxError>;
type AnyBody = UnsyncBoxBody<Bytes, BoxError>;

/// What only a pool that reports can know is left out over the others, and nothing else differs.
#[tokio::test]
async fn they_tell_the_same_but_for_what_only_a_pool_knows() {
    for (name, reports, client) in [
        ("outbound-pool", true, pool as fn() -> AnyClient),
        ("hyper-util", false, hyper_util),
        ("reqwest", false, reqwest),
    ] {
        let script = Script::new()
            .exchange(Answer::new(200, "hello"))
            .exchange(Answer::new(200, "hello").cut_body(2))
            .cut();
        let upstream = Hostile::new(script).start();
        let told = Told::new();
        let service = told.layer().body_sizes(true).layer(client());
        for path in ["/whole", "/cut"] {
            let request = Request::get(upstream.uri(path)).body(Full::default()).unwrap();
            let _ = service.clone().oneshot(request).await.unwrap().into_body().collect().await;
        }
        let refusal = Refusal::new();
        let refused = Request::get(format!("http://{}/", refusal.addr())).body(Full::default()).unwrap();
        service.clone().oneshot(refused).await.unwrap_err();

        let spans = told.spans();
        let of = |key: &str| spans.iter().map(|span| span.get(key).map(str::to_owned)).collect::<Vec<_>>();
        let some = |values: [Option<&str>; 3]| values.map(|value| value.map(str::to_owned)).to_vec();
        assert_eq!(of("http.response.status_code"), some([Some("200"), Some("200"), None]), "{name}");
        assert_eq!(of("network.protocol.version"), some([Some("1.1"), Some("1.1"), None]), "{name}");
        assert_eq!(of("error.type"), some([None, Some("truncated"), Some("refused")]), "{name}");
        assert_eq!(of("http.response.body.size"), some([Some("5"), None, None]), "{name}");
        let peer = reports.then_some("127.0.0.1");
        assert_eq!(of("network.peer.address"), some([peer, peer, None]), "{name}");
        let metrics = told.metrics();
        assert_eq!(metrics.contains_key("http.client.request.time_in_queue"), reports, "{name}");
        assert_eq!((told.measured(), told.active()), (3, 0.0), "{name}");
    }
}

/// hyper-util's connector is measured as the pool's is.
#[tokio::test]
async fn connections_of_hyper_util_are_measured() {
    let told = Told::new();
    let upstream = Hostile::new(Script::hello()).start();
    let connector = ConnectionsLayer::new(&told.meter()).layer(HttpConnector::new());
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get(upstream.uri("/")).body(Full::<Bytes>::default()).unwrap();
    client.request(request).await.unwrap().into_body().collect().await.unwrap();
    drop(client);
    upstream.all_closed().await;
    let port = upstream.addr().port();
    let lasted = told.only("http.client.connection.duration");
    assert_eq!(lasted.attributes, format!("server.address=127.0.0.1 server.port={port}"));
    assert_eq!(lasted.count, 1);
}

/// A request's body may be another upstream's response, and its failure that call's: of which nothing is told here.
#[tokio::test]
async fn a_body_that_fails_does_not_tell_of_where_it_came_from() {
    let told = Told::new();
    let upstream = Hostile::new(Script::new().read_head().stall()).start();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let elsewhere = || TransportError::new(Kind::Reset, Snapshot::from(&Exchange::new()));
    let body = TestBody::new().data("some").error("cut").map_err(move |_| elsewhere());
    let request = Request::post(upstream.uri("/")).body(body).unwrap();
    told.layer().layer(client).oneshot(request).await.unwrap_err();
    let [span] = &told.spans()[..] else { panic!("one span") };
    assert_eq!((span.get("error.type"), &span.status), (Some("request_body"), &Status::error("")));
}

/// An answer that comes before all of the body has gone out says nothing of its size.
#[tokio::test]
async fn an_upload_that_was_not_wanted_has_no_size() {
    for (name, sent, size) in [("whole", 2000, Some("2000")), ("given up", 1000, None)] {
        let told = Told::new();
        let script =
            Script::new().read_head().read_exactly(sent).respond(Answer::new(413, "too large")).stall();
        let upstream = Hostile::new(script).start();
        let pool = Pool::builder().build(Tcp::new()).unwrap();
        let body = TestBody::new().data(vec![0; sent]).hint(SizeHint::with_exact(2000));
        let body = if sent < 2000 { body.stall() } else { body };
        let request = Request::post(upstream.uri("/")).body(body).unwrap();
        let response = told.layer().body_sizes(true).layer(pool).oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
        let [span] = &told.spans()[..] else { panic!("{name}: one span") };
        assert_eq!(span.get("http.request.body.size"), size, "{name}");
        assert_eq!(told.metrics().contains_key("http.client.request.body.size"), size.is_some(), "{name}");
    }
}

fn pool() -> AnyClient {
    boxed(Pool::builder().build(Tcp::new()).unwrap())
}

fn hyper_util() -> AnyClient {
    boxed(Client::builder(TokioExecutor::new()).build_http())
}

fn reqwest() -> AnyClient {
    let client = reqwest::Client::new()
        .map_request(|request: Request<Full<Bytes>>| {
            request.map(|_| reqwest::Body::default()).try_into().expect("the URI is absolute")
        })
        .map_response(|response: reqwest::Response| Response::<reqwest::Body>::from(response));
    boxed(client)
}

fn boxed<S, B>(service: S) -> AnyClient
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let boxed = |response: Response<B>| response.map(|body| body.map_err(Into::into).boxed_unsync());
    BoxCloneService::new(service.map_response(boxed).map_err(Into::into))
}
