//! What was told: metrics and spans in memory, each series and each span on one line.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{collections::BTreeMap, time::Duration};

use http::Request;
use opentelemetry::{
    KeyValue, Value,
    metrics::{Meter, MeterProvider as _},
    trace::{SpanKind, Status, TracerProvider as _},
};
use opentelemetry_sdk::{
    metrics::{
        InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
        data::{AggregatedMetrics, Metric, MetricData},
    },
    trace::{InMemorySpanExporter, SdkTracerProvider, SpanData},
};
use outbound_telemetry::TelemetryLayer;
use outbound_testkit::TestBody;
use tracing_subscriber::layer::SubscriberExt;

pub(crate) struct Told {
    meters: SdkMeterProvider,
    metrics: InMemoryMetricExporter,
    spans: InMemorySpanExporter,
    _tracers: SdkTracerProvider,
    _subscriber: tracing::subscriber::DefaultGuard,
}

/// A metric as it was exported.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exported {
    pub(crate) kind: &'static str,
    pub(crate) unit: String,
    pub(crate) description: String,
    pub(crate) points: Vec<Point>,
}

/// One series of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Point {
    /// `key=value`, sorted.
    pub(crate) attributes: String,
    /// The sum, of a histogram.
    pub(crate) value: f64,
    pub(crate) count: u64,
    pub(crate) bounds: Vec<f64>,
}

/// A span as it was exported, attributes as `key=value`, sorted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    pub(crate) status: Status,
    pub(crate) attributes: Vec<String>,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
}

impl Told {
    /// Listens on this thread.
    pub(crate) fn new() -> Self {
        let metrics = InMemoryMetricExporter::default();
        let meters =
            SdkMeterProvider::builder().with_reader(PeriodicReader::builder(metrics.clone()).build()).build();
        let spans = InMemorySpanExporter::default();
        let tracers = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
        let bridge = tracing_opentelemetry::layer()
            .with_tracer(tracers.tracer("test"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        let subscriber = outbound_testkit::listening(tracing_subscriber::registry().with(bridge));
        Self { meters, metrics, spans, _tracers: tracers, _subscriber: subscriber }
    }

    pub(crate) fn meter(&self) -> Meter {
        self.meters.meter("test")
    }

    pub(crate) fn layer(&self) -> TelemetryLayer {
        TelemetryLayer::new(&self.meter())
    }

    /// Everything measured so far, by name.
    pub(crate) fn metrics(&self) -> BTreeMap<String, Exported> {
        self.metrics.reset();
        self.meters.force_flush().expect("the exporter is a vector");
        let finished = self.metrics.get_finished_metrics().expect("the exporter is a vector");
        let scopes = finished.iter().flat_map(|resource| resource.scope_metrics());
        scopes
            .flat_map(|scope| scope.metrics())
            .map(|metric| (metric.name().to_owned(), Exported::of(metric)))
            .collect()
    }

    /// The one series of `metric`.
    pub(crate) fn only(&self, metric: &str) -> Point {
        let metrics = self.metrics();
        let points = &metrics.get(metric).unwrap_or_else(|| panic!("no {metric}: {metrics:#?}")).points;
        assert_eq!(points.len(), 1, "{points:#?}");
        points[0].clone()
    }

    /// What is active now, over all series.
    pub(crate) fn active(&self) -> f64 {
        self.metrics().get(ACTIVE).map_or(0.0, |metric| metric.points.iter().map(|point| point.value).sum())
    }

    /// How many attempts have been measured, over all series.
    pub(crate) fn measured(&self) -> usize {
        let metrics = self.metrics();
        let counts =
            metrics.get(DURATION).into_iter().flat_map(|metric| &metric.points).map(|point| point.count);
        usize::try_from(counts.sum::<u64>()).expect("a few")
    }

    /// The spans that have ended so far, in that order.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let finished = self.spans.get_finished_spans().expect("the exporter is a vector");
        finished.iter().map(Span::of).collect()
    }
}

impl Exported {
    fn of(metric: &Metric) -> Self {
        let (kind, points) = match metric.data() {
            AggregatedMetrics::F64(data) => points(data, |value| value),
            AggregatedMetrics::U64(data) => points(data, |value| value as f64),
            AggregatedMetrics::I64(data) => points(data, |value| value as f64),
        };
        let (unit, description) = (metric.unit().to_owned(), metric.description().to_owned());
        Self { kind, unit, description, points }
    }
}

fn points<T: Copy>(data: &MetricData<T>, float: impl Fn(T) -> f64) -> (&'static str, Vec<Point>) {
    let plain = |attributes, value| Point { attributes, value, count: 0, bounds: Vec::new() };
    match data {
        MetricData::Gauge(gauge) => {
            let points = gauge.data_points();
            ("gauge", points.map(|point| plain(line(point.attributes()), float(point.value()))).collect())
        }
        MetricData::Sum(sum) => {
            let points = sum.data_points().map(|point| plain(line(point.attributes()), float(point.value())));
            (if sum.is_monotonic() { "counter" } else { "updowncounter" }, points.collect())
        }
        MetricData::Histogram(histogram) => {
            let points = histogram.data_points().map(|point| Point {
                attributes: line(point.attributes()),
                value: float(point.sum()),
                count: point.count(),
                bounds: point.bounds().collect(),
            });
            ("histogram", points.collect())
        }
        MetricData::ExponentialHistogram(_) => unreachable!("nobody asked for one"),
    }
}

fn line<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> String {
    words(attributes).join(" ")
}

fn words<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> Vec<String> {
    let mut words: Vec<String> = attributes.map(word).collect();
    words.sort();
    words
}

/// `key=value`, whose value is of the type that the conventions give it.
fn word(attribute: &KeyValue) -> String {
    let KeyValue { key, value, .. } = attribute;
    let is_integer = matches!(value, Value::I64(_));
    assert_eq!(is_integer, INTEGERS.contains(&key.as_str()), "the type of {key}: {value:?}");
    assert!(is_integer || matches!(value, Value::String(_)), "the type of {key}: {value:?}");
    format!("{key}={value}")
}

impl Span {
    fn of(span: &SpanData) -> Self {
        Self {
            name: span.name.to_string(),
            kind: span.span_kind.clone(),
            status: span.status.clone(),
            attributes: words(span.attributes.iter()),
            trace: span.span_context.trace_id().to_string(),
            id: span.span_context.span_id().to_string(),
            parent: span.parent_span_id.to_string(),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.attributes.iter().find_map(|attribute| attribute.strip_prefix(key)?.strip_prefix('='))
    }
}

/// To a host that nobody connects to.
pub(crate) fn get(uri: &str) -> Request<TestBody> {
    Request::get(uri).body(TestBody::new()).expect("a URI")
}

pub(crate) fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

pub(crate) const DURATION: &str = "http.client.request.duration";
pub(crate) const ACTIVE: &str = "http.client.active_requests";

const INTEGERS: [&str; 6] = [
    "http.request.body.size",
    "http.request.resend_count",
    "http.response.body.size",
    "http.response.status_code",
    "network.peer.port",
    "server.port",
];
