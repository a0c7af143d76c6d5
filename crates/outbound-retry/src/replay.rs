//! A request body that can be sent again.

use std::{
    error::Error,
    fmt, mem,
    pin::Pin,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use outbound_core::BoxError;
use smallvec::SmallVec;

use crate::sync::{AtomicUsize, Mutex, MutexGuard};

/// The body of one attempt: the caller's, kept while it is read so that a further attempt can read it too.
///
/// - **Lazy:** what no attempt has read is neither read nor kept.
/// - **Zero-copy:** a chunk of [`Bytes`] is shared, not copied. Trailers and `size_hint` are those of the caller's body.
/// - **Capped:** beyond the cap the attempt goes on, what was kept is freed, and there is no further attempt.
/// - **Exact:** when a further attempt begins, the body of the one before fails wherever it is, so that no server takes a part for the
///   whole; the new one starts from the first byte and goes on from where the caller's body was left.
///
/// The caller's body is polled by one attempt at a time, never under the lock that the attempts share.
pub struct Replay<B>(Source<B>);

/// Makes the body again for each further attempt, in place of keeping it: for large bodies that are cheap to make, such as a file's.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use outbound_retry::BodyFactory;
///
/// let body = || Full::new(Bytes::from_static(b"a large file"));
/// let mut request = http::Request::put("http://example.com/").body(body())?;
/// BodyFactory::new(body).attach(&mut request);
/// # Ok::<(), http::Error>(())
/// ```
pub struct BodyFactory<B>(Arc<dyn Fn() -> B + Send + Sync>);

/// The cap on what is kept of bodies.
#[derive(Clone, Debug)]
pub(crate) struct Cap {
    pub(crate) each: usize,
    pub(crate) sum: Option<Arc<Room>>,
}

/// Bytes that may still be kept, over all requests.
#[derive(Debug)]
pub(crate) struct Room(AtomicUsize);

/// What a further attempt needs of a body: all that was read of it.
pub(crate) struct Kept<B> {
    factory: Option<BodyFactory<B>>,
    tape: Mutex<Tape<B>>,
}

enum Source<B> {
    Nothing,
    Once(B),
    Kept { kept: Arc<Kept<B>>, reader: u32 },
}

/// What was read of the caller's body, and who may read on.
struct Tape<B> {
    /// Counted from 1, one for each attempt; those before it fail.
    reader: u32,
    /// The caller's body, unless it is being polled at this moment or has been read to its end.
    body: Option<B>,
    /// What is left in it.
    hint: SizeHint,
    progress: Progress,
    chunks: Chunks,
    /// Which chunk the reader is handed next.
    next: usize,
    trailers: Option<Box<HeaderMap>>,
    /// Whether the reader has been handed the last there is: the trailers, or the failure.
    over: bool,
    /// No attempt follows, or it makes its own body: chunks are freed as they are read.
    last: bool,
    kept: usize,
    cap: Cap,
    resent: u64,
    /// The reader's, if it waits.
    waker: Option<Waker>,
}

/// How far the caller's body has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Untouched,
    Begun,
    Ended,
    Failed,
}

/// What a reader finds on the tape.
enum Found<B> {
    Frame(Frame<Bytes>),
    End,
    /// Nothing more: it is the reader's turn to poll the caller's body.
    Turn(B),
    /// Nothing more, and the reader before is still in the middle of its turn.
    Busy,
    Stop(Stopped),
}

/// The turn of a reader to poll the caller's body; if that panics, the body is lost.
struct Turn<'a, B>(&'a Kept<B>, u32);

/// Why the body of an attempt fails of itself.
#[derive(Clone, Copy, Debug)]
enum Stopped {
    Superseded,
    Lost,
}

type Chunks = SmallVec<[Bytes; 4]>;

// === Replay ===

impl<B> Replay<B> {
    /// `body`, for one attempt and no more.
    pub(crate) fn once(body: B) -> Self {
        Self(Source::Once(body))
    }

    /// No body at all.
    pub(crate) fn nothing() -> Self {
        Self(Source::Nothing)
    }
}

