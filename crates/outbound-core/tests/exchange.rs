//! `Exchange` and `Snapshot`: phases, time, bytes, delivery, sharing.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use http::{Request, Version};
use outbound_core::{
    Attempt, CallSite, ConnectionInfo, Delivery, Established, Exchange, Origin, Phase, Snapshot,
};
use proptest::prelude::*;
use tokio::time::{Instant, advance};

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn phases() {
    let exchange = Exchange::default();
    let begun = Instant::now();
    assert_eq!((exchange.phase(), exchange.since(), exchange.begun()), (Phase::Queue, begun, begun));
    for (at, &phase) in Phase::ALL.iter().enumerate() {
        advance(3 * MS).await;
        exchange.enter(phase);
        advance(2 * MS).await;
        let entered = begun + (at as u32 * 5 + 3) * MS;
        assert_eq!((exchange.phase(), exchange.since()), (phase, entered), "{phase}");
        assert_eq!(exchange.begun(), begun, "{phase}");
    }
}

#[test]
fn a_connection_is_kept_or_closed_once_that_is_told() {
    let exchange = Exchange::new();
    assert_eq!(exchange.is_kept(), None);
    for kept in [true, false] {
        exchange.keeps(kept);
        assert_eq!(exchange.clone().is_kept(), Some(kept));
    }
    assert_eq!(exchange.renewed(Instant::now()).is_kept(), None, "another exchange");
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_waits_for_the_head_unless_that_has_come() {
    for &phase in Phase::ALL {
        let exchange = Exchange::new();
        exchange.enter(phase);
        advance(2 * MS).await;
        exchange.sent();
        advance(MS).await;
        let (sent, waiting) = if phase == Phase::Send { (Phase::Head, MS) } else { (phase, 3 * MS) };
        assert_eq!((exchange.phase(), exchange.since().elapsed()), (sent, waiting), "{phase}");
        assert_eq!(exchange.timings().total(), 3 * MS, "{phase}");
    }
}

#[tokio::test(start_paused = true)]
async fn when_it_was_sent() {
    use Phase::{Body, Connect, Head, Send};
    for (name, phases, before) in [
        ("not yet", &[Connect, Send] as &[_], None),
        ("just now", &[Send, Head], Some(1)),
        ("answered", &[Send, Head, Body], Some(2)),
        ("answered while it was being sent", &[Send, Body], Some(1)),
        ("being sent again", &[Send, Head, Connect, Send], None),
        ("sent again and answered", &[Send, Head, Connect, Head, Body], Some(2)),
        ("answered while it was being sent again", &[Send, Head, Send, Body], Some(1)),
    ] {
        let exchange = Exchange::new();
        for &phase in phases {
            exchange.enter(phase);
            advance(MS).await;
        }
        assert_eq!(exchange.sent_at(), before.map(|before| Instant::now() - before * MS), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn timings_name_the_present_phase_too() {
    let exchange = Exchange::new();
    advance(MS).await;
    exchange.enter(Phase::Connect);
    advance(2 * MS).await;
    exchange.enter(Phase::Connect);
    advance(4 * MS).await;
    exchange.enter(Phase::Queue);
    advance(8 * MS).await;
    let timings = exchange.timings();
    assert_eq!(timings.spent(Phase::Queue), 9 * MS, "left, and entered again");
    assert_eq!(timings.spent(Phase::Connect), 6 * MS, "entered twice in a row");
    assert_eq!(timings.total(), 15 * MS);
}

proptest! {
    #[test]
    fn timings_sum_to_the_elapsed_time(steps in proptest::collection::vec((0..Phase::ALL.len(), 0_u64..10_000_000_000), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let exchange = Exchange::new();
            let mut spent = BTreeMap::<Phase, Duration>::new();
            for (phase, nanos) in steps {
                let nanos = Duration::from_nanos(nanos);
                advance(nanos).await;
                *spent.entry(exchange.phase()).or_default() += nanos;
                exchange.enter(Phase::ALL[phase]);
            }
            advance(7 * MS).await;
            *spent.entry(exchange.phase()).or_default() += 7 * MS;

            let timings = exchange.timings();
            for phase in Phase::ALL {
                assert_eq!(timings.spent(*phase), spent.get(phase).copied().unwrap_or_default(), "{phase}");
            }
            assert_eq!(timings.total(), exchange.begun().elapsed());
        });
    }
}

#[test]
fn delivery() {
    use Delivery::{Answered, Maybe, NotSent, Refused};
    // What may be known in each phase: with nothing written, with a byte written, and when the peer refused.
    for &phase in Phase::ALL {
        let (nothing, written) = if phase == Phase::Body { (Answered, Answered) } else { (NotSent, Maybe) };
        let exchange = Exchange::new();
        exchange.enter(phase);
        assert_eq!(exchange.delivery(), nothing, "{phase}, nothing written");
        exchange.wrote(0);
        exchange.read(1);
        assert_eq!(exchange.delivery(), nothing, "{phase}, nothing written, a byte read");
        exchange.wrote(1);
        assert_eq!(exchange.delivery(), written, "{phase}, a byte written");
        exchange.refused();
        assert_eq!(exchange.delivery(), Refused, "{phase}, refused");
    }
}

#[test]
fn bytes_add_up_over_all_clones() {
    let exchange = Exchange::new();
    let clone = exchange.clone();
    for (out, into, bytes_out, bytes_in) in
        [(0, 0, 0, 0), (5, 0, 5, 0), (0, 7, 5, 7), (1 << 33, 1, (1 << 33) + 5, 8)]
    {
        exchange.wrote(out);
        clone.read(into);
        for exchange in [&exchange, &clone] {
            assert_eq!((exchange.bytes_out(), exchange.bytes_in()), (bytes_out, bytes_in));
        }
    }
}

#[test]
fn aim_reads_the_message() {
    let exchange = Exchange::new();
    assert_eq!((exchange.origin(), exchange.attempt(), exchange.call_site()), (None, None, None));
    let origin = Origin::of(&"http://a".parse().unwrap()).unwrap();
    exchange.aim(origin.clone(), &Request::new(()));
    assert_eq!((exchange.origin(), exchange.attempt(), exchange.call_site()), (Some(origin), None, None));

    let mut request = Request::new(());
    let site = CallSite::here();
    site.attach(&mut request);
    Attempt::FIRST.next().attach(&mut request);
    let origin = Origin::of(&"http://b".parse().unwrap()).unwrap();
    exchange.aim(origin.clone(), &request);
    assert_eq!(
        (exchange.origin(), exchange.attempt(), exchange.call_site()),
        (Some(origin), Some(Attempt::FIRST.next()), Some(site))
    );
}

fn used() -> Exchange {
    let exchange = Exchange::new();
    exchange.aim(Origin::of(&"http://a".parse().unwrap()).unwrap(), &Request::new(()));
    exchange.connected(connection());
    exchange.wrote(3);
    exchange.read(4);
    exchange.refused();
    exchange.enter(Phase::Head);
    exchange
}

fn connection() -> ConnectionInfo {
    ConnectionInfo::new(Arc::new(Established::now(7, Version::HTTP_11)), 2, MS)
}

#[tokio::test(start_paused = true)]
async fn renewed_begins_anew() {
    for (name, keep) in [("unique", false), ("shared", true)] {
        let exchange = used();
        let kept = keep.then(|| exchange.clone());
        advance(MS).await;
        let now = Instant::now();
        let renewed = exchange.renewed(Instant::now());
        assert_eq!((renewed.begun(), renewed.since(), renewed.phase()), (now, now, Phase::Queue), "{name}");
        assert_eq!((renewed.bytes_out(), renewed.bytes_in()), (0, 0), "{name}");
        assert_eq!(renewed.delivery(), Delivery::NotSent, "{name}");
        assert!(renewed.origin().is_none() && renewed.connection().is_none(), "{name}");
        assert_eq!(renewed.timings().total(), Duration::ZERO, "{name}");
        if let Some(kept) = kept {
            renewed.wrote(100);
            assert_eq!(
                (kept.bytes_out(), kept.phase()),
                (3, Phase::Head),
                "whoever shares the old one keeps it"
            );
            assert_eq!(kept.delivery(), Delivery::Refused);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn snapshot_is_the_exchange_as_it_stood() {
    let mut request = Request::new(());
    let site = CallSite::here();
    site.attach(&mut request);
    Attempt::FIRST.attach(&mut request);
    let origin = Origin::of(&"http://a".parse().unwrap()).unwrap();
    let exchange = Exchange::new();
    advance(2 * MS).await;
    exchange.aim(origin.clone(), &request);
    exchange.connected(connection());
    exchange.enter(Phase::Head);
    exchange.wrote(3);
    exchange.read(4);
    advance(5 * MS).await;

    let snapshot = Snapshot::from(&exchange);
    exchange.enter(Phase::Body);
    exchange.wrote(100);
    advance(5 * MS).await;
    assert_eq!((snapshot.origin, snapshot.attempt), (Some(origin), Some(Attempt::FIRST)));
    assert_eq!(snapshot.call_site, Some(site));
    assert_eq!((snapshot.phase, snapshot.in_phase, snapshot.elapsed), (Phase::Head, 5 * MS, 7 * MS));
    assert_eq!((snapshot.delivery, snapshot.bytes_out, snapshot.bytes_in), (Delivery::Maybe, 3, 4));
    assert_eq!(snapshot.connection.map(|connection| connection.id()), Some(7));

    let bare = Snapshot::from(&Exchange::new());
    assert!(
        bare.origin.is_none()
            && bare.attempt.is_none()
            && bare.call_site.is_none()
            && bare.connection.is_none()
    );
    assert_eq!((bare.phase, bare.in_phase, bare.elapsed), (Phase::Queue, Duration::ZERO, Duration::ZERO));
    assert_eq!((bare.delivery, bare.bytes_out, bare.bytes_in), (Delivery::NotSent, 0, 0));
}

/// One writes, as the pool does, and many read: nothing that they see is impossible.
#[test]
fn read_while_written() {
    const ROUNDS: u64 = 20_000;
    let exchange = Exchange::new();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                let phase = Phase::ALL[round as usize % Phase::ALL.len()];
                exchange.enter(phase);
                exchange.wrote(1);
                exchange.read(2);
                if round % 64 == 0 {
                    exchange.aim(Origin::of(&"http://a".parse().unwrap()).unwrap(), &Request::new(()));
                    exchange.connected(connection());
                }
            }
            done.store(true, Relaxed);
        });
        for _ in 0..3 {
            scope.spawn(|| {
                let (mut out, mut since) = (0, exchange.begun());
                while !done.load(Relaxed) {
                    let snapshot = Snapshot::from(&exchange);
                    let (timings, elapsed) = (exchange.timings(), exchange.begun().elapsed());
                    assert!(timings.total() <= elapsed, "{timings:?} in {elapsed:?}");
                    assert!(snapshot.in_phase <= elapsed && snapshot.elapsed <= elapsed, "{snapshot:?}");
                    assert!(snapshot.bytes_out >= out && snapshot.bytes_out <= ROUNDS, "{snapshot:?}");
                    assert!(snapshot.bytes_in <= 2 * ROUNDS, "{snapshot:?}");
                    assert!(out == 0 || snapshot.delivery != Delivery::NotSent, "{snapshot:?}");
                    assert!(snapshot.delivery != Delivery::Refused, "{snapshot:?}");
                    assert!(exchange.since() >= since, "a phase was entered before the one before it");
                    assert!(snapshot.connection.is_none_or(|connection| connection.id() == 7));
                    (out, since) = (snapshot.bytes_out, exchange.since());
                }
            });
        }
    });
    assert_eq!((exchange.bytes_out(), exchange.bytes_in()), (ROUNDS, 2 * ROUNDS));
}

/// That many write is nobody's plan, and still no reason to lose a byte or to panic.
#[test]
fn written_by_many() {
    let exchange = Exchange::new();
    thread::scope(|scope| {
        for writer in 0..4 {
            let exchange = &exchange;
            scope.spawn(move || {
                for round in 0..5_000 {
                    exchange.enter(Phase::ALL[(writer + round) % Phase::ALL.len()]);
                    exchange.wrote(1);
                    exchange.read(1);
                    let _ = exchange.timings();
                }
            });
        }
    });
    assert_eq!((exchange.bytes_out(), exchange.bytes_in()), (20_000, 20_000));
}

#[tokio::test(start_paused = true)]
async fn unmoved_is_what_the_peer_does_not_take() {
    let exchange = Exchange::new();
    let at = |ms| Some(exchange.begun() + Duration::from_millis(ms));
    type Step<'a> = (&'a str, &'a dyn Fn(), Option<Instant>);
    let steps: [Step<'_>; 8] = [
        ("connecting", &|| exchange.enter(Phase::Connect), None),
        ("sending begins", &|| exchange.enter(Phase::Send), at(1)),
        ("bytes are taken", &|| exchange.wrote(1), at(2)),
        ("none are", &|| {}, at(2)),
        ("the body has nothing", &|| exchange.starved(), None),
        ("what it gave before is taken", &|| exchange.wrote(1), None),
        ("the body gives", &|| exchange.fed(), at(6)),
        ("all is sent", &|| exchange.enter(Phase::Head), None),
    ];
    for (name, step, since) in steps {
        step();
        assert_eq!(exchange.unmoved_since(), since, "{name}");
        advance(Duration::from_millis(1)).await;
    }
}
