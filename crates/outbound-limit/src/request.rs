//! What is said of a request that is turned away.

use std::time::Duration;

use http::Request;
use outbound_core::{BoxError, Elapsed, Origin, Overloaded, Phase};

/// Nothing is sent once the deadline has passed, and then the limit is not to blame.
pub(crate) fn too_late() -> BoxError {
    Elapsed::new(Phase::Queue, Duration::ZERO).into()
}

/// The error names where the request was going.
pub(crate) fn aimed<B>(error: Overloaded, request: &Request<B>) -> Overloaded {
    match Origin::of(request.uri()) {
        Ok(origin) => error.to(origin),
        Err(_) => error,
    }
}
