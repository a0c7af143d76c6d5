//! The instant after which a call is worth nothing.

use std::time::Duration;

use tokio::time::Instant;

use crate::context::{Carried, Message};

/// The one instant by which a whole call must be over: attempts, backoff, queueing and the response body included.
///
/// Every layer clamps what it waits for to the deadline on the request, and sends nothing once it has passed.
/// Made from a [`Duration`] too long for the clock it means *never*, so no arithmetic on it can overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// No deadline at all.
    pub const NEVER: Self = Self(None);

    /// `total` from now; [`Duration::MAX`] means never.
    pub fn after(total: Duration) -> Self {
        Self(Instant::now().checked_add(total))
    }

    /// At `instant`.
    pub fn at(instant: Instant) -> Self {
        Self(Some(instant))
    }

    /// The deadline a request (or response) carries, if any.
    pub fn of(message: &impl Message) -> Option<Self> {
        Carried::of(message)?.deadline
    }

    /// Puts this deadline on `message`, unless an earlier one is already there: nobody lower down can have more time than their caller.
    pub fn tighten(self, message: &mut impl Message) {
        let carried = Carried::on(message);
        let held = carried.deadline.unwrap_or(Self::NEVER);
        carried.deadline = Some(self.earlier(held));
    }

    /// The earlier of the two.
    pub fn earlier(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (a, b) => Self(a.or(b)),
        }
    }

    /// The instant, or `None` for never.
    pub fn instant(self) -> Option<Instant> {
        self.0
    }

    /// The time until then: zero once passed, [`Duration::MAX`] for never.
    pub fn left(self) -> Duration {
        self.0.map_or(Duration::MAX, |instant| instant.saturating_duration_since(Instant::now()))
    }

    /// Whether it has passed. On the very tick it has.
    pub fn is_past(self) -> bool {
        self.0.is_some_and(|instant| instant <= Instant::now())
    }
}

impl Default for Deadline {
    fn default() -> Self {
        Self::NEVER
    }
}
