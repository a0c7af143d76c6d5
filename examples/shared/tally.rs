//! The books of a storm. All room is made beforehand, so that keeping them does not look like a leak.

use std::{fmt, time::Duration};

use hdrhistogram::Histogram;
use outbound::{
    Delivery, Kind, Phase,
    pool::{Counts, Stats, Totals},
};
use serde_json::{Value, json};

/// How one call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// With a response of this status, its body read to the end.
    Answered(u16),
    /// With a failure.
    Failed {
        /// Where, if the failure tells.
        phase: Option<Phase>,
        /// What.
        kind: Kind,
        /// Whether the server may have acted.
        delivery: Delivery,
    },
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// How it ended.
    pub outcome: Outcome,
    /// From start to end of its body.
    pub took: Duration,
    /// How much of that it waited for a connection.
    pub waited: Duration,
    /// The connection it was answered on.
    pub connection: Option<u64>,
}

/// What the built-in upstream saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sighted {
    /// Sockets accepted.
    pub accepted: u64,
    /// The most sockets open at once.
    pub max_open: u64,
    /// Sockets open at the end.
    pub open: u64,
    /// Requests read whole.
    pub requests: u64,
    /// Requests that were read whole more than once.
    pub applied_twice: u64,
}

/// The books.
#[derive(Debug)]
pub struct Tally {
    outcomes: Vec<(Outcome, u64)>,
    took: Histogram<u64>,
    waited: Histogram<u64>,
    /// Requests answered on each connection, by its number.
    served: Vec<u32>,
    calls: u64,
    is_idempotent: bool,
    /// The first failure, in its own words.
    pub first_failure: String,
    /// The wall time of it all.
    pub elapsed: Duration,
    /// The pool's own counters at the end.
    pub totals: Totals,
    /// The pool's connections once all calls had ended.
    pub connections: Counts,
    /// The same as the built-in upstream saw it.
    pub sighted: Option<Sighted>,
    /// Whether it was cut short.
    pub interrupted: bool,
    /// Sockets, permits (connections in use, being opened or closed) and bytes still held when all had been dropped.
    pub held: Held,
}

/// Two storms beside each other.
#[derive(Debug)]
pub struct SideBySide<'a> {
    /// What there was before.
    pub before: Tally,
    /// What there is now.
    pub after: &'a Tally,
}

/// What is left when everything has been dropped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// Sockets, as the server sees them.
    pub sockets: u64,
    /// Connections that the pool counts as in use.
    pub permits: u64,
    /// Bytes of memory.
    pub bytes: i64,
}

// === Tally ===

impl Tally {
    /// Empty books for so many calls.
    pub fn new(calls: usize, is_idempotent: bool) -> Self {
        let histogram = || Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("valid bounds");
        Self {
            outcomes: Vec::with_capacity(256),
            took: histogram(),
            waited: histogram(),
            served: Vec::with_capacity(4 * calls + 1_024),
            calls: 0,
            is_idempotent,
            first_failure: String::with_capacity(4_096),
            elapsed: Duration::ZERO,
            totals: Totals::default(),
            connections: Counts::default(),
            sighted: None,
            interrupted: false,
            held: Held::default(),
        }
    }

    /// Enters one call.
    pub fn enter(&mut self, call: Call) {
        self.calls += 1;
        match self.outcomes.iter_mut().find(|(outcome, _)| *outcome == call.outcome) {
            Some((_, calls)) => *calls += 1,
            None => self.outcomes.push((call.outcome, 1)),
        }
        let micros = |time: Duration| time.as_micros().clamp(1, 3_600_000_000) as u64;
        self.took.saturating_record(micros(call.took));
        self.waited.saturating_record(micros(call.waited));
        if let Some(connection) = call.connection {
            let index = connection as usize;
            if index >= self.served.len() {
                self.served.resize(index + 1, 0);
            }
            self.served[index] += 1;
        }
    }

    /// Takes over the pool's counters.
    pub fn close(&mut self, stats: &Stats) {
        self.totals = stats.totals;
        self.connections = stats.connections;
        self.held.permits = (stats.connections.open() - stats.connections.idle) as u64;
    }

    /// Whether every call that can be expected to succeed did, none was applied twice, and nothing is left.
    pub fn is_as_promised(&self) -> bool {
        let twice = self.sighted.is_some_and(|seen| seen.applied_twice > 0 && !self.is_idempotent);
        let Held { sockets, permits, .. } = self.held;
        self.unexpected() == 0 && !twice && sockets == 0 && permits == 0
    }

    /// Calls that failed although they could have been sent again: idempotent ones, and those of which nothing was sent.
    fn unexpected(&self) -> u64 {
        let is_unexpected = |outcome: Outcome| match outcome {
            Outcome::Answered(status) => status >= 500,
            Outcome::Failed { delivery, .. } => self.is_idempotent || delivery.is_unprocessed(),
        };
        self.outcomes.iter().filter(|(outcome, _)| is_unexpected(*outcome)).map(|(_, calls)| calls).sum()
    }

    /// Calls that failed.
    fn failed(&self) -> u64 {
        let failed = self.outcomes.iter().filter(|(outcome, _)| matches!(outcome, Outcome::Failed { .. }));
        failed.map(|(_, calls)| calls).sum()
    }

    /// Requests per connection: least, median, most, over connections that served any.
    fn served(&self) -> (u32, u32, u32) {
        let mut served: Vec<u32> = self.served.iter().copied().filter(|&served| served > 0).collect();
        served.sort_unstable();
        match served.as_slice() {
            [] => (0, 0, 0),
            all => (all[0], all[all.len() / 2], all[all.len() - 1]),
        }
    }