impl<B> Body for Replay<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Source::Nothing => Poll::Ready(None),
            Source::Once(body) => {
                Pin::new(body).poll_frame(cx).map_ok(|frame| frame.map_data(whole)).map_err(Into::into)
            }
            Source::Kept { kept, reader } => kept.poll_frame(*reader, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Nothing => true,
            Source::Once(body) => body.is_end_stream(),
            Source::Kept { kept, reader } => kept.tape().is_end_stream(*reader),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Nothing => SizeHint::with_exact(0),
            Source::Once(body) => body.size_hint(),
            Source::Kept { kept, reader } => kept.tape().size_hint(*reader),
        }
    }
}

impl<B> fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").finish_non_exhaustive()
    }
}

// === BodyFactory ===

impl<B: 'static> BodyFactory<B> {
    /// `make` makes the body from its first byte, each time.
    pub fn new(make: impl Fn() -> B + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }

    /// Puts it on `request`. The layer finds it there if it is called with this type of body.
    pub fn attach(self, request: &mut Request<B>) {
        request.extensions_mut().insert(self);
    }
}

impl<B> Clone for BodyFactory<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B> fmt::Debug for BodyFactory<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyFactory").finish_non_exhaustive()
    }
}

// === Room ===

impl Room {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Relaxed);
    }
}

// === Kept ===

impl<B> Kept<B> {
    /// There will be no further attempt: what is not needed for this one is freed, now and as it is read.
    pub(crate) fn finish(&self) {
        let freed = self.tape().finish();
        drop(freed);
    }

    /// Whether there can be one more attempt with the whole body.
    pub(crate) fn can_rewind(&self) -> bool {
        self.factory.is_some() || self.tape().is_whole()
    }

    /// Bytes handed to attempts after the first, since this was last asked.
    pub(crate) fn take_resent(&self) -> u64 {
        mem::take(&mut self.tape().resent)
    }

    fn tape(&self) -> MutexGuard<'_, Tape<B>> {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Kept<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Nothing is kept of no body, unless it can be made.
    #[inline]
    pub(crate) fn new(body: B, factory: Option<BodyFactory<B>>, cap: &Cap) -> Option<Arc<Self>> {
        if body.is_end_stream() && factory.is_none() {
            return None;
        }
        let hint = body.size_hint();
        let tape = Tape {
            reader: 1,
            progress: Progress::at_start(&body),
            last: factory.is_some() || hint.lower() > cap.each as u64,
            body: Some(body),
            hint,
            chunks: SmallVec::new(),
            next: 0,
            trailers: None,
            over: false,
            kept: 0,
            cap: cap.clone(),
            resent: 0,
            waker: None,
        };
        Some(Arc::new(Self { factory, tape: Mutex::new(tape) }))
    }

    /// The body of the first attempt.
    pub(crate) fn first(self: &Arc<Self>) -> Replay<B> {
        Replay(Source::Kept { kept: self.clone(), reader: 1 })
    }

    /// The whole body for the next attempt, if it can still be had; that of the one before fails from now on.
    pub(crate) fn rewind(self: &Arc<Self>) -> Option<Replay<B>> {
        let remade = self.factory.as_ref().map(|factory| (factory.0)());
        let start = remade.as_ref().map(|body| (body.size_hint(), Progress::at_start(body)));
        let mut tape = self.tape();
        if !tape.is_whole() && remade.is_none() {
            return None;
        }
        tape.reader += 1;
        (tape.next, tape.over) = (0, false);
        if let Some((hint, progress)) = start {
            (tape.hint, tape.progress, tape.trailers) = (hint, progress, None);
        }
        let replaced = remade.map(|body| (tape.body.replace(body), mem::take(&mut tape.chunks)));
        let (reader, waker) = (tape.reader, tape.waker.take());
        drop(tape);
        drop(replaced);
        wake(waker);
        Some(Replay(Source::Kept { kept: self.clone(), reader }))
    }

