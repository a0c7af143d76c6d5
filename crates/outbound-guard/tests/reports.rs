//! How leaks are told: events, snapshots, and tests that fail.

mod support;

use std::{
    convert::Infallible,
    fmt::{Debug, Write},
    future::ready,
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response, Version};
use http_body_util::BodyExt;
use outbound_core::{
    Attempt, CallContext, CallSite, ConnectionInfo, Construction, Elapsed, Established, Exchange, Origin,
    Overloaded, Phase,
};
use outbound_guard::{Backtraces, Holding, Leak, LeakGuardLayer, SendExt};
use outbound_limit::ConcurrencyLimitLayer;
use outbound_testkit::{Plan, Probe, TestBody, listening};
use support::*;
use tokio::time::sleep;
use tower::{Layer, service_fn};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{Registry, layer::SubscriberExt};

/// Writes each event down, a line each.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<String>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.0 = format!("{value:?}{}", self.0),
            name => write!(self.0, " {name}={value:?}").unwrap(),
        }
    }
}

impl<S: Subscriber> tracing_subscriber::Layer<S> for Notes {
    fn on_event(&self, event: &Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if event.metadata().target().starts_with("outbound_guard") {
            let mut line = Line(String::new());
            event.record(&mut line);
            writeln!(self.0.lock().unwrap(), "{} {}", event.metadata().level(), line.0).unwrap();
        }
    }
}

impl Notes {
    fn taken() -> (Self, DefaultGuard) {
        let notes = Self::default();
        (notes.clone(), listening(Registry::default().with(notes)))
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap()).lines().map(str::to_owned).collect()
    }
}

fn answering() -> Plan {
    Plan::new().body(TestBody::new().data("01234").data("56789"))
}

