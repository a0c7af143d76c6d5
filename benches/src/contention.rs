//! Two workers, 256 tasks and no network: what threads cost each other in a client. The server is in the same process, at the other
//! end of a pipe, and costs every peer the same. reqwest is not among them: its `connector_layer` may wrap the connections that it opens,
//! whose type is its own, but not replace them.

use std::{fmt::Debug, time::Duration};

use bytes::Bytes;
use clap::Args;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use outbound::{
    ConcurrencyLimitLayer, DeadlineLayer, LeakGuardLayer, Pool, RetryLayer, TimeoutLayer,
    pool::connect::InMemory, retry::Standard,
};
use serde::{Deserialize, Serialize};
use tokio::{io::duplex, task::JoinSet, time::Instant};
use tower::{Service, ServiceBuilder};

use crate::{
    peers::{Peer, Visit, Worker, cache, raw, service::Caller},
    process::{DELAY, runtime},
    results::{median, save},
    server::serve_h1,
    work::{Http, Order, Work},
};

/// How much.
#[derive(Args)]
pub(crate) struct Options {
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Whether it works at all: one short round
    #[arg(long)]
    short: bool,
    /// Keep the results for the report
    #[arg(long)]
    save: bool,
}

/// One peer's median.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Contended {
    pub(crate) peer: String,
    pub(crate) tasks: usize,
    /// Time of an exchange, over all tasks, in µs.
    pub(crate) time: f64,
}

pub(crate) fn main(options: &Options) {
    let (rounds, each) = if options.short { (1, 10) } else { (options.rounds, 100) };
    let mut contended = Vec::new();
    for tasks in [TASKS, WAITING] {
        let peers: &[Peer] = if tasks == TASKS { &PEERS } else { &[Peer::Pool, Peer::Stack] };
        let each = each * TASKS / tasks.min(TASKS * 10);
        let mut turns = vec![Vec::new(); peers.len()];
        for _ in 0..rounds {
            for (&peer, times) in peers.iter().zip(&mut turns) {
                let took = runtime(WORKERS).block_on(async { turn(peer, tasks, each.max(1)).await });
                times.push(took.as_secs_f64() * 1e6 / (tasks * each.max(1)) as f64);
            }
        }
        let times: Vec<f64> = turns.into_iter().map(median).collect();
        println!("{:44} {:>9} {:>6}", format!("in memory, {tasks} tasks, {WORKERS} workers"), "µs", "ratio");
        for (&peer, time) in peers.iter().zip(&times) {
            println!("{:44} {time:9.2} {:6.2}", peer.title(), time / times[0]);
            contended.push(Contended { peer: peer.title().to_owned(), tasks, time: *time });
        }
        println!();
    }
    if options.save {
        save("contention", &contended);
    }
}

async fn turn(peer: Peer, tasks: usize, each: usize) -> Duration {
    let order = Order::new(Work::Hello, Http::H1, ([127, 0, 0, 1], 80).into());
    let connector = InMemory::new(|io| serve_h1(io, DELAY)).buffer(4 * 1024);
    let pool = || {
        let pool =
            Pool::builder().max_connections(TASKS).max_connections_per_host(TASKS).max_waiting(WAITING);
        pool.build(connector.clone()).expect("valid limits")
    };
    match peer {
        Peer::Raw => {
            let mut workers = Vec::new();
            for _ in 0..tasks {
                let (io, other) = duplex(4 * 1024);
                tokio::spawn(serve_h1(other, DELAY));
                workers.push(raw::Http1::over(io, &order).await);
            }
            run(workers, each).await
        }
        Peer::Cache => cache::over(connector, &order, Turns { tasks, each }).await,
        Peer::Legacy => {
            let client = Client::builder(TokioExecutor::new()).build(connector);
            run(callers(client, &order, tasks), each).await
        }
        Peer::Pool => run(callers(pool(), &order, tasks), each).await,
        _ => {
            let (guard, _leaks) = LeakGuardLayer::pair();
            let stack = ServiceBuilder::new()
                .layer(DeadlineLayer::new(LONG))
                .layer(RetryLayer::new(Standard::default()))
                .layer(ConcurrencyLimitLayer::new(WAITING))
                .layer(TimeoutLayer::new(LONG))
                .layer(guard)
                .service(pool());
            run(callers(stack, &order, tasks), each).await
        }
    }
}

fn callers<S, B>(service: S, order: &Order, tasks: usize) -> Vec<Caller<S>>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Debug, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Debug> + Send,
{
    (0..tasks).map(|_| Caller::new(service.clone(), order)).collect()
}

/// So many tasks, with so many exchanges each.
struct Turns {
    tasks: usize,
    each: usize,
}

impl Visit for Turns {
    type Output = Duration;

    async fn visit<W: Worker>(self, hire: impl AsyncFn() -> W) -> Duration {
        let mut workers = Vec::with_capacity(self.tasks);
        for _ in 0..self.tasks {
            workers.push(hire().await);
        }
        run(workers, self.each).await
    }
}

/// The time of so many exchanges of each worker, after a first one.
async fn run<W: Worker>(workers: Vec<W>, each: usize) -> Duration {
    let mut begun = Instant::now();
    let mut workers = workers;
    for exchanges in [1, each] {
        begun = Instant::now();
        let mut tasks = JoinSet::new();
        for mut worker in workers.drain(..) {
            tasks.spawn(async move {
                for _ in 0..exchanges {
                    worker.exchange().await;
                }
                worker
            });
        }
        while let Some(worker) = tasks.join_next().await {
            workers.push(worker.expect("no panic"));
        }
    }
    begun.elapsed()
}

const PEERS: [Peer; 5] = [Peer::Raw, Peer::Pool, Peer::Stack, Peer::Cache, Peer::Legacy];
const WORKERS: usize = 2;
const TASKS: usize = 256;
/// So many callers of as many connections as before: all but those wait.
const WAITING: usize = 10_000;
const LONG: Duration = Duration::from_secs(30);
