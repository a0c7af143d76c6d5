//! The probe does what its plan says, counts everything, and catches a layer that breaks the contract.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::Request;
use http_body_util::BodyExt;
use outbound_testkit::{Gate, Lives, Plan, Probe, ProbeFuture, Scripted, TestBody};
use tokio::time::Instant;
use tower_service::Service;

fn request() -> Request<TestBody> {
    Request::new(TestBody::new())
}

fn poll_ready(probe: &mut Probe) -> Poll<Result<(), String>> {
    let mut cx = Context::from_waker(Waker::noop());
    Service::<Request<TestBody>>::poll_ready(probe, &mut cx).map_err(|error| error.to_string())
}

fn call(probe: &mut Probe) -> ProbeFuture<TestBody> {
    assert_eq!(poll_ready(probe), Poll::Ready(Ok(())));
    probe.call(request())
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// What the panic said.
fn panics(run: impl FnOnce()) -> &'static str {
    let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
    panic.downcast_ref::<&str>().copied().expect("a panic with a literal")
}

// === The contract ===

#[test]
fn panics_when_called_unready() {
    let unready = "the service was called without having been made ready";
    let (mut probe, _handle) = Probe::pair([Plan::new()]);
    assert_eq!(panics(|| drop(probe.call(request()))), unready);
    // Readiness is used up by the call.
    drop(call(&mut probe));
    assert_eq!(panics(|| drop(probe.call(request()))), unready);
    // A clone of a ready service is not ready.
    assert!(poll_ready(&mut probe).is_ready());
    assert_eq!(panics(|| drop(probe.clone().call(request()))), unready);
    drop(probe.call(request()));
}

#[test]
fn panics_when_called_while_pending() {
    let (mut probe, _handle) = Probe::pair([Plan::new().ready_after(1)]);
    assert!(poll_ready(&mut probe).is_pending());
    assert_eq!(
        panics(|| drop(probe.call(request()))),
        "the service was called without having been made ready"
    );
}

#[test]
fn panics_when_polled_after_the_answer() {
    let (mut probe, _handle) = Probe::pair([Plan::new()]);
    let mut future = pin!(call(&mut probe));
    assert!(poll_once(future.as_mut()).is_ready());
    assert_eq!(
        panics(|| drop(poll_once(future.as_mut()))),
        "the response future was polled after it was done"
    );
}

// === Plans ===

#[test]
fn readiness_goes_by_plan() {
    let (mut probe, handle) = Probe::pair([
        Plan::new().ready_after(2),
        Plan::new().readiness_error("broken"),
        Plan::new().readiness_panic(),
        Plan::new().never_ready(),
    ]);
    assert_eq!(poll_ready(&mut probe), Poll::Pending);
    assert_eq!(poll_ready(&mut probe), Poll::Pending);
    assert_eq!(poll_ready(&mut probe), Poll::Ready(Ok(())));
    assert_eq!(poll_ready(&mut probe), Poll::Ready(Ok(())));
    drop(probe.call(request()));
    assert_eq!(poll_ready(&mut probe), Poll::Ready(Err("broken".into())));
    assert_eq!(panics(|| drop(poll_ready(&mut probe))), "the service was told to panic in poll_ready");
    for _ in 0..9 {
        assert_eq!(poll_ready(&mut probe), Poll::Pending);
    }
    assert_eq!(handle.counts().readiness_polls, 15);
    assert_eq!(handle.counts().readied, 1);
}

#[tokio::test]
async fn pending_readiness_wakes() {
    let gate = Gate::new("ready");
    let (mut probe, _handle) = Probe::pair([Plan::new().ready_after(3).ready_at(&gate)]);
    gate.let_one_through();
    let ready = poll_fn(|cx| Service::<Request<TestBody>>::poll_ready(&mut probe, cx));
    ready.await.unwrap();
}

#[test]
fn calls_and_futures_panic_by_plan() {
    let (mut probe, handle) = Probe::pair([Plan::new().call_panic(), Plan::new().future_panic()]);
    assert_eq!(panics(|| drop(call(&mut probe))), "the service was told to panic in call");
    let mut future = Box::pin(call(&mut probe));
    assert_eq!(panics(|| drop(poll_once(future.as_mut()))), "the response future was told to panic");
    drop(future);
    handle.assert_idle();
    assert_eq!(handle.counts().calls, 2);
}

#[test]
fn answers_after_so_many_polls() {
    let (mut probe, _handle) = Probe::pair([Plan::new().answers_after(2)]);
    let mut future = pin!(call(&mut probe));
    assert!(poll_once(future.as_mut()).is_pending());
    assert!(poll_once(future.as_mut()).is_pending());
    assert!(poll_once(future.as_mut()).is_ready());
}

