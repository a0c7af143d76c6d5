//! A peer that has answered, to no avail.

use std::{error::Error, fmt, sync::Arc};

use crate::{
    context::{Attempt, Message},
    error::BoxError,
    exchange::Exchange,
    origin::Origin,
};

/// The peer has answered, and its answer will not do: what an error that says why not has as its source, so that
/// [`Failure::of`](crate::Failure::of) knows it for what it is.
///
/// **May the peer have acted on the request?** Yes: it has answered.
///
/// ```
/// use outbound_core::{Answered, Delivery, Failure, Phase};
///
/// let response = http::Response::new("<html>");
/// let failure = Failure::of(&Answered::new(&response));
/// assert_eq!((failure.delivery(), failure.phase()), (Delivery::Answered, Some(Phase::Body)));
/// ```
#[derive(Clone, Debug)]
pub struct Answered {
    origin: Option<Origin>,
    attempt: Option<Attempt>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl Answered {
    /// With this response, whose [`Exchange`] and [`Attempt`], if it has them, say where the request went.
    pub fn new(response: &impl Message) -> Self {
        let origin = Exchange::of(response).and_then(|exchange| exchange.origin());
        Self { origin, attempt: Attempt::of(response), source: None }
    }

    /// It will not do because of `source`.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Where the request went, if the stack says so.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// Which attempt was answered, if the stack says so.
    pub fn attempt(&self) -> Option<Attempt> {
        self.attempt
    }
}

/// What its reader wants to know: the error around it says the rest.
impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server has answered, and may have acted on the request")
    }
}

impl Error for Answered {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

#[cfg(all(test, not(outbound_loom)))]
mod tests {
    use super::*;
    use crate::{Delivery, Failure, Kind, Phase};

    #[test]
    fn a_failure_after_the_answer_is_known_as_such() {
        let mut response = http::Response::new(());
        let origin = Origin::of(&"http://a.example/".parse().unwrap()).unwrap();
        Exchange::track(&mut response).aim(origin.clone(), &http::Request::new(()));
        Attempt::FIRST.next().attach(&mut response);
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let failure = Failure::of(&Answered::new(&response).because(reset));
        assert_eq!((failure.kind(), failure.phase()), (Kind::Other, Some(Phase::Body)));
        assert_eq!(failure.delivery(), Delivery::Answered);
        assert_eq!((failure.origin(), failure.attempt()), (Some(&origin), Some(Attempt::FIRST.next())));
    }
}
