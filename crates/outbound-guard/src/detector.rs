//! The handle: what is open now, and what has been found.

use std::{fmt, sync::Arc, time::Duration};

use outbound_core::{Failure, Kind, Phase, Witness};

use crate::{
    descriptors::Descriptors,
    guard::Guard,
    layer::ClientHandle,
    leak::{Holding, Leak},
};

/// Sees what the [`LeakGuardLayer`](crate::LeakGuardLayer) it was born with sees. Clones share it.
///
/// When the last of them goes, every call that is still open is told as [`Leak::Forgotten`], unless it has been told before: keep
/// it for as long as there are calls.
#[derive(Clone, Debug)]
pub struct LeakDetector(Arc<Handle>);

/// Fails the test that it is dropped in if a call is still open then: [`LeakDetector::check_on_drop`].
#[derive(Debug)]
#[must_use = "it checks when it is dropped"]
pub struct LeakCheck(LeakDetector);

/// Numbers for gauges and counters: [`LeakDetector::stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls whose response is to come.
    pub calls: usize,
    /// Response bodies with their callers.
    pub bodies: usize,
    /// Of both, those that are [`Leak::Held`] now.
    pub held: usize,
    /// The age of the oldest of both.
    pub oldest: Option<Duration>,
    /// What has been found so far.
    pub totals: Totals,
}

/// How many of each [`Leak`] have been found, by its [`kind`](Leak::kind).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// [`Leak::Held`].
    pub held: u64,
    /// [`Leak::Returned`].
    pub returned: u64,
    /// [`Leak::Abandoned`].
    pub abandoned: u64,
    /// [`Leak::Forgotten`].
    pub forgotten: u64,
    /// [`Leak::Reclaimed`].
    pub reclaimed: u64,
    /// [`Leak::Churn`], as far as it was this guard's to tell.
    pub churn: u64,
    /// [`Leak::ClientDropped`].
    pub clients_dropped: u64,
    /// [`Leak::Descriptors`], likewise.
    pub descriptors: u64,
}

#[derive(Debug)]
struct Handle(Arc<Guard>);

// === LeakDetector ===

impl LeakDetector {
    pub(crate) fn new(guard: Arc<Guard>) -> Self {
        Self(Arc::new(Handle(guard)))
    }

    fn guard(&self) -> &Guard {
        &self.0.0
    }

    /// Every call that is open, the oldest first: who made it, and how far it has got.
    pub fn snapshot(&self) -> Vec<Holding> {
        self.guard().snapshot()
    }

    /// How many calls are open, and what has been found so far. Looks at each of them.
    pub fn stats(&self) -> Stats {
        let snapshot = self.snapshot();
        let is_held = |holding: &&Holding| holding.idle.is_some_and(|idle| idle >= self.guard().held);
        let bodies = snapshot.iter().filter(|holding| holding.phase == Some(Phase::Body)).count();
        Stats {
            calls: snapshot.len() - bodies,
            bodies,
            held: snapshot.iter().filter(is_held).count(),
            oldest: snapshot.first().map(|holding| holding.age),
            totals: self.guard().reporter.totals(),
        }
    }

    /// The file descriptors of this process, on Linux, where it looks through `/proc/self/fd`; `None` elsewhere.
    pub fn descriptors(&self) -> Option<Descriptors> {
        Descriptors::now()
    }

