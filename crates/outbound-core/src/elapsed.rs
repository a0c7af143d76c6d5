//! A limit of time ran out.

use std::{error::Error, fmt, time::Duration};

use crate::{
    context::Attempt,
    origin::Origin,
    snapshot::Snapshot,
    units::Time,
    words::{Delivery, Phase},
};

/// A limit of time ran out, in the phase it names.
///
/// **May the peer have acted on the request?** Ask [`delivery`](Self::delivery): before [`Phase::Send`] certainly not, in
/// [`Phase::Body`] certainly, and in between unless not one byte had been written.
#[derive(Clone, Debug)]
pub struct Elapsed {
    phase: Phase,
    name: &'static str,
    limit: Duration,
    took: Duration,
    origin: Option<Origin>,
    attempt: Option<Attempt>,
    snapshot: Option<Box<Snapshot>>,
}

impl Elapsed {
    /// `limit` ran out in `phase`, on time.
    pub fn new(phase: Phase, limit: Duration) -> Self {
        let (origin, attempt, snapshot) = (None, None, None);
        Self { phase, name: phase.as_str(), limit, took: limit, origin, attempt, snapshot }
    }

    /// The limit has a name of its own, as where several watch over one phase.
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// It really took so long until the limit was noticed.
    #[must_use]
    pub fn took(mut self, took: Duration) -> Self {
        self.took = took;
        self
    }

    /// The request was on its way to `origin`: to be told where no exchange tells.
    #[must_use]
    pub fn to(mut self, origin: Origin) -> Self {
        self.origin = Some(origin);
        self
    }

    /// It was this attempt of the call: likewise.
    #[must_use]
    pub fn at(mut self, attempt: Attempt) -> Self {
        self.attempt = Some(attempt);
        self
    }

    /// The exchange as it stood then.
    #[must_use]
    pub fn during(mut self, snapshot: impl Into<Snapshot>) -> Self {
        self.snapshot = Some(Box::new(snapshot.into()));
        self
    }

    /// Where the call was.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Which limit it was, fit for a metric label: the phase's name unless it has one of its own.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The limit that ran out.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// How long it really was until the call failed.
    pub fn elapsed(&self) -> Duration {
        self.took
    }

    /// By how much the limit was overrun because this side was busy, its runtime stalled or nobody polling, with what the call
    /// was granted in return: time for which the peer is not to blame.
    pub fn late_by(&self) -> Duration {
        self.took.saturating_sub(self.limit)
    }

    /// Where the request was going, where it was known.
    pub fn origin(&self) -> Option<&Origin> {
        self.snapshot().and_then(|snapshot| snapshot.origin.as_ref()).or(self.origin.as_ref())
    }

    /// Which attempt of the call it was, where a retry layer counts them.
    pub fn attempt(&self) -> Option<Attempt> {
        self.snapshot().and_then(|snapshot| snapshot.attempt).or(self.attempt)
    }

    /// The exchange as it stood then, where it was known.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_deref()
    }

    /// Whether the peer may have acted on the request.
    pub fn delivery(&self) -> Delivery {
        match (&self.snapshot, self.phase) {
            (Some(snapshot), _) => snapshot.delivery,
            (None, Phase::Send | Phase::Head) => Delivery::Maybe,
            (None, Phase::Body) => Delivery::Answered,
            (None, _) => Delivery::NotSent,
        }
    }
}

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = self.origin() {
            write!(f, "{origin}: ")?;
        }
        write!(f, "timed out after {} {}", Time(self.took), self.phase.doing())?;
        let name = Some(self.name).filter(|&name| name != self.phase.as_str());
        if self.late_by() >= NOTICEABLE {
            let (name, limit, late) = (name.unwrap_or("limit"), Time(self.limit), Time(self.late_by()));
            write!(f, " ({name} {limit}; {late} late: this side was busy)")?;
        } else if let Some(name) = name {
            write!(f, " ({name})")?;
        }
        match (self.snapshot(), self.attempt) {
            (Some(snapshot), _) => write!(f, ", {snapshot}"),
            (None, Some(attempt)) if attempt > Attempt::FIRST => write!(f, ", attempt {attempt}"),
            (None, _) => Ok(()),
        }
    }
}

impl Error for Elapsed {}

/// Tokio's timer ticks every millisecond: less than a few ticks is not worth a word.
const NOTICEABLE: Duration = Duration::from_millis(5);
