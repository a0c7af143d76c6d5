//! The body of a response over HTTP/2.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Frame, SizeHint};
use outbound_core::{BoxError, ConnectionInfo, Exchange, Timings};
use tokio::task::AbortHandle;

use super::{
    pump::Pump,
    streaming::{Stream, head_size, told},
};

/// While it lasts, it holds its stream.
pub(crate) struct Body {
    incoming: Option<RecvStream>,
    stream: Option<Stream>,
    exchange: Exchange,
    /// What its `Content-Length` leaves to come, if it has one. h2 sees to it that it is kept.
    left: Option<u64>,
    /// What had been read from the connection when somebody began to wait for more.
    waits: Option<u64>,
    /// The task that goes on with the request's body.
    upload: Option<AbortHandle>,
}

impl Body {
    pub(super) fn new(
        incoming: RecvStream,
        pump: Option<Pump>,
        stream: Stream,
        exchange: Exchange,
        left: Option<u64>,
    ) -> Self {
        let upload = pump.map(|pump| tokio::spawn(pump.run()).abort_handle());
        let mut body =
            Self { incoming: Some(incoming), stream: Some(stream), exchange, left, waits: None, upload };
        if body.is_end_stream() {
            body.finish();
        }
        body
    }

    pub(crate) fn connection(&self) -> Option<ConnectionInfo> {
        self.stream.as_ref()?;
        self.exchange.connection()
    }

    pub(crate) fn timings(&self) -> Option<Timings> {
        self.stream.as_ref()?;
        Some(self.exchange.timings())
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = self.poll_incoming(cx);
        match (&self.stream, &polled) {
            (Some(stream), Poll::Pending) => {
                self.waits.get_or_insert_with(|| stream.handle().traffic.bytes_in());
            }
            _ => self.waits = None,
        }
        polled
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let failed = match ready!(incoming.poll_data(cx)) {
            Some(Ok(data)) => {
                if let Some(stream) = &self.stream {
                    stream.handle().heard();
                }
                // What was handed out makes room for more.
                let _ = incoming.flow_control().release_capacity(data.len());
                self.exchange.read(data.len());
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                if incoming.is_end_stream() {
                    self.finish();
                }
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Err(error)) => error,
            None => match ready!(incoming.poll_trailers(cx)) {
                Ok(trailers) => {
                    self.finish();
                    return Poll::Ready(trailers.map(|trailers| {
                        self.exchange.read(head_size(&trailers));
                        Ok(Frame::trailers(trailers))
                    }));
                }
                Err(error) => error,
            },
        };
        Poll::Ready(self.stream.take().map(|stream| {
            self.incoming = None;
            Err(told(&self.exchange, stream.handle(), failed))
        }))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.left {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::new(),
        }
    }

    /// The exchange is over. An upload that is not is of no use any more (RFC 9113, 8.1): its reset, after a whole response, is none that
    /// servers count as rapid.
    fn finish(&mut self) {
        self.stop_upload();
        self.incoming = None;
        if let Some(stream) = self.stream.take() {
            stream.release();
        }
    }

    fn stop_upload(&mut self) {
        if let Some(upload) = self.upload.take() {
            upload.abort();
        }
    }
}

impl Drop for Body {
    /// Given up before its end: that one stream is reset.
    fn drop(&mut self) {
        self.stop_upload();
        if let (Some(incoming), Some(stream)) = (self.incoming.take(), self.stream.take()) {
            if let Some(bytes_in) = self.waits {
                stream.handle().doubt(bytes_in);
            }
            stream.abandon(incoming);
        }
    }
}
