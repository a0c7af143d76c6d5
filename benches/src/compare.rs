//! Peers side by side, in rounds: requests a second, CPU, allocations and latency, as ratios to raw hyper.
//!
//! Server and client are processes of their own, on different cores as far as there are any. In each round every peer has a turn, in a
//! process that has just been started; what is told are medians over the rounds. Allocations are counted in one more turn.

use std::collections::BTreeMap;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    exchange::{self, Figures, name},
    instructions::figures,
    peers::Peer,
    process::{Program, Server},
    results::{median, save},
    work::{Http, Work},
};

/// What to compare.
#[derive(Args)]
pub(crate) struct Options {
    /// Only these of the workloads
    #[arg(long, value_enum, value_delimiter = ',')]
    work: Vec<Work>,
    /// Only this version
    #[arg(long, value_enum, value_delimiter = ',')]
    http: Vec<Http>,
    /// Only with so many tasks
    #[arg(long, value_delimiter = ',')]
    concurrency: Vec<usize>,
    /// Only with so many threads
    #[arg(long, value_delimiter = ',')]
    workers: Vec<usize>,
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Vec<Peer>,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Whether it works at all: one short round of one workload
    #[arg(long)]
    short: bool,
    /// Keep the results for the report
    #[arg(long)]
    save: bool,
}

/// The medians of one peer at one workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) work: String,
    pub(crate) http: String,
    pub(crate) concurrency: usize,
    pub(crate) workers: usize,
    pub(crate) peer: String,
    pub(crate) figures: Figures,
}

pub(crate) fn main(options: &Options) {
    let peers = if options.peers.is_empty() { &Peer::COMPARED } else { &*options.peers };
    let mut rows = Vec::new();
    if options.short {
        rows.extend(compare(Work::Hello, Http::H1, (64, 1), peers, 1, 10));
    } else {
        for (work, http, concurrency, workers) in CELLS {
            let is_wanted = is_among(&options.work, work)
                && is_among(&options.http, http)
                && is_among(&options.concurrency, concurrency)
                && is_among(&options.workers, workers);
            if is_wanted {
                rows.extend(compare(work, http, (concurrency, workers), peers, options.rounds, 1));
            }
        }
    }
    assert!(!rows.is_empty(), "none of the workloads that are measured");
    if options.save {
        save("exchange", &rows);
    }
}

fn is_among<T: PartialEq>(wanted: &[T], one: T) -> bool {
    wanted.is_empty() || wanted.contains(&one)
}

/// All peers at one workload, one `part`th of its length.
fn compare(
    work: Work,
    http: Http,
    (concurrency, workers): (usize, usize),
    peers: &[Peer],
    rounds: usize,
    part: usize,
) -> Vec<Row> {
    let server = Server::start(http);
    let peers: Vec<Peer> = peers.iter().copied().filter(|peer| peer.speaks(http)).collect();
    let run = |peer| exchange::Options {
        peer,
        server: server.address,
        work,
        http,
        requests: match work {
            Work::Hello => 20_000 / part,
            Work::Large | Work::Json => 5_000 / part,
            Work::Delayed => concurrency * 10,
        },
        concurrency,
        workers,
        latency: true,
    };
    let mut turns: BTreeMap<Peer, Vec<Figures>> = BTreeMap::new();
    for _ in 0..rounds {
        for &peer in &peers {
            turns.entry(peer).or_default().push(figures(Program::Plain, &run(peer)));
        }
    }
    let rows: Vec<Row> = peers
        .iter()
        .map(|&peer| {
            let of = |figure: fn(&Figures) -> f64| median(turns[&peer].iter().map(figure).collect());
            let requests = (run(peer).requests / 10).max(concurrency);
            let counted = figures(Program::Counting, &exchange::Options { requests, ..run(peer) });
            let figures = Figures {
                rate: of(|figures| figures.rate),
                cpu: of(|figures| figures.cpu),
                p50: of(|figures| figures.p50),
                p99: of(|figures| figures.p99),
                allocations: counted.allocations,
                bytes: counted.bytes,
            };
            Row { work: name(work), http: name(http), concurrency, workers, peer: name(peer), figures }
        })
        .collect();
    print(&rows);
    rows
}

/// A table with ratios to the first row.
fn print(rows: &[Row]) {
    let (first, raw) = (&rows[0], rows[0].figures);
    println!(
        "{:44} {:>9} {:>6} {:>9} {:>6} {:>9} {:>9} {:>7} {:>9}",
        format!("{} {}, {} tasks, {} workers", first.work, first.http, first.concurrency, first.workers),
        "a second",
        "ratio",
        "CPU µs",
        "ratio",
        "p50 µs",
        "p99 µs",
        "allocs",
        "bytes"
    );
    for Row { peer, figures, .. } in rows {
        println!(
            "{:44} {:9.0} {:6.2} {:9.1} {:6.2} {:9.0} {:9.0} {:7.1} {:9.0}",
            Peer::titled(peer),
            figures.rate,
            figures.rate / raw.rate,
            figures.cpu,
            figures.cpu / raw.cpu,
            figures.p50,
            figures.p99,
            figures.allocations,
            figures.bytes
        );
    }
    println!();
}

/// Work, version, tasks and threads: each of these at least once in every version, and together where they tell apart what the others do not.
const CELLS: [(Work, Http, usize, usize); 15] = [
    (Work::Hello, Http::H1, 1, 1),
    (Work::Hello, Http::H1, 64, 1),
    (Work::Hello, Http::H1, 64, 2),
    (Work::Hello, Http::H1, 256, 2),
    (Work::Large, Http::H1, 1, 1),
    (Work::Large, Http::H1, 64, 1),
    (Work::Json, Http::H1, 1, 1),
    (Work::Json, Http::H1, 64, 1),
    (Work::Delayed, Http::H1, 256, 2),
    (Work::Hello, Http::H2, 1, 1),
    (Work::Hello, Http::H2, 64, 1),
    (Work::Hello, Http::H2, 256, 2),
    (Work::Large, Http::H2, 64, 1),
    (Work::Json, Http::H2, 64, 1),
    (Work::Delayed, Http::H2, 256, 2),
];
