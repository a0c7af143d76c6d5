//! A limit of ours had no room.

use std::{error::Error, fmt, time::Duration};

use crate::{context::CallSite, origin::Origin, units::Time};

/// A limit of ours had no room for the call, and no room to wait for it.
///
/// **May the peer have acted on the request?** No: nothing was sent.
#[derive(Clone, Debug)]
pub struct Overloaded {
    limiter: &'static str,
    limit: usize,
    waiting: usize,
    waited: Duration,
    room_in: Option<Duration>,
    origin: Option<Origin>,
    oldest: Option<(Duration, Option<CallSite>)>,
}

impl Overloaded {
    /// `limiter`, which lets `limit` calls through at once, had `waiting` calls in its queue already.
    pub fn new(limiter: &'static str, limit: usize, waiting: usize) -> Self {
        Self { limiter, limit, waiting, waited: Duration::ZERO, room_in: None, origin: None, oldest: None }
    }

    /// The call had waited for so long when it was turned away.
    #[must_use]
    pub fn waited(mut self, waited: Duration) -> Self {
        self.waited = waited;
        self
    }

    /// There will be room after so long, if nobody else takes it.
    #[must_use]
    pub fn room_in(mut self, time: Duration) -> Self {
        self.room_in = Some(time);
        self
    }

    /// The call was going to `origin`.
    #[must_use]
    pub fn to(mut self, origin: Origin) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Of the calls in the way, the oldest had been under way for so long, made by that line where it is known.
    #[must_use]
    pub fn held_by(mut self, oldest: (Duration, Option<CallSite>)) -> Self {
        self.oldest = Some(oldest);
        self
    }

    /// What turned the call away.
    pub fn limiter(&self) -> &'static str {
        self.limiter
    }

    /// How many it lets through at once.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many calls were waiting when this one was turned away.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How long this call had waited.
    pub fn time_waited(&self) -> Duration {
        self.waited
    }

    /// After how long there will be room, where that is known: a rate knows it, a number of calls at once does not.
    pub fn time_to_room(&self) -> Option<Duration> {
        self.room_in
    }

    /// Where the call was going, where that is known.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// The call that had been in the way longest, where a [`Witness`](crate::Witness) knew: for how long, and the line that made it.
    pub fn oldest(&self) -> Option<(Duration, Option<CallSite>)> {
        self.oldest
    }
}

impl fmt::Display for Overloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limiter, limit, waiting, .. } = self;
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        write!(f, "{limiter} is overloaded: all {limit} in use, {waiting} waiting")?;
        if !self.waited.is_zero() {
            write!(f, ", gave up after {}", Time(self.waited))?;
        }
        if let Some(time) = self.room_in {
            write!(f, ", room in {}", Time(time))?;
        }
        if let Some((age, site)) = self.oldest {
            write!(f, "; oldest call {}", Time(age))?;
            if let Some(site) = site {
                write!(f, ", begun at {site}")?;
            }
        }
        Ok(())
    }
}

impl Error for Overloaded {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_known() -> Result<(), crate::BoxError> {
        let origin = Origin::of(&"https://user:secret@a.example/path?query".parse()?)?;
        let bare = Overloaded::new("limit", 10, 3);
        let (age, here) = (Duration::from_secs(41), CallSite::here());
        for (error, line) in [
            (bare.clone(), "limit is overloaded: all 10 in use, 3 waiting"),
            (
                bare.clone().to(origin.clone()).waited(Duration::from_secs(2)),
                "https://a.example: limit is overloaded: all 10 in use, 3 waiting, gave up after 2 s",
            ),
            (
                bare.clone().room_in(Duration::from_millis(250)),
                "limit is overloaded: all 10 in use, 3 waiting, room in 250 ms",
            ),
            (
                bare.clone().held_by((age, None)),
                "limit is overloaded: all 10 in use, 3 waiting; oldest call 41 s",
            ),
            (
                bare.clone().held_by((age, Some(here))),
                &format!("limit is overloaded: all 10 in use, 3 waiting; oldest call 41 s, begun at {here}"),
            ),
        ] {
            assert_eq!(error.to_string(), line);
        }
        assert_eq!((bare.time_to_room(), bare.oldest()), (None, None));
        let known = bare.clone().room_in(age).held_by((age, Some(here)));
        assert_eq!((known.time_to_room(), known.oldest()), (Some(age), Some((age, Some(here)))));
        assert_eq!(crate::Failure::of(&bare.to(origin.clone())).origin(), Some(&origin));
        Ok(())
    }
}
