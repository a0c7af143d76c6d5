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
    BoxError, Deadline, Elapsed, Exchange, Grace, InvalidOrigin, Kind, Origin, Overloaded, Phase,
    TransportError,
};
use tokio::time::{Instant, Sleep, sleep};

use crate::{
    body::Body,
    config::Http,
    connect::{Connect, Opening, Progress, kind_of},
    connection::{Connection, Lease, Opened, Slot, Waiting},
    http1::{self, Exclusive},
    http2::{self, Streaming},
    pool::Shared,
    request::Call,
    slots::{Acquire, Ask, Nature, Now, Refusal, Turn},
};

/// The response to come, of [`Pool`](crate::Pool).
///
/// Nothing happens before its first poll. Dropped while it waits it gives up its place; while it dials, the dial; while the
/// exchange is going on, the connection, which is then closed.
///
/// Where an idle connection is at hand it is one box, and another for a request body that is not empty; else one more, and a dial that is
/// overtaken by a connection set free is finished by a task of its own.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<C> {
    shared: Arc<Shared<C>>,
    state: State,
}

enum State {
    Begin(Option<Result<Box<Call>, InvalidOrigin>>),
    Http1(http1::Sending),
    Http2(Streaming),
    Cold(Cold),
}

type Cold = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;
type Acquired = Acquire<Origin, Connection>;

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
                    let mut call = call.take().expect("polled after it had ended")?;
                    let now = Now::read();
                    if call.deadline.instant().is_some_and(|deadline| deadline <= now.at) {
                        return Poll::Ready(Err(Elapsed::new(Phase::Queue, Duration::ZERO).into()));
                    }
                    this.state = match this.shared.acquire(&mut call, now)? {
                        Acquire::Now(lease) => State::on(lease, call, now.at),
                        later => State::Cold(Box::pin(go(this.shared.clone(), call, later))),
                    };
                }
                State::Http1(sending) => match ready!(Pin::new(sending).poll(cx)) {
                    Ok(response) => return Poll::Ready(Ok(response)),
                    Err(broken) => this.state = State::Cold(Box::pin(go_again(this.shared.clone(), broken))),
                },
                State::Http2(streaming) => match ready!(Pin::new(streaming).poll(cx)) {
                    Ok(response) => return Poll::Ready(Ok(response.map(Body::from))),
                    Err(http2::Failed::For(error)) => return Poll::Ready(Err(error)),
                    Err(http2::Failed::Again(mut call)) => {
                        let acquired = this.shared.acquire(&mut call, Now::read())?;
                        this.state = State::Cold(Box::pin(go(this.shared.clone(), call, acquired)));
                    }
                },
                State::Cold(cold) => return cold.as_mut().poll(cx),
            }
        }
    }
}

impl State {
    fn on(lease: Lease, call: Box<Call>, now: Instant) -> Self {
        match &*lease {
            Connection::Http1(_) => Self::Http1(http1::Sending::new(Exclusive::new(lease), call, now)),
            Connection::Http2(_) => Self::Http2(Streaming::new(lease, call)),
        }
    }
}

impl<C> fmt::Debug for ResponseFuture<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

// === the long way ===

/// As often as is allowed: a request goes out a second time at most.
async fn go<C: Connect>(
    shared: Arc<Shared<C>>,
    mut call: Box<Call>,
    mut acquired: Acquired,
) -> Result<Response<Body>, BoxError> {
    loop {
        let lease = match acquired {
            Acquire::Now(lease) => lease,
            Acquire::Later(waiting) => shared.obtain(&mut call, waiting).await?,
        };
        let failed = match State::on(lease, call, Instant::now()) {
            State::Http1(sending) => match sending.await {
                Ok(response) => return Ok(response),
                Err(broken) => return go_again(shared, broken).await,
            },
            State::Http2(streaming) => match streaming.await {
                Ok(response) => return Ok(response.map(Body::from)),
                Err(failed) => failed,
            },
            State::Begin(_) | State::Cold(_) => unreachable!("a lease is of one version or the other"),
        };
        match failed {
            http2::Failed::For(error) => return Err(error),
            http2::Failed::Again(again) => call = again,
        }
        acquired = shared.acquire(&mut call, Now::read())?;
    }
}

