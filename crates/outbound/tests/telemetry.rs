//! What the parts of a stack have to show.
#![cfg(feature = "telemetry")]

use std::{collections::BTreeMap, fmt::Debug, num::NonZeroU32, time::Duration};

use http::Request;
use http_body_util::BodyExt;
use opentelemetry::{
    KeyValue,
    metrics::{Meter, MeterProvider},
    trace::{SpanKind, TracerProvider},
};
use opentelemetry_sdk::{
    metrics::{
        InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
        data::{AggregatedMetrics, Metric, MetricData},
    },
    trace::{InMemorySpanExporter, SdkTracerProvider},
};
use outbound::{
    Body, Client, ClientExt, Construction, Pool, ResponseExt, TelemetryLayer,
    guard::LeakGuardLayer,
    limit::Limiter,
    pool::connect::{Matcher, Tcp, Tls, webpki_roots},
    retry::{Backoff, Budget, Ratio, RetryLayer},
    telemetry::{count_closings, watch_budget, watch_guard, watch_limit, watch_pool, watch_stalls},
    timeout::{StallMonitor, TimeoutLayer},
};
use outbound_testkit::{Answer, BlackHole, Gate, Hostile, Plan, Probe, Refusal, Script, TestBody};
use tower::{Layer, ServiceBuilder, ServiceExt};
use tracing_subscriber::layer::SubscriberExt;

#[tokio::test]
async fn a_pool_shows_its_connections() {
    let gate = Gate::new("the rest of the body");
    let held =
        Script::new().read_head().respond(Answer::new(200, "hello").cut_body(2)).wait(&gate).write("llo");
    let upstream = Hostile::new(held.stall()).start();
    let port = upstream.addr().port();
    let told = Told::new();
    let pool = Pool::builder().max_connections(1).build(Tcp::new()).unwrap();
    let watch = watch_pool(&told.meter(), "users", &pool);
    assert_eq!(told.values("http.client.open_connections"), []);

    let get = || Request::get(upstream.uri("/")).body(Body::empty()).unwrap();
    let response = pool.clone().oneshot(get()).await.unwrap();
    let waiting = tokio::spawn(pool.clone().oneshot(get()));
    while pool.stats().waiting == 0 {
        tokio::task::yield_now().await;
    }
    let server = format!("outbound.name=users server.address=127.0.0.1 server.port={port}");
    let of = |state: &str, value| (format!("http.connection.state={state} {server}"), value);
    assert_eq!(told.values("http.client.open_connections"), [of("active", 1.0), of("idle", 0.0)]);
    assert_eq!(told.values("outbound.pool.waiting"), [(server.clone(), 1.0)]);
    assert_eq!(told.values("outbound.pool.exchanges"), [("outbound.name=users".to_owned(), 1.0)]);
    waiting.abort();
    let _ = waiting.await;

    gate.open();
    response.into_body().collect().await.unwrap();
    assert_eq!(told.values("http.client.open_connections"), [of("active", 0.0), of("idle", 1.0)]);
    assert_eq!(told.values("outbound.pool.waiting"), [(server.clone(), 0.0)]);
    let events = told.values("outbound.pool.events");
    let event = |name: &str| {
        let attributes = format!("outbound.name=users outbound.pool.event={name}");
        events.iter().find(|event| event.0 == attributes).unwrap_or_else(|| panic!("{name}: {events:?}")).1
    };
    let names = fields(&pool.stats().totals);
    assert_eq!(events.len(), names.len(), "each of {names:?}");
    for name in names {
        let expected = if ["dialed", "opened", "waited"].contains(&&*name) { 1.0 } else { 0.0 };
        assert_eq!(event(&name), expected, "{name}");
    }

    drop((pool, watch));
    upstream.all_closed().await;
    assert_eq!(
        told.values("http.client.open_connections"),
        [],
        "the watch held the pool, and the meter does not"
    );
}

