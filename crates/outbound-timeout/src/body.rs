//! A response body that is read within limits.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use outbound_core::BoxError;
use tokio::time::Instant;

use crate::{
    alarm::Alarm,
    cover,
    limit::{Limit, Watch},
    throughput::Window,
};

pin_project_lite::pin_project! {
    /// The response body of [`Timeout`](crate::Timeout) and of [`WithDeadline`](crate::WithDeadline): the frames, `size_hint` and
    /// `is_end_stream` of the body inside, until a limit runs out.
    ///
    /// It then fails once with [`Elapsed`](outbound_core::Elapsed) and ends; the body inside is dropped at that moment.
    #[derive(Debug)]
    pub struct TimeoutBody<B> {
        #[pin]
        body: Option<B>,
        // In a box, so that the bodies that nobody waits for are no larger for it.
        alarm: Option<Pin<Box<Alarm>>>,
        watch: Watch,
        read_idle: Duration,
        // Since when somebody waits for a frame.
        waiting: Option<Instant>,
        window: Option<Box<Window>>,
    }
}

impl<B> TimeoutBody<B> {
    #[inline]
    pub(crate) fn new(body: B, watch: Watch, read_idle: Duration) -> Self {
        let window = watch.throughput().map(|throughput| Box::new(Window::first(throughput)));
        Self { body: Some(body), alarm: None, watch, read_idle, waiting: None, window }
    }
}

impl<B: Body<Error: Into<BoxError>>> Body for TimeoutBody<B> {
    type Data = B::Data;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let (watch, waiting, window) = (&*this.watch, this.waiting, this.window);
        let Some(mut body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let waited = waiting.is_some();
        cover::clear();
        let frame = body.as_mut().poll_frame(cx).map_err(Into::into);
        match &frame {
            Poll::Pending => {
                let since = *waiting.get_or_insert_with(Instant::now);
                if let Some(window) = window {
                    window.wait(since);
                }
            }
            Poll::Ready(Some(Ok(arrived))) => {
                if waiting.take().is_some()
                    && let Some(alarm) = this.alarm
                {
                    alarm.disarm(watch.monitor());
                }
                if let Some(window) = window {
                    window.arrived(arrived.data_ref().map_or(0, Buf::remaining));
                }
                // An endless body that never keeps anybody waiting ends at the deadline too.
                if body.is_end_stream() || !watch.is_past_deadline() {
                    return frame;
                }
            }
            Poll::Ready(_) => return frame,
        }
        let mut limit = |now| {
            let idle = waiting.and_then(|since| Limit::new("read-idle", since, *this.read_idle));
            let slow = waiting.and(window.as_mut()).and_then(|window| window.limit(now));
            Limit::sooner(Limit::sooner(watch.deadline(), idle), slow)
        };
        // Who has not waited until now is late for a reason of his own.
        let waited = waited && this.alarm.is_some();
        if this.alarm.is_none() {
            let due = limit(waiting.unwrap_or(watch.begun())).map(|limit| limit.due);
            *this.alarm = Alarm::at(due, cx, watch.monitor()).map(Box::pin);
        }
        let Some(alarm) = this.alarm else { return frame };
        let Poll::Ready((limit, now)) = alarm.as_mut().poll(cx, watch, waited, limit) else { return frame };
        // The connection goes now, and not when the caller drops the body.
        this.body.set(None);
        Poll::Ready(Some(Err(watch.no_end(limit, now))))
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
