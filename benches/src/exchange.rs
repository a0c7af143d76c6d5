//! The client's process: exchanges of one peer, and what they cost.

use std::{fs, net::SocketAddr, time::Duration};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use stats_alloc::Region;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Heap,
    peers::{Peer, Visit, Worker},
    process,
    work::{Http, Order, Work},
};

/// What to do with whom, and how often.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    #[arg(long, value_enum)]
    pub(crate) peer: Peer,
    #[arg(long)]
    pub(crate) server: SocketAddr,
    #[arg(long, value_enum, default_value = "hello")]
    pub(crate) work: Work,
    #[arg(long, value_enum, default_value = "h1")]
    pub(crate) http: Http,
    /// Exchanges that are measured, over all tasks
    #[arg(long, default_value_t = 2_000)]
    pub(crate) requests: usize,
    /// Tasks that do them
    #[arg(long, default_value_t = 1)]
    pub(crate) concurrency: usize,
    /// Threads that these run on; 1 is a current-thread runtime
    #[arg(long, default_value_t = 1)]
    pub(crate) workers: usize,
    /// Measure the time of each exchange
    #[arg(long)]
    pub(crate) latency: bool,
}

/// What an exchange cost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Exchanges a second.
    pub(crate) rate: f64,
    /// CPU time of the process, in µs.
    pub(crate) cpu: f64,
    /// In µs.
    pub(crate) p50: f64,
    /// In µs.
    pub(crate) p99: f64,
    /// Where they were counted.
    pub(crate) allocations: f64,
    /// Bytes that were allocated.
    pub(crate) bytes: f64,
}

/// Prints the [`Figures`] as a line of JSON.
pub(crate) fn main(options: &Options, heap: Option<Heap>) {
    process::pin_client(options.workers);
    let order = Order::new(options.work, options.http, options.server);
    let figures =
        process::runtime(options.workers).block_on(options.peer.accept(&order, Measure { options, heap }));
    println!("{}", serde_json::to_string(&figures).expect("numbers"));
}

impl Options {
    /// This command line, but for the program.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "exchange".to_owned(),
            format!("--peer={}", name(self.peer)),
            format!("--server={}", self.server),
            format!("--work={}", name(self.work)),
            format!("--http={}", name(self.http)),
            format!("--requests={}", self.requests),
            format!("--concurrency={}", self.concurrency),
            format!("--workers={}", self.workers),
        ];
        arguments.extend(self.latency.then(|| "--latency".to_owned()));
        arguments
    }
}

/// As the command line has it.
pub(crate) fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().expect("none is hidden").get_name().to_owned()
}

struct Measure<'a> {
    options: &'a Options,
    heap: Option<Heap>,
}

impl Visit for Measure<'_> {
    type Output = Figures;

    async fn visit<W: Worker>(self, hire: impl AsyncFn() -> W) -> Figures {
        let Options { requests, concurrency, latency, .. } = *self.options;
        let mut workers = Vec::with_capacity(concurrency);
        for _ in 0..concurrency {
            workers.push(hire().await);
        }
        let warm = run(workers, WARM_UP, false).await;
        let region = self.heap.map(Region::new);
        let (begun, cpu) = (Instant::now(), cpu_time());
        let done = run(warm.workers, requests / concurrency, latency).await;
        let (wall, cpu) = (begun.elapsed(), cpu_time() - cpu);
        let heap = region.map(|region| region.change()).unwrap_or_default();
        let each = (requests / concurrency * concurrency) as f64;
        let mut times = done.times;
        times.sort_unstable();
        let percentile = |part: f64| times.get((times.len() as f64 * part) as usize).map_or(0.0, micros);
        Figures {
            rate: each / wall.as_secs_f64(),
            cpu: micros(&cpu) / each,
            p50: percentile(0.50),
            p99: percentile(0.99),
            allocations: heap.allocations as f64 / each,
            bytes: heap.bytes_allocated as f64 / each,
        }
    }
}

struct Done<W> {
    workers: Vec<W>,
    times: Vec<Duration>,
}

/// Each worker does so many exchanges, in a task of its own.
async fn run<W: Worker>(workers: Vec<W>, each: usize, latency: bool) -> Done<W> {
    let mut tasks = JoinSet::new();
    for mut worker in workers {
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(if latency { each } else { 0 });
            for _ in 0..each {
                if latency {
                    let begun = Instant::now();
                    worker.exchange().await;
                    times.push(begun.elapsed());
                } else {
                    worker.exchange().await;
                }
            }
            (worker, times)
        });
    }
    let mut done = Done { workers: Vec::new(), times: Vec::new() };
    while let Some(task) = tasks.join_next().await {
        let (worker, times) = task.expect("no panic");
        done.workers.push(worker);
        done.times.extend(times);
    }
    done
}

/// Of all threads: the first number of each `schedstat`, in ns (`clock_gettime` has no place in callgrind).
fn cpu_time() -> Duration {
    let threads = fs::read_dir("/proc/self/task").expect("Linux").flatten();
    let times = threads.map(|thread| fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default());
    Duration::from_nanos(times.filter_map(|line| line.split(' ').next()?.parse::<u64>().ok()).sum())
}

fn micros(time: &Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Exchanges of each task before anything is measured.
const WARM_UP: usize = 50;
