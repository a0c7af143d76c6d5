//! A call that failed, as a response.

use std::{error::Error, fmt, time::Duration};

use axum_core::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use outbound_core::{BoxError, CoolingDown, Failure, Kind, Overloaded, Phase, find};

/// An outbound call failed: what a handler returns with `?`, and what its caller may know of it.
///
/// | failure | response |
/// |---|---|
/// | a limit of time ran out | 504 |
/// | turned away by a limit; no connection in time; no descriptor or port left | 503 and `Retry-After` |
/// | not resolved, not connected, not trusted; reset, closed, cut short; protocol broken | 502 |
/// | the peer's answer was an error, too large, not to be decoded, or no such document | 502 |
/// | canceled: the client was closed, or the caller has gone | 503, and nothing in it |
/// | anything else: the request could not be sent, or its body failed | 500 |
///
/// The body is `application/problem+json` (RFC 9457), and the same for all failures of a status: no origin, no address, no error of
/// another's making. `Retry-After` is what the limit or the peer said, in whole seconds, or one second. The failure itself goes to
/// `tracing`, at level WARN, by its kind and phase.
///
/// A failure in a body that the handler passes on comes too late for a status: hyper closes the connection.
pub struct UpstreamFailed(BoxError);

impl UpstreamFailed {
    /// The error of the call.
    pub fn error(&self) -> &(dyn Error + 'static) {
        &*self.0
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        Answer::to(&Failure::of(self.error())).status()
    }
}

impl<E: Into<BoxError>> From<E> for UpstreamFailed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Debug for UpstreamFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UpstreamFailed").field(&self.0).finish()
    }
}

impl IntoResponse for UpstreamFailed {
    fn into_response(self) -> Response {
        let failure = Failure::of(self.error());
        let answer = Answer::to(&failure);
        let (status, kind) = (answer.status(), failure.kind());
        let phase = failure.phase().map(Phase::as_str);
        tracing::warn!(status = status.as_u16(), %kind, phase, "an outbound call failed");
        let mut response = Response::new(Body::from(answer.problem()));
        *response.status_mut() = status;
        if !matches!(answer, Answer::Nothing) {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        }
        if let Answer::Unavailable = answer {
            let seconds = HeaderValue::from(retry_after(self.error()));
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

enum Answer {
    Failed,
    BadGateway,
    Unavailable,
    Timeout,
    Nothing,
}

impl Answer {
    fn to(failure: &Failure) -> Self {
        match (failure.kind(), failure.phase()) {
            (Kind::Canceled, _) => Self::Nothing,
            (Kind::Overloaded | Kind::Exhausted, _) | (Kind::Timeout, Some(Phase::Acquire)) => {
                Self::Unavailable
            }
            (Kind::Timeout, _) => Self::Timeout,
            (
                Kind::Resolve
                | Kind::Refused
                | Kind::Unreachable
                | Kind::Certificate
                | Kind::Tls
                | Kind::Reset
                | Kind::Closed
                | Kind::Truncated
                | Kind::Protocol
                | Kind::TooLarge,
                _,
            ) => Self::BadGateway,
            // It has no name, but was on its way: there was no such socket, say, or the answer will not do.
            (Kind::Other, Some(phase)) if phase > Phase::Acquire => Self::BadGateway,
            _ => Self::Failed,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::BadGateway => StatusCode::BAD_GATEWAY,
            Self::Unavailable | Self::Nothing => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn problem(&self) -> &'static str {
        match self {
            Self::Failed => {
                r#"{"type":"about:blank","title":"Internal Server Error","status":500,"detail":"A call to another service could not be made."}"#
            }
            Self::BadGateway => {
                r#"{"type":"about:blank","title":"Bad Gateway","status":502,"detail":"Another service could not be reached, or gave no usable answer."}"#
            }
            Self::Unavailable => {
                r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"There is no capacity for this at the moment."}"#
            }
            Self::Timeout => {
                r#"{"type":"about:blank","title":"Gateway Timeout","status":504,"detail":"Another service did not answer in time."}"#
            }
            Self::Nothing => "",
        }
    }
}

/// After how many whole seconds there may be room: rounded up, because before that there is none.
fn retry_after(error: &(dyn Error + 'static)) -> u64 {
    let room = find::<Overloaded>(error).and_then(Overloaded::time_to_room);
    let time = room.or_else(|| find::<CoolingDown>(error).map(CoolingDown::left)).unwrap_or(Duration::ZERO);
    let begun = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(begun).max(1)
}
