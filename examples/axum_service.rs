//! What does a service show of the calls that it makes? `cargo run --example axum_service -- --serve`
//!
//! An axum service with two upstreams, one of which fails, and a `/metrics` page for Prometheus. Without `--serve` it asks itself
//! some hundred times, prints what its callers and its metrics say, checks both, and exits.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::{FromRef, Path, State},
    routing::get,
};
use bytes::Bytes;
use clap::Parser;
use http::{HeaderMap, Request, Response, StatusCode};
use opentelemetry::{global::set_text_map_propagator, metrics::MeterProvider};
use opentelemetry_sdk::{metrics::SdkMeterProvider, propagation::TraceContextPropagator};
use outbound::{
    Body, BoxError, Client, ClientExt, LeakGuardLayer, Pool, ResponseExt, ServiceBuilderExt, TelemetryLayer,
    UrlTemplate,
    axum::{InboundDeadlineLayer, Outbound, UpstreamFailed},
    limit::{ConcurrencyLimitLayer, Limiter},
    pool::connect::{Matcher, Tcp},
    retry::{Budget, Ratio, RetryLayer, Standard},
    telemetry::{ConnectionsLayer, RemoteContextLayer, watch_budget, watch_guard, watch_limit, watch_pool},
};
use prometheus::{Registry, TextEncoder};
use tokio::{net::TcpListener, task::JoinSet};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

#[derive(Debug, Parser)]
struct Options {
    /// Go on until interrupted
    #[arg(long)]
    serve: bool,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// The preset, which tells of all that it is by one setting.
type Users = Client;

/// A stack spelled out, whose parts are told of one by one.
type Prices = BoxCloneSyncService<Request<Body>, Response<axum::body::Body>, BoxError>;

/// The state of the router: one client for each upstream and the whole process, of which each handler has a clone.
#[derive(Clone)]
struct App {
    users: (Users, SocketAddr),
    prices: (Prices, SocketAddr),
    metrics: Registry,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = Options::parse();
    let (users, prices) = (users().await?, prices().await?);

    let metrics = Registry::new();
    let exporter = opentelemetry_prometheus::exporter().with_registry(metrics.clone()).build()?;
    let meters = SdkMeterProvider::builder().with_reader(exporter).build();
    let meter = meters.meter("axum_service");

    // What `RemoteContextLayer` reads, and `TelemetryLayer` writes: without it there is no trace to go on with.
    set_text_map_propagator(TraceContextPropagator::new());
    let telemetry = TelemetryLayer::new(&meter);
    let client =
        Client::builder().proxy(Matcher::builder().build()).telemetry("users", telemetry.clone()).build()?;

    let pool = Pool::builder().max_connections(50).build(ConnectionsLayer::new(&meter).layer(Tcp::new()))?;
    let (limiter, budget) = (Limiter::new(64), Budget::new(Ratio::default().floor(1)));
    let (guard, leaks) = LeakGuardLayer::pair();
    let stack = ServiceBuilder::new()
        .map_response(|response: Response<_>| response.map(axum::body::Body::new))
        .deadline(Duration::from_secs(30))
        .layer(RetryLayer::new(Standard::default()).budget(budget.clone()))
        .layer(telemetry)
        .layer(ConcurrencyLimitLayer::new(limiter.clone()).witness(leaks.witness()))
        .attempt_timeout(Duration::from_secs(5))
        .layer(guard)
        .service(pool.clone());
    let _watches = (
        watch_pool(&meter, "prices", &pool),
        watch_guard(&meter, "prices", &leaks),
        watch_limit(&meter, "prices", move || limiter.stats()),
        watch_budget(&meter, "prices", &budget),
    );

    let app = App { users: (client, users), prices: (Prices::new(stack), prices), metrics };
    let app = Router::new()
        .route("/users/{id}", get(user))
        .route("/prices/{id}", get(price))
        // No call is made on behalf of a caller that waits no longer; and none waits longer than this.
        .layer(InboundDeadlineLayer::new(Duration::from_secs(10)))
        .layer(RemoteContextLayer::new())
        .route("/metrics", get(page))
        .with_state(app);
    let listener = TcpListener::bind(options.listen).await?;
    let address = listener.local_addr()?;
    println!("http://{address}/users/1 · http://{address}/prices/1 · http://{address}/metrics");
    let service = tokio::spawn(async { axum::serve(listener, app).await });
    if options.serve {
        return Ok(service.await??);
    }
    demonstrate(address).await
}

async fn user(client: Outbound<Users>, app: State<App>, Path(id): Path<u32>) -> Answer {
    ask(client, UrlTemplate::new("/users/{id}"), format!("http://{}/users/{id}", app.users.1)).await
}

async fn price(client: Outbound<Prices>, app: State<App>, Path(id): Path<u32>) -> Answer {
    ask(client, UrlTemplate::new("/prices/{id}"), format!("http://{}/prices/{id}?key=secret", app.prices.1))
        .await
}

type Answer = Result<Response<axum::body::Body>, UpstreamFailed>;

/// The answer as it comes; one that is an error is a failure, and so is no answer.
async fn ask<C, B>(client: Outbound<C>, template: UrlTemplate, uri: String) -> Answer
where
    C: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let mut request = Request::get(uri).body(Body::empty())?;
    template.attach(&mut request);
    Ok(client.oneshot(request).await?.map(axum::body::Body::new).error_for_status().await?)
}

