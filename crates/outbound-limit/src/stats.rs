//! What a handle tells.

use std::time::Duration;

/// What a limit is doing now, and what it has done since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// How many calls it lets through at once; of a rate, the burst.
    pub limit: usize,
    /// How many permits are out. More than `limit` for a while after that has shrunk; always 0 of a rate, whose tokens do
    /// not come back.
    pub in_use: usize,
    /// How many calls wait.
    pub waiting: usize,
    /// How many calls were turned away: [`Overloaded`](outbound_core::Overloaded).
    pub rejected: u64,
    /// The longest wait that has ended, whether with a permit, turned away, or given up by the caller.
    pub longest_wait: Duration,
}

impl Stats {
    /// Both together, under the limit of the first.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            limit: self.limit,
            in_use: self.in_use + other.in_use,
            waiting: self.waiting + other.waiting,
            rejected: self.rejected + other.rejected,
            longest_wait: self.longest_wait.max(other.longest_wait),
        }
    }
}
