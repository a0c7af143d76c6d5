//! `OnEnd`: the hook is told once, rightly, and before the caller.

use std::{
    cell::Cell,
    convert::Infallible,
    future::poll_fn,
    marker::PhantomPinned,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use outbound_core::{AtEnd, End, OnEnd};
use outbound_testkit::{TestBody, assert_body_contract};

/// What hook and reader saw, in the order in which they saw it.
#[derive(Clone, Debug, Default)]
struct Transcript(Arc<Mutex<Vec<String>>>);

impl Transcript {
    fn say(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn take(&self) -> String {
        self.0.lock().unwrap().drain(..).collect::<Vec<_>>().join(", ")
    }
}

impl AtEnd for Transcript {
    fn at_end(self, end: End) {
        self.say(format!("{end:?}"));
    }

    fn on_frame(&mut self, bytes: usize) {
        self.say(format!("hook {bytes}"));
    }
}

/// Polls so many times, telling what came, and drops the body.
async fn read(body: TestBody, polls: usize, transcript: Transcript) {
    let mut body = OnEnd::new(body, transcript.clone());
    for _ in 0..polls {
        let polled =
            poll_fn(|cx| Poll::Ready(catch_unwind(AssertUnwindSafe(|| Pin::new(&mut body).poll_frame(cx)))));
        transcript.say(match polled.await {
            Ok(Poll::Ready(Some(Ok(frame)))) => match frame.data_ref() {
                Some(data) => format!("data {}", data.len()),
                None => "trailers".into(),
            },
            Ok(Poll::Ready(Some(Err(error)))) => format!("error {error}"),
            Ok(Poll::Ready(None)) => "end".into(),
            Ok(Poll::Pending) => "pending".into(),
            Err(_) => "panic".into(),
        });
    }
    transcript.say("drop");
}

#[tokio::test(start_paused = true)]
async fn told_once_and_first() {
    let body = TestBody::new;
    let rows = [
        ("empty", body(), 0, "Complete, drop"),
        ("empty, read", body(), 2, "Complete, end, end, drop"),
        ("empty, unannounced, unread", body().unannounced_end(), 0, "drop, Dropped"),
        ("empty, unannounced", body().unannounced_end(), 2, "Complete, end, end, drop"),
        ("read out", body().data("hello"), 1, "hook 5, Complete, data 5, drop"),
        ("read past its end", body().data("hello"), 3, "hook 5, Complete, data 5, end, end, drop"),
        (
            "three frames",
            body().data("a").data("").data("bc"),
            3,
            "hook 1, data 1, hook 0, data 0, hook 2, Complete, data 2, drop",
        ),
        ("unannounced, not asked", body().data("a").unannounced_end(), 1, "hook 1, data 1, drop, Dropped"),
        ("unannounced", body().data("a").unannounced_end(), 2, "hook 1, data 1, Complete, end, drop"),
        (
            "trailers",
            body().data("a").trailer("x", "1"),
            2,
            "hook 1, data 1, hook 0, Complete, trailers, drop",
        ),
        ("trailers unread", body().data("a").trailer("x", "1"), 1, "hook 1, data 1, drop, Dropped"),
        ("trailers alone", body().trailer("x", "1"), 1, "hook 0, Complete, trailers, drop"),
        ("unread", body().data("a"), 0, "drop, Dropped"),
        ("half read", body().data("a").data("b"), 1, "hook 1, data 1, drop, Dropped"),
        ("dropped while pending", body().data("a").stall(), 2, "hook 1, data 1, pending, drop, Dropped"),
        ("pending before the end", body().pending(1).data("a"), 2, "pending, hook 1, Complete, data 1, drop"),
        ("failed at once", body().error("no"), 1, "Failed, error no, drop"),
        (
            "failed later, read on",
            body().data("a").error("no"),
            4,
            "hook 1, data 1, Failed, error no, end, end, drop",
        ),
        ("panicked", body().data("a").panic().data("b"), 2, "hook 1, data 1, panic, drop, Dropped"),
    ];
    for (name, body, polls, expected) in rows {
        let transcript = Transcript::default();
        read(body, polls, transcript.clone()).await;
        assert_eq!(transcript.take(), expected, "{name}");
    }
}

/// Of exact size, and known to have ended with its last frame: hyper stops there, and never asks for the `None`.
#[tokio::test]
async fn told_of_a_full_body_without_a_none() {
    let transcript = Transcript::default();
    let mut body = OnEnd::new(http_body_util::Full::new(Bytes::from("hello")), transcript.clone());
    assert_eq!(body.size_hint().exact(), Some(5));
    let _ = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
    assert_eq!(transcript.take(), "hook 5, Complete");
    assert!(body.is_end_stream());
    drop(body);
    assert_eq!(transcript.take(), "");
}

#[tokio::test]
async fn keeps_the_contract_of_bodies() {
    assert_body_contract(|body| OnEnd::new(body, Transcript::default())).await;
}

#[tokio::test]
async fn hook_is_there_until_told() {
    let mut body = OnEnd::new(TestBody::new().data("a").data("b"), Transcript::default());
    assert!(body.hook().is_some());
    let _ = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
    assert!(body.hook().is_some());
    assert_eq!(body.get_ref().size_hint().exact(), Some(1), "the body inside");
    let _ = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
    assert!(body.hook().is_none());
    assert!(OnEnd::new(TestBody::new(), Transcript::default()).hook().is_none());
}

/// A hook that counts no frames need not say so.
#[tokio::test]
async fn on_frame_is_optional() {
    struct Only(Rc<Cell<Option<End>>>);
    impl AtEnd for Only {
        fn at_end(self, end: End) {
            self.0.set(Some(end));
        }
    }
    let ended = Rc::default();
    let mut body = OnEnd::new(TestBody::from("a"), Only(Rc::clone(&ended)));
    let _ = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
    assert_eq!(ended.get(), Some(End::Complete));
}

// === Send, Sync and Unpin follow the parts ===

struct NoBody<P>(P);

impl<P> Body for NoBody<P> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let _ = &self.0;
        Poll::Ready(None)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}

struct NoHook<P>(P);

impl<P> AtEnd for NoHook<P> {
    fn at_end(self, _: End) {
        let _ = self.0;
    }
}

/// Compiles only if the type does not have the trait: else two implementations fit.
macro_rules! assert_not {
    ($type:ty: $trait:path) => {
        const _: fn() = || {
            trait Fits<A> {
                fn fits() {}
            }
            impl<T: ?Sized> Fits<()> for T {}
            impl<T: ?Sized + $trait> Fits<u8> for T {}
            let _ = <$type as Fits<_>>::fits;
        };
    };
}

#[test]
fn auto_traits() {
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    fn unpin<T: Unpin>() {}
    send::<OnEnd<NoBody<Cell<u8>>, NoHook<Cell<u8>>>>();
    sync::<OnEnd<NoBody<u8>, NoHook<u8>>>();
    unpin::<OnEnd<NoBody<u8>, NoHook<PhantomPinned>>>();
}

assert_not!(OnEnd<NoBody<Rc<u8>>, NoHook<u8>>: Send);
assert_not!(OnEnd<NoBody<u8>, NoHook<Rc<u8>>>: Send);
assert_not!(OnEnd<NoBody<Cell<u8>>, NoHook<u8>>: Sync);
assert_not!(OnEnd<NoBody<u8>, NoHook<Cell<u8>>>: Sync);
assert_not!(OnEnd<NoBody<PhantomPinned>, NoHook<u8>>: Unpin);
