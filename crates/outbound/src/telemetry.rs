//! OpenTelemetry: spans and measurements of attempts, and what the parts of a stack have to show besides.
//!
//! [`TelemetryLayer`] tells of attempts, [`ConnectionsLayer`] of connections' lifetimes. The rest is read whenever the meter collects,
//! as long as the [`Watch`] is kept that each of these functions returns:
//!
//! | metric | kind, unit | told apart by | what it is | by |
//! |---|---|---|---|---|
//! | `http.client.open_connections` | up-down counter, `{connection}` | `http.connection.state` (`active`, `idle`), `server.address`, `server.port` | connections that carry an exchange, and that are free | [`watch_pool`] |
//! | `outbound.pool.unusable` | up-down counter, `{connection}` | `outbound.pool.state` (`dialing`, `closing`), `server.address`, `server.port` | connections that are not yet open, and not yet closed: they count against the limits too | [`watch_pool`] |
//! | `outbound.pool.waiting` | up-down counter, `{request}` | `server.address`, `server.port` | calls that wait for a connection, and have none being opened for them | [`watch_pool`] |
//! | `outbound.pool.events` | counter, `{event}` | `outbound.pool.event`: a field of [`Totals`](crate::pool::Totals) | what has happened since the pool was built | [`watch_pool`] |
//! | `outbound.limit.limit` | gauge, `{request}` | | calls let through at once; of a rate, the burst | [`watch_limit`] |
//! | `outbound.limit.in_use` | up-down counter, `{request}` | | permits that are out | [`watch_limit`] |
//! | `outbound.limit.waiting` | up-down counter, `{request}` | | calls that wait for one | [`watch_limit`] |
//! | `outbound.limit.rejected` | counter, `{request}` | | calls turned away | [`watch_limit`] |
//! | `outbound.limit.longest_wait` | gauge, `s` | | the longest wait that has ended | [`watch_limit`] |
//! | `outbound.budget.refused` | counter, `{attempt}` | | retries that the budget did not pay for | [`watch_budget`] |
//! | `outbound.stall.count` | counter, `{stall}` | | timers that this runtime ran late | [`watch_stalls`] |
//! | `outbound.stall.longest` | gauge, `s` | | how late at most | [`watch_stalls`] |
//!
//! All of them have the attribute `outbound.name`, too.
//!
//! ```
//! use opentelemetry::global::meter;
//! use outbound::{Pool, limit::Limiter, pool::connect::Tcp, telemetry};
//!
//! let (meter, pool, limiter) = (meter("outbound"), Pool::builder().build(Tcp::new())?, Limiter::new(64));
//! let watches = (
//!     telemetry::watch_pool(&meter, "users", &pool),
//!     telemetry::watch_limit(&meter, "users", move || limiter.stats()),
//! );
//! # assert_eq!(watches.0.subject().stats().waiting, 0);
//! # Ok::<(), outbound::BoxError>(())
//! ```

pub use outbound_telemetry::*;

use opentelemetry::{StringValue, metrics::Meter};

#[cfg(feature = "pool")]
mod pool;

#[cfg(feature = "pool")]
pub use pool::watch_pool;

/// Shows the numbers of a limit, by its `stats`: any of `outbound::limit` has them.
#[cfg(feature = "limit")]
pub fn watch_limit<F>(meter: &Meter, name: impl Into<StringValue>, stats: F) -> Watch<F>
where
    F: Fn() -> crate::limit::Stats + Send + Sync + 'static,
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

/// Shows what a retry budget refused.
#[cfg(feature = "retry")]
pub fn watch_budget(
    meter: &Meter,
    name: impl Into<StringValue>,
    budget: &crate::retry::Budget,
) -> Watch<crate::retry::Budget> {
    let refused = Series {
        name: "outbound.budget.refused",
        unit: "{attempt}",
        description: "Retries that the budget did not pay for.",
    };
    Watch::new(meter, name, budget.clone()).counter(refused, |budget, observe| observe(budget.refused(), &[]))
}

/// Shows how late this runtime ran the timers that `monitor` learns from.
#[cfg(feature = "timeout")]
pub fn watch_stalls(
    meter: &Meter,
    name: impl Into<StringValue>,
    monitor: &crate::timeout::StallMonitor,
) -> Watch<crate::timeout::StallMonitor> {
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
