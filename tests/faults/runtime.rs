//! Pool, layers, runtime, clock.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use outbound::{Pool, TimeoutLayer, pool::connect::Tcp, timeout::Throughput};
use outbound_testkit::{Answer, Friendly, Hostile, Script, TestBody, handler};
use outbound_tests::{
    case::{Case, Row, Told, cited, tell},
    clock::in_steps,
    frames,
    stack::{Setup, in_short},
};
use tokio::time::Instant;
use tower::ServiceExt;

pub(crate) fn rows() -> Vec<Row> {
    [waiting(), going_away(), time(), retrying()].into_iter().flatten().collect()
}

fn waiting() -> Vec<Row> {
    vec![
        cited(
            "All connections in use",
            "those who wait are served in the order of their calls; a grant to one who has gone passes on",
            &[
                "outbound-pool::limits::waiters_are_served_in_the_order_of_their_calls",
                "outbound-pool::cancel::between_the_grant_and_its_poll_the_connection_goes_to_the_next",
                "outbound-limit::concurrency::a_grant_to_a_call_that_was_dropped_passes_on",
            ],
        ),
        cited(
            "Cancelled exactly between grant and poll",
            "connection, place and permit go to the next",
            &[
                "outbound-pool::slots::model::a_waiter_that_goes_while_it_is_handed_a_connection_passes_it_on",
                "outbound-limit::gate_model::a_grant_to_one_who_leaves_passes_on",
            ],
        ),
        cited(
            "10,000 wait, and all or every other one goes",
            "the rest keep their order; in the limit's line the work is counted, and linear",
            &[
                "outbound-pool::slots::model::ten_thousand_waiters_go_in_any_order_and_the_rest_stay_in_order",
                "outbound-limit::gate_work::leaving_is_linear_and_keeps_the_order_of_those_who_stay",
            ],
        ),
        cited(
            "A waker comes back while it is woken",
            "no deadlock: no lock is held",
            &[
                "outbound-pool::slots::model::a_waker_may_come_back_to_the_machine",
                "outbound-limit::gate_work::wakers_are_run_and_dropped_outside_the_lock",
            ],
        ),
        cited(
            "A dial fails while others wait",
            "the next one dials",
            &[
                "outbound-pool::cancel::a_dial_that_fails_wakes_the_next",
                "outbound-pool::slots::model::a_dial_that_fails_while_another_waits_wakes_it",
            ],
        ),
        cited(
            "A connection is dead when it is handed over",
            "who was handed it dials, and keeps the place in the queue",
            &["outbound-pool::stale::who_is_handed_a_dead_connection_is_still_the_first_in_the_queue"],
        ),
        cited(
            "A host at its limit, the pool not; and the reverse",
            "other hosts are not blocked, an idle connection makes room",
            &[
                "outbound-pool::slots::model::one_full_host_does_not_block_another",
                "outbound-pool::limits::several_hosts_at_the_total_cap_never_deadlock",
            ],
        ),
        Case::new("held_body", "A caller holds a body for ever")
            .paused()
            .play("the next call", held, "overloaded/queue/not_sent; told: held, returned")
            .into(),
        cited(
            "A caller forgets a body",
            "its permit is lost, and the guard says so",
            &["outbound-guard::leaks::what_is_forgotten_is_found"],
        ),
    ]
}