    /// Who is in the way of a call that failed with `error`, if that is an acquire timeout or an
    /// [`Overloaded`](outbound_core::Overloaded): the calls that are open to its origin, the oldest first, and then those to other
    /// origins, which are in its way where the limit is one for all. Not those that are known to wait themselves. Nobody, if it is any
    /// other error.
    ///
    /// ```
    /// # use outbound_core::{Overloaded};
    /// # let (_, detector) = outbound_guard::LeakGuardLayer::pair();
    /// # let error = Overloaded::new("limit", 1, 0);
    /// eprintln!("{error}");
    /// for holder in detector.holders(&error).iter().take(3) {
    ///     eprintln!("  held by {holder}");
    /// }
    /// ```
    pub fn holders(&self, error: &(dyn std::error::Error + 'static)) -> Vec<Holding> {
        let failure = Failure::of(error);
        let in_line = matches!(failure.phase(), Some(Phase::Queue | Phase::Acquire));
        if failure.kind() != Kind::Overloaded && !(in_line && failure.kind() == Kind::Timeout) {
            return Vec::new();
        }
        let mut holders = self.snapshot();
        // They hold nothing yet.
        holders.retain(|holding| !matches!(holding.phase, Some(Phase::Queue | Phase::Acquire)));
        holders.sort_by_key(|holding| holding.origin.as_ref() != failure.origin());
        holders
    }

    /// Who tells a limit outside the guard which call is in the way of one that it turns away, so that the error names its line.
    ///
    /// ```
    /// use http::{Request, Response};
    /// use outbound_guard::{LeakGuardLayer, SendExt};
    /// use outbound_limit::ConcurrencyLimitLayer;
    /// use tower::{ServiceBuilder, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), outbound_core::BoxError> {
    /// # use std::convert::Infallible;
    /// let (guard, detector) = LeakGuardLayer::pair();
    /// let limit = ConcurrencyLimitLayer::new(1).max_waiting(0).witness(detector.witness());
    /// let client = ServiceBuilder::new().layer(limit).layer(guard).service_fn(async |_: Request<()>| {
    ///     Ok::<_, Infallible>(Response::new(String::from("hello")))
    /// });
    ///
    /// let _unread = client.send(Request::new(())).await?;
    /// let error = client.send(Request::new(())).await.unwrap_err().to_string();
    /// let (_, line) = error.split_once("; oldest call 0 s, begun at ").unwrap();
    /// assert!(line.contains(&format!(":{}:", line!() - 3)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn witness(&self) -> Arc<dyn Witness> {
        self.0.0.clone()
    }

    /// A handle to be kept by each clone of a client that hides its guarded service behind other layers: what is told as
    /// [`Leak::ClientDropped`] is told when the last clone of the handle goes, and no longer when that of a service does.
    pub fn client(&self) -> ClientHandle {
        ClientHandle::new(self.0.0.clone())
    }

    /// Fails a test in which a call is still open.
    ///
    /// # Panics
    /// If one is, with a line for each of them that says who made it.
    #[track_caller]
    pub fn assert_no_leaks(&self) {
        let open = self.snapshot();
        assert!(open.is_empty(), "{}", Listed(&open));
    }

    /// Does the same when it is dropped, unless the test fails anyway.
    ///
    /// ```
    /// # let (layer, detector) = outbound_guard::LeakGuardLayer::pair();
    /// let _check = detector.check_on_drop(); // the first line of a test
    /// ```
    pub fn check_on_drop(&self) -> LeakCheck {
        LeakCheck(self.clone())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

// === LeakCheck ===

impl Drop for LeakCheck {
    /// # Panics
    /// If a call is open: that is what it is for. Not while the thread is panicking.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.0.assert_no_leaks();
        }
    }
}

// === Totals ===

impl Totals {
    pub(crate) fn count(&mut self, leak: &Leak) {
        *match leak {
            Leak::Held { .. } => &mut self.held,
            Leak::Returned { .. } => &mut self.returned,
            Leak::Abandoned { .. } => &mut self.abandoned,
            Leak::Forgotten { .. } => &mut self.forgotten,
            Leak::Reclaimed { .. } => &mut self.reclaimed,
            Leak::Churn { .. } => &mut self.churn,
            Leak::ClientDropped { .. } => &mut self.clients_dropped,
            Leak::Descriptors { .. } => &mut self.descriptors,
        } += 1;
    }
}

/// One line for each.
struct Listed<'a>(&'a [Holding]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} still open", outbound_core::Count(self.0.len() as u64, "response"))?;
        self.0.iter().try_for_each(|holding| write!(f, "\n  {holding:#}"))
    }
}
