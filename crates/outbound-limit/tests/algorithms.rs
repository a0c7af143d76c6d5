//! The algorithms against the tables of their source: Netflix' own tests, and steps worked out from its formulas by hand.

use std::time::Duration;

use outbound_limit::{Aimd, Algorithm, Gradient2, Sample, Vegas, Windowed};
use tokio::time::Instant;

/// The time in ms, how many were in flight, whether it says overload, and the limit after it.
type Step = (u64, usize, bool, usize);

const GOOD: bool = false;
const OVERLOAD: bool = true;

fn steps(name: &str, mut algorithm: impl Algorithm, steps: &[Step]) {
    let started = Instant::now();
    for (number, &(millis, in_flight, overloaded, limit)) in steps.iter().enumerate() {
        let rtt = Duration::from_millis(millis);
        algorithm.update(&Sample { started, rtt, in_flight, overloaded });
        assert_eq!(algorithm.limit(), limit, "{name}, step {number}");
    }
}

#[test]
fn aimd() {
    let from = |initial| Aimd::default().limits(20, initial, 200).unwrap();
    assert_eq!(Aimd::default().limit(), 20, "AIMDLimit's default");
    steps("AIMDLimitTest.increaseOnSuccess", from(20), &[(1, 10, GOOD, 21)]);
    steps("AIMDLimitTest.decreaseOnDrops", from(30), &[(0, 0, OVERLOAD, 27)]);
    steps("under half the limit", from(20), &[(1, 9, GOOD, 20), (1, 10, GOOD, 21), (1, 10, GOOD, 21)]);
    steps("longer than the timeout", from(100), &[(5000, 100, GOOD, 101), (5001, 100, GOOD, 90)]);
    steps(
        "0.9 each, rounded down",
        from(100),
        &[(1, 1, OVERLOAD, 90), (1, 1, OVERLOAD, 81), (1, 1, OVERLOAD, 72)],
    );
    steps("not below the least", from(21), &[(1, 1, OVERLOAD, 20), (1, 1, OVERLOAD, 20)]);
    steps("nor over the greatest", from(199), &[(1, 200, GOOD, 200), (1, 200, GOOD, 200)]);
    let halving = from(100).backoff_ratio(0.5).unwrap().timeout(Duration::from_millis(9));
    steps("its options", halving, &[(9, 0, OVERLOAD, 50), (10, 50, GOOD, 25)]);
}

#[test]
fn vegas() {
    // VegasLimitTest.create(): alpha 3, beta 6, initial 10, at most 20.
    let small = || Vegas::default().alpha(|_| 3).beta(|_| 6).limits(1, 10, 20).unwrap();
    assert_eq!(Vegas::default().limit(), 20, "VegasLimit's default");
    steps("VegasLimitTest.increaseLimit", small(), &[(10, 10, GOOD, 10), (10, 11, GOOD, 16)]);
    steps("VegasLimitTest.decreaseLimit", small(), &[(10, 10, GOOD, 10), (50, 11, GOOD, 9)]);
    steps("VegasLimitTest.noChangeIfWithinThresholds", small(), &[(10, 10, GOOD, 10), (14, 14, GOOD, 10)]);

    let halving = || Vegas::default().decrease(|limit| limit / 2.0).limits(1, 100, 200).unwrap();
    steps(
        "VegasLimitTest.decreaseSmoothing",
        halving().smoothing(0.5).unwrap(),
        &[(10, 100, GOOD, 100), (20, 100, GOOD, 75), (20, 100, GOOD, 56)],
    );
    steps(
        "VegasLimitTest.decreaseWithoutSmoothing",
        halving(),
        &[(10, 100, GOOD, 100), (20, 100, GOOD, 50), (20, 100, GOOD, 25)],
    );

    // By hand, with the defaults. log10 of 20 to 99 is 1: threshold 1, alpha 3, beta 6, steps of 1; of 100 it is 2.
    let from = |initial| Vegas::default().limits(1, initial, 1000).unwrap();
    steps(
        "the five answers to a queue",
        from(50),
        &[
            (100, 50, GOOD, 50), // the fastest yet
            (102, 50, GOOD, 56), // 50 * 2 / 102 = 0.98, so 1: at most the threshold
            (103, 56, GOOD, 57), // 56 * 3 / 103 = 1.63, so 2: below alpha
            (106, 57, GOOD, 57), // 57 * 6 / 106 = 3.23, so 4: between
            (113, 57, GOOD, 56), // 57 * 13 / 113 = 6.56, so 7: over beta
            (99, 56, GOOD, 56),  // a new fastest
        ],
    );
    steps("steps of log10", from(100), &[(100, 100, GOOD, 100), (200, 100, GOOD, 98)]);
    steps("under half the limit", from(50), &[(10, 24, GOOD, 50), (10, 24, GOOD, 50), (10, 25, GOOD, 56)]);
    steps("an overload, in flight or not", from(50), &[(10, 50, GOOD, 50), (10, 0, OVERLOAD, 49)]);
    steps("not below one", from(1), &[(10, 1, OVERLOAD, 1)]);
    // Of our own: a refusal is fast, and no time to measure others by.
    steps(
        "an overload is no time",
        from(50),
        &[(1, 50, OVERLOAD, 49), (10, 50, GOOD, 49), (10, 50, GOOD, 55)],
    );
}

