//! What is told while it happens.

use std::{
    fmt::{Debug, Write},
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use outbound_core::Deadline;
use outbound_retry::{Backoff, Budget, Jitter, Ratio, RetryLayer, Standard};
use outbound_testkit::{Plan, Probe, TestBody};
use tower::{Layer, ServiceExt};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

const SECOND: Duration = Duration::from_secs(1);

/// Writes each event down, a line each.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<String>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.0 = format!("{value:?}{}", self.0),
            name => write!(self.0, " {name}={value:?}").unwrap(),
        }
    }
}

impl Subscriber for Notes {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("outbound_retry")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        writeln!(self.0.lock().unwrap(), "{} {}", event.metadata().level(), line.0).unwrap();
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn retrying_and_gave_up_say_why() {
    let backoff = Backoff::new(SECOND, 60 * SECOND).unwrap().jitter(Jitter::None);
    let layer = RetryLayer::new(Standard::default().backoff(backoff));
    let two = layer.clone().max_attempts(NonZeroU32::new(2).unwrap());
    let poor = layer.clone().budget(Budget::new(Ratio::default().percent(0).floor(0)));
    let unavailable = || Plan::new().status(503);
    let table = [
        ("success", &layer, Plan::new(), "GET", Deadline::NEVER, ""),
        ("not found", &layer, Plan::new().status(404), "GET", Deadline::NEVER, ""),
        (
            "attempts",
            &two,
            unavailable(),
            "GET",
            Deadline::NEVER,
            "DEBUG retrying origin=http://a attempt=1 status=503 wait=1s\n\
             INFO gave up origin=http://a attempt=2 status=503 reason=attempts wait=None\n",
        ),
        (
            "error",
            &layer,
            Plan::new().error("broken"),
            "POST",
            Deadline::NEVER,
            "INFO gave up origin=http://a attempt=1 error=\"other\" reason=not_idempotent wait=None\n",
        ),
        (
            "budget",
            &poor,
            unavailable(),
            "GET",
            Deadline::NEVER,
            "INFO gave up origin=http://a attempt=1 status=503 reason=budget wait=None\n",
        ),
        (
            "deadline",
            &layer,
            unavailable(),
            "GET",
            Deadline::after(SECOND),
            "INFO gave up origin=http://a attempt=1 status=503 reason=deadline wait=Some(1s)\n",
        ),
    ];
    let notes = Notes::default();
    let _guard = outbound_testkit::listening(notes.clone());
    for (name, layer, plan, method, deadline, expected) in table {
        let uri = "http://user:secret@a/path?secret";
        let mut request = Request::builder().method(method).uri(uri).body(TestBody::new()).unwrap();
        deadline.tighten(&mut request);
        let (probe, _) = Probe::pair([plan]);
        let _ = layer.layer(probe).oneshot(request).await;
        assert_eq!(std::mem::take(&mut *notes.0.lock().unwrap()), expected, "{name}");
    }
}
