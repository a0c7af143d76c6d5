//! hyper-util's `pool::map` and `pool::cache`, put together as their documentation does it: a list of connections for each origin.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderValue, Uri, header::HOST};
use http_body_util::Full;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::client::{
    legacy::connect::HttpConnector,
    pool::{cache, map::Map},
};
use outbound::{BoxError, pool::connect::Connect};
use tower::{Service, ServiceExt, service_fn};

use super::{Visit, Worker, service::read};
use crate::work::{Http, Order};

pub(super) async fn accept<V: Visit>(order: &Order, visit: V) -> V::Output {
    assert_eq!(order.http, Http::H1, "it is a cache of connections for one exchange at a time");
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    over(connector, order, visit).await
}

/// Over what `connector` opens.
pub(crate) async fn over<V: Visit>(connector: impl Connect, order: &Order, visit: V) -> V::Output {
    let pool = Map::builder::<Uri>()
        .keys(|uri: &Uri| (uri.scheme().cloned(), uri.authority().cloned()))
        .values(move |_: &Uri| {
            let connector = connector.clone();
            cache::builder().build(service_fn(move |uri| open(connector.clone(), uri)))
        })
        .build();
    // A map is not shared by itself.
    let pool = Arc::new(Mutex::new(pool));
    let host: HeaderValue = order.server.to_string().parse().expect("a valid value");
    let path: Uri = order.uri.path().parse().expect("a valid path");
    visit
        .visit(async || {
            let (pool, order, host, path) = (pool.clone(), order.clone(), host.clone(), path.clone());
            Calls(move || {
                let mut cache = pool.lock().expect("no panic").service(&order.uri).clone();
                let uri = order.uri.clone();
                let mut request = order.request::<Full<Bytes>>();
                *request.uri_mut() = path.clone();
                request.headers_mut().insert(HOST, host.clone());
                let expected = order.answer;
                async move {
                    poll_fn(|cx| cache.poll_ready(cx)).await.expect("it becomes ready");
                    // Back in the list when it is dropped, and so not before the body has been read.
                    let mut connection = cache.call(uri).await.expect("a connection");
                    let sender = connection.inner_mut();
                    sender.ready().await.expect("it is kept alive");
                    read(sender.send_request(request).await.expect("an answer"), expected).await;
                }
            })
        })
        .await
}

type Opening = Pin<Box<dyn Future<Output = Result<SendRequest<Full<Bytes>>, BoxError>> + Send>>;

fn open(connector: impl Connect, uri: Uri) -> Opening {
    Box::pin(async move {
        let io = connector.oneshot(uri).await.map_err(Into::into)?;
        let (sender, connection) = handshake(io).await?;
        tokio::spawn(connection);
        Ok(sender)
    })
}

/// A worker made of a closure.
struct Calls<F>(F);

impl<F, R> Worker for Calls<F>
where
    F: FnMut() -> R + Send + 'static,
    R: Future<Output = ()> + Send,
{
    fn exchange(&mut self) -> impl Future<Output = ()> + Send {
        (self.0)()
    }
}
