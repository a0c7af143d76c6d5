//! The response body: while it lasts, it holds its connection.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use outbound_core::{BoxError, ConnectionInfo, Failure, Timings, TransportError};

use crate::connection::Lease;

/// A response body of the pool.
///
/// Its connection is back in the pool *before* the caller learns of the end. Dropped earlier, it closes the connection: what is
/// left of the response is in the way of the next one.
///
/// **Errors:** [`TransportError`] in [`Phase::Body`](outbound_core::Phase::Body); the response had been answered.
pub struct Body {
    incoming: Incoming,
    lease: Option<Lease>,
    /// Whether the connection may be used again after this response.
    reusable: bool,
}

impl Body {
    pub(crate) fn new(incoming: Incoming, lease: Lease, reusable: bool) -> Self {
        let mut body = Self { incoming, lease: Some(lease), reusable };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    /// The connection it comes over; `None` once the body has ended.
    pub fn connection(&self) -> Option<ConnectionInfo> {
        self.lease.as_ref()?.exchange.as_ref()?.connection()
    }

    /// The time that the exchange has spent in each phase so far; `None` once the body has ended.
    pub fn timings(&self) -> Option<Timings> {
        Some(self.lease.as_ref()?.exchange.as_ref()?.timings())
    }

    /// The exchange is over: in both directions, or the connection is not to be used again.
    fn finish(&mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        let is_over = self.reusable && lease.wire.is_uploaded() && !lease.is_closed();
        lease.wire.end();
        if is_over {
            lease.served += 1;
            lease.fields.forget();
            lease.release();
        }
    }

    fn fail(&mut self, error: hyper::Error) -> BoxError {
        let kind = Failure::of(&error).kind();
        let lease = self.lease.take();
        match lease.as_ref().and_then(|lease| lease.exchange.as_ref()) {
            Some(exchange) => TransportError::new(kind, exchange).because(error).into(),
            None => error.into(),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Err(error)) => Some(Err(self.fail(error))),
            Some(Ok(frame)) => {
                if self.incoming.is_end_stream() {
                    self.finish();
                }
                Some(Ok(frame))
            }
            None => {
                self.finish();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("connection", &self.connection()).finish_non_exhaustive()
    }
}
