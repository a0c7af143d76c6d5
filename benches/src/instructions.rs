//! Instructions of a warm exchange, counted by callgrind, as a gate: `.ci/instructions`.
//!
//! A fixed number of exchanges is run twice, once longer than the other, against a server in another process; the difference divided
//! by the difference is what one exchange costs, and start-up cancels out. Allocations are counted by the same program on an allocator
//! that counts, without callgrind.
//!
//! What is held against the baseline are the *ratio* to raw hyper, which does not change with the compiler or the C library as
//! much as the number does, and the allocations more than raw, which are exact.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::{
    exchange::{self, Figures, name},
    peers::Peer,
    process::{Program, Server},
    results::save,
    work::{Http, Work},
};

/// Whom to count, and what to hold it against.
#[derive(Args)]
pub(crate) struct Options {
    /// These peers; `compared`, or `all` of them, layer by layer; the gate's unless given
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    #[arg(long, value_enum, default_value = "hello")]
    work: Work,
    #[arg(long, value_enum, default_value = "h1")]
    http: Http,
    /// Fail where the baseline is exceeded
    #[arg(long)]
    check: bool,
    /// Write what was found into the baseline
    #[arg(long, conflicts_with = "check")]
    update: bool,
    /// Keep the results for the report
    #[arg(long)]
    save: bool,
    /// Keep callgrind's output of the longer run in this directory, a file for each peer
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// What a warm exchange costs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) instructions: f64,
    pub(crate) allocations: f64,
    pub(crate) bytes: f64,
}

/// The baseline: costs by workload and peer.
type Baseline = BTreeMap<String, BTreeMap<String, Cost>>;

pub(crate) fn main(options: &Options) {
    let gated = options.peers.is_empty();
    let peers = match &*options.peers {
        [] => GATED.to_vec(),
        [all] if all == "all" => Peer::value_variants().to_vec(),
        [all] if all == "compared" => Peer::COMPARED.to_vec(),
        some => some.iter().map(|peer| Peer::from_str(peer, false).unwrap_or_else(|e| fail(&e))).collect(),
    };
    let workloads: &[_] = if gated {
        &[(Work::Hello, Http::H1), (Work::Hello, Http::H2)]
    } else {
        &[(options.work, options.http)]
    };
    let mut baseline = read_baseline();
    let mut exceeded = Vec::new();
    for &(work, http) in workloads {
        let workload = format!("{} {}", name(work), name(http));
        let server = Server::start(http);
        let known = baseline.entry(workload.clone()).or_default();
        println!(
            "{workload:44} {:>13} {:>8} {:>12} {:>8} {:>9}",
            "instructions", "ratio", "allocations", "more", "bytes"
        );
        let raw = cost(Peer::Raw, work, &server, http, options.keep.as_deref());
        let mut costs = Vec::new();
        let known_raw = known.get(&name(Peer::Raw)).copied();
        for &peer in &peers {
            if !peer.speaks(http) {
                continue;
            }
            let cost = match peer {
                Peer::Raw => raw,
                _ => cost(peer, work, &server, http, options.keep.as_deref()),
            };
            costs.push((name(peer), cost));
            let (ratio, more) = (cost.instructions / raw.instructions, cost.allocations - raw.allocations);
            println!(
                "{:44} {:13.0} {ratio:8.3} {:12.2} {more:8.2} {:9.0}",
                peer.title(),
                cost.instructions,
                cost.allocations,
                cost.bytes
            );
            if options.check && !known.contains_key(&name(peer)) {
                exceeded.push(format!("{workload}, {}: the baseline does not know it: --update", name(peer)));
            }
            if let (Some(was), Some(raw)) = (known.get(&name(peer)), known_raw) {
                let (known_ratio, known_more) =
                    (was.instructions / raw.instructions, was.allocations - raw.allocations);
                if ratio > known_ratio * (1.0 + TOLERANCE) {
                    exceeded.push(format!(
                        "{workload}, {}: {ratio:.3} x raw instead of {known_ratio:.3}",
                        name(peer)
                    ));
                }
                if more > known_more + ALLOCATIONS {
                    exceeded.push(format!(
                        "{workload}, {}: {more:.2} allocations more than raw instead of {known_more:.2}",
                        name(peer)
                    ));
                }
            }
            if options.update {
                known.insert(name(peer), cost);
            }
        }
        println!();
        if options.save {
            save(&format!("instructions {workload}"), &costs);
        }
    }
    if options.update {
        let text = serde_json::to_string_pretty(&baseline).expect("numbers and names") + "\n";
        fs::write(baseline_path(), text).expect("the baseline can be written");
    }
    if options.check && !exceeded.is_empty() {
        fail(&format!("more than {} % above the baseline:\n  {}", TOLERANCE * 100.0, exceeded.join("\n  ")));
    }
}

/// What one exchange of `peer` costs.
pub(crate) fn cost(peer: Peer, work: Work, server: &Server, http: Http, keep: Option<&Path>) -> Cost {
    let run = |requests| exchange::Options {
        peer,
        server: server.address,
        work,
        http,
        requests,
        concurrency: 1,
        workers: 1,
        latency: false,
    };
    let output = keep.map(|directory| directory.join(format!("callgrind.{}", name(peer))));
    let [short, long] =
        [SHORT, LONG].map(|requests| callgrind(&run(requests).arguments(), output.as_deref()));
    let counted: Figures = figures(Program::Counting, &run(LONG));
    Cost {
        instructions: (long - short) as f64 / (LONG - SHORT) as f64,
        allocations: counted.allocations,
        bytes: counted.bytes,
    }
}

/// What the client's process says.
pub(crate) fn figures(program: Program, options: &exchange::Options) -> Figures {
    let output = Command::new(program.path()).args(options.arguments()).output().expect("it is a program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("figures")
}

/// Instructions of this program with these arguments, start-up included.
pub(crate) fn callgrind(arguments: &[String], output: Option<&Path>) -> u64 {
    let output = output.map_or("/dev/null".into(), |path| path.display().to_string());
    collected(&valgrind(&[&format!("--callgrind-out-file={output}")], arguments))
}

/// What callgrind, with these options, says of a run of this program.
pub(crate) fn valgrind(options: &[&str], arguments: &[String]) -> String {
    let valgrind = Command::new("valgrind")
        .args(["--tool=callgrind", "--vgdb=no", "--callgrind-out-file=/dev/null"])
        .args(options)
        .arg(Program::Plain.path())
        .args(arguments)
        .output()
        .unwrap_or_else(|error| fail(&format!("valgrind: {error}")));
    let said = String::from_utf8_lossy(&valgrind.stderr).into_owned();
    assert!(valgrind.status.success(), "{said}");
    said
}

/// Instructions, as it says.
pub(crate) fn collected(said: &str) -> u64 {
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    let (_, collected) = collected.expect("callgrind says what it collected");
    collected.trim().parse().expect("a number")
}

fn read_baseline() -> Baseline {
    let text = fs::read(baseline_path()).unwrap_or_else(|_| b"{}".to_vec());
    serde_json::from_slice(&text).expect("the baseline is JSON")
}

fn baseline_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline.json")
}

fn fail(problem: &str) -> ! {
    eprintln!("{problem}");
    process::exit(1)
}

/// Who is held against the baseline.
const GATED: [Peer; 3] = [Peer::Raw, Peer::Pool, Peer::Stack];
const SHORT: usize = 1_000;
const LONG: usize = 3_000;
/// Of the ratio to raw.
const TOLERANCE: f64 = 0.02;
/// Some exchanges take a buffer more than others.
const ALLOCATIONS: f64 = 0.1;
