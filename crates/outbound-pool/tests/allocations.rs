//! What a warm exchange costs beyond hyper's own: allocations and tasks, counted.

mod support;

use allocation_counter::measure;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use outbound_pool::{Pool, connect::Tcp};
use outbound_testkit::{Friendly, Upstream, handler};
use support::*;
use tokio::{net::TcpStream, runtime::Runtime};
use tower::ServiceExt;

const ROUNDS: u64 = 200;

/// Counts are of this thread: the server has one of its own.
fn world() -> (Runtime, Upstream) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    (runtime, Friendly::new(handler::hello).own_thread().start())
}

/// Allocations for each of `ROUNDS` times `once`, rounded up.
fn allocations(runtime: &Runtime, mut once: impl AsyncFnMut()) -> u64 {
    let mut rounds = async |rounds| {
        for _ in 0..rounds {
            once().await;
        }
    };
    runtime.block_on(rounds(50));
    measure(|| runtime.block_on(rounds(ROUNDS))).count_total.div_ceil(ROUNDS)
}

/// One request over hyper alone, its response read to the end.
fn raw<B>(runtime: &Runtime, upstream: &Upstream, request: impl Fn() -> Request<B>) -> u64
where
    B: http_body::Body<Data = Bytes, Error: Into<outbound_core::BoxError>> + Send + 'static,
{
    let address = upstream.addr();
    let mut sender = runtime.block_on(async {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
        tokio::spawn(connection);
        sender
    });
    let host = HeaderValue::from_str(&address.to_string()).unwrap();
    allocations(runtime, async || {
        let mut request = request();
        let path = request.uri().path_and_query().unwrap().clone();
        *request.uri_mut() = Uri::from(path);
        request.headers_mut().insert(header::HOST, host.clone());
        sender.ready().await.unwrap();
        let response = sender.send_request(request).await.unwrap();
        read(response.into_body()).await;
    })
}

fn pooled<B>(runtime: &Runtime, pool: &Pool<Tcp>, request: impl Fn() -> Request<B>) -> u64
where
    B: http_body::Body<Data = Bytes, Error: Into<outbound_core::BoxError>> + Send + 'static,
{
    allocations(runtime, async || {
        read(pool.clone().oneshot(request()).await.unwrap().into_body()).await;
    })
}

async fn read<B: http_body::Body<Data = Bytes, Error: std::fmt::Debug> + Unpin>(mut body: B) {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame.unwrap().into_data().map_or(0, |data| data.len());
    }
    assert_eq!(read, 5);
}

#[test]
fn a_warm_exchange_costs_hardly_more_than_hypers_own() {
    let (runtime, upstream) = world();
    let pool = pool();
    let uri = upstream.uri("/path");
    let get = || request(Method::GET, uri.clone(), Empty::<Bytes>::new());
    let fields = || {
        let mut request = get();
        for name in ["authorization", "traceparent", "x-request-id"] {
            // Its bytes are its own, as those of a value made at run time are.
            request.headers_mut().insert(name, HeaderValue::from_str("made at run time").unwrap());
        }
        request
    };
    let post = || request(Method::POST, uri.clone(), Full::new(Bytes::from_static(b"hello")));
    for (name, raw, pooled, more) in [
        ("GET", raw(&runtime, &upstream, get), pooled(&runtime, &pool, get), 2),
        ("GET with three fields", raw(&runtime, &upstream, fields), pooled(&runtime, &pool, fields), 2),
        ("POST", raw(&runtime, &upstream, post), pooled(&runtime, &pool, post), 2),
    ] {
        println!("{name}: {raw} allocations over hyper alone, {pooled} over the pool");
        assert!(pooled <= raw + more, "{name}: {raw} allocations over hyper alone, {pooled} over the pool");
    }
    assert_eq!(pool.stats().totals.opened, 1);
}

#[test]
fn no_task_is_spawned_for_a_response() {
    let (runtime, upstream) = world();
    runtime.block_on(async {
        let pool = pool();
        let uri = upstream.uri("/");
        fetch(&pool, get(uri.clone())).await.unwrap();
        let metrics = tokio::runtime::Handle::current().metrics();
        // The connection's driver, and the one task that closes idle connections.
        assert_eq!(metrics.num_alive_tasks(), 2);
        for _ in 0..50 {
            let response = send(&pool, get(uri.clone())).await.unwrap();
            assert_eq!(metrics.num_alive_tasks(), 2, "at the head");
            response.into_body().collect().await.unwrap();
            assert_eq!(metrics.num_alive_tasks(), 2, "at the end");
        }
        drop(pool);
        upstream.all_closed().await;
        while metrics.num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    });
}
