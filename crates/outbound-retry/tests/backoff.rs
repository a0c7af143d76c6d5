//! How long to wait, exactly.

use std::time::Duration;

use outbound_retry::{Backoff, Band, Jitter, Random};
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

fn waits(backoff: Backoff, n: u32) -> Vec<Duration> {
    let random = Random::seeded(1);
    let mut previous = Duration::ZERO;
    (1..=n)
        .map(|attempt| {
            previous = random.draw(|random| backoff.wait(attempt, previous, random));
            previous
        })
        .collect()
}

#[test]
fn without_jitter_it_is_exponential_from_floor_to_ceiling() {
    let doubling = Backoff::new(100 * MS, 1000 * MS).unwrap().jitter(Jitter::None);
    assert_eq!(waits(doubling, 6), [100, 200, 400, 800, 1000, 1000].map(|n| n * MS));
    let slower = doubling.factor(1.5).unwrap();
    assert_eq!(waits(slower, 4), [100_000, 150_000, 225_000, 337_500].map(Duration::from_micros));
    let constant = doubling.factor(1.0).unwrap();
    assert_eq!(waits(constant, 3), [100 * MS; 3]);
    let none = Backoff::new(Duration::ZERO, Duration::ZERO).unwrap();
    assert_eq!(waits(none, 3), [Duration::ZERO; 3]);
}

#[test]
fn each_jitter_stays_in_its_range_and_fills_it() {
    let base = Backoff::new(1000 * MS, 8000 * MS).unwrap();
    let band = Jitter::Band(Band::new(0.8, 1.0).unwrap());
    for (name, jitter, attempt, low, high) in [
        ("full", Jitter::Full, 3, 0, 4000),
        ("full, long at the ceiling", Jitter::Full, 100_000, 0, 8000),
        ("equal", Jitter::Equal, 3, 2000, 4000),
        ("decorrelated", Jitter::Decorrelated, 3, 1000, 6000),
        ("decorrelated, before anything was waited", Jitter::Decorrelated, 1, 1000, 3000),
        ("none", Jitter::None, 3, 4000, 4000),
        ("band", band, 3, 3200, 4000),
    ] {
        let random = Random::seeded(7);
        let previous = if attempt == 1 { Duration::ZERO } else { 2000 * MS };
        let wait = |_| random.draw(|random| base.jitter(jitter).wait(attempt, previous, random));
        let (mut least, mut most) = (Duration::MAX, Duration::ZERO);
        for wait in (0..4000).map(wait) {
            (least, most) = (least.min(wait), most.max(wait));
        }
        assert!(least >= low * MS && most <= high * MS, "{name}: {least:?} to {most:?}");
        let slack = (high - low) / 50;
        assert!(least <= (low + slack) * MS && most >= (high - slack) * MS, "{name}: {least:?} to {most:?}");
    }
}

#[test]
fn a_seed_gives_the_same_waits_every_time() {
    let backoff = Backoff::default();
    assert_eq!(waits(backoff, 9), waits(backoff, 9));
    let other: Vec<_> = {
        let random = Random::seeded(2);
        (1..=9).map(|attempt| random.draw(|random| backoff.wait(attempt, Duration::ZERO, random))).collect()
    };
    assert_ne!(waits(backoff, 9), other);
}

#[test]
fn settings_without_sense_are_errors() {
    assert!(Backoff::new(2 * MS, MS).is_err());
    for factor in [0.9, -1.0, f64::NAN, f64::INFINITY] {
        assert!(Backoff::default().factor(factor).is_err(), "{factor}");
    }
    for (low, high) in [(-0.1, 1.0), (1.0, 0.5), (f64::NAN, 1.0), (0.5, f64::NAN), (0.0, f64::INFINITY)] {
        assert!(Band::new(low, high).is_err(), "{low} to {high}");
    }
}

