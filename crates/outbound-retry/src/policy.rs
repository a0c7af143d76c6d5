//! What to do after an outcome.

use std::{fmt, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, request::Parts};
use outbound_core::{Attempt, BoxError, CoolingDown, Failure, GaveUp, Idempotent, Kind, Origin, find};
use rand::{Rng, RngExt};

use crate::{
    backoff::Backoff,
    random::Random,
    retry_after::{Advice, RetryAfter},
    statuses::Statuses,
};

/// Decides after each attempt whether there is another, and when. A closure from an [`Outcome`] to a [`Decision`] is one.
///
/// It decides what is *worth* retrying; how often, until when and with what body is the layer's business, and no policy can
/// exceed that.
///
/// ```
/// use std::time::Duration;
/// use http::StatusCode;
/// use outbound_retry::{Decision, Outcome, RetryLayer};
///
/// let layer = RetryLayer::new(|outcome: &Outcome<'_>| match outcome.status() {
///     Some(StatusCode::NOT_FOUND) => Decision::Retry(Duration::from_millis(50)), // it will be there soon
///     _ => Decision::Stop,
/// });
/// # let _ = layer;
/// ```
pub trait Policy {
    /// What to do after this outcome.
    fn after(&self, outcome: &Outcome<'_>) -> Decision;

    /// Sees the head of a request before its first attempt, may write to it what all attempts shall carry, and says whether
    /// sending it twice does no more than sending it once: [`is_idempotent`] unless it knows better.
    fn before(&self, request: &mut Parts) -> bool {
        is_idempotent(request)
    }
}

/// What a [`Policy`] decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// This is the result.
    Stop,
    /// This is the result although it is a failure: for this reason it is not retried.
    GiveUp(GaveUp),
    /// This is not the result: try again after so long.
    Retry(Duration),
    /// This is the result although it is a failure: trying again would be allowed after so long, which is too long.
    TooLong(Duration),
}

/// How an attempt ended, and all that is known of it.
pub struct Outcome<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) idempotent: bool,
    pub(crate) attempt: Attempt,
    pub(crate) waited: Duration,
    pub(crate) result: Result<(StatusCode, &'a HeaderMap), (&'a BoxError, Failure)>,
}

/// The policy for HTTP, put together from parts.
///
/// - After a **failure**: one that repeating cannot help (certificate, protocol, an invalid request …) is final. If nothing was sent or
///   the peer refused it, any method is retried; otherwise only an idempotent request (RFC 9110, 9.2.2).
/// - After a **response**: one of the statuses is retried, if the request is idempotent.
/// - The wait is the [`Backoff`], or what the server asks for with [`RetryAfter`] if that is longer.
#[derive(Clone, Debug)]
pub struct Standard {
    statuses: Statuses,
    backoff: Backoff,
    retry_after: RetryAfter,
    keys: IdempotencyKey,
    random: Random,
}

/// What an `Idempotency-Key` header (IETF draft-ietf-httpapi-idempotency-key-header) on a request means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum IdempotencyKey {
    /// Nothing: not every server knows it.
    #[default]
    Ignored,
    /// The request may be sent twice.
    Accepted,
    /// As accepted; and a request of a method that is not idempotent gets one, the same for all its attempts, if it has none.
    Generated,
}

// === Policy ===

impl<F> Policy for F
where
    F: Fn(&Outcome<'_>) -> Decision,
{
    fn after(&self, outcome: &Outcome<'_>) -> Decision {
        self(outcome)
    }
}

/// Whether sending `request` twice does no more than sending it once: its method is idempotent (RFC 9110, 9.2.2), or the caller says
/// so with [`Idempotent`].
pub fn is_idempotent(request: &Parts) -> bool {
    request.method.is_idempotent() || Idempotent::of(request)
}

// === Outcome ===

impl Outcome<'_> {
    /// The method of the request.
    pub fn method(&self) -> &Method {
        self.method
    }

    /// The URI of the request.
    pub fn uri(&self) -> &Uri {
        self.uri
    }

    /// Whether the request may be sent twice.
    pub fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// Which attempt it was.
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// How long this layer waited before that attempt.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// The status of the response, if there was one.
    pub fn status(&self) -> Option<StatusCode> {
        self.result.as_ref().ok().map(|(status, _)| *status)
    }

    /// The headers of the response, if there was one.
    pub fn headers(&self) -> Option<&HeaderMap> {
        self.result.as_ref().ok().map(|(_, headers)| *headers)
    }

    /// The error, if there was no response.
    pub fn error(&self) -> Option<&BoxError> {
        self.result.as_ref().err().map(|(error, _)| *error)
    }

    /// What is known of that error.
    pub fn failure(&self) -> Option<&Failure> {
        self.result.as_ref().err().map(|(_, failure)| failure)
    }
}

