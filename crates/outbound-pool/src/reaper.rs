//! Closes connections when they have been idle for too long: one task for a whole pool, with one timer.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use crate::connection::Slots;

/// Runs as long as the pool has connections, and sleeps until the oldest idle one is due.
pub(crate) struct Reaper {
    slots: Weak<Slots>,
    idle_timeout: Duration,
    running: AtomicBool,
    task: Mutex<Option<AbortHandle>>,
}

impl Reaper {
    pub(crate) fn new(slots: &Arc<Slots>, idle_timeout: Duration) -> Arc<Self> {
        let (slots, running, task) = (Arc::downgrade(slots), AtomicBool::new(false), Mutex::default());
        let idle_timeout = idle_timeout.min(FOR_EVER);
        Arc::new(Self { slots, idle_timeout, running, task })
    }

    /// Called for each connection that is opened, which it then outlives.
    pub(crate) fn ensure_running(self: &Arc<Self>) {
        if !self.running.load(SeqCst) && !self.running.swap(true, SeqCst) {
            let task = tokio::spawn(self.clone().run());
            *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        }
    }

    /// The pool has gone.
    pub(crate) fn stop(&self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }

    async fn run(self: Arc<Self>) {
        let mut watch = Watch(Some(self));
        while let Some(next) = watch.0.as_ref().and_then(|reaper| reaper.reap()) {
            sleep_until(next).await;
        }
        watch.0 = None;
    }

    /// Closes what is due, and tells when to look again; `None` when there is nothing left to look after.
    fn reap(&self) -> Option<Instant> {
        loop {
            let slots = self.slots.upgrade()?;
            if let Some(next) = slots.expire(self.idle_timeout) {
                return Some(next);
            }
            self.running.store(false, SeqCst);
            // A connection that came between the two lines above found us running: then it is ours after all.
            if slots.is_empty() || self.running.swap(true, SeqCst) {
                return None;
            }
        }
    }
}

/// Notices that the task ends with its runtime, and not because there is nothing left to do: the next connection starts another.
struct Watch(Option<Arc<Reaper>>);

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(reaper) = &self.0 {
            reaper.running.store(false, SeqCst);
        }
    }
}

impl fmt::Debug for Reaper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reaper").field("idle_timeout", &self.idle_timeout).finish_non_exhaustive()
    }
}

/// As long as the clock can be added to it without overflow, and longer than any process.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
