//! How long to wait between attempts.

use std::time::Duration;

use rand::{Rng, RngExt};

use crate::invalid::InvalidSetting;

/// Exponential backoff: `floor × factor^n`, never above the ceiling, spread by [`Jitter`].
///
/// ```
/// use std::time::Duration;
/// use outbound_retry::{Backoff, Jitter, Random};
///
/// let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10))?.jitter(Jitter::None);
/// let fifth = Random::seeded(7).draw(|random| backoff.wait(5, Duration::ZERO, random));
/// assert_eq!(fifth, Duration::from_millis(1600));
/// # Ok::<(), outbound_retry::InvalidSetting>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    floor: Duration,
    ceiling: Duration,
    factor: f64,
    jitter: Jitter,
}

/// How the waits of many clients that failed together are spread.
///
/// The names and formulas are those of "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015); a band is Finagle's and .NET's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Jitter {
    /// Anything from zero to the exponential wait: the least load, and the default.
    #[default]
    Full,
    /// Half the exponential wait, and anything up to the other half.
    Equal,
    /// Anything from the floor to three times the wait before, which at first is taken to be the floor: spreads without counting attempts.
    Decorrelated,
    /// The exponential wait itself: for one client that is alone.
    None,
    /// The exponential wait times something within this [`Band`].
    Band(Band),
}

/// A range of factors: 0.8 to 1.0, say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    low: f64,
    high: f64,
}

// === Backoff ===

impl Backoff {
    /// From `floor`, doubling up to `ceiling`.
    ///
    /// # Errors
    /// If the floor is above the ceiling.
    pub fn new(floor: Duration, ceiling: Duration) -> Result<Self, InvalidSetting> {
        if floor > ceiling {
            return Err(InvalidSetting("the floor of a backoff is at most its ceiling"));
        }
        Ok(Self { floor, ceiling, ..Self::default() })
    }

    /// Grows by this factor with each attempt.
    ///
    /// # Errors
    /// If it is no number of 1 or more.
    pub fn factor(self, factor: f64) -> Result<Self, InvalidSetting> {
        if !(factor.is_finite() && factor >= 1.0) {
            return Err(InvalidSetting("the factor of a backoff is 1 or more"));
        }
        Ok(Self { factor, ..self })
    }

    /// Spread so.
    #[must_use]
    pub fn jitter(self, jitter: Jitter) -> Self {
        Self { jitter, ..self }
    }

    /// The wait after the failure of attempt number `attempt`, if the wait before that attempt was `previous`.
    ///
    /// It overflows at no attempt and no ceiling, and is never above the ceiling.
    pub fn wait(&self, attempt: u32, previous: Duration, random: &mut (impl Rng + ?Sized)) -> Duration {
        let (floor, ceiling) = (self.floor.as_secs_f64(), self.ceiling.as_secs_f64());
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let base = if floor == 0.0 { 0.0 } else { (floor * self.factor.powi(exponent)).min(ceiling) };
        let seconds = match self.jitter {
            Jitter::None => base,
            Jitter::Full => base * random.random::<f64>(),
            Jitter::Equal => base * (0.5 + random.random::<f64>() / 2.0),
            Jitter::Band(Band { low, high }) => base * (low + random.random::<f64>() * (high - low)),
            Jitter::Decorrelated => {
                let most = 3.0 * previous.as_secs_f64().max(floor);
                floor + random.random::<f64>() * (most - floor)
            }
        };
        Duration::try_from_secs_f64(seconds).unwrap_or(self.ceiling).min(self.ceiling)
    }
}

/// From 100 ms, doubling up to 10 s, with full jitter.
impl Default for Backoff {
    fn default() -> Self {
        Self {
            floor: Duration::from_millis(100),
            ceiling: Duration::from_secs(10),
            factor: 2.0,
            jitter: Jitter::Full,
        }
    }
}

// === Band ===

impl Band {
    /// From `low` to `high`.
    ///
    /// # Errors
    /// If they are not numbers with `0 ≤ low ≤ high`.
    pub fn new(low: f64, high: f64) -> Result<Self, InvalidSetting> {
        if !(0.0 <= low && low <= high && high.is_finite()) {
            return Err(InvalidSetting("a band of jitter runs from 0 or more up to no less"));
        }
        Ok(Self { low, high })
    }
}
