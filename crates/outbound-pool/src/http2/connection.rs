//! One HTTP/2 connection, as each of its exchanges has a handle to it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::client::{self, SendRequest};
use hyper_util::rt::TokioIo;
use outbound_core::{BoxError, ConnectionInfo, Elapsed, Established, Phase};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{driver::Driver, streaming::Stream};
use crate::{
    config::Http,
    connect::Liveness,
    connection::{Described, Slot},
    keeper::Keeper,
    metered::{Meter, Metered},
};

/// When the last handle goes, the connection is closed.
pub(crate) struct Http2 {
    sender: SendRequest<Bytes>,
    pub(crate) established: Arc<Established>,
    liveness: Option<Liveness>,
    pub(super) traffic: Arc<Traffic>,
    /// How many streams the peer allows now.
    pub(super) room: AtomicUsize,
    /// Exchanges that go on.
    pub(super) active: AtomicUsize,
    served: AtomicU64,
    refusals: AtomicU32,
    /// The earliest time at which a reset is late, in nanoseconds since it was opened.
    resets: AtomicU64,
    /// A ping was not answered.
    pub(super) silent: AtomicBool,
    orders: mpsc::UnboundedSender<Order>,
    pub(super) ping_timeout: Duration,
    pub(super) max_head: usize,
}

/// What an exchange wants of the task that drives its connection.
pub(super) enum Order {
    /// A stream that has been given up without a word from the peer since it began: is anybody there?
    Doubt,
    /// Reset this one, when there have not been so many.
    Reset(Stream),
    /// The peer does not want more.
    Drain,
}

/// What has passed over a connection, its own frames included.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    read: AtomicU64,
    written: AtomicU64,
}

// === Http2 ===

impl Http2 {
    /// Speaks HTTP/2 over what was dialed, waits until the peer has said how many streams it allows, and starts to drive it.
    pub(crate) async fn open<T>(
        io: T,
        established: impl FnOnce() -> Arc<Established>,
        described: Described,
        slot: &Arc<Slot>,
        (http, keeper): (Http, &Arc<Keeper>),
    ) -> Result<Arc<Self>, BoxError>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let traffic = Arc::new(Traffic::default());
        let io = Metered::new(TokioIo::new(io), traffic.clone(), slot.clone());
        let opening = async {
            let (sender, mut connection) = builder(http).handshake::<_, Bytes>(io).await?;
            std::future::poll_fn(|cx| {
                match (std::pin::Pin::new(&mut connection).poll(cx), connection.max_concurrent_send_streams())
                {
                    (Poll::Ready(Err(error)), _) => Poll::Ready(Err(BoxError::from(error))),
                    (Poll::Ready(Ok(())), _) => Poll::Ready(Err(std::io::Error::from(ENDED).into())),
                    (Poll::Pending, 0) => Poll::Pending,
                    (Poll::Pending, _) => Poll::Ready(Ok(())),
                }
            })
            .await?;
            Ok::<_, BoxError>((sender, connection))
        };
        let Ok(opened) = timeout(http.handshake_timeout, opening).await else {
            return Err(Elapsed::new(Phase::Connect, http.handshake_timeout).named("HTTP/2 settings").into());
        };
        let (sender, connection) = opened?;
        let (orders, received) = mpsc::unbounded_channel();
        let handle = Arc::new(Self {
            sender: sender.clone(),
            established: established(),
            liveness: described.liveness,
            traffic,
            room: AtomicUsize::new(connection.max_concurrent_send_streams()),
            active: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            refusals: AtomicU32::new(0),
            resets: AtomicU64::new(0),
            silent: AtomicBool::new(false),
            orders,
            ping_timeout: http.ping_timeout,
            max_head: http.max_head_size,
        });
        let driver = Driver::new(connection, sender, Arc::downgrade(&handle), received, slot.clone(), http);
        keeper.drive(driver.run());
        Ok(handle)
    }

    pub(crate) fn room(&self) -> usize {
        self.room.load(Acquire)
    }

    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }

    /// Whether it takes requests, as far as is known.
    pub(crate) fn is_open(&self) -> bool {
        let polled = self.sender().poll_ready(&mut Context::from_waker(Waker::noop()));
        !matches!(polled, Poll::Ready(Err(_)))
    }

    /// Whether its socket has something to say that nobody has heard yet: often no more than a frame, perhaps its end.
    pub(super) fn has_news(&self) -> bool {
        self.liveness.as_ref().is_some_and(|liveness| !liveness.is_alive())
    }

    /// The connection as an exchange finds it that takes it now.
    pub(super) fn info(&self, idle_since: Option<Instant>) -> ConnectionInfo {
        let idle = idle_since.map_or(Duration::ZERO, |since| since.elapsed());
        ConnectionInfo::new(self.established.clone(), self.served.fetch_add(1, Relaxed), idle)
    }

    /// The peer refused a stream: once may happen, twice is a habit.
    pub(super) fn refused(&self) {
        if self.refusals.fetch_add(1, Relaxed) + 1 >= REFUSALS {
            self.order(Order::Drain);
        }
    }

    /// Whether one more stream may be reset now without looking like an attack (CVE-2023-44487).
    pub(super) fn may_reset(&self) -> bool {
        let now = u64::try_from(self.established.opened.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let next = |due: u64| {
            let due = due.max(now).saturating_add(RESET_EVERY);
            (due <= now.saturating_add(RESET_EVERY * RESETS)).then_some(due)
        };
        self.resets.fetch_update(AcqRel, Acquire, next).is_ok()
    }

    pub(super) fn order(&self, order: Order) {
        // Without a driver there is no connection either.
        let _ = self.orders.send(order);
    }

    pub(super) fn allow(&self, room: usize) {
        self.room.store(room, Release);
    }
}

impl fmt::Debug for Http2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2").field("established", &self.established).finish_non_exhaustive()
    }
}

fn builder(http: Http) -> client::Builder {
    let mut builder = client::Builder::new();
    // h2 does not tell a head that is too large from one that is wrong. So the limit is looked after where the head arrives, and this
    // one, which counts 32 bytes more for each field (RFC 9113, 6.5.2), is for what is too large to be read at all.
    let head = u32::try_from(http.max_head_size).unwrap_or(u32::MAX).saturating_mul(4);
    builder
        .enable_push(false)
        // None before the peer has said how many.
        .initial_max_send_streams(0)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(head);
    builder
}

// === Traffic ===

impl Traffic {
    pub(super) fn bytes_in(&self) -> u64 {
        self.read.load(Relaxed)
    }
}

impl Meter for Traffic {
    fn read(&self, bytes: usize) -> std::io::Result<()> {
        self.read.fetch_add(bytes as u64, Relaxed);
        Ok(())
    }

    fn wrote(&self, bytes: usize, _: bool) {
        self.written.fetch_add(bytes as u64, Relaxed);
    }
}

const ENDED: std::io::ErrorKind = std::io::ErrorKind::UnexpectedEof;
/// What a reader that does not read costs at most.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// So that readers that do not read never stop those that do; what Go takes.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// OkHttp gives up a connection then, too.
const REFUSALS: u32 = 2;
/// So many resets at once, and then one in so many nanoseconds: servers that guard against rapid resets take some hundred in a while.
const RESETS: u64 = 100;
pub(super) const RESET_EVERY: u64 = 10_000_000;