    fn poll_frame(&self, reader: u32, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let found = self.tape().find(reader);
            let mut body = match found {
                Found::Frame(frame) => return Poll::Ready(Some(Ok(frame))),
                Found::End => return Poll::Ready(None),
                Found::Stop(stopped) => return Poll::Ready(Some(Err(stopped.into()))),
                Found::Turn(body) => body,
                Found::Busy if self.wait(reader, cx) => return Poll::Pending,
                Found::Busy => continue,
            };
            let turn = Turn(self, reader);
            let polled = Pin::new(&mut body).poll_frame(cx);
            drop(turn);
            let (hint, ended) = (body.size_hint(), body.is_end_stream());
            match polled {
                Poll::Pending => {
                    let waker = Some(cx.waker().clone());
                    if self.end_turn(reader, waker, |tape| tape.body = Some(body)) {
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Some(Ok(frame))) => {
                    let (frame, body) = (frame.map_data(whole), (!ended).then_some(body));
                    self.end_turn(reader, None, |tape| {
                        tape.progress = if ended { Progress::Ended } else { Progress::Begun };
                        (tape.hint, tape.body) = (hint, body);
                        tape.push(frame)
                    });
                }
                Poll::Ready(None) => {
                    self.end_turn(reader, None, |tape| {
                        (tape.progress, tape.hint) = (Progress::Ended, hint);
                    });
                }
                Poll::Ready(Some(Err(error))) => {
                    let failed = |tape: &mut Tape<B>| {
                        let told = tape.reader == reader;
                        (tape.progress, tape.hint, tape.over) = (Progress::Failed, hint, told);
                    };
                    if self.end_turn(reader, None, failed) {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                }
            }
        }
    }
}

impl<B> Kept<B> {
    /// After a turn: what it `change`d, unless it was with a body that has been remade since. Whether `reader` still is the one that may
    /// read; if not, the one after it is woken.
    fn end_turn<T>(&self, reader: u32, waker: Option<Waker>, change: impl FnOnce(&mut Tape<B>) -> T) -> bool {
        let mut tape = self.tape();
        let current = tape.reader == reader;
        let (changed, unused) = if current || self.factory.is_none() {
            (Some(change(&mut tape)), None)
        } else {
            (None, Some(change))
        };
        let before = mem::replace(&mut tape.waker, waker.filter(|_| current));
        drop(tape);
        drop((changed, unused));
        wake(before.filter(|_| !current));
        current
    }

    /// Whether `reader` has to wait until the reader before it has ended its turn.
    fn wait(&self, reader: u32, cx: &Context<'_>) -> bool {
        let waker = cx.waker().clone();
        let mut tape = self.tape();
        let busy = tape.reader == reader && tape.body.is_none() && !tape.progress.is_over();
        let unused = if busy { tape.waker.replace(waker) } else { Some(waker) };
        drop(tape);
        drop(unused);
        busy
    }
}

impl<B> fmt::Debug for Kept<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

// === Tape ===

impl<B> Tape<B> {
    fn find(&mut self, reader: u32) -> Found<B> {
        if reader != self.reader {
            return Found::Stop(Stopped::Superseded);
        }
        if let Some(chunk) = self.chunks.get_mut(self.next) {
            let chunk = if self.last { mem::take(chunk) } else { chunk.clone() };
            self.next += 1;
            if self.last && self.next == self.chunks.len() {
                self.chunks.clear();
                self.next = 0;
            }
            self.resent += if reader > 1 { chunk.len() as u64 } else { 0 };
            return Found::Frame(Frame::data(chunk));
        }
        match self.progress {
            Progress::Ended | Progress::Failed if mem::replace(&mut self.over, true) => Found::End,
            Progress::Failed => Found::Stop(Stopped::Lost),
            Progress::Ended => match &self.trailers {
                Some(trailers) => Found::Frame(Frame::trailers(HeaderMap::clone(trailers))),
                None => Found::End,
            },
            Progress::Untouched | Progress::Begun => self.body.take().map_or(Found::Busy, Found::Turn),
        }
    }

    /// Keeps what was read, if there is room; otherwise what was kept so far comes back, to be freed.
    fn push(&mut self, frame: Frame<Bytes>) -> Chunks {
        match frame.into_data() {
            Ok(chunk) => {
                let freed = if self.make_room(chunk.len()) { Chunks::new() } else { self.finish() };
                self.chunks.push(chunk);
                freed
            }
            Err(frame) => {
                self.trailers = frame.into_trailers().ok().map(Box::new);
                Chunks::new()
            }
        }
    }

    fn make_room(&mut self, bytes: usize) -> bool {
        let room = !self.last
            && bytes <= self.cap.each - self.kept
            && self.cap.sum.as_ref().is_none_or(|sum| sum.take(bytes));
        self.kept += if room { bytes } else { 0 };
        room
    }

