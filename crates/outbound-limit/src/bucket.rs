//! The tokens of a rate, and the line of those who wait for one.

use std::{
    fmt,
    num::NonZeroU32,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use governor::{
    Quota,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};
use outbound_core::{Deadline, Overloaded};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};

use crate::{
    gate::{Entered, Gate},
    invalid::InvalidOption,
    order::Order,
    place::{Held, Patience, Permit, Place},
    stats::Stats,
};

/// The tokens, and the line of those who wait for one: only its head, who holds the gate's one permit, watches the tokens.
pub struct Bucket {
    pub(crate) quota: Quota,
    clock: Clock,
    tokens: governor::RateLimiter<NotKeyed, InMemoryState, Clock, NoOpMiddleware<Nanos>>,
    /// When the last token was taken, in nanoseconds since the clock's start.
    taken: AtomicU64,
    pub(crate) line: Gate,
}

/// Tokio's clock, for governor.
#[derive(Clone, Copy)]
struct Clock(Instant);

/// What came of asking for a token.
pub(crate) enum Asked {
    Taken,
    Waiting(Wait),
    TurnedAway(Overloaded),
}

pin_project! {
    pub(crate) struct Wait {
        turn: Turn,
        waiter: Waiter,
        // Until patience ends, then until the token comes.
        #[pin]
        sleep: Sleep,
    }
}

enum Turn {
    InLine(Place),
    /// At the head of the line, which nobody else is while this is held.
    First(#[expect(dead_code, reason = "held")] Permit),
    Over,
}

/// Who waits, and for how long already.
struct Waiter {
    bucket: Arc<Bucket>,
    patience: Patience,
    deadline: Deadline,
    since: Instant,
    limit: Duration,
}

// === Bucket ===

impl Bucket {
    pub(crate) fn new(quota: Quota) -> Self {
        let clock = Clock(Instant::now());
        Self {
            quota,
            clock,
            tokens: governor::RateLimiter::direct_with_clock(quota, clock),
            taken: AtomicU64::new(0),
            line: Gate::new(1),
        }
    }

    /// Takes a token, or tells how long it is until one comes.
    fn take(&self) -> Result<(), Duration> {
        let taken = self.tokens.check();
        let now = governor::clock::Clock::now(&self.clock);
        taken.map_err(|not_until| not_until.wait_time_from(now))?;
        self.taken.fetch_max(now.into(), Relaxed);
        Ok(())
    }

    pub(crate) fn ask(self: Arc<Self>, patience: Patience, deadline: Deadline) -> Asked {
        let wait = match self.line.is_idle().then(|| self.take()) {
            Some(Ok(())) => return Asked::Taken,
            Some(Err(wait)) => wait,
            // At least: the one at the head may have its token any moment, the others need one each.
            None => self.quota.replenish_interval().saturating_mul(saturating(self.line.stats().waiting)),
        };
        let waiter = Waiter {
            limit: patience.max_wait.min(deadline.left()),
            since: Instant::now(),
            bucket: self,
            patience,
            deadline,
        };
        let places = patience.max_waiting.checked_sub(1).filter(|_| !waiter.limit.is_zero());
        let (Some(behind_head), true) = (places, waiter.can_wait(wait)) else {
            return Asked::TurnedAway(waiter.turned_away().room_in(wait));
        };
        let held = waiter.bucket.clone();
        let turn = match held.line.enter(Order::Fifo, behind_head, waiter.since) {
            Entered::Granted => Turn::First(Permit::new(held)),
            Entered::InLine(ticket) => Turn::InLine(Place::new(held, ticket)),
            Entered::Full(_) => return Asked::TurnedAway(waiter.turned_away()),
        };
        Asked::Waiting(Wait { turn, sleep: sleep(waiter.limit), waiter })
    }

    /// That nobody else has it is why it is asked for exclusively: of one that a call holds a token may be taken at any moment.
    pub(crate) fn is_as_new(&mut self) -> bool {
        let taken = Duration::from_nanos(*self.taken.get_mut());
        self.clock.0.elapsed().saturating_sub(taken) >= self.quota.burst_size_replenished_in()
    }

    pub(crate) fn stats(&self) -> Stats {
        let line = self.line.stats();
        let limit = self.quota.burst_size().get() as usize;
        Stats { limit, in_use: 0, waiting: line.in_use + line.waiting, ..line }
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.stats()).finish()
    }
}

impl Held for Bucket {
    fn gate(&self) -> &Gate {
        &self.line
    }
}

// === Wait ===

impl Wait {
    pub(crate) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Overloaded>> {
        let mut this = self.project();
        if let Turn::InLine(place) = this.turn {
            match place.poll(cx) {
                Poll::Ready(Some(permit)) => *this.turn = Turn::First(permit),
                Poll::Pending if this.sleep.as_mut().poll(cx).is_pending() => return Poll::Pending,
                _ => return Poll::Ready(Err(this.waiter.gives_up(this.turn))),
            }
        }
        // Nothing is sent once the deadline has passed, whatever tokens there are.
        while !this.waiter.deadline.is_past() {
            let Err(wait) = this.waiter.bucket.take() else { return Poll::Ready(Ok(())) };
            if !this.waiter.can_wait(wait) {
                return Poll::Ready(Err(this.waiter.gives_up(this.turn).room_in(wait)));
            }
            this.sleep.as_mut().reset(Instant::now() + wait);
            ready!(this.sleep.as_mut().poll(cx));
        }
        Poll::Ready(Err(this.waiter.gives_up(this.turn)))
    }
}

// === Waiter ===

impl Waiter {
    /// Whether a token that comes after `wait` is worth waiting for: on the very tick of the deadline nothing is sent any more.
    fn can_wait(&self, wait: Duration) -> bool {
        self.since.elapsed().saturating_add(wait) <= self.limit && wait < self.deadline.left()
    }

    fn turned_away(&self) -> Overloaded {
        let Stats { limit, waiting, .. } = self.bucket.stats();
        self.patience.turned_away(&self.bucket.line, limit, waiting)
    }

    fn gives_up(&self, turn: &mut Turn) -> Overloaded {
        *turn = Turn::Over;
        self.turned_away().waited(self.since.elapsed())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.bucket.line.waited(self.since.elapsed());
    }
}

// === Clock ===

impl governor::clock::Clock for Clock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

/// `every` with room for `burst` tokens, if those come within what the clock can count.
pub(crate) fn checked(every: Quota, burst: NonZeroU32) -> Result<Quota, InvalidOption> {
    let full = every.replenish_interval().checked_mul(burst.get());
    let holds = full.is_some_and(|full| full <= CENTURY);
    InvalidOption::unless(holds, "burst", "so small that as many tokens come within 100 years")?;
    Ok(every.allow_burst(burst))
}

fn saturating(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