async fn page(State(App { metrics, .. }): State<App>) -> Result<String, UpstreamFailed> {
    Ok(TextEncoder::new().encode_to_string(&metrics.gather())?)
}

impl FromRef<App> for Users {
    fn from_ref(app: &App) -> Self {
        app.users.0.clone()
    }
}

impl FromRef<App> for Prices {
    fn from_ref(app: &App) -> Self {
        app.prices.0.clone()
    }
}

/// An upstream that answers, and says which trace the call belongs to.
async fn users() -> Result<SocketAddr, BoxError> {
    let user = |Path(id): Path<u32>, headers: HeaderMap| async move {
        let parent = headers.get("traceparent").and_then(|parent| parent.to_str().ok()).unwrap_or("no trace");
        format!("user {id}, {parent}\n")
    };
    upstream(Router::new().route("/users/{id}", get(user))).await
}

/// An upstream that does not.
async fn prices() -> Result<SocketAddr, BoxError> {
    upstream(Router::new().fallback(|| async { StatusCode::SERVICE_UNAVAILABLE })).await
}

async fn upstream(routes: Router) -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async { axum::serve(listener, routes).await });
    Ok(address)
}

/// Calls the service as its callers do, and looks at what it shows.
async fn demonstrate(address: SocketAddr) -> Result<(), BoxError> {
    let caller = Pool::builder().build(Tcp::new())?;
    let mut calls = JoinSet::new();
    for (id, path) in (0..50).flat_map(|id| [(id, "users"), (id, "prices")]) {
        let call = caller.get(format!("http://{address}/{path}/{id}")).header("traceparent", TRACE).send();
        calls.spawn(async move {
            let response = call.await?;
            Ok::<_, BoxError>((path, response.status(), response.text().await?))
        });
    }
    let mut seen = BTreeMap::<_, usize>::new();
    while let Some(answered) = calls.join_next().await {
        let (path, status, text) = answered??;
        assert!(!text.contains("127.0.0.1") && !text.contains("secret"), "nothing of ours: {text}");
        assert_eq!(text.contains(TRACE), path == "users", "the caller's trace goes on: {text}");
        let count = seen.entry((path, status.as_u16())).or_default();
        if *count == 0 {
            println!("\n/{path}: {status}\n{}", text.trim_end());
        }
        *count += 1;
    }
    assert_eq!(seen, BTreeMap::from([(("users", 200), 50), (("prices", 502), 50)]));

    let late = caller.get(format!("http://{address}/users/1")).header("x-envoy-expected-rq-timeout-ms", "0");
    assert_eq!(late.send().await?.status(), StatusCode::GATEWAY_TIMEOUT, "nobody waits for it any more");

    let page = caller.get(format!("http://{address}/metrics")).send().await?.text().await?;
    let told = |words: &[&str]| -> f64 {
        let of = |line: &&str| words.iter().all(|word| line.contains(word));
        let numbers = page.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        numbers.reduce(|sum, number| sum + number).unwrap_or_else(|| panic!("nothing is told of {words:?}"))
    };
    println!();
    for name in ["http_client_request_duration_seconds_count", "http_client_open_connections", "outbound_"] {
        page.lines().filter(|line| line.starts_with(name)).for_each(|line| println!("{line}"));
    }
    const ATTEMPTS: &str = "http_client_request_duration_seconds_count";
    assert_eq!(told(&[ATTEMPTS, r#"url_template="/users/{id}""#, r#"status_code="200""#]), 50.0);
    let failed = told(&[ATTEMPTS, r#"url_template="/prices/{id}""#, r#"error_type="503""#]);
    let refused = told(&["outbound_budget_refused_total{"]);
    assert!(
        (51.0..=150.0).contains(&failed) && refused > 0.0,
        "retried, within a budget: {failed}, {refused}"
    );
    assert_eq!(told(&["http_client_active_requests{"]), 0.0);
    assert_eq!(told(&["outbound_limit_in_use{"]), 0.0);
    assert_eq!(told(&["outbound_guard_open{"]), 0.0);
    assert_eq!(told(&["http_client_open_connections{", r#"state="active""#]), 0.0);
    assert!(!page.contains("secret"));
    Ok(())
}

/// What a caller says of its trace (W3C Trace Context).
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
