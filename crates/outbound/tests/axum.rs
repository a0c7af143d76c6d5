//! An axum service whose handlers make calls: over real sockets, with a real client in front and a real upstream behind.
#![cfg(all(feature = "axum", feature = "telemetry"))]

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::{FromRef, Path, State},
    response::IntoResponse,
    routing::get,
};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header::RETRY_AFTER};
use http_body_util::BodyExt;
use opentelemetry::{global::set_text_map_propagator, metrics::MeterProvider};
use opentelemetry_sdk::{
    metrics::{
        InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
        data::{AggregatedMetrics, MetricData},
    },
    propagation::TraceContextPropagator,
};
use outbound::{
    Body, BoxError, ClientExt, CoolingDown, Elapsed, Exchange, Kind, Origin, Overloaded, Phase, Pool,
    ResponseExt, ServiceBuilderExt, Snapshot, TransportError,
    axum::{InboundDeadlineLayer, Outbound, TimeoutHeader, UpstreamFailed},
    pool::connect::{Tcp, Unix},
    retry,
    telemetry::RemoteContextLayer,
};
use outbound_testkit::{Answer, Hostile, Script, Upstream};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

#[tokio::test]
async fn each_failure_is_its_response() {
    let during = |phase| {
        let exchange = Exchange::new();
        exchange.enter(phase);
        Snapshot::from(&exchange)
    };
    let transport = |kind, phase| -> BoxError {
        TransportError::new(kind, during(phase)).because("secret of 10.1.2.3").into()
    };
    let overloaded = || Overloaded::new("limit", 5, 2);
    let origin = Origin::of(&"http://10.1.2.3".parse().unwrap()).unwrap();
    #[rustfmt::skip]
    let rows: Vec<(&str, BoxError, u16, Option<&str>)> = vec![
        ("timeout",             Elapsed::new(Phase::Head, ms(800)).into(),                  504, None),
        ("timeout connecting",  transport(Kind::Timeout, Phase::Connect),                   504, None),
        ("acquire",             transport(Kind::Timeout, Phase::Acquire),                   503, Some("1")),
        ("overloaded",          overloaded().into(),                                        503, Some("1")),
        ("room in a while",     overloaded().room_in(ms(2001)).into(),                      503, Some("3")),
        ("room in a second",    overloaded().room_in(ms(1000)).into(),                      503, Some("1")),
        ("cooling down",        CoolingDown::new(origin, ms(29_500)).into(),                503, Some("30")),
        ("out of descriptors",  transport(Kind::Exhausted, Phase::Connect),                 503, Some("1")),
        ("not resolved",        transport(Kind::Resolve, Phase::Resolve),                   502, None),
        ("refused",             transport(Kind::Refused, Phase::Connect),                   502, None),
        ("unreachable",         transport(Kind::Unreachable, Phase::Connect),               502, None),
        ("not trusted",         transport(Kind::Certificate, Phase::Tls),                   502, None),
        ("no TLS",              transport(Kind::Tls, Phase::Tls),                           502, None),
        ("reset",               transport(Kind::Reset, Phase::Head),                        502, None),
        ("closed",              transport(Kind::Closed, Phase::Head),                       502, None),
        ("cut short",           transport(Kind::Truncated, Phase::Body),                    502, None),
        ("protocol",            transport(Kind::Protocol, Phase::Head),                     502, None),
        ("head too large",      transport(Kind::TooLarge, Phase::Head),                     502, None),
        ("no such socket",      missing_socket().await,                                     502, None),
        ("no name, resolving",  transport(Kind::Other, Phase::Resolve),                     502, None),
        ("no name, in body",    transport(Kind::Other, Phase::Body),                        502, None),
        ("no name, queued",     transport(Kind::Other, Phase::Queue),                       500, None),
        ("no name, acquiring",  transport(Kind::Other, Phase::Acquire),                     500, None),
        ("not sendable",        transport(Kind::Invalid, Phase::Queue),                     500, None),
        ("own body failed",     transport(Kind::RequestBody, Phase::Send),                  500, None),
        ("unknown",             "secret of 10.1.2.3".into(),                                500, None),
    ];
    for (name, error, status, retry_after) in rows {
        let failed = UpstreamFailed::from(error);
        assert_eq!(failed.status().as_u16(), status, "{name}");
        let response = failed.into_response();
        assert_eq!(response.status().as_u16(), status, "{name}");
        let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header(RETRY_AFTER.as_str()), retry_after, "{name}");
        assert_eq!(header("content-type"), Some("application/problem+json"), "{name}");
        let problem: serde_json::Value =
            serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(problem["status"], status, "{name}");
        assert_eq!(
            problem["title"],
            StatusCode::from_u16(status).unwrap().canonical_reason().unwrap(),
            "{name}"
        );
        for secret in ["secret", "10.1.2.3"] {
            assert!(!problem.to_string().contains(secret), "{name}: {problem}");
        }
    }
}

