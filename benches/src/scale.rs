//! What many hosts and many idle connections cost: instructions of an exchange, and memory.

use std::{fmt::Debug, net::SocketAddr, process::Command, time::Duration};

use bytes::Bytes;
use clap::Args;
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::Full;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use outbound::{
    Pool,
    pool::connect::{InMemory, Tcp},
};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tower::{Service, ServiceExt};

use crate::{
    Heap,
    exchange::name,
    instructions::callgrind,
    peers::{Peer, service::read},
    process::{Program, Server, runtime},
    results::save,
    server::serve_h1,
    work::{Http, Order, Work},
};

/// How much.
#[derive(Args)]
pub(crate) struct Options {
    /// A tenth of it: whether it works at all
    #[arg(long)]
    short: bool,
    /// Keep the results for the report
    #[arg(long)]
    save: bool,
}

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
    #[arg(long)]
    requests: usize,
}

/// Idle connections, in a process of their own.
#[derive(Args)]
pub(crate) struct Idle {
    #[arg(long, value_enum)]
    peer: Peer,
    #[arg(long)]
    server: SocketAddr,
    #[arg(long)]
    connections: usize,
    #[arg(long, value_enum)]
    work: Work,
}

/// What was found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Scale {
    pub(crate) checkout: Vec<Checkout>,
    pub(crate) memory: Vec<Memory>,
}

/// An exchange beside others.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Checkout {
    pub(crate) peer: String,
    pub(crate) hosts: usize,
    pub(crate) connections: usize,
    pub(crate) instructions: f64,
}

/// Bytes of heap for each idle connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) peer: String,
    pub(crate) connections: usize,
    pub(crate) work: String,
    pub(crate) bytes: f64,
    /// After some seconds more.
    pub(crate) later: f64,
}

pub(crate) fn main(options: &Options) {
    let scale = if options.short { 10 } else { 1 };
    let mut found = Scale::default();
    println!("{:44} {:>8} {:>12} {:>13}", "an exchange", "hosts", "connections", "instructions");
    for peer in [Peer::Pool, Peer::Legacy] {
        for (hosts, connections) in [(1, 1), (100, 1), (10_000 / scale, 1), (1, 100), (1, 10_000 / scale)] {
            let instructions = checkout(peer, hosts, connections);
            println!("{:44} {hosts:8} {connections:12} {instructions:13.0}", peer.title());
            found.checkout.push(Checkout { peer: peer.title().to_owned(), hosts, connections, instructions });
        }
    }
    println!(
        "\n{:44} {:>12} {:>8} {:>9} {:>9}",
        "bytes of an idle connection", "connections", "after", "bytes", "later"
    );
    for peer in [Peer::Pool, Peer::Legacy, Peer::Reqwest] {
        for connections in [1_000 / scale, 10_000 / scale] {
            for work in [Work::Hello, Work::Large] {
                let memory = memory(peer, connections, work);
                println!(
                    "{:44} {connections:12} {:>8} {:9.0} {:9.0}",
                    peer.title(),
                    memory.work,
                    memory.bytes,
                    memory.later
                );
                found.memory.push(memory);
            }
        }
    }
    if options.save {
        save("scale", &found);
    }
}

/// Instructions of an exchange.
fn checkout(peer: Peer, hosts: usize, connections: usize) -> f64 {
    let [short, long] = [1_000, 11_000].map(|requests| {
        let arguments = [
            "beside".to_owned(),
            format!("--peer={}", name(peer)),
            format!("--hosts={hosts}"),
            format!("--connections={connections}"),
            format!("--requests={requests}"),
        ];
        callgrind(&arguments, None)
    });
    long.saturating_sub(short) as f64 / 10_000.0
}

fn memory(peer: Peer, connections: usize, work: Work) -> Memory {
    let server = Server::start(Http::H1);
    let output = Command::new(Program::Counting.path())
        .arg("idle")
        .args([format!("--peer={}", name(peer)), format!("--server={}", server.address)])
        .args([format!("--connections={connections}"), format!("--work={}", name(work))])
        .output()
        .expect("it is a program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let [bytes, later]: [f64; 2] = serde_json::from_slice(&output.stdout).expect("two numbers");
    Memory { peer: peer.title().to_owned(), connections, work: name(work), bytes, later }
}

// === Beside ===

/// The process of [`Beside`].
pub(crate) fn beside(options: &Beside) {
    let Beside { peer, hosts, connections, requests } = *options;
    let uris: Vec<Uri> = (0..hosts)
        .map(|host| format!("http://host-{host}.example/hello").parse().expect("a valid URI"))
        .collect();
    let connector = InMemory::new(serve_h1).buffer(1_024);
    runtime(1).block_on(async {
        match peer {
            Peer::Pool => {
                let most = hosts * connections;
                let pool = Pool::builder().max_connections(most).max_connections_per_host(connections);
                turns(pool.build(connector).expect("valid limits"), &uris, connections, requests).await;
            }
            _ => {
                let client =
                    Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
                turns(client, &uris, connections, requests).await;
            }
        }
    });
}

async fn turns<S, B>(mut service: S, uris: &[Uri], connections: usize, requests: usize)
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
    for turn in 0..requests {
        // Not in the order in which they came.
        let response = send(&uris[turn * 7_919 % uris.len()]).await;
        read(response, ANSWER).await;
    }
}

// === Idle ===

/// The process of [`Idle`]: prints bytes per connection, at once and after a while.
pub(crate) fn idle(options: &Idle, heap: Option<Heap>) {
    let heap = heap.expect("the program that counts");
    let order = Order::new(options.work, Http::H1, options.server);
    let connections = options.connections;
    let found = runtime(1).block_on(async {
        match options.peer {
            Peer::Pool => {
                let pool = Pool::builder().max_connections(connections).max_connections_per_host(connections);
                let pool = pool.build(Tcp::new()).expect("valid limits");
                fill(pool, || order.request::<Full<Bytes>>(), &order, connections, heap).await
            }
            Peer::Legacy => {
                let client = crate::peers::hyper_util::client(Http::H1);
                fill(client, || order.request::<Full<Bytes>>(), &order, connections, heap).await
            }
            _ => {
                let url: reqwest::Url = order.uri.to_string().parse().expect("a valid URL");
                let client = reqwest::Client::builder().build().expect("a client");
                let client = client.map_response(Response::<reqwest::Body>::from);
                fill(client, || order.reqwest(&url), &order, connections, heap).await
            }
        }
    });
    println!("{}", serde_json::to_string(&found).expect("numbers"));
}

/// Opens as many connections as there are to be, uses each and leaves it idle.
async fn fill<S, R, B>(
    mut service: S,
    request: impl Fn() -> R,
    order: &Order,
    connections: usize,
    heap: Heap,
) -> [f64; 2]
where
    S: Service<R, Response = Response<B>, Error: Debug>,
    B: Body<Error: Debug>,
{
    let before = live(heap);
    let each = |bytes: isize| bytes as f64 / connections as f64;
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        open.push(service.ready().await.expect("it becomes ready").call(request()).await.expect("an answer"));
    }
    for response in open.drain(..) {
        read(response, order.answer).await;
    }
    drop(open);
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
