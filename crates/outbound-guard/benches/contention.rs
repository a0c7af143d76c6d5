//! What watching costs: `cargo bench -p outbound-guard`
//!
//! Calls to a service that answers at once, each with a body of two frames, made by one task for each worker, over a guard that
//! they share. If calls of different workers got in each other's way, two would not do twice the work of one.

use std::{
    convert::Infallible,
    future::{poll_fn, ready},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
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

fn main() {
    println!(
        "{:>8} {:>16} {:>16} {:>8} {:>12}",
        "workers", "off, calls/s", "on, calls/s", "ratio", "ns per call"
    );
    let mut single = None;
    for workers in [1, 2] {
        // The better of several turns each, one after the other: whatever else the machine does hits both.
        let (mut off, mut on) = (0.0_f64, 0.0_f64);
        for _ in 0..TURNS {
            off = off.max(rate(workers, answering()));
            on = on.max(rate(workers, LeakGuardLayer::pair().0.layer(answering())));
        }
        let cost = workers as f64 * 1e9 * (1.0 / on - 1.0 / off);
        println!("{workers:>8} {off:>16.0} {on:>16.0} {:>8.2} {cost:>12.0}", on / off);
        match single {
            None => single = Some((off, on)),
            Some((one_off, one_on)) => {
                println!(
                    "2 workers do {:.2} times the calls of 1 without it, {:.2} with it",
                    off / one_off,
                    on / one_on
                );
            }
        }
    }
}

/// Calls a second that so many workers make.
fn rate<S, B>(workers: usize, service: S) -> f64
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Error = Infallible> + Send + 'static,
{
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_time().build().unwrap();
    runtime.block_on(async {
        let begun = Instant::now();
        let tasks: Vec<_> =
            (0..workers).map(|_| tokio::spawn(calls(service.clone(), begun + TURN))).collect();
        let mut made = 0;
        for task in tasks {
            made += task.await.unwrap();
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
    let uri = http::Uri::from_static("http://a.example/");
    let mut made = 0;
    while Instant::now() < until {
        for _ in 0..BATCH {
            let mut request = Request::new(());
            *request.uri_mut() = uri.clone();
            poll_fn(|cx| service.poll_ready(cx)).await.unwrap();
            let mut body = std::pin::pin!(service.call(request).await.unwrap().into_body());
            while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                std::hint::black_box(frame.unwrap());
            }
        }
        made += BATCH;
        tokio::task::yield_now().await;
    }
    made
}

fn answering()
-> impl Service<Request<()>, Response = Response<Two>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
    service_fn(|_| ready(Ok(Response::new(Two(0)))))
}

const TURN: Duration = Duration::from_millis(300);
const TURNS: usize = 5;
const BATCH: u64 = 1_000;
