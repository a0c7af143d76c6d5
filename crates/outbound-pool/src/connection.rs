//! One HTTP/1.1 connection: what the pool keeps of it, and the task that drives its socket.

use std::{
    convert::Infallible,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{Ordering::SeqCst, fence},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Extensions, HeaderValue, Request, Response, Version};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::{
    client::legacy::connect::{Connected, HttpInfo},
    rt::TokioIo,
};
use outbound_core::{BoxError, ConnectionInfo, Established, Exchange, Origin};
use tokio::{sync::oneshot, task::JoinHandle, time::Instant};
use tokio_util::sync::ReusableBoxFuture;

use crate::{
    connect::{Addresses, Dialed, Forwarding, Liveness},
    fields::Fields,
    reaper::Reaper,
    slots,
    upload::Upload,
    wire::{Metered, Wire},
};

pub(crate) type Slots = slots::Slots<Origin, Box<Connection>>;
pub(crate) type Slot = slots::Slot<Origin, Box<Connection>>;
pub(crate) type Lease = slots::Lease<Origin, Box<Connection>>;
pub(crate) type Waiting = slots::Waiting<Origin, Box<Connection>>;

/// A connection as the pool keeps it. Dropping it closes the socket: at once when it is idle, else within [`LINGER`].
pub(crate) struct Connection {
    /// None once it has turned out to be closed.
    sender: Option<http1::SendRequest<Upload>>,
    /// hyper's future for the response cannot be named. Its box is used again for each request.
    response: ReusableBoxFuture<'static, Answer>,
    pub(crate) wire: Arc<Wire>,
    /// The value of the `Host` header.
    pub(crate) host: HeaderValue,
    /// It leads to a proxy that forwards each request.
    pub(crate) forwarding: Option<Forwarding>,
    /// Of a request that may have to be sent again.
    pub(crate) fields: Fields,
    /// The last exchange, whose allocation the next may use if nobody looks at it any more.
    pub(crate) exchange: Option<Exchange>,
    pub(crate) served: u64,
    /// Ends when the socket is closed.
    pub(crate) driver: JoinHandle<()>,
    established: Arc<Established>,
    liveness: Option<Liveness>,
    socket: Weak<Slot>,
    /// Kept while an exchange waits for its response on a connection that had been idle.
    held: Option<Arc<Slot>>,
    /// Dropped with the connection, which tells the driver.
    _kept: oneshot::Sender<Infallible>,
}

pub(crate) type Answer = Result<Response<Incoming>, TrySendError<Request<Upload>>>;

/// A connection that has just been opened, and the right to its socket.
pub(crate) struct Opened {
    pub(crate) connection: Box<Connection>,
    pub(crate) slot: Arc<Slot>,
}

// === Opened ===

impl Opened {
    /// Speaks HTTP/1.1 over what was dialed, and starts to drive it.
    pub(crate) async fn new<T>(
        dialed: Dialed<T>,
        slot: Arc<Slot>,
        id: u64,
        origin: &Origin,
        reaper: &Arc<Reaper>,
    ) -> Result<Self, BoxError>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let Dialed { io, connected, timings } = dialed;
        let described = Described::of(&connected);
        let wire = Arc::new(Wire::default());
        let io = TokioIo::new(Metered::new(io, wire.clone(), slot.clone()));
        let (sender, connection) = http1::Builder::new().handshake(io).await?;
        let (kept, gone) = oneshot::channel();
        let driver = tokio::spawn(drive(connection, gone));
        reaper.ensure_running();
        let mut established = Established::now(id, Version::HTTP_11);
        established.local = described.local;
        established.remote = described.remote;
        established.proxied = connected.is_proxied();
        established.timings = timings;
        let connection = Box::new(Connection {
            sender: Some(sender),
            response: ReusableBoxFuture::new(std::future::pending()),
            wire,
            host: HeaderValue::from_str(origin.host_and_port())?,
            forwarding: described.forwarding,
            fields: Fields::default(),
            exchange: None,
            served: 0,
            driver,
            established: Arc::new(established),
            liveness: described.liveness,
            socket: Arc::downgrade(&slot),
            held: None,
            _kept: kept,
        });
        Ok(Self { connection, slot })
    }
}

