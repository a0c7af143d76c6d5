//! Does the client survive a storm? `cargo run --release --example storm`
//!
//! Drives the stack at an upstream that closes idle connections at random, 300 calls at a time, and accounts for everything
//! afterwards: each call's outcome by phase and kind, every connection, and what is still held at the end, which is nothing. Before
//! that, and beside it, the same storm upon hyper-util's client as it comes.
//!
//! Exits with 1 when a call failed that should not have (an idempotent one, or one of which not a byte was sent), was applied
//! twice, or left something behind.

use std::{
    alloc::System,
    fmt::Write,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use clap::Parser;
use http::{Method, Request, Response, Uri, header::CONTENT_TYPE};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy, rt::TokioExecutor};
use indicatif::{ProgressBar, ProgressStyle};
use outbound::{
    BoxError, ConnectionInfo, Exchange, Failure, Phase, Pool, ServiceBuilderExt,
    pool::connect::{Tcp, Tls, webpki_roots},
    retry,
};
use outbound_examples::{
    tally::{Call, Outcome, SideBySide, Tally},
    upstream::{self, Mood, Upstream},
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::time::Instant;
use tower::{Service, ServiceBuilder, ServiceExt};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Clone, Debug, Parser)]
struct Options {
    /// A real server to storm, instead of the built-in one
    #[arg(long)]
    url: Option<Uri>,
    /// How many calls to make
    #[arg(long, default_value_t = 1_000)]
    requests: usize,
    /// How many of them at a time
    #[arg(long, default_value_t = 300)]
    concurrency: usize,
    #[arg(long, default_value = "POST")]
    method: Method,
    /// The size of the JSON image in each request that has a body
    #[arg(long, default_value_t = 40_000)]
    body_bytes: usize,
    /// The most connections to be open at once
    #[arg(long, default_value_t = 100)]
    max_connections: usize,
    /// Seconds that one call may take
    #[arg(long, default_value_t = 30.0)]
    timeout: f64,
    /// How the built-in upstream treats its connections
    #[arg(long, value_enum, default_value_t = Mood::Hostile)]
    upstream: Mood,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
    #[arg(long, hide = true, value_enum)]
    serve: Option<Mood>,
}

/// What all callers share.
struct Storm<S> {
    client: S,
    target: Uri,
    method: Method,
    image: Bytes,
    /// The number of the next call.
    next: AtomicUsize,
    requests: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match options.serve {
        Some(mood) => runtime().block_on(upstream::serve(mood)).map(|()| true).map_err(Into::into),
        None => report(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("storm: {error}");
            ExitCode::from(2)
        }
    }
}

fn report(options: &Options) -> Result<bool, BoxError> {
    // A small one first: what libraries set up once in a process is not what a storm leaves behind.
    let rehearsal = Options { requests: 50, concurrency: 50, ..options.clone() };
    weather(&rehearsal, &mut tally(&rehearsal), ProgressBar::hidden())?;
    // A real server is stormed once.
    let before = if options.url.is_none() && !options.json { Some(before(options)?) } else { None };

    let mut tally = tally(options);
    let region = Region::new(HEAP);
    weather(options, &mut tally, progress_bar(options))?;
    let heap = region.change();
    tally.held.bytes = heap.bytes_allocated as i64 - heap.bytes_deallocated as i64;
    if options.json {
        println!("{:#}", tally.to_json());
        return Ok(tally.is_as_promised());
    }
    if let Some(before) = before {
        println!("{}\n", SideBySide { before, after: &tally });
    }
    println!("{tally}");
    Ok(tally.is_as_promised())
}

fn tally(options: &Options) -> Tally {
    Tally::new(options.requests, options.method.is_idempotent())
}

fn progress_bar(options: &Options) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:40} {pos} of {len} calls, {per_sec}").expect("a valid template");
    ProgressBar::new(options.requests as u64).with_style(style)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// The storm. All it makes is gone when it returns, but for the books.
fn weather(options: &Options, tally: &mut Tally, progress: ProgressBar) -> Result<(), BoxError> {
    let runtime = runtime();
    let upstream = match options.url {
        Some(_) => None,
        None => Some(runtime.block_on(Upstream::start(options.upstream))?),
    };
    let target = match (&options.url, &upstream) {
        (None, Some(upstream)) => upstream.url.parse()?,
        (url, _) => url.clone().expect("one or the other"),
    };
    let client = Pool::builder()
        .max_connections(options.max_connections)
        .max_connections_per_host(options.max_connections)
        .max_waiting(options.concurrency)
        .build(Tls::new(Tcp::new(), webpki_roots()))?;
    let timeout = Duration::try_from_secs_f64(options.timeout)?;
    let stack = ServiceBuilder::new()
        .deadline(timeout)
        .retries(retry::Standard::default())
        .concurrency(options.concurrency)
        .service(client.clone());
    let begun = Instant::now();
    runtime.block_on(rage(Storm::new(options, stack, target), options.concurrency, tally, &progress))?;
    tally.elapsed = begun.elapsed();
    tally.close(&client.stats());
    // Every idle connection is closed with the last handle, which this is.
    drop(client);
    if let Some(upstream) = upstream {
        let seen = runtime.block_on(upstream.stop())?;
        tally.held.sockets = seen.open;
        tally.sighted = Some(seen);
    }
    progress.finish_and_clear();
    Ok(())
}

