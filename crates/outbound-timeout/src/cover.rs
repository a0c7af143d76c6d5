//! One timer where several limits of nested layers watch over the same call.
//!
//! A deadline outside and a timeout inside wait for the same thing, and the inner one ends at the deadline too. Then its timer
//! wakes the task in time for both, and the outer one needs none. Who is polled inside says so here, on its way out.

use std::{cell::Cell, ptr, task::Waker};

use tokio::time::Instant;

thread_local! {
    static COVER: Cell<Option<Cover>> = const { Cell::new(None) };
}

/// This task is woken at this instant or earlier, by a timer of what was polled last.
#[derive(Clone, Copy)]
struct Cover {
    by: Instant,
    task: Task,
}

/// A waker, as far as it can be told from others without keeping it.
type Task = (*const (), *const ());

/// Nobody has been polled yet of whom a timer could be known.
pub(crate) fn clear() {
    COVER.set(None);
}

/// A timer that has just been polled by `waker`'s task wakes it at `by`.
pub(crate) fn by(by: Instant, waker: &Waker) {
    COVER.set(Some(Cover { by, task: task(waker) }));
}

/// Whether `waker`'s task is woken at `due` or earlier by a timer of what it has polled since [`clear`].
pub(crate) fn until(due: Instant, waker: &Waker) -> bool {
    COVER.get().is_some_and(|cover| cover.by <= due && cover.task == task(waker))
}

fn task(waker: &Waker) -> Task {
    (waker.data(), ptr::from_ref(waker.vtable()).cast())
}
