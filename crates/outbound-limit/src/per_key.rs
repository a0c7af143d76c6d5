//! One limit per key, for the keys in use.

use std::{
    borrow::Borrow,
    collections::HashSet,
    fmt,
    hash::{Hash, Hasher},
    mem,
    sync::{
        Arc, PoisonError,
        atomic::Ordering::{Acquire, Relaxed, Release},
    },
    time::Duration,
};

use http::{Request, request::Parts};
use outbound_core::Origin;

use crate::{
    gate::Gate,
    limiter::Limits,
    place::Held,
    stats::Stats,
    sync::{AtomicUsize, Mutex, MutexGuard},
};

/// The same limit for each key apart, and a handle to watch and to change it, shared by its clones.
///
/// Keys do not disturb each other: each has its own permits and its own line. A key is known while a call of it is under way
/// or waits, and then forgotten: one that nobody uses takes no memory.
///
/// A call takes one short lock to find its key, and one when it lets go of it. A key's `Hash` and `Eq` run under that lock
/// and must not make calls themselves.
pub struct PerKey<K, F = fn(&Parts) -> K> {
    keys: Arc<Keys<K>>,
    key_of: F,
}

/// A limit per origin. Requests whose URI names no origin share one.
pub type PerOrigin = PerKey<Option<Origin>>;

struct Keys<K> {
    limit: AtomicUsize,
    known: Mutex<Known<K>>,
}

struct Known<K> {
    keys: HashSet<ByKey<K>>,
    /// What those have counted that are forgotten by now.
    rejected: u64,
    longest_wait: Duration,
}

/// A key in use. The circle that `keys` makes is broken when it is forgotten.
struct Key<K> {
    key: K,
    /// How many calls hold it. Changes under the lock of `keys` only.
    calls: AtomicUsize,
    gate: Gate,
    keys: Arc<Keys<K>>,
}

struct ByKey<K>(Arc<Key<K>>);

// === PerKey ===

impl<K: Hash + Eq + Send + Sync, F> PerKey<K, F> {
    pub(crate) fn new(limit: usize, key_of: F) -> Self {
        #[expect(clippy::mutable_key_type, reason = "hashed and compared by its key, which does not change")]
        let keys = HashSet::with_capacity(KEPT_KEYS);
        let known = Mutex::new(Known { keys, rejected: 0, longest_wait: Duration::ZERO });
        Self { keys: Arc::new(Keys { limit: AtomicUsize::new(limit), known }), key_of }
    }

    /// Changes the limit of each key, as [`Limiter::set_limit`](crate::Limiter::set_limit) does.
    pub fn set_limit(&self, limit: usize) {
        self.keys.limit.store(limit, Release);
        // Whoever becomes known after this has the new limit from the start.
        let known: Vec<_> = self.keys.lock().keys.iter().map(|key| key.0.clone()).collect();
        for key in known {
            key.gate.resize(|| self.keys.limit.load(Acquire));
        }
    }

    /// What `key` is doing, if it is in use: a call of it is under way or waits.
    pub fn stats_of(&self, key: &K) -> Option<Stats> {
        let known = self.keys.lock();
        known.keys.get(key).map(|key| key.0.gate.stats())
    }

    /// What all keys are doing together; `limit` is that of each.
    pub fn stats(&self) -> Stats {
        let known = self.keys.lock();
        let start = Stats {
            limit: self.keys.limit.load(Acquire),
            in_use: 0,
            waiting: 0,
            rejected: known.rejected,
            longest_wait: known.longest_wait,
        };
        known.keys.iter().map(|key| key.0.gate.stats()).fold(start, Stats::and)
    }

    /// How many keys are in use.
    pub fn keys(&self) -> usize {
        self.keys.lock().keys.len()
    }
}

impl<K, F> Limits for PerKey<K, F>
where
    K: Hash + Eq + Send + Sync + 'static,
    F: Fn(&Parts) -> K,
{
    fn held_by<B>(&self, request: &mut Request<B>) -> Arc<dyn Held> {
        let (mut parts, ()) = Request::new(()).into_parts();
        swap(&mut parts, request);
        let key = (self.key_of)(&parts);
        swap(&mut parts, request);
        Keys::hold(&self.keys, key)
    }
}

