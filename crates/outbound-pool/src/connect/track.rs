//! Who is connected, since when, and how much has passed.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use outbound_core::Origin;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    Connect,
    watched::{Watch, Watched},
};

/// Keeps account of the connections that a connector opens, and of the bytes that pass over them.
///
/// ```
/// use outbound_pool::connect::TrackLayer;
/// # use outbound_pool::connect::InMemory;
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), outbound_core::BoxError> {
/// # let connector = InMemory::new(|io| async { drop(io) });
/// let (layer, tracker) = TrackLayer::pair();
/// let connector = ServiceBuilder::new().layer(layer).service(connector);
///
/// let connection = connector.oneshot(http::Uri::from_static("http://a.example/")).await?;
/// assert_eq!(tracker.traffic().open, 1);
/// assert_eq!(tracker.connections()[0].origin.as_ref().unwrap().host(), "a.example");
/// drop(connection);
/// assert_eq!(tracker.traffic().open, 0);
/// # Ok(())
/// # }
/// ```
///
/// - **Use it** under hyper-util's client, which tells nothing of its connections, or to see bytes of which a pool knows nothing:
///   inside `Tls` those on the wire, outside of it those of HTTP.
/// - **Do not use it** to count requests, which are the client's to know; nor as reqwest's `connector_layer`: that takes a connection
///   of its own type only.
/// - **Order:** anywhere among the connectors; it sees what passes there.
/// - **Counts** a connection as open until its I/O object has been dropped, and the bytes that were read and written until then.
/// - **Costs** one atomic addition for each read and write, and a lock at each end of a connection.
/// - **Errors:** the connector's own.
#[derive(Clone, Debug)]
pub struct TrackLayer {
    board: Arc<Board>,
}

/// Keeps account of the connections that a connector opens: [`TrackLayer`].
#[derive(Clone, Debug)]
pub struct Track<S> {
    inner: S,
    board: Arc<Board>,
}

/// What a [`TrackLayer`] has seen. Clones show the same.
#[derive(Clone, Debug)]
pub struct Tracker {
    board: Arc<Board>,
}

/// What has passed since the layer was made. Each dial is in one of four states: going on, opened, failed, or else given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Dials going on.
    pub dialing: usize,
    /// Connections that are open.
    pub open: usize,
    /// Dials that were begun.
    pub dialed: u64,
    /// Connections that were opened.
    pub opened: u64,
    /// Dials that failed.
    pub failed: u64,
    /// Bytes read, over connections closed and open.
    pub bytes_in: u64,
    /// Bytes written, likewise.
    pub bytes_out: u64,
}

/// An open connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tracked {
    /// Its number: connections are counted from 1 as they are opened.
    pub id: u64,
    /// Where the URI that it was opened for leads, whichever proxy is in between.
    pub origin: Option<Origin>,
    /// How long it has been open.
    pub age: Duration,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
}

#[derive(Debug, Default)]
struct Board(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// All but what passes over the open connections.
    traffic: Traffic,
    open: BTreeMap<u64, Arc<Counted>>,
}

#[derive(Debug)]
struct Counted {
    origin: Option<Origin>,
    since: Instant,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// What is seen of a connection, on the board as long as this is there.
#[derive(Debug)]
pub struct Meter {
    id: u64,
    counted: Arc<Counted>,
    board: Arc<Board>,
}

/// A dial, going on as long as this is there.
struct Dialing<'a>(&'a Board);

// === TrackLayer ===

impl TrackLayer {
    /// The layer, and the handle that shows what it sees.
    pub fn pair() -> (Self, Tracker) {
        let board = Arc::<Board>::default();
        (Self { board: board.clone() }, Tracker { board })
    }
}

impl<S> Layer<S> for TrackLayer {
    type Service = Track<S>;

    fn layer(&self, inner: S) -> Track<S> {
        Track { inner, board: self.board.clone() }
    }
}

// === Track ===

impl<S: Connect> Service<Uri> for Track<S> {
    type Response = TokioIo<Watched<S::Io, Meter>>;
    type Error = S::Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Failure>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Failure>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (origin, board) = (Origin::of(&uri).ok(), self.board.clone());
        let opening = self.inner.call(uri);
        Box::pin(async move {
            let dialing = Dialing::new(&board);
            let opened = opening.await;
            drop(dialing);
            match opened {
                Ok(io) => Ok(TokioIo::new(Watched::new(io, Meter::new(&board, origin)))),
                Err(error) => {
                    board.lock().traffic.failed += 1;
                    Err(error)
                }
            }
        })
    }
}

// === Tracker ===

impl Tracker {
    /// How much has passed, over all connections.
    pub fn traffic(&self) -> Traffic {
        let state = self.board.lock();
        let mut traffic = state.traffic;
        traffic.open = state.open.len();
        for counted in state.open.values() {
            traffic.bytes_in += counted.bytes_in.load(Relaxed);
            traffic.bytes_out += counted.bytes_out.load(Relaxed);
        }
        traffic
    }

    /// The connections that are open, the oldest first.
    pub fn connections(&self) -> Vec<Tracked> {
        let state = self.board.lock();
        let tracked = state.open.iter().map(|(&id, counted)| Tracked {
            id,
            origin: counted.origin.clone(),
            age: counted.since.elapsed(),
            bytes_in: counted.bytes_in.load(Relaxed),
            bytes_out: counted.bytes_out.load(Relaxed),
        });
        tracked.collect()
    }
}

// === Board ===

impl Board {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === Meter ===

impl Meter {
    fn new(board: &Arc<Board>, origin: Option<Origin>) -> Self {
        let since = Instant::now();
        let counted =
            Arc::new(Counted { origin, since, bytes_in: AtomicU64::new(0), bytes_out: AtomicU64::new(0) });
        let mut state = board.lock();
        state.traffic.opened += 1;
        let id = state.traffic.opened;
        state.open.insert(id, counted.clone());
        drop(state);
        Self { id, counted, board: board.clone() }
    }
}

impl Watch for Meter {
    fn read(&self, read: &[u8]) {
        self.counted.bytes_in.fetch_add(read.len() as u64, Relaxed);
    }

    fn wrote(&self, bytes: usize) {
        self.counted.bytes_out.fetch_add(bytes as u64, Relaxed);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let mut state = self.board.lock();
        state.traffic.bytes_in += self.counted.bytes_in.load(Relaxed);
        state.traffic.bytes_out += self.counted.bytes_out.load(Relaxed);
        state.open.remove(&self.id);
    }
}

// === Dialing ===

impl<'a> Dialing<'a> {
    fn new(board: &'a Board) -> Self {
        let mut state = board.lock();
        state.traffic.dialed += 1;
        state.traffic.dialing += 1;
        Self(board)
    }
}

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        self.0.lock().traffic.dialing -= 1;
    }
}
