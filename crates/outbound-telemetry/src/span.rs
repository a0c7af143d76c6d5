//! The span of an attempt, in the words of the semantic conventions.

use std::{error::Error, fmt};

use http::{Request, Uri};
use outbound_core::{Attempt, CoolingDown, Elapsed, InvalidOrigin, Kind, Overloaded, TransportError, find};
use tracing::{Span, field::Empty, info_span};

use crate::target::{OTHER, Target};

/// A CLIENT span, child of the current one. What is known only later is recorded later.
pub(crate) fn client_span<B>(request: &Request<B>, target: &Target) -> Span {
    // Integers are signed everywhere: the bridge to OpenTelemetry would make a string of an unsigned one.
    let resend = Attempt::of(request).filter(|&attempt| attempt > Attempt::FIRST);
    let is_other = target.method == OTHER;
    let (address, port) =
        target.server.as_ref().map(|(address, port)| (&**address, i64::from(*port))).unzip();
    info_span!(
        "http.client.request",
        otel.kind = "client",
        otel.name = %Name(target),
        otel.status_code = Empty,
        otel.status_description = Empty,
        http.request.method = target.method,
        http.request.method_original = is_other.then(|| request.method().as_str()),
        http.request.resend_count = resend.map(|attempt| i64::from(attempt.number() - 1)),
        http.request.body.size = Empty,
        http.response.status_code = Empty,
        http.response.body.size = Empty,
        network.peer.address = Empty,
        network.peer.port = Empty,
        network.protocol.version = Empty,
        server.address = address,
        server.port = port,
        url.full = address.map(|_| tracing::field::display(Public(request.uri()))),
        url.template = target.template.map(|template| template.as_str()),
        "error.type" = Empty,
    )
}

/// `method template`, or the method alone; `HTTP` stands for an unknown one.
struct Name<'a>(&'a Target);

/// A URI as anybody may see it: no userinfo, no query.
struct Public<'a>(&'a Uri);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.method == OTHER { "HTTP" } else { self.0.method })?;
        self.0.template.map_or(Ok(()), |template| write!(f, " {template}"))
    }
}

impl fmt::Display for Public<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or_default();
        let authority = self.0.authority().map_or("", |authority| authority.as_str());
        let (redacted, host) = match authority.rsplit_once('@') {
            Some((_, host)) => ("REDACTED:REDACTED@", host),
            None => ("", authority),
        };
        write!(f, "{scheme}://{redacted}{host}{}", self.0.path())
    }
}

/// The line of the failure in `error`'s chain that is outbound's own, and so is known to tell no secret. A foreign error's line may:
/// reqwest's has the URL with its query.
///
/// Where the request's body has failed, what caused that may be another call's failure: the body may be a response.
pub(crate) fn line<'a>(error: &'a (dyn Error + 'static), kind: Kind) -> Option<&'a dyn fmt::Display> {
    fn own<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a dyn fmt::Display> {
        find::<E>(error).map(|error| error as &dyn fmt::Display)
    }
    if kind == Kind::RequestBody && !error.is::<TransportError>() {
        return None;
    }
    own::<TransportError>(error)
        .or_else(|| own::<Elapsed>(error))
        .or_else(|| own::<Overloaded>(error))
        .or_else(|| own::<CoolingDown>(error))
        .or_else(|| own::<InvalidOrigin>(error))
}
