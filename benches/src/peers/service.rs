//! Every peer that is a Tower service.

use std::{fmt::Debug, pin::pin};

use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{Service, ServiceExt};

use super::Worker;
use crate::work::Order;

/// A service and what is asked of it.
pub(crate) struct Caller<S> {
    service: S,
    order: Order,
}

impl<S> Caller<S> {
    pub(crate) fn new(service: S, order: &Order) -> Self {
        Self { service, order: order.clone() }
    }
}

impl<S, B> Worker for Caller<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Debug, Future: Send> + Send + 'static,
    B: Body<Data: Send, Error: Debug> + Send,
{
    async fn exchange(&mut self) {
        let ready = self.service.ready().await.expect("it becomes ready");
        let response = ready.call(self.order.request()).await.expect("an answer");
        read(response, self.order.answer).await;
    }
}

/// Reads a response to its end.
pub(crate) async fn read<B: Body<Error: Debug>>(response: Response<B>, expected: usize) {
    let mut body = pin!(response.into_body());
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame.expect("a frame").data_ref().map_or(0, Buf::remaining);
    }
    assert_eq!(read, expected, "bytes of the answer");
}
