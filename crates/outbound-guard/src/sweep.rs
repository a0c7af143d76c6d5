//! The one task that looks at all open calls, and sleeps until the first of them could be due.
//!
//! Nobody has to wake it: whatever a call does from now on, it is not due before the shortest limit has passed.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use crate::guard::Guard;

/// Whether the task runs, and how to end it.
#[derive(Default)]
pub(crate) struct Sweep {
    running: AtomicBool,
    task: Mutex<Option<AbortHandle>>,
}

/// Notices that the task ends with its runtime, and not because there is nothing left to do: the next call starts another.
struct Watch(Weak<Guard>);

impl Sweep {
    /// Called for each call that begins. Without a runtime there is no sweep until a call begins within one.
    pub(crate) fn ensure_running(&self, guard: &Arc<Guard>) {
        if self.running.load(SeqCst) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.running.swap(true, SeqCst) {
            *task = Some(runtime.spawn(run(Watch(Arc::downgrade(guard)))).abort_handle());
        }
    }

    /// Nothing is left to look after. False if a call began meanwhile that counts on this task.
    fn stop(&self, is_empty: impl FnOnce() -> bool) -> bool {
        self.running.store(false, SeqCst);
        is_empty() || self.running.swap(true, SeqCst)
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

async fn run(mut watch: Watch) {
    loop {
        let Some(guard) = watch.0.upgrade() else { return };
        let begun = Instant::now();
        let due = guard.sweep(begun);
        if guard.registry.is_empty() && guard.sweep.stop(|| guard.registry.is_empty()) {
            watch.0 = Weak::new();
            return;
        }
        // A tenth of the time at most, however many calls there are to look at.
        let rested = Instant::now() + TICK.max(9 * begun.elapsed());
        drop(guard);
        sleep_until(due.max(rested)).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(guard) = self.0.upgrade() {
            guard.sweep.running.store(false, SeqCst);
        }
    }
}

/// Tokio's timer knows nothing shorter.
const TICK: Duration = Duration::from_millis(1);
