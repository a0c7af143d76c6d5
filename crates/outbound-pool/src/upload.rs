//! The request body on its way into hyper: of one type for all requests, and not lost while it can still be sent elsewhere.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use outbound_core::BoxError;
use pin_project_lite::pin_project;
use smallvec::SmallVec;

use crate::http1::Wire;

/// A request body inside a connection. One that has ended from the start costs nothing; any other is boxed once, so that it can
/// be moved to another connection although it has been polled, and so that a request is small.
#[derive(Default)]
pub(crate) struct Upload(Option<Rest>);

/// What is to be sent (again).
pub(crate) type Rest = Pin<Box<Source<Erased>>>;

/// For how long what has been taken is kept for a second try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Keep {
    /// There will be none.
    #[default]
    Nothing,
    /// Until a byte of the request has been written.
    Unsent,
    /// Likewise, and then as long as it is not more than [`REPLAY`]: the request is idempotent.
    Small,
}

pin_project! {
    /// Frames that were taken before, then what is left of the body.
    pub(crate) struct Source<B: ?Sized> {
        taken: SmallVec<[Frame<Bytes>; 1]>,
        // How many of `taken` have been handed out (again).
        given: usize,
        // Bytes in `taken`.
        size: usize,
        // Frames have been handed out that are not in `taken`: it cannot start again.
        is_lost: bool,
        // Where to tell how it ended; none until it is on a connection.
        wire: Option<Arc<Wire>>,
        keep: Keep,
        // What its `Content-Length` leaves to be sent, if it has one.
        left: Option<u64>,
        #[pin]
        body: B,
    }
}

type Erased = dyn Body<Data = Bytes, Error = BoxError> + Send;

pin_project! {
    struct Erase<B> {
        #[pin]
        body: B,
    }
}

// === Upload ===

impl Upload {
    pub(crate) fn new<B>(body: B) -> Self
    where
        B: Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() { Self::default() } else { Self(Some(Source::new(body))) }
    }

    /// It goes over `wire`, and is announced to be so long.
    pub(crate) fn on(&mut self, wire: &Arc<Wire>, keep: Keep, length: Option<u64>) {
        self.announce(keep, length);
        if let Some(rest) = &mut self.0 {
            *rest.as_mut().project().wire = Some(wire.clone());
        }
    }

    /// It is announced to be so long.
    pub(crate) fn announce(&mut self, keep: Keep, length: Option<u64>) {
        if self.0.is_none() && length.is_some_and(|length| length > 0) {
            self.0 = Some(Source::new(String::new()));
        }
        if let Some(rest) = &mut self.0 {
            let rest = rest.as_mut().project();
            (*rest.keep, *rest.left) = (keep, length);
        }
    }

    /// It starts again from its beginning, if all that was taken of it is there.
    pub(crate) fn rewound(mut self) -> Option<Self> {
        match self.0.take() {
            Some(rest) if rest.is_lost => None,
            Some(rest) => Some(rest.into()),
            None => Some(Self::default()),
        }
    }

    pub(crate) fn has_body(&self) -> bool {
        self.0.is_some()
    }

    /// Off its connection, without telling it.
    pub(crate) fn take(mut self) -> Self {
        let mut rest = self.0.take();
        if let Some(rest) = &mut rest {
            rest.as_mut().leave();
        }
        Self(rest)
    }
}

impl From<Rest> for Upload {
    fn from(mut rest: Rest) -> Self {
        *rest.as_mut().project().given = 0;
        rest.as_mut().leave();
        Self(Some(rest))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |rest| rest.as_mut().poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|rest| rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |rest| rest.size_hint())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(mut rest) = self.0.take()
            && let Some(wire) = rest.as_mut().leave()
        {
            wire.cut_off(Some(rest).filter(|rest| !rest.is_lost));
        }
    }
}

// === Source ===

