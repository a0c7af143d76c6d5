//! A limit of 50, and how many sockets the server sees: 300 tasks, 6,000 requests of 64 KiB to one host.
//!
//! Each client has the limit in the way that it can have it: our pool counts sockets; hyper-util's client and reqwest are put under
//! tower's concurrency limit, whose permit is back when the head is there.

use std::{fmt::Debug, net::SocketAddr, pin::pin, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use outbound::{Pool, pool::connect::Tcp};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::sleep};
use tower::{Service, ServiceBuilder, ServiceExt, limit::ConcurrencyLimitLayer};

use crate::{
    extent::Extent,
    process::{DELAY, runtime},
    results::save,
    server::listen,
    work::{Http, Order, Work},
};

/// Sockets that a client has opened.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Opened {
    pub(crate) scenario: String,
    pub(crate) client: String,
    pub(crate) sockets: usize,
}

#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    /// How long a caller keeps a response before it reads the body.
    held: Duration,
    max_idle: usize,
}

pub(crate) fn main(options: &Extent) {
    let (tasks, each) = if options.short { (100, 4) } else { (300, 20) };
    let mut opened = Vec::new();
    println!("{:28} {:44} {:>8}", "sockets opened", "", "limit 50");
    for scenario in SCENARIOS {
        for client in CLIENTS {
            let sockets = runtime(2).block_on(async {
                let (server, listening) = listen(Http::H1, DELAY).await.expect("a free port");
                let accepted = listening.accepted.clone();
                tokio::spawn(listening.serve());
                crowd(client, scenario, server, (tasks, each)).await;
                accepted.load(Ordering::Relaxed)
            });
            println!("{:28} {client:44} {sockets:8}", scenario.name);
            opened.push(Opened { scenario: scenario.name.into(), client: client.into(), sockets });
        }
    }
    if options.save {
        save("limits", &opened);
    }
}

async fn crowd(client: &str, scenario: Scenario, server: SocketAddr, size: (usize, usize)) {
    let Scenario { held, max_idle, .. } = scenario;
    let order = Order::new(Work::Large, Http::H1, server);
    let limit = ConcurrencyLimitLayer::new(LIMIT);
    match client {
        OUTBOUND => {
            let pool = Pool::builder().max_connections(LIMIT).max_idle(max_idle.min(LIMIT));
            let pool = pool.build(Tcp::new()).expect("valid limits");
            spread(size, move || call(pool.clone(), order.request::<Full<Bytes>>(), held)).await;
        }
        LEGACY => {
            let client = Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_max_idle_per_host(max_idle)
                .build_http();
            let client = ServiceBuilder::new().layer(limit).service(client);
            spread(size, move || call(client.clone(), order.request::<Full<Bytes>>(), held)).await;
        }
        _ => {
            let client = reqwest::Client::builder().pool_max_idle_per_host(max_idle);
            let client = ServiceBuilder::new()
                .layer(limit)
                .map_response(Response::<reqwest::Body>::from)
                .service(client.build().expect("a client"));
            let url: reqwest::Url = order.uri.to_string().parse().expect("a valid URL");
            spread(size, move || call(client.clone(), order.reqwest(&url), held)).await;
        }
    }
}

/// One call, whose response is kept for a while before its body is read.
async fn call<S, R, B>(client: S, request: R, held: Duration)
where
    S: Service<R, Response = Response<B>, Error: Debug>,
    B: Body<Error: Debug>,
{
    let response = client.oneshot(request).await.expect("an answer");
    sleep(held).await;
    let mut body = pin!(response.into_body());
    while body.frame().await.transpose().expect("a frame").is_some() {}
}

/// So many tasks, each with so many calls.
async fn spread<F>((tasks, each): (usize, usize), call: impl Fn() -> F + Clone + Send + 'static)
where
    F: Future<Output = ()> + Send,
{
    let mut crowd = JoinSet::new();
    for _ in 0..tasks {
        let call = call.clone();
        crowd.spawn(async move {
            for _ in 0..each {
                call().await;
            }
        });
    }
    while let Some(task) = crowd.join_next().await {
        task.expect("no panic");
    }
}

const LIMIT: usize = 50;
const OUTBOUND: &str = "outbound: pool";
const LEGACY: &str = "hyper-util legacy + tower's concurrency limit";
const CLIENTS: [&str; 3] = [OUTBOUND, LEGACY, "reqwest + tower's concurrency limit"];
const SCENARIOS: [Scenario; 4] = [
    Scenario { name: "bodies read at once", held: Duration::ZERO, max_idle: usize::MAX },
    Scenario { name: "bodies held for 50 ms", held: Duration::from_millis(50), max_idle: usize::MAX },
    Scenario { name: "max_idle 10", held: Duration::ZERO, max_idle: 10 },
    Scenario { name: "max_idle 10, held for 50 ms", held: Duration::from_millis(50), max_idle: 10 },
];
