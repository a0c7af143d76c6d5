//! Ours, layer by layer.

use std::time::Duration;

use outbound::{
    Body, Client, ConcurrencyLimitLayer, DeadlineLayer, LeakGuardLayer, Pool, RetryLayer, TimeoutLayer,
    pool::connect::Tcp, retry::Standard,
};
use tower::{Service, ServiceBuilder, ServiceExt};

use super::{
    Peer, Visit, Worker,
    hyper_util::{ATTEMPT, CONCURRENCY},
    service::{Caller, read},
};
use crate::work::{Http, Order};

pub(super) async fn accept<V: Visit>(peer: Peer, order: &Order, visit: V) -> V::Output {
    let is_h2 = order.http == Http::H2;
    let pool = Pool::builder()
        .max_connections_per_host(512)
        .http2_prior_knowledge(is_h2)
        .build(Tcp::new())
        .expect("valid limits");
    let (guard, _leaks) = LeakGuardLayer::pair();
    let timeout = TimeoutLayer::new(ATTEMPT);
    let limit = ConcurrencyLimitLayer::new(CONCURRENCY);
    let retry = RetryLayer::new(Standard::default());
    let stack = ServiceBuilder::new();
    match peer {
        Peer::Pool => visit.visit(async || Caller::new(pool.clone(), order)).await,
        Peer::Guard => {
            let stack = stack.layer(guard).service(pool);
            visit.visit(async || Caller::new(stack.clone(), order)).await
        }
        Peer::Timeout => {
            let stack = stack.layer(timeout).layer(guard).service(pool);
            visit.visit(async || Caller::new(stack.clone(), order)).await
        }
        Peer::Limit => {
            let stack = stack.layer(limit).layer(timeout).layer(guard).service(pool);
            visit.visit(async || Caller::new(stack.clone(), order)).await
        }
        Peer::Retry => {
            let stack = stack.layer(retry).layer(limit).layer(timeout).layer(guard).service(pool);
            visit.visit(async || Caller::new(stack.clone(), order)).await
        }
        Peer::Client => {
            let client = Client::builder().max_connections_per_host(512).http2_prior_knowledge(is_h2);
            let client = client.build().expect("valid settings");
            visit.visit(async || Preset { client: client.clone(), order: order.clone() }).await
        }
        _ => {
            let stack = stack.layer(DeadlineLayer::new(TOTAL)).layer(retry).layer(limit);
            let stack = stack.layer(timeout).layer(guard).service(pool);
            visit.visit(async || Caller::new(stack.clone(), order)).await
        }
    }
}

struct Preset {
    client: Client,
    order: Order,
}

impl Worker for Preset {
    async fn exchange(&mut self) {
        let ready = self.client.ready().await.expect("it becomes ready");
        let response = ready.call(self.order.request::<Body>()).await.expect("an answer");
        read(response, self.order.answer).await;
    }
}

const TOTAL: Duration = Duration::from_secs(30);
