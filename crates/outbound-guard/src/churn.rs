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
pub(crate) struct Churn {
    allowed: Allowed,
    lines: HashMap<Construction, Line>,
}

#[derive(Default)]
struct Line {
    /// The latest, no more than there may be.
    built: VecDeque<Instant>,
    told: Option<Instant>,
}

impl Churn {
    pub(crate) fn new(allowed: Allowed) -> Self {
        Self { allowed, lines: HashMap::new() }
    }

    /// Counts one more. If that is one too many: within how long they were built. Once per window.
    pub(crate) fn built(&mut self, construction: Construction, now: Instant) -> Option<(u32, Duration)> {
        let Allowed { fewer_than, window } = self.allowed;
        if self.lines.len() >= MAX_LINES && !self.lines.contains_key(&construction) {
            self.lines.retain(|_, line| line.built.back().is_some_and(|&last| now - last <= window));
            if self.lines.len() >= MAX_LINES {
                return None;
            }
        }
        let line = self.lines.entry(construction).or_default();
        line.built.push_back(now);
        if line.built.len() > fewer_than.get() as usize {
            line.built.pop_front();
        }
        if line.built.len() < fewer_than.get() as usize {
            return None;
        }
        let within = now - *line.built.front()?;
        if within > window || line.told.is_some_and(|told| now - told <= window) {
            return None;
        }
        line.told = Some(now);
        Some((fewer_than.get(), within))
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
        let mut churn = Churn::new(allowed);
        let constructions = built.0.lock().unwrap();
        for construction in constructions.iter() {
            churn.built(*construction, now);
        }
        assert_eq!(churn.lines.len(), MAX_LINES);
        let last = constructions[many - 1];
        let later = now + window + Duration::from_secs(1);
        let told = [0, 1, 2, 3].map(|second| churn.built(last, later + Duration::from_secs(second)));
        assert_eq!(
            told,
            [None, None, Some((3, Duration::from_secs(2))), None],
            "there is room where a window has passed"
        );
        assert_eq!(churn.lines.len(), 1);
        assert_eq!(churn.lines[&last].built.len(), 3);
    }
}
