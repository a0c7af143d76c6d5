//! What an exchange costs its caller beside many hosts and many idle connections: instructions and allocations, over connections
//! within the process.
//!
//! Counted are the caller's polls, from the call to the end of the body: finding a connection, asking whether it is alive, handing over
//! the request, and giving the connection back. What drives the connection, and the server, is not.

use std::{fmt::Debug, pin::pin, process::Command, time::Duration};

use bytes::Bytes;
use clap::Args;
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::Full;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use outbound::{Pool, pool::connect::InMemory};
use serde::{Deserialize, Serialize};
use stats_alloc::Region;
use tower::{Service, ServiceExt};

use crate::{
    Heap,
    counted::{count, counted},
    exchange::name,
    extent::Extent,
    peers::{Peer, service::read},
    process::{DELAY, Program, runtime},
    results::save,
    server::serve_h1,
};

/// Exchanges, in a process of their own.
#[derive(Args)]
pub(crate) struct Beside {
    #[arg(long, value_enum)]
    peer: Peer,
    /// Hosts, each with a connection, that have their turn one after the other
    #[arg(long, default_value_t = 1)]
    hosts: usize,
    /// Connections of each host
    #[arg(long, default_value_t = 1)]
    connections: usize,
}

/// An exchange beside others.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Checkout {
    pub(crate) peer: String,
    pub(crate) hosts: usize,
    pub(crate) connections: usize,
    pub(crate) instructions: f64,
    /// The driver's too.
    pub(crate) allocations: f64,
}

pub(crate) fn main(options: &Extent) {
    let scale = if options.short { 100 } else { 1 };
    let mut checkouts = Vec::new();
    println!(
        "{:44} {:>8} {:>12} {:>13} {:>12}",
        "an exchange", "hosts", "connections", "instructions", "allocations"
    );
    for peer in [Peer::Pool, Peer::Legacy] {
        for (hosts, connections) in [(1, 1), (100, 1), (10_000 / scale, 1), (1, 100), (1, 10_000 / scale)] {
            let found = measure(peer, hosts, connections);
            let Checkout { instructions, allocations, .. } = found;
            println!("{:44} {hosts:8} {connections:12} {instructions:13.0} {allocations:12.1}", peer.title());
            checkouts.push(found);
        }
    }
    if options.save {
        save("checkout", &checkouts);
    }
}

fn measure(peer: Peer, hosts: usize, connections: usize) -> Checkout {
    let arguments = [
        "beside".to_owned(),
        format!("--peer={}", name(peer)),
        format!("--hosts={hosts}"),
        format!("--connections={connections}"),
    ];
    let output = Command::new(Program::Counting.path()).args(&arguments).output().expect("it is a program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Checkout {
        peer: peer.title().to_owned(),
        hosts,
        connections,
        instructions: count(&arguments).instructions as f64 / REQUESTS as f64,
        allocations: serde_json::from_slice(&output.stdout).expect("a number"),
    }
}

/// The process of [`Beside`]: prints the allocations of an exchange, where they are counted.
pub(crate) fn child(options: &Beside, heap: Option<Heap>) {
    let Beside { peer, hosts, connections } = *options;
    let uris: Vec<Uri> = (0..hosts)
        .map(|host| format!("http://host-{host}.example/hello").parse().expect("a valid URI"))
        .collect();
    let connector = InMemory::new(|io| serve_h1(io, DELAY)).buffer(1_024);
    // Nobody is to close or park what waits for its turn.
    let allocations = runtime(1).block_on(async {
        match peer {
            Peer::Pool => {
                let most = hosts * connections;
                let limits = Pool::builder().max_connections(most).max_connections_per_host(connections);
                let limits = limits.idle_timeout(Duration::MAX).park_after(Duration::MAX);
                turns(limits.build(connector).expect("valid limits"), &uris, connections, heap).await
            }
            _ => {
                let mut client = Client::builder(TokioExecutor::new());
                client.pool_timer(TokioTimer::new()).pool_idle_timeout(None);
                turns(client.build(connector), &uris, connections, heap).await
            }
        }
    });
    println!("{allocations}");
}

async fn turns<S, B>(mut service: S, uris: &[Uri], connections: usize, heap: Option<Heap>) -> f64
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: Debug>,
    B: Body<Error: Debug>,
{
    let mut send = async |uri: &Uri| {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = uri.clone();
        service.ready().await.expect("it becomes ready").call(request).await.expect("an answer")
    };
    for uri in uris {
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(send(uri).await);
        }
        for response in open {
            read(response, ANSWER).await;
        }
    }
    // Not in the order in which they came.
    let mut turns = (0..).map(|turn| &uris[turn * 7_919 % uris.len()]);
    // Every connection has been used again once: it has what it keeps for that.
    for uri in turns.by_ref().take(uris.len().max(WARM_UP)) {
        read(send(uri).await, ANSWER).await;
    }
    let region = heap.map(Region::new);
    for uri in turns.take(REQUESTS) {
        each_poll_counted(async { read(send(uri).await, ANSWER).await }).await;
    }
    region.map_or(0.0, |region| region.change().allocations as f64 / REQUESTS as f64)
}

async fn each_poll_counted<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| counted(|| future.as_mut().poll(cx))).await
}

const ANSWER: usize = 13;
const WARM_UP: usize = 200;
const REQUESTS: usize = 1_000;
