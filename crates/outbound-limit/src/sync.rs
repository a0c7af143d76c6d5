//! What is shared between threads: std's, or loom's where its models are checked.

#[cfg(all(test, outbound_loom))]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicIsize, AtomicUsize},
};
#[cfg(not(all(test, outbound_loom)))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicIsize, AtomicUsize},
};
