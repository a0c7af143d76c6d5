//! The one task that looks at all open calls, and sleeps until the first of them could be due.
//!
//! Nobody has to wake it: whatever a call does from now on, it is not due before the shortest limit has passed.

use std::{
    sync::{Arc, PoisonError, Weak, atomic::Ordering::SeqCst},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use crate::{
    guard::Guard,
    sync::{AtomicBool, Mutex},
};

/// Whether the task runs, and how to end it.
pub(crate) struct Sweep {
    running: AtomicBool,
    task: Mutex<Option<AbortHandle>>,
}

/// Notices that the task ends with its runtime, and not because there is nothing left to do: the next call starts another.
struct Watch(Weak<Guard>);

impl Sweep {
    pub(crate) fn new() -> Self {
        Self { running: AtomicBool::new(false), task: Mutex::new(None) }
    }

    /// Called for each call that begins. Without a runtime there is no sweep until a call begins within one.
    pub(crate) fn ensure_running(&self, guard: &Arc<Guard>) {
        if self.running.load(SeqCst) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        self.start(|| runtime.spawn(run(Watch(Arc::downgrade(guard)))).abort_handle());
    }

    fn start(&self, spawn: impl FnOnce() -> AbortHandle) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.running.swap(true, SeqCst) {
            *task = Some(spawn());
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

#[cfg(all(test, outbound_loom))]
mod model {
    use std::{cell::Cell, future::pending};

    use loom::{model, thread};

    use super::*;

    /// The sweep finds nothing left to look after while a call begins, or two.
    #[test]
    fn while_a_call_is_open_one_sweep_runs() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let task = runtime.spawn(pending::<()>()).abort_handle();
        for calls in [1, 2] {
            let task = task.clone();
            model(move || {
                let shared = Arc::new((Sweep::new(), Mutex::new(0)));
                let is_empty = |open: &Mutex<u32>| *open.lock().unwrap() == 0;
                shared.0.start(|| task.clone());
                let begin = {
                    let (shared, task) = (shared.clone(), task.clone());
                    move || {
                        let (sweep, open) = &*shared;
                        *open.lock().unwrap() += 1;
                        let started = Cell::new(0);
                        if !sweep.running.load(SeqCst) {
                            sweep.start(|| {
                                started.set(1);
                                task.clone()
                            });
                        }
                        started.get()
                    }
                };
                let begins: Vec<_> = (0..calls).map(|_| thread::spawn(begin.clone())).collect();
                let goes_on = i32::from(!shared.0.stop(|| is_empty(&shared.1)));
                let running: i32 =
                    begins.into_iter().map(|begins| begins.join().unwrap()).sum::<i32>() + goes_on;
                assert_eq!(running, 1);
            });
        }
    }
}
