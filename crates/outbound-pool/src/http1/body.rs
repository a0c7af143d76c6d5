//! The body of a response over HTTP/1.1.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use outbound_core::{BoxError, ConnectionInfo, Failure, Timings, TransportError};
use tokio::{runtime::Handle, time::timeout};

use super::connection::Exclusive;

/// While it lasts, it holds its connection.
pub(crate) struct Body {
    /// None once it has been dropped.
    incoming: Option<Incoming>,
    lease: Option<Exclusive>,
    /// Whether the connection may be used again after this response.
    reusable: bool,
    /// Whether what is left of it is worth reading when it is dropped.
    drains: bool,
}

/// What is left of a body that nobody wants: read to its end it gives the connection back, dropped before it closes it.
struct Leftover {
    body: Body,
    /// Bytes that may still be read.
    room: u64,
}

// === Body ===

impl Body {
    pub(crate) fn new(incoming: Incoming, lease: Exclusive, reusable: bool) -> Self {
        let mut body = Self { incoming: Some(incoming), lease: Some(lease), reusable, drains: reusable };
        if body.is_end_stream() {
            body.finish();
        }
        body
    }

    /// Of a response after which the connection is not for HTTP any more.
    pub(crate) fn detached(incoming: Incoming) -> Self {
        Self { incoming: Some(incoming), lease: None, reusable: false, drains: false }
    }

    pub(crate) fn connection(&self) -> Option<ConnectionInfo> {
        self.lease.as_ref()?.exchange.as_ref()?.connection()
    }

    pub(crate) fn timings(&self) -> Option<Timings> {
        Some(self.lease.as_ref()?.exchange.as_ref()?.timings())
    }

    /// The exchange is over: in both directions, or the connection is not to be used again.
    fn finish(&mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        let is_uploaded = lease.wire.end();
        let is_kept = self.reusable && is_uploaded && !lease.is_closed();
        if let Some(exchange) = &lease.exchange {
            exchange.keeps(is_kept);
        }
        if is_kept {
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

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(incoming).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Err(error)) => Some(Err(self.fail(error))),
            Some(Ok(frame)) => {
                if self.is_end_stream() {
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

    pub(crate) fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for Body {
    /// What has arrived already is taken at once, and what may follow soon by a task of its own.
    fn drop(&mut self) {
        let Some(lease) = &self.lease else { return };
        let (bytes, time) = lease.drain;
        let announced = self.size_hint().lower();
        if !self.drains || bytes == 0 || announced > bytes || !lease.wire.is_uploaded() {
            if let Some(exchange) = &lease.exchange {
                exchange.keeps(false);
            }
            return;
        }
        let body = Self {
            incoming: self.incoming.take(),
            lease: self.lease.take(),
            reusable: self.reusable,
            drains: false,
        };
        let mut leftover = Leftover { body, room: bytes };
        let polled = Pin::new(&mut leftover).poll(&mut Context::from_waker(Waker::noop()));
        if let (Poll::Pending, Ok(runtime)) = (polled, Handle::try_current()) {
            runtime.spawn(async move {
                let _ = timeout(time, leftover).await;
            });
        }
    }
}

// === Leftover ===

impl Future for Leftover {
    type Output = ();

    /// Ready when it has ended, or is more than there is room for.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(Ok(frame)) = ready!(self.body.poll_frame(cx)) {
            let read = frame.data_ref().map_or(0, Bytes::len) as u64;
            match self.room.checked_sub(read) {
                Some(room) => self.room = room,
                None => break,
            }
        }
        Poll::Ready(())
    }
}
