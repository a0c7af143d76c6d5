//! One HTTP/1.1 connection: what the pool keeps of it, and the task that drives its socket.

use std::{
    fmt, mem,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Weak,
        atomic::{Ordering::SeqCst, fence},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use outbound_core::{BoxError, ConnectionInfo, Established, Exchange, Origin};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::ReusableBoxFuture;

use super::{
    driver::{self, End, Handle, Task, Transport},
    fields::Fields,
    wire::Wire,
};
use crate::{
    config::Http,
    connect::{Forwarding, Liveness},
    connection::{Connection, Described, Lease, Slot},
    keeper::Keeper,
    metered::Metered,
    upload::Upload,
};

/// A connection as the pool keeps it. Dropping it closes the socket: at once when it is idle, else within [`LINGER`].
pub(crate) struct Http1 {
    /// None while it is parked, and once it has turned out to be closed.
    sender: Option<http1::SendRequest<Upload>>,
    /// hyper's future for the response cannot be named. Its box is used again for each request.
    response: ReusableBoxFuture<'static, Answer>,
    is_parked: bool,
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
    /// What may still be read of a body that was dropped: bytes, and for how long.
    pub(crate) drain: (u64, Duration),
    /// Ends when the socket is closed.
    task: JoinHandle<()>,
    established: Arc<Established>,
    liveness: Option<Liveness>,
    keeper: Arc<Keeper>,
    socket: Weak<Slot>,
    /// Kept while an exchange waits for its response on a connection that had been idle.
    held: Option<Arc<Slot>>,
    /// Declared last: with it the task is told that all of this has gone.
    driver: Handle,
}

pub(crate) type Answer = Result<Response<Incoming>, TrySendError<Request<Upload>>>;

/// One use of such a connection.
pub(crate) struct Exclusive(Lease);

// === Connection ===

impl Http1 {
    /// Speaks HTTP/1.1 over what was dialed, and starts to drive it.
    pub(crate) async fn open<T>(
        io: T,
        established: Arc<Established>,
        described: Described,
        (origin, slot): (&Origin, &Arc<Slot>),
        (http, keeper): (Http, &Arc<Keeper>),
    ) -> Result<Box<Self>, BoxError>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let io: Box<dyn Transport> = Box::new(TokioIo::new(io));
        let wire = Arc::new(Wire::new(http.max_head_size));
        let io = TokioIo::new(Metered::new(io, wire.clone(), slot.clone()));
        let (sender, driver, task) = driver::drive(io).ok_or("hyper did not take the connection")?;
        let task = keeper.drive(run(task));
        Ok(Box::new(Self {
            sender: Some(sender),
            response: ReusableBoxFuture::new(std::future::pending()),
            is_parked: false,
            wire,
            host: HeaderValue::from_str(origin.host_and_port())?,
            forwarding: described.forwarding,
            fields: Fields::default(),
            exchange: None,
            served: 0,
            drain: http.drain,
            task,
            established,
            liveness: described.liveness,
            keeper: keeper.clone(),
            socket: Arc::downgrade(slot),
            held: None,
            driver,
        }))
    }

    /// Whether a request can be sent on it, as far as that can be known: the socket itself is asked. If so, its place in the pool
    /// is kept until [`let_go`](Self::let_go), whatever becomes of the socket.
    pub(crate) fn hold(&mut self) -> bool {
        self.held = self.socket.upgrade();
        self.held.is_some()
            && self.liveness.as_ref().is_none_or(Liveness::is_alive)
            && self.revive()
            && !self.is_closed()
    }

    /// Gives back all but its socket, if nothing is left to be done on it. Returned is what is to be dropped for that, where wakers may run.
    pub(crate) fn park(&mut self) -> Option<Box<dyn Send>> {
        self.sender.as_ref().filter(|sender| sender.is_ready() && self.driver.park())?;
        self.is_parked = true;
        let response = mem::replace(&mut self.response, ReusableBoxFuture::new(std::future::pending()));
        Some(Box::new((self.sender.take(), response, self.exchange.take(), mem::take(&mut self.fields))))
    }

    fn revive(&mut self) -> bool {
        if mem::take(&mut self.is_parked) {
            self.sender = self.driver.revive();
            self.keeper.look();
        }
        self.sender.is_some()
    }

    /// What is sent next may make the socket one for something else.
    pub(crate) fn may_upgrade(&self) {
        self.driver.may_upgrade();
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

    /// The connection as an exchange finds it that takes it `now`.
    pub(crate) fn info(&self, idle_since: Option<Instant>, now: Instant) -> ConnectionInfo {
        let idle = idle_since.map_or(Duration::ZERO, |since| now - since);
        ConnectionInfo::new(self.established.clone(), self.served, idle)
    }
}

/// Drives the socket until either side is done with it; a connection that was abandoned may linger for a while to finish its business.
async fn run(task: Task) {
    if task.run().await == End::Over {
        return;
    }
    task.close();
    // Boxed: every connection's task would have room for it.
    if Box::pin(tokio::time::timeout(LINGER, task.finish())).await.is_err() {
        tracing::debug!("closed a connection whose last exchange did not end");
    }
}

// === Exclusive ===

impl Exclusive {
    /// A lease of an HTTP/1.1 connection.
    pub(crate) fn new(lease: Lease) -> Self {
        Self(lease)
    }

    /// Since when the connection had been idle; `None` if it is new or came straight from another exchange.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        self.0.idle_since()
    }

    /// See [`Lease::release`](crate::slots::Lease::release).
    pub(crate) fn release(self) {
        self.0.release();
    }

    /// Closes it; what is returned ends when its socket has been closed and hyper has let go of everything.
    pub(crate) fn close(self) -> JoinHandle<()> {
        only(self.0.retire()).task
    }

    /// Its socket is not for HTTP any more.
    pub(crate) fn detach(self) {
        drop(self.0.detach());
    }
}

impl Deref for Exclusive {
    type Target = Http1;

    fn deref(&self) -> &Http1 {
        match &*self.0 {
            Connection::Http1(connection) => connection,
            Connection::Http2(_) => unreachable!("{ONLY}"),
        }
    }
}

impl DerefMut for Exclusive {
    fn deref_mut(&mut self) -> &mut Http1 {
        match &mut *self.0 {
            Connection::Http1(connection) => connection,
            Connection::Http2(_) => unreachable!("{ONLY}"),
        }
    }
}

fn only(connection: Connection) -> Box<Http1> {
    match connection {
        Connection::Http1(connection) => connection,
        Connection::Http2(_) => unreachable!("{ONLY}"),
    }
}

const ONLY: &str = "an exclusive lease is of an HTTP/1.1 connection";

impl fmt::Debug for Http1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1").field("established", &self.established).finish_non_exhaustive()
    }
}

/// How long a connection that will not be used again may take to end by itself: an upload that the server no longer wants
/// (RFC 9112, 9.6), a TLS closure alert.
const LINGER: Duration = Duration::from_millis(500);