/// A connection that has served enough, as the pool counts it.
#[tokio::test]
async fn a_retired_connection_is_an_event() {
    let upstream = Hostile::new(Script::new().exchange(Answer::new(200, "hello")).stall()).start();
    let told = Told::new();
    let pool = Pool::builder().max_requests_per_connection(1).build(Tcp::new()).unwrap();
    let _watch = watch_pool(&told.meter(), "users", &pool);
    let request = Request::get(upstream.uri("/")).body(Body::empty()).unwrap();
    pool.clone().oneshot(request).await.unwrap().into_body().collect().await.unwrap();
    upstream.all_closed().await;
    let retired = ("outbound.name=users outbound.pool.event=retired".to_owned(), 1.0);
    assert!(told.values("outbound.pool.events").contains(&retired));
}

/// By the server alone, as its attributes are: http and https at one port are two origins, and the sum of both.
#[tokio::test]
async fn connections_that_are_being_opened_are_counted_by_their_server() {
    let (told, nobody) = (Told::new(), BlackHole::new());
    let pool = Pool::builder().build(Tls::new(Tcp::new(), webpki_roots())).unwrap();
    let _watch = watch_pool(&told.meter(), "users", &pool);
    let call = |scheme| {
        let request = Request::get(format!("{scheme}://{}/", nobody.addr())).body(Body::empty()).unwrap();
        tokio::spawn(pool.clone().oneshot(request))
    };
    let calls = ["http", "https"].map(call);
    while pool.stats().connections.dialing < 2 {
        tokio::task::yield_now().await;
    }
    let name = "outbound.name=users";
    let server = format!("server.address=127.0.0.1 server.port={}", nobody.addr().port());
    let unusable = [("closing", 0.0), ("dialing", 2.0)];
    let unusable =
        unusable.map(|(state, count)| (format!("{name} outbound.pool.state={state} {server}"), count));
    assert_eq!(told.values("outbound.pool.unusable"), unusable);
    let open =
        ["active", "idle"].map(|state| (format!("http.connection.state={state} {name} {server}"), 0.0));
    assert_eq!(told.values("http.client.open_connections"), open);
    assert_eq!(told.values("outbound.pool.waiting"), [(format!("{name} {server}"), 0.0)]);
    calls.iter().for_each(|call| call.abort());
}

/// Each connection that goes, by the reason; the future ends with the pool, which it does not keep.
#[tokio::test]
async fn closings_are_counted_by_their_reason() {
    let told = Told::new();
    let cut = Script::new().read_head().respond(Answer::new(200, "hello").cut_body(2)).stall();
    let whole = Script::new().exchange(Answer::new(200, "hello")).stall();
    let (upstream, nobody) = (Hostile::new(cut).then(whole).start(), Refusal::new());
    let pool = Pool::builder().build(Tcp::new()).unwrap();
    let counting = tokio::spawn(count_closings(&told.meter(), "users", &pool));
    let get =
        |addr| pool.clone().oneshot(Request::get(format!("http://{addr}/")).body(Body::empty()).unwrap());
    get(nobody.addr()).await.unwrap_err();
    drop(get(upstream.addr()).await.unwrap());
    get(upstream.addr()).await.unwrap().into_body().collect().await.unwrap();
    drop(pool);
    counting.await.unwrap();

    let closed = [("not_opened", nobody.addr()), ("shutdown", upstream.addr()), ("spent", upstream.addr())];
    let closed = closed.map(|(reason, addr)| {
        let server = format!("server.address=127.0.0.1 server.port={}", addr.port());
        (format!("outbound.name=users outbound.pool.reason={reason} {server}"), 1.0)
    });
    let series = ("counter", "{connection}".to_owned(), closed.to_vec());
    assert_eq!(told.metrics()["outbound.pool.closed"], series);
}

