//! What an idle connection costs in memory, at once and once it has been idle for a while.
//!
//! As many connections as there are to be come from as many requests at once, whose answers the server keeps back until all are there.

use std::{fmt::Debug, net::SocketAddr, process::Command, time::Duration};

use ::hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use bytes::Bytes;
use clap::Args;
use http::Response;
use http_body::Body;
use http_body_util::Full;
use outbound::{
    Pool,
    pool::connect::{Connect, Tcp, Tls},
};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::sleep};
use tower::{Service, ServiceExt};

use crate::{
    Heap,
    exchange::name,
    extent::Extent,
    peers::{Peer, hyper_util, service::read},
    process::{Program, Server, runtime},
    results::save,
    trust::Trust,
    work::{Http, Order, Work},
};

/// Idle connections, in a process of their own.
#[derive(Args)]
pub(crate) struct Idle {
    #[arg(long, value_enum)]
    peer: Peer,
    #[arg(long)]
    server: SocketAddr,
    /// The server's certificate, if it has one
    #[arg(long)]
    trust: Option<Trust>,
    #[arg(long)]
    connections: usize,
    #[arg(long, value_enum)]
    work: Work,
}

/// Bytes of heap for each idle connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) peer: String,
    #[serde(default)]
    pub(crate) encrypted: bool,
    pub(crate) connections: usize,
    pub(crate) work: String,
    pub(crate) bytes: f64,
    /// After some seconds more.
    pub(crate) later: f64,
}

pub(crate) fn main(options: &Extent) {
    let scale = if options.short { 10 } else { 1 };
    let mut memory = Vec::new();
    println!(
        "{:44} {:>12} {:>8} {:>9} {:>9}",
        "bytes of an idle connection", "connections", "after", "bytes", "later"
    );
    let plain = [Peer::Pool, Peer::Legacy, Peer::Reqwest]
        .into_iter()
        .flat_map(|peer| [1_000, 10_000].map(|connections| (peer, false, connections)));
    // Over the same TLS: what rustls keeps is the same for all.
    let encrypted = [Peer::Pool, Peer::Legacy].map(|peer| (peer, true, 1_000));
    for (peer, encrypted, connections) in plain.chain(encrypted) {
        for work in [Work::Hello, Work::Large] {
            let found = measure(peer, encrypted, connections / scale, work);
            let Memory { connections, work, bytes, later, .. } = &found;
            let peer = format!("{}{}", found.peer, if encrypted { ", TLS" } else { "" });
            println!("{peer:44} {connections:12} {work:>8} {bytes:9.0} {later:9.0}");
            memory.push(found);
        }
    }
    if options.save {
        save("memory", &memory);
    }
}

fn measure(peer: Peer, encrypted: bool, connections: usize, work: Work) -> Memory {
    let each = if encrypted { 5 } else { 1 };
    let delay = Duration::from_millis(2_000 + each * connections as u64);
    let server = Server::delaying(encrypted, delay);
    let output = Command::new(Program::Counting.path())
        .arg("idle")
        .args([format!("--peer={}", name(peer)), format!("--server={}", server.address)])
        .args([format!("--connections={connections}"), format!("--work={}", name(work))])
        .args(server.trust.as_ref().map(|trust| format!("--trust={trust}")))
        .output()
        .expect("it is a program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let [bytes, later]: [f64; 2] = serde_json::from_slice(&output.stdout).expect("two numbers");
    Memory { peer: peer.title().to_owned(), encrypted, connections, work: name(work), bytes, later }
}

/// The process of [`Idle`]: prints bytes per connection, at once and after a while.
pub(crate) fn child(options: &Idle, heap: Option<Heap>) {
    let heap = heap.expect("the program that counts");
    let Idle { server, connections, work, .. } = *options;
    let order = move |work| Order::new(work, Http::H1, server);
    let request = move |work| order(work).request::<Full<Bytes>>();
    let encrypted = move |work| order(work).encrypted().request::<Full<Bytes>>();
    let found = runtime(1).block_on(async {
        match (options.peer, &options.trust) {
            (Peer::Pool, None) => fill(pool(connections, Tcp::new()), request, work, connections, heap).await,
            (Peer::Pool, Some(trust)) => {
                let pool = pool(connections, Tls::new(Tcp::new(), trust.config(true)));
                fill(pool, encrypted, work, connections, heap).await
            }
            (Peer::Legacy, None) => {
                let client = hyper_util::client(Http::H1);
                fill(client, request, work, connections, heap).await
            }
            (Peer::Legacy, Some(trust)) => {
                let client = Client::builder(TokioExecutor::new())
                    .pool_timer(TokioTimer::new())
                    .build(Tls::new(Tcp::new(), trust.config(true)));
                fill(client, encrypted, work, connections, heap).await
            }
            _ => {
                let request = move |work| {
                    let order = order(work);
                    order.reqwest(&order.uri.to_string().parse().expect("a valid URL"))
                };
                let client = reqwest::Client::builder().build().expect("a client");
                let client = client.map_response(Response::<reqwest::Body>::from);
                fill(client, request, work, connections, heap).await
            }
        }
    });
    println!("{}", serde_json::to_string(&found).expect("numbers"));
}

fn pool<C: Connect>(connections: usize, connector: C) -> Pool<C> {
    let limits = Pool::builder().max_connections(connections).max_connections_per_host(connections);
    limits.build(connector).expect("valid limits")
}

/// Opens as many connections as there are to be, uses each and leaves it idle.
async fn fill<S, R, B>(
    mut service: S,
    request: impl Fn(Work) -> R,
    work: Work,
    connections: usize,
    heap: Heap,
) -> [f64; 2]
where
    S: Service<R, Response = Response<B>, Error: Debug, Future: Send> + Clone + Send + 'static,
    R: Send + 'static,
    B: Body<Data: Send, Error: Debug> + Send + 'static,
{
    let before = live(heap);
    let each = |bytes: isize| bytes as f64 / connections as f64;
    let mut opening = JoinSet::new();
    for _ in 0..connections {
        let answer = service.clone().oneshot(request(Work::Delayed));
        opening.spawn(async move { read(answer.await.expect("an answer"), ANSWER).await });
    }
    while let Some(opened) = opening.join_next().await {
        opened.expect("no panic");
    }
    drop(opening);
    if work == Work::Large {
        // A response of which most is still to be read keeps its connection.
        let mut open = Vec::with_capacity(connections);
        for _ in 0..connections {
            let ready = service.ready().await.expect("it becomes ready");
            open.push(ready.call(request(work)).await.expect("an answer"));
        }
        for response in open {
            read(response, work.answer().len()).await;
        }
    }
    sleep(SETTLE).await;
    let now = each(live(heap) - before);
    sleep(LATER).await;
    [now, each(live(heap) - before)]
}

fn live(heap: Heap) -> isize {
    let stats = heap.stats();
    stats.bytes_allocated as isize - stats.bytes_deallocated as isize
}

const ANSWER: usize = 13;
/// What was read is given back to the pool.
const SETTLE: Duration = Duration::from_millis(200);
/// What is parked is parked by then.
const LATER: Duration = Duration::from_secs(5);
