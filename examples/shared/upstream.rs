//! A small HTTP/1.1 server that runs in a process of its own, so that it shares neither threads nor memory with the client under
//! test, and that closes idle connections whenever it likes.

use std::{
    collections::HashMap,
    io,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command},
};

use crate::tally::Sighted;

/// How the server treats its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mood {
    /// Keeps them.
    Steady,
    /// Closes idle ones at random, by FIN or RST, some of them while a request is on its way.
    Hostile,
}

/// The running server, as its client sees it.
#[derive(Debug)]
pub struct Upstream {
    /// Where it listens.
    pub url: String,
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

#[derive(Debug, Default)]
struct Seen {
    accepted: usize,
    open: usize,
    max_open: usize,
    /// How often each request, known by its `x-call`, was read whole.
    applied: HashMap<String, usize>,
}

// === Upstream ===

impl Upstream {
    /// Starts this very program again, which must call [`serve`] when its arguments are `--serve MOOD`.
    pub async fn start(mood: Mood) -> io::Result<Self> {
        let mood = if mood == Mood::Steady { "steady" } else { "hostile" };
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--serve", mood])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for the client alone: the server is asked for its count afterwards.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().expect("piped");
        let mut said = BufReader::new(stdout).lines();
        let url = said.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Self { url, child, said })
    }

    /// Stops it, and tells what it has seen.
    pub async fn stop(mut self) -> io::Result<Sighted> {
        drop(self.child.stdin.take());
        let seen = self.said.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.child.wait().await?;
        let seen: Value = serde_json::from_str(&seen)?;
        let count = |name: &str| seen[name].as_u64().unwrap_or_default();
        Ok(Sighted {
            accepted: count("accepted"),
            max_open: count("max_open"),
            open: count("open"),
            requests: count("requests"),
            applied_twice: count("applied_twice"),
        })
    }
}

/// Serves until standard input ends, then prints what was seen.
pub async fn serve(mood: Mood) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}/", listener.local_addr()?);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut stdin = tokio::io::stdin();
    let mut rest = Vec::new();
    let ended = stdin.read_to_end(&mut rest);
    tokio::pin!(ended);
    loop {
        tokio::select! {
            _ = &mut ended => break,
            accepted = listener.accept() => {
                let (socket, _) = accepted?;
                let seed = {
                    let mut seen = seen.lock().unwrap();
                    seen.accepted += 1;
                    seen.open += 1;
                    seen.max_open = seen.max_open.max(seen.open);
                    seen.accepted as u64
                };
                let seen = seen.clone();
                tokio::spawn(async move {
                    let mut socket = socket;
                    // How it ended is the client's to tell.
                    let _ = converse(&mut socket, mood, StdRng::seed_from_u64(seed), &seen).await;
                    // Counted out before the client can know of it and open another.
                    seen.lock().unwrap().open -= 1;
                    drop(socket);
                });
            }
        }
    }
    // The client has closed what it had; what is still open a moment later is a leak.
    for _ in 0..100 {
        if seen.lock().unwrap().open == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seen = seen.lock().unwrap();
    let twice = seen.applied.values().filter(|&&times| times > 1).count();
    let summary = json!({
        "accepted": seen.accepted, "max_open": seen.max_open, "open": seen.open,
        "requests": seen.applied.values().sum::<usize>(), "applied_twice": twice,
    });
    println!("{summary}");
    Ok(())
}

/// Answers requests until the client closes, or this server's patience with an idle connection ends.
async fn converse(socket: &mut TcpStream, mood: Mood, mut rng: StdRng, seen: &Mutex<Seen>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut buffer = Vec::new();
    let mut patience = Duration::from_secs(3600);
    loop {
        let call = match tokio::time::timeout(patience, read_request(socket, &mut buffer)).await {
            Ok(Ok(Some(call))) => call,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            // Out of patience: perhaps in the middle of the next request.
            Err(_) => {
                if rng.random_bool(0.2) {
                    socket.set_zero_linger()?;
                }
                return Ok(());
            }
        };
        *seen.lock().unwrap().applied.entry(call).or_default() += 1;
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..5_000))).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{\"stored\":true}").await?;
        if mood == Mood::Hostile {
            patience = Duration::from_micros(rng.random_range(0..8_000));
        }
    }
}

/// Reads one request with a `Content-Length`; tells its `x-call`.
async fn read_request(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let field = |name: &str| {
                let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
                fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).last()
            };
            let length: usize = field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let whole = end + 4 + length;
            while buffer.len() < whole {
                if socket.read_buf(buffer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            buffer.drain(..whole);
            return Ok(Some(field("x-call").unwrap_or_default().to_owned()));
        }
        if socket.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}
