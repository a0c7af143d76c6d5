//! Numbers of what is not a call.

mod support;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use opentelemetry::KeyValue;
use outbound_telemetry::{Series, Watch};
use support::Told;

const fn series(name: &'static str) -> Series {
    Series { name, unit: "{job}", description: "Jobs." }
}

#[test]
fn a_watch_is_read_at_each_collection() {
    let told = Told::new();
    let watch = Watch::new(&told.meter(), "mail", AtomicU64::new(3))
        .gauge(series("app.limit"), |jobs, observe| observe(jobs.load(Relaxed), &[]))
        .counter(series("app.done"), |jobs, observe| observe(jobs.load(Relaxed), &[]))
        .seconds(series("app.late"), |jobs, observe| observe(jobs.load(Relaxed) as f64 / 2.0, &[]))
        .up_down(series("app.open"), |jobs, observe| {
            observe(jobs.load(Relaxed) as i64, &[KeyValue::new("state", "idle")]);
            observe(-1, &[KeyValue::new("state", "active")]);
        });
    #[rustfmt::skip]
    let rows = [
        ("app.limit", "gauge",         vec![("outbound.name=mail", 1.0)]),
        ("app.done",  "counter",       vec![("outbound.name=mail", 1.0)]),
        ("app.late",  "gauge",         vec![("outbound.name=mail", 0.5)]),
        ("app.open",  "updowncounter", vec![("outbound.name=mail state=active", -1.0), ("outbound.name=mail state=idle", 1.0)]),
    ];
    for (jobs, factor) in [(3, 3.0), (4, 4.0)] {
        watch.subject().store(jobs, Relaxed);
        let metrics = told.metrics();
        for (name, kind, points) in &rows {
            let metric = &metrics[*name];
            assert_eq!(
                (metric.kind, &*metric.unit, &*metric.description),
                (*kind, "{job}", "Jobs."),
                "{name}"
            );
            let mut told: Vec<_> =
                metric.points.iter().map(|point| (&*point.attributes, point.value)).collect();
            told.sort_by(|a, b| a.partial_cmp(b).unwrap());
            let expected: Vec<_> = points
                .iter()
                .map(|&(attributes, value)| (attributes, if value < 0.0 { value } else { value * factor }))
                .collect();
            assert_eq!(told, expected, "{name}");
        }
    }
}

/// Of two that are read under one name, each has its own series.
#[test]
fn two_of_a_kind_are_told_apart() {
    let told = Told::new();
    let watch = |name: &'static str, jobs| {
        Watch::new(&told.meter(), name, jobs).gauge(series("app.limit"), |&jobs, observe| observe(jobs, &[]))
    };
    let _both = [watch("a", 1), watch("b", 2)];
    let mut points: Vec<_> = told.metrics()["app.limit"]
        .points
        .iter()
        .map(|point| (point.attributes.clone(), point.value))
        .collect();
    points.sort_by(|a, b| a.partial_cmp(b).unwrap());
    assert_eq!(points, [("outbound.name=a".to_owned(), 1.0), ("outbound.name=b".to_owned(), 2.0)]);
}

/// It is the watch that holds what is watched, not the meter.
#[test]
fn what_is_watched_goes_with_its_watch() {
    let told = Told::new();
    let subject = std::sync::Arc::new(());
    let watch = Watch::new(&told.meter(), "x", subject.clone())
        .gauge(series("app.limit"), |_, observe| observe(1, &[]));
    assert_eq!(std::sync::Arc::strong_count(&subject), 2);
    drop(watch);
    assert_eq!(std::sync::Arc::strong_count(&subject), 1);
    assert!(!told.metrics().contains_key("app.limit"));
}
