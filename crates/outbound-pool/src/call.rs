//! One call: the short way over an idle connection, and the long way over the queue, a dial, or a second try.

use std::{
    fmt,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response, Uri};
use outbound_core::{
    BoxError, Deadline, Elapsed, Exchange, InvalidOrigin, Kind, Origin, Overloaded, Phase, TransportError,
};
use tokio::time::{Instant, Sleep, sleep};

use crate::{
    body::Body,
    connect::{Connect, Opening, Progress, kind_of},
    connection::{Lease, Opened, Slot, Waiting},
    pool::Shared,
    sending::{Broken, Call, Sending},
    slots::{Acquire, Full, Turn},
};

/// The response to come, of [`Pool`](crate::Pool).
///
/// Nothing happens before its first poll. Dropped while it waits it gives up its place; while it dials, the dial; while the
/// exchange is going on, the connection, which is then closed.
///
/// It allocates nothing where an idle connection is at hand, but for a request body, which is boxed. Otherwise it is one box, and a dial that is overtaken by a
/// connection set free is finished by a task of its own.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<C> {
    shared: Arc<Shared<C>>,
    state: State,
}

enum State {
    Begin(Option<Result<Call, InvalidOrigin>>),
    Warm(Sending),
    Cold(Cold),
}

type Cold = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;
type Acquired = Acquire<Origin, Box<crate::connection::Connection>>;

// === ResponseFuture ===

impl<C> ResponseFuture<C> {
    pub(crate) fn new<B>(shared: Arc<Shared<C>>, request: Request<B>) -> Self
    where
        B: http_body::Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let call = Origin::of(request.uri()).map(|origin| Call::new(origin, request));
        Self { shared, state: State::Begin(Some(call)) }
    }
}

impl<C: Connect> Future for ResponseFuture<C> {
    type Output = Result<Response<Body>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Begin(call) => {
                    let call = call.take().expect("polled after it had ended")?;
                    if call.deadline.is_past() {
                        return Poll::Ready(Err(Elapsed::new(Phase::Queue, Duration::ZERO).into()));
                    }
                    this.state = match this.shared.acquire(&call)? {
                        Acquire::Now(lease) => State::Warm(Sending::new(lease, call)),
                        later => State::Cold(Box::pin(go(this.shared.clone(), call, later))),
                    };
                }
                State::Warm(sending) => match ready!(Pin::new(sending).poll(cx)) {
                    Ok(response) => return Poll::Ready(Ok(response)),
                    Err(broken) => this.state = State::Cold(Box::pin(go_again(this.shared.clone(), broken))),
                },
                State::Cold(cold) => return cold.as_mut().poll(cx),
            }
        }
    }
}

impl<C> fmt::Debug for ResponseFuture<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

// === the long way ===

async fn go<C: Connect>(
    shared: Arc<Shared<C>>,
    mut call: Call,
    acquired: Acquired,
) -> Result<Response<Body>, BoxError> {
    let lease = match acquired {
        Acquire::Now(lease) => lease,
        Acquire::Later(waiting) => shared.obtain(&mut call, waiting).await?,
    };
    match Sending::new(lease, call).await {
        Ok(response) => Ok(response),
        Err(broken) => go_again(shared, broken).await,
    }
}

/// Once more, on a new connection.
async fn go_again<C: Connect>(
    shared: Arc<Shared<C>>,
    broken: Box<Broken>,
) -> Result<Response<Body>, BoxError> {
    let (mut call, slot) = broken.recover().await?;
    let lease = shared.reopen(&mut call, slot).await?;
    match Sending::new(lease, call).await {
        Ok(response) => Ok(response),
        Err(broken) => Err(broken.into_error()),
    }
}

impl<C: Connect> Shared<C> {
    /// An idle connection that is alive, or a place in the queue.
    fn acquire(&self, call: &Call) -> Result<Acquired, BoxError> {
        let mut acquired = self.slots.acquire(&call.origin, call.site);
        while let Ok(Acquire::Now(mut lease)) = acquired {
            if lease.hold() {
                return Ok(Acquire::Now(lease));
            }
            let ticket = lease.bury();
            acquired = self.slots.reacquire(&call.origin, call.site, ticket);
        }
        acquired.map_err(overloaded)
    }

