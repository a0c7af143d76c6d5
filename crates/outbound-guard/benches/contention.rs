//! What watching costs: `cargo bench -p outbound-guard`
//!
//! Calls to a service that answers at once, each with a body of two frames, made by one task for each worker. Where calls of different
//! workers take the same lock, one of them has to wait for the other now and then: until that lets go of it, or, if it was interrupted while
//! it held it, until it runs again. Such a worker goes to sleep, which the kernel counts (`voluntary_ctxt_switches`), whatever else the machine
//! does. So beside the guard as it is, where each worker has a shard, is the very same guard with two workers that share one: threads take
//! the shards in turn, and between the first calls of the two workers so many other threads make a first call that the second
//! comes back to the shard of the first.
use std::{
    convert::Infallible,
    future::{Ready, poll_fn, ready},
    pin::{Pin, pin},
    sync::{Arc, Barrier, LazyLock},
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body, Frame};
use outbound_guard::LeakGuardLayer;
use tokio::time::Instant;
use tower::{Layer, Service, service_fn};

/// Two frames, then the end.
struct Two(u8);

impl Body for Two {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0 += 1;
        Poll::Ready((self.0 < 3).then(|| Ok(Frame::data(Bytes::from_static(b"hello")))))
    }
}

/// What is measured of some calls.
#[derive(Clone, Copy, Default)]
struct Measured {
    calls: f64,
    /// Nanoseconds that they took of their core's time; NaN where the platform does not tell.
    cpu: f64,
    /// How often their thread went to sleep; NaN likewise.
    sleeps: f64,
}

fn main() {
    let inner = || service_fn(answer as fn(Request<()>) -> Ready<Result<Response<Two>, Infallible>>);
    let guarded = || LeakGuardLayer::pair().0.layer(inner());
    println!("{:<24}{:>10}{:>14}{:>24}", "", "workers", "ns of CPU", "sleeps in 10⁶ calls");
    row("unwatched", inner, &[(1, 1), (2, 1)]);
    row("guard", guarded, &[(1, 1), (2, 1)]);
    row("guard, a shared shard", guarded, &[(2, 4 * thread::available_parallelism().map_or(1, usize::from))]);
}

fn answer(_: Request<()>) -> Ready<Result<Response<Two>, Infallible>> {
    ready(Ok(Response::new(Two(0))))
}

/// Measures with so many workers, each of whose numbers is so far from the one before: and prints what a call takes of its core's time, in the median
/// turn, and how often the workers slept in all turns.
fn row<S, B>(name: &str, service: impl Fn() -> S, measured: &[(usize, usize)])
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Error = Infallible> + Send + 'static,
{
    if std::env::args().skip(1).any(|only| !only.starts_with('-') && only != name) {
        return;
    }
    for &(workers, apart) in measured {
        let turns: Vec<_> = (0..TURNS).map(|_| turn(workers, apart, service())).collect();
        let mut cpu: Vec<_> = turns.iter().map(|turn| turn.cpu / turn.calls).collect();
        cpu.sort_by(f64::total_cmp);
        let all = |of: fn(&Measured) -> f64| turns.iter().map(of).sum::<f64>();
        let sleeps = all(|turn| turn.sleeps) / all(|turn| turn.calls) * 1e6;
        println!("{name:<24}{workers:>10}{:>14.0}{sleeps:>24.1}", cpu[TURNS / 2]);
    }
}

/// Makes calls on so many workers for a while.
fn turn<S, B>(workers: usize, apart: usize, service: S) -> Measured
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Error = Infallible> + Send + 'static,
{
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(workers).enable_time().build().expect("a runtime");
    // Whoever waits there keeps its worker, so that each task has one of its own.
    let all_are_there = Arc::new(Barrier::new(workers));
    let task = |number| {
        let (mut service, all_are_there) = (service.clone(), all_are_there.clone());
        runtime.spawn(async move {
            for turn in 0..workers {
                if turn == number {
                    call(&mut service).await;
                    (1..apart).for_each(|_| first_call_of_a_thread(service.clone()));
                }
                all_are_there.wait();
            }
            calls(service, Instant::now() + TURN).await
        })
    };
    let tasks: Vec<_> = (0..workers).map(task).collect();
    runtime.block_on(async {
        let mut sum = Measured::default();
        for task in tasks {
            let one = task.await.expect("no panic");
            sum.calls += one.calls;
            sum.cpu += one.cpu;
            sum.sleeps += one.sleeps;
        }
        sum
    })
}

/// Makes calls until then, and does not let go of its worker.
async fn calls<S, B>(mut service: S, until: Instant) -> Measured
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Error = Infallible>,
{
    let (mut made, cpu, sleeps) = (0, on_cpu(), slept());
    while Instant::now() < until {
        for _ in 0..BATCH {
            call(&mut service).await;
        }
        made += BATCH;
    }
    Measured { calls: made as f64, cpu: on_cpu() - cpu, sleeps: slept() - sleeps }
}

async fn call<S, B>(service: &mut S)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Error = Infallible>,
{
    let mut request = Request::new(());
    *request.uri_mut() = URI.clone();
    let Ok(()) = poll_fn(|cx| service.poll_ready(cx)).await;
    let Ok(response) = service.call(request).await;
    let mut body = pin!(response.into_body());
    while let Some(Ok(frame)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        std::hint::black_box(frame);
    }
}

fn first_call_of_a_thread<S, B>(mut service: S)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Send + 'static,
    B: Body<Error = Infallible>,
{
    let thread = thread::spawn(move || {
        let called = pin!(call(&mut service)).poll(&mut Context::from_waker(Waker::noop()));
        assert!(called.is_ready());
    });
    thread.join().expect("no panic");
}

/// Nanoseconds that this thread has run.
fn on_cpu() -> f64 {
    let seen = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    seen.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(f64::NAN)
}

/// How often it has gone to sleep: a lock that somebody else holds is what it could have waited for.
fn slept() -> f64 {
    let seen = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let count = seen.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(f64::NAN)
}

static URI: LazyLock<Uri> = LazyLock::new(|| Uri::from_static("http://a.example/"));
const TURN: Duration = Duration::from_millis(50);
const TURNS: usize = 100;
const BATCH: u64 = 1_000;
