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
#[derive(Debug)]
pub(crate) struct Churn {
    allowed: Allowed,
    lines: HashMap<Construction, Line>,
}

#[derive(Debug, Default)]
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