    /// Waits until a connection is set free, or is opened for this call.
    async fn obtain(&self, call: &mut Call, mut waiting: Waiting) -> Result<Lease, BoxError> {
        let (origin, site, deadline) = (call.origin.clone(), call.site, Due::now(call.deadline));
        let limit = self.timeouts.acquire.min(deadline.left);
        let exchange = call.exchange();
        exchange.enter(Phase::Acquire);
        let (mut timer, mut dial) = (pin!(sleep(limit)), None::<Dial>);
        let lease = std::future::poll_fn(|cx| {
            while let Poll::Ready(turn) = waiting.poll(cx) {
                match turn {
                    Turn::Dial(slot) => dial = Some(self.dial(Arc::new(slot), &origin, deadline)),
                    Turn::Reuse(mut lease) => {
                        if lease.hold() {
                            if let Some(Dial { opening, .. }) = dial.take() {
                                tokio::spawn(finish(opening));
                            }
                            return Poll::Ready(Ok(lease));
                        }
                        lease.bury();
                        waiting.requeue();
                    }
                }
            }
            if let Some(dial) = &mut dial {
                let Opened { connection, slot } = ready!(dial.poll(exchange, cx))?;
                return Poll::Ready(Ok(slot.lease(connection, waiting.ticket(), site)));
            }
            ready!(timer.as_mut().poll(cx));
            let elapsed = Elapsed::new(Phase::Acquire, limit).took(deadline.since.elapsed());
            let holders = self.slots.holders(&origin);
            Poll::Ready(Err(TransportError::new(Kind::Timeout, &*exchange).because(elapsed).held_by(holders)))
        })
        .await?;
        deadline.keep(lease, exchange)
    }

    /// Opens a connection in the place of one that is closed.
    async fn reopen(&self, call: &mut Call, slot: Arc<Slot>) -> Result<Lease, BoxError> {
        slot.redial();
        let deadline = Due::now(call.deadline);
        let (mut dial, site) = (self.dial(slot, &call.origin, deadline), call.site);
        let exchange = call.exchange();
        let Opened { connection, slot } = std::future::poll_fn(|cx| dial.poll(exchange, cx)).await?;
        deadline.keep(slot.lease(connection, 0, site), exchange)
    }

    fn dial(&self, slot: Arc<Slot>, origin: &Origin, deadline: Due) -> Dial {
        let (connector, reaper, id) = (self.connector.clone(), self.reaper.clone(), self.next_id());
        let (progress, origin, http) = (Progress::new(self.timeouts.dial), origin.clone(), self.http);
        let reporter = progress.clone();
        let opening = Box::pin(async move {
            // Moved in before the socket is there, and so dropped after it has gone.
            let slot = slot;
            let uri: Uri = origin.to_string().parse()?;
            let dialed = reporter.open(connector, uri).await?;
            Opened::new(dialed, slot, id, &origin, http, &reaper).await
        });
        Dial { progress, opening, deadline, overdue: Box::pin(sleep(deadline.left)) }
    }
}

/// A dial on behalf of one call.
struct Dial {
    progress: Progress,
    opening: Opening,
    deadline: Due,
    overdue: Pin<Box<Sleep>>,
}

/// The deadline of a call, as it was when the call began to wait.
#[derive(Clone, Copy)]
struct Due {
    deadline: Deadline,
    left: Duration,
    since: Instant,
}

// === Dial ===

impl Dial {
    /// Polls it, and keeps the record of the exchange up to date with its phase.
    fn poll(&mut self, exchange: &Exchange, cx: &mut Context<'_>) -> Poll<Result<Opened, TransportError>> {
        let polled = self.opening.as_mut().poll(cx);
        let phase = self.progress.phase();
        if exchange.phase() != phase {
            exchange.enter(phase);
        }
        match polled {
            Poll::Ready(Ok(opened)) => Poll::Ready(Ok(opened)),
            Poll::Ready(Err(error)) => {
                Poll::Ready(Err(TransportError::new(kind_of(phase, &*error), exchange).because(error)))
            }
            Poll::Pending => self.overdue.as_mut().poll(cx).map(|()| Err(self.deadline.passed(exchange))),
        }
    }
}

// === Due ===

impl Due {
    fn now(deadline: Deadline) -> Self {
        Self { deadline, left: deadline.left(), since: Instant::now() }
    }

    /// Nothing is sent once it has passed, even if the connection for it is there.
    fn keep(self, mut lease: Lease, exchange: &Exchange) -> Result<Lease, BoxError> {
        if self.deadline.is_past() {
            drop(lease.let_go());
            lease.release();
            return Err(self.passed(exchange).into());
        }
        Ok(lease)
    }

    fn passed(self, exchange: &Exchange) -> TransportError {
        let elapsed = Elapsed::new(exchange.phase(), self.left).took(self.since.elapsed());
        TransportError::new(Kind::Timeout, exchange).because(elapsed)
    }
}

fn overloaded(Full { limit, waiting }: Full) -> BoxError {
    Overloaded::new("the connection pool", limit, waiting).into()
}

/// A dial that was overtaken: its connection is for whoever comes next.
async fn finish(opening: Opening) {
    match opening.await {
        Ok(Opened { connection, slot }) => slot.lease(connection, 0, None).release(),
        Err(error) => tracing::debug!(%error, "a dial that nobody needed any more failed"),
    }
}
