//! Layers alone, over a service that is ready at once: ns, instructions and allocations that each adds to a call.
//!
//! A call is a request, `ready`, `call` and the response body read to its end. What the service costs without any layer is taken off.

use std::{
    convert::Infallible,
    fmt::Debug,
    hint::black_box,
    pin::{Pin, pin},
    process::Command,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use outbound::{
    ConcurrencyLimitLayer, DeadlineLayer, LeakGuardLayer, RetryLayer, TimeoutLayer, retry::Standard,
};
use serde::{Deserialize, Serialize};
use stats_alloc::Region;
use tokio::time::Instant;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_resilience_bulkhead::BulkheadLayer;
use tower_resilience_timelimiter::TimeLimiterLayer;

use crate::{
    Heap,
    exchange::name,
    extent::Extent,
    instructions::callgrind,
    peers::hyper_util::Twice,
    process::{self, Program, runtime},
    results::{median, save},
};

/// Calls of one layer, in a process of their own.
#[derive(Args)]
pub(crate) struct Calls {
    #[arg(long, value_enum)]
    layer: Layers,
    /// The service is pending once
    #[arg(long)]
    pending: bool,
    #[arg(long)]
    calls: usize,
}

/// One layer, or several, ours and theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Layers {
    None,
    Deadline,
    Timeout,
    TowerTimeout,
    TowerHttpTimeout,
    TowerHttpBodyTimeout,
    ResilienceTimeLimiter,
    Limit,
    TowerLimit,
    ResilienceBulkhead,
    Retry,
    TowerRetry,
    ResilienceRetry,
    Guard,
    Stack,
    TowerThree,
    ResilienceThree,
}

/// What a layer adds to a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Added {
    pub(crate) layer: String,
    pub(crate) instructions: f64,
    /// Likewise over a service that is pending once.
    pub(crate) pending: f64,
    pub(crate) ns: f64,
    pub(crate) allocations: f64,
}

/// Of one call.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Timed {
    ns: f64,
    allocations: f64,
}

pub(crate) fn main(options: &Extent) {
    let rounds = if options.short { 1 } else { 7 };
    let all: Vec<Added> = Layers::value_variants().iter().map(|&layer| measure(layer, rounds)).collect();
    let none = all[0].clone();
    println!(
        "{:40} {:>13} {:>13} {:>8} {:>12}",
        "a layer adds", "instructions", "pending once", "ns", "allocations"
    );
    let mut added = Vec::new();
    for mut layer in all {
        if layer.layer != none.layer {
            layer.instructions -= none.instructions;
            layer.pending -= none.pending;
            layer.ns -= none.ns;
            layer.allocations -= none.allocations;
        }
        println!(
            "{:40} {:13.0} {:13.0} {:8.0} {:12.1}",
            layer.layer, layer.instructions, layer.pending, layer.ns, layer.allocations
        );
        added.push(layer);
    }
    if options.save {
        save("layers", &added);
    }
}

fn measure(layer: Layers, rounds: usize) -> Added {
    let arguments = |pending, calls: usize| {
        let mut arguments =
            vec!["layer".to_owned(), format!("--layer={}", name(layer)), format!("--calls={calls}")];
        arguments.extend(Some("--pending".to_owned()).filter(|_| pending));
        arguments
    };
    let instructions = |pending| {
        let [short, long] = [1_000, 6_000].map(|calls| callgrind(&arguments(pending, calls), None));
        (long - short) as f64 / 5_000.0
    };
    let timed = |program: Program, calls| -> Timed {
        let output =
            Command::new(program.path()).args(arguments(false, calls)).output().expect("it is a program");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("figures")
    };
    Added {
        layer: layer.title().to_owned(),
        instructions: instructions(false),
        pending: instructions(true),
        ns: median((0..rounds).map(|_| timed(Program::Plain, 300_000).ns).collect()),
        allocations: timed(Program::Counting, 1_000).allocations,
    }
}

