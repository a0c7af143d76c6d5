//! The response body: the attempt lasts as long as it does.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use outbound_core::BoxError;

use crate::attempt::Ongoing;

pin_project_lite::pin_project! {
    /// The response body of [`Telemetry`](crate::Telemetry): the frames, `size_hint` and `is_end_stream` of the body inside.
    ///
    /// The attempt is measured, and its span ended, before the caller learns of the end; or when this is dropped.
    // Not core's `OnEnd`, whose hook learns that a body has failed, but not of what.
    #[derive(Debug)]
    pub struct TelemetryBody<B> {
        #[pin]
        body: B,
        attempt: Option<Ongoing>,
    }
}

impl<B: Body> TelemetryBody<B> {
    pub(crate) fn new(body: B, mut attempt: Option<Ongoing>) -> Self {
        if body.is_end_stream()
            && let Some(attempt) = attempt.take()
        {
            attempt.complete();
        }
        Self { body, attempt }
    }
}

impl<B: Body<Error: Into<BoxError>>> Body for TelemetryBody<B> {
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let polled = {
            let _entered = this.attempt.as_ref().map(|attempt| attempt.span.enter());
            this.body.as_mut().poll_frame(cx)
        };
        let Poll::Ready(frame) = polled else {
            this.attempt.iter_mut().for_each(Ongoing::waits);
            return Poll::Pending;
        };
        let frame = frame.map(|frame| frame.map_err(Into::into));
        if let Some(mut attempt) = this.attempt.take() {
            match &frame {
                None => attempt.complete(),
                Some(Err(error)) => attempt.failed(&**error),
                Some(Ok(frame)) => {
                    attempt.read(frame.data_ref().map_or(0, Buf::remaining));
                    if this.body.is_end_stream() {
                        attempt.complete();
                    } else {
                        attempt.goes_on();
                        *this.attempt = Some(attempt);
                    }
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
