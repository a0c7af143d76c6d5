//! The task that drives an HTTP/2 connection, and what it does on the side: room, pings, resets, the end.

use std::{
    collections::VecDeque,
    error::Error,
    pin::{Pin, pin},
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{Connection, SendRequest},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{Instant, Sleep, sleep},
};

use super::{
    connection::{Http2, Order, RESET_EVERY, Traffic},
    streaming::Stream,
};
use crate::{config::Http, connection::Slot, events::Why, metered::Metered};

pub(super) struct Driver<T> {
    connection: Connection<Metered<T, Traffic, Arc<Slot>>, Bytes>,
    /// None once the connection takes no more requests.
    sender: Option<SendRequest<Bytes>>,
    handle: Weak<Http2>,
    orders: mpsc::UnboundedReceiver<Order>,
    slot: Arc<Slot>,
    room: usize,
    pings: PingPong,
    /// A ping is out; until when it has to be answered.
    doubt: Option<Pin<Box<Sleep>>>,
    /// When the last one was answered.
    alive_at: Instant,
    keep_alive: Option<KeepAlive>,
    /// Streams that were given up, but are not reset yet.
    given_up: VecDeque<Stream>,
    next_reset: Option<Pin<Box<Sleep>>>,
    /// All handles have gone: until when it may end by itself.
    linger: Option<Pin<Box<Sleep>>>,
    ping_timeout: Duration,
}

struct KeepAlive {
    interval: Duration,
    timer: Pin<Box<Sleep>>,
    /// What had been read when the timer was set.
    bytes_in: u64,
}

impl<T> Driver<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(
        mut connection: Connection<Metered<T, Traffic, Arc<Slot>>, Bytes>,
        sender: SendRequest<Bytes>,
        handle: Weak<Http2>,
        orders: mpsc::UnboundedReceiver<Order>,
        slot: Arc<Slot>,
        http: Http,
    ) -> Self {
        let pings = connection.ping_pong().expect("asked for once");
        let keep_alive = http.keep_alive.map(|interval| KeepAlive {
            interval,
            timer: Box::pin(sleep(interval)),
            bytes_in: 0,
        });
        Self {
            room: connection.max_concurrent_send_streams(),
            connection,
            sender: Some(sender),
            handle,
            orders,
            slot,
            pings,
            doubt: None,
            alive_at: Instant::now(),
            keep_alive,
            given_up: VecDeque::new(),
            next_reset: None,
            linger: None,
            ping_timeout: http.ping_timeout,
        }
    }

    /// Until the connection has ended. Its socket is closed, and its place in the pool free, when this is dropped.
    pub(super) async fn run(self) {
        let mut driver = pin!(self);
        std::future::poll_fn(|cx| driver.as_mut().get_mut().poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.take_orders(cx);
        self.keep_alive(cx);
        self.reset(cx);
        if let Poll::Ready(ended) = Pin::new(&mut self.connection).poll(cx) {
            // A GOAWAY that finds nothing under way ends it at once.
            if let Some(Poll::Ready(Err(last))) = self.sender.as_mut().map(|sender| sender.poll_ready(cx))
                && last.is_go_away()
                && last.is_remote()
            {
                self.slot.condemn(Why::Drained);
            }
            if let Err(error) = ended {
                tracing::debug!(error = &error as &dyn Error, "connection ended");
            }
            return Poll::Ready(());
        }
        self.look(cx);
        if self.poll_doubt(cx).is_ready() {
            self.slot.condemn(Why::Drained);
            tracing::debug!("closed a connection that did not answer a ping");
            return Poll::Ready(());
        }
        match &mut self.linger {
            Some(linger) => linger.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    fn take_orders(&mut self, cx: &mut Context<'_>) {
        while self.linger.is_none() {
            match self.orders.poll_recv(cx) {
                Poll::Ready(Some(Order::Doubt)) => self.doubt(),
                Poll::Ready(Some(Order::Reset(stream))) => self.given_up.push_back(stream),
                Poll::Ready(Some(Order::Drain)) => self.slot.condemn(Why::Drained),
                Poll::Ready(None) => {
                    self.sender = None;
                    self.linger = Some(Box::pin(sleep(LINGER)));
                }
                Poll::Pending => break,
            }
        }
    }

    /// What the connection's last turn has changed: the peer's limit, or its will to take more.
    fn look(&mut self, cx: &mut Context<'_>) {
        let room = self.connection.max_concurrent_send_streams();
        if room != self.room {
            self.room = room;
            if let Some(handle) = self.handle.upgrade() {
                handle.allow(room);
            }
            if self.doubt.is_none() {
                self.slot.resize(room);
            }
        }
        if let Some(sender) = &mut self.sender
            && let Poll::Ready(Err(_)) = sender.poll_ready(cx)
        {
            self.sender = None;
            self.slot.condemn(Why::Drained);
        }
    }

    /// A stream was given up in silence. The peer is asked again only if it has answered something since it was last asked: gRPC's servers
    /// take more for an attack (golang/go#70575). Else its last word counts for as long as a ping may take, and then no more.
    fn doubt(&mut self) {
        let Some(handle) = self.handle.upgrade().filter(|_| self.doubt.is_none()) else { return };
        if handle.heard.swap(false, Relaxed) {
            self.ask();
        } else if self.alive_at.elapsed() >= self.ping_timeout {
            self.slot.condemn(Why::Drained);
        }
    }

    /// Asks whether the peer is there, and offers the connection to nobody until it says so.
    fn ask(&mut self) {
        if self.doubt.is_none() && self.pings.send_ping(Ping::opaque()).is_ok() {
            self.doubt = Some(Box::pin(sleep(self.ping_timeout)));
            self.slot.resize(0);
        }
    }

    /// Ready if a ping has not been answered in time.
    fn poll_doubt(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = &mut self.doubt else { return Poll::Pending };
        if self.pings.poll_pong(cx).is_ready() {
            (self.doubt, self.alive_at) = (None, Instant::now());
            self.slot.resize(self.room);
            return Poll::Pending;
        }
        std::task::ready!(due.as_mut().poll(cx));
        if let Some(handle) = self.handle.upgrade() {
            handle.silent.store(true, Relaxed);
        }
        Poll::Ready(())
    }

    /// While exchanges go on, a peer that has said nothing for an interval is asked.
    fn keep_alive(&mut self, cx: &mut Context<'_>) {
        let Some(KeepAlive { interval, timer, bytes_in }) = &mut self.keep_alive else { return };
        let mut must_ask = false;
        while timer.as_mut().poll(cx).is_ready() {
            timer.as_mut().reset(Instant::now() + *interval);
            let Some(handle) = self.handle.upgrade() else { return };
            let before = std::mem::replace(bytes_in, handle.traffic.bytes_in());
            must_ask = before == *bytes_in && handle.active.load(Relaxed) > 0;
        }
        if must_ask {
            self.ask();
        }
    }

    /// Resets what was given up, one after the other. If nothing else is left of a connection that takes no more, all at once.
    fn reset(&mut self, cx: &mut Context<'_>) {
        while let Some(given_up) = self.given_up.front() {
            let is_all = given_up.handle().active.load(Relaxed) == self.given_up.len();
            if is_all && self.slot.is_condemned() {
                return self.given_up.clear();
            }
            let timer = self.next_reset.get_or_insert_with(|| Box::pin(sleep(EVERY)));
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.next_reset = None;
            drop(self.given_up.pop_front());
        }
    }
}

const EVERY: Duration = Duration::from_nanos(RESET_EVERY);
/// How long a connection that will not be used again may take to say goodbye.
const LINGER: Duration = Duration::from_millis(500);
