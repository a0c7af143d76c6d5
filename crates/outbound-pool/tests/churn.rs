//! Ten thousand random things done to a pool, as the servers see it: twenty origins, calls given up, failures and closes.

mod support;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::Uri;
use http_body_util::BodyExt;
use outbound_core::BoxError;
use outbound_pool::{Body, Builder, Pool, connect::Tcp};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{TcpListener, TcpStream},
    runtime,
    task::{AbortHandle, JoinSet, yield_now},
};

const SEED: u64 = 0x0c47;
const ORIGINS: usize = 20;
const STEPS: usize = 10_000;
/// Then it is closed.
const A_POOLS_STEPS: usize = 3_000;
const CONNECTIONS: usize = 24;
const PER_HOST: usize = 3;
const IDLE: usize = 9;

/// What a server does, by the path that it is asked for: the last is the one that serves for ever.
const DEEDS: [&str; 9] = ["close", "reset", "half", "silent", "garbage", "stray", "big", "leave", "hello"];

/// Sockets as the servers see them.
#[derive(Clone, Debug, Default)]
struct Seen {
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
}

/// Counts while it lives.
struct Counted(Arc<AtomicUsize>);

impl Seen {
    fn enter(&self) -> Counted {
        self.accepted.fetch_add(1, SeqCst);
        self.most.fetch_max(self.open.fetch_add(1, SeqCst) + 1, SeqCst);
        Counted(self.open.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Servers on one thread, which stops with the process. Of each what it has seen, and of all.
fn servers() -> (Vec<(SocketAddr, Seen)>, Seen) {
    let all = Seen::default();
    let each: Vec<_> = (0..ORIGINS)
        .map(|_| (std::net::TcpListener::bind("127.0.0.1:0").unwrap(), Seen::default()))
        .collect();
    let addresses =
        each.iter().map(|(listener, seen)| (listener.local_addr().unwrap(), seen.clone())).collect();
    let seen_of_all = all.clone();
    std::thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for (listener, seen) in each {
                tokio::spawn(accept(listener, seen, seen_of_all.clone()));
            }
            std::future::pending::<()>().await;
        });
    });
    (addresses, all)
}

async fn accept(listener: std::net::TcpListener, seen: Seen, all: Seen) {
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((socket, _)) = listener.accept().await {
        // Sockets that were closed before this one was opened are noticed first.
        for _ in 0..3 {
            yield_now().await;
        }
        // Nor does one count that was closed before it was accepted: its place may be another's by now.
        let ready = socket.ready(Interest::READABLE | Interest::WRITABLE).await;
        let is_open = ready.is_ok_and(|ready| !ready.is_read_closed() && !ready.is_write_closed());
        let counted = is_open.then(|| (seen.enter(), all.enter()));
        tokio::spawn(async move {
            let _counted = counted;
            let _ = serve(socket).await;
        });
    }
}

async fn serve(mut socket: TcpStream) -> std::io::Result<()> {
    let mut unread = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break unread.drain(..end + 4).collect::<Vec<u8>>();
            }
            if socket.read_buf(&mut unread).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&head).into_owned();
        if head.contains("content-length: 5") {
            while unread.len() < 5 {
                if socket.read_buf(&mut unread).await? == 0 {
                    return Ok(());
                }
            }
            unread.drain(..5);
        }
        let hello = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        match head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/') {
            "close" => {
                let last = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
                socket.write_all(last.as_bytes()).await?;
                return Ok(());
            }
            "reset" => return socket.set_zero_linger(),
            "half" => {
                socket.write_all(&hello.as_bytes()[..hello.len() - 2]).await?;
                return Ok(());
            }
            "silent" => {
                // Until the client gives up.
                while socket.read_buf(&mut unread).await? > 0 {}
                return Ok(());
            }
            "garbage" => socket.write_all(b"SSH-2.0-nothing\r\n").await?,
            "stray" => {
                socket.write_all(hello.as_bytes()).await?;
                socket.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await?;
            }
            "big" => {
                let body = vec![b'x'; 200_000];
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n").await?;
                socket.write_all(&body).await?;
            }
            "leave" => {
                socket.write_all(hello.as_bytes()).await?;
                return Ok(());
            }
            _ => socket.write_all(hello.as_bytes()).await?,
        }
    }
}

/// What a caller may hold at one moment.
#[derive(Default)]
struct Callers {
    calls: JoinSet<Result<Body, BoxError>>,
    handles: Vec<AbortHandle>,
    bodies: Vec<Body>,
    reads: JoinSet<Result<(), BoxError>>,
    outcomes: [usize; 2],
}

impl Callers {
    fn call(&mut self, pool: &Pool<Tcp>, uri: Uri, has_body: bool) {
        let pool = pool.clone();
        self.handles.push(self.calls.spawn(async move {
            let method = if has_body { http::Method::POST } else { http::Method::GET };
            let body = http_body_util::Full::<bytes::Bytes>::from(if has_body { "apply" } else { "" });
            send(&pool, request(method, uri, body)).await.map(http::Response::into_body)
        }));
    }