#[tokio::test(start_paused = true)]
async fn an_event_says_all_on_one_line() {
    let (notes, _default) = Notes::taken();
    let (client, _detector, _log) = watched([answering()]);
    let mut request = get();
    Attempt::FIRST.next().attach(&mut request);
    let mut body = client.send(request).await.unwrap().into_body();
    let site = format!("crates/outbound-guard/tests/reports.rs:{}:27", line!() - 1);
    body.frame().await.unwrap().unwrap();
    sleep(ms(41_000)).await;
    body.frame().await.unwrap().unwrap();
    let call = format!("http://a.example, called at {site}, attempt 2");
    let fields = format!("site={site} origin=http://a.example muted=0");
    let held = "5 of 10 bytes read, not polled for 10 s";
    assert_eq!(
        notes.take(),
        [
            format!("WARN response held: {call}, 10 s ago, {held} leak=\"held\" {fields}"),
            format!(
                "INFO response returned after 41 s: {call}, 41 s ago, 5 of 10 bytes read leak=\"returned\" {fields}"
            ),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_line_gets_one_event_a_window() {
    let (notes, _default) = Notes::taken();
    let (client, detector, log) = watched([answering()]);
    for round in 0..100 {
        drop(client.send(get()).await.unwrap());
        sleep(ms(1_000)).await;
        if round == 50 {
            drop(client.send(get()).await.unwrap());
        }
    }
    let told: Vec<_> =
        notes.take().iter().map(|line| line.rsplit_once("muted=").unwrap().1.to_owned()).collect();
    assert_eq!(told, ["0", "0", "59"], "one line at 0 and 60 s, the other at 51 s");
    assert_eq!(log.take().len(), 101, "the callback is told everything");
    assert_eq!(detector.stats().totals.abandoned, 101);
}

/// What is told at one level, and perhaps heard by nobody, takes no other's turn.
#[tokio::test(start_paused = true)]
async fn a_line_gets_one_event_a_window_and_level() {
    let (notes, _default) = Notes::taken();
    let (layer, _detector) = LeakGuardLayer::pair();
    for kept in [None, Some(false), Some(true), Some(false)] {
        let service = service_fn(move |request: Request<TestBody>| {
            let established = Established::now(1, Version::HTTP_11);
            let exchange = Exchange::track(&mut { request });
            exchange.connected(ConnectionInfo::new(established.into(), 0, Duration::ZERO));
            kept.into_iter().for_each(|kept| exchange.keeps(kept));
            ready(Ok::<_, Infallible>(Response::new(TestBody::new().data("a"))))
        });
        let mut request = get();
        Exchange::track(&mut request);
        drop(layer.layer(service).send(request).await.unwrap());
    }
    let told: Vec<_> = notes.take().iter().map(|line| line.split_once(':').unwrap().0.to_owned()).collect();
    let dropped = "response body dropped before its end";
    assert_eq!(told, [format!("DEBUG {dropped}"), format!("WARN {dropped}, which closed its connection")]);
}

#[tokio::test(start_paused = true)]
async fn the_span_is_named() {
    let (_notes, _default) = Notes::taken();
    let (client, detector, _log) = watched([answering()]);
    let call = tracing::info_span!("checkout").in_scope(|| tower::ServiceExt::oneshot(client, get()));
    let call = tracing::info_span!("later").in_scope(|| Box::pin(call));
    let response = {
        let span = tracing::info_span!("polling");
        let _entered = span.enter();
        now(call).unwrap()
    };
    let [holding] = &detector.snapshot()[..] else { panic!("one is open") };
    assert_eq!(holding.span.unwrap().name(), "polling", "where the service was called");
    assert!(holding.to_string().contains("called at an unknown line in span \"polling\""), "{holding}");
    drop(response);

    // Whatever spans there are around it on its way.
    let (client, detector, _log) = watched([answering()]);
    for (name, line_in, named) in [("in one", Some("checkout"), Some("checkout")), ("in none", None, None)] {
        let span = line_in.map_or_else(tracing::Span::none, |_| tracing::info_span!("checkout"));
        let (mut first, mut again) = (get(), get());
        span.in_scope(|| CallSite::here().attach(&mut first));
        // As a retry layer does.
        CallContext::of(&first).unwrap().attach(&mut again);
        let attempt = tracing::info_span!("http.client.request");
        let response = attempt.in_scope(|| now(client.send(again))).unwrap();
        let span = detector.snapshot()[0].span.map(tracing::Metadata::name);
        assert_eq!(span, named, "{name}");
        drop(response);
    }
}

#[tokio::test(start_paused = true)]
async fn a_backtrace_is_kept_for_one_call_in_so_many() {
    let three = NonZeroU32::new(3).unwrap();
    for (name, backtraces, kept) in [
        ("off", Backtraces::Off, [false; 6]),
        ("one in three", Backtraces::OneIn(three), [false, false, true, false, false, true]),
        ("all", Backtraces::All, [true; 6]),
    ] {
        let (layer, detector) = LeakGuardLayer::builder().backtraces(backtraces).pair();
        let client = layer.layer(Probe::pair([answering()]).0);
        let mut responses = Vec::new();
        for _ in 0..6 {
            responses.push(client.send(get()).await.unwrap());
            sleep(ms(1)).await;
        }
        let snapshot = detector.snapshot();
        let found: Vec<_> = snapshot.iter().map(|holding| holding.backtrace.is_some()).collect();
        assert_eq!(found, kept, "{name}");
        for holding in snapshot.iter().filter(|holding| holding.backtrace.is_some()) {
            assert!(!holding.to_string().contains("reports::"), "{name}: on one line");
            assert!(format!("{holding:#}").contains("reports::"), "{name}: who called");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_snapshot_is_sorted_by_age() {
    let (client, detector, _log) = watched([answering(), answering(), Plan::new().never_answers()]);
    let older = client.send(get()).await.unwrap();
    sleep(ms(2_000)).await;
    let mut younger = client.send(get()).await.unwrap().into_body();
    younger.frame().await.unwrap().unwrap();
    sleep(ms(1_000)).await;
    let waiting = tokio::spawn(client.send(get()));
    sleep(ms(500)).await;
    let snapshot = detector.snapshot();
    let seen: Vec<_> =
        snapshot.iter().map(|holding| (holding.age, holding.idle, holding.read, holding.phase)).collect();
    let body = Some(Phase::Body);
    assert_eq!(
        seen,
        [
            (ms(3_500), Some(ms(3_500)), 0, body),
            (ms(1_500), Some(ms(1_500)), 5, body),
            (ms(500), None, 0, None)
        ]
    );
    assert!(snapshot[2].to_string().ends_with(", 500 ms ago, no response yet, awaiting the peer"));
    let stats = detector.stats();
    assert_eq!((stats.calls, stats.bodies, stats.held, stats.oldest), (1, 2, 0, Some(ms(3_500))));
    sleep(ms(7_000)).await;
    assert_eq!(detector.stats().held, 1);
    drop((older, younger, waiting));
}

/// Its record may be one of a call before, of which nothing is left.
#[tokio::test(start_paused = true)]
async fn a_call_begins_with_nothing_known() {
    let (client, detector, _log) = watched([answering(), Plan::new().never_answers()]);
    client.send(get()).await.unwrap().into_body().collect().await.unwrap();
    let waiting = tokio::spawn(client.send(get()));
    sleep(ms(1)).await;
    let [holding] = &detector.snapshot()[..] else { panic!("one is open") };
    assert_eq!((holding.phase, holding.read, holding.declared), (None, 0, None));
    waiting.abort();
}

/// An HTTP/2 connection outlives the stream that ends with the body.
#[tokio::test(start_paused = true)]
async fn what_it_cost_depends_on_the_version_and_on_what_the_pool_tells() {
    for (version, kept, cost) in [
        (Version::HTTP_10, Some(false), Some(true)),
        (Version::HTTP_11, Some(false), Some(true)),
        (Version::HTTP_11, Some(true), Some(false)),
        (Version::HTTP_11, None, None),
        (Version::HTTP_2, None, Some(false)),
        (Version::HTTP_3, None, Some(false)),
    ] {
        let log = Log::new();
        let (layer, _detector) = LeakGuardLayer::builder().callback(log.callback()).pair();
        let client = layer.layer(service_fn(move |request: Request<TestBody>| {
            let established = Established::now(1, version);
            let connection = ConnectionInfo::new(established.into(), 0, Duration::ZERO);
            let exchange = Exchange::of(&request).unwrap();
            exchange.connected(connection);
            kept.into_iter().for_each(|kept| exchange.keeps(kept));
            ready(Ok::<_, Infallible>(Response::new(TestBody::new().data("a"))))
        }));
        let mut request = get();
        Exchange::track(&mut request);
        drop(client.send(request).await.unwrap());
        let Leak::Abandoned { cost_connection, .. } = log.last() else { panic!("{}", log.last()) };
        assert_eq!(cost_connection, cost, "{version:?}, kept: {kept:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_told_has_a_secret() {
    let (notes, _default) = Notes::taken();
    let told: Arc<Mutex<Vec<(&str, String)>>> = Arc::default();
    let tell = told.clone();
    let (layer, detector) = LeakGuardLayer::builder()
        .reclaim_after(ms(60_000))
        .churn(NonZeroU32::MIN, Duration::MAX)
        .callback(move |leak| {
            tell.lock().unwrap().push((leak.kind(), format!("{leak} {leak:#} {leak:?} {leak:#?}")));
        })
        .pair();
    let client = layer.layer(Probe::pair([answering(), answering(), Plan::new().never_answers()]).0);
    let send = || {
        let mut request = get();
        for name in ["authorization", "cookie", "x-api-key"] {
            request.headers_mut().insert(name, "a secret token".parse().unwrap());
        }
        client.send(request)
    };
    let (held, kept, mut waits) = (send().await.unwrap(), send().await.unwrap(), Box::pin(send()));
    assert!(futures_poll(waits.as_mut()).is_pending());
    sleep(ms(20_000)).await;
    let shown = [format!("{detector:?} {held:?} {waits:?}"), format!("{:#?}", detector.snapshot())];
    drop(held);
    drop(client);
    sleep(ms(60_000)).await;
    Construction::announce("client");
    drop((kept, detector));

    let told = told.lock().unwrap();
    let mut kinds: Vec<_> = told.iter().map(|&(kind, _)| kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    // Of descriptors there is nothing to tell but numbers.
    let expected = ["abandoned", "churn", "client_dropped", "forgotten", "held", "reclaimed", "returned"];
    assert_eq!(kinds, expected, "of each kind");
    for said in told.iter().map(|(_, said)| said).chain(&notes.take()).chain(&shown) {
        // (The name of this test is no secret.)
        let said = said.replace("nothing_told_has_a_secret", "");
        assert!(!said.contains("secret") && !said.contains("token"), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_test_with_a_leak_fails_and_says_who() {
    let (client, detector, _log) = watched([answering()]);
    detector.assert_no_leaks();
    drop(detector.check_on_drop());

    let body = client.send(get()).await.unwrap();
    let line = line!() - 1;
    let expected = format!(
        "1 response still open\n  http://a.example, called at {}:{line}:23, 0 s ago, 0 of 10 bytes read",
        CallSite::here().location().file()
    );
    let assert = || detector.assert_no_leaks();
    let check = || drop(detector.check_on_drop());
    for (name, fail) in [("assert", &assert as &dyn Fn()), ("check", &check)] {
        let panic = catch_unwind(AssertUnwindSafe(fail)).unwrap_err();
        assert_eq!(*panic.downcast_ref::<String>().unwrap(), expected, "{name}");
    }
    // A test that fails for another reason fails for that one.
    let failing = catch_unwind(AssertUnwindSafe(|| {
        let _check = detector.check_on_drop();
        panic!("for another reason");
    }));
    assert_eq!(*failing.unwrap_err().downcast_ref::<&str>().unwrap(), "for another reason");
    drop(body);
    detector.assert_no_leaks();
}

#[tokio::test(start_paused = true)]
async fn who_is_in_the_way() {
    let (client, detector, _log) =
        watched([answering(), answering(), answering(), Plan::new().never_answers()]);
    let to = |host: &str| Request::get(format!("http://{host}/")).body(TestBody::new()).unwrap();
    let mut bodies = Vec::new();
    for host in ["a.example", "b.example", "a.example"] {
        bodies.push(client.send(to(host)).await.unwrap());
        sleep(ms(1_000)).await;
    }
    let mut waits = to("a.example");
    let exchange = Exchange::track(&mut waits);
    let mut waiting = Box::pin(client.send(waits));
    assert!(futures_poll(waiting.as_mut()).is_pending());
    let origin = |uri: &str| Origin::of(&uri.parse().unwrap()).unwrap();
    let full = Overloaded::new("limit", 1, 0);
    let holders = |error: &(dyn std::error::Error + 'static)| {
        let line =
            |holding: &Holding| format!("{} {}", holding.origin.as_ref().unwrap(), holding.age.as_secs());
        detector.holders(error).iter().map(line).collect::<Vec<_>>()
    };
    let (old, young, other) = ("http://a.example 3", "http://a.example 1", "http://b.example 2");
    assert_eq!(
        holders(&full.clone().to(origin("http://a.example"))),
        [old, young, other],
        "its origin first"
    );
    assert_eq!(
        holders(&full.clone().to(origin("http://b.example"))),
        [other, old, young],
        "its origin first"
    );
    assert_eq!(holders(&full), [old, other, young], "by age");
    assert_eq!(holders(&Elapsed::new(Phase::Acquire, ms(1))), [old, other, young], "waited for a connection");
    exchange.enter(Phase::Acquire);
    assert_eq!(holders(&full), [old, other, young], "one that waits itself has nothing yet");
    exchange.enter(Phase::Connect);
    assert_eq!(holders(&full).len(), 4, "now it has");
    assert_eq!(holders(&Elapsed::new(Phase::Head, ms(1))).len(), 0, "waited for nobody");
    assert_eq!(holders(&std::fmt::Error).len(), 0, "anything else");

    let age = |origin| detector.witness().oldest(origin).map(|(age, _)| age);
    let [a, b, c] = ["a", "b", "c"].map(|host| origin(&format!("http://{host}.example")));
    assert_eq!(
        [None, Some(&a), Some(&b), Some(&c)].map(age),
        [Some(ms(3_000)), Some(ms(3_000)), Some(ms(2_000)), None]
    );
}

/// A limit outside the guard names who keeps it busy.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_turned_away_learns_by_whom() {
    let (guard, detector) = LeakGuardLayer::pair();
    let limit = ConcurrencyLimitLayer::new(2).max_wait(ms(500)).witness(detector.witness());
    let client = limit.layer(guard.layer(Probe::pair([answering()]).0));
    let oldest = client.send(get()).await.unwrap();
    let line = line!() - 1;
    sleep(ms(1_000)).await;
    let younger = client.send(get()).await.unwrap();
    let error = client.send(get()).await.unwrap_err();
    let site = format!("crates/outbound-guard/tests/reports.rs:{line}:25");
    let expected = format!(
        "http://a.example: concurrency limit is overloaded: all 2 in use, 0 waiting, gave up after 500 ms; \
         oldest call 1.50 s, begun at {site}"
    );
    assert_eq!(error.to_string(), expected);
    drop((oldest, younger));
}

/// It does not keep the guard looking.
#[tokio::test(start_paused = true)]
async fn a_witness_is_no_detector() {
    let (client, detector, log) = watched([answering()]);
    let witness = detector.witness();
    let body = client.send(get()).await.unwrap();
    drop(detector);
    assert_eq!(log.take().len(), 1, "forgotten");
    assert!(witness.oldest(None).is_some());
    drop(body);
    assert!(witness.oldest(None).is_none());
}