/// The same upon hyper-util's client.
fn before(options: &Options) -> Result<Tally, BoxError> {
    let (runtime, mut tally) = (runtime(), tally(options));
    let upstream = runtime.block_on(Upstream::start(options.upstream))?;
    let client = legacy::Client::builder(TokioExecutor::new()).build_http();
    let client = ServiceBuilder::new().map_err(BoxError::from).service(client);
    let storm = Storm::new(options, client, upstream.url.parse()?);
    let begun = Instant::now();
    runtime.block_on(rage(storm, options.concurrency, &mut tally, &ProgressBar::hidden()))?;
    tally.elapsed = begun.elapsed();
    tally.sighted = Some(runtime.block_on(upstream.stop())?);
    Ok(tally)
}

/// Lets so many callers loose, and keeps the books until they are done or the user has seen enough.
async fn rage<S, R>(
    storm: Arc<Storm<S>>,
    callers: usize,
    tally: &mut Tally,
    progress: &ProgressBar,
) -> Result<(), BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error = BoxError>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    R: Body<Data: Send, Error: Into<BoxError>> + Send,
{
    let (report, mut reported) = tokio::sync::mpsc::channel(1_024);
    for _ in 0..callers.min(storm.requests) {
        let (storm, report) = (storm.clone(), report.clone());
        tokio::spawn(async move {
            while let Some(called) = storm.call().await {
                let _ = report.send(called).await;
            }
        });
    }
    drop(report);
    loop {
        tokio::select! {
            called = reported.recv() => match called {
                Some((call, failure)) => {
                    if tally.first_failure.is_empty() && let Some(failure) = failure {
                        write!(tally.first_failure, "{failure}")?;
                    }
                    tally.enter(call);
                    progress.inc(1);
                }
                None => return Ok(()),
            },
            interrupted = tokio::signal::ctrl_c(), if !tally.interrupted => {
                interrupted?;
                // Nobody starts another; who is on the way arrives, within its timeout.
                storm.next.store(storm.requests, Relaxed);
                tally.interrupted = true;
            }
        }
    }
}

impl<S> Storm<S> {
    fn new(options: &Options, client: S, target: Uri) -> Arc<Self> {
        Arc::new(Self {
            client,
            target,
            method: options.method.clone(),
            image: image(options.body_bytes),
            next: AtomicUsize::new(0),
            requests: options.requests,
        })
    }
}

impl<S, R> Storm<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error = BoxError> + Clone,
    R: Body<Error: Into<BoxError>>,
{
    /// The next call, if one is left.
    async fn call(&self) -> Option<(Call, Option<BoxError>)> {
        let number = self.next.fetch_add(1, Relaxed);
        if number >= self.requests {
            return None;
        }
        let begun = Instant::now();
        let has_body = !matches!(
            self.method,
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::DELETE
        );
        let body = if has_body { Full::new(self.image.clone()) } else { Full::default() };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        request.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a valid value"));
        request.headers_mut().insert("x-call", number.into());
        // Whoever puts a record on the request can look at it afterwards, whatever has become of the (first) attempt.
        let exchange = Exchange::track(&mut request);

        let answered = async {
            let response = self.client.clone().oneshot(request).await?;
            let connection = ConnectionInfo::of(&response).map(|connection| connection.id());
            let status = response.status().as_u16();
            response.into_body().collect().await.map_err(Into::into)?;
            Ok::<_, BoxError>((status, connection))
        };
        let (outcome, connection, failure) = match answered.await {
            Ok((status, connection)) => (Outcome::Answered(status), connection, None),
            Err(error) => {
                let failure = Failure::of(&*error);
                let (phase, kind, delivery) = (failure.phase(), failure.kind(), failure.delivery());
                (Outcome::Failed { phase, kind, delivery }, None, Some(error))
            }
        };
        let waited = exchange.timings().spent(Phase::Acquire);
        Some((Call { outcome, took: begun.elapsed(), waited, connection }, failure))
    }
}

/// A JSON document with an image of so many bytes in it.
fn image(bytes: usize) -> Bytes {
    let frame = br#"{"image":""}"#.len();
    let pixels = "iVBORw0KGgo".chars().cycle().take(bytes.saturating_sub(frame));
    format!(r#"{{"image":"{}"}}"#, pixels.collect::<String>()).into()
}
