//! The one body wrapper: a hook that learns exactly once how a body ended.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// It was read to its end.
    Complete,
    /// It gave an error.
    Failed,
    /// It was dropped before its end.
    Dropped,
}

/// What to do when a body ends. [`at_end`](Self::at_end) is called exactly once, and may run in `drop`: it must not panic.
pub trait AtEnd {
    /// The body has ended so.
    fn at_end(self, end: End);

    /// A frame with so many bytes of data is about to be handed out; zero for trailers.
    fn on_frame(&mut self, bytes: usize) {
        let _ = bytes;
    }
}

pin_project_lite::pin_project! {
    /// A body that tells `H` once how it ended, and otherwise is `B`: same frames, same `size_hint`, same `is_end_stream`.
    ///
    /// The hook learns of the end *before* the caller does: with the last frame where the body says that it is the last,
    /// else with the `None` after it. A body that has ended from the start tells it on construction.
    #[derive(Debug)]
    pub struct OnEnd<B, H>
    where
        H: AtEnd,
    {
        #[pin]
        body: B,
        hook: Hook<H>,
    }
}

#[derive(Debug)]
struct Hook<H: AtEnd>(Option<H>);

// === OnEnd ===

impl<B: Body, H: AtEnd> OnEnd<B, H> {
    /// Wraps `body`.
    #[inline]
    pub fn new(body: B, hook: H) -> Self {
        let mut this = Self { body, hook: Hook(Some(hook)) };
        if this.body.is_end_stream() {
            this.hook.tell(End::Complete);
        }
        this
    }

    /// The hook, until it has been told.
    pub fn hook(&self) -> Option<&H> {
        self.hook.0.as_ref()
    }

    /// The body inside.
    pub fn get_ref(&self) -> &B {
        &self.body
    }
}

impl<B: Body, H: AtEnd> Body for OnEnd<B, H> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let frame = this.body.as_mut().poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(hook) = &mut this.hook.0 {
                    hook.on_frame(frame.data_ref().map_or(0, Buf::remaining));
                }
                if this.body.is_end_stream() {
                    this.hook.tell(End::Complete);
                }
            }
            Poll::Ready(Some(Err(_))) => this.hook.tell(End::Failed),
            Poll::Ready(None) => this.hook.tell(End::Complete),
            Poll::Pending => {}
        }
        frame
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === Hook ===

impl<H: AtEnd> Hook<H> {
    fn tell(&mut self, end: End) {
        if let Some(hook) = self.0.take() {
            hook.at_end(end);
        }
    }
}

impl<H: AtEnd> Drop for Hook<H> {
    fn drop(&mut self) {
        self.tell(End::Dropped);
    }
}
