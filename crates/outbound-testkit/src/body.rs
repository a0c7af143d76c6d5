//! A body that does what it was told, and the contract of a body that wraps another.

use std::{
    collections::VecDeque,
    error::Error,
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};

use crate::{
    Gate,
    pause::{Pause, Paused},
};

/// A body of frames, pauses and failures, in the order in which they were added.
///
/// Unless told otherwise its size hint is exact when its length is certain, and open when it fails, stalls or never
/// ends; and `is_end_stream` turns true with the last frame. After its end it stays ended.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use http_body_util::BodyExt;
/// use outbound_testkit::TestBody;
///
/// let body = TestBody::new().data("hel").pending(2).data("lo").trailer("x-sum", "5");
/// let read = body.collect().await.unwrap();
/// assert_eq!(read.trailers().unwrap()["x-sum"], "5");
/// assert_eq!(read.to_bytes(), "hello");
/// # }
/// ```
#[derive(Debug, Default)]
pub struct TestBody {
    items: VecDeque<Item>,
    paused: Option<Paused>,
    hint: Option<SizeHint>,
    end_unannounced: bool,
    life: Option<Life>,
}

/// Counts the bodies that were made, and those that are still alive. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub struct Lives(Arc<Lived>);

/// A failure that a script asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scripted(pub &'static str);

#[derive(Clone, Debug)]
enum Item {
    Data(Bytes),
    Endless(Bytes),
    Trailers(HeaderMap),
    Pause(Pause),
    Fail(Scripted),
    Panic,
}

#[derive(Debug, Default)]
struct Lived {
    alive: AtomicUsize,
    born: AtomicUsize,
}

#[derive(Debug)]
struct Life(Lives);

// === TestBody ===

impl TestBody {
    /// A body without frames.
    pub fn new() -> Self {
        TestBody::default()
    }

    /// Then a frame of data.
    pub fn data(self, data: impl Into<Bytes>) -> Self {
        self.item(Item::Data(data.into()))
    }

    /// Then a frame of data, again and again for ever.
    pub fn endless(self, data: impl Into<Bytes>) -> Self {
        self.item(Item::Endless(data.into()))
    }

    /// Then a trailer field; several in a row are one frame.
    ///
    /// # Panics
    ///
    /// When it is not a valid field.
    pub fn trailer(mut self, name: &'static str, value: &'static str) -> Self {
        let (name, value) = (HeaderName::from_static(name), HeaderValue::from_static(value));
        if let Some(Item::Trailers(trailers)) = self.items.back_mut() {
            trailers.append(name, value);
            return self;
        }
        self.item(Item::Trailers(HeaderMap::from_iter([(name, value)])))
    }

    /// Then `polls` times pending, woken at once each time.
    pub fn pending(self, polls: usize) -> Self {
        self.item(Item::Pause(Pause::Polls(polls)))
    }

    /// Then pending for this long on Tokio's clock, from the poll that gets here.
    pub fn delay(self, delay: Duration) -> Self {
        self.item(Item::Pause(Pause::For(delay)))
    }

    /// Then pending until the test lets it through the gate.
    pub fn wait(self, gate: &Gate) -> Self {
        self.item(Item::Pause(Pause::At(gate.clone())))
    }

    /// Then pending for ever.
    pub fn stall(self) -> Self {
        self.item(Item::Pause(Pause::Forever))
    }

    /// Then an error, which ends the body.
    pub fn error(self, message: &'static str) -> Self {
        self.item(Item::Fail(Scripted(message)))
    }

    /// Then a panic in `poll_frame`.
    pub fn panic(self) -> Self {
        self.item(Item::Panic)
    }

    /// The size hint at the beginning; data that passes is taken off it. Need not be true.
    pub fn hint(mut self, hint: SizeHint) -> Self {
        self.hint = Some(hint);
        self
    }

    /// A length that is not known.
    pub fn unsized_hint(self) -> Self {
        self.hint(SizeHint::new())
    }

    /// `is_end_stream` stays false until `poll_frame` has said `None`, as in a chunked body.
    pub fn unannounced_end(mut self) -> Self {
        self.end_unannounced = true;
        self
    }