fn going_away() -> Vec<Row> {
    vec![
        cited(
            "`poll_ready` fails",
            "the error is returned as it is; nothing is retried or held",
            &[
                "outbound-retry::retry::readiness_errors_are_returned_as_they_are",
                "outbound-limit::concurrency::an_error_or_delay_in_getting_ready_holds_nothing",
                "outbound-timeout::contract::errors_of_the_service_pass_as_they_are",
            ],
        ),
        cited(
            "`poll_ready` is pending, then the service is dropped",
            "nothing is held",
            &["outbound-limit::concurrency::an_error_or_delay_in_getting_ready_holds_nothing"],
        ),
        cited(
            "A clone instead of the readied service",
            "the readied one is called",
            &[
                "outbound-timeout::contract::the_readied_service_is_the_one_called",
                "outbound-limit::concurrency::the_service_made_ready_is_the_one_called",
                "outbound-guard::contract::the_readied_service_is_the_one_called",
                "outbound-telemetry::contract::the_readied_service_is_the_one_called",
                "outbound-limit::rate::clones_share_and_the_readied_service_is_called",
                "outbound-limit::adaptive::the_readied_service_is_called_and_the_error_names_the_limit",
                "outbound-retry::retry::every_outcome_has_its_number_of_sightings",
                "outbound::calls::the_readied_service_is_called_and_none_before_it_is_polled",
            ],
        ),
        cited(
            "User code panics: connector, resolver, admission, policy, body, factory, callback, service",
            "it unwinds to its caller (over HTTP/1.1 a body's panic fails the request); all is given back",
            &[
                "outbound-pool::cancel::a_connector_that_panics_takes_only_its_caller_with_it",
                "tests::cancel::user_code_that_panics",
                "tests::cancel::a_policy_that_panics",
                "tests::cancel::a_factory_or_an_admission_that_panics",
                "tests::cancel::a_request_body_that_panics",
                "tests::cancel::a_request_body_that_panics_over_http2",
                "tests::cancel::a_callback_that_panics",
                "outbound-limit::concurrency::a_panic_gives_the_permit_back",
                "outbound-guard::contract::a_panic_inside_ends_the_call",
            ],
        ),
        cited(
            "The caller drops the call at any poll",
            "all gauges at zero, the next call succeeds",
            &[
                "tests::cancel::while_it_is_sent_and_answered",
                "tests::cancel::while_an_upload_goes_on",
                "tests::cancel::while_an_http2_stream_is_open",
                "tests::cancel::while_waiting_for_a_permit_or_a_connection",
                "tests::cancel::while_it_backs_off",
                "tests::cancel::on_the_way_to_a_good_end",
            ],
        ),
        cited(
            "The caller drops the body after any number of frames",
            "the permit is back at once, the connection is closed or drained, the stream reset",
            &[
                "tests::cancel::after_any_number_of_frames",
                "tests::cancel::after_any_number_of_frames_of_a_stream",
                "outbound-pool::lifetime::what_is_left_of_a_dropped_body_is_read_within_bounds",
            ],
        ),
        cited(
            "The pool is dropped, or closed, with connections, waiters and dials",
            "sockets closed, those who wait are told",
            &[
                "outbound-pool::limits::the_last_clone_takes_idle_connections_with_it_but_not_what_is_at_work",
                "outbound-pool::lifetime::a_closed_pool_serves_nobody_and_has_no_sockets",
                "outbound-pool::cancel::a_pool_that_goes_while_it_dials_closes_what_comes_of_it",
            ],
        ),
        cited(
            "The runtime ends in the middle of everything",
            "no panic",
            &["outbound-pool::cancel::a_runtime_that_ends_in_the_middle_of_everything_ends_quietly"],
        ),
    ]
}

fn time() -> Vec<Row> {
    vec![
        cited(
            "This runtime stands still for longer than a limit",
            "no false timeout: what has arrived wins, and the error says how late it was",
            &[
                "outbound-timeout::stall::a_stall_of_our_own_is_no_timeout_of_the_peer",
                "outbound-timeout::grace::a_late_timer_gives_as_long_again",
                "outbound-pool::stale::a_close_that_has_not_been_seen_is_found_by_asking_the_socket",
            ],
        ),
        cited(
            "The wall clock jumps",
            "it is read for dates in Retry-After, clamped; and for how long a connection was idle while the machine slept: forward a new \
             connection, back nothing",
            &[
                "outbound-retry::retry_after::values",
                "outbound-retry::retry_after::nothing_panics",
                "outbound-pool::slots::model::what_was_idle_for_too_long_by_the_wall_clock_is_not_used_again",
            ],
        ),
        Case::new("no_limits", "Every limit at the most that a duration can be")
            .play("HTTP/1.1", || no_limits(false), "503 → 200; 2 seen; kept")
            .play("HTTP/2", || no_limits(true), "200; 1 seen; kept")
            .into(),
    ]
}

