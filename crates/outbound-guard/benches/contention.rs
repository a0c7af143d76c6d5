//! What watching costs: `cargo bench -p outbound-guard`
//!
//! Calls to a service that answers at once, each with a body of two frames, made by one task for each worker. If calls of different
//! workers got in each other's way, two would not do twice the work of one, and each call would take more of its core's time: as over
//! a registry with one lock, for comparison.

use std::{
    convert::Infallible,
    future::{poll_fn, ready},
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body, Frame};
use outbound_core::{AtEnd, End, OnEnd};
use outbound_guard::LeakGuardLayer;
use slab::Slab;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

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

/// A registry as one would write it first: when each open call began, behind one lock.
#[derive(Clone, Default)]
struct OneLock(Arc<Mutex<Slab<Instant>>>);

struct Entry(OneLock, usize);

impl AtEnd for Entry {
    fn at_end(self, _: End) {
        self.0.0.lock().unwrap().remove(self.1);
    }
}

fn main() {
    let inner = || service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(Response::new(Two(0)))));
    let one_lock = || {
        let calls = OneLock::default();
        inner().map_response(move |response: Response<Two>| {
            let key = calls.0.lock().unwrap().insert(Instant::now());
            response.map(|body| OnEnd::new(body, Entry(calls.clone(), key)))
        })
    };
    println!("{:<12}{:>32}{:>32}", "", "1 worker", "2 workers");
    println!("{:<12}{:>16}{:>16}{:>16}{:>16}", "", "calls/s", "ns of CPU", "calls/s", "ns of CPU");
    row("unwatched", inner);
    row("guard", || LeakGuardLayer::pair().0.layer(inner()));
    row("one lock", one_lock);
}

/// Measures and prints calls a second in the best turn, and what one takes of its core's time in the median turn: whatever else the
/// machine does, some turns are undisturbed.
fn row<S, B>(name: &str, service: impl Fn() -> S)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Error = Infallible> + Send + 'static,
{
    if std::env::args().skip(1).any(|only| !only.starts_with('-') && only != name) {
        return;
    }
    print!("{name:<12}");
    for workers in [1, 2] {
        let turns: Vec<_> = (0..TURNS).map(|_| turn(workers, service())).collect();
        let best = turns.iter().map(|turn| turn.rate).fold(0.0, f64::max);
        let mut cpu: Vec<_> = turns.iter().map(|turn| turn.cpu).collect();
        cpu.sort_by(f64::total_cmp);
        print!("{best:>16.0}{:>16.0}", cpu[TURNS / 2]);
    }
    println!();
}

struct Turn {
    /// Calls a second.
    rate: f64,
    /// Nanoseconds that one took of its core's time; NaN where the platform does not tell.
    cpu: f64,
}

/// Makes calls on so many workers for a while.
fn turn<S, B>(workers: usize, service: S) -> Turn
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Error = Infallible> + Send + 'static,
{
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(workers).enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let begun = Instant::now();
        let tasks: Vec<_> =
            (0..workers).map(|_| tokio::spawn(calls(service.clone(), begun + TURN))).collect();
        let (mut made, mut spent) = (0.0, 0.0);
        for task in tasks {
            let (calls, nanos) = task.await.expect("no panic");
            made += calls;
            spent += nanos;
        }
        Turn { rate: made / begun.elapsed().as_secs_f64(), cpu: spent / made }
    })
}

/// Makes calls until then, and does not let go of its worker. How many, and how much of the core's time that took.
async fn calls<S, B>(mut service: S, until: Instant) -> (f64, f64)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Error = Infallible>,
{
    let uri = Uri::from_static("http://a.example/");
    let (mut made, before) = (0, on_cpu());
    while Instant::now() < until {
        for _ in 0..BATCH {
            let mut request = Request::new(());
            *request.uri_mut() = uri.clone();
            let Ok(()) = poll_fn(|cx| service.poll_ready(cx)).await;
            let Ok(response) = service.call(request).await;
            let mut body = pin!(response.into_body());
            while let Some(Ok(frame)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                std::hint::black_box(frame);
            }
        }
        made += BATCH;
    }
    (made as f64, on_cpu() - before)
}

/// Nanoseconds that this thread has run.
fn on_cpu() -> f64 {
    let seen = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    seen.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(f64::NAN)
}

const TURN: Duration = Duration::from_millis(50);
const TURNS: usize = 30;
const BATCH: u64 = 1_000;
