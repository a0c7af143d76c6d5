//! One dial: its phases, their limits, and the connection at its end.

use std::{
    error::Error,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection as _};
use outbound_core::{BoxError, Elapsed, Failure, Kind, Phase, Timings, find};
use tokio::{
    task::futures::TaskLocalFuture,
    time::{Instant, sleep},
};

use super::{Connect, NotAdmitted, NotEncrypted};
use crate::{call::Closed, connection::Opened};

/// Tells the pool that the dial now being polled has reached `phase`. Anywhere else it does nothing.
pub fn report(phase: Phase) {
    let _ = PROGRESS.try_with(|progress| progress.enter(phase));
}

/// Whether the dial now being polled is for HTTP/1.1 alone, because its request is an upgrade or a `CONNECT`: a connector that
/// negotiates the version is to offer no other. `false` outside a pool.
pub fn http1_only() -> bool {
    PROGRESS.try_with(|progress| progress.http1_only).unwrap_or(false)
}

/// `dial`, which may take so long to connect.
pub(super) fn within<F>(limit: Duration, dial: F) -> TaskLocalFuture<Duration, F>
where
    F: Future,
{
    LIMIT.scope(limit, dial)
}

/// How long the dial now being polled may take to connect, if it has a limit.
pub(super) fn connect_limit() -> Option<Duration> {
    let of_the_pool = PROGRESS.try_with(|progress| progress.limits.connect);
    of_the_pool.into_iter().chain(LIMIT.try_with(|limit| *limit)).min()
}

/// How long a dial may be in each phase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) resolve: Duration,
    pub(crate) connect: Duration,
    pub(crate) tls: Duration,
}

/// A dial that is going on.
pub(crate) type Opening = Pin<Box<dyn Future<Output = Result<Opened, BoxError>> + Send>>;

/// What a connector has opened.
pub(crate) struct Dialed<T> {
    pub(crate) io: T,
    pub(crate) connected: Connected,
    pub(crate) timings: Timings,
}

/// Where a dial is. It only moves while the dial is polled.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    phase: Arc<AtomicU8>,
    limits: Limits,
    http1_only: bool,
}

tokio::task_local! {
    static PROGRESS: Progress;
    static LIMIT: Duration;
}

impl Progress {
    /// Until the connector says otherwise it is connecting.
    pub(crate) fn new(limits: Limits, http1_only: bool) -> Self {
        Self { phase: Arc::new(AtomicU8::new(Phase::Connect as u8)), limits, http1_only }
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Relaxed))]
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// Opens a connection, each phase within its limit.
    pub(crate) async fn open<C: Connect>(
        &self,
        mut connector: C,
        uri: Uri,
    ) -> Result<Dialed<C::Io>, BoxError> {
        let opening = async move {
            std::future::poll_fn(|cx| connector.poll_ready(cx)).await.map_err(Into::into)?;
            connector.call(uri).await.map_err(Into::into)
        };
        let mut opening = pin!(PROGRESS.scope(self.clone(), opening));
        let mut timings = Timings::default();
        let (mut phase, mut since) = (self.phase(), Instant::now());
        loop {
            let limit = self.limits.of(phase);
            let mut timer = pin!(sleep(limit));
            let ended = std::future::poll_fn(|cx| {
                let opened = opening.as_mut().poll(cx);
                if opened.is_ready() || self.phase() != phase {
                    return Poll::Ready(Some(opened));
                }
                timer.as_mut().poll(cx).map(|()| None)
            })
            .await;
            timings.add(phase, since.elapsed());
            match ended {
                None => return Err(Elapsed::new(phase, limit).took(since.elapsed()).into()),
                // The connector knows the same limit, and was first to notice.
                Some(Poll::Ready(Err(error))) if since.elapsed() >= limit && is_timeout(&*error) => {
                    return Err(Elapsed::new(phase, limit).took(since.elapsed()).into());
                }
                Some(Poll::Ready(opened)) => {
                    let io = opened?;
                    let connected = io.connected();
                    return Ok(Dialed { io, connected, timings });
                }
                // On to the next phase, with its own limit.
                Some(Poll::Pending) => (phase, since) = (self.phase(), Instant::now()),
            }
        }
    }
}

impl Limits {
    fn of(self, phase: Phase) -> Duration {
        match phase {
            Phase::Resolve => self.resolve,
            Phase::Tls => self.tls,
            _ => self.connect,
        }
    }
}

/// What a failure in `phase` of a dial is: what its error says, else what the phase says.
pub(crate) fn kind_of(phase: Phase, error: &(dyn Error + 'static)) -> Kind {
    let said = Failure::of(error).kind();
    #[cfg(feature = "proxy")]
    if let Some(error) = find::<super::NoTunnel>(error) {
        return error.kind();
    }
    match phase {
        _ if find::<NotEncrypted>(error).is_some() || find::<NotAdmitted>(error).is_some() => Kind::Invalid,
        _ if said == Kind::Timeout || said == Kind::Exhausted => said,
        _ if find::<Closed>(error).is_some() => Kind::Canceled,
        Phase::Resolve => Kind::Resolve,
        Phase::Tls if is_certificate(error) => Kind::Certificate,
        Phase::Tls if said != Kind::Reset => Kind::Tls,
        // There is no response yet that could be cut short.
        _ if said == Kind::Truncated => Kind::Closed,
        _ => said,
    }
}

fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    Failure::of(error).kind() == Kind::Timeout
}

#[cfg(feature = "rustls")]
fn is_certificate(error: &(dyn Error + 'static)) -> bool {
    use rustls::Error::{InvalidCertRevocationList, InvalidCertificate, NoCertificatesPresented};
    matches!(
        find(error),
        Some(InvalidCertificate(_) | InvalidCertRevocationList(_) | NoCertificatesPresented)
    )
}

#[cfg(not(feature = "rustls"))]
fn is_certificate(_: &(dyn Error + 'static)) -> bool {
    false
}
