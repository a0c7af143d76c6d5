//! Who of those in line goes next.

use std::time::Duration;

/// Who of those that wait goes next, and who has waited too long to go at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// The one who has waited longest.
    #[default]
    Fifo,
    /// The newest. Under lasting overload some calls are then answered at once while the others run into their
    /// [`max_wait`](crate::ConcurrencyLimitLayer::max_wait), instead of all being answered late.
    Lifo,
    /// The one who has waited longest; but once somebody has been waiting without a break for longer than `interval`,
    /// whoever has waited longer than `target` is turned away when it would be its turn.
    ///
    /// A short burst thus passes whole, while a queue that stands is cut down to `target`: controlled delay, as adapted
    /// from network queues (RFC 8289) to requests by Maurer, "Fail at Scale", ACM Queue 13(8), 2015.
    CoDel {
        /// How long a call may wait in a queue that stands.
        target: Duration,
        /// How long somebody has to be waiting without a break for the queue to count as standing.
        interval: Duration,
    },
}

impl Order {
    /// [`CoDel`](Self::CoDel) with the values of its source: 5 ms and 100 ms.
    pub const CODEL: Self =
        Self::CoDel { target: Duration::from_millis(5), interval: Duration::from_millis(100) };

    /// Whether one who has `waited` so long is turned away, where somebody has been in line without a break for `standing`.
    pub(crate) fn sheds(self, waited: Duration, standing: Duration) -> bool {
        match self {
            Self::Fifo | Self::Lifo => false,
            Self::CoDel { target, interval } => standing > interval && waited > target,
        }
    }
}
