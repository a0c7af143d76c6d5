//! How long calls take.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::invalid::InvalidSetting;

/// A share of the calls: the 95th percentile is what 95 of a hundred do not exceed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentile(f64);

/// A histogram of four buckets for each power of two, in microseconds, that forgets: beyond so many samples each counts half.
/// It is exact to a quarter, which is what a hedge needs; and it is atomics, because every call goes through it.
#[derive(Debug)]
pub(super) struct Latencies {
    percentile: Percentile,
    buckets: [AtomicU32; 256],
    count: AtomicU32,
    /// The percentile in microseconds, brought up to date every few samples; zero while too little is known.
    micros: AtomicU64,
}

impl Percentile {
    /// So many of a hundred.
    ///
    /// # Errors
    /// If it is not above 0 and below 100.
    pub fn new(percent: f64) -> Result<Self, InvalidSetting> {
        if !(percent > 0.0 && percent < 100.0) {
            return Err(InvalidSetting("a percentile is above 0 and below 100"));
        }
        Ok(Self(percent))
    }
}

impl Latencies {
    pub(super) fn new(percentile: Percentile) -> Self {
        Self {
            percentile,
            buckets: [const { AtomicU32::new(0) }; 256],
            count: AtomicU32::new(0),
            micros: AtomicU64::new(0),
        }
    }

    pub(super) fn record(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)].fetch_add(1, Relaxed);
        let count = self.count.fetch_add(1, Relaxed) + 1;
        if count >= ENOUGH && count.is_multiple_of(EVERY) {
            self.micros.store(self.read(), Relaxed);
        }
        if count == MANY {
            self.count.store(MANY / 2, Relaxed);
            for bucket in &self.buckets {
                let _ = bucket.fetch_update(Relaxed, Relaxed, |samples| Some(samples / 2));
            }
        }
    }

    pub(super) fn get(&self) -> Option<Duration> {
        Some(self.micros.load(Relaxed)).filter(|&micros| micros > 0).map(Duration::from_micros)
    }

    fn read(&self) -> u64 {
        let samples = self.buckets.each_ref().map(|bucket| u64::from(bucket.load(Relaxed)));
        let wanted = samples.iter().sum::<u64>() as f64 * self.percentile.0 / 100.0;
        let mut sum = 0;
        let reached = samples.iter().position(|samples| {
            sum += samples;
            sum as f64 >= wanted
        });
        reached.map_or(0, end)
    }
}

/// Two bits after the leading one.
fn bucket(micros: u64) -> usize {
    let micros = micros.max(4);
    let exponent = micros.ilog2();
    exponent as usize * 4 + (micros >> (exponent - 2) & 3) as usize
}

/// Where a bucket ends.
fn end(bucket: usize) -> u64 {
    let (exponent, quarter) = (bucket / 4, bucket as u64 % 4);
    (5 + quarter).checked_shl(exponent.saturating_sub(2) as u32).unwrap_or(u64::MAX)
}

/// Below this many samples a percentile says nothing.
const ENOUGH: u32 = 128;
/// The percentile is read anew after so many.
const EVERY: u32 = 32;
const MANY: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_known_to_a_quarter() {
        for micros in [4, 5, 7, 8, 100, 999, 1_000_000, u64::MAX / 3] {
            let end = end(bucket(micros));
            assert!(micros < end && end <= micros + micros / 4 + 1, "{micros}: {end}");
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (8, 255));
    }

    #[test]
    fn the_percentile_follows_the_calls() {
        let latencies = Latencies::new(Percentile::new(90.0).unwrap());
        let record = |n: u32, millis| (0..n).for_each(|_| latencies.record(Duration::from_millis(millis)));
        record(ENOUGH - 1, 10);
        assert_eq!(latencies.get(), None, "too few");
        record(1, 10);
        assert_eq!(latencies.get(), Some(Duration::from_micros(10_240)));
        record(3 * MANY, 100);
        assert_eq!(latencies.get(), Some(Duration::from_micros(114_688)), "the old ones are forgotten");
    }
}