/// The preset has all of it by one setting: a span and a measurement of each attempt, its connections, and its parts.
#[tokio::test]
async fn a_client_tells_of_itself() {
    let told = Told::new();
    let busy = || Answer::new(503, "busy");
    let script = Script::new().exchange(busy()).exchange(busy()).exchange(Answer::new(200, "hello")).stall();
    let upstream = Hostile::new(script).start();
    let soon = Backoff::new(Duration::from_millis(1), Duration::from_millis(1)).unwrap();
    let client = Client::builder()
        .proxy(Matcher::builder().build())
        .backoff(soon)
        .concurrency(5)
        .telemetry("users", TelemetryLayer::new(&told.meter()))
        .build()
        .unwrap();
    assert_eq!(told.spans(), [""; 0]);

    let get = client.get(upstream.uri("/users/7?key=secret")).url_template("/users/{id}");
    let response = get.send().await.unwrap();
    let port = upstream.addr().port();
    let name = || "outbound.name=users".to_owned();
    let server = format!("server.address=127.0.0.1 server.port={port}");
    let request = format!("http.request.method=GET {server} url.template=/users/{{id}}");
    assert_eq!(
        told.values("http.client.active_requests"),
        [(request.clone(), 1.0)],
        "its body has not ended"
    );
    assert_eq!(told.values("outbound.limit.in_use"), [(name(), 1.0)]);
    let body = |count| (format!("outbound.guard.stage=body {}", name()), count);
    assert!(told.values("outbound.guard.open").contains(&body(1.0)));
    assert_eq!(response.text().await.unwrap(), "hello");

    // Each attempt is a span; the first is no resend.
    let attempt = |status: u16, resend: &str| {
        let error = if status == 200 { String::new() } else { format!("error.type={status} ") };
        format!(
            "GET /users/{{id}}: {error}http.request.method=GET{resend} http.response.status_code={status} \
             network.peer.address=127.0.0.1 network.peer.port={port} network.protocol.version=1.1 {server} \
             url.full=http://127.0.0.1:{port}/users/7 url.template=/users/{{id}}"
        )
    };
    let resend = |count: u8| format!(" http.request.resend_count={count}");
    assert_eq!(told.spans(), [attempt(503, ""), attempt(503, &resend(1)), attempt(200, &resend(2))]);

    // As many are measured, by how they ended.
    let ended = |error: &str, status: u16| {
        format!(
            "{error}http.request.method=GET http.response.status_code={status} network.protocol.version=1.1 {server} \
             url.template=/users/{{id}}"
        )
    };
    let durations = [(ended("error.type=503 ", 503), 2.0), (ended("", 200), 1.0)];
    assert_eq!(told.values("http.client.request.duration"), durations);
    assert_eq!(told.values("http.client.active_requests"), [(request, 0.0)]);
    let idle = |state, count| (format!("http.connection.state={state} {} {server}", name()), count);
    assert_eq!(told.values("http.client.open_connections"), [idle("active", 0.0), idle("idle", 1.0)]);
    #[rustfmt::skip]
    let rows = [
        ("http.client.active_requests",       "updowncounter {request}",    "Number of active HTTP requests."),
        ("http.client.open_connections",      "updowncounter {connection}", "Number of outbound HTTP connections that are currently active or idle on the client."),
        ("http.client.request.duration",      "histogram s",                "Duration of HTTP client requests."),
        ("http.client.request.time_in_queue", "histogram s",                "The amount of time requests spent on a queue waiting for an available connection."),
        ("outbound.budget.refused",           "counter {attempt}",          "Retries that the budget did not pay for."),
        ("outbound.guard.held",               "updowncounter {request}",    "Of those that are open, those that nobody polls though there is something to poll them for."),
        ("outbound.guard.leaks",              "counter {leak}",             "What has been found since the guard was made."),
        ("outbound.guard.oldest",             "gauge s",                    "The age of the oldest that is open."),
        ("outbound.guard.open",               "updowncounter {request}",    "Calls whose response is to come, and response bodies with their callers."),
        ("outbound.limit.in_use",             "updowncounter {request}",    "Permits that are out."),
        ("outbound.limit.limit",              "gauge {request}",            "Calls let through at once; of a rate, the burst."),
        ("outbound.limit.longest_wait",       "gauge s",                    "The longest wait that has ended."),
        ("outbound.limit.rejected",           "counter {request}",          "Calls turned away."),
        ("outbound.limit.waiting",            "updowncounter {request}",    "Calls that wait for a permit."),
        ("outbound.pool.events",              "counter {event}",            "What has happened since the pool was built."),
        ("outbound.pool.exchanges",           "updowncounter {request}",    "Exchanges that go on: an HTTP/2 connection may carry several."),
        ("outbound.pool.unusable",            "updowncounter {connection}", "Connections that are not yet open, and not yet closed."),
        ("outbound.pool.waiting",             "updowncounter {request}",    "Calls that wait for a connection, and have none being opened for them."),
        ("outbound.stall.count",              "counter {stall}",            "Timers that this runtime ran late."),
        ("outbound.stall.longest",            "gauge s",                    "How late a timer was at most."),
    ];
    let rows = rows.map(|(name, kind, what)| (name.to_owned(), format!("{kind}: {what}")));
    assert_eq!(told.described().into_iter().collect::<Vec<_>>(), rows);

    // A clone is the client still; with the last of them its gauges go.
    drop(client.clone());
    assert_eq!(told.values("outbound.limit.limit"), [(name(), 5.0)]);
    drop(client);
    upstream.all_closed().await;
    let lasted = told.values("http.client.connection.duration");
    assert_eq!(lasted, [(server, 1.0)], "one connection carried them all");
    let left: Vec<_> = told.metrics().into_keys().filter(|metric| metric.starts_with("outbound.")).collect();
    assert_eq!(left, [""; 0]);
}

