//! What a leak guard has to show.

use opentelemetry::{KeyValue, StringValue, metrics::Meter};
use outbound_guard::{LeakDetector, Totals};
use outbound_telemetry::{Series, Watch};

/// Shows what `detector` sees, as long as the watch is kept; and so long that keeps the detector, too.
///
/// Each collection looks at every call that is open.
pub fn watch_guard(
    meter: &Meter,
    name: impl Into<StringValue>,
    detector: &LeakDetector,
) -> Watch<LeakDetector> {
    Watch::new(meter, name, detector.clone())
        .up_down(OPEN, |detector, observe| {
            let stats = detector.stats();
            for (stage, count) in [("call", stats.calls), ("body", stats.bodies)] {
                observe(count as i64, &[KeyValue::new("outbound.guard.stage", stage)]);
            }
        })
        .up_down(HELD, |detector, observe| observe(detector.stats().held as i64, &[]))
        .seconds(OLDEST, |detector, observe| {
            observe(detector.stats().oldest.unwrap_or_default().as_secs_f64(), &[]);
        })
        .counter(LEAKS, |detector, observe| {
            let Totals {
                held,
                returned,
                abandoned,
                forgotten,
                reclaimed,
                churn,
                clients_dropped,
                descriptors,
                ..
            } = detector.stats().totals;
            for (leak, count) in [
                ("held", held),
                ("returned", returned),
                ("abandoned", abandoned),
                ("forgotten", forgotten),
                ("reclaimed", reclaimed),
                ("churn", churn),
                ("client_dropped", clients_dropped),
                ("descriptors", descriptors),
            ] {
                observe(count, &[KeyValue::new("outbound.guard.leak", leak)]);
            }
        })
}

const OPEN: Series = Series {
    name: "outbound.guard.open",
    unit: "{request}",
    description: "Calls whose response is to come, and response bodies with their callers.",
};
const HELD: Series = Series {
    name: "outbound.guard.held",
    unit: "{request}",
    description: "Of those that are open, those that nobody polls though there is something to poll them for.",
};
const OLDEST: Series =
    Series { name: "outbound.guard.oldest", unit: "s", description: "The age of the oldest that is open." };
const LEAKS: Series = Series {
    name: "outbound.guard.leaks",
    unit: "{leak}",
    description: "What has been found since the guard was made.",
};
