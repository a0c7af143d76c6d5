//! A fleet of servers that crash, are cut off and are slow, in simulated time and over a simulated network (turmoil): by seed.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use outbound::{BoxError, Failure, Pool, TimeoutLayer, pool::connect::Connect};
use outbound_testkit::TestBody;
use outbound_tests::stack::{Setup, Stack, in_short, read};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep},
};
use tower::ServiceExt;
use turmoil::{
    Builder, Sim,
    net::{TcpListener, TcpStream},
};

const SERVERS: [&str; 4] = ["steady", "slow", "crashing", "cut-off"];
/// Of the simulation's clock: all calls begin within it.
const CALLS_FOR: Duration = Duration::from_secs(15);
const DEADLINE: Duration = Duration::from_secs(5);

// === the network ===

/// A simulated socket, as a connector has to give it.
struct Wire(TcpStream);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn connector() -> impl Connect {
    tower::service_fn(|uri: Uri| async move {
        let address = (uri.host().unwrap_or_default().to_owned(), 80);
        Ok::<_, BoxError>(TokioIo::new(Wire(TcpStream::connect(address).await?)))
    })
}

// === the servers ===

/// How often each request got as far as a handler, by its number.
type Seen = Arc<Mutex<HashMap<String, usize>>>;

async fn serve(name: &'static str, seen: Seen) -> turmoil::Result {
    let listener = TcpListener::bind("0.0.0.0:80").await?;
    loop {
        let (socket, _) = listener.accept().await?;
        let seen = seen.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request: Request<Incoming>| answer(name, seen.clone(), request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}

async fn answer(
    name: &str,
    seen: Seen,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let number = request.uri().path().to_owned();
    request.into_body().collect().await?;
    let times = {
        let mut seen = seen.lock().expect("nobody panics with it");
        let times = seen.entry(number.clone()).or_insert(0);
        *times += 1;
        *times
    };
    if name == "slow" {
        // From at once to longer than an attempt may take.
        let hash =
            number.bytes().fold(times as u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        sleep(Duration::from_millis(hash % 2_500)).await;
    }
    let mut response = Response::new(Full::from(vec![b'x'; 3_000]));
    if name == "steady" && number.ends_with('7') && times == 1 {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

// === the calls ===

#[derive(Debug, Default)]
struct Tally {
    calls: usize,
    answered: usize,
    failed: HashMap<String, usize>,
    slowest: Duration,
}

/// Eight lines of calls at random servers; each is told whether it was in time, and whether what it was told is so.
async fn call(seed: u64, stack: Arc<Stack>, seen: Seen, tally: Arc<Mutex<Tally>>) -> Result<(), BoxError> {
    let lines: Vec<_> = (0..8)
        .map(|line| {
            let (stack, seen, tally) = (stack.clone(), seen.clone(), tally.clone());
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed * 100 + line);
                let begun = Instant::now();
                for number in 0.. {
                    if begun.elapsed() > CALLS_FOR {
                        return;
                    }
                    sleep(Duration::from_millis(random.random_range(0..200))).await;
                    one_call(&stack, &seen, &tally, &mut random, &format!("/{line}/{number}")).await;
                }
            })
        })
        .collect();
    for line in lines {
        line.await?;
    }
    // The fleet is whole again: nothing is left, and everybody answers.
    sleep(Duration::from_secs(10)).await;
    let (stats, limit) = (stack.stats(), stack.limiter.stats());
    let busy = stats.connections.open() - stats.connections.idle + stats.waiting + stats.exchanges;
    assert_eq!((busy, limit.in_use, limit.waiting), (0, 0, 0), "seed {seed}: {stats:?}, {limit:?}");
    assert_eq!(
        stats.totals.dialed,
        stats.totals.closed + stats.connections.open() as u64,
        "seed {seed}: {stats:?}"
    );
    stack.guard.assert_no_leaks();
    for server in SERVERS {
        let uri = format!("http://{server}/again").parse()?;
        let request = stack.request(Method::GET, uri, TestBody::new());
        let response = stack.client.clone().oneshot(request).await?;
        assert_eq!(response.status(), 200, "seed {seed}, {server}");
        read(response.into_body()).await?;
    }
    Ok(())
}

async fn one_call(stack: &Stack, seen: &Seen, tally: &Mutex<Tally>, random: &mut impl Rng, number: &str) {
    let server = SERVERS[random.random_range(0..SERVERS.len())];
    let is_post = random.random_bool(0.5);
    let (method, body) = if is_post { (Method::POST, "x".into()) } else { (Method::GET, TestBody::new()) };
    let uri = format!("http://{server}{number}").parse().expect("a URI");
    let begun = Instant::now();
    let result = async {
        let response = stack.client.clone().oneshot(stack.request(method, uri, body)).await?;
        let status = response.status();
        read(response.into_body()).await.map(|body| (status, body.len()))
    };
    let result = result.await;
    let took = begun.elapsed();
    assert!(took <= DEADLINE + Duration::from_millis(50), "{server}{number} took {took:?}: {result:?}");
    let times = seen.lock().expect("nobody panics with it").get(number).copied().unwrap_or(0);
    assert!(!is_post || times <= 1, "{server}{number} was sent again: {result:?}");
    let mut tally = tally.lock().expect("nobody panics with it");
    tally.calls += 1;
    tally.slowest = tally.slowest.max(took);
    match result {
        Ok((_, length)) => {
            assert!(times >= 1 && length == 3_000, "{server}{number}: an answer to what nobody saw");
            tally.answered += 1;
        }
        Err(error) => {
            let unprocessed = Failure::of(&*error).delivery().is_unprocessed();
            assert!(!unprocessed || times == 0 || !is_post, "{server}{number}: seen, and {error}");
            *tally.failed.entry(in_short(&error)).or_default() += 1;
        }
    }
}

// === hardship ===

/// A fleet, and what befalls it until all calls have begun.
fn simulate(seed: u64) -> Tally {
    let mut sim = Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(60))
        .tick_duration(Duration::from_millis(10))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(20))
        .build();
    let (seen, tally) = (Seen::default(), Arc::new(Mutex::new(Tally::default())));
    for server in SERVERS {
        let seen = seen.clone();
        sim.host(server, move || serve(server, seen.clone()));
    }
    let (calls, told) = (Arc::new(AtomicUsize::new(0)), tally.clone());
    let done = calls.clone();
    sim.client("client", async move {
        let pool = Pool::builder().max_connections_per_host(4).connect_timeout(Duration::from_millis(500));
        let timeout = TimeoutLayer::new(Duration::from_secs(1));
        let setup = Setup { deadline: DEADLINE, timeout, pool, leaks: &["abandoned"], ..Setup::default() };
        let stack = Arc::new(setup.over(connector()));
        let result = call(seed, stack, seen, told).await;
        done.store(1, SeqCst);
        result.map_err(|error| error.to_string().into())
    });
    let mut random = StdRng::seed_from_u64(seed);
    let (mut crashed, mut cut) = (false, false);
    while !sim.step().unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
        befall(&mut sim, &mut random, &mut crashed, &mut cut);
    }
    assert_eq!(calls.load(SeqCst), 1, "seed {seed}: the calls ended");
    let mut tally = tally.lock().expect("nobody panics with it");
    std::mem::take(&mut tally)
}

