//! Who is in the way.

use std::{fmt, time::Duration};

use crate::{context::CallSite, origin::Origin};

/// Knows which calls are under way, and which lines of code made them: a leak guard.
///
/// Whatever turns a call away because others hold what it wants can be given one, and name the oldest of them in its error.
pub trait Witness: fmt::Debug + Send + Sync {
    /// The call that has been under way longest, of those to `origin` if there is one, else of all: for how long, and the line that
    /// made it where it is known.
    ///
    /// It is asked under no lock, for a call that is turned away: it may look at each call that is under way, but must not wait.
    fn oldest(&self, origin: Option<&Origin>) -> Option<(Duration, Option<CallSite>)>;
}
