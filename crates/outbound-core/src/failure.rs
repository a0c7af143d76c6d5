//! The one view on any error chain.

use std::{
    error::Error,
    ops::ControlFlow::{Break, Continue},
    time::Duration,
};

use crate::{
    answered::Answered,
    connection::ConnectionInfo,
    context::Attempt,
    cooling_down::CoolingDown,
    elapsed::Elapsed,
    error::{chain, find},
    invalid_request::InvalidRequest,
    origin::{InvalidOrigin, Origin},
    overloaded::Overloaded,
    snapshot::Snapshot,
    transport::TransportError,
    words::{Delivery, Kind, Phase},
};

/// What is known of a failure, whoever raised it: outbound's own errors, hyper, hyper-util's legacy client, h2 or `std::io`.
///
/// Of a foreign error less is known, and nothing is made up: its [`delivery`](Self::delivery) is [`Delivery::Maybe`] unless
/// the error proves another.
#[derive(Clone, Debug)]
pub struct Failure {
    kind: Kind,
    phase: Option<Phase>,
    delivery: Delivery,
    late_by: Duration,
    origin: Option<Origin>,
    attempt: Option<Attempt>,
    snapshot: Option<Box<Snapshot>>,
}

impl Failure {
    /// Reads `error` and everything that caused it.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        #[cfg(feature = "hyper")]
        if crate::foreign::is_of_request_body(error) {
            return Self::foreign(error);
        }
        let elapsed = find::<Elapsed>(error);
        let mut failure = if let Some(transport) = find::<TransportError>(error) {
            Self::told(transport.kind(), transport.snapshot())
        } else if let Some(elapsed) = elapsed {
            let delivery = elapsed.delivery();
            let (origin, attempt) = (elapsed.origin().cloned(), elapsed.attempt());
            let snapshot = elapsed.snapshot().cloned().map(Box::new);
            Self { origin, attempt, snapshot, ..Self::new(Kind::Timeout, elapsed.phase(), delivery) }
        } else if let Some(overloaded) = find::<Overloaded>(error) {
            let origin = overloaded.origin().cloned();
            Self { origin, ..Self::new(Kind::Overloaded, Phase::Queue, Delivery::NotSent) }
        } else if let Some(cooling) = find::<CoolingDown>(error) {
            let origin = Some(cooling.origin().clone());
            Self { origin, ..Self::new(Kind::Overloaded, Phase::Queue, Delivery::NotSent) }
        } else if find::<InvalidOrigin>(error).is_some() || find::<InvalidRequest>(error).is_some() {
            Self::new(Kind::Invalid, Phase::Queue, Delivery::NotSent)
        } else if let Some(answered) = find::<Answered>(error) {
            let (origin, attempt) = (answered.origin().cloned(), answered.attempt());
            Self { origin, attempt, ..Self::new(Kind::Other, Phase::Body, Delivery::Answered) }
        } else {
            Self::foreign(error)
        };
        if failure.kind == Kind::Timeout {
            failure.late_by = elapsed.map_or(Duration::ZERO, Elapsed::late_by);
        }
        failure
    }

    /// What went wrong.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the call was, if the error tells.
    pub fn phase(&self) -> Option<Phase> {
        self.phase
    }

    /// Whether the peer may have acted on the request.
    pub fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// By how much a timeout was late because this runtime was not running; zero for anything else.
    pub fn late_by(&self) -> Duration {
        self.late_by
    }

    /// Where the request was going, if the error tells.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref().or_else(|| self.snapshot()?.origin.as_ref())
    }

    /// The connection it was on, if the error tells.
    pub fn connection(&self) -> Option<&ConnectionInfo> {
        self.snapshot()?.connection.as_ref()
    }

    /// Which attempt failed, if the error tells. One that was turned away before it began ([`Overloaded`], [`CoolingDown`]) does not:
    /// how many there were, whatever the error, tells [`Retries::track`](crate::Retries::track).
    pub fn attempt(&self) -> Option<Attempt> {
        self.attempt.or_else(|| self.snapshot()?.attempt)
    }

    /// Everything that is known of the exchange, if one of outbound's own errors is in the chain.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_deref()
    }

    /// A name of few values for OpenTelemetry's `error.type`: the [`Kind`]'s.
    pub fn error_type(&self) -> &'static str {
        self.kind.as_str()
    }

    pub(crate) fn new(kind: Kind, phase: impl Into<Option<Phase>>, delivery: Delivery) -> Self {
        let (origin, attempt, snapshot) = (None, None, None);
        Self { kind, phase: phase.into(), delivery, late_by: Duration::ZERO, origin, attempt, snapshot }
    }

    fn told(kind: Kind, snapshot: &Snapshot) -> Self {
        Self {
            snapshot: Some(Box::new(snapshot.clone())),
            ..Self::new(kind, snapshot.phase, snapshot.delivery)
        }
    }

    /// The innermost error that says anything decides: it is the cause of those around it.
    fn foreign(error: &(dyn Error + 'static)) -> Self {
        let unknown = Self::new(Kind::Other, None, Delivery::Maybe);
        let read = chain(error).try_fold(unknown, |outer, error| {
            #[cfg(feature = "hyper")]
            if let Some(read) = crate::foreign::read(error, &outer) {
                return read;
            }
            match error.downcast_ref().and_then(of_io) {
                Some(kind) => Continue(Self { kind, ..outer }),
                None => Continue(outer),
            }
        });
        match read {
            Continue(failure) | Break(failure) => failure,
        }
    }
}

pub(crate) fn of_io(error: &std::io::Error) -> Option<Kind> {
    use std::io::ErrorKind as Io;
    Some(match error.kind() {
        Io::ConnectionRefused => Kind::Refused,
        Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe | Io::NotConnected => Kind::Reset,
        Io::UnexpectedEof => Kind::Truncated,
        Io::TimedOut => Kind::Timeout,
        Io::HostUnreachable | Io::NetworkUnreachable | Io::NetworkDown => Kind::Unreachable,
        Io::AddrNotAvailable | Io::AddrInUse | Io::OutOfMemory | Io::QuotaExceeded => Kind::Exhausted,
        Io::InvalidData | Io::InvalidInput => Kind::Protocol,
        _ => match error.raw_os_error() {
            Some(ENFILE | EMFILE) => Kind::Exhausted,
            _ => return None,
        },
    })
}

/// "Too many open files", in the system and in the process: the same numbers on every Unix.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
