//! What a limit has to show.

use opentelemetry::{StringValue, metrics::Meter};
use outbound_limit::Stats;
use outbound_telemetry::{Series, Watch};

/// Shows the numbers of a limit, by its `stats`: any of `outbound::limit` has them.
pub fn watch_limit<F>(meter: &Meter, name: impl Into<StringValue>, stats: F) -> Watch<F>
where
    F: Fn() -> Stats + Send + Sync + 'static,
{
    const REQUESTS: &str = "{request}";
    let series = |name, unit, description| Series { name, unit, description };
    Watch::new(meter, name, stats)
        .gauge(
            series("outbound.limit.limit", REQUESTS, "Calls let through at once; of a rate, the burst."),
            |stats, observe| observe(stats().limit as u64, &[]),
        )
        .up_down(series("outbound.limit.in_use", REQUESTS, "Permits that are out."), |stats, observe| {
            observe(stats().in_use as i64, &[]);
        })
        .up_down(
            series("outbound.limit.waiting", REQUESTS, "Calls that wait for a permit."),
            |stats, observe| {
                observe(stats().waiting as i64, &[]);
            },
        )
        .counter(series("outbound.limit.rejected", REQUESTS, "Calls turned away."), |stats, observe| {
            observe(stats().rejected, &[]);
        })
        .seconds(
            series("outbound.limit.longest_wait", "s", "The longest wait that has ended."),
            |stats, observe| {
                observe(stats().longest_wait.as_secs_f64(), &[]);
            },
        )
}
