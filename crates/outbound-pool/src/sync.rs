//! The lock of the slot machine: the standard library's, or loom's when the machine is modelled.

#[cfg(outbound_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(outbound_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};
