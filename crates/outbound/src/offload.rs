//! Work that would keep an async worker from its other tasks.

use std::{
    panic::resume_unwind,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll, ready},
    thread::available_parallelism,
};

use tokio::{
    sync::Semaphore,
    task::{JoinHandle, spawn_blocking},
};

/// Runs `work` on Tokio's blocking pool, so that the worker goes on with its other tasks, and gives back what it returns.
///
/// It is for work on the CPU that takes longer than some 100 µs: the encoding of a large document, say. So that a burst of it neither
/// floods the pool nor takes every core from the workers, as many of them run at once in a process as there are cores but one, and the
/// rest wait, first come first served. JSON above [`INLINE_JSON`] goes the same way.
///
/// Dropped while it waits, `work` never runs; dropped while it runs, `work` ends in its own time and its value is dropped where it
/// ran. It counts against the bound until it has ended.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let sum = outbound::offload(|| (1..=1_000_000u64).sum::<u64>()).await;
/// assert_eq!(sum, 500_000_500_000);
/// # }
/// ```
///
/// # Panics
/// Outside a Tokio runtime; and as `work` does, if it panics.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    within(&CORES, work).await
}

/// Likewise, as many at once as `bound` has permits.
pub(crate) async fn within<T: Send + 'static>(
    bound: &'static Semaphore,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let permit = bound.acquire().await.expect("never closed");
    Running(spawn_blocking(move || {
        let _held_until_it_has_ended = permit;
        work()
    }))
    .await
}

/// Work that does not begin any more if nobody waits for it.
struct Running<T>(JoinHandle<T>);

impl<T> Future for Running<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match ready!(Pin::new(&mut self.0).poll(cx)) {
            Ok(value) => Poll::Ready(value),
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // The runtime is going away, and with it the task that waits here.
            Err(_) => Poll::Pending,
        }
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

static CORES: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new((available_parallelism().map_or(1, usize::from) - 1).max(1)));

/// JSON of more bytes than this is encoded and decoded on Tokio's blocking pool: 64 KiB.
///
/// Measured by `cargo run --release -p outbound-benches -- json`, on a machine whose cores were all busy: at this size encoding takes 0.12 ms
/// and decoding (into a `serde_json::Value`) 0.6 ms, which no other task notices; the hop to another thread and back takes 0.055 ms each
/// time, 15 % of both together, and below it more. At 6 MB it is 27 and 90 ms, and the hop a thousandth.
pub const INLINE_JSON: usize = 64 * 1024;
