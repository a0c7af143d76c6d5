//! How long a call waits for others of its own side.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use crate::deadline::Deadline;

pin_project_lite::pin_project! {
    /// A limit on a wait for what other tasks of this process give back, such as a connection or a permit: ready once it has run out.
    ///
    /// If it is late because this runtime was not running, those others were not run either. They then get as long again as it was late, at most
    /// the limit once more and never past the [`Deadline`], in ten turns. To be polled after what it bounds.
    ///
    /// ```
    /// use std::time::Duration;
    /// use outbound_core::{Deadline, Grace};
    /// use tokio::time::{Instant, advance};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let begun = Instant::now();
    /// Grace::new(Duration::from_secs(1), Deadline::NEVER).await;
    /// assert_eq!(begun.elapsed(), Duration::from_secs(1));
    /// # }
    /// ```
    #[derive(Debug)]
    pub struct Grace {
        #[pin]
        sleep: Sleep,
        deadline: Deadline,
        // How far apart the turns are at most.
        every: Duration,
        // How many turns are left, once it has run out.
        left: Option<u32>,
    }
}

impl Grace {
    /// `limit` from now, or until `deadline` if that is earlier.
    ///
    /// # Panics
    /// If called outside a Tokio runtime with its timer on.
    pub fn new(limit: Duration, deadline: Deadline) -> Self {
        let limit = limit.min(deadline.left());
        Self { sleep: sleep(limit), deadline, every: limit / TURNS, left: None }
    }
}

impl Future for Grace {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            ready!(this.sleep.as_mut().poll(cx));
            let now = Instant::now();
            let left = this.left.unwrap_or_else(|| {
                let late = now.saturating_duration_since(this.sleep.deadline());
                *this.every = (late / TURNS).min(*this.every);
                if late < LATE { 0 } else { TURNS }
            });
            if left == 0 || this.deadline.is_past() {
                return Poll::Ready(());
            }
            *this.left = Some(left - 1);
            let next = now + *this.every;
            this.sleep.as_mut().reset(this.deadline.instant().map_or(next, |end| end.min(next)));
        }
    }
}

/// Only a timer that the driver fires proves that the driver has looked at the sockets, on every kind of runtime; and what it woke then
/// may have to wake others in turn.
const TURNS: u32 = 10;

/// Tokio's timer ticks once a millisecond, and rounds up: what is less late than this is on time.
const LATE: Duration = Duration::from_millis(3);
