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
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["hello", "large", "json", "delayed"])]
    work: Vec<Work>,
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["h1", "h2"])]
    http: Vec<Http>,
    #[arg(long, value_delimiter = ',', default_values = ["1", "64", "256"])]
    concurrency: Vec<usize>,
    #[arg(long, value_delimiter = ',', default_values = ["1", "2"])]
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
        for &http in &options.http {
            for &work in &options.work {
                for &concurrency in &options.concurrency {
                    for &workers in &options.workers {
                        // One task over two threads, or with one delayed answer after the other, tells nothing.
                        if concurrency > 1 || (workers == 1 && work != Work::Delayed) {
                            rows.extend(compare(
                                work,
                                http,
                                (concurrency, workers),
                                peers,
                                options.rounds,
                                1,
                            ));
                        }
                    }
                }
            }
        }
    }
    if options.save {
        save("exchange", &rows);
    }
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
        for &peer in peers {
            turns.entry(peer).or_default().push(figures(Program::Plain, &run(peer)));
        }
    }
    let rows: Vec<Row> = peers
        .iter()
        .map(|&peer| {
            let of = |figure: fn(&Figures) -> f64| median(turns[&peer].iter().map(figure).collect());
            let counted = figures(Program::Counting, &run(peer));
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