/// The process of [`Calls`].
pub(crate) fn child(options: &Calls, heap: Option<Heap>) {
    process::pin_client(1);
    let Calls { layer, pending, calls } = *options;
    let service = service_fn(move |request: Request<Full<Bytes>>| answer(request, pending));
    let stack = ServiceBuilder::new();
    let deadline = DeadlineLayer::new(LONG);
    let timeout = TimeoutLayer::new(LONG);
    let limit = ConcurrencyLimitLayer::new(MANY);
    let retry = RetryLayer::new(Standard::default());
    let (guard, _leaks) = LeakGuardLayer::pair();
    let bulkhead = || BulkheadLayer::builder().max_concurrent_calls(MANY).build().expect("valid");
    let limiter = || TimeLimiterLayer::builder().timeout_duration(LONG).build();
    let timed = runtime(1).block_on(async {
        match layer {
            Layers::None => time(service, calls, heap).await,
            Layers::Deadline => time(stack.layer(deadline).service(service), calls, heap).await,
            Layers::Timeout => time(stack.layer(timeout).service(service), calls, heap).await,
            Layers::TowerTimeout => time(stack.timeout(LONG).service(service), calls, heap).await,
            Layers::TowerHttpTimeout => {
                let layer =
                    tower_http::timeout::TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, LONG);
                time(stack.layer(layer).service(service), calls, heap).await
            }
            Layers::TowerHttpBodyTimeout => {
                let layer = tower_http::timeout::ResponseBodyTimeoutLayer::new(LONG);
                time(stack.layer(layer).service(service), calls, heap).await
            }
            Layers::ResilienceTimeLimiter => time(stack.layer(limiter()).service(service), calls, heap).await,
            Layers::Limit => time(stack.layer(limit).service(service), calls, heap).await,
            Layers::TowerLimit => time(stack.concurrency_limit(MANY).service(service), calls, heap).await,
            Layers::ResilienceBulkhead => time(stack.layer(bulkhead()).service(service), calls, heap).await,
            Layers::Retry => {
                time(
                    stack.layer(retry).service(service_fn(move |request| answer(request, pending))),
                    calls,
                    heap,
                )
                .await
            }
            Layers::TowerRetry => time(stack.retry(Twice(1)).service(service), calls, heap).await,
            Layers::ResilienceRetry => {
                let retry = tower_resilience_retry::RetryLayer::builder().max_attempts(2).build();
                time(stack.layer(retry).service(service), calls, heap).await
            }
            Layers::Guard => time(stack.layer(guard).service(service), calls, heap).await,
            Layers::Stack => {
                let stack = stack.layer(deadline).layer(retry).layer(limit).layer(timeout).layer(guard);
                time(stack.service(service_fn(move |request| answer(request, pending))), calls, heap).await
            }
            Layers::TowerThree => {
                let stack = stack.retry(Twice(1)).concurrency_limit(MANY).timeout(LONG);
                time(stack.service(service), calls, heap).await
            }
            Layers::ResilienceThree => {
                let retry = tower_resilience_retry::RetryLayer::builder().max_attempts(2).build();
                let stack = stack.layer(retry).layer(bulkhead()).layer(limiter());
                time(stack.service(service), calls, heap).await
            }
        }
    });
    println!("{}", serde_json::to_string(&timed).expect("numbers"));
}

impl Layers {
    fn title(self) -> &'static str {
        match self {
            Self::None => "(the service itself)",
            Self::Deadline => "outbound: deadline",
            Self::Timeout => "outbound: timeout",
            Self::TowerTimeout => "tower: timeout",
            Self::TowerHttpTimeout => "tower-http: timeout",
            Self::TowerHttpBodyTimeout => "tower-http: response body timeout",
            Self::ResilienceTimeLimiter => "tower-resilience: time limiter",
            Self::Limit => "outbound: concurrency limit",
            Self::TowerLimit => "tower: concurrency limit",
            Self::ResilienceBulkhead => "tower-resilience: bulkhead",
            Self::Retry => "outbound: retry",
            Self::TowerRetry => "tower: retry",
            Self::ResilienceRetry => "tower-resilience: retry",
            Self::Guard => "outbound: leak guard",
            Self::Stack => "outbound: all five",
            Self::TowerThree => "tower: retry, limit, timeout",
            Self::ResilienceThree => "tower-resilience: retry, bulkhead, limiter",
        }
    }
}

/// The service: an answer at once, or at its second poll.
async fn answer<B>(request: Request<B>, pending: bool) -> Result<Response<Full<Bytes>>, Infallible> {
    black_box(request);
    if pending {
        Once(false).await;
    }
    Ok(Response::new(Full::new(Bytes::from_static(b"Hello, world!"))))
}

async fn time<S, B>(mut service: S, calls: usize, heap: Option<Heap>) -> Timed
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Debug>,
    B: Body<Error: Debug>,
{
    let mut once = async || {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = http::Uri::from_static("http://a.example/");
        let response =
            service.ready().await.expect("it becomes ready").call(request).await.expect("an answer");
        let mut body = pin!(response.into_body());
        while body.frame().await.transpose().expect("a frame").is_some() {}
    };
    for _ in 0..WARM_UP {
        once().await;
    }
    let region = heap.map(Region::new);
    let begun = Instant::now();
    for _ in 0..calls {
        once().await;
    }
    let took = begun.elapsed();
    let allocations = region.map_or(0, |region| region.change().allocations);
    Timed { ns: took.as_nanos() as f64 / calls as f64, allocations: allocations as f64 / calls as f64 }
}

/// Pending at its first poll, and woken.
struct Once(bool);

impl Future for Once {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

const LONG: Duration = Duration::from_secs(30);
const MANY: usize = 1_024;
const WARM_UP: usize = 100;