fn retrying() -> Vec<Row> {
    let busy = |after: &str| Script::new().exchange(Answer::new(503, "busy").header("retry-after", after));
    let served =
        move |after: &'static str| busy(after).forever(Script::new().exchange(Answer::new(200, "ok")));
    let row = |name, row, after: &'static str, expected| {
        Case::new(name, row).paused().play("", move || asked_to_wait(served(after), 600), expected).into()
    };
    let values = &["outbound-retry::retry_after::values"];
    vec![
        row("retry_after", "Retry-After: 20", "20", "503 → 200; 2 seen; kept; 20 s"),
        row("retry_after_above_cap", "Retry-After: 120, above the cap", "120", "503; 1 seen; kept; 0 s"),
        Case::new("retry_after_deadline", "Retry-After: 20, the deadline is in 10 s")
            .paused()
            .play("", move || asked_to_wait(served("20"), 10), "503; 1 seen; kept; 0 s")
            .into(),
        row("retry_after_zero", "Retry-After: 0", "0", "503 → 200; 2 seen; kept; 0 s"),
        row("retry_after_past", "Retry-After: a date that has passed", PAST, "503 → 200; 2 seen; kept; 0 s"),
        row("retry_after_garbage", "Retry-After: 1.5", "1.5", "503 → 200; 2 seen; kept; 0 s"),
        row(
            "retry_after_overflow",
            "Retry-After: 99999999999999999999",
            "99999999999999999999",
            "503; 1 seen; kept; 0 s",
        ),
        cited(
            "Retry-After: `-1`, `+5`, `1e3`, empty, `abc`, other digits, two fields",
            "as if it were not there; of two fields the first that is valid",
            values,
        ),
        cited(
            "Retry-After: the three forms of a date; leap seconds; 2038; 9999",
            "GMT, no panic, above the cap",
            values,
        ),
        cited(
            "Retry-After on 200 or 404",
            "passed over",
            &["outbound-retry::retry::every_outcome_has_its_number_of_sightings"],
        ),
        cited(
            "A body that cannot be sent again",
            "the first outcome is the result, untouched",
            &["outbound-retry::replay::a_body_that_cannot_be_sent_again_leaves_the_outcome_untouched"],
        ),
        cited(
            "More of a body than is kept",
            "the attempt goes on, what was kept is freed, the first outcome is the result",
            &[
                "outbound-retry::replay::over_the_cap_the_attempt_goes_on_and_the_first_outcome_is_the_result",
                "outbound-retry::replay::what_was_kept_is_freed_over_the_cap_and_at_the_end",
            ],
        ),
        Case::new("early_503", "503 while the body is still being sent")
            .play("PUT", early_503, "503 → 200; 2 seen; closed; whole the second time")
            .into(),
        cited(
            "A failed response before the wait",
            "drained or dropped: neither permit nor connection is held",
            &[
                "outbound-retry::retry::the_failed_response_is_gone_before_the_wait",
                "tests::stack::with_one_permit_and_one_connection_another_call_runs_while_the_first_backs_off",
            ],
        ),
        Case::new("storm", "Every answer is 503: 1,000 calls in a second")
            .paused()
            .play(
                "",
                storm,
                "every call answered; retries: 20 % of the calls and 10 a second, with 10 seconds in stock",
            )
            .into(),
        cited(
            "A wait beyond the deadline",
            "the last real response or error, at once",
            &[
                "outbound-retry::retry::nothing_waits_past_the_deadline",
                "outbound-retry::retry::errors_are_the_last_real_ones_unwrapped",
            ],
        ),
    ]
}

/// One permit, and who has it does not read: the next one waits as long as the deadline lets it.
async fn held() -> Told {
    let upstream = Friendly::new(handler::hello).start();
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = told.clone();
    let setup = Setup { permits: 1, leaks: &["held", "returned"], ..Setup::default() };
    let tell =
        move |leak: &outbound::guard::Leak| heard.lock().expect("nobody panics with it").push(leak.kind());
    let stack = setup.told_with(tell, Tcp::new());
    let request = || stack.request(Method::GET, upstream.uri("/"), TestBody::new());
    let (first, next) = (stack.client.clone(), stack.client.clone());
    let line = in_steps(Duration::from_secs(1), async {
        let held = first.oneshot(request()).await.expect("a response");
        let error = next.oneshot(request()).await.map(drop).expect_err("no permit");
        // Its own deadline has passed meanwhile.
        let _ = held.into_body().collect().await;
        in_short(&error)
    })
    .await;
    let nothing = stack.leaves_nothing(vec![upstream]).await;
    Told::after(line, nothing)
        .and(format_args!("told: {}", told.lock().expect("nobody panics with it").join(", ")))
}

