//! What is shared between threads: std's, or loom's where its models are checked.

#[cfg(all(test, outbound_loom))]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
#[cfg(not(all(test, outbound_loom)))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
