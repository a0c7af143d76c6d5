//! Scripted bodies, and the contract that catches a bad wrapper.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use outbound_testkit::{Gate, Lives, Scripted, TestBody, assert_body_contract};
use tokio::time::Instant;

type Polled = Poll<Option<Result<Frame<Bytes>, Scripted>>>;

fn poll(body: &mut TestBody) -> Polled {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// A short name for what a poll gave.
fn say(polled: Polled) -> String {
    match polled {
        Poll::Pending => "pending".into(),
        Poll::Ready(None) => "end".into(),
        Poll::Ready(Some(Err(error))) => format!("error {error}"),
        Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
            Ok(data) => String::from_utf8(data.to_vec()).unwrap(),
            Err(frame) => format!("{:?}", frame.into_trailers().unwrap()),
        },
    }
}

// === TestBody ===

#[test]
fn frames_come_in_order() {
    let cases: [(&str, TestBody, &[&str]); 8] = [
        ("empty", TestBody::new(), &["end", "end"]),
        ("frames", TestBody::new().data("a").data("b"), &["a", "b", "end", "end"]),
        (
            "trailers",
            TestBody::from("a").trailer("x", "1").trailer("y", "2"),
            &["a", r#"{"x": "1", "y": "2"}"#, "end"],
        ),
        ("pending", TestBody::new().pending(2).data("a"), &["pending", "pending", "a", "end"]),
        ("error", TestBody::from("a").error("broken").data("b"), &["a", "error broken", "end"]),
        ("stall", TestBody::from("a").stall(), &["a", "pending", "pending", "pending"]),
        ("endless", TestBody::new().endless("a"), &["a", "a", "a", "a"]),
        ("empty frame", TestBody::new().data("").data("a"), &["", "a", "end"]),
    ];
    for (name, mut body, expected) in cases {
        for (at, expected) in expected.iter().enumerate() {
            assert_eq!(say(poll(&mut body)), *expected, "{name}, poll {at}");
        }
    }
}

#[test]
#[should_panic = "the body was told to panic"]
fn panics_when_told() {
    let mut body = TestBody::from("a").panic();
    assert_eq!(say(poll(&mut body)), "a");
    drop(poll(&mut body));
}

#[tokio::test(start_paused = true)]
async fn waits_for_time_and_gate() {
    let gate = Gate::new("frame");
    let mut body = TestBody::from("a").delay(Duration::from_secs(2)).data("b").wait(&gate).data("c");
    let start = Instant::now();
    let mut times = Vec::new();
    for _ in 0..2 {
        body.frame().await.unwrap().unwrap();
        times.push(start.elapsed().as_secs());
    }
    assert_eq!(times, [0, 2]);
    assert!(poll(&mut body).is_pending());
    assert_eq!(gate.waiting(), 1);
    gate.open();
    assert_eq!(say(poll(&mut body)), "c");
}

#[test]
fn hints_follow_the_frames() {
    let mut range = SizeHint::new();
    range.set_lower(2);
    range.set_upper(4);
    // name, body, then lower, upper and end before the first poll and after each
    type Told<'a> = &'a [(u64, Option<u64>, bool)];
    let cases: [(&str, TestBody, Told<'_>); 6] = [
        ("empty", TestBody::new(), &[(0, Some(0), true)]),
        (
            "frames",
            TestBody::new().data("ab").data("c"),
            &[(3, Some(3), false), (1, Some(1), false), (0, Some(0), true)],
        ),
        ("unsized", TestBody::from("ab").unsized_hint(), &[(0, None, false), (0, None, true)]),
        (
            "range",
            TestBody::new().data("a").data("bc").hint(range),
            &[(2, Some(4), false), (1, Some(3), false), (0, Some(1), true)],
        ),
        (
            "unannounced",
            TestBody::from("a").unannounced_end(),
            &[(1, Some(1), false), (0, Some(0), false), (0, Some(0), true)],
        ),
        ("failing", TestBody::from("a").error("e"), &[(0, None, false), (0, None, false)]),
    ];
    for (name, mut body, expected) in cases {
        for (at, expected) in expected.iter().enumerate() {
            let hint = body.size_hint();
            let told = (hint.lower(), hint.upper(), body.is_end_stream());
            assert_eq!(told, *expected, "{name} after {at} polls");
            drop(poll(&mut body));
        }
    }
}

#[test]
fn lives_are_counted() {
    let lives = Lives::new();
    let body = TestBody::from("a").counted(&lives);
    let clone = body.clone();
    assert_eq!((lives.alive(), lives.total()), (2, 2));
    drop(body);
    assert_eq!((lives.alive(), lives.total()), (1, 2));
    drop(clone);
    assert_eq!((lives.alive(), lives.total()), (0, 2));
}

// === assert_body_contract ===

#[tokio::test]
async fn good_wrappers_pass() {
    assert_body_contract(|body| body).await;
    assert_body_contract(Box::pin).await;
    assert_body_contract(|body| Wrapper { body, flaw: Flaw::None, waiting: None, leaked: None }).await;
}

#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    None,
    NoSizeHint,
    NoEnd,
    EarlyEnd,
    NoTrailers,
    Swapped,
    SkipsEmpty,
    SwallowsError,
    EndsInError,
    Leaks,
}

struct Wrapper {
    body: TestBody,
    flaw: Flaw,
    waiting: Option<Frame<Bytes>>,
    leaked: Option<TestBody>,
}

impl Body for Wrapper {
    type Data = Bytes;
    type Error = Scripted;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        if self.flaw == Flaw::Swapped
            && let Some(frame) = self.waiting.take()
        {
            return Poll::Ready(Some(Ok(frame)));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match (self.flaw, &polled) {
            (Flaw::NoTrailers, Poll::Ready(Some(Ok(frame)))) if frame.is_trailers() => Poll::Ready(None),
            (Flaw::SkipsEmpty, Poll::Ready(Some(Ok(frame))))
                if frame.data_ref().is_some_and(Bytes::is_empty) =>
            {
                self.poll_frame(cx)
            }
            (Flaw::SwallowsError, Poll::Ready(Some(Err(_)))) => Poll::Ready(None),
            (Flaw::EndsInError, Poll::Ready(None)) => Poll::Ready(Some(Err(Scripted("truncated")))),
            (Flaw::Swapped, Poll::Ready(Some(Ok(_)))) => {
                let Poll::Ready(Some(Ok(first))) = polled else { unreachable!() };
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(second))) => {
                        self.waiting = Some(first);
                        Poll::Ready(Some(Ok(second)))
                    }
                    _ => Poll::Ready(Some(Ok(first))),
                }
            }
            (Flaw::Leaks, Poll::Ready(Some(Ok(frame))))
                if frame.data_ref().is_some_and(|data| data == "bc") =>
            {
                self.leaked = Some(self.body.clone());
                polled
            }
            _ => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.flaw {
            Flaw::NoEnd => false,
            Flaw::EarlyEnd => self.body.size_hint().exact() == Some(0),
            _ => self.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.flaw {
            Flaw::NoSizeHint => SizeHint::default(),
            _ => self.body.size_hint(),
        }
    }
}

