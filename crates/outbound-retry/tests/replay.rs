//! The request body, over attempts that read all of it, a part, or nothing.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use outbound_core::{BoxError, GaveUp, Retries};
use outbound_retry::{Backoff, BodyFactory, Replay, RetryLayer, Standard};
use outbound_testkit::{Gate, Lives, Plan, Probe, TestBody, assert_body_contract};
use tokio::sync::mpsc;
use tower::{Layer, ServiceExt};

type Attempt = (Request<Replay<TestBody>>, tokio::sync::oneshot::Sender<u16>);

fn eager() -> Standard {
    Standard::default().backoff(Backoff::new(Duration::ZERO, Duration::ZERO).unwrap())
}

fn put(body: TestBody) -> Request<TestBody> {
    Request::put("http://example.com/").body(body).unwrap()
}

/// A service that hands each request to the test, which answers when it likes and may keep the body: as a connection task does.
fn by_hand() -> (
    impl tower::Service<Request<Replay<TestBody>>, Response = Response<TestBody>, Error = BoxError, Future: Send>
    + Clone,
    mpsc::UnboundedReceiver<Attempt>,
) {
    let (attempts, received) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request| {
        let attempts = attempts.clone();
        async move {
            let (answer, answered) = tokio::sync::oneshot::channel();
            attempts.send((request, answer)).map_err(|_| "the test is over")?;
            Ok::<_, BoxError>(Response::builder().status(answered.await?).body(TestBody::new())?)
        }
    });
    (service, received)
}

async fn read(body: &mut Replay<TestBody>, frames: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..frames {
        let frame = body.frame().await.expect("a frame").expect("no error");
        bytes.extend(frame.into_data().unwrap_or_default());
    }
    bytes
}

