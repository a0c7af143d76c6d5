//! What the retries of one call have cost, and why there were no more.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    context::{Carried, Message},
    words::GaveUp,
};

/// What the retries of one call have cost so far, over all the retry layers it passed through, and why there were no more.
///
/// It is on the response whenever there is something to tell: absent, there was one attempt and nobody wanted another. Whoever
/// wants to know after an error too puts one on the request with [`track`](Self::track) and keeps the clone.
///
/// ```
/// use outbound_core::{GaveUp, Retries};
///
/// let mut request = http::Request::new(());
/// let retries = Retries::track(&mut request);
/// Retries::of(&request).unwrap().give_up(GaveUp::Budget, None); // what a retry layer does
/// assert_eq!((retries.count(), retries.gave_up()), (0, Some(GaveUp::Budget)));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Retries(Arc<Mutex<Sum>>);

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    count: u32,
    slept: Duration,
    resent: u64,
    gave_up: Option<GaveUp>,
    retry_at: Option<Instant>,
}

impl Retries {
    /// None so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// The record that `message` carries.
    pub fn of(message: &impl Message) -> Option<Self> {
        Carried::of(message)?.retries.clone()
    }

    /// The record on `message`, put there now if there was none.
    pub fn track(message: &mut impl Message) -> Self {
        Carried::on(message).retries.get_or_insert_default().clone()
    }

    /// Puts this record on `message` in place of any other.
    pub fn attach(self, message: &mut impl Message) {
        Carried::on(message).retries = Some(self);
    }

    /// Attempts beyond the first.
    pub fn count(&self) -> u32 {
        self.sum().count
    }

    /// Time spent between attempts.
    pub fn slept(&self) -> Duration {
        self.sum().slept
    }

    /// Bytes of the request's body handed to attempts beyond the first.
    pub fn resent(&self) -> u64 {
        self.sum().resent
    }

    /// Why the last failure was not retried, if a retry layer looked at it and took it for one.
    ///
    /// [`GaveUp::Budget`] marks the call: a retry layer further out does not retry it either. The mark is in this record, which the layers
    /// share, and not in the error: a retry layer of another make that is further out does not see it.
    pub fn gave_up(&self) -> Option<GaveUp> {
        self.sum().gave_up
    }

    /// When the next attempt would have been allowed, if a retry layer gave up because that was too late.
    pub fn retry_at(&self) -> Option<Instant> {
        self.sum().retry_at
    }

    // --- what retry layers report ---

    /// Another attempt begins, after so long a sleep.
    pub fn retry(&self, slept: Duration) {
        let mut sum = self.sum();
        *sum = Sum {
            count: sum.count.saturating_add(1),
            slept: sum.slept.saturating_add(slept),
            gave_up: None,
            retry_at: None,
            ..*sum
        };
    }

    /// `bytes` of the request's body were handed out again.
    pub fn resend(&self, bytes: u64) {
        self.sum().resent += bytes;
    }

    /// A failure is returned to the caller.
    pub fn give_up(&self, why: GaveUp, retry_at: Option<Instant>) {
        let mut sum = self.sum();
        *sum = Sum { gave_up: Some(why), retry_at, ..*sum };
    }

    fn sum(&self) -> MutexGuard<'_, Sum> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
