//! What is seen once for the whole process, however many guards there are in it: what is built, and descriptors.
//!
//! Each client has a guard. One that is built for a single call lives no longer than that, and many that stand would all tell the same.

use std::{
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use outbound_core::{Construction, Watcher};
use tokio::time::Instant;

use crate::{
    churn::{Allowed, Churn},
    descriptors::Descriptors,
    guard::Guard,
    leak::Leak,
};

/// What all guards share. What it finds is told by one of them: of those that want to know, the first that has a callback, or else
/// the first.
#[derive(Default)]
pub(crate) struct Process(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// Those with a callback first.
    ears: Vec<Ear>,
    churn: Churn,
    descriptors: Checked,
}

/// A guard, and what it wants to know of.
struct Ear {
    guard: Weak<Guard>,
    has_callback: bool,
    churn: Option<Allowed>,
    spare_descriptors: Option<u64>,
}

/// When descriptors were last counted, and of which spare ones it has been told that fewer are left.
#[derive(Default)]
struct Checked {
    at: Option<Instant>,
    told: Option<u64>,
}

/// The one that there is. It counts what is built from its first guard on.
pub(crate) static PROCESS: LazyLock<Arc<Process>> = LazyLock::new(|| {
    let process = Arc::new(Process::default());
    Construction::watch(&process);
    process
});

impl Process {
    /// Tells `guard` from now on, as long as it is there.
    pub(crate) fn tell(&self, guard: &Arc<Guard>, churn: Option<Allowed>, spare_descriptors: Option<u64>) {
        let has_callback = guard.reporter.has_callback();
        let ear = Ear { guard: Arc::downgrade(guard), has_callback, churn, spare_descriptors };
        let ears = &mut self.lock().ears;
        ears.retain(|ear| ear.guard.strong_count() > 0);
        let place = if has_callback { ears.partition_point(|ear| ear.has_callback) } else { ears.len() };
        ears.insert(place, ear);
    }

    /// Once a second at most, and told once until there are enough again.
    pub(crate) fn check_descriptors(&self, now: Instant) {
        if !self.lock().descriptors.is_due(now) {
            return;
        }
        let Some(descriptors) = Descriptors::now() else { return };
        let teller = self.lock().counted(descriptors);
        if let Some(guard) = teller {
            guard.reporter.tell(&Leak::Descriptors { descriptors });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher for Process {
    fn built(&self, construction: Construction) {
        let now = Instant::now();
        let told = self.lock().built(construction, now);
        if let Some((guard, built, within)) = told {
            guard.reporter.tell(&Leak::Churn { construction, built, within });
        }
        self.check_descriptors(now);
    }
}

impl Seen {
    /// Counts one more. If that is one too many: who tells, how many, and within how long they were built.
    fn built(&mut self, construction: Construction, now: Instant) -> Option<(Arc<Guard>, u32, Duration)> {
        let line = self.churn.built(construction, now, self.ears.iter().filter_map(|ear| ear.churn))?;
        self.ears.iter().find_map(|ear| {
            let allowed = ear.churn?;
            let within = line.exceeds(allowed, now)?;
            let guard = ear.guard.upgrade()?;
            line.told(now);
            Some((guard, allowed.fewer_than.get(), within))
        })
    }

    /// Who tells that so few are left, if that is news: of several who want to know, the one that wants the fewest.
    fn counted(&mut self, descriptors: Descriptors) -> Option<Arc<Guard>> {
        let wanted = |ear: &Ear| ear.spare_descriptors.unwrap_or(descriptors.limit / 5);
        let short = self.ears.iter().filter(|ear| ear.guard.strong_count() > 0);
        let short = short.map(|ear| (wanted(ear), &ear.guard));
        let short = short.filter(|&(spare, _)| descriptors.left() < spare);
        let (spare, guard) = short.min_by_key(|&(spare, _)| spare).unzip();
        let told = std::mem::replace(&mut self.descriptors.told, spare);
        // Only the one that leaves the lock is held: whoever is the last to hold a guard drops its callback.
        guard.filter(|_| told.is_none_or(|told| spare < Some(told)))?.upgrade()
    }
}

impl Checked {
    fn is_due(&mut self, now: Instant) -> bool {
        // The clock of another runtime may be ahead, in tests.
        if self.at.is_some_and(|at| (at..at + SECOND).contains(&now)) {
            return false;
        }
        self.at = Some(now);
        true
    }
}

const SECOND: Duration = Duration::from_secs(1);