/// An answer that cannot be used is as good as none, whatever its status: that is the peer's, and none of the caller's business.
#[tokio::test]
async fn an_answer_that_cannot_be_used_is_a_bad_gateway() {
    let answer =
        |status| Response::builder().status(status).body(String::from("secret, and no JSON")).unwrap();
    for (name, error) in [
        ("not found", answer(404).error_for_status().await.unwrap_err()),
        ("unavailable", answer(503).error_for_status().await.unwrap_err()),
        ("too large", answer(200).bytes_within(4).await.unwrap_err()),
        ("not text", Response::new(axum::body::Body::from(vec![0xff])).text().await.unwrap_err()),
    ] {
        let response = UpstreamFailed::from(error).into_response();
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY, "{name}");
        let problem = response.into_body().collect().await.unwrap().to_bytes();
        assert!(!String::from_utf8_lossy(&problem).contains("secret"), "{name}");
    }
}

/// Whatever its decoder makes of it, and through the preset.
#[cfg(feature = "client")]
#[tokio::test]
async fn a_body_that_cannot_be_decoded_is_a_bad_gateway() {
    use outbound::{Client, pool::connect::Matcher};

    // `printf hello | gzip -n`: its head is ten bytes, its checksum the last eight.
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\x07\x00\x86\xa6\x10\x36\x05\x00\x00\x00";
    let with = |place: usize| {
        let mut bytes = gzip.to_vec();
        bytes[place] ^= 0xff;
        bytes
    };
    let client = Client::builder().proxy(Matcher::builder().build()).build().unwrap();
    for (name, encoding, body, expected) in [
        ("whole", "gzip", gzip.to_vec(), None),
        ("corrupt head", "gzip", with(0), Some(502)),
        ("corrupt stream", "gzip", with(10), Some(502)),
        ("corrupt checksum", "gzip", with(18), Some(502)),
        ("cut short", "gzip", gzip[..15].to_vec(), Some(502)),
        ("no deflate", "deflate", b"secret".to_vec(), Some(502)),
        ("no Brotli", "br", vec![0xff; 10], Some(502)),
    ] {
        let answer = Answer::new(200, body).header("content-encoding", encoding);
        let upstream = Hostile::new(Script::new().exchange(answer).stall()).start();
        let read = client.get(upstream.uri("/")).send().await.unwrap().text().await;
        let answer = read.map_err(|error| (error.to_string(), UpstreamFailed::from(error).status().as_u16()));
        let expected = expected.map(|status| ("the response body cannot be decoded".to_owned(), status));
        assert_eq!(answer.err(), expected, "{name}");
    }
}

/// Nobody is there to read it, or the service is shutting down.
#[tokio::test]
async fn what_is_canceled_is_answered_with_nothing() {
    let canceled = TransportError::new(Kind::Canceled, &Exchange::new());
    let response = UpstreamFailed::from(canceled).into_response();
    assert_eq!((response.status(), response.headers().len()), (StatusCode::SERVICE_UNAVAILABLE, 0));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "");
}

