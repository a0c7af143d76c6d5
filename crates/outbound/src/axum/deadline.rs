//! Until when an inbound request is worth answering.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request};
use outbound_core::Deadline;
use tower_layer::Layer;
use tower_service::Service;

/// Puts a [`Deadline`] on each inbound request: `longest` from its arrival, or as much earlier as its caller says.
///
/// A caller says it in a header. That is **not a matter of trust**: no header lengthens a deadline, and who shortens it harms
/// nobody's requests but its own. A value that cannot be read is ignored. What a request took to arrive is not known, and not taken off.
///
/// It only sets the deadline. Who looks at it are the calls that a handler makes with [`Outbound`](super::Outbound), or on which it puts
/// `Deadline::of(&request)` itself; the handler's own work goes on past it.
#[derive(Clone, Copy, Debug)]
pub struct InboundDeadlineLayer {
    longest: Duration,
    headers: &'static [TimeoutHeader],
}

/// What [`InboundDeadlineLayer`] makes of a service.
#[derive(Clone, Copy, Debug)]
pub struct InboundDeadline<S> {
    inner: S,
    layer: InboundDeadlineLayer,
}

/// A header in which a caller says how long it waits.
#[derive(Clone, Copy, Debug)]
pub struct TimeoutHeader {
    name: &'static str,
    read: fn(&str) -> Option<Duration>,
}

// === InboundDeadlineLayer ===

impl InboundDeadlineLayer {
    /// No request is worth more than `longest`, whatever its caller says; [`Duration::MAX`] leaves it to the callers.
    pub fn new(longest: Duration) -> Self {
        Self { longest, headers: &[TimeoutHeader::ENVOY, TimeoutHeader::GRPC] }
    }

    /// The headers to look at, in place of [`TimeoutHeader::ENVOY`] and [`TimeoutHeader::GRPC`]. The shortest time counts.
    #[must_use]
    pub fn headers(mut self, headers: &'static [TimeoutHeader]) -> Self {
        self.headers = headers;
        self
    }

    fn time_for(&self, headers: &HeaderMap) -> Duration {
        let said = self.headers.iter().filter_map(|header| header.of(headers));
        said.fold(self.longest, Duration::min)
    }
}

impl<S> Layer<S> for InboundDeadlineLayer {
    type Service = InboundDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        InboundDeadline { inner, layer: *self }
    }
}

// === InboundDeadline ===

impl<S, B> Service<Request<B>> for InboundDeadline<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        Deadline::after(self.layer.time_for(request.headers())).tighten(&mut request);
        self.inner.call(request)
    }
}

// === TimeoutHeader ===

impl TimeoutHeader {
    /// `x-envoy-expected-rq-timeout-ms`: whole milliseconds, as Envoy tells an upstream.
    pub const ENVOY: Self = Self::new("x-envoy-expected-rq-timeout-ms", millis);

    /// `grpc-timeout`: up to eight digits and a unit, one of `H`, `M`, `S`, `m`, `u`, `n` (gRPC over HTTP/2, "Timeout").
    pub const GRPC: Self = Self::new("grpc-timeout", grpc);

    /// The header `name`, in lower case, whose value `read` understands.
    pub const fn new(name: &'static str, read: fn(&str) -> Option<Duration>) -> Self {
        Self { name, read }
    }

    fn of(&self, headers: &HeaderMap) -> Option<Duration> {
        (self.read)(headers.get(self.name)?.to_str().ok()?)
    }
}

fn millis(value: &str) -> Option<Duration> {
    digits(value, 19).map(Duration::from_millis)
}

fn grpc(value: &str) -> Option<Duration> {
    let (number, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let number = digits(number, 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// A number of at most so many digits: no sign, no space.
fn digits(text: &str, most: usize) -> Option<u64> {
    let is_number = text.len() <= most && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}