/// What a redirect leads to is another path, perhaps another's: it does not go by the template of the first.
#[tokio::test]
async fn a_redirect_that_is_followed_has_a_url_of_its_own() {
    let ends = |script: Script| {
        script.exchange(Answer::new(503, "busy")).exchange(Answer::new(200, "hello")).stall()
    };
    for name in ["the same origin", "another"] {
        let told = Told::new();
        let elsewhere = Hostile::new(ends(Script::new())).start();
        let moved = |to: &str| Script::new().exchange(Answer::new(302, "").header("location", to));
        let script = match name {
            "another" => moved(&elsewhere.uri("/items/7").to_string()).stall(),
            _ => ends(moved("/items/7")),
        };
        let upstream = Hostile::new(script).start();
        let client = Client::builder()
            .proxy(Matcher::builder().build())
            .redirects(1)
            .telemetry("users", TelemetryLayer::new(&told.meter()))
            .build()
            .unwrap();
        let get = client.get(upstream.uri("/users/7")).url_template("/users/{id}");
        assert_eq!(get.send().await.unwrap().text().await.unwrap(), "hello", "{name}");
        let spans = told.spans();
        let told: Vec<_> = spans
            .iter()
            .map(|span| {
                let told = |words| span.contains(words);
                (
                    span.split(": ").next().unwrap(),
                    told("url.template=/users/{id}"),
                    told("http.request.resend_count=1"),
                )
            })
            .collect();
        let expected = [("GET /users/{id}", true, false), ("GET", false, false), ("GET", false, true)];
        assert_eq!(told, expected, "{name}: {spans:?}");
    }
}

/// A timer of an attempt that this runtime was late to look at is one of the client's stalls.
#[tokio::test]
async fn a_client_tells_how_late_its_runtime_was() {
    let (told, goes) = (Told::new(), Gate::new("goes"));
    let script = Script::new().read_head().wait(&goes).respond(Answer::new(200, "hello")).stall();
    let upstream = Hostile::new(script).start();
    let client = Client::builder()
        .proxy(Matcher::builder().build())
        .head_timeout(Duration::from_secs(60))
        .telemetry("users", TelemetryLayer::new(&told.meter()))
        .build()
        .unwrap();
    let stalls = || told.values("outbound.stall.count");
    assert_eq!(stalls(), [("outbound.name=users".to_owned(), 0.0)]);
    let call = tokio::spawn(client.get(upstream.uri("/")).send());
    goes.arrived(1).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(90)).await;
    tokio::time::resume();
    goes.open();
    call.await.unwrap().unwrap();
    assert_eq!(stalls(), [("outbound.name=users".to_owned(), 1.0)]);
}

