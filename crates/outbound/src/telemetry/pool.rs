//! What a pool has to show.

use std::collections::BTreeMap;

use opentelemetry::{KeyValue, StringValue, metrics::Meter};
use outbound_core::Origin;
use outbound_pool::{Counts, Event, OriginStats, Pool, Totals, What};
use outbound_telemetry::{Observe, Series, Watch};

type State = (&'static str, fn(&Counts) -> usize);

/// Shows what `pool` holds, as long as the watch is kept; and so long that keeps the pool, too.
pub fn watch_pool<C>(meter: &Meter, name: impl Into<StringValue>, pool: &Pool<C>) -> Watch<Pool<C>>
where
    C: Send + Sync + 'static,
{
    Watch::new(meter, name, pool.clone())
        .up_down(OPEN_CONNECTIONS, |pool, observe| {
            let states: [State; 2] = [("active", |counts| counts.active), ("idle", |counts| counts.idle)];
            by_state("http.connection.state", states, &pool.stats().origins, observe);
        })
        .up_down(UNUSABLE, |pool, observe| {
            let states: [State; 2] =
                [("dialing", |counts| counts.dialing), ("closing", |counts| counts.closing)];
            by_state("outbound.pool.state", states, &pool.stats().origins, observe);
        })
        .up_down(WAITING, |pool, observe| {
            for (server, waiting) in by_server(&pool.stats().origins, |origin| origin.waiting) {
                observe(waiting, &server);
            }
        })
        .up_down(EXCHANGES, |pool, observe| observe(pool.stats().exchanges as i64, &[]))
        .counter(EVENTS, |pool, observe| {
            let Totals {
                dialed,
                opened,
                closed,
                reused,
                waited,
                overflowed,
                evicted,
                expired,
                retired,
                surplus,
                lost,
                ..
            } = pool.stats().totals;
            for (event, count) in [
                ("dialed", dialed),
                ("opened", opened),
                ("closed", closed),
                ("reused", reused),
                ("waited", waited),
                ("overflowed", overflowed),
                ("evicted", evicted),
                ("expired", expired),
                ("retired", retired),
                ("surplus", surplus),
                ("lost", lost),
            ] {
                observe(count, &[KeyValue::new("outbound.pool.event", event)]);
            }
        })
}

/// Counts the connections of `pool` that are closed from now on, by the reason: a future to be spawned, which ends when the pool has gone,
/// and does not keep it.
///
/// ```
/// use opentelemetry::global::meter;
/// use outbound::{Pool, pool::connect::Tcp, telemetry};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), outbound::BoxError> {
/// let pool = Pool::builder().build(Tcp::new())?;
/// tokio::spawn(telemetry::count_closings(&meter("outbound"), "users", &pool));
/// # Ok(())
/// # }
/// ```
///
/// It reads [`Pool::events`], which each exchange then has to tell. If it does not run for more than a thousand of them, those that it missed
/// are not counted: the sum falls behind `outbound.pool.events` by as many.
pub fn count_closings<C, N>(
    meter: &Meter,
    name: N,
    pool: &Pool<C>,
) -> impl Future<Output = ()> + Send + use<C, N>
where
    N: Into<StringValue>,
{
    let counter = meter.u64_counter(CLOSED.name).with_unit(CLOSED.unit).with_description(CLOSED.description);
    let (closed, name, mut events) =
        (counter.build(), KeyValue::new("outbound.name", name.into()), pool.events());
    async move {
        while let Some(next) = events.next().await {
            if let Ok(Event { origin, what: What::Closed(why), .. }) = next {
                let [address, port] = server(host(&origin), origin.port());
                let reason = KeyValue::new("outbound.pool.reason", why.as_str());
                closed.add(1, &[reason, address, port, name.clone()]);
            }
        }
    }
}

fn by_state(key: &'static str, states: [State; 2], origins: &[OriginStats], observe: &mut Observe<'_, i64>) {
    for (state, count) in states {
        for ([address, port], sum) in by_server(origins, |origin| count(&origin.connections)) {
            observe(sum, &[address, port, KeyValue::new(key, state)]);
        }
    }
}

/// The sum for each server: http and https at one port are two origins with the same attributes, and one would hide the other.
fn by_server(
    origins: &[OriginStats],
    count: impl Fn(&OriginStats) -> usize,
) -> impl Iterator<Item = ([KeyValue; 2], i64)> {
    let mut sums = BTreeMap::new();
    for stats in origins {
        *sums.entry((host(&stats.origin), stats.origin.port())).or_default() += count(stats) as i64;
    }
    sums.into_iter().map(|((host, port), sum)| (server(host, port), sum))
}

fn host(origin: &Origin) -> &str {
    origin.host().trim_start_matches('[').trim_end_matches(']')
}

fn server(host: &str, port: u16) -> [KeyValue; 2] {
    [KeyValue::new("server.address", host.to_owned()), KeyValue::new("server.port", i64::from(port))]
}

const OPEN_CONNECTIONS: Series = Series {
    name: "http.client.open_connections",
    unit: "{connection}",
    description: "Number of outbound HTTP connections that are currently active or idle on the client.",
};
const UNUSABLE: Series = Series {
    name: "outbound.pool.unusable",
    unit: "{connection}",
    description: "Connections that are not yet open, and not yet closed.",
};
const WAITING: Series = Series {
    name: "outbound.pool.waiting",
    unit: "{request}",
    description: "Calls that wait for a connection, and have none being opened for them.",
};
const EXCHANGES: Series = Series {
    name: "outbound.pool.exchanges",
    unit: "{request}",
    description: "Exchanges that go on: an HTTP/2 connection may carry several.",
};
const EVENTS: Series = Series {
    name: "outbound.pool.events",
    unit: "{event}",
    description: "What has happened since the pool was built.",
};
const CLOSED: Series = Series {
    name: "outbound.pool.closed",
    unit: "{connection}",
    description: "Connections closed, and dials that came to nothing.",
};
