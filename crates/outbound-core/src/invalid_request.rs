//! A request that cannot be sent as it is.

use std::{error::Error, fmt};

use crate::error::BoxError;

/// The request cannot be sent as it is: a part of it could not be made.
///
/// It says which part, and never its content; the reason is its source.
///
/// **May the peer have acted on the request?** No: nothing was sent.
#[derive(Debug)]
pub struct InvalidRequest {
    problem: &'static str,
    source: Option<BoxError>,
}

impl InvalidRequest {
    /// `problem` goes on after "the request cannot be sent: ".
    pub fn new(problem: &'static str) -> Self {
        Self { problem, source: None }
    }

    /// Because of `source`.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What is wrong with it.
    pub fn problem(&self) -> &'static str {
        self.problem
    }
}

impl fmt::Display for InvalidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the request cannot be sent: {}", self.problem)
    }
}

impl Error for InvalidRequest {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Delivery, Failure, Kind};

    #[test]
    fn nothing_was_sent() {
        let cause = "::".parse::<http::Uri>().unwrap_err();
        let error = InvalidRequest::new("its URI is none").because(cause);
        assert_eq!(error.problem(), "its URI is none");
        assert_eq!(error.to_string(), "the request cannot be sent: its URI is none");
        let failure = Failure::of(&error);
        assert_eq!((failure.kind(), failure.delivery()), (Kind::Invalid, Delivery::NotSent));
        assert!(error.source().is_some());
    }
}