#[tokio::test(start_paused = true)]
async fn answers_on_time_and_as_told() {
    let gate = Gate::new("answer");
    gate.open();
    let body = TestBody::new().data("hel").data("lo").trailer("x-t", "1");
    let plan = Plan::new()
        .answers_after(2)
        .delay(Duration::from_millis(300))
        .wait(&gate)
        .status(429)
        .header("retry-after", "3")
        .body(body);
    let (mut probe, handle) = Probe::pair([plan, Plan::new().error("broken")]);
    let start = Instant::now();
    let response = call(&mut probe).await.unwrap();
    assert_eq!(start.elapsed().as_millis(), 300);
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "3");
    let read = response.into_body().collect().await.unwrap();
    assert_eq!(read.trailers().unwrap()["x-t"], "1");
    assert_eq!(read.to_bytes(), "hello");

    let error = call(&mut probe).await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Scripted("broken")));
    assert_eq!(gate.waiting(), 0);
    handle.assert_idle();
}

#[tokio::test]
async fn errors_are_the_ones_asked_for() {
    let plan = Plan::new().error_from(|| std::io::Error::from(std::io::ErrorKind::BrokenPipe));
    let (mut probe, _handle) = Probe::pair([plan]);
    let error = call(&mut probe).await.unwrap_err().downcast::<std::io::Error>().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test(start_paused = true)]
async fn never_answers() {
    let (mut probe, _handle) = Probe::pair([Plan::new().never_answers()]);
    tokio::time::timeout(Duration::from_secs(3600), call(&mut probe)).await.unwrap_err();
}

#[tokio::test]
async fn reads_as_much_of_the_request_as_told() {
    let body = || TestBody::new().data("a").data("b").data("c");
    let (mut probe, handle) = Probe::pair([
        Plan::new(),
        Plan::new().reads_frames(2),
        Plan::new().reads_body(),
        Plan::new().reads_body(),
    ]);
    for body in [body(), body(), body(), body().error("upload broke")] {
        assert!(poll_ready(&mut probe).is_ready());
        let answered = probe.call(Request::put("/up").body(body).unwrap()).await;
        drop(answered);
    }
    let requests = handle.requests();
    let bodies: Vec<_> = requests.iter().map(|request| request.body().as_ref()).collect();
    assert_eq!(bodies, [&b""[..], b"ab", b"abc", b"abc"]);
    assert!(requests.iter().all(|request| request.uri() == "/up"));
}

#[tokio::test]
async fn the_request_is_held_until_the_future_is_dropped() {
    let lives = Lives::new();
    let (mut probe, _handle) = Probe::pair([Plan::new().never_answers()]);
    assert!(poll_ready(&mut probe).is_ready());
    let future = probe.call(Request::new(TestBody::new().counted(&lives)));
    assert_eq!(lives.alive(), 1);
    drop(future);
    assert_eq!(lives.alive(), 0);
}

#[test]
fn a_plan_not_called_goes_to_the_next_service() {
    let (probe, _handle) =
        Probe::pair([Plan::new().readiness_error("first"), Plan::new().ready_after(1), Plan::new()]);
    let mut services = [probe.clone(), probe.clone(), probe];
    assert_eq!(poll_ready(&mut services[0]), Poll::Ready(Err("first".into())));
    // The second plan waits in one service, which is dropped: it is the next one's.
    assert!(poll_ready(&mut services[1]).is_pending());
    let [_, second, mut third] = services;
    drop(second);
    assert!(poll_ready(&mut third).is_pending());
    assert!(poll_ready(&mut third).is_ready());
}

// === Counts ===

#[tokio::test]
async fn counts_what_is_alive() {
    let (mut probe, handle) = Probe::pair([Plan::new().body("hello")]);
    let mut clone = probe.clone();
    assert_eq!(handle.counts().services, 2);

    let first = call(&mut probe);
    let second = call(&mut clone);
    assert_eq!((handle.counts().calls, handle.counts().futures), (2, 2));
    handle.called(2).await;
    drop(first);
    assert_eq!((handle.counts().cancelled, handle.counts().futures), (1, 1));
    let response = second.await.unwrap();
    assert_eq!((handle.counts().futures, handle.counts().bodies), (0, 1));
    catch_unwind(AssertUnwindSafe(|| handle.assert_idle())).unwrap_err();
    drop(response);
    handle.assert_idle();

    assert!(poll_ready(&mut clone).is_ready());
    drop(clone);
    let counts = handle.counts();
    assert_eq!((counts.services, counts.readied, counts.readied_not_called), (1, 3, 1));
    assert_eq!(counts.cancelled, 1);
    drop(probe);
    assert_eq!(handle.counts().services, 0);
}

#[test]
fn parts_are_send() {
    fn send<T: Send>(_: T) {}
    let (mut probe, handle) = Probe::pair([Plan::new()]);
    send(call(&mut probe));
    send(probe);
    send(handle);
}
