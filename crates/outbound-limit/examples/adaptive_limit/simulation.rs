//! A server whose capacity changes, a hundred callers that always want more, and an adaptive limit in between, on a paused clock.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use outbound_limit::{AdaptiveLimitLayer, Aimd, Algorithm, Gradient2, Vegas, Windowed};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, sleep_until},
};
use tower::{Layer, ServiceExt, service_fn};

/// How many calls the server works on at once, for [`PHASE`] each.
pub(crate) const CAPACITIES: [usize; 3] = [50, 20, 50];
/// How long a capacity lasts, in seconds.
pub(crate) const PHASE: usize = 60;

const CALLERS: usize = 100;
/// How long the server works on a call, in milliseconds.
const WORK: std::ops::Range<u64> = 80..121;

/// What the server does with calls that it cannot work on at once.
#[derive(Clone, Copy, Debug)]
enum Excess {
    /// They queue.
    Queues,
    /// They are answered 503 at once.
    IsRefused,
}

/// The limit at the end of each second.
pub(crate) type Limits = Vec<usize>;

/// All that are simulated, by name.
pub(crate) async fn all() -> Vec<(&'static str, Limits)> {
    let aimd = Aimd::default().limits(1, 20, 200).expect("in order");
    // Tighter than by default (3 and 6), which would be content with a queue of 6 at a capacity of 20.
    let vegas = Vegas::default().alpha(|_| 2).beta(|_| 3).seed(1);
    // By default it tolerates half as long again, and a queue of 4.
    let gradient2 = Gradient2::default()
        .limits(1, 20, 200)
        .and_then(|gradient| gradient.tolerance(1.0))
        .and_then(|gradient| gradient.smoothing(0.4))
        .expect("in range")
        .queue_size(|_| 2);
    vec![
        ("AIMD; the server refuses what is too much", run(Windowed::new(aimd), Excess::IsRefused).await),
        ("Vegas; the server queues what is too much", run(Windowed::new(vegas), Excess::Queues).await),
        (
            "Gradient2; the server queues what is too much",
            run(Windowed::new(gradient2), Excess::Queues).await,
        ),
    ]
}

/// Runs through [`CAPACITIES`].
async fn run(algorithm: impl Algorithm, excess: Excess) -> Limits {
    let free = Arc::new(Semaphore::new(CAPACITIES[0]));
    let random = Arc::new(Mutex::new(StdRng::seed_from_u64(5)));
    let server = {
        let free = free.clone();
        service_fn(move |_: Request<()>| {
            let (free, random) = (free.clone(), random.clone());
            async move {
                let worker = match excess {
                    Excess::Queues => free.acquire().await.ok(),
                    Excess::IsRefused => free.try_acquire().ok(),
                };
                let mut response = Response::new(Empty::<&[u8]>::new());
                if worker.is_none() {
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    return Ok(response);
                }
                let work = random.lock().expect("not poisoned").random_range(WORK);
                sleep(Duration::from_millis(work)).await;
                Ok::<_, Infallible>(response)
            }
        })
    };
    let layer = AdaptiveLimitLayer::new(algorithm).max_wait(Duration::MAX);
    let client = layer.layer(server);
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                loop {
                    let response = client.clone().oneshot(Request::new(())).await;
                    if response.is_ok_and(|response| response.status() == StatusCode::SERVICE_UNAVAILABLE) {
                        sleep(Duration::from_millis(10)).await;
                    }
                }
            })
        })
        .collect();

    let mut limits = Limits::new();
    let start = Instant::now();
    let mut capacity = CAPACITIES[0];
    for next in CAPACITIES {
        free.add_permits(next.saturating_sub(capacity));
        for _ in next..capacity {
            let free = free.clone();
            tokio::spawn(async move { free.acquire().await.expect("not closed").forget() });
        }
        capacity = next;
        for _ in 0..PHASE {
            sleep_until(start + Duration::from_secs(limits.len() as u64 + 1)).await;
            limits.push(layer.handle().stats().limit);
        }
    }
    callers.iter().for_each(|caller| caller.abort());
    limits
}
