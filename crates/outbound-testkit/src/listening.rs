//! Hear what is told on this thread, whatever other tests do on theirs.

use std::sync::LazyLock;

use tracing::{
    Dispatch, Subscriber,
    subscriber::{DefaultGuard, NoSubscriber, set_default},
};

/// Has `subscriber` told of this thread's events and spans, until what is returned is dropped.
///
/// As [`set_default`] does, which alone is not to be relied on where tests run side by side: as long as there is a single subscriber in the
/// process, `tracing` asks the thread that comes to an event first whether anybody wants it, and keeps the answer for all. That may be
/// the thread of a test that listens to nothing. Here there always is a second one, which wants nothing.
#[must_use = "it listens until this is dropped"]
pub fn listening(subscriber: impl Subscriber + Send + Sync + 'static) -> DefaultGuard {
    static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));
    LazyLock::force(&SECOND);
    set_default(subscriber)
}