impl Drop for Wrapper {
    fn drop(&mut self) {
        if let Some(body) = self.leaked.take() {
            // Outlives the wrapper, for as long as the runtime.
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(body);
            });
        }
    }
}

#[tokio::test]
async fn each_flaw_is_found() {
    let cases = [
        (Flaw::NoSizeHint, "body “empty”: size_hint after 0 frames"),
        (Flaw::NoEnd, "body “empty”: is_end_stream after 0 frames"),
        (Flaw::EarlyEnd, "body “trailers”: is_end_stream after 1 frames"),
        (Flaw::NoTrailers, "body “trailers”: frame 1 is missing"),
        (Flaw::Swapped, "body “three frames”: frame 0"),
        (Flaw::SkipsEmpty, "body “an empty frame”: frame 1"),
        (Flaw::SwallowsError, "body “failing at once”: the error at frame 0 is missing"),
        (Flaw::EndsInError, "body “empty”: frame 0 is an error: truncated"),
        (Flaw::Leaks, "body “three frames”: dropped after 2 polls"),
    ];
    for (flaw, complaint) in cases {
        let wrap = move |body| Wrapper { body, flaw, waiting: None, leaked: None };
        let found = tokio::spawn(assert_body_contract(wrap)).await.unwrap_err();
        let said = found.into_panic().downcast::<String>().unwrap();
        assert!(said.contains(complaint), "wanted {complaint}, but it said {said}");
    }
}
