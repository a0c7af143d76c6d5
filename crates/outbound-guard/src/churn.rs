//! Lines of code that build again and again what is meant to be built once.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU32,
    time::Duration,
};

use outbound_core::Construction;
use tokio::time::Instant;

/// So many from one line within so long are too many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed {
    pub(crate) fewer_than: NonZeroU32,
    pub(crate) window: Duration,
}

/// When each line last built something.
#[derive(Default)]
pub(crate) struct Churn {
    lines: HashMap<Construction, Line>,
}

#[derive(Default)]
pub(crate) struct Line {
    /// The latest, no more and no older than anybody wants to know of.
    built: VecDeque<Instant>,
    told: Option<Instant>,
}

impl Churn {
    /// Counts one more, for those who allow so many. Nothing if there is nobody.
    pub(crate) fn built(
        &mut self,
        construction: Construction,
        now: Instant,
        allowed: impl Iterator<Item = Allowed>,
    ) -> Option<&mut Line> {
        let most = allowed.reduce(|a, b| Allowed {
            fewer_than: a.fewer_than.max(b.fewer_than),
            window: a.window.max(b.window),
        })?;
        if self.lines.len() >= MAX_LINES && !self.lines.contains_key(&construction) {
            self.forget_one();
        }
        let line = self.lines.entry(construction).or_default();
        line.built.push_back(now);
        let is_needless = |line: &Line| {
            line.built.len() > most.fewer_than.get() as usize || now - line.built[0] > most.window
        };
        while is_needless(line) {
            line.built.pop_front();
        }
        Some(line)
    }

    /// The line that has built nothing for longest.
    fn forget_one(&mut self) {
        let oldest = self.lines.iter().min_by_key(|(_, line)| line.built.back());
        if let Some(construction) = oldest.map(|(&construction, _)| construction) {
            self.lines.remove(&construction);
        }
    }
}

impl Line {
    /// If too many were built, and nobody has told so for a window: within how long.
    pub(crate) fn exceeds(&self, allowed: Allowed, now: Instant) -> Option<Duration> {
        let Allowed { fewer_than, window } = allowed;
        let first = self.built.len().checked_sub(fewer_than.get() as usize)?;
        let within = now - self.built[first];
        let was_told = self.told.is_some_and(|told| now - told <= window);
        (within <= window && !was_told).then_some(within)
    }

    pub(crate) fn told(&mut self, now: Instant) {
        self.told = Some(now);
    }
}

/// More lines than any program has that build clients.
const MAX_LINES: usize = 1024;

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use outbound_core::Watcher;

    use super::*;

    /// Only core can make a `Construction`.
    #[derive(Default)]
    struct Built(Mutex<Vec<Construction>>);

    impl Watcher for Built {
        fn built(&self, construction: Construction) {
            self.0.lock().unwrap().push(construction);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let built = Arc::new(Built::default());
        Construction::watch(&built);
        let many = 2 * MAX_LINES;
        for number in 0..many {
            Construction::announce(format!("client {number}").leak());
        }
        let (window, now) = (Duration::from_secs(60), Instant::now());
        let allowed = Allowed { fewer_than: NonZeroU32::new(3).unwrap(), window };
        let mut churn = Churn::default();
        let constructions = built.0.lock().unwrap();
        for (number, &construction) in constructions.iter().enumerate() {
            churn.built(construction, now + window * number as u32, [allowed].into_iter());
        }
        let now = now + window * many as u32;
        assert_eq!(churn.lines.len(), MAX_LINES);
        assert!(churn.lines.contains_key(&constructions[many - MAX_LINES]), "the latest are kept");
        let last = constructions[many - 1];
        let told = [0, 1, 2, 3].map(|second| {
            let now = now + Duration::from_secs(second);
            let line = churn.built(last, now, [allowed].into_iter()).unwrap();
            let within = line.exceeds(allowed, now);
            if within.is_some() {
                line.told(now);
            }
            within
        });
        assert_eq!(told, [None, None, Some(Duration::from_secs(2)), None]);
        assert_eq!(churn.lines[&last].built.len(), 3, "no more than anybody asks for");
        churn.built(last, now + 2 * window, [allowed].into_iter());
        assert_eq!(churn.lines[&last].built.len(), 1, "and no older");
    }
}
