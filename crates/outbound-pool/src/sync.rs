//! The locks of the slot machine: the standard library's, or loom's when it is modelled.

#[cfg(outbound_loom)]
pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};
#[cfg(not(outbound_loom))]
pub(crate) use std::sync::{Arc, Mutex, MutexGuard};
