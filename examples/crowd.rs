//! Does a limit help a server with few threads? `cargo run --release --example crowd`
//!
//! The server has 40 threads, each call keeps one of them for 80 ms, and it finishes what it has begun although nobody waits for it any more,
//! as thread pools do. A thousand calls come at it, 300 at a time, with 400 ms of patience each: without a limit most of them wait in
//! the server until their patience ends, and the answers come to nobody. With the right limit they wait in the client, where waiting
//! costs nothing; and an adaptive one finds it by itself.
//!
//! Exits with 1 if a call failed under the fixed limit, if most did not without one, or if one that is learnt let more than a tenth fail of
//! those that fail without.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, routing::post};
use clap::Parser;
use outbound::{
    BoxError, Client, ClientExt, ResponseExt,
    client::Concurrency,
    limit::{Aimd, Gradient2, Vegas, Windowed},
};
use outbound_examples::server::Server;
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::{Instant, sleep},
};

#[derive(Clone, Copy, Debug, Parser)]
struct Options {
    /// How many calls to make
    #[arg(long, default_value_t = 1_000)]
    requests: usize,
    /// How many of them at a time
    #[arg(long, default_value_t = 300)]
    concurrency: usize,
    /// The server's threads
    #[arg(long, default_value_t = 40)]
    threads: usize,
    /// Milliseconds that a call keeps one of them; callers have five times the patience
    #[arg(long, default_value_t = 80)]
    millis: u64,
}

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let options = Options::parse();
    let Options { requests, concurrency, threads, millis } = options;
    println!(
        "{requests} calls, {concurrency} at a time, to {threads} threads that take {millis} ms for each\n"
    );
    println!("{:24} {:>8} {:>8} {:>8} {:>22}", "limit", "good", "failed", "seconds", "work done for nobody");
    let slow = Duration::from_millis(2 * millis);
    let fixed = run("fixed", threads.into(), options).await?;
    let none = run("none", usize::MAX.into(), options).await?;
    let learnt = [
        run("AIMD", Concurrency::adaptive(Aimd::default().limits(1, 20, 200)?.timeout(slow)), options)
            .await?,
        run("Vegas", Concurrency::adaptive(Vegas::default()), options).await?,
        run("Gradient2, windowed", Concurrency::adaptive(Windowed::new(Gradient2::default())), options)
            .await?,
    ];
    let shown = fixed == 0 && none > requests / 2 && learnt.iter().all(|&failed| failed <= none / 10);
    Ok(if shown { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes all calls under this limit, prints how they went, and tells how many failed.
async fn run(name: &str, limit: Concurrency, options: Options) -> Result<usize, BoxError> {
    let (server, wasted) = server(options);
    let patience = Duration::from_millis(5 * options.millis);
    let client = Client::builder().base_url(server.url()).max_connections_per_host(options.concurrency);
    let client = client.concurrency(limit).head_timeout(patience).max_attempts(1);
    let client = client.build()?;
    let begun = Instant::now();
    let callers = Arc::new(Semaphore::new(options.concurrency));
    let mut calls = JoinSet::new();
    for _ in 0..options.requests {
        let (client, caller) = (client.clone(), callers.clone().acquire_owned().await?);
        calls.spawn(async move {
            let answered = async { client.post("/").send().await?.bytes().await }.await;
            drop(caller);
            answered.is_ok()
        });
    }
    let outcomes = calls.join_all().await;
    let took = begun.elapsed().as_secs_f64();
    let good = outcomes.iter().filter(|&&good| good).count();
    let failed = outcomes.len() - good;
    println!("{name:24} {good:>8} {failed:>8} {took:>8.1} {:>22}", wasted.load(Relaxed));
    Ok(failed)
}

/// With how many calls it went on after their callers had gone.
fn server(Options { threads, millis, .. }: Options) -> (Server, Arc<AtomicUsize>) {
    let (threads, wasted) = (Arc::new(Semaphore::new(threads)), Arc::new(AtomicUsize::new(0)));
    let counted = wasted.clone();
    let work = async move || {
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let _thread = threads.acquire().await;
            sleep(Duration::from_millis(millis)).await;
            if tell.send("done").is_err() {
                counted.fetch_add(1, Relaxed);
            }
        });
        told.await.expect("it is done in the end")
    };
    (Server::start(1, Router::new().route("/", post(work))), wasted)
}
