//! The request body on its way into a stream, as fast as the peer's window opens.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body as _;
use outbound_core::{BoxError, Exchange};

use crate::upload::Upload;

/// Ready when everything has been handed over, or nothing more can be.
pub(super) struct Pump {
    stream: SendStream<Bytes>,
    upload: Upload,
    /// Taken from the body, and not handed over yet.
    pending: Bytes,
    exchange: Exchange,
    is_over: bool,
}

/// Why an upload stopped.
pub(super) enum Stopped {
    /// The request's own body failed: the stream is to be reset.
    Body(BoxError),
    /// The peer, or the connection, takes no more: the response says why.
    Stream,
}

impl Pump {
    pub(super) fn new(stream: SendStream<Bytes>, upload: Upload, exchange: Exchange) -> Self {
        Self { stream, upload, pending: Bytes::new(), exchange, is_over: false }
    }

    /// The body, if it can be sent again from its start.
    pub(super) fn into_upload(self) -> Option<Upload> {
        self.upload.rewound()
    }

    /// Whether it has ended, well or not.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// To its end where nobody waits for it.
    pub(super) async fn run(mut self) {
        if let Err(Stopped::Body(_)) = std::future::poll_fn(|cx| self.poll(cx)).await {
            self.stream.send_reset(Reason::CANCEL);
        }
    }

    /// Must not be polled again after it has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        let ended = ready!(self.poll_end(cx));
        self.is_over = true;
        Poll::Ready(ended)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        loop {
            while !self.pending.is_empty() {
                let room = ready!(self.poll_room(cx))?;
                let data = self.pending.split_to(room.min(self.pending.len()));
                let (sent, is_last) = (data.len(), self.pending.is_empty() && self.upload.is_end_stream());
                self.stream.send_data(data, is_last).map_err(|_| Stopped::Stream)?;
                self.exchange.wrote(sent);
                if is_last {
                    return Poll::Ready(Ok(()));
                }
            }
            // Whoever waits for the next piece is to learn of a peer that wants no more.
            if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Stopped::Stream));
            }
            let frame = Pin::new(&mut self.upload).poll_frame(cx);
            if frame.is_ready() {
                self.exchange.fed()
            } else {
                self.exchange.starved()
            }
            match ready!(frame) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.pending = data,
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        return Poll::Ready(self.stream.send_trailers(trailers).map_err(|_| Stopped::Stream));
                    }
                },
                Some(Err(error)) => return Poll::Ready(Err(Stopped::Body(error))),
                None => {
                    let ended = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(ended.map_err(|_| Stopped::Stream));
                }
            }
        }
    }

    /// How much the peer takes now.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Stopped>> {
        self.stream.reserve_capacity(self.pending.len());
        loop {
            match self.stream.capacity() {
                0 => match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Poll::Ready(Err(Stopped::Stream)),
                },
                room => return Poll::Ready(Ok(room)),
            }
        }
    }
}
