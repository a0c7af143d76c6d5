//! The soak: `tests/soak --minutes N`.

use std::{
    collections::BTreeMap,
    fs,
    io::Error,
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Method, Uri};
use http_body_util::BodyExt;
use outbound::{Pool, TimeoutLayer, pool::connect::Tcp};
use outbound_testkit::TestBody;
use outbound_tests::stack::{Setup, Stack, in_short};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, interval, sleep, timeout},
};
use tower::ServiceExt;

/// Calls under way at once.
const LINES: u64 = 64;
const SERVERS: usize = 4;
const DEADLINE: Duration = Duration::from_secs(2);
/// A call that is not over by then is stuck.
const STUCK: Duration = Duration::from_secs(7);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let minutes = match &arguments[..] {
        [_] => 60,
        [_, flag, minutes] if flag == "--minutes" => minutes.parse().unwrap_or(60),
        _ => {
            eprintln!("usage: soak [--minutes N]");
            return ExitCode::FAILURE;
        }
    };
    let soak = Duration::from_secs(60 * minutes);
    let mut servers = Vec::new();
    for _ in 0..SERVERS {
        servers.push(serve().await.expect("a loopback port"));
    }
    let pool = Pool::builder().max_connections(48).max_connections_per_host(16).connect_timeout(DEADLINE);
    let timeout = TimeoutLayer::new(Duration::from_millis(300));
    let leaks = &["abandoned", "held", "returned"];
    let setup = Setup { deadline: DEADLINE, permits: 56, timeout, pool, leaks, ..Setup::default() };
    let stack = Arc::new(setup.over(Tcp::new()));
    let (over, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Tally::default()));
    let lines: Vec<_> = (0..LINES)
        .map(|line| tokio::spawn(load(line, stack.clone(), servers.clone(), over.clone(), tally.clone())))
        .collect();
    let samples = watch(soak, &tally).await;
    over.store(true, Relaxed);
    for line in lines {
        line.await.expect("a line that does not panic");
    }
    let quiet = tokio::time::timeout(Duration::from_secs(20), stack.quiet()).await.is_ok();
    report(minutes, &samples, &tally, quiet)
}

// === the load ===

#[derive(Default)]
struct Tally {
    calls: AtomicU64,
    stuck: AtomicU64,
    outcomes: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    fn count(&self, outcome: impl Into<String>) {
        self.calls.fetch_add(1, Relaxed);
        *self.outcomes.lock().expect("nobody panics with it").entry(outcome.into()).or_default() += 1;
    }
}

async fn load(
    line: u64,
    stack: Arc<Stack>,
    servers: Vec<SocketAddr>,
    over: Arc<AtomicBool>,
    tally: Arc<Tally>,
) {
    let mut random = StdRng::seed_from_u64(line);
    while !over.load(Relaxed) {
        let server = servers[random.random_range(0..servers.len())];
        let uri: Uri = format!("http://{server}/?token=secret").parse().expect("a URI");
        let (method, body) = match random.random_range(0..3) {
            0 => (Method::GET, TestBody::new()),
            1 => (Method::POST, TestBody::from("x")),
            _ => (
                Method::PUT,
                (0..random.random_range(1..20)).fold(TestBody::new(), |body, _| body.data(vec![b'x'; 9_000])),
            ),
        };
        let patience = match random.random_bool(0.2) {
            true => Duration::from_millis(random.random_range(0..50)),
            false => STUCK,
        };
        let frames = if random.random_bool(0.2) { random.random_range(0..3) } else { usize::MAX };
        let pause = random.random_bool(0.02).then_some(Duration::from_millis(500));
        let call = async {
            let response = stack.client.clone().oneshot(stack.request(method, uri, body)).await?;
            let status = response.status();
            let mut body = response.into_body();
            if let Some(pause) = pause {
                sleep(pause).await;
            }
            for _ in 0..frames {
                match body.frame().await {
                    Some(frame) => drop(frame?),
                    None => return Ok(status.as_str().to_owned()),
                }
            }
            Ok(format!("{status}, dropped after {frames} frames"))
        };
        match timeout(patience, call).await {
            Ok(Ok(outcome)) => tally.count(outcome),
            Ok(Err(error)) => tally.count(in_short(&error)),
            Err(_) if patience == STUCK => {
                tally.stuck.fetch_add(1, Relaxed);
                tally.count("STUCK");
            }
            Err(_) => tally.count("cancelled"),
        }
    }
}

// === the servers ===

/// It does with each request what chance says.
async fn serve() -> Result<SocketAddr, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        for seed in u64::from(address.port()).. {
            if let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(misbehave(socket, StdRng::seed_from_u64(seed)));
            }
        }
    });
    Ok(address)
}

