//! One rate per key, for the keys whose bucket is not full.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::Quota;
use http::{Request, request::Parts};
use tokio::time::Instant;

use crate::{bucket::Bucket, rate::Rates, stats::Stats};

/// The same rate for each key apart, and a handle to watch it, shared by its clones.
///
/// A key is forgotten once its bucket is full again: not at the very moment, but by a call after it, so that of more than 56 keys only
/// those stay known that were called within the last two times that an empty bucket takes to fill.
/// A call takes one short lock to find its key, whose `Hash` and `Eq` run under it and must not make calls themselves.
pub struct RatePerKey<K, F = fn(&Parts) -> K> {
    keys: Arc<Mutex<Keys<K>>>,
    key_of: F,
}

struct Keys<K> {
    quota: Quota,
    buckets: HashMap<K, Arc<Bucket>>,
    /// When those to forget were last looked for.
    looked: Instant,
    rejected: u64,
    longest_wait: Duration,
}

// === RatePerKey ===

impl<K, F> RatePerKey<K, F> {
    /// How many keys are known.
    pub fn keys(&self) -> usize {
        self.lock().buckets.len()
    }

    /// What all keys are doing together; `limit` is that of each.
    pub fn stats(&self) -> Stats {
        let keys = self.lock();
        let start = Stats {
            limit: keys.quota.burst_size().get() as usize,
            in_use: 0,
            waiting: 0,
            rejected: keys.rejected,
            longest_wait: keys.longest_wait,
        };
        keys.buckets.values().map(|bucket| bucket.stats()).fold(start, Stats::and)
    }

    fn lock(&self) -> MutexGuard<'_, Keys<K>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq, F> RatePerKey<K, F> {
    pub(crate) fn new(quota: Quota, key_of: F) -> Self {
        let buckets = HashMap::with_capacity(CROWDED);
        let looked = Instant::now();
        let keys = Keys { quota, buckets, looked, rejected: 0, longest_wait: Duration::ZERO };
        Self { keys: Arc::new(Mutex::new(keys)), key_of }
    }
}

impl<K: Hash + Eq, F: Fn(&Parts) -> K> Rates for RatePerKey<K, F> {
    fn bucket_of<B>(&self, request: Request<B>) -> (Request<B>, Arc<Bucket>) {
        let (parts, body) = request.into_parts();
        let key = (self.key_of)(&parts);
        let mut keys = self.lock();
        let forgotten = keys.forget_full();
        let quota = keys.quota;
        let bucket = match keys.buckets.entry(key) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(new) => new.insert(Arc::new(Bucket::new(quota))).clone(),
        };
        drop(keys);
        drop(forgotten);
        (Request::from_parts(parts, body), bucket)
    }
}

impl<K, F: Clone> Clone for RatePerKey<K, F> {
    fn clone(&self) -> Self {
        Self { keys: self.keys.clone(), key_of: self.key_of.clone() }
    }
}

impl<K, F> fmt::Debug for RatePerKey<K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RatePerKey").field("keys", &self.keys()).field("stats", &self.stats()).finish()
    }
}

// === Keys ===

impl<K: Hash + Eq> Keys<K> {
    /// Forgets the keys that are as good as new, if there are many, and it has been long enough since the last look for those to be so that
    /// were not called meanwhile: so each call pays for a few, on average.
    fn forget_full(&mut self) -> Vec<(K, Arc<Bucket>)> {
        if self.buckets.len() < CROWDED || self.looked.elapsed() < self.quota.burst_size_replenished_in() {
            return Vec::new();
        }
        self.looked = Instant::now();
        let is_as_new = |bucket: &mut Arc<Bucket>| Arc::get_mut(bucket).is_some_and(Bucket::is_as_new);
        let forgotten: Vec<_> = self.buckets.extract_if(|_, bucket| is_as_new(bucket)).collect();
        for (_, bucket) in &forgotten {
            self.rejected += bucket.line.rejected();
            self.longest_wait = self.longest_wait.max(bucket.line.longest_wait());
        }
        self.buckets.shrink_to(CROWDED.max(2 * self.buckets.len()));
        forgotten
    }
}

/// So many keys are kept without a look at them.
const CROWDED: usize = 56;