/// Once more, on a new connection in the place of the one that broke.
async fn go_again<C: Connect>(
    shared: Arc<Shared<C>>,
    broken: Box<http1::Broken>,
) -> Result<Response<Body>, BoxError> {
    if !broken.may_go_again() {
        return Err(broken.into_error());
    }
    let (mut call, slot) = broken.recover().await?;
    let lease = shared.reopen(&mut call, slot).await?;
    Box::pin(go(shared, call, Acquire::Now(lease))).await
}

impl<C: Connect> Shared<C> {
    /// A connection that can be used as far as is known, or a place in the queue.
    fn acquire(&self, call: &mut Call, now: Now) -> Result<Acquired, BoxError> {
        let apart = self.is_apart(call);
        let nature = if apart { Nature::Exclusive } else { self.nature(&call.origin) };
        let mut ask = Ask { ticket: None, site: call.site, now, nature, apart };
        loop {
            match self.slots.acquire(&call.origin, ask) {
                Ok(Acquire::Now(mut lease)) => {
                    if hold(&mut lease) {
                        return Ok(Acquire::Now(lease));
                    }
                    ask.ticket = Some(lease.bury());
                }
                Ok(later) => return Ok(later),
                Err(Refusal::Full { limit, waiting }) => {
                    return Err(Overloaded::new("the connection pool", limit, waiting).into());
                }
                Err(Refusal::Closed) => return Err(closed(call.exchange()).into()),
            }
        }
    }

    /// What connections to `origin` are taken for until one is open.
    fn nature(&self, origin: &Origin) -> Nature {
        match origin.is_https() || self.http.prior_knowledge {
            true => Nature::Unknown,
            false => Nature::Exclusive,
        }
    }

    /// Whether it takes a connection that speaks HTTP/1.1, to a host with which others may speak HTTP/2.
    fn is_apart(&self, call: &Call) -> bool {
        self.nature(&call.origin) == Nature::Unknown && call.is_upgrade()
    }

    /// Opens connections for nobody.
    pub(crate) async fn prewarm(&self, origin: &Origin, connections: usize) -> Result<usize, BoxError> {
        let mut opened = 0;
        loop {
            let slots = self.slots.reserve(origin, connections, self.nature(origin));
            if slots.is_empty() {
                return Ok(opened);
            }
            let exchange = Exchange::new();
            exchange.aim(origin.clone(), &Request::new(()));
            let forever = Due::now(Deadline::default());
            let mut dials: Vec<_> =
                slots.into_iter().map(|slot| self.dial(Arc::new(slot), (origin, false), forever)).collect();
            std::future::poll_fn(|cx| {
                let mut failed = None;
                dials.retain_mut(|dial| match dial.poll(&exchange, cx) {
                    Poll::Pending => true,
                    Poll::Ready(Ok(dialed)) => {
                        dialed.spare();
                        opened += 1;
                        false
                    }
                    Poll::Ready(Err(error)) => {
                        failed.get_or_insert(error);
                        false
                    }
                });
                match failed {
                    Some(error) => Poll::Ready(Err(error)),
                    None if dials.is_empty() => Poll::Ready(Ok(())),
                    None => Poll::Pending,
                }
            })
            .await?;
        }
    }

