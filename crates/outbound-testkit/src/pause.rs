//! What holds up a scripted service or body.

use std::{
    fmt,
    future::{Future, pending, poll_fn},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::sleep;

use crate::Gate;

#[derive(Clone, Debug)]
pub(crate) enum Pause {
    /// Pending this many times, and woken at once each time.
    Polls(usize),
    For(Duration),
    At(Gate),
    Forever,
}

/// A pause that has begun.
pub(crate) struct Paused(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

// === Pause ===

impl Pause {
    pub(crate) fn begin(self) -> Paused {
        Paused(match self {
            Pause::Polls(mut left) => Box::pin(poll_fn(move |cx| {
                if left == 0 {
                    return Poll::Ready(());
                }
                left -= 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            })),
            Pause::For(delay) => Box::pin(async move { sleep(delay).await }),
            Pause::At(gate) => Box::pin(async move { gate.pass().await }),
            Pause::Forever => Box::pin(pending()),
        })
    }
}

// === Paused ===

impl Paused {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Paused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Paused")
    }
}