/// Every `jitter * multiplier * limit` samples, the jitter from 0.5 to 1: here between the 50th and the 100th.
#[test]
fn vegas_takes_the_present_time_for_the_fastest_now_and_then() {
    let grows_after = |seed| {
        let mut vegas = Vegas::default().limits(10, 10, 11).unwrap().probe_multiplier(10).unwrap().seed(seed);
        let started = Instant::now();
        let mut sample = Sample { started, rtt: Duration::from_millis(1), in_flight: 10, overloaded: false };
        vegas.update(&sample);
        sample.rtt = Duration::from_millis(10);
        // A queue of 9 keeps it down until the fastest is forgotten; then there seems to be no queue.
        let grows = (1..=200).find(|_| {
            vegas.update(&sample);
            vegas.limit() > 10
        });
        grows.expect("probes")
    };
    let probes: Vec<_> = (0..20).map(grows_after).collect();
    assert!(probes.iter().all(|probe| (50..=100).contains(probe)), "{probes:?}");
    assert!(probes.iter().any(|&probe| probe != probes[0]), "no jitter: {probes:?}");
    assert_eq!(grows_after(7), probes[7], "the same with the same seed");
}

#[test]
fn gradient2() {
    let from = |initial| Gradient2::default().limits(20, initial, 200).unwrap();
    assert_eq!(Gradient2::default().limit(), 20, "Gradient2Limit's default");
    // Steady: each step adds a fifth of the queue size of 4.
    steps(
        "steady",
        from(50),
        &[(10, 50, GOOD, 50), (10, 50, GOOD, 51), (10, 50, GOOD, 52), (10, 50, GOOD, 53)],
    );
    steps("under half the limit", from(50), &[(10, 24, GOOD, 50), (10, 24, GOOD, 50), (10, 25, GOOD, 50)]);
    steps(
        "slower than it tolerates",
        from(100),
        &[
            (10, 100, GOOD, 100), // 100 + 0.8
            // The long run is (10 + 40) / 2 = 25 ms: 1.5 * 25 / 40 = 0.9375, so 100.8 * (0.8 + 0.1875) + 0.8 = 100.34
            (40, 100, GOOD, 100),
            // (10 + 40 + 100) / 3 = 50 ms: 0.75, so 100.34 * 0.95 + 0.8 = 96.12
            (100, 100, GOOD, 96),
            // (10 + 40 + 100 + 1000) / 4 = 287.5 ms: 0.43, at least 0.5, so 96.12 * 0.9 + 0.8 = 87.31
            (1000, 100, GOOD, 87),
        ],
    );
    // By our own rule an overload is the steepest gradient: 0.9 of the limit and 0.8. Its source leaves it out.
    steps("overload", from(100), &[(1, 0, OVERLOAD, 90), (1, 0, OVERLOAD, 82), (1, 0, OVERLOAD, 75)]);
    steps("not below the least", from(20), &[(1, 20, OVERLOAD, 20)]);
    steps("nor over the greatest", from(200), &[(10, 200, GOOD, 200)]);
    let own = from(100).smoothing(1.0).unwrap().tolerance(1.0).unwrap().queue_size(|limit| limit / 10);
    // (10 + 20) / 2 / 20 = 0.75, so 110 * 0.75 + 11
    steps("its options", own, &[(10, 100, GOOD, 110), (20, 110, GOOD, 93)]);
    steps("no time at all", from(100), &[(0, 100, GOOD, 100), (0, 100, GOOD, 101)]);
}