    /// The books for machines: times in milliseconds.
    pub fn to_json(&self) -> Value {
        let quantiles = |times: &Histogram<u64>| {
            let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
            json!({ "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": times.max() as f64 / 1e3 })
        };
        let outcomes = self.outcomes.iter().map(|(outcome, calls)| match outcome {
            Outcome::Answered(status) => json!({ "status": status, "calls": calls }),
            Outcome::Failed { phase, kind, delivery } => json!({
                "phase": phase.map(Phase::as_str), "kind": kind.as_str(), "delivery": delivery.as_str(), "calls": calls,
            }),
        });
        let Totals { opened, reused, evicted, expired, lost, .. } = self.totals;
        let (least, median, most) = self.served();
        json!({
            "calls": self.calls,
            "interrupted": self.interrupted,
            "unexpected_failures": self.unexpected(),
            "as_promised": self.is_as_promised(),
            "outcomes": outcomes.collect::<Vec<_>>(),
            "seconds": self.elapsed.as_secs_f64(),
            "latency_ms": quantiles(&self.took),
            "waiting_ms": quantiles(&self.waited),
            "connections": { "opened": opened, "reused": reused, "evicted": evicted, "expired": expired, "lost_idle": lost },
            "requests_per_connection": { "min": least, "median": median, "max": most },
            "upstream": self.sighted.map(|seen| json!({
                "accepted": seen.accepted, "max_open": seen.max_open, "requests": seen.requests,
                "applied_twice": seen.applied_twice,
            })),
            "held": { "sockets": self.held.sockets, "permits": self.held.permits, "bytes": self.held.bytes },
        })
    }
}

impl fmt::Display for SideBySide<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<26} {:>20} {:>20}", "", "hyper-util's client", "outbound")?;
        let books = [&self.before, self.after];
        let mut row = |name: &str, of: &dyn Fn(&Tally) -> String| {
            let [before, after] = books.map(of);
            writeln!(f, "{name:<26} {before:>20} {after:>20}")
        };
        let seen = |tally: &Tally| tally.sighted.unwrap_or_default();
        row("answered", &|tally| (tally.calls - tally.failed()).to_string())?;
        row("failed", &|tally| tally.failed().to_string())?;
        row("sockets", &|tally| seen(tally).accepted.to_string())?;
        row("  of them at once", &|tally| seen(tally).max_open.to_string())?;
        row("requests applied twice", &|tally| seen(tally).applied_twice.to_string())?;
        row("p99, ms", &|tally| format!("{:.1}", tally.took.value_at_quantile(0.99) as f64 / 1e3))?;
        row("seconds", &|tally| format!("{:.2}", tally.elapsed.as_secs_f64()))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: fmt::Arguments<'_>| writeln!(f, "{name:<26} {value}");
        let rate = self.calls as f64 / self.elapsed.as_secs_f64().max(1e-9);
        let cut = if self.interrupted { ", interrupted" } else { "" };
        row(
            "calls",
            format_args!("{} in {:.2} s, {rate:.0} a second{cut}", self.calls, self.elapsed.as_secs_f64()),
        )?;
        for (outcome, calls) in &self.outcomes {
            match outcome {
                Outcome::Answered(status) => row(&format!("  answered {status}"), format_args!("{calls}"))?,
                Outcome::Failed { phase, kind, delivery } => {
                    let phase = phase.map_or("?", Phase::as_str);
                    row(&format!("  failed {phase}/{kind}"), format_args!("{calls} ({delivery})"))?;
                }
            }
        }
        if !self.first_failure.is_empty() {
            row("  the first of them", format_args!("{}", self.first_failure))?;
        }
        let Totals { opened, reused, evicted, lost, .. } = self.totals;
        row(
            "connections",
            format_args!(
                "{opened} opened, {reused} times reused, {evicted} evicted, {lost} closed by the peer while idle"
            ),
        )?;
        let (least, median, most) = self.served();
        row("requests per connection", format_args!("{least} to {most}, median {median}"))?;
        if let Some(seen) = self.sighted {
            row(
                "seen by the upstream",
                format_args!(
                    "{} sockets, {} at once; {} requests, {} of them applied twice",
                    seen.accepted, seen.max_open, seen.requests, seen.applied_twice
                ),
            )?;
        }
        let ms = |micros: u64| micros as f64 / 1e3;
        for (name, times) in [("latency, ms", &self.took), ("waiting for a slot, ms", &self.waited)] {
            let at = |quantile| ms(times.value_at_quantile(quantile));
            row(
                name,
                format_args!(
                    "p50 {:.1}  p90 {:.1}  p99 {:.1}  max {:.1}",
                    at(0.5),
                    at(0.9),
                    at(0.99),
                    ms(times.max())
                ),
            )?;
        }
        let Held { sockets, permits, bytes } = self.held;
        row("still held", format_args!("{sockets} sockets, {permits} permits, {bytes} bytes of memory"))?;
        match (self.unexpected(), self.failed()) {
            (0, 0) => write!(f, "\nevery call was answered"),
            (0, failed) => {
                write!(
                    f,
                    "\nno call failed that should not have: of those {failed} a byte had been sent, and the method is "
                )?;
                write!(f, "not idempotent, so that only the caller can say whether to send them again")
            }
            (calls, _) => write!(f, "\n{calls} calls failed that should not have"),
        }
    }
}
