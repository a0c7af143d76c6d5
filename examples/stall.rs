//! Does JSON work starve a service? `cargo run --release --example stall`
//!
//! A service with one worker, as a small container has, answers `/live` at once, and for `/report` fetches a document of 40,000 entities,
//! adds to it and sends it on. Sixteen callers want reports all the time, and a probe asks `/live` every ten milliseconds.
//!
//! First with the documents decoded and encoded where they come in, then with the same client's `json()` and `json_owned()`, which do that off
//! the worker. Exits with 1 if in any second of the second run no probe was answered, or if it made no report.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use bytes::Bytes;
use clap::Parser;
use outbound::{BoxError, Client, ClientExt, ResponseExt};
use outbound_examples::{entities::Entity, server::Server};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

#[derive(Debug, Parser)]
struct Options {
    /// Entities in the document
    #[arg(long, default_value_t = 40_000)]
    entities: usize,
    /// Callers that want reports all the time
    #[arg(long, default_value_t = 16)]
    callers: usize,
    /// Seconds for each of the two
    #[arg(long, default_value_t = 5)]
    seconds: usize,
}

/// Where a document is decoded and encoded.
#[derive(Clone, Copy, Debug)]
enum Json {
    OnTheWorker,
    OffTheWorker,
}

/// What the probe and the callers have seen.
struct Run {
    /// Probes answered in each second.
    answered: Vec<usize>,
    /// The longest that a probe waited.
    longest: Duration,
    reports: usize,
}

fn main() -> Result<ExitCode, BoxError> {
    let options = Options::parse();
    let store = upstream(options.entities);
    let before = run(&options, &service(Json::OnTheWorker, &store));
    let after = run(&options, &service(Json::OffTheWorker, &store));

    println!("probes answered, of 100 a second, while {} callers want reports", options.callers);
    println!("{:>20} {:>16} {:>16}", "", "on the worker", "off the worker");
    for (second, (before, after)) in before.answered.iter().zip(&after.answered).enumerate() {
        println!("{:>20} {before:>16} {after:>16}", format!("second {}", second + 1));
    }
    let millis = |run: &Run| format!("{} ms", run.longest.as_millis());
    println!("{:>20} {:>16} {:>16}", "longest wait", millis(&before), millis(&after));
    println!("{:>20} {:>16} {:>16}", "reports made", before.reports, after.reports);
    let live = after.answered.iter().all(|&answered| answered > 0);
    Ok(if live && after.reports > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where the document comes from, and where it goes.
fn upstream(entities: usize) -> Server {
    let document = serde_json::to_vec(&Entity::some(entities)).expect("entities are JSON");
    let document = Bytes::from(document);
    println!("the document: {} entities, {} bytes", entities, document.len());
    let router = Router::new()
        .route("/entities", get(async move || document))
        .route("/reports", post(async |_: Bytes| "stored"))
        .layer(DefaultBodyLimit::disable());
    Server::start(1, router)
}

/// The service under test.
fn service(json: Json, store: &Server) -> Server {
    let client = Client::builder().base_url(store.url()).build().expect("valid settings");
    let report = async move || match report(json, &client).await {
        Ok(entities) => format!("{entities} entities"),
        Err(error) => format!("failed: {error}"),
    };
    Server::start(1, Router::new().route("/live", get(async || "yes")).route("/report", get(report)))
}

/// Fetches the entities, adds to each, and sends them on.
async fn report(json: Json, client: &Client) -> Result<usize, BoxError> {
    let fetched = client.get("/entities").send().await?.error_for_status().await?;
    let store = client.post("/reports");
    let (entities, stored) = match json {
        Json::OnTheWorker => {
            let entities: Vec<Entity> = serde_json::from_slice(&fetched.bytes().await?)?;
            (entities.len(), store.body(serde_json::to_vec(&scored(entities))?).send().await?)
        }
        Json::OffTheWorker => {
            let entities: Vec<Entity> = fetched.json().await?;
            (entities.len(), store.json_owned(scored(entities)).send().await?)
        }
    };
    stored.error_for_status().await?.bytes().await?;
    Ok(entities)
}

fn scored(mut entities: Vec<Entity>) -> Vec<Entity> {
    entities.iter_mut().for_each(|entity| entity.score += 1.0);
    entities
}

/// Callers and a probe, from outside.
fn run(options: &Options, service: &Server) -> Run {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let client = Client::builder().base_url(service.url()).max_attempts(1);
        let client = client.build().expect("valid settings");
        let reports = Arc::new(AtomicUsize::new(0));
        for _ in 0..options.callers {
            let (client, reports) = (client.clone(), reports.clone());
            tokio::spawn(async move {
                while let Ok(response) = client.get("/report").send().await {
                    if response.text().await.is_ok_and(|text| text.ends_with("entities")) {
                        reports.fetch_add(1, Relaxed);
                    }
                }
            });
        }
        // Until the first documents are there.
        sleep(Duration::from_millis(200)).await;
        let (answered, longest) = probe(client, options.seconds).await;
        Run { answered, longest, reports: reports.load(Relaxed) }
    })
}

/// Asks whether the service is alive, again and again, as an orchestrator does, only oftener.
async fn probe(client: Client, seconds: usize) -> (Vec<usize>, Duration) {
    let (mut answered, mut longest) = (vec![0; seconds], Duration::ZERO);
    let begun = Instant::now();
    let mut ticks = interval(Duration::from_millis(10));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let left = Duration::from_secs(seconds as u64).saturating_sub(begun.elapsed());
        let asked = Instant::now();
        let live = timeout(left, async { client.get("/live").send().await?.text().await }).await;
        longest = longest.max(asked.elapsed());
        match live {
            Err(_) => return (answered, longest),
            Ok(Ok(_)) => {
                let second = (begun.elapsed().as_secs() as usize).min(seconds - 1);
                answered[second] += 1;
            }
            Ok(Err(error)) => eprintln!("probe: {error}"),
        }
    }
}
