//! Processes of this program: a server that others measure against, pinned to the last core, and clients on the first ones.

use std::{
    env,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use clap::Args;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::runtime::{Builder, Runtime};

use crate::{server, trust::Trust, work::Http};

/// Which server.
#[derive(Args)]
pub(crate) struct Served {
    #[arg(long, value_enum, default_value = "h1")]
    http: Http,
    /// What the delayed answer takes, in ms
    #[arg(long)]
    delay: u64,
    /// Over TLS
    #[arg(long)]
    encrypted: bool,
}

/// A server, for as long as this lives.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Its certificate, if it has one.
    pub(crate) trust: Option<Trust>,
}

/// Which of the two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Plain,
    Counting,
}

/// The server's process: tells the address in a line, and the certificate.
pub(crate) fn serve(served: &Served) {
    let cores = cores();
    pin(&cores[cores.len() - 1..]);
    runtime(1).block_on(async {
        let (address, listening) =
            server::listen(served.http, Duration::from_millis(served.delay)).await.expect("a free port");
        if served.encrypted {
            let (trust, acceptor) = Trust::served();
            println!("{address} {trust}");
            listening.serve_encrypted(acceptor).await;
        } else {
            println!("{address}");
            listening.serve().await;
        }
    });
}

/// Keeps this process to the first so many cores.
pub(crate) fn pin_client(workers: usize) {
    let cores = cores();
    pin(&cores[..workers.min(cores.len())]);
}

/// A runtime: the current thread for one worker.
pub(crate) fn runtime(workers: usize) -> Runtime {
    let mut builder = match workers {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(workers).enable_all().build().expect("a runtime")
}

impl Program {
    /// Where it is: beside the one that runs.
    pub(crate) fn path(self) -> PathBuf {
        let name = match self {
            Self::Plain => "outbound-benches",
            Self::Counting => "outbound-benches-counting",
        };
        let path = env::current_exe().expect("this program is a file").with_file_name(name);
        assert!(path.exists(), "{} is missing: build with --bins", path.display());
        path
    }
}

impl Server {
    pub(crate) fn start(http: Http) -> Self {
        Self::serving(http, false, DELAY)
    }

    /// One of HTTP/1.1, over TLS or not, whose delayed answer takes so long.
    pub(crate) fn delaying(encrypted: bool, delay: Duration) -> Self {
        Self::serving(Http::H1, encrypted, delay)
    }

    fn serving(http: Http, encrypted: bool, delay: Duration) -> Self {
        let delay = format!("--delay={}", delay.as_millis());
        let version = format!("--http={http:?}").to_lowercase();
        let mut command = Command::new(Program::Plain.path());
        let mut child = command
            .args(["serve", &version, &delay])
            .args(encrypted.then_some("--encrypted"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("it is a program");
        let mut line = String::new();
        let output = child.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("it tells its address");
        let mut words = line.split_whitespace();
        let address = words.next().expect("a word").parse().expect("an address");
        let trust = words.next().map(|trust| trust.parse().expect("a certificate"));
        Self { child, address, trust }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(None).expect("Linux");
    (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect()
}

fn pin(cores: &[usize]) {
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core);
    }
    sched_setaffinity(None, &set).expect("they are allowed");
}

/// What the delayed answer takes.
pub(crate) const DELAY: Duration = Duration::from_millis(50);
