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
    BoxError, Elapsed, Exchange, InvalidOrigin, Kind, Origin, Overloaded, Phase, TransportError,
};
use tokio::time::{Instant, sleep};

use crate::{
    body::Body,
    connect::{Connect, Dialing, Progress, kind_of},
    connection::{Lease, Opened, Slot, Waiting},
    pool::Shared,
    sending::{Broken, Call, Sending},
    slots::{Acquire, Full, Ticket, Turn},
};

/// The response to come, of [`Pool`](crate::Pool).
///
/// Nothing happens before its first poll. Dropped while it waits it gives up its place; while it dials, the dial; while the
/// exchange is going on, the connection, which is then closed.
///
/// It allocates nothing where an idle connection is at hand. Otherwise it is one box, and a dial that is overtaken by a
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
    mut acquired: Acquired,
) -> Result<Response<Body>, BoxError> {
    loop {
        let lease = match acquired {
            Acquire::Now(lease) => lease,
            Acquire::Later(waiting) => shared.obtain(&mut call, waiting).await?,
        };
        match Sending::new(lease, call).await {
            Ok(response) => return Ok(response),
            Err(broken) => {
                let (again, ticket) = broken.recover().await?;
                acquired = shared.reacquire(&again, ticket)?;
                call = again;
            }
        }
    }
}

async fn go_again<C: Connect>(
    shared: Arc<Shared<C>>,
    broken: Box<Broken>,
) -> Result<Response<Body>, BoxError> {
    let (call, ticket) = broken.recover().await?;
    let acquired = shared.reacquire(&call, ticket)?;
    go(shared, call, acquired).await
}

impl<C: Connect> Shared<C> {
    /// An idle connection that is alive, or a place in the queue.
    fn acquire(&self, call: &Call) -> Result<Acquired, BoxError> {
        let mut acquired = self.slots.acquire(&call.origin, call.site);
        while let Ok(Acquire::Now(lease)) = acquired {
            if lease.is_alive() {
                return Ok(Acquire::Now(lease));
            }
            let ticket = lease.bury();
            acquired = self.slots.reacquire(&call.origin, call.site, ticket, false);
        }
        acquired.map_err(overloaded)
    }

    /// A place in the queue, its old one, for a call whose connection has died under it.
    fn reacquire(&self, call: &Call, ticket: Ticket) -> Result<Acquired, BoxError> {
        self.slots.reacquire(&call.origin, call.site, ticket, true).map_err(overloaded)
    }

    /// Waits until a connection is set free, or is opened for this call.
    async fn obtain(&self, call: &mut Call, mut waiting: Waiting) -> Result<Lease, BoxError> {
        let (origin, site, deadline) = (call.origin.clone(), call.site, call.deadline);
        let left = deadline.left();
        let limit = self.timeouts.acquire.min(left);
        let exchange = call.exchange();
        exchange.enter(Phase::Acquire);
        let begun = Instant::now();
        let (mut timer, mut overdue) = (pin!(sleep(limit)), pin!(sleep(left)));
        let mut dial: Option<(Progress, Dialing)> = None;
        let lease = std::future::poll_fn(|cx| {
            while let Poll::Ready(turn) = waiting.poll(cx) {
                match turn {
                    Turn::Dial(slot) => dial = Some(self.dial(slot, &origin)),
                    Turn::Reuse(lease) if lease.is_alive() => {
                        if let Some((_, dialing)) = dial.take() {
                            tokio::spawn(finish(dialing));
                        }
                        return Poll::Ready(Ok(lease));
                    }
                    Turn::Reuse(dead) => {
                        dead.bury();
                        waiting.requeue();
                    }
                }
            }
            if let Some((progress, dialing)) = &mut dial {
                let polled = dialing.as_mut().poll(cx);
                if exchange.phase() != progress.phase() {
                    exchange.enter(progress.phase());
                }
                return match polled {
                    Poll::Ready(Ok(Opened { connection, slot })) => {
                        Poll::Ready(Ok(slot.lease(connection, waiting.ticket(), site)))
                    }
                    Poll::Ready(Err(error)) => {
                        let kind = kind_of(progress.phase(), &*error);
                        Poll::Ready(Err(TransportError::new(kind, &*exchange).because(error)))
                    }
                    Poll::Pending => overdue.as_mut().poll(cx).map(|()| Err(too_late(exchange, left, begun))),
                };
            }
            ready!(timer.as_mut().poll(cx));
            let elapsed = Elapsed::new(Phase::Acquire, limit).took(begun.elapsed());
            let holders = self.slots.holders(&origin);
            Poll::Ready(Err(TransportError::new(Kind::Timeout, &*exchange).because(elapsed).held_by(holders)))
        })
        .await?;
        if deadline.is_past() {
            lease.release();
            return Err(too_late(exchange, left, begun).into());
        }
        Ok(lease)
    }

    fn dial(&self, slot: Slot, origin: &Origin) -> (Progress, Dialing) {
        let (connector, reaper, id) = (self.connector.clone(), self.reaper.clone(), self.next_id());
        let (progress, origin) = (Progress::new(self.timeouts.dial), origin.clone());
        let reporter = progress.clone();
        let dialing = Box::pin(async move {
            // Declared before the socket is there, and so dropped after it has gone.
            let slot = Arc::new(slot);
            let uri: Uri = origin.to_string().parse()?;
            let dialed = reporter.open(connector, uri).await?;
            Opened::new(dialed, slot, id, &origin, &reaper).await
        });
        (progress, dialing)
    }
}

/// The deadline, for which so much time had been `left`, has passed: nothing is sent after it.
fn too_late(exchange: &Exchange, left: Duration, since: Instant) -> TransportError {
    let elapsed = Elapsed::new(exchange.phase(), left).took(since.elapsed());
    TransportError::new(Kind::Timeout, exchange).because(elapsed)
}

fn overloaded(Full { limit, waiting }: Full) -> BoxError {
    Overloaded::new("the connection pool", limit, waiting).into()
}

/// A dial that was overtaken: its connection is for whoever comes next.
async fn finish(dialing: Dialing) {
    match dialing.await {
        Ok(Opened { connection, slot }) => slot.lease(connection, 0, None).release(),
        Err(error) => tracing::debug!(%error, "a dial that nobody needed any more failed"),
    }
}
