//! `Deadline` and `Grace` on a paused clock.

use std::{
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use http::Request;
use outbound_core::{Deadline, Grace};
use tokio::time::{Instant, advance};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn time_left() {
    let now = Instant::now();
    let rows = [
        ("in a second", Deadline::after(SEC), Some(now + SEC), SEC, false),
        ("now", Deadline::after(Duration::ZERO), Some(now), Duration::ZERO, true),
        ("at now", Deadline::at(now), Some(now), Duration::ZERO, true),
        ("passed", Deadline::at(now - SEC), Some(now - SEC), Duration::ZERO, true),
        (
            "a nanosecond ahead",
            Deadline::at(now + MS / 1_000_000),
            Some(now + MS / 1_000_000),
            MS / 1_000_000,
            false,
        ),
        ("never", Deadline::NEVER, None, Duration::MAX, false),
        ("too long for the clock", Deadline::after(Duration::MAX), None, Duration::MAX, false),
        ("the default", Deadline::default(), None, Duration::MAX, false),
    ];
    for (name, deadline, instant, left, past) in rows {
        assert_eq!(
            (deadline.instant(), deadline.left(), deadline.is_past()),
            (instant, left, past),
            "{name}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn passes_on_the_very_tick() {
    let deadline = Deadline::after(10 * MS);
    for (ms, left, past) in [(0, 10, false), (9, 1, false), (1, 0, true), (1, 0, true)] {
        advance(ms * MS).await;
        assert_eq!((deadline.left(), deadline.is_past()), (left * MS, past), "after {ms} ms more");
    }
    advance(1000 * SEC).await;
    assert!(!Deadline::NEVER.is_past());
    assert_eq!(Deadline::NEVER.left(), Duration::MAX);
}

#[tokio::test(start_paused = true)]
async fn the_earlier_wins() {
    let [soon, late, never] = [Deadline::after(SEC), Deadline::after(2 * SEC), Deadline::NEVER];
    let rows = [
        ("soon, late", soon, late, soon),
        ("a tie", soon, Deadline::after(SEC), soon),
        ("soon, never", soon, never, soon),
        ("never, never", never, never, never),
        ("passed, soon", Deadline::at(Instant::now() - SEC), soon, Deadline::at(Instant::now() - SEC)),
    ];
    for (name, one, other, earlier) in rows {
        assert_eq!(one.earlier(other), earlier, "{name}");
        assert_eq!(other.earlier(one), earlier, "{name}, the other way round");
        for (first, second) in [(one, other), (other, one)] {
            let mut request = Request::new(());
            first.tighten(&mut request);
            assert_eq!(Deadline::of(&request), Some(first), "{name}: put on a bare request");
            second.tighten(&mut request);
            assert_eq!(Deadline::of(&request), Some(earlier), "{name}: tightened");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn grace_is_as_long_as_it_was_late_and_ends_at_the_deadline() {
    let never = u64::MAX;
    #[rustfmt::skip]
    let table = [
        // name                         limit deadline polled at  ends at
        ("on time",                     100,  never,   100,       100),
        ("within what timers are",      100,  never,   102,       102),
        ("late",                        100,  never,   150,       200),
        ("later than the limit",        100,  never,   1100,      1200),
        ("the deadline is the limit",   100,  80,      80,        80),
        ("the deadline in the grace",   100,  163,     150,       163),
        ("the deadline in the stall",   100,  120,     150,       150),
    ];
    for (name, limit, deadline, polled, ends) in table {
        let begun = Instant::now();
        let deadline = Deadline::after(Duration::from_millis(deadline));
        let mut grace = pin!(Grace::new(Duration::from_millis(limit), deadline));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(grace.as_mut().poll(&mut cx).is_pending(), "{name}");
        advance(Duration::from_millis(polled)).await;
        grace.await;
        assert_eq!(begun.elapsed(), Duration::from_millis(ends), "{name}");
    }
}