    fn gather(&mut self) {
        while let Some(ended) = self.calls.try_join_next() {
            match ended {
                Ok(Ok(body)) => {
                    self.outcomes[0] += 1;
                    self.bodies.push(body);
                }
                Ok(Err(_)) => self.outcomes[1] += 1,
                Err(cancelled) => assert!(cancelled.is_cancelled(), "{cancelled}"),
            }
        }
        while self.reads.try_join_next().is_some() {}
        self.handles.retain(|handle| !handle.is_finished());
    }
}

fn limits() -> Builder {
    Pool::builder()
        .max_connections(CONNECTIONS)
        .max_connections_per_host(PER_HOST)
        .max_idle(IDLE)
        .max_requests_per_connection(50)
        .max_waiting(200)
        .seed(SEED)
}

#[test]
fn sockets_never_exceed_the_caps() {
    let (servers, all) = servers();
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut random = StdRng::seed_from_u64(SEED);
        let mut pools = vec![build(limits())];
        let mut callers = Callers::default();
        let mut sent_home = 0;
        for step in 0..STEPS {
            if step % A_POOLS_STEPS == A_POOLS_STEPS - 1 {
                // Everybody is sent home, and another pool takes over when the last socket is closed.
                sent_home += pools[0].stats().exchanges;
                pools[0].close(Duration::ZERO).await;
                callers.bodies.clear();
                let stats = pools[0].stats();
                assert_eq!(stats.connections.open(), 0, "step {step}: {stats:?}");
                pools[0] = build(limits());
            }
            let pool = &pools[0];
            let pick = |random: &mut StdRng, all: usize| random.random_range(0..all.max(1));
            match random.random_range(0..20) {
                0..=9 if callers.handles.len() < 150 => {
                    let (address, _) = servers[random.random_range(0..ORIGINS)];
                    // Half of all calls are good ones.
                    let deed = DEEDS[random.random_range(0..2 * DEEDS.len()).min(DEEDS.len() - 1)];
                    let uri = format!("http://{address}/{deed}").parse().unwrap();
                    callers.call(pool, uri, random.random_bool(0.3));
                }
                10..=12 if !callers.handles.is_empty() => {
                    let index = pick(&mut random, callers.handles.len());
                    callers.handles.swap_remove(index).abort();
                }
                13 | 14 if !callers.bodies.is_empty() => {
                    let index = pick(&mut random, callers.bodies.len());
                    drop(callers.bodies.swap_remove(index));
                }
                15 | 16 if !callers.bodies.is_empty() => {
                    let index = pick(&mut random, callers.bodies.len());
                    let body = callers.bodies.swap_remove(index);
                    callers.reads.spawn(async move { body.collect().await.map(drop) });
                }
                17 => {
                    let (address, _) = servers[random.random_range(0..ORIGINS)];
                    let uri = format!("http://{address}/").parse().unwrap();
                    let pool = pool.clone();
                    tokio::spawn(async move { pool.prewarm(&uri, 2).await.map(drop) });
                }
                _ => yield_now().await,
            }
            for _ in 0..4 {
                yield_now().await;
            }
            callers.gather();
            let counts = pools[0].stats().connections;
            assert!(counts.open() <= CONNECTIONS && counts.idle <= IDLE, "step {step}: {counts:?}");
        }
        callers.calls.abort_all();
        while callers.calls.join_next().await.is_some() {}
        callers.bodies.clear();
        // A 408 that arrives just after the next request has gone out answers it, as far as anybody can tell, and has no end.
        callers.reads.shutdown().await;
        let pool = pools.remove(0);
        quiet(&pool).await;
        println!(
            "{:?} answered and failed, {} sockets, {} at once",
            callers.outcomes,
            all.accepted.load(SeqCst),
            all.most.load(SeqCst)
        );
        assert!(
            callers.outcomes.iter().all(|&some| some > 100),
            "a test of something: {:?}",
            callers.outcomes
        );
        assert!(sent_home > 0, "closes of a pool that is at work");
        assert!(all.most.load(SeqCst) <= CONNECTIONS, "{} at once", all.most.load(SeqCst));
        assert!(all.most.load(SeqCst) > CONNECTIONS / 2, "the cap is reached, nearly");
        for (address, seen) in &servers {
            assert!(seen.most.load(SeqCst) <= PER_HOST, "{address}: {} at once", seen.most.load(SeqCst));
        }
        leaves_nothing("churn", pool, &[]).await;
        let begun = std::time::SystemTime::now();
        while all.open.load(SeqCst) > 0 {
            assert!(
                begun.elapsed().unwrap() < Duration::from_secs(20),
                "{} still open",
                all.open.load(SeqCst)
            );
            yield_now().await;
        }
    });
}
