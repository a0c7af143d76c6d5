//! Ready-made handlers for [`Friendly`](crate::Friendly).
//!
//! All but [`echo`] read the request to its end before they answer.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::sleep;

use crate::{Gate, Upload};

/// What a handler that is made from a value returns.
pub type Reply<B> = Pin<Box<dyn Future<Output = Response<B>> + Send>>;

/// Answers `200` and “hello”.
pub async fn hello(request: Request<Upload>) -> Response<Full<Bytes>> {
    read(request).await;
    Response::new(Full::from("hello"))
}

/// Answers `200` and the request body, frame by frame as it comes.
pub async fn echo(request: Request<Upload>) -> Response<Upload> {
    Response::new(request.into_body())
}

/// Answers `200` and `n` bytes.
pub fn fixed(n: usize) -> impl Fn(Request<Upload>) -> Reply<Full<Bytes>> + Clone {
    let body = Bytes::from(vec![b'x'; n]);
    move |request| {
        let body = body.clone();
        Box::pin(async move {
            read(request).await;
            Response::new(Full::new(body))
        })
    }
}

/// Waits this long on Tokio's clock before `handler` sees the request.
pub fn delayed<H, F, B>(delay: Duration, handler: H) -> impl Fn(Request<Upload>) -> Reply<B> + Clone
where
    H: Fn(Request<Upload>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send,
{
    move |request| {
        let handler = handler.clone();
        Box::pin(async move {
            sleep(delay).await;
            handler(request).await
        })
    }
}

/// Waits at the gate before `handler` sees the request.
pub fn gated<H, F, B>(gate: &Gate, handler: H) -> impl Fn(Request<Upload>) -> Reply<B> + Clone + use<H, F, B>
where
    H: Fn(Request<Upload>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send,
{
    let gate = gate.clone();
    move |request| {
        let (gate, handler) = (gate.clone(), handler.clone());
        Box::pin(async move {
            gate.pass().await;
            handler(request).await
        })
    }
}

async fn read(request: Request<Upload>) {
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
}