    /// Counts this body, and every clone of it, among these lives.
    pub fn counted(mut self, lives: &Lives) -> Self {
        self.life = Some(lives.born());
        self
    }

    fn item(mut self, item: Item) -> Self {
        self.items.push_back(item);
        self
    }

    /// Takes `n` bytes off a hint that was set.
    fn passed(&mut self, n: usize) {
        if let Some(hint) = &mut self.hint {
            let n = n as u64;
            let mut left = SizeHint::new();
            left.set_lower(hint.lower().saturating_sub(n));
            if let Some(upper) = hint.upper() {
                left.set_upper(upper.saturating_sub(n));
            }
            *hint = left;
        }
    }
}

impl Body for TestBody {
    type Data = Bytes;
    type Error = Scripted;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Scripted>>> {
        let this = self.get_mut();
        loop {
            if let Some(paused) = &mut this.paused {
                ready!(paused.poll(cx));
                this.paused = None;
            }
            let Some(item) = this.items.pop_front() else {
                this.end_unannounced = false;
                return Poll::Ready(None);
            };
            return Poll::Ready(Some(match item {
                Item::Pause(pause) => {
                    this.paused = Some(pause.begin());
                    continue;
                }
                Item::Data(data) => {
                    this.passed(data.len());
                    Ok(Frame::data(data))
                }
                Item::Endless(data) => {
                    this.passed(data.len());
                    this.items.push_front(Item::Endless(data.clone()));
                    Ok(Frame::data(data))
                }
                Item::Trailers(trailers) => Ok(Frame::trailers(trailers)),
                Item::Fail(failure) => {
                    this.items.clear();
                    this.end_unannounced = false;
                    Err(failure)
                }
                Item::Panic => panic!("the body was told to panic"),
            }));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.items.is_empty() && self.paused.is_none() && !self.end_unannounced
    }

    fn size_hint(&self) -> SizeHint {
        if let Some(hint) = &self.hint {
            return *hint;
        }
        let mut length = 0;
        for item in &self.items {
            match item {
                Item::Data(data) => length += data.len() as u64,
                Item::Pause(Pause::Forever) | Item::Endless(_) | Item::Fail(_) | Item::Panic => {
                    return SizeHint::new();
                }
                Item::Trailers(_) | Item::Pause(_) => {}
            }
        }
        SizeHint::with_exact(length)
    }
}

/// The frames that are left, a pause that has begun left out.
impl Clone for TestBody {
    fn clone(&self) -> Self {
        TestBody {
            items: self.items.clone(),
            paused: None,
            hint: self.hint,
            end_unannounced: self.end_unannounced,
            life: self.life.as_ref().map(|Life(lives)| lives.born()),
        }
    }
}

impl From<&'static str> for TestBody {
    fn from(data: &'static str) -> Self {
        TestBody::new().data(data)
    }
}

// === Lives ===

impl Lives {
    /// No lives yet.
    pub fn new() -> Self {
        Lives::default()
    }

    /// How many are alive now.
    pub fn alive(&self) -> usize {
        self.0.alive.load(Ordering::SeqCst)
    }

    /// How many there ever were.
    pub fn total(&self) -> usize {
        self.0.born.load(Ordering::SeqCst)
    }

