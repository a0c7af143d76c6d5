//! What the parts of a stack have to show.
#![cfg(feature = "telemetry")]

use std::{collections::BTreeMap, time::Duration};

use http::Request;
use http_body_util::BodyExt;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData},
};
use outbound::{
    Body, Pool,
    limit::Limiter,
    pool::connect::Tcp,
    retry::{Budget, Ratio},
    telemetry::{watch_budget, watch_limit, watch_pool, watch_stalls},
    timeout::StallMonitor,
};
use outbound_testkit::{Answer, Gate, Hostile, Script};
use tower::{ServiceBuilder, ServiceExt};

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
    assert_eq!(events.len(), 10);
    assert_eq!((event("opened"), event("waited"), event("reused"), event("lost")), (1.0, 1.0, 0.0, 0.0));

    drop((pool, watch));
    upstream.all_closed().await;
    assert_eq!(
        told.values("http.client.open_connections"),
        [],
        "the watch held the pool, and the meter does not"
    );
}

#[tokio::test(start_paused = true)]
async fn limits_budgets_and_stalls_show_their_numbers() {
    let told = Told::new();
    let limiter = Limiter::new(2);
    let budget = Budget::new(Ratio::default());
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
    let (inner, _probe) = outbound_testkit::Probe::pair([outbound_testkit::Plan::new().never_answers()]);
    let layer = outbound::ConcurrencyLimitLayer::new(limiter).max_waiting(1);
    let service = ServiceBuilder::new().layer(layer).service(inner);
    let call =
        || Box::pin(service.clone().oneshot(Request::get("http://a.example/").body(Body::empty()).unwrap()));
    let mut calls: Vec<_> = (0..4).map(|_| call()).collect();
    for call in &mut calls {
        let _ = tokio::time::timeout(Duration::from_millis(10), call).await;
    }
    #[rustfmt::skip]
    let rows = [
        ("outbound.limit.limit",        "gauge",         "{request}", "users", 2.0),
        ("outbound.limit.in_use",       "updowncounter", "{request}", "users", 2.0),
        ("outbound.limit.waiting",      "updowncounter", "{request}", "users", 1.0),
        ("outbound.limit.rejected",     "counter",       "{request}", "users", 1.0),
        ("outbound.limit.longest_wait", "gauge",         "s",         "users", 0.0),
        ("outbound.budget.refused",     "counter",       "{attempt}", "users", 0.0),
        ("outbound.stall.count",        "counter",       "{stall}",   "main",  0.0),
        ("outbound.stall.longest",      "gauge",         "s",         "main",  0.0),
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

struct Told {
    meters: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

type Series = Vec<(String, f64)>;

impl Told {
    fn new() -> Self {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone()).build();
        Self { meters: SdkMeterProvider::builder().with_reader(reader).build(), exporter }
    }

    fn meter(&self) -> Meter {
        self.meters.meter("test")
    }

    /// Kind, unit and series of each metric.
    fn metrics(&self) -> BTreeMap<String, (&'static str, String, Series)> {
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
                (metric.name().to_owned(), (kind, metric.unit().to_owned(), series))
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
    let line = |attributes: &mut dyn Iterator<Item = &opentelemetry::KeyValue>| {
        let mut words: Vec<_> =
            attributes.map(|attribute| format!("{}={}", attribute.key, attribute.value)).collect();
        words.sort();
        words.join(" ")
    };
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
        other => panic!("nobody asked for {other:?}"),
    }
}
