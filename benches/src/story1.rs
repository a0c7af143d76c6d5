//! The calls of the first story, by `outbound` and its peers in Rust: what `benches/story1.py` runs beside httpx and aiohttp.
//!
//! Makes all calls, and prints one line of JSON: which failed, how long it took, and the most memory it has had. What it costs of CPU
//! is for its parent to see.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use http::{Request, Response, header::CONTENT_TYPE};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use outbound::{
    Body, BoxError, Client, ClientExt, Failure, ResponseExt,
    client::Concurrency,
    limit::{Aimd, Gradient2, Vegas, Windowed},
};
use tokio::{task::JoinSet, time::Instant};
use tower::{Service, service_fn};

#[derive(Clone, Debug, Parser)]
struct Options {
    url: String,
    #[arg(long, value_enum, default_value_t = Peer::Outbound)]
    client: Peer,
    /// How many calls to make
    #[arg(long, default_value_t = 1_000)]
    requests: usize,
    /// How many of them at a time
    #[arg(long, default_value_t = 300)]
    concurrency: usize,
    /// The bytes of each request's body
    #[arg(long, default_value_t = 40_000)]
    body_bytes: usize,
    /// Connections that may be open; the client's own default unless given
    #[arg(long)]
    connections: Option<usize>,
    /// Seconds for an attempt; the client's own default unless given
    #[arg(long)]
    timeout: Option<f64>,
    /// How many calls outbound lets through: a number, aimd, vegas or gradient2
    #[arg(long)]
    limit: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Peer {
    Outbound,
    HyperUtil,
    Reqwest,
}

/// Of each failure how many.
type Failures = BTreeMap<String, usize>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = Options::parse();
    let begun = Instant::now();
    let failures = match options.client {
        Peer::Outbound => run(outbound(&options)?, &options).await,
        Peer::HyperUtil => run(hyper_util(), &options).await,
        Peer::Reqwest => run(reqwest(&options)?, &options).await,
    };
    let seconds = begun.elapsed().as_secs_f64();
    println!("{}", serde_json::json!({ "failures": failures, "seconds": seconds, "peak kB": peak() }));
    Ok(())
}

/// The most memory that this program has had, in kB. What `wait4` says of a child begins with what its parent has had.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.trim().strip_suffix(" kB")?.parse().ok()
}

fn outbound(options: &Options) -> Result<Client, BoxError> {
    let mut client = Client::builder();
    if let Some(connections) = options.connections {
        client = client.max_connections_per_host(connections);
    }
    if let Some(seconds) = options.timeout {
        // Shorter than uvicorn's five seconds: a POST that meets the end of its connection is nobody's to send again.
        let idle = Duration::from_secs(4);
        client =
            client.head_timeout(Duration::try_from_secs_f64(seconds)?).max_attempts(1).idle_timeout(idle);
    }
    let slow = Duration::try_from_secs_f64(options.timeout.unwrap_or(5.0) * 0.4)?;
    let limit = match options.limit.as_deref() {
        None => return Ok(client.build()?),
        Some("aimd") => Concurrency::adaptive(Aimd::default().limits(1, 20, 200)?.timeout(slow)),
        Some("vegas") => Concurrency::adaptive(Vegas::default()),
        Some("gradient2") => Concurrency::adaptive(Windowed::new(Gradient2::default())),
        Some(number) => number.parse::<usize>()?.into(),
    };
    Ok(client.concurrency(limit).build()?)
}

fn hyper_util() -> legacy::Client<HttpConnector, Body> {
    legacy::Client::builder(TokioExecutor::new()).build_http()
}

fn reqwest(
    options: &Options,
) -> Result<
    impl Service<Request<Body>, Response = Response<reqwest::Body>, Error = BoxError, Future: Send>
    + Clone
    + Send
    + Sync
    + use<>,
    BoxError,
> {
    let mut client = reqwest::Client::builder();
    if let Some(seconds) = options.timeout {
        client = client.timeout(Duration::try_from_secs_f64(seconds)?);
    }
    let client = client.build()?;
    Ok(service_fn(move |request: Request<Body>| {
        let sending =
            reqwest::Request::try_from(request.map(reqwest::Body::wrap)).map(|it| client.execute(it));
        async { Ok(Response::<reqwest::Body>::from(sending?.await?)) }
    }))
}

async fn run<S, B>(client: S, options: &Options) -> Failures
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let Options { url, requests, concurrency, body_bytes, .. } = options.clone();
    let frame = r#"{"image":""}"#.len();
    let document = format!(r#"{{"image":"{}"}}"#, "x".repeat(body_bytes.saturating_sub(frame)));
    let (document, next) = (Bytes::from(document), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..concurrency.min(requests) {
        let (client, url, document, next) = (client.clone(), url.clone(), document.clone(), next.clone());
        callers.spawn(async move {
            let mut failures = Vec::new();
            while next.fetch_add(1, Relaxed) < requests {
                let call = client.post(&*url).header(CONTENT_TYPE, "application/json").body(document.clone());
                let answered = async { call.send().await?.error_for_status().await?.bytes().await };
                failures.extend(answered.await.err().map(|error| reason(&error)));
            }
            failures
        });
    }
    let mut failures = Failures::new();
    for reason in callers.join_all().await.into_iter().flatten() {
        *failures.entry(reason).or_default() += 1;
    }
    failures
}

fn reason(error: &BoxError) -> String {
    let failure = Failure::of(&**error);
    let phase = failure.phase().map_or("", |phase| phase.as_str());
    format!("{} {phase}", failure.kind())
}