impl Source<Erased> {
    fn new<B>(body: B) -> Pin<Box<Self>>
    where
        B: Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Box::pin(Source {
            taken: SmallVec::new(),
            given: 0,
            size: 0,
            is_lost: false,
            wire: None,
            keep: Keep::Nothing,
            left: None,
            body: Erase { body },
        })
    }

    /// Off its connection.
    fn leave(self: Pin<&mut Self>) -> Option<Arc<Wire>> {
        let this = self.project();
        (*this.keep, *this.left) = (Keep::Nothing, None);
        this.wire.take()
    }

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let is_untouched = || self.wire.as_ref().is_some_and(|wire| wire.is_untouched());
        let keep = match self.keep {
            Keep::Unsent | Keep::Small if is_untouched() => usize::MAX,
            Keep::Small => REPLAY,
            Keep::Unsent | Keep::Nothing => 0,
        };
        let frame = self.as_mut().poll_next(keep, cx);
        if let Some(wire) = &self.wire {
            wire.fed(frame.is_ready());
        }
        let frame = ready!(frame);
        if let Some(left) = self.as_mut().project().left {
            let data = match &frame {
                Some(Ok(frame)) => frame.data_ref().map(|data| data.len() as u64),
                _ => None,
            };
            match left.checked_sub(data.unwrap_or(0)) {
                None => return Poll::Ready(Some(Err("longer than its Content-Length".into()))),
                // Its end, or trailers, which are the last that comes. Over HTTP/2 a server could take it for all there is.
                Some(1..) if data.is_none() && !matches!(frame, Some(Err(_))) => {
                    return Poll::Ready(Some(Err("shorter than its Content-Length".into())));
                }
                Some(rest) => *left = rest,
            }
        }
        let is_over = frame.is_none() || self.is_end_stream();
        if is_over && let Some(wire) = &self.wire {
            wire.uploaded();
        }
        Poll::Ready(frame)
    }

    /// The next frame. A copy (of the handle, not the bytes) is kept as long as all that were taken are not more than `keep` bytes.
    fn poll_next(
        self: Pin<&mut Self>,
        keep: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        if let Some(frame) = this.taken.get(*this.given) {
            *this.given += 1;
            return Poll::Ready(Some(Ok(copy(frame))));
        }
        let frame = ready!(this.body.poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            *this.size = this.size.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            *this.is_lost |= *this.size > keep;
            if *this.is_lost {
                (*this.taken, *this.given) = (SmallVec::new(), 0);
            } else {
                this.taken.push(copy(frame));
                *this.given += 1;
            }
        }
        Poll::Ready(frame)
    }

    /// Not before its announced length: hyper would leave the server waiting for the rest.
    fn is_end_stream(&self) -> bool {
        self.left.unwrap_or(0) == 0 && self.given == self.taken.len() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let pending = self.taken[self.given..]
            .iter()
            .filter_map(Frame::data_ref)
            .map(|data| data.len() as u64)
            .sum::<u64>();
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(pending));
        if let Some(upper) = body.upper().and_then(|upper| upper.checked_add(pending)) {
            hint.set_upper(upper);
        }
        hint
    }
}

fn copy(frame: &Frame<Bytes>) -> Frame<Bytes> {
    match (frame.data_ref(), frame.trailers_ref()) {
        (Some(data), _) => Frame::data(data.clone()),
        (None, Some(trailers)) => Frame::trailers(trailers.clone()),
        (None, None) => Frame::data(Bytes::new()),
    }
}

impl<B: ?Sized> fmt::Debug for Source<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

// === Erase ===

impl<B> Body for Erase<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(self.project().body.poll_frame(cx));
        Poll::Ready(frame.map(|frame| match frame {
            // `Bytes` give themselves, others are copied once.
            Ok(frame) => Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
            Err(error) => Err(error.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How much of an idempotent request's body is kept while it may have to be sent again.
const REPLAY: usize = 64 * 1024;
