//! An exchange as it stood when something went wrong.

use std::{fmt, time::Duration};

use crate::{
    connection::ConnectionInfo,
    context::{Attempt, CallSite},
    exchange::Exchange,
    origin::Origin,
    units::{Count, Time},
    words::{Delivery, Phase},
};

/// What an error keeps of an [`Exchange`]: it holds no request, no header and no body.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Where the request was going.
    pub origin: Option<Origin>,
    /// Which attempt of the call it was, where a retry layer counts them.
    pub attempt: Option<Attempt>,
    /// The line that made the call, where it is known.
    pub call_site: Option<CallSite>,
    /// Where on its way it was.
    pub phase: Phase,
    /// How long it had been there.
    pub in_phase: Duration,
    /// How long the attempt had taken in all.
    pub elapsed: Duration,
    /// Whether the peer may have acted on it.
    pub delivery: Delivery,
    /// Bytes of the request written.
    pub bytes_out: u64,
    /// Bytes of the response read.
    pub bytes_in: u64,
    /// The connection it was on, if it had got one.
    pub connection: Option<ConnectionInfo>,
}

impl From<&Exchange> for Snapshot {
    fn from(exchange: &Exchange) -> Self {
        Self {
            origin: exchange.origin(),
            attempt: exchange.attempt(),
            call_site: exchange.call_site(),
            phase: exchange.phase(),
            in_phase: exchange.since().elapsed(),
            elapsed: exchange.begun().elapsed(),
            delivery: exchange.delivery(),
            bytes_out: exchange.bytes_out(),
            bytes_in: exchange.bytes_in(),
            connection: exchange.connection(),
        }
    }
}

/// The connection and what was sent on it: the tail of every error line.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(attempt) = self.attempt.filter(|&attempt| attempt > Attempt::FIRST) {
            write!(f, "attempt {attempt}, ")?;
        }
        let Some(connection) = &self.connection else {
            return f.write_str("nothing was sent");
        };
        let state = if connection.is_reused() { "reused" } else { "new" };
        write!(f, "{state} connection #{}", connection.id())?;
        if connection.is_reused() {
            let (idle, served) = (Time(connection.idle()), Count(connection.served(), "request"));
            write!(f, " (idle {idle}, {served} before)")?;
        }
        if let Some(remote) = connection.established().remote {
            write!(f, " to {remote}")?;
        }
        write!(f, ": {} sent, {} received", Count(self.bytes_out, "byte"), self.bytes_in)
    }
}

impl Phase {
    /// What a call does in this phase, for a sentence.
    pub(crate) fn doing(self) -> &'static str {
        match self {
            Self::Queue => "waiting for its turn",
            Self::Acquire => "waiting for a connection",
            Self::Resolve => "resolving the host name",
            Self::Connect => "connecting",
            Self::Tls => "in the TLS handshake",
            Self::Send => "sending the request",
            Self::Head => "waiting for the response head",
            Self::Body => "reading the response body",
        }
    }
}