/// `ExpAvgMeasurementTest.testWarmup`: 10 to 19 average 14.5; then with a window of 100 a sample of 100 makes it 16.2.
/// Seen through the gradient: at a limit of 100, smoothing 1 and no queue, the limit becomes the gradient in percent.
#[test]
fn gradient2_averages_evenly_first_and_exponentially_then() {
    let mut gradient = Gradient2::default()
        .limits(1, 100, 100)
        .unwrap()
        .smoothing(1.0)
        .unwrap()
        .tolerance(2.0)
        .unwrap()
        .long_window(100)
        .unwrap()
        .queue_size(|_| 0);
    let started = Instant::now();
    let mut sample = |millis, in_flight| {
        gradient.update(&Sample {
            started,
            rtt: Duration::from_millis(millis),
            in_flight,
            overloaded: false,
        });
        gradient.limit()
    };
    for millis in 10..20 {
        sample(millis, 0);
    }
    sample(100, 0); // the long run is 14.5 + (100 - 14.5) * 2 / 101 = 16.193
    // 16.193 + (50 - 16.193) * 2 / 101 = 16.86: 2 * 16.86 / 50 = 0.6745
    assert_eq!(sample(50, 100), 67);
}

#[test]
fn gradient2_comes_down_from_a_long_run_of_slow_answers() {
    let mut gradient = Gradient2::default().limits(1, 100, 100).unwrap();
    let started = Instant::now();
    let mut sample = |millis, in_flight| {
        gradient.update(&Sample {
            started,
            rtt: Duration::from_millis(millis),
            in_flight,
            overloaded: false,
        });
        gradient.limit()
    };
    (0..600).for_each(|_| _ = sample(1000, 0));
    // Each sample faster than half the long run takes a twentieth off that: 14 of them, and it is below 500 ms.
    // Without that it would take 209.
    (0..14).for_each(|_| _ = sample(100, 0));
    assert!(sample(1000, 100) < 100, "the long run is still at 1 s");
}

#[test]
fn windowed() {
    /// What it is told.
    #[derive(Default)]
    struct Told(Vec<(u64, usize, bool)>);
    impl Algorithm for Told {
        fn limit(&self) -> usize {
            self.0.len()
        }
        fn update(&mut self, sample: &Sample) {
            self.0.push((sample.rtt.as_millis() as u64, sample.in_flight, sample.overloaded));
            // Nothing but the number of windows can be seen from outside.
            let expected = [(20, 9, false), (10, 5, true), (35, 3, false)];
            assert_eq!(self.0, expected[..self.0.len()]);
        }
    }
    let start = Instant::now();
    let mut windowed = Windowed::new(Told::default());
    let mut sample = |at: u64, micros: u64, in_flight, overloaded| {
        let started = start + Duration::from_millis(at);
        windowed.update(&Sample { started, rtt: Duration::from_micros(micros), in_flight, overloaded });
        windowed.limit()
    };
    assert_eq!(sample(0, 20_000, 1, false), 0, "the first opens a window of 1 s, and is too few itself");
    for index in 0..10 {
        assert_eq!(sample(100 + index, 20_000, index as usize, false), 0);
    }
    assert_eq!(sample(900, 99, 50, false), 0, "too fast");
    assert_eq!(sample(1000, 20_000, 0, false), 0, "it ends at 1020 ms: no later than the window");
    assert_eq!(sample(1001, 20_000, 0, false), 1, "12 of them");
    assert_eq!(sample(2000, 30_000, 0, false), 1, "ends a window by itself: too few");
    assert_eq!(sample(2030, 20_000, 0, false), 1, "in the next");
    assert_eq!(sample(3100, 1_000, 5, true), 2, "only 2, but an overload always counts");
    for index in 0..9 {
        assert_eq!(sample(3200 + index, 30_000, 3, false), 2);
    }
    assert_eq!(sample(4200, 80_000, 3, false), 3, "(9 * 30 + 80) / 10");
}

#[test]
fn options_that_cannot_be_are_errors() {
    let rows = [
        ("no limit at all", Aimd::default().limits(0, 1, 2).err()),
        ("initial below the least", Vegas::default().limits(2, 1, 3).err()),
        ("initial over the greatest", Gradient2::default().limits(1, 4, 3).err()),
        ("a ratio that does not shrink", Aimd::default().backoff_ratio(1.0).err()),
        ("a ratio below a half", Aimd::default().backoff_ratio(0.49).err()),
        ("no smoothing", Vegas::default().smoothing(0.0).err()),
        ("not a number", Gradient2::default().smoothing(f64::NAN).err()),
        ("a tolerance below one", Gradient2::default().tolerance(0.99).err()),
        ("a long run of no samples", Gradient2::default().long_window(0).err()),
        ("a probe with each sample", Vegas::default().probe_multiplier(0).err()),
        ("a window upside down", Windowed::new(()).window(Duration::MAX, Duration::ZERO).err()),
    ];
    for (name, error) in rows {
        let error = error.unwrap_or_else(|| panic!("{name} is accepted"));
        assert!(error.to_string().starts_with(error.option()), "{name}: {error}");
    }
}