    /// Waits until a connection is set free, or is opened for this call.
    async fn obtain(&self, call: &mut Call, mut waiting: Waiting) -> Result<Lease, BoxError> {
        let (origin, site, deadline) = (call.origin.clone(), call.site, Due::now(call.deadline));
        let apart = self.is_apart(call);
        let limit = self.timeouts.acquire.min(deadline.left);
        let exchange = call.exchange();
        exchange.enter(Phase::Acquire);
        let (mut timer, mut dial) = (pin!(Grace::new(limit, deadline.deadline)), None::<Dial>);
        let lease = std::future::poll_fn(|cx| {
            while let Poll::Ready(turn) = waiting.poll(cx) {
                match turn {
                    Turn::Dial(slot) => dial = Some(self.dial(Arc::new(slot), (&origin, apart), deadline)),
                    Turn::Reuse(mut lease) => {
                        if hold(&mut lease) {
                            if let Some(Dial { opening, .. }) = dial.take() {
                                self.keeper.drive(finish(opening));
                            }
                            return Poll::Ready(Ok(lease));
                        }
                        lease.bury();
                        waiting.requeue();
                    }
                    Turn::Closed => return Poll::Ready(Err(closed(exchange))),
                }
            }
            if let Some(dial) = &mut dial {
                let opened = ready!(dial.poll(exchange, cx))?;
                return Poll::Ready(Ok(opened.lease(waiting.ticket(), site)));
            }
            ready!(timer.as_mut().poll(cx));
            let elapsed = Elapsed::new(Phase::Acquire, limit).took(deadline.since.elapsed());
            let holders = self.slots.holders(&origin, apart);
            Poll::Ready(Err(TransportError::new(Kind::Timeout, &*exchange).because(elapsed).held_by(holders)))
        })
        .await?;
        deadline.keep(lease, exchange)
    }

    /// Opens a connection in the place of one that is closed.
    async fn reopen(&self, call: &mut Call, slot: Arc<Slot>) -> Result<Lease, BoxError> {
        slot.redial();
        let deadline = Due::now(call.deadline);
        let (mut dial, site) = (self.dial(slot, (&call.origin, self.is_apart(call)), deadline), call.site);
        let exchange = call.exchange();
        let opened = std::future::poll_fn(|cx| dial.poll(exchange, cx)).await?;
        deadline.keep(opened.lease(0, site), exchange)
    }

    fn dial(&self, slot: Arc<Slot>, (origin, apart): (&Origin, bool), deadline: Due) -> Dial {
        let (connector, keeper) = (self.connector.clone(), self.keeper.clone());
        let (progress, origin) = (Progress::new(self.timeouts.dial, apart), origin.clone());
        let http = Http { prior_knowledge: self.http.prior_knowledge && !apart, ..self.http };
        let reporter = progress.clone();
        let opening = async move {
            // Moved in before the socket is there, and so dropped after it has gone.
            let slot = slot;
            let uri: Uri = origin.to_string().parse()?;
            let dialed = reporter.open(connector, uri).await?;
            // The connector's part is over; over HTTP/2 the peer still has to say what it allows.
            reporter.enter(Phase::Connect);
            Opened::new(dialed, slot, &origin, http, &keeper).await
        };
        let closing = self.closing.clone();
        let opening = Box::pin(async move {
            closing.run_until_cancelled(opening).await.unwrap_or_else(|| Err(Closed.into()))
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
            let_go(&mut lease);
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

/// Whether a request can be sent on it, as far as that can be known.
fn hold(lease: &mut Lease) -> bool {
    match &mut **lease {
        Connection::Http1(connection) => connection.hold(),
        Connection::Http2(connection) => connection.is_open(),
    }
}

fn let_go(lease: &mut Lease) {
    if let Connection::Http1(connection) = &mut **lease {
        drop(connection.let_go());
    }
}

fn closed(exchange: &Exchange) -> TransportError {
    TransportError::new(Kind::Canceled, exchange).because(Closed)
}

/// A dial that was overtaken: its connection is for whoever comes next.
async fn finish(opening: Opening) {
    match opening.await {
        Ok(opened) => opened.spare(),
        Err(error) => tracing::debug!(%error, "a dial that nobody needed any more failed"),
    }
}

/// The pool was closed, and opens no connection any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the pool is closed")
    }
}

impl std::error::Error for Closed {}
