//! Looks after the connections of a pool: drives each in a task of its own, and closes them when their time has come, which takes one
//! task for a whole pool, with one timer.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinHandle},
    time::{Instant, sleep_until},
};

use crate::{connection::Slots, sync::AtomicBool};

/// Its task runs as long as the pool has connections, and sleeps until the next of them is due.
pub(crate) struct Keeper {
    slots: Weak<Slots>,
    running: AtomicBool,
    task: Mutex<Option<AbortHandle>>,
    keys: AtomicU64,
    drivers: Mutex<HashMap<u64, Option<AbortHandle>>>,
    /// Whatever is still to be driven is not: a dial may end when all is over. Changes under the lock of `drivers`.
    aborted: AtomicBool,
    /// What has been opened, or used again, may be due before all others.
    news: Notify,
}

impl Keeper {
    pub(crate) fn new(slots: &Arc<Slots>) -> Arc<Self> {
        Arc::new(Self {
            slots: Arc::downgrade(slots),
            running: AtomicBool::new(false),
            task: Mutex::default(),
            keys: AtomicU64::new(0),
            drivers: Mutex::default(),
            aborted: AtomicBool::new(false),
            news: Notify::new(),
        })
    }

    /// Drives a connection, or a dial, until it ends or all are aborted.
    pub(crate) fn drive(
        self: &Arc<Self>,
        connection: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let key = self.keys.fetch_add(1, Relaxed);
        let driven = Driven { keeper: self.clone(), key };
        let driver = tokio::spawn(async move {
            let _driven = driven;
            connection.await;
        });
        if self.meet(key, Some(driver.abort_handle())) {
            driver.abort();
        }
        driver
    }

    /// Who comes first, the task's handle or its end, leaves an entry; who comes second takes it away. Tells whether all was aborted.
    fn meet(&self, key: u64, driver: Option<AbortHandle>) -> bool {
        let mut drivers = lock(&self.drivers);
        if drivers.remove(&key).is_none() {
            drivers.insert(key, driver);
        }
        self.aborted.load(Relaxed)
    }

    /// Closes every socket that is still open.
    pub(crate) fn abort(&self) {
        let drivers: Vec<_> = {
            let drivers = lock(&self.drivers);
            self.aborted.store(true, Relaxed);
            drivers.values().flatten().cloned().collect()
        };
        drivers.iter().for_each(AbortHandle::abort);
    }

    /// Called for each connection that is opened, which it then outlives.
    pub(crate) fn ensure_running(self: &Arc<Self>) {
        if self.starts() {
            let task = tokio::spawn(self.clone().run());
            *lock(&self.task) = Some(task.abort_handle());
        } else {
            self.look();
        }
    }

    /// Whether there is no task, and it is for the caller to start it.
    fn starts(&self) -> bool {
        !self.running.load(SeqCst) && !self.running.swap(true, SeqCst)
    }

    /// A connection may be due earlier than those that were there.
    pub(crate) fn look(&self) {
        self.news.notify_one();
    }

    /// The pool has gone.
    pub(crate) fn stop(&self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }

    async fn run(self: Arc<Self>) {
        let mut watch = Watch(Some(self));
        while let Some((keeper, next)) = watch.0.as_ref().and_then(|keeper| Some((keeper, keeper.expire()?)))
        {
            tokio::select! {
                () = sleep_until(next) => {}
                () = keeper.news.notified() => {}
            }
        }
        watch.0 = None;
    }

    /// Closes what is due, and tells when to look again; `None` when there is nothing left to look after.
    fn expire(&self) -> Option<Instant> {
        loop {
            let slots = self.slots.upgrade()?;
            if let Some(next) = slots.expire() {
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

/// Its entry among the drivers.
struct Driven {
    keeper: Arc<Keeper>,
    key: u64,
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.keeper.meet(self.key, None);
    }
}

/// Notices that the task ends with its runtime, and not because there is nothing left to do: the next connection starts another.
struct Watch(Option<Arc<Keeper>>);

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(keeper) = &self.0 {
            keeper.running.store(false, SeqCst);
        }
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

fn lock<T>(kept: &Mutex<T>) -> MutexGuard<'_, T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, outbound_loom))]
mod model {
    use loom::{model, thread};

    use super::*;
    use crate::slots::model::{dialed, limits_of};

    /// The task finds nothing left to look after while a connection is opened, or two.
    #[test]
    fn while_a_connection_is_open_one_task_runs() {
        for connections in [1, 2] {
            let mut builder = model::Builder::new();
            builder.preemption_bound = Some(2);
            builder.check(move || {
                let slots = Slots::new(limits_of(2, 2, 9));
                let keeper = Keeper::new(&slots);
                assert!(keeper.starts());
                let open = || {
                    let (slots, keeper) = (slots.clone(), keeper.clone());
                    thread::spawn(move || (dialed(&slots), keeper.starts()))
                };
                let opened: Vec<_> = (0..connections).map(|_| open()).collect();
                let goes_on = keeper.expire().is_some();
                let opened: Vec<_> = opened.into_iter().map(|opened| opened.join().unwrap()).collect();
                let started = opened.iter().filter(|(_, starts)| *starts).count();
                assert_eq!(started + usize::from(goes_on), 1);
            });
        }
    }
}
