//! How many files and sockets the process has open.

use std::fmt;

#[cfg(target_os = "linux")]
use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
};

/// Open file descriptors of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Descriptors {
    /// How many are open.
    pub open: u64,
    /// How many may be: the soft limit (`RLIMIT_NOFILE`, `ulimit -n`).
    pub limit: u64,
}

impl Descriptors {
    /// As they are now. Looks through `/proc/self/fd`; `None` where there is none, or no limit.
    pub(crate) fn now() -> Option<Self> {
        let limit = limit()?;
        Some(Self { open: open(limit)?, limit })
    }

    /// How many more may be opened.
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.open)
    }
}

impl fmt::Display for Descriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} file descriptors are open", self.open, self.limit)
    }
}

#[cfg(target_os = "linux")]
fn open(limit: u64) -> Option<u64> {
    match std::fs::read_dir("/proc/self/fd") {
        // The directory's own descriptor is one of those listed.
        Ok(listed) => Some(listed.count().saturating_sub(1) as u64),
        // There is none left to look with.
        Err(error) => (Errno::from_io_error(&error) == Some(Errno::MFILE)).then_some(limit),
    }
}

#[cfg(target_os = "linux")]
fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

#[cfg(not(target_os = "linux"))]
fn open(_limit: u64) -> Option<u64> {
    None
}

#[cfg(not(target_os = "linux"))]
fn limit() -> Option<u64> {
    None
}