#[tokio::test(start_paused = true)]
async fn a_caller_can_shorten_its_deadline_and_not_lengthen_it() {
    const MINE: &[TimeoutHeader] =
        &[TimeoutHeader::new("x-seconds", |value| value.parse().ok().map(Duration::from_secs))];
    let standard = || InboundDeadlineLayer::new(ms(10_000));
    const ENVOY: &str = "x-envoy-expected-rq-timeout-ms";
    type Row = (&'static str, InboundDeadlineLayer, &'static [(&'static str, &'static str)], Duration);
    #[rustfmt::skip]
    let rows: Vec<Row> = vec![
        ("nothing said",         standard(),                &[],                                               ms(10_000)),
        ("Envoy",                standard(),                &[(ENVOY, "800")],                                 ms(800)),
        ("zero",                 standard(),                &[(ENVOY, "0")],                                   ms(0)),
        ("longer",               standard(),                &[(ENVOY, "60000")],                               ms(10_000)),
        ("far longer",           standard(),                &[(ENVOY, "9999999999999999999")],                 ms(10_000)),
        ("too many digits",      standard(),                &[(ENVOY, "00000000000000000001")],                ms(10_000)),
        ("gRPC, seconds",        standard(),                &[("grpc-timeout", "2S")],                         ms(2000)),
        ("gRPC, milliseconds",   standard(),                &[("grpc-timeout", "250m")],                       ms(250)),
        ("gRPC, microseconds",   standard(),                &[("grpc-timeout", "99000u")],                     ms(99)),
        ("gRPC, nanoseconds",    standard(),                &[("grpc-timeout", "7000000n")],                   ms(7)),
        ("gRPC, minutes",        standard(),                &[("grpc-timeout", "1M")],                         ms(10_000)),
        ("gRPC, hours",          standard(),                &[("grpc-timeout", "99999999H")],                  ms(10_000)),
        ("gRPC, nine digits",    standard(),                &[("grpc-timeout", "000000001S")],                 ms(10_000)),
        ("both",                 standard(),                &[(ENVOY, "900"), ("grpc-timeout", "1S")],         ms(900)),
        ("negative",             standard(),                &[(ENVOY, "-1")],                                  ms(10_000)),
        ("signed",               standard(),                &[(ENVOY, "+1")],                                  ms(10_000)),
        ("empty",                standard(),                &[(ENVOY, ""), ("grpc-timeout", "")],              ms(10_000)),
        ("no number",            standard(),                &[(ENVOY, "soon"), ("grpc-timeout", "S")],         ms(10_000)),
        ("no ASCII",             standard(),                &[("grpc-timeout", "1\u{b5}")],                    ms(10_000)),
        ("a header of my own",   standard().headers(MINE),  &[("x-seconds", "3"), (ENVOY, "800")],             ms(3000)),
        ("no limit of ours",     InboundDeadlineLayer::new(Duration::MAX), &[(ENVOY, "800")],                  ms(800)),
        ("no limit at all",      InboundDeadlineLayer::new(Duration::MAX), &[],                                Duration::MAX),
    ];
    for (name, layer, headers, left) in rows {
        let handler = async |client: Outbound<()>| client.deadline().left().as_nanos().to_string();
        let app: Router = Router::new().route("/", get(handler)).layer(layer);
        let mut request = Request::get("/").body(axum::body::Body::empty()).unwrap();
        for &(name, value) in headers {
            request.headers_mut().insert(
                http::HeaderName::try_from(name).unwrap(),
                http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let response = app.oneshot(request).await.unwrap();
        let told = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(told, left.as_nanos().to_string(), "{name}");
    }
}

/// 300 ms for each attempt, at an upstream that never answers: the third is cut short by what the caller has left.
#[tokio::test(start_paused = true)]
async fn a_call_gives_up_within_the_time_its_caller_has_left() {
    let upstream = Hostile::new(Script::new().read_head().stall()).start();
    let front = Front::start(&upstream).await;
    let begun = Instant::now();
    let response = front.get([("x-envoy-expected-rq-timeout-ms", "800")]).await;
    assert_eq!((response.status(), begun.elapsed()), (StatusCode::GATEWAY_TIMEOUT, ms(800)));
    assert_eq!(upstream.sightings().requests.len(), 3);
    upstream.all_closed().await;
    assert_eq!(front.open(), 0);
}

/// Without a word of its caller, a call has what the layer gives: the three attempts that the policy allows.
#[tokio::test(start_paused = true)]
async fn a_caller_that_says_nothing_waits_longer() {
    let upstream = Hostile::new(Script::new().read_head().stall()).start();
    let front = Front::start(&upstream).await;
    let begun = Instant::now();
    let response = front.get([]).await;
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(begun.elapsed(), ms(300 + 10 + 300 + 10 + 300));
}

/// hyper drops the handler, and with it the call: the upstream sees its connection closed, and nothing is held or active any more.
#[tokio::test]
async fn a_caller_that_hangs_up_cancels_the_call() {
    let upstream = Hostile::new(Script::new().read_head().stall()).start();
    let front = Front::start(&upstream).await;
    let mut caller = TcpStream::connect(front.addr).await.unwrap();
    caller.write_all(b"GET / HTTP/1.1\r\nhost: front\r\n\r\n").await.unwrap();
    upstream.heads(1).await;
    assert_eq!((front.pool.stats().connections.active, front.active()), (1, 1.0));

    drop(caller);
    assert!(upstream.ended(0).await.by_peer());
    assert_eq!((front.open(), front.active()), (0, 0.0));
    assert_eq!(upstream.sightings().requests.len(), 1, "and no retry");
}

/// The preset is state as any stack is: its calls end when the time of the caller does, whatever it has left itself.
#[cfg(feature = "client")]
#[tokio::test(start_paused = true)]
async fn the_preset_is_state() {
    use outbound::{Client, pool::connect::Matcher};

    async fn ask(client: Outbound<Client>, path: Path<String>) -> Result<String, UpstreamFailed> {
        Ok(client.get(format!("/{}", *path)).send().await?.text().await?)
    }

    /// The same, whatever the caller says.
    async fn insist(client: State<Client>, path: Path<String>) -> Result<String, UpstreamFailed> {
        Ok(client.get(format!("/{}", *path)).send().await?.text().await?)
    }

    let answering = Hostile::new(Script::new().exchange(Answer::new(200, "hello")).stall()).start();
    let silent = Hostile::new(Script::new().read_head().stall()).start();
    for (name, upstream, path, status, took) in [
        ("answered", &answering, "ask", 200, 0),
        ("by its own deadline", &silent, "insist", 504, 2_000),
        ("by the caller's", &silent, "ask", 504, 800),
    ] {
        let builder = Client::builder().proxy(Matcher::builder().build());
        let client = builder.base_url(upstream.uri("/")).total_timeout(ms(2_000)).build().unwrap();
        let app = Router::new()
            .route("/ask/{path}", get(ask))
            .route("/insist/{path}", get(insist))
            .layer(InboundDeadlineLayer::new(ms(10_000)))
            .with_state(client.clone());
        let addr = serve(app).await;
        let begun = Instant::now();
        let request = Request::get(format!("http://{addr}/{path}/hello"))
            .header("x-envoy-expected-rq-timeout-ms", "800")
            .body(Body::empty())
            .unwrap();
        let response = Pool::builder().build(Tcp::new()).unwrap().oneshot(request).await.unwrap();
        assert_eq!((response.status().as_u16(), begun.elapsed()), (status, ms(took)), "{name}");
        client.leaks().assert_no_leaks();
        assert_eq!(client.pool().stats().connections.active, 0, "{name}");
    }
}

/// The caller's trace goes on at the upstream, and what it sent goes through.
#[tokio::test]
async fn the_callers_trace_goes_on() {
    set_text_map_propagator(TraceContextPropagator::new());
    let upstream = Hostile::new(Script::new().exchange(Answer::new(200, "hello"))).start();
    let front = Front::start(&upstream).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let response = front.get([("traceparent", parent)]).await;
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    assert_eq!(upstream.requests(1).await[0].headers["traceparent"], parent);
}

/// A service with one route, which asks `upstream`.
struct Front {
    addr: SocketAddr,
    pool: Pool<Tcp>,
    meters: SdkMeterProvider,
    metrics: InMemoryMetricExporter,
}

#[derive(Clone)]
struct App {
    client: Client,
    upstream: Uri,
}

type Client = BoxCloneSyncService<Request<Body>, Response<axum::body::Body>, BoxError>;

impl Front {
    async fn start(upstream: &Upstream) -> Self {
        let metrics = InMemoryMetricExporter::default();
        let meters =
            SdkMeterProvider::builder().with_reader(PeriodicReader::builder(metrics.clone()).build()).build();
        let pool = Pool::builder().build(Tcp::new()).unwrap();
        let client = ServiceBuilder::new()
            .map_response(|response: Response<_>| response.map(axum::body::Body::new))
            .deadline(ms(30_000))
            .retries(
                retry::Standard::default()
                    .backoff(retry::Backoff::new(ms(10), ms(10)).unwrap().jitter(retry::Jitter::None)),
            )
            .telemetry(&meters.meter("test"))
            .attempt_timeout(ms(300))
            .service(pool.clone());
        let app = App { client: Client::new(client), upstream: upstream.uri("/") };
        let app = Router::new()
            .route("/", get(ask))
            .layer(InboundDeadlineLayer::new(ms(10_000)))
            .layer(RemoteContextLayer::new())
            .with_state(app);
        Self { addr: serve(app).await, pool, meters, metrics }
    }

    /// What a caller with these headers gets.
    async fn get(
        &self,
        headers: impl IntoIterator<Item = (&'static str, &'static str)>,
    ) -> Response<outbound::pool::Body> {
        let mut request = Request::get(format!("http://{}/", self.addr)).body(Body::empty()).unwrap();
        let headers = headers
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        request.headers_mut().extend(headers);
        Pool::builder().build(Tcp::new()).unwrap().oneshot(request).await.unwrap()
    }

    fn open(&self) -> usize {
        self.pool.stats().connections.open()
    }

    /// `http.client.active_requests`.
    fn active(&self) -> f64 {
        self.metrics.reset();
        self.meters.force_flush().unwrap();
        let finished = self.metrics.get_finished_metrics().unwrap();
        let metrics =
            finished.iter().flat_map(|resource| resource.scope_metrics()).flat_map(|scope| scope.metrics());
        let mut active = metrics.filter(|metric| metric.name() == "http.client.active_requests");
        match active.next().expect("measured").data() {
            AggregatedMetrics::I64(MetricData::Sum(sum)) => {
                sum.data_points().map(|point| point.value() as f64).sum()
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn missing_socket() -> BoxError {
    let pool = Pool::builder().build(Unix::new("/there/is/none")).unwrap();
    pool.oneshot(Request::get("http://a.example/").body(Body::empty()).unwrap()).await.unwrap_err()
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    addr
}

async fn ask(
    client: Outbound<Client>,
    State(App { upstream, .. }): State<App>,
) -> Result<Response<axum::body::Body>, UpstreamFailed> {
    Ok(client.get(upstream).send().await?)
}

impl FromRef<App> for Client {
    fn from_ref(app: &App) -> Self {
        app.client.clone()
    }
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}
