//! A response that is awaited.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use http_body::Body;

use crate::{body::GuardedBody, reclaim::Mode, registry::Ticket};

pin_project_lite::pin_project! {
    /// The response of [`LeakGuard`](crate::LeakGuard). Drop it at any time: a call that is cancelled is no leak.
    #[derive(Debug)]
    pub struct ResponseFuture<F, M> {
        // Dropped before the ticket: what it held has been let go of when the call is over.
        #[pin]
        response: F,
        ticket: Option<Ticket>,
        mode: M,
    }
}

impl<F, M> ResponseFuture<F, M> {
    pub(crate) fn new(response: F, ticket: Ticket, mode: M) -> Self {
        Self { response, ticket: Some(ticket), mode }
    }
}

impl<F, M, B, E> Future for ResponseFuture<F, M>
where
    F: Future<Output = Result<Response<B>, E>>,
    M: Mode<B>,
    M::Body: Body,
{
    type Output = Result<Response<GuardedBody<M::Body>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let polled = match this.ticket {
            Some(ticket) => this.response.poll(&mut ticket.polled()),
            // It is over: whatever the service inside does when it is polled again.
            None => this.response.poll(cx),
        };
        match polled {
            Poll::Ready(Ok(response)) => {
                let ticket = this.ticket.take();
                Poll::Ready(Ok(response.map(|body| GuardedBody::new(body, ticket, this.mode))))
            }
            Poll::Ready(Err(error)) => {
                *this.ticket = None;
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                if let Some(ticket) = this.ticket {
                    ticket.pending(cx);
                }
                Poll::Pending
            }
        }
    }
}
