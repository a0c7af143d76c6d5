//! What an exchange costs beside many hosts and many idle connections: instructions, over connections within the process.

use std::fmt::Debug;

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
use tower::{Service, ServiceExt};

use crate::{
    exchange::name,
    instructions::callgrind,
    peers::{Peer, service::read},
    process::{DELAY, runtime},
    results::save,
    server::serve_h1,
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

/// An exchange beside others.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Checkout {
    pub(crate) peer: String,
    pub(crate) hosts: usize,
    pub(crate) connections: usize,
    pub(crate) instructions: f64,
}

pub(crate) fn main(options: &Options) {
    let scale = if options.short { 100 } else { 1 };
    let mut checkouts = Vec::new();
    println!("{:44} {:>8} {:>12} {:>13}", "an exchange", "hosts", "connections", "instructions");
    for (hosts, connections) in [(1, 1), (100, 1), (1, 100), (10_000 / scale, 1), (1, 10_000 / scale)] {
        for peer in [Peer::Pool, Peer::Legacy] {
            let instructions = measure(peer, hosts, connections);
            println!("{:44} {hosts:8} {connections:12} {instructions:13.0}", peer.title());
            checkouts.push(Checkout { peer: peer.title().to_owned(), hosts, connections, instructions });
        }
    }
    if options.save {
        save("checkout", &checkouts);
    }
}

/// Instructions of an exchange.
fn measure(peer: Peer, hosts: usize, connections: usize) -> f64 {
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

/// The process of [`Beside`].
pub(crate) fn child(options: &Beside) {
    let Beside { peer, hosts, connections, requests } = *options;
    let uris: Vec<Uri> = (0..hosts)
        .map(|host| format!("http://host-{host}.example/hello").parse().expect("a valid URI"))
        .collect();
    let connector = InMemory::new(|io| serve_h1(io, DELAY)).buffer(1_024);
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

const ANSWER: usize = 13;
