//! What is found, in words.

use std::{backtrace::Backtrace, fmt, sync::Arc, time::Duration};

use outbound_core::{Attempt, CallSite, ConnectionInfo, Construction, Count, Origin, Phase, Time};
use tracing::Metadata;

use crate::descriptors::Descriptors;

/// Something that leaks, or did.
///
/// Its `Display` is one line for a person to act on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Leak {
    /// A response, or a call for one, has not been polled for longer than [`held`](crate::Builder::held) though there was something to
    /// poll it for. Told once, until it has been [returned](Self::Returned).
    #[non_exhaustive]
    Held {
        /// What is held.
        holding: Holding,
    },
    /// What was [held](Self::Held) has been polled again, or dropped.
    #[non_exhaustive]
    Returned {
        /// What was held.
        holding: Holding,
        /// For how long nobody had polled it.
        after: Duration,
    },
    /// A response body was dropped before its end.
    #[non_exhaustive]
    Abandoned {
        /// What was dropped.
        holding: Holding,
        /// Whether that cost the connection. Over HTTP/2 it ends one stream, and over HTTP/1 it depends on how much was left to read:
        /// `None` while that is still being tried, and where nobody below tells.
        cost_connection: Option<bool>,
    },
    /// A call or its response was still open when the last [`LeakDetector`](crate::LeakDetector) went, and had not been told before.
    #[non_exhaustive]
    Forgotten {
        /// What is held.
        holding: Holding,
    },
    /// A response body was taken away from whoever held it: [`reclaim_after`](crate::Builder::reclaim_after).
    #[non_exhaustive]
    Reclaimed {
        /// What was held.
        holding: Holding,
    },
    /// One line of code builds pools or clients again and again: told by one guard of the process, whose
    /// [`churn`](crate::Builder::churn) that is.
    #[non_exhaustive]
    Churn {
        /// What, and by which line.
        construction: Construction,
        /// How many.
        built: u32,
        /// Within how long.
        within: Duration,
    },
    /// The last clone of a service, or of its [`ClientHandle`](crate::ClientHandle), was dropped while response bodies of its calls were
    /// open.
    #[non_exhaustive]
    ClientDropped {
        /// Those bodies, the oldest first.
        holdings: Vec<Holding>,
    },
    /// The process runs out of file descriptors: told by one of its guards, on Linux.
    #[non_exhaustive]
    Descriptors {
        /// How many are open, and may be.
        descriptors: Descriptors,
    },
}

/// A call that is open: its response to come, or its response's body with the caller.
///
/// Its `Display` names no header, userinfo or query.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Holding {
    /// The line that made the call: [`SendExt::send`](crate::SendExt::send) tells.
    pub site: Option<CallSite>,
    /// The tracing span in which the service was called.
    pub span: Option<&'static Metadata<'static>>,
    /// Where the request went.
    pub origin: Option<Origin>,
    /// Which attempt of the call it is, where a retry layer above counts them.
    pub attempt: Option<Attempt>,
    /// Where on its way it is; before the response head only where an [`Exchange`](outbound_core::Exchange) rides on the request.
    pub phase: Option<Phase>,
    /// How long ago the call was made.
    pub age: Duration,
    /// For how long nobody has polled it though there was something to poll it for; `None` while the peer is awaited.
    pub idle: Option<Duration>,
    /// Bytes of the body handed to the caller.
    pub read: u64,
    /// Bytes that the body has in all, if the head said so.
    pub declared: Option<u64>,
    /// The connection it is on, where an [`Exchange`](outbound_core::Exchange) rides on the request and the pool below tells.
    pub connection: Option<ConnectionInfo>,
    /// How the call was made, if it was one of those [sampled](crate::Builder::backtraces).
    pub backtrace: Option<Arc<Backtrace>>,
}

// === Leak ===

impl Leak {
    /// Which kind it is, in a word fit for a metric label.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Held { .. } => "held",
            Self::Returned { .. } => "returned",
            Self::Abandoned { .. } => "abandoned",
            Self::Forgotten { .. } => "forgotten",
            Self::Reclaimed { .. } => "reclaimed",
            Self::Churn { .. } => "churn",
            Self::ClientDropped { .. } => "client_dropped",
            Self::Descriptors { .. } => "descriptors",
        }
    }

    /// The line of code to look at.
    pub fn site(&self) -> Option<CallSite> {
        match self {
            Self::Churn { construction, .. } => Some(construction.site),
            other => other.holding()?.site,
        }
    }

    /// The call it is about; of several, the oldest.
    pub fn holding(&self) -> Option<&Holding> {
        match self {
            Self::Held { holding }
            | Self::Returned { holding, .. }
            | Self::Abandoned { holding, .. }
            | Self::Forgotten { holding }
            | Self::Reclaimed { holding } => Some(holding),
            Self::ClientDropped { holdings } => holdings.first(),
            Self::Churn { .. } | Self::Descriptors { .. } => None,
        }
    }
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { holding } => write!(f, "response held: {holding}"),
            Self::Returned { holding, after } => {
                write!(f, "response returned after {}: ", Time(*after))?;
                holding.describe(f)
            }
            Self::Abandoned { holding, cost_connection } => {
                f.write_str("response body dropped before its end")?;
                if *cost_connection == Some(true) {
                    f.write_str(", which closed its connection")?;
                }
                write!(f, ": {holding}")
            }
            Self::Forgotten { holding } => write!(f, "response never ended: {holding}"),
            Self::Reclaimed { holding } => write!(f, "response body reclaimed: {holding}"),
            Self::Churn { construction: Construction { what, site, .. }, built, within } => {
                let built = Count(u64::from(*built), what);
                write!(f, "{built} built within {} at {site}: build one and share it", Time(*within))
            }
            Self::ClientDropped { holdings } => {
                let responses = Count(holdings.len() as u64, "response");
                write!(f, "client dropped with {responses} open")?;
                holdings.first().map_or(Ok(()), |oldest| write!(f, ", the oldest: {oldest}"))
            }
            Self::Descriptors { descriptors } => write!(f, "{descriptors}"),
        }
    }
}

// === Holding ===

impl Holding {
    /// Everything but for how long nobody has polled it.
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}, ")?;
        }
        match self.site {
            Some(site) => write!(f, "called at {site}")?,
            None => f.write_str("called at an unknown line")?,
        }
        if let Some(span) = self.span {
            write!(f, " in span {:?}", span.name())?;
        }
        if let Some(attempt) = self.attempt.filter(|&attempt| attempt > Attempt::FIRST) {
            write!(f, ", attempt {attempt}")?;
        }
        write!(f, ", {} ago", Time(self.age))?;
        if let Some(connection) = &self.connection {
            write!(f, ", on connection #{}", connection.id())?;
        }
        match (self.phase, self.declared) {
            (Some(Phase::Body), Some(declared)) => {
                write!(f, ", {} of {} read", self.read, Count(declared, "byte"))
            }
            (Some(Phase::Body), None) => write!(f, ", {} read", Count(self.read, "byte")),
            (Some(phase), _) => write!(f, ", in phase {phase}"),
            (None, _) => f.write_str(", no response yet"),
        }
    }
}

/// The alternate form, `{:#}`, shows the backtrace too.
impl fmt::Display for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.describe(f)?;
        match self.idle {
            Some(Duration::ZERO) => {}
            Some(idle) => write!(f, ", not polled for {}", Time(idle))?,
            None => f.write_str(", awaiting the peer")?,
        }
        match &self.backtrace {
            Some(backtrace) if f.alternate() => write!(f, "\n{backtrace}"),
            _ => Ok(()),
        }
    }
}
