//! The pool in a simulated network that is cut, held and mended again, before servers that crash. Every run of a seed is the same.

mod support;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    convert::Infallible,
    io,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    rt::{Read, ReadBufCursor, Write},
    service::service_fn,
};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::{TokioExecutor, TokioIo},
};
use outbound_core::{Delivery, Exchange, Failure, Phase};
use outbound_pool::{
    Pool,
    connect::{Connect, http1_only},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use support::{fetch, request};
use tokio::time::{Instant, sleep, timeout};
use turmoil::net::{TcpListener, TcpStream};

const SEEDS: u64 = 100;
const SERVERS: usize = 3;
const CALLS: usize = 60;
/// Calls begin within this time, in which the network and the servers fail.
const STORM: Duration = Duration::from_secs(3);
/// How long a call may take.
const LIMIT: Duration = Duration::from_millis(1_500);
/// How long the pool lets it wait, and dial.
const ACQUIRE: Duration = Duration::from_millis(900);
const CONNECT: Duration = Duration::from_millis(700);
const HANDSHAKE: Duration = Duration::from_millis(700);
const TICK: Duration = Duration::from_millis(5);
const CONNECTIONS: usize = 5;
const PER_HOST: usize = 2;

/// How often each request was acted upon.
type Applied = Arc<Mutex<BTreeMap<usize, usize>>>;
/// What became of each call, and when.
type Trace = Vec<String>;

#[test]
fn a_hundred_storms() {
    for seed in 0..SEEDS {
        let trace = storm(seed);
        assert_eq!(trace.len(), CALLS + SERVERS, "seed {seed}: every call has ended");
        if seed % 10 < 2 {
            for (again, before) in storm(seed).into_iter().zip(trace) {
                assert_eq!(again, before, "seed {seed}: the same again");
            }
        }
    }
}

/// When a host crashes, Tokio drops its tasks in an order that follows from their numbers, which count through the whole process: so
/// that it is the same order each time, they begin at a round number.
fn align() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let number =
        || runtime.block_on(async { tokio::spawn(async {}).id() }).to_string().parse::<u64>().unwrap();
    while number() % 4_096 != 0 {}
}

/// Of even seeds the servers speak HTTP/1.1, of odd ones HTTP/2.
fn storm(seed: u64) -> Trace {
    align();
    let is_http2 = seed % 2 == 1;
    let mut random = StdRng::seed_from_u64(seed);
    let applied = Applied::default();
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(TICK)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(40))
        .simulation_duration(Duration::from_secs(60))
        .build();
    for server in 0..SERVERS {
        let applied = applied.clone();
        sim.host(name(server), move || serve(applied.clone(), seed, is_http2));
    }
    let trace = Rc::new(RefCell::new(Trace::new()));
    let told = trace.clone();
    let seeds: Vec<_> = (0..CALLS).map(|_| random.random()).collect();
    let counted = applied.clone();
    sim.client("client", async move {
        let ended = call_all(seeds, is_http2, &counted).await;
        told.borrow_mut().extend(ended);
        Ok(())
    });
    let mut crashed = [false; SERVERS];
    let mut healed = false;
    while !sim.step().unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
        if sim.elapsed() < STORM && random.random_range(0..12) == 0 {
            let server = random.random_range(0..SERVERS);
            match random.random_range(0..7) {
                0 => sim.partition("client", name(server)),
                1 | 2 => sim.repair("client", name(server)),
                3 => sim.hold("client", name(server)),
                4 => sim.release("client", name(server)),
                5 if !crashed[server] => {
                    sim.crash(name(server));
                    crashed[server] = true;
                }
                _ if crashed[server] => {
                    sim.bounce(name(server));
                    crashed[server] = false;
                }
                _ => {}
            }
        } else if sim.elapsed() >= STORM && !healed {
            healed = true;
            for (server, crashed) in crashed.iter().enumerate() {
                sim.repair("client", name(server));
                sim.release("client", name(server));
                if *crashed {
                    sim.bounce(name(server));
                }
            }
        }
    }
    drop(sim);
    for (id, times) in applied.lock().unwrap().iter() {
        assert!(id % 2 == 0 || *times == 1, "seed {seed}: POST {id} was applied {times} times");
    }
    Rc::into_inner(trace).unwrap().into_inner()
}

fn name(server: usize) -> String {
    format!("server-{server}")
}

// === the caller ===