/// About twice a second something happens, until it is time to mend everything.
fn befall(sim: &mut Sim<'_>, random: &mut StdRng, crashed: &mut bool, cut: &mut bool) {
    let over = sim.elapsed() > CALLS_FOR;
    if over || random.random_bool(0.01) {
        match (*crashed, over) {
            (true, _) => sim.bounce("crashing"),
            (false, false) => sim.crash("crashing"),
            (false, true) => {}
        }
        *crashed = !*crashed && !over;
    }
    if over || random.random_bool(0.01) {
        match (*cut, over) {
            (true, _) => sim.repair("client", "cut-off"),
            (false, false) => sim.partition("client", "cut-off"),
            (false, true) => {}
        }
        *cut = !*cut && !over;
    }
}

#[test]
fn whatever_befalls_the_fleet_each_call_ends_in_time_and_none_is_sent_twice_that_must_not_be() {
    let (mut calls, mut failed) = (0, 0);
    for seed in 0..SEEDS {
        let tally = simulate(seed);
        println!("seed {seed}: {tally:?}");
        assert!(tally.answered > tally.calls / 2, "seed {seed}: {tally:?}");
        (calls, failed) = (calls + tally.calls, failed + tally.calls - tally.answered);
    }
    assert!(calls > 300 && failed > 10, "{failed} of {calls} failed: nothing befell them");
}

const SEEDS: u64 = 4;
