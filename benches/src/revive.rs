//! What an exchange costs on a connection that was parked, beside one on a warm connection, and one that opens its own.
//!
//! Counted is the exchange alone, from the call to the end of the body, with all that the client's runtime does meanwhile; parking and
//! closing happen between the exchanges. Instructions are the program's: what the kernel does for it shows in the time.

use std::{net::SocketAddr, process::Command, time::Duration};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http_body_util::Full;
use outbound::{
    Pool,
    pool::connect::{Connect, Tcp, Tls},
};
use serde::{Deserialize, Serialize};
use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};
use tower::ServiceExt;

use crate::{
    counted::{count, counted},
    exchange::name,
    extent::Extent,
    peers::service::read,
    process::{DELAY, Program, Server, pin_client, runtime},
    results::{median, save},
    trust::Trust,
    work::{Http, Order, Work},
};

/// Exchanges, in a process of their own.
#[derive(Args)]
pub(crate) struct Apart {
    #[arg(long, value_enum)]
    on: On,
    #[arg(long)]
    server: SocketAddr,
    /// The server's certificate, if it has one
    #[arg(long)]
    trust: Option<Trust>,
    #[arg(long)]
    exchanges: usize,
}

/// What an exchange finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum On {
    /// A connection that is idle.
    Warm,
    /// One that has been idle for so long that it is parked.
    Parked,
    /// None: it opens one, whose TLS takes up a former session.
    Resumed,
    /// None: it opens one.
    New,
}

/// One exchange.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Revived {
    pub(crate) on: String,
    pub(crate) encrypted: bool,
    pub(crate) instructions: f64,
    /// System calls.
    pub(crate) calls: f64,
    /// The median, in µs.
    pub(crate) time: f64,
}

pub(crate) fn main(options: &Extent) {
    let (exchanges, rounds) = if options.short { (20, 1) } else { (200, 5) };
    let mut revived = Vec::new();
    println!("{:44} {:>5} {:>13} {:>12} {:>9}", "an exchange on", "", "instructions", "system calls", "µs");
    for encrypted in [false, true] {
        let server = Server::delaying(encrypted, DELAY);
        let kinds = On::value_variants().iter().copied().filter(|on| encrypted || *on != On::Resumed);
        let kinds: Vec<_> = kinds.collect();
        let arguments = |on| arguments(on, &server, exchanges);
        let mut times = vec![Vec::new(); kinds.len()];
        for _ in 0..rounds {
            for (&on, times) in kinds.iter().zip(&mut times) {
                times.push(timed(&arguments(on)));
            }
        }
        for (on, times) in kinds.into_iter().zip(times) {
            let count = count(&arguments(on));
            let each = |all: u64| all as f64 / exchanges as f64;
            let one = Revived {
                on: on.title().to_owned(),
                encrypted,
                instructions: each(count.instructions),
                calls: each(count.calls),
                time: median(times),
            };
            let tls = if encrypted { "TLS" } else { "" };
            let Revived { on, instructions, calls, time, .. } = &one;
            println!("{on:44} {tls:>5} {instructions:13.0} {calls:12.1} {time:9.1}");
            revived.push(one);
        }
    }
    if options.save {
        save("revive", &revived);
    }
}

fn arguments(on: On, server: &Server, exchanges: usize) -> Vec<String> {
    let mut arguments = vec![
        "apart".to_owned(),
        format!("--on={}", name(on)),
        format!("--server={}", server.address),
        format!("--exchanges={exchanges}"),
    ];
    arguments.extend(server.trust.as_ref().map(|trust| format!("--trust={trust}")));
    arguments
}

/// The median that the process tells.
fn timed(arguments: &[String]) -> f64 {
    let output = Command::new(Program::Plain.path()).args(arguments).output().expect("it is a program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a number")
}

/// The process of [`Apart`].
pub(crate) fn child(options: &Apart) {
    pin_client(1);
    let time = match &options.trust {
        Some(trust) => run(options, Tls::new(Tcp::new(), trust.config(options.on == On::Resumed))),
        None => run(options, Tcp::new()),
    };
    println!("{time}");
}

fn run(options: &Apart, connector: impl Connect) -> f64 {
    let on = options.on;
    let limits = Pool::builder();
    let limits = match on {
        On::Warm => limits.park_after(Duration::MAX),
        On::Parked => limits.park_after(Duration::ZERO),
        On::New | On::Resumed => limits.park_after(Duration::MAX).max_requests_per_connection(1),
    };
    let pool = limits.build(connector).expect("valid limits");
    let order = Order::new(Work::Hello, Http::H1, options.server);
    let order = if options.trust.is_some() { order.encrypted() } else { order };
    let runtime = runtime(1);
    let request = || pool.clone().oneshot(order.request::<Full<Bytes>>());
    // A connection that is in use all the time: the pool does not come to rest in between.
    let held = runtime.block_on(request()).expect("an answer");
    let exchange = || {
        runtime.block_on(async { read(request().await.expect("an answer"), order.answer).await });
    };
    let mut times = Vec::with_capacity(options.exchanges);
    for turn in 0..WARM_UP + options.exchanges {
        if turn < WARM_UP {
            exchange();
        } else {
            let begun = Instant::now();
            counted(exchange);
            times.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        runtime.block_on(settled(&pool, on));
    }
    drop(held);
    median(times)
}

/// Waits until the next exchange will find what it is to find.
async fn settled<C>(pool: &Pool<C>, on: On) {
    loop {
        sleep(Duration::from_millis(2)).await;
        let stats = pool.stats();
        let is_settled = match on {
            On::Warm => stats.connections.idle == 1,
            On::Parked => stats.parked == 1,
            On::New | On::Resumed => stats.connections.open() == 1,
        };
        if is_settled {
            break;
        }
    }
    // The drivers' turn.
    for _ in 0..4 {
        yield_now().await;
    }
}

impl On {
    fn title(self) -> &'static str {
        match self {
            Self::Warm => "a warm connection",
            Self::Parked => "a parked connection",
            Self::Resumed => "a new connection, a former session resumed",
            Self::New => "a new connection",
        }
    }
}

const WARM_UP: usize = 20;
