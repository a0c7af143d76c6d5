//! A response head that is awaited within limits.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use outbound_core::BoxError;

use crate::{
    alarm::Alarm,
    body::TimeoutBody,
    cover,
    limit::{Limit, Limits, Watch},
};

pin_project_lite::pin_project! {
    /// The response of [`Timeout`](crate::Timeout) and of [`WithDeadline`](crate::WithDeadline).
    ///
    /// Drop it at any time: what it waited for is dropped with it.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        // None before anything was sent, or after a limit ran out.
        #[pin]
        response: Option<F>,
        barred: Option<BoxError>,
        #[pin]
        alarm: Option<Alarm>,
        watch: Watch,
        limits: Limits,
    }
}

impl<F> ResponseFuture<F> {
    /// The request has been handed on.
    #[inline]
    pub(crate) fn sent(response: F, watch: Watch, limits: Limits) -> Self {
        Self { response: Some(response), barred: None, alarm: None, watch, limits }
    }

    /// Nothing is sent: `limit` has run out already.
    pub(crate) fn barred(limit: Limit, watch: Watch, limits: Limits) -> Self {
        let barred = Some(limit.barred(watch.target()));
        Self { response: None, barred, alarm: None, watch, limits }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<TimeoutBody<B>>, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(response) = this.response.as_mut().as_pin_mut() else {
            return this.barred.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
        };
        let (watch, limits) = (this.watch, this.limits);
        cover::clear();
        match response.poll(cx) {
            Poll::Ready(Ok(response)) => {
                if let Some(alarm) = this.alarm.as_ref().as_pin_ref() {
                    alarm.disarm(watch.monitor());
                }
                Poll::Ready(Ok(response.map(|body| TimeoutBody::new(body, watch.take(), limits.read_idle))))
            }
            Poll::Ready(Err(error)) => {
                if let Some(alarm) = this.alarm.as_ref().as_pin_ref() {
                    alarm.disarm(watch.monitor());
                }
                Poll::Ready(Err(error.into()))
            }
            Poll::Pending => {
                // Who has not waited until now is late for a reason of his own.
                let waited = this.alarm.is_some();
                if !waited {
                    this.alarm.set(Alarm::at(watch.first_due(limits), cx, watch.monitor()));
                }
                let Some(alarm) = this.alarm.as_pin_mut() else { return Poll::Pending };
                let limit = |now| watch.until_head(limits, now);
                let (limit, now) = ready!(alarm.poll(cx, watch, waited, limit));
                // The connection goes now, and not when the caller drops the future.
                let error = watch.no_head(limit, now);
                this.response.set(None);
                Poll::Ready(Err(error))
            }
        }
    }
}
