//! The handle on a running upstream.

use std::{
    fmt,
    future::Future,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdTcpListener},
    thread,
};

use http::Uri;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::oneshot,
    task::{AbortHandle, JoinSet, yield_now},
};

use crate::{
    Ended, Received, Sightings,
    sightings::{Entry, Log},
};

/// A running upstream, [`Hostile`](crate::Hostile) or [`Friendly`](crate::Friendly), and what it has seen.
///
/// Dropping it stops everything: it stops listening, and its sockets are closed at the runtime's next turn.
///
/// The methods that wait return once what they wait for *has* happened. They wait without a Tokio timer, so they are
/// safe on a paused clock, and after 20 seconds of the wall clock they panic with all that the upstream has seen.
pub struct Upstream {
    addr: SocketAddr,
    scheme: &'static str,
    log: Log,
    running: Running,
}

enum Running {
    Task(AbortHandle),
    Thread { stop: Option<oneshot::Sender<()>>, thread: Option<thread::JoinHandle<()>> },
}

// === Upstream ===

impl Upstream {
    pub(crate) fn launch<S, F>(scheme: &'static str, own_thread: bool, serve: S) -> Self
    where
        S: Fn(TcpStream, Entry) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = StdTcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let log = Log::default();
        let accepting = accept(listener, log.clone(), serve);
        let running = if own_thread {
            Running::thread(accepting)
        } else {
            Running::Task(tokio::spawn(accepting).abort_handle())
        };
        Upstream { addr, scheme, log, running }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URI of `path` (which starts with `/`) here.
    ///
    /// # Panics
    ///
    /// When `path` is not a path and query.
    pub fn uri(&self, path: &str) -> Uri {
        Uri::builder()
            .scheme(self.scheme)
            .authority(self.addr.to_string())
            .path_and_query(path)
            .build()
            .expect("a path and query")
    }

    /// Everything seen so far.
    pub fn sightings(&self) -> Sightings {
        self.log.0.read(Sightings::clone)
    }

    /// Sockets open now.
    pub fn open(&self) -> usize {
        self.log.0.read(|seen| seen.open)
    }

    /// The most sockets that were ever open at the same time, as the server saw it: a client that opens one and closes
    /// another within the same turn of the runtime may be taken not to have had both.
    pub fn max_open(&self) -> usize {
        self.log.0.read(|seen| seen.max_open)
    }

    /// Waits for `n` sockets to have been accepted.
    pub async fn accepted(&self, n: usize) {
        self.until(&format!("{n} accepted"), |seen| seen.connections.len() >= n).await;
    }

    /// Waits for `n` request heads; returns the requests, their bodies as far as they have come.
    pub async fn heads(&self, n: usize) -> Vec<Received> {
        self.until(&format!("{n} request heads"), |seen| seen.requests.len() >= n).await;
        self.log.0.read(|seen| seen.requests.clone())
    }

    /// Waits for `n` whole requests, their bodies read to the end; returns them, in order of their heads.
    pub async fn requests(&self, n: usize) -> Vec<Received> {
        let whole = |seen: &Sightings| seen.requests.iter().filter(|request| request.complete).count();
        self.until(&format!("{n} whole requests"), |seen| whole(seen) >= n).await;
        self.log.0.read(|seen| seen.requests.iter().filter(|request| request.complete).cloned().collect())
    }

    /// Waits for connection `number` (the first is 0) to end; returns how.
    pub async fn ended(&self, number: usize) -> Ended {
        let ended = |seen: &Sightings| seen.connections.get(number).and_then(|connection| connection.ended);
        self.until(&format!("connection {number} to end"), |seen| ended(seen).is_some()).await;
        self.log.0.read(ended).expect("an ended connection stays so")
    }

    /// Waits until none of the accepted sockets is open; soon, if there are none.
    ///
    /// A socket that the client has just opened is accepted first, unless the upstream is on its own thread: there,
    /// wait for it to be [`accepted`](Self::accepted).
    pub async fn all_closed(&self) {
        turns(8).await;
        self.until("all sockets to be closed", |seen| seen.open == 0).await;
    }

    /// Waits until `met` is true of what has been seen; `what` is named in the panic.
    ///
    /// # Panics
    ///
    /// When that is not so after 20 seconds of the wall clock.
    pub async fn until(&self, what: &str, met: impl FnMut(&Sightings) -> bool) {
        self.log.0.expect(met, |seen| self.complaint(what, seen)).await;
    }

    /// As [`until`](Self::until), but blocks the thread: for a test that keeps its runtime from turning while an
    /// upstream on its [own thread](crate::Hostile::own_thread) acts.
    ///
    /// # Panics
    ///
    /// When that is not so after 20 seconds of the wall clock.
    pub fn until_blocking(&self, what: &str, met: impl FnMut(&Sightings) -> bool) {
        self.log.0.expect_blocking(met, |seen| self.complaint(what, seen));
    }

    fn complaint(&self, what: &str, seen: &Sightings) -> String {
        format!("upstream {}: waited in vain for {what}; saw {seen}", self.addr)
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({}: {})", self.addr, self.sightings())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        match &mut self.running {
            Running::Task(task) => task.abort(),
            Running::Thread { stop, thread } => {
                drop(stop.take());
                if let Some(thread) = thread.take() {
                    let _ = thread.join();
                }
            }
        }
    }
}

// === Running ===

impl Running {
    fn thread(accepting: impl Future<Output = ()> + Send + 'static) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().expect("a runtime of its own");
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
        });
        Running::Thread { stop: Some(stop), thread: Some(thread) }
    }
}

/// Accepts for ever. The connections' tasks end with this one.
async fn accept<S, F>(listener: StdTcpListener, log: Log, serve: S)
where
    S: Fn(TcpStream, Entry) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::from_std(listener).expect("a non-blocking listener");
    let mut connections = JoinSet::new();
    loop {
        if let Ok((socket, peer)) = listener.accept().await {
            // A client that closed a socket before it opened this one has not had both open: let the end of the
            // other be noticed first.
            turns(2).await;
            connections.spawn(serve(socket, log.accepted(peer)));
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Lets the other tasks of the runtime see what has come.
async fn turns(n: usize) {
    for _ in 0..n {
        yield_now().await;
    }
}
