//! A part of a run, and nothing around it: its instructions, and how often it asks the kernel for something.

use std::os::unix::process::parent_id;

use crate::instructions::{collected, valgrind};

/// What the counted parts of a run took, all together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    pub(crate) instructions: u64,
    /// System calls.
    pub(crate) calls: u64,
}

/// Does `act`, which is counted when [`count`] runs this program. A counted part has no other in it.
#[inline(never)]
pub(crate) fn counted<T>(act: impl FnOnce() -> T) -> T {
    // A system call that nobody makes otherwise marks both ends.
    let _ = parent_id();
    let done = act();
    let _ = parent_id();
    done
}

/// Runs this program with these arguments under callgrind, which collects in [`counted`] only.
pub(crate) fn count(arguments: &[String]) -> Count {
    let said = valgrind(&["--toggle-collect=*counted::counted*", "--trace-syscalls=yes"], arguments);
    let (mut is_within, mut calls) = (false, 0);
    for line in said.lines().filter(|line| line.starts_with("SYSCALL[") && line.contains(" sys_")) {
        if line.contains(" sys_getppid") {
            is_within = !is_within;
        } else if is_within && !line.contains(" sys_clock_gettime") {
            // That one is a system call under callgrind only.
            calls += 1;
        }
    }
    Count { instructions: collected(&said), calls }
}
