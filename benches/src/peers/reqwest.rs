//! reqwest, alone and with its middleware.

use reqwest::{Client, Url};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};

use super::{Peer, Visit, Worker};
use crate::work::{Http, Order};

pub(super) async fn accept<V: Visit>(peer: Peer, order: &Order, visit: V) -> V::Output {
    let mut client = Client::builder();
    if order.http == Http::H2 {
        client = client.http2_prior_knowledge();
    }
    let client = client.build().expect("a client");
    let url: Url = order.uri.to_string().parse().expect("a valid URL");
    if peer == Peer::Reqwest {
        visit.visit(async || Bare { client: client.clone(), url: url.clone(), order: order.clone() }).await
    } else {
        let policy = ExponentialBackoff::builder().build_with_max_retries(3);
        let client =
            ClientBuilder::new(client).with(RetryTransientMiddleware::new_with_policy(policy)).build();
        visit
            .visit(async || Retrying { client: client.clone(), url: url.clone(), order: order.clone() })
            .await
    }
}

struct Bare {
    client: Client,
    url: Url,
    order: Order,
}

struct Retrying {
    client: ClientWithMiddleware,
    url: Url,
    order: Order,
}

impl Worker for Bare {
    async fn exchange(&mut self) {
        let request = self.order.reqwest(&self.url);
        read(self.client.execute(request).await.expect("an answer"), self.order.answer).await;
    }
}

impl Worker for Retrying {
    async fn exchange(&mut self) {
        let request = self.order.reqwest(&self.url);
        read(self.client.execute(request).await.expect("an answer"), self.order.answer).await;
    }
}

async fn read(mut response: reqwest::Response, expected: usize) {
    let mut read = 0;
    while let Some(chunk) = response.chunk().await.expect("a chunk") {
        read += chunk.len();
    }
    assert_eq!(read, expected, "bytes of the answer");
}
