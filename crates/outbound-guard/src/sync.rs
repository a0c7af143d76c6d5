//! What is shared between threads: std's, or loom's where its models are checked.

#[cfg(not(all(test, outbound_loom)))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicU64},
};

#[cfg(not(all(test, outbound_loom)))]
pub(crate) use atomic_waker::AtomicWaker;
#[cfg(all(test, outbound_loom))]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicU64},
};

/// What `atomic_waker` promises: whoever wakes after a registration wakes what was registered last.
#[cfg(all(test, outbound_loom))]
#[derive(Debug)]
pub(crate) struct AtomicWaker(Mutex<Option<std::task::Waker>>);

#[cfg(all(test, outbound_loom))]
impl AtomicWaker {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(None))
    }

    pub(crate) fn register(&self, waker: &std::task::Waker) {
        let replaced = self.0.lock().unwrap().replace(waker.clone());
        drop(replaced);
    }

    pub(crate) fn take(&self) -> Option<std::task::Waker> {
        self.0.lock().unwrap().take()
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.take() {
            waker.wake();
        }
    }
}