/// Over HTTP/1.1 with a response that is drained and a wait; HTTP/2 has limits of its own.
async fn no_limits(http2: bool) -> Told {
    let most = Duration::MAX;
    let busy = Script::new().exchange(Answer::new(503, "busy")).exchange(Answer::new(200, "hello"));
    let upstream = Hostile::new(if http2 { frames::hello() } else { busy }).start();
    let pool = Pool::builder()
        .acquire_timeout(most)
        .resolve_timeout(most)
        .connect_timeout(most)
        .tls_timeout(most)
        .idle_timeout(most)
        .park_after(most)
        .max_lifetime(most)
        .drain(u64::MAX, most)
        .http2_handshake_timeout(most)
        .http2_keep_alive(most)
        .http2_ping_timeout(most);
    let throughput = Throughput::new(1, most).expect("a window").grace(most);
    let timeout = TimeoutLayer::new(most).read_idle(most).write_idle(most).throughput(throughput);
    let stack =
        Setup { deadline: most, timeout, pool, http2, at_most: true, ..Setup::default() }.over(Tcp::new());
    let line = stack.call(stack.request(Method::GET, upstream.uri("/"), TestBody::new())).await;
    tell(line, stack, upstream).await
}

async fn asked_to_wait(script: Script, deadline: u64) -> Told {
    let upstream = Hostile::new(script).start();
    let deadline = Duration::from_secs(deadline);
    let stack = Setup { deadline, ..Setup::default() }.over(Tcp::new());
    let begun = Instant::now();
    let line = in_steps(Duration::from_secs(1), async {
        let line = stack.call(stack.request(Method::GET, upstream.uri("/"), TestBody::new())).await;
        (line, begun.elapsed())
    });
    let (line, took) = line.await;
    // What takes a step takes at most two for its sockets.
    let took = took.as_secs() / 5 * 5;
    tell(line, stack, upstream).await.and(format_args!("{took} s"))
}

async fn early_503() -> Told {
    let script = Script::new().read_head().answer(503, "busy");
    let ok = Script::new().forever(Script::new().exchange(Answer::new(200, "ok")));
    let upstream = Hostile::new(script).then(ok).start();
    let stack = Setup::default().over(Tcp::new());
    let body = ["first ", "second ", "third"]
        .into_iter()
        .fold(TestBody::new(), |body, chunk| body.data(chunk).delay(Duration::from_millis(2)));
    let line = stack.call(stack.request(Method::PUT, upstream.uri("/"), body)).await;
    let whole = upstream.requests(1).await.into_iter().any(|request| request.body == b"first second third");
    tell(line, stack, upstream).await.and(if whole { "whole the second time" } else { "not whole" })
}

/// Retries ≤ calls × 20 % + 10/s × (time + window of 10 s).
async fn storm() -> Told {
    const CALLS: usize = 1_000;
    let busy = Script::new().forever(Script::new().exchange(Answer::new(503, Bytes::new())));
    let upstream = Hostile::new(busy).start();
    let stack = Setup::default().over(Tcp::new());
    let begun = Instant::now();
    let calls = async { (at_once(&stack, &upstream, CALLS).await, begun.elapsed()) };
    let (answers, took) = in_steps(Duration::from_millis(2), calls).await;
    assert_eq!(answers, CALLS);
    let retries = upstream.sightings().requests.len() - CALLS;
    let most = CALLS / 5 + (10.0 * (took.as_secs_f64() + 10.0)) as usize;
    let nothing = stack.leaves_nothing(vec![upstream]).await;
    let line = match retries {
        0 => "no retry".to_owned(),
        n if n > most => format!("{n} retries, of {most} at most"),
        _ => "every call answered; retries: 20 % of the calls and 10 a second, with 10 seconds in stock"
            .to_owned(),
    };
    Told::after(line, nothing)
}

/// In eight lines at once, within a second of the clock; how many were answered.
async fn at_once(
    stack: &outbound_tests::stack::Stack,
    upstream: &outbound_testkit::Upstream,
    calls: usize,
) -> usize {
    let lines: Vec<_> = (0..8)
        .map(|_| {
            let requests: Vec<_> = (0..calls / 8)
                .map(|_| stack.request(Method::GET, upstream.uri("/"), TestBody::new()))
                .collect();
            let client = stack.client.clone();
            tokio::spawn(async move {
                let mut answers = 0;
                for request in requests {
                    let response = client.clone().oneshot(request).await.expect("an answer");
                    answers += usize::from(response.status() == 503);
                    drop(response.into_body().collect().await);
                }
                answers
            })
        })
        .collect();
    let mut answers = 0;
    for line in lines {
        answers += line.await.expect("no panic");
    }
    answers
}

const PAST: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
