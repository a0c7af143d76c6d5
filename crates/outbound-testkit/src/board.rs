//! A value that tests wait on.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use tokio::sync::{Notify, oneshot};

/// A value, and everybody who waits for it to change: tasks and blocked threads.
#[derive(Debug, Default)]
pub(crate) struct Board<T> {
    value: Mutex<T>,
    tasks: Notify,
    threads: Condvar,
}

// === Board ===

impl<T> Board<T> {
    pub(crate) fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock())
    }

    pub(crate) fn write<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.tasks.notify_waiters();
        self.threads.notify_all();
        result
    }

    /// Waits, for as long as it takes, until `take` returns something.
    pub(crate) async fn take<R>(&self, mut take: impl FnMut(&mut T) -> Option<R>) -> R {
        loop {
            let mut changed = pin!(self.tasks.notified());
            changed.as_mut().enable();
            if let Some(taken) = take(&mut self.lock()) {
                return taken;
            }
            changed.await;
        }
    }

    /// Waits until `met`; panics with `complaint` when patience runs out.
    pub(crate) async fn expect(&self, mut met: impl FnMut(&T) -> bool, complaint: impl FnOnce(&T) -> String) {
        if self.read(&mut met) {
            return;
        }
        let mut done = pin!(self.take(|value| met(value).then_some(())));
        let mut expired = pin!(patience());
        let in_time = poll_fn(|cx| {
            if done.as_mut().poll(cx).is_ready() {
                return true.into();
            }
            expired.as_mut().poll(cx).map(|()| false)
        });
        if !in_time.await {
            let complaint = self.read(complaint);
            panic!("{complaint}");
        }
    }

    /// As `expect`, for a test that blocks its runtime on purpose.
    pub(crate) fn expect_blocking(
        &self,
        mut met: impl FnMut(&T) -> bool,
        complaint: impl FnOnce(&T) -> String,
    ) {
        let (value, _) = self
            .threads
            .wait_timeout_while(self.lock(), PATIENCE, |value| !met(value))
            .unwrap_or_else(PoisonError::into_inner);
        if !met(&value) {
            let complaint = complaint(&value);
            drop(value);
            panic!("{complaint}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves when a test has waited long enough.
///
/// It goes by the wall clock: a paused Tokio clock jumps to its next timer whenever the runtime is idle, bytes in a
/// socket or not, and would end every wait at once.
pub(crate) async fn patience() {
    let (expire, expired) = oneshot::channel();
    let (_waiting, stopped) = mpsc::channel::<()>();
    thread::spawn(move || {
        if stopped.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = expire.send(());
        }
    });
    let _ = expired.await;
}

/// How long a test waits for what it expects: long enough for a machine under load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