/// Of the URI its origin alone, of the response its status: the rest may be secret.
impl fmt::Debug for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("method", self.method)
            .field("origin", &Origin::of(self.uri).ok())
            .field("idempotent", &self.idempotent)
            .field("attempt", &self.attempt)
            .field("waited", &self.waited)
            .field("status", &self.status())
            .field("failure", &self.failure())
            .finish_non_exhaustive()
    }
}

// === Standard ===

impl Standard {
    /// Retries responses with these statuses: by default 408, 425, 429, 500, 502, 503 and 504.
    #[must_use]
    pub fn statuses(self, statuses: impl Into<Statuses>) -> Self {
        Self { statuses: statuses.into(), ..self }
    }

    /// Waits so long between attempts.
    #[must_use]
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// Heeds what servers say so.
    #[must_use]
    pub fn retry_after(self, retry_after: RetryAfter) -> Self {
        Self { retry_after, ..self }
    }

    /// Reads an `Idempotency-Key` so.
    #[must_use]
    pub fn idempotency_key(self, keys: IdempotencyKey) -> Self {
        Self { keys, ..self }
    }

    /// Draws jitter and keys from here.
    #[must_use]
    pub fn random(self, random: Random) -> Self {
        Self { random, ..self }
    }

    fn wait(&self, outcome: &Outcome<'_>) -> Duration {
        self.random.draw(|random| self.backoff.wait(outcome.attempt().number(), outcome.waited(), random))
    }

    fn after_response(&self, outcome: &Outcome<'_>, status: StatusCode, headers: &HeaderMap) -> Decision {
        let advice = self.retry_after.advice(status, headers);
        match advice {
            Advice::None if !self.statuses.contains(status) => Decision::Stop,
            _ if !outcome.is_idempotent() => Decision::GiveUp(GaveUp::NotIdempotent),
            Advice::None => Decision::Retry(self.wait(outcome)),
            Advice::Wait(wait) => Decision::Retry(wait.max(self.wait(outcome))),
            Advice::TooLong(wait) => Decision::TooLong(wait),
        }
    }

    fn after_failure(&self, outcome: &Outcome<'_>, error: &BoxError, failure: &Failure) -> Decision {
        if is_lasting(failure.kind()) {
            Decision::GiveUp(GaveUp::Policy)
        } else if outcome.is_idempotent() || failure.delivery().is_unprocessed() {
            let asked = find::<CoolingDown>(&**error).map_or(Duration::ZERO, CoolingDown::left);
            Decision::Retry(self.wait(outcome).max(asked))
        } else {
            Decision::GiveUp(GaveUp::NotIdempotent)
        }
    }
}

impl Default for Standard {
    fn default() -> Self {
        Self {
            statuses: RETRYABLE.into(),
            backoff: Backoff::default(),
            retry_after: RetryAfter::default(),
            keys: IdempotencyKey::default(),
            random: Random::default(),
        }
    }
}

impl Policy for Standard {
    fn after(&self, outcome: &Outcome<'_>) -> Decision {
        match &outcome.result {
            Ok((status, headers)) => self.after_response(outcome, *status, headers),
            Err((error, failure)) => self.after_failure(outcome, error, failure),
        }
    }

    fn before(&self, request: &mut Parts) -> bool {
        if is_idempotent(request) || self.keys == IdempotencyKey::Ignored {
            return is_idempotent(request);
        }
        if self.keys == IdempotencyKey::Generated && !request.headers.contains_key(KEY) {
            request.headers.insert(KEY, self.random.draw(key));
        }
        request.headers.contains_key(KEY)
    }
}

/// Whether it will be the same the next time, whatever was sent.
fn is_lasting(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Certificate
            | Kind::Tls
            | Kind::Protocol
            | Kind::TooLarge
            | Kind::RequestBody
            | Kind::Invalid
            | Kind::Canceled
    )
}

/// A UUID of version 4 (RFC 9562, 5.4) as the draft spells it: a string of structured fields, in quotes.
fn key(random: &mut dyn Rng) -> HeaderValue {
    let bits = random.random::<u128>() & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    HeaderValue::try_from(format!("\"{}\"", parts.join("-")))
        .expect("hex, dashes and quotes are visible ASCII")
}

pub(crate) const RETRYABLE: [StatusCode; 7] = [
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::TOO_EARLY,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::BAD_GATEWAY,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