/// Calls of odd number are POSTs.
async fn call_all(seeds: Vec<u64>, is_http2: bool, applied: &Applied) -> Trace {
    let open = Arc::new(AtomicUsize::new(0));
    let pool = Pool::builder()
        .max_connections(CONNECTIONS)
        .max_connections_per_host(PER_HOST)
        .connect_timeout(CONNECT)
        .acquire_timeout(ACQUIRE)
        .http2_handshake_timeout(HANDSHAKE)
        .http2_ping_timeout(Duration::from_millis(500))
        .http2_prior_knowledge(is_http2)
        .seed(7)
        .build(connector(open.clone()))
        .unwrap();
    let calls = seeds.into_iter().enumerate().map(|(id, seed)| {
        let (pool, applied) = (pool.clone(), applied.clone());
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            sleep(STORM.mul_f64(random.random_range(0.0..1.0))).await;
            call(&pool, id, random.random_range(0..SERVERS), &applied).await
        })
    });
    let calls: Vec<_> = calls.collect();
    let mut trace = Trace::new();
    for call in calls {
        trace.push(call.await.unwrap());
    }
    // Time for doubts to be resolved, and for the mending to be done.
    sleep(STORM).await;
    let stats = pool.stats();
    assert_eq!((stats.exchanges, stats.waiting), (0, 0), "{stats:?}");
    // What the network has lost is lost, and some connections with it, which nobody can know before he uses them.
    for server in 0..SERVERS {
        let mut tries = Vec::new();
        while !tries.last().is_some_and(|told: &String| told.contains("200")) {
            assert!(tries.len() <= PER_HOST, "once all is well: {tries:?}");
            tries.push(call(&pool, 2 * (CALLS + server), server, applied).await);
        }
        trace.push(tries.join(", "));
    }
    pool.close(Duration::from_secs(1)).await;
    assert_eq!((pool.stats().connections.open(), open.load(SeqCst)), (0, 0), "nothing is left");
    trace
}

async fn call<C: Connect>(pool: &Pool<C>, id: usize, server: usize, applied: &Applied) -> String {
    let method = if id % 2 == 1 { Method::POST } else { Method::GET };
    let uri: Uri = format!("http://{}/{id}", name(server)).parse().unwrap();
    let begun = Instant::now();
    let mut request = request(method, uri, Full::<Bytes>::from("apply this"));
    let exchange = Exchange::track(&mut request);
    let ended = timeout(LIMIT, fetch(pool, request)).await;
    let (took, stayed) = (begun.elapsed(), exchange.since().elapsed());
    let may_stay = match exchange.phase() {
        Phase::Acquire => ACQUIRE,
        Phase::Connect => CONNECT + HANDSHAKE,
        // The caller's to bound, and so it does.
        _ => LIMIT,
    };
    assert!(stayed <= may_stay + TICK, "{id}: {stayed:?} in {}", exchange.phase());
    let times = applied.lock().unwrap().get(&id).copied().unwrap_or_default();
    let outcome = match ended {
        Ok(Ok(response)) => {
            assert!(times >= 1, "{id} was answered by nobody");
            response.status().to_string()
        }
        Ok(Err(error)) => {
            let failure = Failure::of(&*error);
            let is_safe = matches!(failure.delivery(), Delivery::NotSent | Delivery::Refused);
            assert!(!is_safe || times == 0, "{id} was applied and is said not to have been: {error}");
            format!("{} {} {:?}", failure.kind(), failure.delivery(), failure.phase())
        }
        Err(_) => "given up".to_owned(),
    };
    format!("{id} at {:?} after {took:?}: {outcome}", turmoil::elapsed())
}

// === the servers ===

async fn serve(applied: Applied, seed: u64, is_http2: bool) -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", 80)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let applied = applied.clone();
        let service = service_fn(move |request| apply(request, applied.clone(), seed));
        let io = TokioIo::new(stream);
        tokio::spawn(async move {
            // What becomes of the connection is the caller's to know.
            let _ = match is_http2 {
                true => {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(io, service)
                        .await
                }
                false => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
            };
        });
    }
}

async fn apply(
    request: Request<Incoming>,
    applied: Applied,
    seed: u64,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let id: usize = request.uri().path()[1..].parse().unwrap();
    if request.into_body().collect().await.is_ok() {
        *applied.lock().unwrap().entry(id).or_default() += 1;
    }
    let mut random = StdRng::seed_from_u64(seed ^ (id as u64) << 32);
    sleep(Duration::from_millis(random.random_range(0..200))).await;
    let size = if random.random_range(0..4) == 0 { 30_000 } else { 5 };
    Ok(Response::new(Full::from(vec![b'x'; size])))
}

// === the sockets ===

/// A simulated socket, counted while it is open.
struct Link {
    io: TokioIo<TcpStream>,
    _open: Open,
}

struct Open(Arc<AtomicUsize>);

fn connector(open: Arc<AtomicUsize>) -> impl Connect {
    tower::service_fn(move |uri: Uri| {
        let open = open.clone();
        async move {
            assert!(!http1_only());
            let counted = Open::new(open);
            let io = TcpStream::connect((uri.host().unwrap(), 80)).await?;
            Ok::<_, io::Error>(Link { io: TokioIo::new(io), _open: counted })
        }
    })
}

impl Open {
    fn new(open: Arc<AtomicUsize>) -> Self {
        assert!(open.fetch_add(1, SeqCst) < CONNECTIONS, "more sockets than allowed");
        Self(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
