//! What the head of a response, or a failure, says about the load of the server.

use http::StatusCode;
use outbound_core::{Delivery, Failure, Kind, Phase};

/// What a call says about the load of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    Overloaded,
    /// Nothing: its time is not that of an answer.
    Silent,
}

impl Verdict {
    /// 504 is a gateway's word for a timeout (RFC 9110, 15.6.5). Other 5xx are faults, mostly faster than an answer.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Self::Overloaded
            }
            status if status.is_server_error() => Self::Silent,
            _ => Self::Good,
        }
    }

    pub(crate) fn of_failure(failure: &Failure) -> Self {
        match (failure.kind(), failure.phase(), failure.delivery()) {
            // In a queue of ours: the server has not been asked.
            (Kind::Timeout, Some(Phase::Queue | Phase::Acquire), _) => Self::Silent,
            (Kind::Timeout | Kind::Refused, ..) => Self::Overloaded,
            // A stream over the server's limit: REFUSED_STREAM (RFC 9113, 8.7).
            (Kind::Reset, _, Delivery::Refused) => Self::Overloaded,
            _ => Self::Silent,
        }
    }

    /// Whether it is a sample of overload, or of none; no sample at all if it is silent.
    pub(crate) fn overloaded(self) -> Option<bool> {
        match self {
            Self::Good => Some(false),
            Self::Overloaded => Some(true),
            Self::Silent => None,
        }
    }
}
