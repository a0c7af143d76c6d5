//! Dropping a future at every one of its polls.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tokio::{task::yield_now, time::sleep};

/// Knows whether the future asked to be polled again.
#[derive(Debug, Default)]
struct Woken(AtomicBool);

/// Makes a future, polls it `k` times and drops it, then runs `check`; for `k` from 0 to `most`, or until the future
/// gets done. Returns what it got done with, and `None` if it never did.
///
/// Between two polls the runtime turns until the future is woken. If nothing wakes it within some turns and one
/// millisecond of Tokio's clock it is polled all the same, so a future that waits for ever is cancelled there, too.
///
/// `check` receives `k`: that is where the test asserts that permits, sockets and counters are back.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use outbound_testkit::cancel_at_each_poll;
/// use tokio::{sync::Semaphore, task::yield_now};
///
/// let permits = Semaphore::new(1);
/// let holds = || async {
///     let _permit = permits.acquire().await.unwrap();
///     yield_now().await;
///     "done"
/// };
/// let done = cancel_at_each_poll(9, holds, async |_| assert_eq!(permits.available_permits(), 1)).await;
/// assert_eq!(done, Some("done"));
/// # }
/// ```
pub async fn cancel_at_each_poll<F: Future>(
    most: usize,
    mut future: impl FnMut() -> F,
    mut check: impl AsyncFnMut(usize),
) -> Option<F::Output> {
    for polls in 0..=most {
        let done = poll_times(polls, future()).await;
        check(polls).await;
        if done.is_some() {
            return done;
        }
    }
    None
}

async fn poll_times<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    for _ in 0..polls {
        woken.0.store(false, Ordering::SeqCst);
        // Within a task, so that what the future uses finds its runtime and its budget.
        let polled = poll_fn(|_| Poll::Ready(future.as_mut().poll(&mut Context::from_waker(&waker))));
        if let Poll::Ready(output) = polled.await {
            return Some(output);
        }
        turn_until(&woken).await;
    }
    None
}

/// Lets the runtime turn: tasks, I/O and, if that wakes nobody, a little time.
async fn turn_until(woken: &Woken) {
    for _ in 0..TURNS {
        yield_now().await;
        if woken.0.load(Ordering::SeqCst) {
            return;
        }
    }
    sleep(A_LITTLE).await;
}

// === Woken ===

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

const TURNS: usize = 32;
const A_LITTLE: Duration = Duration::from_millis(1);
