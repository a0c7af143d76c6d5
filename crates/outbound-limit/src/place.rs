//! How a call waits for a permit, and what it holds once it has one.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use outbound_core::{AtEnd, Deadline, End, Grace, Overloaded};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::{
    algorithm::Sample,
    gate::{Entered, Gate, Ticket, Turn},
    order::Order,
    stats::Stats,
};

/// What a permit is of: a gate, and what lies around it.
pub trait Held: Send + Sync {
    fn gate(&self) -> &Gate;

    /// Now, where a sample of the call is wanted.
    fn clock(&self) -> Option<Instant> {
        None
    }

    fn learn(&self, sample: &Sample) {
        let _ = sample;
    }

    /// This reference is not needed any more.
    fn let_go(self: Arc<Self>) {}
}

/// How calls wait: an option of the layer, not of the limit, so that layers that share a limit can differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) name: &'static str,
    pub(crate) max_waiting: usize,
    pub(crate) max_wait: Duration,
    pub(crate) order: Order,
}

/// What came of asking for a permit.
pub(crate) enum Asked {
    Granted(Permit),
    Waiting(Wait),
    TurnedAway(Overloaded),
}

/// The right to make one call. Given back by dropping it.
pub(crate) struct Permit(Option<Arc<dyn Held>>);

/// A place in line. Left by dropping it.
pub(crate) struct Place {
    held: Option<Arc<dyn Held>>,
    /// `None` once it is no place any more.
    ticket: Option<Ticket>,
}

pin_project! {
    /// A place in line, and the end of patience.
    pub(crate) struct Wait {
        place: Place,
        patience: Patience,
        since: Instant,
        deadline: Deadline,
        #[pin]
        patient: Option<Grace>,
    }
}

/// Gives the permit back when the body has ended: what this crate hooks into [`OnEnd`](outbound_core::OnEnd).
#[derive(Debug)]
pub struct Release(pub(crate) Option<Permit>);

// === Patience ===

impl Patience {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, max_waiting: MAX_WAITING, max_wait: MAX_WAIT, order: Order::default() }
    }

    /// Asks for a permit on behalf of a call that has to be over by `deadline`.
    pub(crate) fn ask(self, held: Arc<dyn Held>, deadline: Deadline) -> Asked {
        if held.gate().try_acquire() {
            return Asked::Granted(Permit::new(held));
        }
        let since = Instant::now();
        let limit = self.max_wait.min(deadline.left());
        let max_waiting = if limit.is_zero() { 0 } else { self.max_waiting };
        match held.gate().enter(self.order, max_waiting, since) {
            Entered::Granted => Asked::Granted(Permit::new(held)),
            Entered::InLine(ticket) => Asked::Waiting(Wait {
                place: Place::new(held, ticket),
                patience: self,
                since,
                deadline,
                patient: (limit < Duration::MAX).then(|| Grace::new(limit, deadline)),
            }),
            Entered::Full(waiting) => {
                let error = self.turned_away(held.gate(), held.gate().limit(), waiting);
                held.let_go();
                Asked::TurnedAway(error)
            }
        }
    }

    /// Counts and tells that a call is turned away.
    pub(crate) fn turned_away(self, gate: &Gate, limit: usize, waiting: usize) -> Overloaded {
        gate.reject();
        tracing::debug!(limiter = self.name, limit, waiting, "turned away");
        Overloaded::new(self.name, limit, waiting)
    }
}

// === Permit ===

impl Permit {
    /// A permit that has been taken already.
    pub(crate) fn new(held: Arc<dyn Held>) -> Self {
        Self(Some(held))
    }

    pub(crate) fn held(&self) -> &dyn Held {
        self.0.as_deref().expect("held until it is dropped")
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(held) = self.0.take() {
            held.gate().release();
            held.let_go();
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}

// === Place ===

impl Place {
    pub(crate) fn new(held: Arc<dyn Held>, ticket: Ticket) -> Self {
        Self { held: Some(held), ticket: Some(ticket) }
    }

    /// The permit, or `None` when it has been shed.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<Permit>> {
        let (Some(held), Some(ticket)) = (&self.held, &self.ticket) else { return Poll::Ready(None) };
        let turn = ready!(held.gate().poll(ticket, cx.waker()));
        self.ticket = None;
        Poll::Ready(match turn {
            Turn::Granted => Some(Permit(self.held.take())),
            Turn::Shed => None,
        })
    }

    /// Leaves the line; what is left of it belongs to nobody in it.
    pub(crate) fn leave(&mut self) -> Option<&Gate> {
        let gate = self.held.as_deref()?.gate();
        if let Some(ticket) = self.ticket.take() {
            gate.leave(&ticket);
        }
        Some(gate)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
        if let Some(held) = self.held.take() {
            held.let_go();
        }
    }
}

// === Wait ===

impl Wait {
    /// The permit. One that is there beats a patience that ends on the same tick, but not a deadline: nothing is sent after it.
    pub(crate) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Permit, Overloaded>> {
        let this = self.project();
        if !this.deadline.is_past() {
            match this.place.poll(cx) {
                Poll::Ready(Some(permit)) => return Poll::Ready(Ok(permit)),
                Poll::Ready(None) => {}
                Poll::Pending => match this.patient.as_pin_mut() {
                    Some(patient) => ready!(patient.poll(cx)),
                    None => return Poll::Pending,
                },
            }
        }
        let gate = this.place.leave().expect("not polled after it was ready");
        let Stats { limit, waiting, .. } = gate.stats();
        let error = this.patience.turned_away(gate, limit, waiting);
        Poll::Ready(Err(error.waited(this.since.elapsed())))
    }
}

// === Release ===

impl AtEnd for Release {
    fn at_end(self, _: End) {
        drop(self.0);
    }
}

const MAX_WAITING: usize = 1024;
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The options that every layer here has.
macro_rules! how_to_wait {
    ($($patience:ident).+) => {
        /// How many calls may wait: 1024 by default, as in Envoy (`max_pending_requests`). One more is turned away at once:
        /// [`Overloaded`](outbound_core::Overloaded). With 0 nobody waits.
        #[must_use]
        pub fn max_waiting(mut self, max_waiting: usize) -> Self {
            self.$($patience).+.max_waiting = max_waiting;
            self
        }

        /// How long a call may wait: 30 s by default, as in HikariCP (`connectionTimeout`);
        /// [`Duration::MAX`](std::time::Duration::MAX) for ever. Then it is turned
        /// away: [`Overloaded`](outbound_core::Overloaded). With zero nobody waits. The request's
        /// [`Deadline`](outbound_core::Deadline) shortens it.
        #[must_use]
        pub fn max_wait(mut self, max_wait: std::time::Duration) -> Self {
            self.$($patience).+.max_wait = max_wait;
            self
        }

        /// What the limit is called in errors, so that one of several can be told from the others.
        #[must_use]
        pub fn name(mut self, name: &'static str) -> Self {
            self.$($patience).+.name = name;
            self
        }
    };
}

pub(crate) use how_to_wait;