    fn born(&self) -> Life {
        self.0.alive.fetch_add(1, Ordering::SeqCst);
        self.0.born.fetch_add(1, Ordering::SeqCst);
        Life(self.clone())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.0.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

// === Scripted ===

impl fmt::Display for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Scripted {}

// === assert_body_contract ===

/// Checks what every body that wraps another owes its users, with bodies of many kinds.
///
/// - `size_hint` and `is_end_stream` are those of the wrapped body, before the first frame and after each.
/// - Every frame passes, in order, empty ones and trailers too; an error passes and is the last.
/// - Once ended it stays ended.
/// - Dropped after any number of polls, it drops the wrapped body at once.
///
/// A wrapper that limits or transforms its body is checked with limits that these short bodies stay within.
///
/// # Panics
///
/// When the wrapper breaks the contract; the panic names the body and the rule.
pub async fn assert_body_contract<W>(wrap: impl Fn(TestBody) -> W)
where
    W: Body<Data = Bytes>,
    W::Error: fmt::Display,
{
    let mut range = SizeHint::new();
    range.set_lower(3);
    range.set_upper(9);
    let bodies = [
        ("empty", TestBody::new()),
        ("one frame", TestBody::from("hello")),
        ("three frames", TestBody::new().data("a").data("bc").data("def")),
        ("an empty frame", TestBody::new().data("a").data("").data("b")),
        ("trailers", TestBody::from("hello").trailer("x-a", "1").trailer("x-b", "2")),
        ("only trailers", TestBody::new().trailer("x-a", "1")),
        ("length unknown", TestBody::from("hello").unsized_hint()),
        ("length in a range", TestBody::new().data("ab").data("cde").hint(range)),
        ("end unannounced", TestBody::new().data("a").data("b").unannounced_end()),
        ("pending in between", TestBody::new().pending(1).data("a").pending(3).data("b")),
        ("pending before the end", TestBody::from("a").pending(2)),
        ("failing at once", TestBody::new().error("broken")),
        ("failing later", TestBody::new().data("a").pending(1).error("broken")),
    ];
    for (name, body) in bodies {
        assert_forwards(name, &body, &wrap).await;
        assert_drops(name, &body, &wrap).await;
    }
}

/// Reads the wrapped body beside a bare twin.
async fn assert_forwards<W>(name: &str, body: &TestBody, wrap: impl Fn(TestBody) -> W)
where
    W: Body<Data = Bytes>,
    W::Error: fmt::Display,
{
    let mut twin = body.clone();
    let mut wrapped = pin!(wrap(body.clone()));
    for at in 0.. {
        let (told, true_hint) = (wrapped.size_hint(), twin.size_hint());
        assert_eq!(
            (told.lower(), told.upper()),
            (true_hint.lower(), true_hint.upper()),
            "body “{name}”: size_hint after {at} frames"
        );
        assert_eq!(
            wrapped.is_end_stream(),
            twin.is_end_stream(),
            "body “{name}”: is_end_stream after {at} frames"
        );
        let expected = poll_fn(|cx| Pin::new(&mut twin).poll_frame(cx)).await;
        let came = poll_fn(|cx| wrapped.as_mut().poll_frame(cx)).await;
        match (came, expected) {
            (Some(Ok(came)), Some(Ok(expected))) => {
                assert_eq!(
                    (came.data_ref(), came.trailers_ref()),
                    (expected.data_ref(), expected.trailers_ref()),
                    "body “{name}”: frame {at}"
                );
            }
            (Some(Err(_)), Some(Err(_))) => {}
            (None, None) => break,
            (Some(Ok(_)), _) => panic!("body “{name}”: frame {at} is one too many"),
            (Some(Err(error)), _) => panic!("body “{name}”: frame {at} is an error: {error}"),
            (None, Some(Ok(_))) => panic!("body “{name}”: frame {at} is missing"),
            (None, Some(Err(_))) => panic!("body “{name}”: the error at frame {at} is missing"),
        }
    }
    assert!(wrapped.is_end_stream(), "body “{name}”: is_end_stream after the end");
    let after = poll_fn(|cx| wrapped.as_mut().poll_frame(cx)).await;
    assert!(after.is_none(), "body “{name}”: something came after the end");
}

/// Drops the wrapped body after every number of polls.
async fn assert_drops<W>(name: &str, body: &TestBody, wrap: impl Fn(TestBody) -> W)
where
    W: Body<Data = Bytes>,
{
    for polls in 0.. {
        let lives = Lives::new();
        let mut wrapped = Box::pin(wrap(body.clone().counted(&lives)));
        let mut ended = false;
        for _ in 0..polls {
            let polled = poll_fn(|cx| Poll::Ready(wrapped.as_mut().poll_frame(cx))).await;
            ended = matches!(polled, Poll::Ready(None | Some(Err(_))));
        }
        drop(wrapped);
        assert_eq!(lives.alive(), 0, "body “{name}”: dropped after {polls} polls");
        if ended {
            break;
        }
    }
}