fn poll(body: &mut Replay<TestBody>) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
    pin!(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn it_is_the_body_it_wraps() {
    // Each body is taken out of its request: at the first attempt, at the second, or when the call has gone.
    for taken in [1, 2, 0] {
        assert_body_contract(move |body| {
            let (service, mut received) = by_hand();
            let mut call = Box::pin(RetryLayer::new(eager()).layer(service).oneshot(put(body)));
            let mut cx = Context::from_waker(Waker::noop());
            let mut next = || {
                assert!(call.as_mut().poll(&mut cx).is_pending());
                received.try_recv().expect("an attempt")
            };
            let (mut request, answer) = next();
            if taken == 2 {
                answer.send(503).unwrap();
                request = next().0;
            }
            Holding(request.into_body(), (taken > 0).then_some(call as Pin<Box<dyn Send>>))
        })
        .await;
    }
}

/// A body, and the call that it is of.
struct Holding(Replay<TestBody>, #[expect(dead_code, reason = "held")] Option<Pin<Box<dyn Send>>>);

impl Body for Holding {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}

/// Attempts of one PUT: each reads so many frames and then fails; how many attempts, and what the last one read.
async fn run(layer: &RetryLayer, body: TestBody, frames: &[usize]) -> (usize, Vec<u8>, Retries) {
    let (service, mut received) = by_hand();
    let mut request = put(body);
    let retries = Retries::track(&mut request);
    let call = tokio::spawn(layer.layer(service).oneshot(request));
    let (mut attempts, mut last) = (0, Vec::new());
    for &frames in frames {
        let Some((request, answer)) = received.recv().await else { break };
        let mut body = request.into_body();
        (attempts, last) = (attempts + 1, read(&mut body, frames).await);
        answer.send(503).unwrap();
    }
    drop(received);
    let _ = call.await.unwrap();
    (attempts, last, retries)
}

#[tokio::test(start_paused = true)]
async fn every_attempt_gets_the_whole_body() {
    let layer = RetryLayer::new(eager());
    let body = || TestBody::new().data("ab").data("cd").data("ef");
    for (name, frames, resent) in [
        ("nothing read before", [0, 0, 3], 6),
        ("a part read before", [1, 0, 3], 6),
        ("the replay itself was cut off", [2, 1, 3], 2 + 6),
        ("more read each time", [1, 2, 3], 4 + 6),
        ("all read each time", [3, 3, 3], 6 + 6),
    ] {
        let (attempts, last, retries) = run(&layer, body(), &frames).await;
        assert_eq!((attempts, last.as_slice()), (3, b"abcdef".as_slice()), "{name}");
        assert_eq!(retries.resent(), resent, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn length_and_trailers_are_the_same_in_each_attempt() {
    let (service, mut received) = by_hand();
    let body = TestBody::new().data("ab").data("cd").trailer("x-sum", "4");
    tokio::spawn(RetryLayer::new(eager()).layer(service).oneshot(put(body)));
    for _ in 0..3 {
        let (request, answer) = received.recv().await.unwrap();
        let body = request.into_body();
        assert_eq!(body.size_hint().exact(), Some(4));
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-sum"], "4");
        assert_eq!(collected.to_bytes(), "abcd");
        answer.send(503).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn chunks_are_shared_not_copied() {
    let (service, mut received) = by_hand();
    let chunk = Bytes::from(vec![7; 1000]);
    tokio::spawn(RetryLayer::new(eager()).layer(service).oneshot(put(TestBody::new().data(chunk.clone()))));
    for _ in 0..2 {
        let (request, answer) = received.recv().await.unwrap();
        let data = request.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data.as_ptr(), chunk.as_ptr());
        answer.send(503).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn over_the_cap_the_attempt_goes_on_and_the_first_outcome_is_the_result() {
    let layer = RetryLayer::new(eager()).replay_limit(4);
    for (name, body, frames, attempts) in [
        ("at the cap", TestBody::new().data("ab").data("cd").unsized_hint(), 2, 2),
        ("over it", TestBody::new().data("ab").data("cd").data("e").unsized_hint(), 3, 1),
        ("over it, not read so far", TestBody::new().data("ab").data("cd").data("e").unsized_hint(), 2, 2),
        ("announced over it", TestBody::new().data("ab").data("cd").data("e"), 3, 1),
        ("announced over it, a part read", TestBody::new().data("ab").data("cd").data("e"), 1, 1),
        ("announced over it, untouched", TestBody::new().data("ab").data("cd").data("e"), 0, 2),
    ] {
        let (made, _, retries) = run(&layer, body, &[frames, 0]).await;
        assert_eq!(made, attempts, "{name}");
        if attempts == 1 {
            assert_eq!(retries.gave_up(), Some(GaveUp::Body), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_cannot_be_sent_again_leaves_the_outcome_untouched() {
    let answer = Plan::new().status(503).reads_body().header("x-a", "1").body(TestBody::from("sorry"));
    let (probe, handle) = Probe::pair([answer]);
    let layer = RetryLayer::new(eager()).replay_limit(4);
    let response = layer.layer(probe).oneshot(put(TestBody::from("hello"))).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["x-a"]), (503, &"1".parse().unwrap()));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "sorry");
    assert_eq!(handle.requests().len(), 1);
    assert_eq!(handle.requests()[0].body(), "hello", "sent once, and whole");
}

#[tokio::test(start_paused = true)]
async fn the_sum_over_all_requests_is_capped_and_given_back() {
    let layer = RetryLayer::new(eager()).replay_limit_total(6);
    let (service, mut received) = by_hand();
    let service = layer.layer(service);
    let body = || TestBody::new().data("abcd").unsized_hint();
    let _one = tokio::spawn(service.clone().oneshot(put(body())));
    let (first, hold) = received.recv().await.unwrap();
    read(&mut first.into_body(), 1).await;
    // Four of six bytes are taken: the second call is not kept.
    assert_eq!(run(&layer, body(), &[1, 1]).await.0, 1);
    hold.send(200).unwrap();
    _one.await.unwrap().unwrap();
    assert_eq!(run(&layer, body(), &[1, 1]).await.0, 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_kept_is_freed_over_the_cap_and_at_the_end() {
    let kept = Bytes::from(vec![1; 4]);
    for (name, limit, ends) in [("over the cap", 4, false), ("at the end", 64, true)] {
        let (service, mut received) = by_hand();
        let body = TestBody::new().data(kept.clone()).data("e").stall();
        let layer = RetryLayer::new(eager()).replay_limit(limit);
        let call = tokio::spawn(layer.layer(service).oneshot(put(body)));
        let (request, answer) = received.recv().await.unwrap();
        let mut body = request.into_body();
        read(&mut body, 2).await;
        if ends {
            assert!(!kept.is_unique(), "{name}: it was kept");
            answer.send(200).unwrap();
            call.await.unwrap().unwrap();
        }
        assert!(kept.is_unique(), "{name}");
        drop(body);
    }
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_stops_the_upload_and_the_next_attempt_goes_on_from_there() {
    let gate = Gate::new("second chunk");
    let body = TestBody::new().data("ab").wait(&gate).data("cd");
    let (service, mut received) = by_hand();
    tokio::spawn(RetryLayer::new(eager()).layer(service).oneshot(put(body)));
    let (request, answer) = received.recv().await.unwrap();
    let mut first = request.into_body();
    read(&mut first, 1).await;
    let upload = tokio::spawn(async move { first.frame().await }); // it waits for the second chunk
    gate.arrived(1).await;
    answer.send(503).unwrap();
    let (request, _answer) = received.recv().await.unwrap();
    let stopped = upload.await.unwrap().unwrap().unwrap_err();
    assert_eq!(stopped.to_string(), "this attempt was given up: its request body went on to the next one");
    let mut second = request.into_body();
    let rest = tokio::spawn(async move { read(&mut second, 2).await });
    gate.open();
    assert_eq!(rest.await.unwrap(), b"abcd");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_or_panics_is_not_sent_again() {
    let layer = RetryLayer::new(eager());
    let (service, mut received) = by_hand();
    let call = tokio::spawn(layer.layer(service).oneshot(put(TestBody::new().data("ab").error("broken"))));
    let (request, answer) = received.recv().await.unwrap();
    let mut body = request.into_body();
    read(&mut body, 1).await;
    assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), "broken");
    answer.send(503).unwrap();
    let response = call.await.unwrap().unwrap();
    assert_eq!(Retries::of(&response).unwrap().gave_up(), Some(GaveUp::Body));

    let (service, mut received) = by_hand();
    let call = tokio::spawn(layer.layer(service).oneshot(put(TestBody::new().data("ab").panic())));
    let (request, answer) = received.recv().await.unwrap();
    let mut body = request.into_body();
    let _ = tokio::spawn(async move { read(&mut body, 2).await }).await.unwrap_err();
    answer.send(503).unwrap();
    let response = call.await.unwrap().unwrap();
    assert_eq!(Retries::of(&response).unwrap().gave_up(), Some(GaveUp::Body));
}

/// The first attempt's turn fails after the second has begun: the second must not take that for the end.
#[tokio::test(start_paused = true)]
async fn a_failure_that_an_abandoned_attempt_meets_is_seen_by_the_next() {
    let (entered, leave) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let body = Blocking { entered: entered.0, leave: leave.1.into(), frames: 0 };
    let (attempts, mut received) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: Request<Replay<Blocking>>| {
        let (answer, answered) = tokio::sync::oneshot::channel();
        attempts.send((request, answer)).unwrap();
        async move { Ok::<_, BoxError>(Response::builder().status(answered.await?).body(TestBody::new())?) }
    });
    let request = Request::put("http://example.com/").body(body).unwrap();
    tokio::spawn(RetryLayer::new(eager()).layer(service).oneshot(request));
    let (request, answer) = received.recv().await.unwrap();
    let mut first = request.into_body();
    first.frame().await.unwrap().unwrap();
    let turn = std::thread::spawn(move || {
        pin!(first)
            .poll_frame(&mut Context::from_waker(Waker::noop()))
            .map(|frame| frame.unwrap().unwrap_err())
    });
    entered.1.recv().unwrap();
    answer.send(503).unwrap();
    let mut second = received.recv().await.unwrap().0.into_body();
    assert_eq!(second.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
    assert!(pin!(&mut second).poll_frame(&mut Context::from_waker(Waker::noop())).is_pending(), "busy");
    leave.0.send(()).unwrap();
    assert!(turn.join().unwrap().is_ready(), "the first is stopped");
    let lost = second.frame().await.unwrap().unwrap_err();
    assert_eq!(lost.to_string(), "the request body failed in an earlier attempt, and cannot be read again");
}

/// Gives one frame; then stays in its next poll until it may leave, and fails.
struct Blocking {
    entered: std::sync::mpsc::Sender<()>,
    leave: std::sync::Mutex<std::sync::mpsc::Receiver<()>>,
    frames: u8,
}

impl Body for Blocking {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        self.frames += 1;
        if self.frames == 1 {
            return Poll::Ready(Some(Ok(http_body::Frame::data("ab".into()))));
        }
        self.entered.send(()).unwrap();
        self.leave.lock().unwrap().recv().unwrap();
        Poll::Ready(Some(Err("broken".into())))
    }
}

#[tokio::test(start_paused = true)]
async fn a_factory_makes_the_body_again_whatever_its_size() {
    let lives = Lives::new();
    let made = lives.clone();
    let body = move || TestBody::new().data("ab").data("cd").counted(&made);
    let (service, mut received) = by_hand();
    let mut request = put(body());
    BodyFactory::new(body).attach(&mut request);
    let layer = RetryLayer::new(eager()).replay_limit(0);
    tokio::spawn(layer.layer(service).oneshot(request));
    for (attempt, frames) in [(1, 1), (2, 2), (3, 2)] {
        let (request, answer) = received.recv().await.unwrap();
        let mut body = request.into_body();
        assert_eq!(body.size_hint().exact(), Some(4), "attempt {attempt}");
        assert_eq!(read(&mut body, frames).await, &b"abcd"[..2 * frames], "attempt {attempt}");
        answer.send(503).unwrap();
        if attempt < 3 {
            assert!(matches!(poll(&mut body), Poll::Ready(_)), "attempt {attempt} is over");
        }
        drop(body);
    }
    assert_eq!(lives.total(), 3);
}
