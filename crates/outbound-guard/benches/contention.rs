//! What watching costs: `cargo bench -p outbound-guard`
//!
//! Calls to a service that answers at once, each with a body of two frames, made by one task for each worker. If calls of different
//! workers got in each other's way, two would not do twice the work of one: as over a registry with one lock, for comparison.

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
    println!(
        "{:<12} {:>18} {:>18} {:>14} {:>18}",
        "", "1 worker, calls/s", "2 workers", "times as many", "ns more per call"
    );
    let off = row("unwatched", None, || inner());
    row("guard", Some(off), || LeakGuardLayer::pair().0.layer(inner()));
    row("one lock", Some(off), one_lock);
}

/// Measures, prints, and returns calls a second of one worker.
fn row<S, B>(name: &str, off: Option<f64>, service: impl Fn() -> S) -> f64
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Error = Infallible> + Send + 'static,
{
    // The best of many short turns: whatever else the machine does, some are undisturbed.
    let best = |workers| (0..TURNS).map(|_| rate(workers, service())).fold(0.0, f64::max);
    let (one, two) = (best(1), best(2));
    let more = off.map_or(String::new(), |off| format!("{:.0}", 1e9 / one - 1e9 / off));
    println!("{name:<12} {one:>18.0} {two:>18.0} {:>14.2} {more:>18}", two / one);
    one
}

/// Calls a second that so many workers make.
fn rate<S, B>(workers: usize, service: S) -> f64
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
        let mut made = 0;
        for task in tasks {
            made += task.await.expect("no panic");
        }
        made as f64 / begun.elapsed().as_secs_f64()
    })
}

/// Makes calls until then. How many.
async fn calls<S, B>(mut service: S, until: Instant) -> u64
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Error = Infallible>,
{
    let uri = Uri::from_static("http://a.example/");
    let mut made = 0;
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
        tokio::task::yield_now().await;
    }
    made
}

const TURN: Duration = Duration::from_millis(50);
const TURNS: usize = 30;
const BATCH: u64 = 1_000;