/// Without the setting, and with telemetry that is off, nothing is told.
#[tokio::test]
async fn a_client_tells_nothing_unless_it_is_asked_to() {
    let told = Told::new();
    let none = Client::builder().proxy(Matcher::builder().build());
    let off = Client::builder().proxy(Matcher::builder().build()).telemetry("users", TelemetryLayer::off());
    for client in [none, off] {
        let upstream = Hostile::new(Script::new().exchange(Answer::new(200, "hello")).stall()).start();
        let client = client.build().unwrap();
        assert_eq!(client.get(upstream.uri("/")).send().await.unwrap().text().await.unwrap(), "hello");
        drop(client);
        upstream.all_closed().await;
        assert_eq!((told.spans().len(), told.metrics().len()), (0, 0));
        assert_eq!(upstream.sightings().requests[0].headers.keys().len(), 2, "host and accept-encoding");
    }
}

/// On the real clock: the meter collects on a thread of its own, which knows of no other.
#[tokio::test]
async fn a_leak_guard_shows_what_it_sees() {
    let told = Told::new();
    let builder = LeakGuardLayer::builder().held(Duration::ZERO);
    let (layer, detector) = builder.churn(NonZeroU32::new(2).unwrap(), Duration::MAX).pair();
    let _watch = watch_guard(&told.meter(), "users", &detector);
    let body = || Plan::new().body(TestBody::new().data("01234").data("56789"));
    let (inner, _probe) = Probe::pair([body(), body(), body(), Plan::new().never_answers()]);
    let service = layer.layer(inner);
    let get = || Request::get("http://a.example/").body(TestBody::new()).unwrap();
    let call = || Box::pin(service.clone().oneshot(get()));
    let held = (call().await.unwrap(), call().await.unwrap());
    drop(call().await.unwrap());
    let waiting = tokio::spawn(call());
    for _ in 0..2 {
        Construction::announce("client");
    }
    while detector.stats().totals.held < 2 {
        tokio::task::yield_now().await;
    }

    let alone = || "outbound.name=users".to_owned();
    let of = |key: &str, value: &str| format!("outbound.guard.{key}={value} outbound.name=users");
    let leaks = |held, returned, abandoned| -> Series {
        let found = [("held", held), ("returned", returned), ("abandoned", abandoned), ("churn", 1.0)];
        let mut kinds: Vec<_> =
            fields(&detector.stats().totals).iter().map(|name| name.replace("clients_", "client_")).collect();
        kinds.sort();
        let count = |kind: &str| found.iter().find(|found| found.0 == kind).map_or(0.0, |found| found.1);
        kinds.iter().map(|kind| (of("leak", kind), count(kind))).collect()
    };
    #[rustfmt::skip]
    let rows = [
        ("outbound.guard.open",  "updowncounter", "{request}", vec![(of("stage", "body"), 2.0), (of("stage", "call"), 1.0)]),
        ("outbound.guard.held",  "updowncounter", "{request}", vec![(alone(), 2.0)]),
        ("outbound.guard.leaks", "counter",       "{leak}",    leaks(2.0, 0.0, 1.0)),
    ];
    let mut metrics = told.metrics();
    let (kind, unit, oldest) = metrics.remove("outbound.guard.oldest").unwrap();
    assert_eq!((kind, &*unit, oldest.len()), ("gauge", "s", 1));
    assert!(oldest[0].0 == alone() && oldest[0].1 > 0.0, "{oldest:?}");
    assert_eq!(metrics.len(), rows.len());
    for (name, kind, unit, series) in rows {
        assert_eq!(metrics[name], (kind, unit.to_owned(), series), "{name}");
    }

    waiting.abort();
    let _ = waiting.await;
    drop(held);
    let zero = ["open", "held", "oldest"].map(|name| told.values(&format!("outbound.guard.{name}")));
    assert_eq!(zero.concat().iter().map(|series| series.1).collect::<Vec<_>>(), [0.0; 4], "back to zero");
    assert_eq!(told.values("outbound.guard.leaks"), leaks(2.0, 2.0, 3.0));
}

