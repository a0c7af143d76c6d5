//! The primitives of the gate: std's, or loom's where its model is checked.

#[cfg(outbound_loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicIsize, AtomicUsize},
};
#[cfg(not(outbound_loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicIsize, AtomicUsize},
};