async fn misbehave(mut socket: TcpStream, mut random: StdRng) {
    while let Ok(true) = read_request(&mut socket).await {
        let body = vec![b'x'; random.random_range(0..60_000)];
        let whole = |status: &str| {
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
            [head.as_bytes(), &body].concat()
        };
        let (said, goes_on) = match random.random_range(0..100) {
            0..70 => (whole("200 OK"), true),
            70..76 => (whole("503 Service Unavailable"), true),
            76..78 => (
                b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n".to_vec(),
                true,
            ),
            78..81 => (Vec::new(), false),
            81..84 => {
                let _ = socket.set_zero_linger();
                (Vec::new(), false)
            }
            84..87 => (b"HTTP/1.1 200 O".to_vec(), false),
            87..90 => (whole("200 OK")[..30].to_vec(), false),
            90..92 => (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec(), false),
            92..94 => (format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(100_000)).into_bytes(), false),
            94..96 => (b"\x15\x03\x03garbage\r\n\r\n".to_vec(), false),
            96..98 => {
                sleep(Duration::from_millis(random.random_range(0..1_000))).await;
                (whole("200 OK"), true)
            }
            _ => {
                sleep(Duration::from_secs(3)).await;
                (Vec::new(), false)
            }
        };
        if socket.write_all(&said).await.is_err() || !goes_on {
            return;
        }
        if random.random_bool(0.02) {
            // Idle, and then closed.
            sleep(Duration::from_millis(random.random_range(0..100))).await;
            return;
        }
    }
}

/// Whether there was one.
async fn read_request(socket: &mut TcpStream) -> Result<bool, Error> {
    let (mut head, mut left) = (Vec::new(), None);
    loop {
        let mut bytes = [0; 16 * 1024];
        let n = socket.read(&mut bytes).await?;
        if n == 0 {
            return Ok(false);
        }
        match &mut left {
            Some(left) => *left -= n.min(*left),
            None => {
                head.extend_from_slice(&bytes[..n]);
                let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
                let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
                let length = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
                left = Some(length.saturating_sub(head.len() - end - 4));
            }
        }
        if left == Some(0) {
            return Ok(true);
        }
    }
}

// === what is looked at ===

struct Sample {
    minute: f64,
    calls: u64,
    rss: u64,
    descriptors: usize,
}

/// Often enough for a hundred samples.
async fn watch(soak: Duration, tally: &Tally) -> Vec<Sample> {
    let (begun, mut samples) = (Instant::now(), Vec::new());
    let mut ticks = interval(soak / 100);
    ticks.tick().await;
    while begun.elapsed() < soak {
        ticks.tick().await;
        samples.push(Sample {
            minute: begun.elapsed().as_secs_f64() / 60.0,
            calls: tally.calls.load(Relaxed),
            rss: resident(),
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        });
    }
    samples
}

/// In KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

fn report(minutes: u64, samples: &[Sample], tally: &Tally, quiet: bool) -> ExitCode {
    let calls = tally.calls.load(Relaxed);
    println!("{minutes} minutes, {calls} calls, {LINES} at a time\n");
    println!("| minute | calls | RSS (MiB) | descriptors |\n|---|---|---|---|");
    for sample in samples.iter().step_by((samples.len() / 10).max(1)) {
        let mib = sample.rss as f64 / 1024.0;
        println!("| {:.1} | {} | {mib:.1} | {} |", sample.minute, sample.calls, sample.descriptors);
    }
    println!("\n| outcome | calls |\n|---|---|");
    for (outcome, calls) in tally.outcomes.lock().expect("nobody panics with it").iter() {
        println!("| {outcome} | {calls} |");
    }
    let quarter = samples.len() / 4;
    let (second, last) = (&samples[quarter..2 * quarter], &samples[3 * quarter..]);
    let [early, late] = [second, last].map(|samples| median(samples.iter().map(|sample| sample.rss)));
    let [few, many] = [second, last].map(|samples| median(samples.iter().map(|sample| sample.descriptors)));
    let stuck = tally.stuck.load(Relaxed);
    let verdicts = [
        ("no call is stuck", stuck == 0, format!("{stuck} of {calls}")),
        (
            "memory is flat",
            late <= early + early / 10 + 2_048,
            format!("{early} KiB in the second quarter, {late} in the last"),
        ),
        // The servers' silent ends stay for a while, so that it takes a leak to be more than a fifth above the second quarter.
        (
            "descriptors are flat",
            many <= few + few / 5 + 16,
            format!("{few} in the second quarter, {many} in the last"),
        ),
        ("the gauges are at zero in the end", quiet, String::new()),
    ];
    println!();
    for (what, holds, figures) in &verdicts {
        println!("- {} {what}. {figures}", if *holds { "✓" } else { "✗" });
    }
    if verdicts.iter().all(|(_, holds, _)| *holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn median<T: Ord + Copy + Default>(samples: impl Iterator<Item = T>) -> T {
    let mut sorted: Vec<_> = samples.collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