proptest! {
    #[test]
    fn it_overflows_nowhere(
        attempt in prop_oneof![0..10_u32, Just(100_000), Just(u32::MAX), any::<u32>()],
        floor in 0..=u64::MAX,
        more in 0..=u64::MAX,
        factor in prop_oneof![Just(1.0), 1.0..10.0, Just(f64::MAX)],
        previous in any::<Duration>(),
        seed in any::<u64>(),
    ) {
        let floor = Duration::from_nanos(floor);
        for ceiling in [floor.saturating_add(Duration::from_secs(more)), Duration::MAX] {
            let backoff = Backoff::new(floor, ceiling).unwrap().factor(factor).unwrap();
            for jitter in [Jitter::Full, Jitter::Equal, Jitter::Decorrelated, Jitter::None] {
                let wait = Random::seeded(seed).draw(|random| backoff.jitter(jitter).wait(attempt, previous, random));
                prop_assert!(wait <= ceiling);
            }
        }
    }

    /// The exponential wait is what multiplying again and again makes of the floor, and each jitter keeps to its part of that.
    #[test]
    fn each_wait_is_within_what_its_jitter_makes_of_the_exponential_one(
        attempt in 1..40_u32,
        floor in 0..5_000_000_000_u64,
        more in 0..60_000_000_000_u64,
        factor in prop_oneof![Just(1.0), Just(2.0), 1.0..4.0],
        previous in 0..100_000_000_000_u64,
        (low, width) in (0.0..1.5, 0.0..1.5),
        seed in any::<u64>(),
    ) {
        let (floor, ceiling) = (Duration::from_nanos(floor), Duration::from_nanos(floor + more));
        let (previous, high) = (Duration::from_nanos(previous), low + width);
        let (least, most) = (floor.as_secs_f64(), ceiling.as_secs_f64());
        let grown = (1..attempt).fold(least, |wait, _| (wait * factor).min(most)).min(most);
        let band = Jitter::Band(Band::new(low, high).unwrap());
        for (jitter, from, to) in [
            (Jitter::None, grown, grown),
            (Jitter::Full, 0.0, grown),
            (Jitter::Equal, grown / 2.0, grown),
            (band, grown * low, grown * high),
            (Jitter::Decorrelated, least, 3.0 * least.max(previous.as_secs_f64())),
        ] {
            let backoff = Backoff::new(floor, ceiling).unwrap().factor(factor).unwrap().jitter(jitter);
            let draw = || Random::seeded(seed).draw(|random| backoff.wait(attempt, previous, random));
            let wait = draw().as_secs_f64();
            let (from, to) = (from.min(most), to.min(most));
            prop_assert!(wait >= from * (1.0 - 1e-9) - 1e-9, "{jitter:?}: {wait} is less than {from}");
            prop_assert!(wait <= to * (1.0 + 1e-9) + 1e-9, "{jitter:?}: {wait} is more than {to}");
            prop_assert_eq!(draw(), draw(), "the same seed");
        }
    }

    /// Later attempts never wait less, and neither do those with a higher floor or ceiling.
    #[test]
    fn without_jitter_waits_only_grow(
        attempt in 1..200_u32,
        floor in 0..1_000_000_000_u64,
        (more, higher) in (0..60_000_000_000_u64, 0..60_000_000_000_u64),
        factor in 1.0..4.0,
    ) {
        let wait = |attempt, floor, ceiling| {
            let backoff = Backoff::new(Duration::from_nanos(floor), Duration::from_nanos(ceiling)).unwrap();
            let backoff = backoff.factor(factor).unwrap().jitter(Jitter::None);
            Random::seeded(0).draw(|random| backoff.wait(attempt, Duration::ZERO, random))
        };
        let ceiling = floor + more;
        let here = wait(attempt, floor, ceiling);
        prop_assert!(here <= wait(attempt + 1, floor, ceiling), "the next attempt");
        prop_assert!(here <= wait(attempt, floor, ceiling + higher), "a higher ceiling");
        prop_assert!(wait(attempt, floor / 2, ceiling) <= here, "a lower floor");
        prop_assert!(here >= Duration::from_nanos(floor) && here <= Duration::from_nanos(ceiling));
    }
}
