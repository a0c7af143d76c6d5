//! What the pool's tests share: short ways to send, and the state that every test must leave behind.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod told;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::SystemTime,
};

use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use outbound_core::BoxError;
use outbound_pool::{
    Body, Builder, Counts, Pool, Stats,
    connect::{Connect, Tcp},
};
use outbound_testkit::{Friendly, Gate, Upstream, handler};
use tower::ServiceExt;

pub(crate) fn pool() -> Pool<Tcp> {
    build(Pool::builder())
}

pub(crate) fn build(builder: Builder) -> Pool<Tcp> {
    builder.build(Tcp::new()).expect("limits that make sense")
}

pub(crate) fn build_with<C: Connect>(connector: C) -> Pool<C> {
    Pool::builder().build(connector).expect("the defaults")
}

pub(crate) fn get(uri: Uri) -> Request<Empty<Bytes>> {
    request(Method::GET, uri, Empty::new())
}

pub(crate) fn request<B>(method: Method, uri: Uri, body: B) -> Request<B> {
    Request::builder().method(method).uri(uri).body(body).expect("a request")
}

/// The head of the response.
pub(crate) async fn send<C, B>(pool: &Pool<C>, request: Request<B>) -> Result<Response<Body>, BoxError>
where
    C: Connect,
    B: http_body::Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    pool.clone().oneshot(request).await
}

/// The response, its body read to the end.
pub(crate) async fn fetch<C, B>(pool: &Pool<C>, request: Request<B>) -> Result<Response<Bytes>, BoxError>
where
    C: Connect,
    B: http_body::Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, body) = send(pool, request).await?.into_parts();
    Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
}

/// Connections at work: dialing, active or closing.
pub(crate) fn busy(counts: Counts) -> usize {
    counts.open() - counts.idle
}

/// Turns the runtime until `met`.
pub(crate) async fn until<C>(pool: &Pool<C>, what: &str, mut met: impl FnMut(&Stats) -> bool) -> Stats {
    let begun = SystemTime::now();
    loop {
        let stats = pool.stats();
        if met(&stats) {
            return stats;
        }
        let waited = begun.elapsed().unwrap_or_default();
        assert!(waited.as_secs() < 20, "waited in vain for {what}: {stats:?}");
        tokio::task::yield_now().await;
    }
}

/// Turns the runtime until nothing but idle connections is left.
pub(crate) async fn quiet<C>(pool: &Pool<C>) -> Stats {
    until(pool, "the pool to be quiet", |stats| busy(stats.connections) + stats.waiting == 0).await
}

/// What a pool speaks, and so what a healthy server has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Healthy {
    Http1,
    Http2,
}

/// What holds after anything that may have happened to a pool: its gauges are at zero, the next request succeeds, and with it all
/// sockets are closed.
pub(crate) async fn leaves_nothing<C: Connect>(name: &str, pool: Pool<C>, upstreams: &[&Upstream]) {
    leaves_nothing_by(name, pool, upstreams, Healthy::Http1).await;
}

/// Likewise, for a pool that speaks `healthy`.
pub(crate) async fn leaves_nothing_by<C: Connect>(
    name: &str,
    pool: Pool<C>,
    upstreams: &[&Upstream],
    healthy: Healthy,
) {
    assert_eq!(quiet(&pool).await.exchanges, 0, "{name}: exchanges");
    let healthy = match healthy {
        Healthy::Http1 => Friendly::new(handler::hello).start(),
        Healthy::Http2 => Friendly::new(handler::hello).http2().start(),
    };
    let answered = fetch(&pool, get(healthy.uri("/"))).await;
    assert_eq!(answered.expect(name).body(), "hello", "{name}: the next request");
    let stats = quiet(&pool).await;
    assert_eq!(
        stats.totals.dialed,
        stats.totals.closed + stats.connections.open() as u64,
        "{name}: every dial is open or closed: {stats:?}"
    );
    drop(pool);
    healthy.all_closed().await;
    for upstream in upstreams {
        upstream.all_closed().await;
    }
}

/// Runs `test` on a runtime of one thread, then on one of several.
pub(crate) fn on_each_runtime<F: Future<Output = ()>>(test: impl Fn() -> F) {
    let runtime = |mut builder: tokio::runtime::Builder| builder.enable_all().build().expect("a runtime");
    runtime(tokio::runtime::Builder::new_current_thread()).block_on(test());
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(4);
    runtime(builder).block_on(test());
}

/// Opens TCP connections: the first `free` at once, the others when `gate` lets them.
pub(crate) fn gated(free: usize, gate: &Gate) -> impl Connect + std::fmt::Debug {
    let (gate, dials) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    tower::service_fn(move |uri: Uri| {
        let (gate, number) = (gate.clone(), dials.fetch_add(1, SeqCst));
        async move {
            if number >= free {
                gate.pass().await;
            }
            Tcp::new().oneshot(uri).await
        }
    })
}

/// Keeps a paused clock from jumping while it lives: it moves only by `advance`, however long bytes take from socket to socket.
#[derive(Debug)]
pub(crate) struct Frozen {
    _thaw: std::sync::mpsc::Sender<()>,
}

impl Frozen {
    /// Tokio does not let its clock jump while a blocking task is at work.
    pub(crate) fn new() -> Self {
        let (_thaw, frozen) = std::sync::mpsc::channel();
        tokio::task::spawn_blocking(move || frozen.recv());
        Self { _thaw }
    }
}