#[tokio::test(start_paused = true)]
async fn limits_budgets_and_stalls_show_their_numbers() {
    let told = Told::new();
    let limiter = Limiter::new(2);
    let budget = Budget::new(Ratio::default().percent(0).floor(0));
    let monitor = StallMonitor::new();
    let stats = {
        let limiter = limiter.clone();
        move || limiter.stats()
    };
    let _watches = (
        watch_limit(&told.meter(), "users", stats),
        watch_budget(&told.meter(), "users", &budget),
        watch_stalls(&told.meter(), "main", &monitor),
    );
    let (inner, _probe) = Probe::pair([Plan::new().never_answers()]);
    let layer = outbound::ConcurrencyLimitLayer::new(limiter).max_waiting(1);
    let service = ServiceBuilder::new().layer(layer).service(inner);
    let call =
        || Box::pin(service.clone().oneshot(Request::get("http://a.example/").body(Body::empty()).unwrap()));
    let mut calls: Vec<_> = (0..4).map(|_| call()).collect();
    for call in &mut calls {
        let _ = tokio::time::timeout(Duration::from_millis(10), call).await;
    }
    // A retry that nobody pays for, and a timer that is looked at five seconds late.
    let get = || Request::get("http://a.example/").body(Body::empty()).unwrap();
    let (failing, _probe) = Probe::pair([Plan::new().status(503)]);
    RetryLayer::default().budget(budget.clone()).layer(failing).oneshot(get()).await.unwrap();
    let (silent, _probe) = Probe::pair([Plan::new().never_answers()]);
    let timed = TimeoutLayer::new(Duration::from_secs(10)).stall_monitor(&monitor).layer(silent);
    let waiting = tokio::spawn(timed.oneshot(get()));
    tokio::task::yield_now().await;
    tokio::time::advance(Duration::from_secs(15)).await;
    while monitor.count() == 0 {
        tokio::task::yield_now().await;
    }
    waiting.abort();
    #[rustfmt::skip]
    let rows = [
        ("outbound.limit.limit",        "gauge",         "{request}", "users", 2.0),
        ("outbound.limit.in_use",       "updowncounter", "{request}", "users", 2.0),
        ("outbound.limit.waiting",      "updowncounter", "{request}", "users", 1.0),
        ("outbound.limit.rejected",     "counter",       "{request}", "users", 1.0),
        ("outbound.limit.longest_wait", "gauge",         "s",         "users", 0.0),
        ("outbound.budget.refused",     "counter",       "{attempt}", "users", 1.0),
        ("outbound.stall.count",        "counter",       "{stall}",   "main",  1.0),
        ("outbound.stall.longest",      "gauge",         "s",         "main",  5.0),
    ];
    let metrics = told.metrics();
    assert_eq!(metrics.len(), rows.len());
    for (name, kind, unit, of, value) in rows {
        let expected = (kind, unit.to_owned(), vec![(format!("outbound.name={of}"), value)]);
        assert_eq!(metrics[name], expected, "{name}");
    }
    drop(calls);
    let values = ["in_use", "waiting"].map(|name| told.values(&format!("outbound.limit.{name}"))[0].1);
    assert_eq!(values, [0.0, 0.0], "back to zero");
    assert!(told.values("outbound.limit.longest_wait")[0].1 > 0.0);
}

/// The names of a struct's fields, all of which are numbers: so that one that is added is not left out.
fn fields(numbers: &impl Debug) -> Vec<String> {
    let printed = format!("{numbers:#?}");
    printed.lines().filter_map(|line| Some(line.trim().split_once(": ")?.0.to_owned())).collect()
}

