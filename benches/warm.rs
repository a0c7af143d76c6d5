//! What one keep-alive GET of 13 bytes costs over an idle connection, peers side by side:
//! `cargo bench -p outbound-benches --bench warm`.
//!
//! Allocations are counted and exact. Times are medians over interleaved rounds on whatever this machine is doing besides: read the
//! ratios, not the numbers.

use std::{alloc::System, fmt::Debug, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header::HOST};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioIo},
};
use outbound::{Pool, ServiceBuilderExt, pool::connect::Tcp, retry};
use outbound_benches::server;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::{net::TcpStream, time::Instant};
use tower::{Service, ServiceBuilder, ServiceExt};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ROUNDS: usize = 15;
const REQUESTS: usize = 2_000;

/// One peer's figures, a pair a round: time and allocations per request.
struct Peer {
    name: &'static str,
    rounds: Vec<(Duration, f64)>,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let address = server();
    runtime.block_on(async {
        let uri: Uri = format!("http://{address}/hello").parse().expect("a valid URI");
        let mut raw = Raw::connect(address).await;
        let get = || request(&uri);
        let mut pool = Pool::builder().build(Tcp::new()).expect("valid limits");
        let mut stack = ServiceBuilder::new()
            .retries(retry::Standard::default())
            .concurrency(64)
            .service(Pool::builder().build(Tcp::new()).expect("valid limits"));
        let mut hyper_util = legacy::Client::builder(TokioExecutor::new()).build_http();
        let reqwest = reqwest::Client::new();
        let url: reqwest::Url = uri.to_string().parse().expect("a valid URL");

        let names = [
            "raw hyper::client::conn",
            "outbound, bare pool",
            "outbound, retry + limit + pool",
            "hyper-util legacy",
            "reqwest",
        ];
        let mut peers = names.map(|name| Peer { name, rounds: Vec::new() });
        for _ in 0..ROUNDS {
            peers[0].round(async || raw.exchange().await).await;
            peers[1].round(async || exchange(&mut pool, get()).await).await;
            peers[2].round(async || exchange(&mut stack, get()).await).await;
            peers[3].round(async || exchange(&mut hyper_util, get()).await).await;
            peers[4]
                .round(async || drop(reqwest.get(url.clone()).send().await.expect("an answer").bytes().await))
                .await;
        }
        report(&mut peers);
    });
}

/// hyper and nothing else.
struct Raw {
    sender: http1::SendRequest<Empty<Bytes>>,
    path: Uri,
    host: HeaderValue,
}

impl Raw {
    async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.expect("the server listens");
        socket.set_nodelay(true).expect("TCP");
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await.expect("no I/O yet");
        tokio::spawn(connection);
        let host = address.to_string().parse().expect("a valid value");
        Self { sender, path: Uri::from_static("/hello"), host }
    }

    async fn exchange(&mut self) {
        self.sender.ready().await.expect("it is kept alive");
        let mut request = request(&self.path);
        request.headers_mut().insert(HOST, self.host.clone());
        let response = self.sender.send_request(request).await.expect("an answer");
        response.into_body().collect().await.expect("a body");
    }
}

fn request(uri: &Uri) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri.clone();
    request
}

async fn exchange<S, B>(service: &mut S, request: Request<Empty<Bytes>>)
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error: Debug>,
    B: Body<Error: Debug>,
{
    let response = service.ready().await.expect("always ready").call(request).await.expect("an answer");
    response.into_body().collect().await.expect("a body");
}

impl Peer {
    async fn round(&mut self, mut request: impl AsyncFnMut()) {
        request().await;
        let (begun, region) = (Instant::now(), Region::new(HEAP));
        for _ in 0..REQUESTS {
            request().await;
        }
        let allocations = region.change().allocations as f64 / REQUESTS as f64;
        self.rounds.push((begun.elapsed() / REQUESTS as u32, allocations));
    }

    /// The medians.
    fn figures(&mut self) -> (Duration, f64) {
        self.rounds.sort_by_key(|&(time, _)| time);
        let time = self.rounds[self.rounds.len() / 2].0;
        self.rounds.sort_by(|(_, a), (_, b)| a.total_cmp(b));
        (time, self.rounds[self.rounds.len() / 2].1)
    }
}

fn report(peers: &mut [Peer]) {
    let (raw_time, raw_allocations) = peers[0].figures();
    println!(
        "{:32} {:>12} {:>8} {:>12} {:>8}",
        "a warm 13-byte GET", "wall µs", "ratio", "allocations", "more"
    );
    for peer in peers {
        let (time, allocations) = peer.figures();
        println!(
            "{:32} {:>12.1} {:>8.2} {:>12.1} {:>8.1}",
            peer.name,
            time.as_secs_f64() * 1e6,
            time.as_secs_f64() / raw_time.as_secs_f64(),
            allocations,
            allocations - raw_allocations,
        );
    }
}