/// Drives the socket until either side is done with it; a connection that was dropped may linger for a while to finish its business.
async fn drive<T>(connection: http1::Connection<T, Upload>, gone: oneshot::Receiver<Infallible>)
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        ended = &mut connection => return note(ended),
        _ = gone => {}
    }
    match tokio::time::timeout(LINGER, connection).await {
        Ok(ended) => note(ended),
        Err(_) => tracing::debug!("closed a connection whose last exchange did not end"),
    }
}

/// Whoever had an exchange on the connection has been told; without one there is nobody to tell.
fn note(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
    }
}

// === Connection ===

impl Connection {
    /// Whether a request can be sent on it, as far as that can be known: the socket itself is asked. If so, its place in the pool
    /// is kept until [`let_go`](Self::let_go), whatever becomes of the socket.
    pub(crate) fn hold(&mut self) -> bool {
        self.held = self.socket.upgrade();
        self.held.is_some() && !self.is_closed() && self.liveness.as_ref().is_none_or(Liveness::is_alive)
    }

    /// The place is the socket's alone again. Returned is the right to open another there, once it is closed.
    pub(crate) fn let_go(&mut self) -> Option<Arc<Slot>> {
        self.held.take()
    }

    /// Whether hyper takes no request any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.as_ref().is_none_or(http1::SendRequest::is_closed)
    }

    /// On a connection that comes straight from another exchange hyper may have a little left to do.
    ///
    /// # Panics
    /// If it was closed already when a request was sent on it.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.sender.as_mut().expect("one request an exchange").poll_ready(cx)
    }

    /// Sends a request once it is ready.
    pub(crate) fn send(&mut self, request: Request<Upload>) {
        let Some(sender) = &mut self.sender else { unreachable!("one request an exchange") };
        self.response.set(sender.try_send_request(request));
        // A request that gets into hyper's channel in the very moment in which the connection lets go of the other end is not
        // given back as long as this end lives (tokio's receiver drains only what is there already): nobody would ever answer. The
        // connection says that it is closed before it lets go. So either that is seen here, or the request was in time.
        fence(SeqCst);
        if sender.is_closed() {
            self.sender = None;
        }
    }

    pub(crate) fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        self.response.poll(cx)
    }

    /// Closes it; what is returned ends when its socket has been closed and hyper has let go of everything.
    pub(crate) fn close(self) -> JoinHandle<()> {
        self.driver
    }

    /// The connection as an exchange finds it that takes it now.
    pub(crate) fn info(&self, idle_since: Option<Instant>) -> ConnectionInfo {
        let idle = idle_since.map_or(Duration::ZERO, |since| since.elapsed());
        ConnectionInfo::new(self.established.clone(), self.served, idle)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("established", &self.established).finish_non_exhaustive()
    }
}

/// What a connector told of its connection.
struct Described {
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    liveness: Option<Liveness>,
    forwarding: Option<Forwarding>,
}

impl Described {
    fn of(connected: &Connected) -> Self {
        let mut extras = Extensions::new();
        connected.get_extras(&mut extras);
        let info = extras.get::<HttpInfo>();
        let addresses = extras.get::<Addresses>();
        Self {
            local: addresses.map(|ends| ends.local).or(info.map(HttpInfo::local_addr)),
            remote: addresses.map(|ends| ends.remote).or(info.map(HttpInfo::remote_addr)),
            liveness: extras.get::<Liveness>().cloned(),
            forwarding: Forwarding::of(connected, &extras),
        }
    }
}

/// How long a connection that will not be used again may take to end by itself: an upload that the server no longer wants
/// (RFC 9112, 9.6), a TLS closure alert.
const LINGER: Duration = Duration::from_millis(500);
