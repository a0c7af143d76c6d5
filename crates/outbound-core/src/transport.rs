//! The pool's error.

use std::{error::Error, fmt, io, time::Duration};

use crate::{
    at_proxy::AtProxy,
    context::CallSite,
    elapsed::Elapsed,
    error::{BoxError, chain, find},
    snapshot::Snapshot,
    units::{Count, Time},
    words::{Kind, Phase},
};

/// An exchange failed below the layers: the name, the socket, TLS, or HTTP itself.
///
/// Its line names origin, phase, time, connection and what was sent; the library's own error is its source. Of a dial that
/// failed, the line also has the innermost error's own words where they say more than the [`Kind`] does: why a certificate is not
/// trusted, say.
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

    /// What the connector said, where that says more than the kind: it knows no request that it could give away.
    fn reason(&self) -> Option<&(dyn Error + 'static)> {
        let is_dial = matches!(self.snapshot.phase, Phase::Resolve | Phase::Connect | Phase::Tls);
        let root = chain(self.source.as_deref()?).last()?;
        let is_os = root.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error().is_some());
        let is_said = self.kind == Kind::Timeout || (is_os && self.kind != Kind::Other);
        (is_dial && !is_said).then_some(root)
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = &*self.snapshot;
        if let Some(origin) = &snapshot.origin {
            write!(f, "{origin}")?;
            if let Some(at) = self.source.as_deref().and_then(|source| find::<AtProxy>(source)) {
                write!(f, " through the proxy {}", at.proxy())?;
            }
            f.write_str(": ")?;
        }
        self.kind.happened(snapshot.phase, f)?;
        let source = self.source.as_deref().filter(|_| self.kind == Kind::Timeout);
        match source.and_then(|source| find::<Elapsed>(source)) {
            Some(elapsed) => write!(f, " for {} (limit {})", Time(elapsed.elapsed()), Time(elapsed.limit()))?,
            None => write!(f, " after {}", Time(snapshot.elapsed))?,
        }
        if let Some(reason) = self.reason() {
            write!(f, " ({})", OneLine(&reason.to_string()))?;
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
    /// What happened while the call was in `phase`.
    fn happened(self, phase: Phase, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Timeout => return write!(f, "timed out {}", phase.doing()),
            Self::Tls if phase == Phase::Tls => return f.write_str("TLS handshake failed"),
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
        };
        match phase {
            _ if self.happens_in() == Some(phase) => f.write_str(what),
            Phase::Tls => write!(f, "{what} {}", phase.doing()),
            _ => write!(f, "{what} while {}", phase.doing()),
        }
    }

    /// The phase that goes without saying.
    fn happens_in(self) -> Option<Phase> {
        match self {
            Self::Resolve => Some(Phase::Resolve),
            Self::Refused | Self::Unreachable => Some(Phase::Connect),
            Self::Certificate => Some(Phase::Tls),
            Self::TooLarge => Some(Phase::Head),
            _ => None,
        }
    }
}

/// A text of whatever origin, as part of a line.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        let mut chars = self.0.chars().map(|char| if char.is_control() { ' ' } else { char });
        chars.by_ref().take(LONGEST).try_for_each(|char| f.write_char(char))?;
        if chars.next().is_some() { f.write_char('…') } else { Ok(()) }
    }
}

/// The longest that rustls has to say of a certificate with a few names.
const LONGEST: usize = 200;
