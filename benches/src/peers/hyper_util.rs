//! hyper-util's legacy client, alone and under the layers that are commonly put around it.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tower::{ServiceBuilder, retry::Policy};
use tower_resilience_bulkhead::BulkheadLayer;
use tower_resilience_retry::RetryLayer;
use tower_resilience_timelimiter::TimeLimiterLayer;

use super::{Peer, Visit, service::Caller};
use crate::work::{Http, Order};

pub(super) async fn accept<V: Visit>(peer: Peer, order: &Order, visit: V) -> V::Output {
    let client = client(order.http);
    match peer {
        Peer::LegacyTower => {
            let stack = ServiceBuilder::new()
                .retry(Twice(1))
                .concurrency_limit(CONCURRENCY)
                .timeout(ATTEMPT)
                .service(client);
            visit.visit(async || Caller::new(stack.clone(), order)).await
        }
        Peer::LegacyResilience => {
            let stack = ServiceBuilder::new()
                .layer(RetryLayer::builder().max_attempts(2).build())
                .layer(BulkheadLayer::builder().max_concurrent_calls(CONCURRENCY).build().expect("valid"))
                .layer(TimeLimiterLayer::builder().timeout_duration(ATTEMPT).build())
                .service(client);
            visit.visit(async || Caller::new(stack.clone(), order)).await
        }
        _ => visit.visit(async || Caller::new(client.clone(), order)).await,
    }
}

/// With the timer without which nothing expires, as a client in production has it.
pub(crate) fn client(http: Http) -> Client<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .http2_only(http == Http::H2)
        .build(connector)
}

/// What `Retry` of tower is commonly given: a clone of the request and a number.
#[derive(Clone)]
pub(crate) struct Twice(pub(crate) usize);

impl<R, E> Policy<Request<Full<Bytes>>, R, E> for Twice {
    type Future = std::future::Ready<()>;

    fn retry(&mut self, _: &mut Request<Full<Bytes>>, result: &mut Result<R, E>) -> Option<Self::Future> {
        (result.is_err() && self.0 > 0).then(|| {
            self.0 -= 1;
            std::future::ready(())
        })
    }

    fn clone_request(&mut self, request: &Request<Full<Bytes>>) -> Option<Request<Full<Bytes>>> {
        Some(request.clone())
    }
}

pub(super) const CONCURRENCY: usize = 1_024;
pub(super) const ATTEMPT: Duration = Duration::from_secs(10);
