//! A response that is not encoded as it says.

use std::{error::Error, fmt};

use http::Extensions;
use outbound_core::{Answered, BoxError, Elapsed, TransportError};

/// The body of a response is not what its `Content-Encoding` says: the reason is its source.
///
/// **May the peer have acted on the request?** Yes: it has answered.
#[derive(Debug)]
pub(crate) struct Undecodable(Answered);

impl Undecodable {
    /// Of what a decoded body fails with, whatever is not from below is the decoder's.
    pub(crate) fn unless_from_below(error: BoxError) -> BoxError {
        if error.is::<TransportError>() || error.is::<Elapsed>() {
            return error;
        }
        // The head has gone its way, and what it knew of origin and attempt with it.
        Self(Answered::new(&Extensions::new()).because(error)).into()
    }
}

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the response body cannot be decoded")
    }
}

impl Error for Undecodable {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}