impl<K, F: Clone> Clone for PerKey<K, F> {
    fn clone(&self) -> Self {
        Self { keys: self.keys.clone(), key_of: self.key_of.clone() }
    }
}

impl<K: Hash + Eq + Send + Sync, F> fmt::Debug for PerKey<K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerKey").field("keys", &self.keys()).field("stats", &self.stats()).finish()
    }
}

// === Keys ===

impl<K> Keys<K> {
    fn lock(&self) -> MutexGuard<'_, Known<K>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq> Keys<K> {
    fn hold(this: &Arc<Self>, key: K) -> Arc<Key<K>> {
        let mut known = this.lock();
        if let Some(ByKey(key)) = known.keys.get(&key) {
            key.calls.fetch_add(1, Relaxed);
            return key.clone();
        }
        let (calls, gate) = (AtomicUsize::new(1), Gate::new(this.limit.load(Acquire)));
        let key = Arc::new(Key { key, calls, gate, keys: this.clone() });
        known.keys.insert(ByKey(key.clone()));
        key
    }
}

// === Key ===

impl<K: Hash + Eq + Send + Sync> Held for Key<K> {
    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn let_go(self: Arc<Self>) {
        let mut known = self.keys.lock();
        if self.calls.fetch_sub(1, Relaxed) > 1 {
            return;
        }
        let forgotten = known.keys.take(&self.key);
        known.rejected += self.gate.rejected();
        known.longest_wait = known.longest_wait.max(self.gate.longest_wait());
        let wanted = known.keys.len();
        if known.keys.capacity() > KEPT_KEYS.max(4 * wanted) {
            known.keys.shrink_to(KEPT_KEYS.max(2 * wanted));
        }
        drop(known);
        drop(forgotten);
    }
}

// === ByKey ===

impl<K> Borrow<K> for ByKey<K> {
    fn borrow(&self) -> &K {
        &self.0.key
    }
}

impl<K: Hash> Hash for ByKey<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl<K: Eq> PartialEq for ByKey<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl<K: Eq> Eq for ByKey<K> {}

/// The head of a request, without moving its body.
fn swap<B>(parts: &mut Parts, request: &mut Request<B>) {
    mem::swap(&mut parts.method, request.method_mut());
    mem::swap(&mut parts.uri, request.uri_mut());
    mem::swap(&mut parts.version, request.version_mut());
    mem::swap(&mut parts.headers, request.headers_mut());
    mem::swap(&mut parts.extensions, request.extensions_mut());
}

/// Room for so many keys is kept, and made from the start.
const KEPT_KEYS: usize = 56;

#[cfg(all(test, outbound_loom))]
mod model {
    use loom::{model, thread};

    use super::*;
    use crate::gate::model::acquire;

    fn one(limit: usize) -> PerKey<u8> {
        PerKey::new(limit, |_| 1)
    }

    /// Were a key forgotten under a call, the next call would find another limit.
    #[test]
    fn a_key_in_use_has_one_limit_and_one_that_is_not_has_none() {
        let mut builder = model::Builder::new();
        builder.preemption_bound = Some(2);
        builder.check(|| {
            let limit = one(1);
            let inside = Arc::new(AtomicUsize::new(0));
            let call = {
                let (keys, inside) = (limit.keys.clone(), inside.clone());
                move || {
                    let key = Keys::hold(&keys, 1);
                    acquire(&key.gate);
                    assert_eq!(inside.fetch_add(1, Acquire), 0);
                    inside.fetch_sub(1, Release);
                    key.gate.release();
                    key.let_go();
                }
            };
            let other = thread::spawn(call.clone());
            call();
            call();
            other.join().unwrap();
            assert_eq!(limit.keys(), 0);
        });
    }

    #[test]
    fn a_key_that_becomes_known_has_the_limit_that_was_set_last() {
        model(|| {
            let limit = one(1);
            let sets = thread::spawn({
                let limit = limit.clone();
                move || limit.set_limit(2)
            });
            let key = Keys::hold(&limit.keys, 1);
            sets.join().unwrap();
            assert_eq!(key.gate.limit(), 2);
            key.let_go();
        });
    }
}
