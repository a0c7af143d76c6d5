//! An origin asked to be left alone for a while.

use std::{error::Error, fmt, time::Duration};

use crate::{origin::Origin, units::Time};

/// The origin asked, in an answer to another call, to be left alone for a while that is not over.
///
/// **May the peer have acted on the request?** No: nothing was sent.
#[derive(Clone, Debug)]
pub struct CoolingDown {
    origin: Origin,
    left: Duration,
}

impl CoolingDown {
    /// `origin` is to be sent no request for another `left`.
    pub fn new(origin: Origin, left: Duration) -> Self {
        Self { origin, left }
    }

    /// Who asked for it.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// For how long it is to be left alone, from when the call was turned away: as long as it asked for, and this call's part of what
    /// keeps all of them from coming back at once.
    pub fn left(&self) -> Duration {
        self.left
    }
}

impl fmt::Display for CoolingDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} asked for no requests for a while, try again in {}: nothing was sent",
            self.origin,
            Time(self.left)
        )
    }
}

impl Error for CoolingDown {}
