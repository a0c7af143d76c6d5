//! Tells what is found: the callback, the counters, and `tracing`, where each line of code gets a word once a window.

use std::{
    collections::HashMap,
    hash::Hash,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use outbound_core::CallSite;
use tokio::time::Instant;
use tracing::Level;

use crate::{detector::Totals, leak::Leak};

pub(crate) type Callback = Arc<dyn Fn(&Leak) + Send + Sync>;

pub(crate) struct Reporter {
    callback: Option<Callback>,
    told: Mutex<Told>,
}

struct Told {
    quota: Quota<(&'static str, Level, Option<CallSite>)>,
    totals: Totals,
}

/// Lets the first event of each key through in each window, and counts the others.
struct Quota<K> {
    window: Duration,
    keys: HashMap<K, Spent>,
    /// All keys beyond [`MAX_KEYS`] share one.
    others: Option<Spent>,
}

struct Spent {
    at: Instant,
    muted: u64,
}

// === Reporter ===

impl Reporter {
    pub(crate) fn new(callback: Option<Callback>, window: Duration) -> Self {
        let quota = Quota { window, keys: HashMap::new(), others: None };
        Self { callback, told: Mutex::new(Told { quota, totals: Totals::default() }) }
    }

    /// User code runs in here: no lock is held.
    pub(crate) fn tell(&self, leak: &Leak) {
        let muted = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.totals.count(leak);
            // One that nobody listens to mutes none that somebody does.
            told.quota.ask((leak.kind(), level(leak), leak.site()), Instant::now())
        };
        if let Some(muted) = muted {
            emit(leak, muted);
        }
        if let Some(callback) = &self.callback {
            callback(leak);
        }
    }

    pub(crate) fn has_callback(&self) -> bool {
        self.callback.is_some()
    }

    pub(crate) fn totals(&self) -> Totals {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).totals
    }
}

fn level(leak: &Leak) -> Level {
    match leak {
        Leak::Returned { .. } => Level::INFO,
        Leak::Abandoned { cost_connection: Some(false) | None, .. } => Level::DEBUG,
        _ => Level::WARN,
    }
}

/// `muted` like it from the same line have not been told.
fn emit(leak: &Leak, muted: u64) {
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                leak = leak.kind(),
                site = leak.site().map(tracing::field::display),
                origin =
                    leak.holding().and_then(|holding| holding.origin.as_ref()).map(tracing::field::display),
                muted,
                "{leak}"
            )
        };
    }
    match level(leak) {
        Level::INFO => event!(info),
        Level::DEBUG => event!(debug),
        _ => event!(warn),
    }
}

// === Quota ===

impl<K: Hash + Eq> Quota<K> {
    /// Whether the event of `key` may be told: with how many have not been since the last that was.
    fn ask(&mut self, key: K, now: Instant) -> Option<u64> {
        let window = self.window;
        let is_open = |spent: &Spent| now - spent.at < window;
        let fresh = Spent { at: now, muted: 0 };
        let is_others = !self.keys.contains_key(&key) && self.is_full(now);
        let spent = if is_others { self.others.as_mut() } else { self.keys.get_mut(&key) };
        match spent {
            Some(spent) if is_open(spent) => {
                spent.muted += 1;
                None
            }
            Some(spent) => Some(mem::replace(spent, fresh).muted),
            None if is_others => {
                self.others = Some(fresh);
                Some(0)
            }
            None => {
                self.keys.insert(key, fresh);
                Some(0)
            }
        }
    }

    /// Whether there is no room for another key. Those whose window has passed make room, which is looked for once a window.
    fn is_full(&mut self, now: Instant) -> bool {
        let window = self.window;
        let is_open = |spent: &Spent| now - spent.at < window;
        if self.keys.len() >= MAX_KEYS && !self.others.as_ref().is_some_and(is_open) {
            self.keys.retain(|_, spent| is_open(spent));
        }
        self.keys.len() >= MAX_KEYS
    }
}

/// More lines than most programs have that make calls.
const MAX_KEYS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn one_event_a_window() {
        let mut quota = Quota { window: 60 * SECOND, keys: HashMap::new(), others: None };
        let begun = Instant::now();
        for (name, key, second, told) in [
            ("the first", 1, 0, Some(0)),
            ("again", 1, 0, None),
            ("another key", 2, 1, Some(0)),
            ("in its window", 1, 59, None),
            ("after it", 1, 60, Some(2)),
            ("in the next", 1, 119, None),
            ("nothing muted", 2, 200, Some(0)),
        ] {
            assert_eq!(quota.ask(key, begun + second * SECOND), told, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_keys_beyond_the_most_share_one() {
        let mut quota = Quota { window: 60 * SECOND, keys: HashMap::new(), others: None };
        let begun = Instant::now();
        let told = (0..100_000).filter(|&key| quota.ask(key, begun).is_some()).count();
        assert_eq!(told, MAX_KEYS + 1);
        assert_eq!(quota.keys.len(), MAX_KEYS);
        let later = begun + 60 * SECOND;
        assert_eq!(quota.ask(7, later), Some(0), "its room is its own");
        assert_eq!(quota.ask(200_000, later), Some(0), "a window that has passed makes room");
        assert_eq!(quota.keys.len(), 2);
    }
}
