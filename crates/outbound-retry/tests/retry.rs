//! What the layer does after each kind of outcome.

use std::{io, num::NonZeroU32, time::Duration};

use http::{Method, Request, Response, StatusCode};
use outbound_core::{
    Attempt, BoxError, CoolingDown, Deadline, Delivery, Elapsed, Exchange, Failure, GaveUp, Idempotent, Kind,
    Origin, Overloaded, Phase, Retries, TransportError, find,
};
use outbound_retry::{
    Backoff, Budget, Decision, IdempotencyKey, Jitter, Outcome, Policy, Random, Retry, RetryLayer, Standard,
};
use outbound_testkit::{Gate, Lives, Plan, Probe, ProbeHandle, Scripted, TestBody, cancel_at_each_poll};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};

const SECOND: Duration = Duration::from_secs(1);

/// Waits one second, two, four …
fn steady() -> Standard {
    let backoff = Backoff::new(SECOND, 60 * SECOND).unwrap().jitter(Jitter::None);
    Standard::default().backoff(backoff)
}

fn attempts(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

fn over<P: Policy + Clone>(
    layer: &RetryLayer<P>,
    plans: impl IntoIterator<Item = Plan>,
) -> (Retry<Probe, P>, ProbeHandle) {
    let (probe, handle) = Probe::pair(plans);
    (layer.layer(probe), handle)
}

fn get() -> Request<TestBody> {
    request(Method::GET, TestBody::new())
}

fn request(method: Method, body: TestBody) -> Request<TestBody> {
    Request::builder().method(method).uri("http://example.com/path").body(body).unwrap()
}

async fn send<P: Policy>(
    service: &mut Retry<Probe, P>,
    request: Request<TestBody>,
) -> Result<Response<TestBody>, BoxError> {
    ServiceExt::<Request<TestBody>>::ready(service).await?.call(request).await
}

fn io_error(kind: io::ErrorKind) -> impl Fn() -> io::Error + Send + Sync {
    move || io::Error::from(kind)
}

fn transport(kind: Kind, wrote: usize) -> impl Fn() -> TransportError + Send + Sync {
    move || {
        let exchange = Exchange::new();
        exchange.wrote(wrote);
        TransportError::new(kind, &exchange)
    }
}

fn refused() -> TransportError {
    let exchange = Exchange::new();
    exchange.wrote(42);
    exchange.refused();
    TransportError::new(Kind::Reset, &exchange)
}

#[tokio::test(start_paused = true)]
async fn every_outcome_has_its_number_of_sightings() {
    let ok = Plan::new;
    let status = |status| Plan::new().status(status);
    let origin = || Origin::of(&"http://example.com".parse().unwrap()).unwrap();
    #[rustfmt::skip]
    let table: Vec<(&str, Plan, usize, usize)> = vec![
        // what happens at first                                                                        GET POST
        ("200",                          ok(),                                                            1, 1),
        ("304",                          status(304),                                                     1, 1),
        ("404",                          status(404),                                                     1, 1),
        ("408",                          status(408),                                                     2, 1),
        ("413 without Retry-After",      status(413),                                                     1, 1),
        ("413 with Retry-After",         status(413).header("retry-after", "1"),                          2, 1),
        ("425",                          status(425),                                                     2, 1),
        ("429",                          status(429),                                                     2, 1),
        ("500",                          status(500),                                                     2, 1),
        ("501",                          status(501),                                                     1, 1),
        ("502",                          status(502),                                                     2, 1),
        ("503",                          status(503),                                                     2, 1),
        ("503 with Retry-After",         status(503).header("retry-after", "1"),                          2, 1),
        ("504",                          status(504),                                                     2, 1),
        ("200 with Retry-After",         ok().header("retry-after", "1"),                                 1, 1),
        ("404 with Retry-After",         status(404).header("retry-after", "1"),                          1, 1),
        ("nothing written",              Plan::new().error_from(transport(Kind::Reset, 0)),               2, 2),
        ("a byte written",               Plan::new().error_from(transport(Kind::Reset, 1)),               2, 1),
        ("refused by the peer",          Plan::new().error_from(refused),                                 2, 2),
        ("connect timeout",              Plan::new().error_from(|| Elapsed::new(Phase::Connect, SECOND)), 2, 2),
        ("head timeout",                 Plan::new().error_from(|| Elapsed::new(Phase::Head, SECOND)),    2, 1),
        ("limit full",                   Plan::new().error_from(|| Overloaded::new("limit", 1, 0)),       2, 2),
        ("cooling down",                 Plan::new().error_from(move || CoolingDown::new(origin(), SECOND)), 2, 2),
        ("unknown error",                Plan::new().error("unknown"),                                    2, 1),
        ("io: reset",                    Plan::new().error_from(io_error(io::ErrorKind::ConnectionReset)), 2, 1),
        ("certificate, nothing written", Plan::new().error_from(transport(Kind::Certificate, 0)),         1, 1),
        ("TLS, nothing written",         Plan::new().error_from(transport(Kind::Tls, 0)),                 1, 1),
        ("protocol",                     Plan::new().error_from(transport(Kind::Protocol, 9)),            1, 1),
        ("head too large",               Plan::new().error_from(transport(Kind::TooLarge, 9)),            1, 1),
        ("invalid request",              Plan::new().error_from(transport(Kind::Invalid, 0)),             1, 1),
        ("request body",                 Plan::new().error_from(transport(Kind::RequestBody, 9)),         1, 1),
        ("canceled",                     Plan::new().error_from(transport(Kind::Canceled, 0)),            1, 1),
        ("resolve",                      Plan::new().error_from(transport(Kind::Resolve, 0)),             2, 2),
        ("out of descriptors",           Plan::new().error_from(transport(Kind::Exhausted, 0)),           2, 2),
    ];
    for (name, first, gets, posts) in table {
        for (method, sightings) in [(Method::GET, gets), (Method::PUT, gets), (Method::POST, posts)] {
            let (mut service, probe) = over(&RetryLayer::new(steady()), [first.clone(), Plan::new()]);
            let _ = send(&mut service, request(method.clone(), TestBody::new())).await;
            assert_eq!(probe.counts().calls, sightings, "{method} {name}");
        }
        // The caller's word makes a POST as good as a GET.
        let (mut service, probe) = over(&RetryLayer::new(steady()), [first, Plan::new()]);
        let mut post = request(Method::POST, TestBody::new());
        Idempotent.attach(&mut post);
        let _ = send(&mut service, post).await;
        assert_eq!(probe.counts().calls, gets, "idempotent POST {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idempotency_key_counts_as_the_policy_says() {
    use IdempotencyKey::{Accepted, Generated, Ignored};
    for (name, keys, given, sightings) in [
        ("ignored", Ignored, Some("\"a\""), 1),
        ("accepted", Accepted, Some("\"a\""), 2),
        ("accepted, none there", Accepted, None, 1),
        ("generated", Generated, None, 2),
        ("generated, one there", Generated, Some("\"a\""), 2),
    ] {
        let policy = steady().idempotency_key(keys).random(Random::seeded(1));
        let (mut service, probe) = over(&RetryLayer::new(policy), [Plan::new().status(503), Plan::new()]);
        let mut post = request(Method::POST, TestBody::new());
        if let Some(key) = given {
            post.headers_mut().insert("idempotency-key", key.parse().unwrap());
        }
        send(&mut service, post).await.unwrap();
        let seen = probe.requests();
        assert_eq!(seen.len(), sightings, "{name}");
        let key = seen[0].headers().get("idempotency-key").map(|key| key.to_str().unwrap());
        match given {
            Some(given) => assert_eq!(key, Some(given), "{name}"),
            None if keys == Generated => assert!(is_uuid(key.unwrap()), "{name}: {key:?}"),
            None => assert_eq!(key, None, "{name}"),
        }
        assert!(
            seen.iter().all(|request| request.headers() == seen[0].headers()),
            "{name}: the same for all attempts"
        );
    }
}

/// A string of structured fields with a version 4 UUID.
fn is_uuid(key: &str) -> bool {
    let uuid = key.trim_matches('"');
    let lengths: Vec<_> = uuid.split('-').map(str::len).collect();
    key.len() == 38 && lengths == [8, 4, 4, 4, 12] && &uuid[14..15] == "4" && "89ab".contains(&uuid[19..20])
}

#[tokio::test(start_paused = true)]
async fn waits_are_the_backoff_or_what_the_server_asks_for() {
    use Duration as D;
    #[rustfmt::skip]
    let table = [
        ("backoff alone",                None,                D::from_secs(1), 200),
        ("less than the backoff",        Some("0"),           D::from_secs(1), 200),
        ("more than the backoff",        Some("30"),          D::from_secs(30), 200),
        ("at the cap",                   Some("60"),          D::from_secs(60), 200),
        ("above the cap",                Some("61"),          D::ZERO,         503),
        ("far above the cap",            Some("99999999999999999999999"), D::ZERO, 503),
        ("garbage",                      Some("1.5"),         D::from_secs(1), 200),
    ];
    for (name, retry_after, waited, status) in table {
        let mut first = Plan::new().status(503);
        if let Some(value) = retry_after {
            first = first.header("retry-after", value);
        }
        let (mut service, _) = over(&RetryLayer::new(steady()), [first, Plan::new()]);
        let begun = Instant::now();
        let response = send(&mut service, get()).await.unwrap();
        assert_eq!((begun.elapsed(), response.status().as_u16()), (waited, status), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_past_the_deadline() {
    let table = [
        (
            "Retry-After beyond it",
            Some("3600"),
            Duration::from_secs(5),
            1,
            Duration::ZERO,
            Some(GaveUp::RetryAfter),
        ),
        (
            "within the cap, beyond it",
            Some("30"),
            Duration::from_secs(5),
            1,
            Duration::ZERO,
            Some(GaveUp::Deadline),
        ),
        ("backoff ends on it", None, SECOND, 1, Duration::ZERO, Some(GaveUp::Deadline)),
        (
            "backoff ends just before it",
            None,
            SECOND + Duration::from_millis(1),
            2,
            SECOND,
            Some(GaveUp::Deadline),
        ),
        ("two backoffs fit", None, 4 * SECOND, 3, 3 * SECOND, Some(GaveUp::Attempts)),
    ];
    for (name, retry_after, total, sightings, took, gave_up) in table {
        let mut plan = Plan::new().status(503);
        if let Some(value) = retry_after {
            plan = plan.header("retry-after", value);
        }
        let (mut service, probe) = over(&RetryLayer::new(steady()), [plan]);
        let mut request = get();
        Deadline::after(total).tighten(&mut request);
        let begun = Instant::now();
        let response = send(&mut service, request).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{name}");
        assert_eq!((begun.elapsed(), probe.counts().calls), (took, sightings), "{name}");
        assert_eq!(Retries::of(&response).unwrap().gave_up(), gave_up, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_says_when_a_retry_would_have_been_allowed() {
    for (value, seconds) in [("3600", 3600), ("30", 30)] {
        let plan = Plan::new().status(503).header("retry-after", value);
        let (mut service, _) = over(&RetryLayer::new(steady()), [plan]);
        let mut request = get();
        Deadline::after(5 * SECOND).tighten(&mut request);
        let response = send(&mut service, request).await.unwrap();
        let at = Retries::of(&response).unwrap().retry_at();
        assert_eq!(at, Some(Instant::now() + seconds * SECOND), "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_attempt_is_on_each_request_on_the_response_and_on_the_failure() {
    let (mut service, probe) =
        over(&RetryLayer::new(steady()), [Plan::new().status(503), Plan::new().status(502), Plan::new()]);
    let response = send(&mut service, get()).await.unwrap();
    let numbers = |attempt: Option<Attempt>| attempt.unwrap().number();
    let seen: Vec<_> = probe.requests().iter().map(|request| numbers(Attempt::of(request))).collect();
    assert_eq!(seen, [1, 2, 3]);
    assert_eq!(numbers(Attempt::of(&response)), 3);
    let retries = Retries::of(&response).unwrap();
    assert_eq!((retries.count(), retries.slept(), retries.gave_up()), (2, 3 * SECOND, None));

    // A failure: on the record that was asked for beforehand, and in the error if it knows its exchange.
    let dialing = tower::service_fn(|request: Request<outbound_retry::Replay<TestBody>>| async move {
        let exchange = Exchange::new();
        exchange.aim(Origin::of(request.uri())?, &request);
        Err::<Response<TestBody>, BoxError>(TransportError::new(Kind::Refused, &exchange).into())
    });
    let mut request = get();
    let retries = Retries::track(&mut request);
    let error = RetryLayer::new(steady()).layer(dialing).oneshot(request).await.unwrap_err();
    assert_eq!(numbers(Failure::of(&*error).attempt()), 3);
    assert_eq!((retries.count(), retries.gave_up()), (2, Some(GaveUp::Attempts)));
}

#[tokio::test(start_paused = true)]
async fn each_attempt_carries_the_call_but_has_a_record_of_its_own() {
    #[derive(Clone, PartialEq, Debug)]
    struct Foreign(u8);
    for foreign in [false, true] {
        let (mut service, probe) = over(&RetryLayer::new(steady()), [Plan::new().status(503), Plan::new()]);
        let mut request = get();
        request.headers_mut().append("x-a", "1".parse().unwrap());
        request.headers_mut().append("x-a", "2".parse().unwrap());
        let mut secret: http::HeaderValue = "s\u{e9}cret".parse().unwrap();
        secret.set_sensitive(true);
        request.headers_mut().insert("authorization", secret);
        *request.version_mut() = http::Version::HTTP_10;
        Deadline::after(9 * SECOND).tighten(&mut request);
        let first = Exchange::track(&mut request);
        if foreign {
            request.extensions_mut().insert(Foreign(7));
        }
        send(&mut service, request).await.unwrap();
        let seen = probe.requests();
        assert_eq!(seen[0].headers(), seen[1].headers());
        assert!(seen[1].headers()["authorization"].is_sensitive());
        assert_eq!((seen[0].uri(), seen[0].version()), (seen[1].uri(), seen[1].version()));
        assert_eq!(Deadline::of(&seen[0]), Deadline::of(&seen[1]));
        assert_eq!(seen[1].extensions().get::<Foreign>(), foreign.then_some(&Foreign(7)));
        assert!(Exchange::of(&seen[0]).is_some());
        assert!(Exchange::of(&seen[1]).is_none(), "the second makes its own");
        drop(first);
    }
}

#[tokio::test(start_paused = true)]
async fn the_failed_response_is_gone_before_the_wait() {
    for (name, body) in [
        ("empty", TestBody::new()),
        ("short", TestBody::new().data("sorry")),
        ("slow", TestBody::new().stall()),
        ("announced too long", TestBody::new().data(vec![0; 70_000])),
        ("unannounced too long", TestBody::new().endless("x")),
        ("empty frames without end", TestBody::new().endless("")),
        ("fails", TestBody::new().error("cut")),
    ] {
        let lives = Lives::new();
        let plan = Plan::new().status(503).body(body.counted(&lives));
        let (mut service, _) = over(&RetryLayer::new(steady()), [plan, Plan::new()]);
        let begun = Instant::now();
        let mut call = Box::pin(send(&mut service, get()));
        let drained = if name == "slow" { Duration::from_millis(50) } else { Duration::ZERO };
        let before = tokio::time::timeout(drained + Duration::from_millis(1), &mut call).await;
        assert!(before.is_err(), "{name}: it waits");
        // The body that the plan itself holds is the one that is left.
        assert_eq!(lives.alive(), 1, "{name}: nothing of the response is alive during the wait");
        call.await.unwrap();
        assert_eq!(begun.elapsed(), SECOND, "{name}: draining is part of the wait");
    }
}

#[tokio::test(start_paused = true)]
async fn draining_does_not_use_up_the_deadline() {
    let slow = Plan::new().status(503).body(TestBody::new().stall());
    let now = |outcome: &Outcome<'_>| match outcome.status() {
        Some(StatusCode::OK) => Decision::Stop,
        _ => Decision::Retry(Duration::ZERO),
    };
    for (name, total, took) in [("it does not fit", 50, 0), ("it fits", 51, 50)] {
        let (mut service, _) = over(&RetryLayer::new(now), [slow.clone(), Plan::new()]);
        let mut request = get();
        Deadline::after(Duration::from_millis(total)).tighten(&mut request);
        let begun = Instant::now();
        assert_eq!(send(&mut service, request).await.unwrap().status(), 200, "{name}");
        assert_eq!(begun.elapsed(), Duration::from_millis(took), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_limit_of_one_another_call_runs_during_the_backoff() {
    let (probe, _) = Probe::pair([Plan::new().status(503), Plan::new()]);
    let limited = tower::limit::ConcurrencyLimit::new(probe, 1);
    let retry = RetryLayer::new(steady()).layer(limited);
    let call = |service: Retry<tower::limit::ConcurrencyLimit<Probe>>| async move {
        let begun = Instant::now();
        let response = service.oneshot(get()).await.unwrap();
        (begun.elapsed(), response.status())
    };
    let first = tokio::spawn(call(retry.clone()));
    tokio::task::yield_now().await;
    let second = tokio::spawn(call(retry.clone()));
    assert_eq!(second.await.unwrap(), (Duration::ZERO, StatusCode::OK));
    assert_eq!(first.await.unwrap(), (SECOND, StatusCode::OK));
}

#[tokio::test(start_paused = true)]
async fn readiness_errors_are_returned_as_they_are() {
    let layer = RetryLayer::new(steady());
    let (mut service, probe) = over(&layer, [Plan::new().readiness_error("not ready")]);
    let error = send(&mut service, get()).await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Scripted("not ready")));
    assert_eq!(probe.counts().calls, 0);

    let (mut service, probe) =
        over(&layer, [Plan::new().status(503), Plan::new().readiness_error("not ready")]);
    let error = send(&mut service, get()).await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Scripted("not ready")), "the response is gone by then");
    assert_eq!(probe.counts().calls, 1);

    let plans = [Plan::new().error("broken"), Plan::new().readiness_error("not ready")];
    let (mut service, probe) = over(&layer, plans);
    let error = send(&mut service, get()).await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Scripted("broken")), "what the last attempt came to");
    assert_eq!(probe.counts().calls, 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_once_the_deadline_has_passed() {
    for (name, first) in [("response", Plan::new().status(503)), ("error", Plan::new().error("broken"))] {
        let gate = Gate::new("ready");
        let (service, probe) = over(&RetryLayer::new(steady()), [first, Plan::new().ready_at(&gate)]);
        let mut request = get();
        Deadline::after(2 * SECOND).tighten(&mut request);
        let call = tokio::spawn(service.oneshot(request));
        gate.arrived(1).await;
        tokio::time::advance(SECOND).await;
        gate.open();
        let error = call.await.unwrap().unwrap_err();
        let text = if name == "error" { "broken" } else { "timed out after 2 s waiting for its turn" };
        assert!(error.to_string().starts_with(text), "{name}: {error}");
        assert_eq!(probe.counts().calls, 1, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn errors_are_the_last_real_ones_unwrapped() {
    let plans = [Plan::new().status(503), Plan::new().error("one"), Plan::new().error("two")];
    let (mut service, _) = over(&RetryLayer::new(steady()), plans);
    let error = send(&mut service, get()).await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Scripted("two")));
    assert!(find::<Scripted>(&*error).is_some());
    assert_eq!(Failure::of(&*error).delivery(), Delivery::Maybe);
}

#[tokio::test(start_paused = true)]
async fn a_closure_is_a_policy_and_cannot_exceed_the_layer() {
    let eager = |_: &Outcome<'_>| Decision::Retry(Duration::ZERO);
    for (name, layer, sightings) in [
        ("attempts", RetryLayer::new(eager).max_attempts(attempts(7)).budget(Budget::off()), 7),
        ("one attempt", RetryLayer::new(eager).max_attempts(attempts(1)), 1),
        ("budget", RetryLayer::new(eager).max_attempts(attempts(1000)), 101),
    ] {
        let (mut service, probe) = over(&layer, [Plan::new()]);
        send(&mut service, get()).await.unwrap();
        assert_eq!(probe.counts().calls, sightings, "{name}");
    }
    let forever = RetryLayer::new(|_: &Outcome<'_>| Decision::Retry(Duration::MAX));
    let (mut service, probe) = over(&forever, [Plan::new().status(503)]);
    send(&mut service, get()).await.unwrap();
    assert_eq!(probe.counts().calls, 1, "a wait without end is not begun");
}

#[tokio::test(start_paused = true)]
async fn connect_is_not_retried() {
    let (mut service, probe) =
        over(&RetryLayer::new(steady()), [Plan::new().error_from(transport(Kind::Reset, 0))]);
    send(&mut service, request(Method::CONNECT, TestBody::new())).await.unwrap_err();
    assert_eq!(probe.counts().calls, 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_call_at_any_poll_gives_everything_back() {
    let plans = [
        Plan::new()
            .ready_after(1)
            .answers_after(2)
            .status(503)
            .body(TestBody::new().pending(2).data("sorry")),
        Plan::new().ready_after(2).answers_after(2),
    ];
    let (probe, handle) = Probe::pair(plans);
    let service = RetryLayer::new(steady()).layer(probe);
    let lives = Lives::new();
    let call = || {
        let mut service = service.clone();
        let body = TestBody::new().data("hello").counted(&lives);
        async move { send(&mut service, request(Method::PUT, body)).await.unwrap().status() }
    };
    cancel_at_each_poll(40, call, async |polls| {
        handle.assert_idle();
        assert_eq!(lives.alive(), 0, "the request's body, after {polls} polls");
        assert_eq!(handle.counts().services, 2, "the service and its spare, after {polls} polls");
    })
    .await
    .unwrap();
}

#[test]
fn what_can_be_sent_is_sent() {
    fn is<T: Send + Sync + Clone + std::fmt::Debug>() {}
    fn future<T: Send>(_: &T) {}
    is::<RetryLayer>();
    is::<Retry<Probe>>();
    let (probe, _) = Probe::pair([Plan::new()]);
    let waker = std::task::Waker::noop();
    let mut service = RetryLayer::default().layer(probe);
    let mut cx = std::task::Context::from_waker(waker);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _guard = runtime.enter();
    assert!(Service::<Request<TestBody>>::poll_ready(&mut service, &mut cx).is_ready());
    future(&service.call(get()));
}
