//! A response body that is watched until it ends.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use outbound_core::End;

use crate::{reclaim::Mode, registry::Ticket};

pin_project_lite::pin_project! {
    /// The body of a response of [`LeakGuard`](crate::LeakGuard): same frames, same errors, same `size_hint`, same `is_end_stream`.
    ///
    /// (It is not an [`OnEnd`](outbound_core::OnEnd), because it has to see each poll, and must not touch a record after the end.)
    #[derive(Debug)]
    pub struct GuardedBody<B> {
        // Dropped before the ticket: it is told of what has happened, and not of what is about to.
        #[pin]
        body: B,
        ticket: Option<Ticket>,
    }
}

impl<B: Body> GuardedBody<B> {
    #[inline]
    pub(crate) fn new<R, M>(body: R, ticket: Option<Ticket>, mode: &M) -> Self
    where
        M: Mode<R, Body = B>,
    {
        let (body, reclaim) = mode.hold(body);
        let mut this = Self { body, ticket };
        let length = this.body.size_hint().exact();
        if this.body.is_end_stream() || length == Some(0) {
            end(&mut this.ticket, End::Complete);
        }
        if let Some(ticket) = &this.ticket {
            ticket.answered(length, reclaim);
        }
        this
    }

    /// The body inside.
    pub fn get_ref(&self) -> &B {
        &self.body
    }
}

impl<B: Body> Body for GuardedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(ticket) = this.ticket else { return this.body.poll_frame(cx) };
        let frame = this.body.as_mut().poll_frame(&mut ticket.polled());
        match &frame {
            Poll::Ready(Some(Ok(_))) if this.body.is_end_stream() => end(this.ticket, End::Complete),
            Poll::Ready(Some(Ok(frame))) => {
                ticket.read(frame.data_ref().map_or(0, |data| data.remaining() as u64))
            }
            Poll::Ready(Some(Err(_))) => end(this.ticket, End::Failed),
            Poll::Ready(None) => end(this.ticket, End::Complete),
            Poll::Pending => ticket.pending(cx),
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

fn end(ticket: &mut Option<Ticket>, end: End) {
    if let Some(ticket) = ticket.take() {
        ticket.end(end);
    }
}