    fn finish(&mut self) -> Chunks {
        self.last = true;
        self.give_back_room();
        match mem::take(&mut self.next) {
            0 => Chunks::new(),
            read => self.chunks.drain(..read).collect(),
        }
    }

    fn give_back_room(&mut self) {
        let kept = mem::take(&mut self.kept);
        if let Some(sum) = &self.cap.sum {
            sum.give_back(kept);
        }
    }

    /// Whether a reader can be handed the body from its first byte.
    fn is_whole(&self) -> bool {
        match self.progress {
            Progress::Untouched => true,
            Progress::Begun | Progress::Ended => !self.last,
            Progress::Failed => false,
        }
    }

    fn is_end_stream(&self, reader: u32) -> bool {
        let ended = self.progress == Progress::Ended && self.trailers.is_none();
        reader == self.reader && self.next == self.chunks.len() && (ended || self.over)
    }

    /// That of what the reader has still to be handed.
    fn size_hint(&self, reader: u32) -> SizeHint {
        if reader != self.reader {
            return SizeHint::default();
        }
        let kept: u64 = self.chunks[self.next..].iter().map(|chunk| chunk.len() as u64).sum();
        let mut hint = SizeHint::new();
        hint.set_lower(kept.saturating_add(self.hint.lower()));
        if let Some(upper) = self.hint.upper() {
            hint.set_upper(kept.saturating_add(upper));
        }
        hint
    }
}

impl<B> Drop for Tape<B> {
    fn drop(&mut self) {
        self.give_back_room();
    }
}

// === Progress ===

impl Progress {
    fn at_start(body: &impl Body) -> Self {
        if body.is_end_stream() { Self::Ended } else { Self::Untouched }
    }

    fn is_over(self) -> bool {
        matches!(self, Self::Ended | Self::Failed)
    }
}

// === Turn ===

impl<B> Drop for Turn<'_, B> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end_turn(self.1, None, |tape| tape.progress = Progress::Failed);
        }
    }
}

// === Stopped ===

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Superseded => "this attempt was given up: its request body went on to the next one",
            Self::Lost => "the request body failed in an earlier attempt, and cannot be read again",
        })
    }
}

impl Error for Stopped {}

fn whole(mut data: impl Buf) -> Bytes {
    data.copy_to_bytes(data.remaining())
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(all(test, outbound_loom))]
#[path = "replay_model.rs"]
mod model;

#[cfg(all(test, not(outbound_loom)))]
mod tests {
    use std::sync::{OnceLock, Weak};

    use super::*;

    /// It may have ended between a look and the next, on another thread.
    #[test]
    fn nobody_waits_for_a_turn_that_has_ended() {
        let body = http_body_util::Full::new(Bytes::from_static(b"hello"));
        let kept = Kept::new(body, None, &Cap { each: 64, sum: None }).unwrap();
        let waits = |reader| kept.wait(reader, &Context::from_waker(Waker::noop()));
        assert!(!waits(1), "the body is there to be read");
        kept.tape().body = None;
        assert!(waits(1) && !waits(2), "only who may read waits for another's turn");
    }

    /// An empty body whose drop sees whether the tape it was on is locked.
    struct Nosy(Arc<OnceLock<Weak<Kept<Nosy>>>>);

    impl Body for Nosy {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(None)
        }

        fn is_end_stream(&self) -> bool {
            true
        }
    }

    impl Drop for Nosy {
        fn drop(&mut self) {
            if let Some(kept) = self.0.get().and_then(Weak::upgrade) {
                assert!(kept.tape.try_lock().is_ok(), "dropped under the lock");
            }
        }
    }

    #[test]
    fn no_body_is_dropped_under_the_lock() {
        let tape = Arc::new(OnceLock::new());
        let factory = BodyFactory::new({
            let tape = tape.clone();
            move || Nosy(tape.clone())
        });
        let kept = Kept::new(Nosy(tape.clone()), Some(factory), &Cap { each: 64, sum: None }).unwrap();
        tape.set(Arc::downgrade(&kept)).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        for next in [Kept::first, |kept: &Arc<_>| Kept::rewind(kept).unwrap()] {
            let mut attempt = next(&kept);
            let _ = Pin::new(&mut attempt).poll_frame(&mut cx);
        }
        kept.finish();
    }
}
