//! The response body: while it lasts, it holds its connection.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use outbound_core::{BoxError, ConnectionInfo, Timings};

use crate::{http1, http2};

/// A response body of the pool.
///
/// Its connection is back in the pool *before* the caller learns of the end. Dropped earlier, over HTTP/1.1, what is left of it is
/// read by a task of its own, within [`Builder::drain`](crate::Builder::drain), so that the connection can be used again; if there
/// is more than that, the connection is closed. Over HTTP/2 its stream is reset, which does the connection no harm.
///
/// **Errors:** [`TransportError`](outbound_core::TransportError) in [`Phase::Body`](outbound_core::Phase::Body); the response had been
/// answered.
pub struct Body(Version);

enum Version {
    Http1(http1::Body),
    Http2(http2::Body),
}

impl Body {
    /// The connection it comes over; `None` once the body has ended.
    pub fn connection(&self) -> Option<ConnectionInfo> {
        match &self.0 {
            Version::Http1(body) => body.connection(),
            Version::Http2(body) => body.connection(),
        }
    }

    /// The time that the exchange has spent in each phase so far; `None` once the body has ended.
    pub fn timings(&self) -> Option<Timings> {
        match &self.0 {
            Version::Http1(body) => body.timings(),
            Version::Http2(body) => body.timings(),
        }
    }
}

impl From<http1::Body> for Body {
    fn from(body: http1::Body) -> Self {
        Self(Version::Http1(body))
    }
}

impl From<http2::Body> for Body {
    fn from(body: http2::Body) -> Self {
        Self(Version::Http2(body))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Version::Http1(body) => body.poll_frame(cx),
            Version::Http2(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Version::Http1(body) => body.is_end_stream(),
            Version::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Version::Http1(body) => body.size_hint(),
            Version::Http2(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("connection", &self.connection()).finish_non_exhaustive()
    }
}
