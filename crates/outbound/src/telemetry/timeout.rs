//! What a runtime has to show.

use opentelemetry::{StringValue, metrics::Meter};
use outbound_telemetry::{Series, Watch};
use outbound_timeout::StallMonitor;

/// Shows how late this runtime ran the timers that `monitor` learns from.
pub fn watch_stalls(
    meter: &Meter,
    name: impl Into<StringValue>,
    monitor: &StallMonitor,
) -> Watch<StallMonitor> {
    let count = Series {
        name: "outbound.stall.count",
        unit: "{stall}",
        description: "Timers that this runtime ran late.",
    };
    let longest =
        Series { name: "outbound.stall.longest", unit: "s", description: "How late a timer was at most." };
    Watch::new(meter, name, monitor.clone())
        .counter(count, |monitor, observe| observe(monitor.count(), &[]))
        .seconds(longest, |monitor, observe| observe(monitor.max().as_secs_f64(), &[]))
}
