//! The instruments that attempts are measured by.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, OnceLock},
};

use opentelemetry::metrics::{Histogram, Meter, UpDownCounter};

/// Made once for a layer; the names, units and boundaries are those of the semantic conventions.
#[derive(Debug)]
pub(crate) struct Instruments {
    pub(crate) meter: Meter,
    pub(crate) duration: Histogram<f64>,
    pub(crate) active: UpDownCounter<i64>,
    pub(crate) time_in_queue: Histogram<f64>,
    pub(crate) request_size: Histogram<u64>,
    pub(crate) response_size: Histogram<u64>,
    pub(crate) hosts: Hosts,
}

/// The names of hosts in the one form that an attribute can share, so that a call need not copy its own.
///
/// A fixed number of places that are filled once and never locked: a host whose place another has costs one allocation per call.
#[derive(Debug)]
pub(crate) struct Hosts([OnceLock<Arc<str>>; PLACES]);

// === Instruments ===

impl Instruments {
    pub(crate) fn new(meter: &Meter) -> Self {
        let seconds = |name, description| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_boundaries(REQUEST_SECONDS.to_vec())
                .with_description(description)
                .build()
        };
        let bytes = |name, description| {
            meter.u64_histogram(name).with_unit("By").with_description(description).build()
        };
        Self {
            meter: meter.clone(),
            duration: seconds("http.client.request.duration", "Duration of HTTP client requests."),
            time_in_queue: seconds(
                "http.client.request.time_in_queue",
                "The amount of time requests spent on a queue waiting for an available connection.",
            ),
            active: meter
                .i64_up_down_counter("http.client.active_requests")
                .with_unit("{request}")
                .with_description("Number of active HTTP requests.")
                .build(),
            request_size: bytes("http.client.request.body.size", "Size of HTTP client request bodies."),
            response_size: bytes("http.client.response.body.size", "Size of HTTP client response bodies."),
            hosts: Hosts([const { OnceLock::new() }; PLACES]),
        }
    }
}

// === Hosts ===

impl Hosts {
    pub(crate) fn get(&self, host: &str) -> Arc<str> {
        let mut hasher = DefaultHasher::new();
        host.hash(&mut hasher);
        let place = &self.0[hasher.finish() as usize % PLACES];
        let kept = place.get_or_init(|| host.into());
        if **kept == *host { kept.clone() } else { host.into() }
    }
}

/// The boundaries that the conventions give for `http.client.request.duration`.
const REQUEST_SECONDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

const PLACES: usize = 64;
