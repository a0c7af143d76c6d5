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
    limit::{Limit, Watch},
};

pin_project_lite::pin_project! {
    /// The response of [`Timeout`](crate::Timeout) and of [`WithDeadline`](crate::WithDeadline).
    ///
    /// Drop it at any time: what it waited for is dropped with it.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        response: Option<F>,
        barred: Option<Limit>,
        #[pin]
        alarm: Alarm,
        watch: Watch,
    }
}

impl<F> ResponseFuture<F> {
    /// Nothing is sent if a limit has run out already.
    pub(crate) fn new(watch: Watch, send: impl FnOnce() -> F) -> Self {
        let barred = watch.barred();
        Self { response: barred.is_none().then(send), barred, alarm: Alarm::default(), watch }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<TimeoutBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let watch = &*this.watch;
        let Some(response) = this.response.as_mut().as_pin_mut() else {
            return this.barred.take().map_or(Poll::Pending, |limit| Poll::Ready(Err(limit.barred())));
        };
        if let Poll::Ready(result) = response.poll(cx) {
            this.alarm.disarm(watch.monitor.as_ref());
            return Poll::Ready(match result {
                Ok(response) => Ok(response.map(|body| TimeoutBody::new(body, watch.clone()))),
                Err(error) => Err(error.into()),
            });
        }
        let (limit, now) = ready!(this.alarm.poll(cx, watch, true, |now| watch.until_head(now)));
        // The connection goes now, and not when the caller drops the future.
        let error = watch.no_head(limit, now);
        this.response.set(None);
        Poll::Ready(Err(error))
    }
}
