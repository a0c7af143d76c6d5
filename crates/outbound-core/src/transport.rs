//! The pool's error.

use std::{error::Error, fmt, time::Duration};

use crate::{
    context::CallSite,
    elapsed::Elapsed,
    error::{BoxError, find},
    snapshot::Snapshot,
    units::{Count, Time},
    words::Kind,
};

/// An exchange failed below the layers: the name, the socket, TLS, or HTTP itself.
///
/// Its line names origin, phase, time, connection and what was sent; the library's own error is its source.
///
/// **May the peer have acted on the request?** Ask [`snapshot`](Self::snapshot)`.delivery`: bytes are counted, not guessed.
#[derive(Debug)]
pub struct TransportError {
    kind: Kind,
    snapshot: Box<Snapshot>,
    holders: Option<Holders>,
    source: Option<BoxError>,
}

/// Who held a pool's connections when a call waited for one in vain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holders {
    /// Connections that carried an exchange.
    pub active: usize,
    /// Connections that were idle.
    pub idle: usize,
    /// Connections being opened.
    pub dialing: usize,
    /// Connections being closed.
    pub closing: usize,
    /// Calls that waited.
    pub waiting: usize,
    /// The connections that may be open to this origin.
    pub limit: usize,
    /// The exchange that had been going on longest: for how long, and the line that began it where it is known.
    pub oldest: Option<(Duration, Option<CallSite>)>,
}

// === TransportError ===

impl TransportError {
    /// `kind` happened to the exchange in `snapshot`.
    pub fn new(kind: Kind, snapshot: impl Into<Snapshot>) -> Self {
        Self { kind, snapshot: Box::new(snapshot.into()), holders: None, source: None }
    }

    /// Because of `source`.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// While the connections were held by `holders`.
    #[must_use]
    pub fn held_by(mut self, holders: Holders) -> Self {
        self.holders = Some(holders);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The exchange as it stood then.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Who held the connections, if the call waited for one in vain.
    pub fn holders(&self) -> Option<&Holders> {
        self.holders.as_ref()
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = &*self.snapshot;
        if let Some(origin) = &snapshot.origin {
            write!(f, "{origin}: ")?;
        }
        write!(f, "{} {}", self.kind.happened(), snapshot.phase.doing())?;
        let source = self.source.as_deref().filter(|_| self.kind == Kind::Timeout);
        match source.and_then(|source| find::<Elapsed>(source)) {
            Some(elapsed) => write!(f, " for {} (limit {})", Time(elapsed.elapsed()), Time(elapsed.limit()))?,
            None => write!(f, " after {}", Time(snapshot.elapsed))?,
        }
        match &self.holders {
            Some(holders) => write!(f, ": {holders}"),
            None => write!(f, ", {snapshot}"),
        }
    }
}

impl Error for TransportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

// === Holders ===

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { active, idle, dialing, closing, waiting, limit, oldest } = self;
        write!(
            f,
            "of {} {active} active, {idle} idle, {dialing} dialing, {closing} closing, {waiting} waiting",
            Count(*limit as u64, "connection")
        )?;
        if let Some((age, site)) = oldest {
            write!(f, "; oldest exchange {}", Time(*age))?;
            if let Some(site) = site {
                write!(f, ", begun at {site}")?;
            }
        }
        Ok(())
    }
}

impl Kind {
    /// What happened, for a sentence that goes on with what the call was doing.
    fn happened(self) -> &'static str {
        match self {
            Self::Timeout => "timed out",
            Self::Overloaded => "turned away",
            Self::Resolve => "name not resolved",
            Self::Refused => "connection refused",
            Self::Unreachable => "peer unreachable",
            Self::Exhausted => "out of descriptors or ports",
            Self::Certificate => "certificate not trusted",
            Self::Tls => "TLS failed",
            Self::Reset => "connection reset",
            Self::Closed => "connection closed by the peer",
            Self::Truncated => "response cut short",
            Self::Protocol => "protocol broken by the peer",
            Self::TooLarge => "response head too large",
            Self::RequestBody => "the request's own body failed",
            Self::Invalid => "request not sendable",
            Self::Canceled => "canceled",
            Self::Other => "failed",
        }
    }
}