struct Told {
    meters: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
    spans: InMemorySpanExporter,
    _tracers: SdkTracerProvider,
    _subscriber: tracing::subscriber::DefaultGuard,
}

type Series = Vec<(String, f64)>;

impl Told {
    fn new() -> Self {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone()).build();
        let spans = InMemorySpanExporter::default();
        let tracers = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
        let bridge = tracing_opentelemetry::layer()
            .with_tracer(tracers.tracer("test"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        Self {
            meters: SdkMeterProvider::builder().with_reader(reader).build(),
            exporter,
            spans,
            _tracers: tracers,
            _subscriber: outbound_testkit::listening(tracing_subscriber::registry().with(bridge)),
        }
    }

    /// The CLIENT spans that have ended, with their attributes.
    fn spans(&self) -> Vec<String> {
        let finished = self.spans.get_finished_spans().unwrap();
        let clients = finished.iter().filter(|span| span.span_kind == SpanKind::Client);
        clients.map(|span| format!("{}: {}", span.name, line(&mut span.attributes.iter()))).collect()
    }

    fn meter(&self) -> Meter {
        self.meters.meter("test")
    }

    /// Kind, unit and description of each metric.
    fn described(&self) -> BTreeMap<String, String> {
        let of = |metric: &Metric, kind, _| format!("{kind} {}: {}", metric.unit(), metric.description());
        self.exported(of)
    }

    /// Kind, unit and series of each metric.
    fn metrics(&self) -> BTreeMap<String, (&'static str, String, Series)> {
        self.exported(|metric, kind, series| (kind, metric.unit().to_owned(), series))
    }

    fn exported<T>(&self, of: impl Fn(&Metric, &'static str, Series) -> T) -> BTreeMap<String, T> {
        self.exporter.reset();
        self.meters.force_flush().unwrap();
        let finished = self.exporter.get_finished_metrics().unwrap();
        let scopes = finished.iter().flat_map(|resource| resource.scope_metrics());
        let metrics = scopes.flat_map(|scope| scope.metrics());
        metrics
            .map(|metric| {
                let (kind, mut series) = match metric.data() {
                    AggregatedMetrics::F64(data) => points(data, |value| value),
                    AggregatedMetrics::U64(data) => points(data, |value| value as f64),
                    AggregatedMetrics::I64(data) => points(data, |value| value as f64),
                };
                series.sort_by(|a, b| a.0.cmp(&b.0));
                (metric.name().to_owned(), of(metric, kind, series))
            })
            .collect()
    }

    fn values(&self, metric: &str) -> Series {
        self.metrics().remove(metric).map(|(_, _, series)| series).unwrap_or_default()
    }
}

fn points<T: Copy + std::fmt::Debug>(
    data: &MetricData<T>,
    float: impl Fn(T) -> f64,
) -> (&'static str, Series) {
    match data {
        MetricData::Gauge(gauge) => {
            let points = gauge.data_points();
            ("gauge", points.map(|point| (line(&mut point.attributes()), float(point.value()))).collect())
        }
        MetricData::Sum(sum) => {
            let points = sum.data_points();
            let kind = if sum.is_monotonic() { "counter" } else { "updowncounter" };
            (kind, points.map(|point| (line(&mut point.attributes()), float(point.value()))).collect())
        }
        MetricData::Histogram(histogram) => {
            let points = histogram.data_points();
            let counts = points.map(|point| (line(&mut point.attributes()), point.count() as f64));
            ("histogram", counts.collect())
        }
        other => panic!("nobody asked for {other:?}"),
    }
}

fn line(attributes: &mut dyn Iterator<Item = &KeyValue>) -> String {
    let mut words: Vec<_> =
        attributes.map(|attribute| format!("{}={}", attribute.key, attribute.value)).collect();
    words.sort();
    words.join(" ")
}
