//! What a server says about when to come back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, StatusCode, header};

use crate::statuses::Statuses;

/// Which answers are asked when to come back, and how much of that is believed.
///
/// `Retry-After` (RFC 9110, 10.2.3) on 413, 429 and 503, up to 60 seconds; a longer wait gives up. A wait is never shorter than
/// the backoff would have been.
#[derive(Clone, Copy, Debug)]
pub struct RetryAfter {
    statuses: Statuses,
    cap: Duration,
    above_cap: AboveCap,
    rate_limit: bool,
    clock: fn() -> SystemTime,
}

/// What to do when the server asks for a longer wait than the cap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AboveCap {
    /// The answer is the caller's, at once.
    #[default]
    GiveUp,
    /// Wait as long as the cap.
    Clamp,
    /// Wait as long as the backoff.
    Ignore,
}

pub(crate) enum Advice {
    /// Nothing was said.
    None,
    /// Wait at least so long.
    Wait(Duration),
    /// It would have been so long, which is too long.
    TooLong(Duration),
}

// === RetryAfter ===

impl RetryAfter {
    /// Asks the answers with these statuses: by default 413, 429 and 503. An answer that says so is retried even if its
    /// status is not otherwise.
    #[must_use]
    pub fn statuses(self, statuses: impl Into<Statuses>) -> Self {
        Self { statuses: statuses.into(), ..self }
    }

    /// Believes waits up to `cap`: by default 60 seconds.
    #[must_use]
    pub fn cap(self, cap: Duration) -> Self {
        Self { cap, ..self }
    }

    /// What to do with longer ones: by default give up.
    #[must_use]
    pub fn above_cap(self, above_cap: AboveCap) -> Self {
        Self { above_cap, ..self }
    }

    /// Reads [`rate_limit_reset`] too, where there is no valid `Retry-After`: off by default.
    #[must_use]
    pub fn rate_limit(self, rate_limit: bool) -> Self {
        Self { rate_limit, ..self }
    }

    /// The wall clock that dates are compared with.
    #[must_use]
    pub fn clock(self, clock: fn() -> SystemTime) -> Self {
        Self { clock, ..self }
    }

    pub(crate) fn advice(&self, status: StatusCode, headers: &HeaderMap) -> Advice {
        if !self.statuses.contains(status) {
            return Advice::None;
        }
        let now = (self.clock)();
        let rate_limit = || self.rate_limit.then(|| rate_limit_reset(headers, now)).flatten();
        match retry_after(headers, now).or_else(rate_limit) {
            None => Advice::None,
            Some(wait) if wait <= self.cap => Advice::Wait(wait),
            Some(wait) => match self.above_cap {
                AboveCap::GiveUp => Advice::TooLong(wait),
                AboveCap::Clamp => Advice::Wait(self.cap),
                AboveCap::Ignore => Advice::None,
            },
        }
    }
}

impl Default for RetryAfter {
    fn default() -> Self {
        Self {
            statuses: [
                StatusCode::PAYLOAD_TOO_LARGE,
                StatusCode::TOO_MANY_REQUESTS,
                StatusCode::SERVICE_UNAVAILABLE,
            ]
            .into(),
            cap: Duration::from_secs(60),
            above_cap: AboveCap::GiveUp,
            rate_limit: false,
            clock: SystemTime::now,
        }
    }
}

// === parsers ===

/// The wait that the first valid `Retry-After` of `headers` asks for, where it is `now` by the wall clock (RFC 9110, 10.2.3).
///
/// Seconds are digits and nothing else; so many that they do not fit mean [`Duration::MAX`]. A date may have any of the three
/// forms of RFC 9110, 5.6.7, always in GMT, with a leap second or the year 9999; one that has passed means zero. What is neither is
/// passed over.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use http::{HeaderMap, header::RETRY_AFTER};
///
/// let mut headers = HeaderMap::new();
/// headers.insert(RETRY_AFTER, "Thu, 01 Jan 1970 00:02:00 GMT".parse()?);
/// let now = UNIX_EPOCH + Duration::from_secs(90);
/// assert_eq!(outbound_retry::retry_after(&headers, now), Some(Duration::from_secs(30)));
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    values(headers, header::RETRY_AFTER.as_str()).find_map(|value| {
        seconds(value).or_else(|| {
            let at = http_date(value, now)?;
            Some(at.duration_since(now).unwrap_or_default())
        })
    })
}

/// The wait until the rate limit of `headers` starts afresh, where it is `now` by the wall clock.
///
/// Read from, in this order: `RateLimit` (`t=` in the IETF draft's structured field, `reset=` in its older ones),
/// `RateLimit-Reset`, `X-RateLimit-Reset`. A number from 10⁹ on is Unix time in seconds, as GitHub sends it; a lower one is
/// seconds to wait.
pub fn rate_limit_reset(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let field = values(headers, "ratelimit").find_map(|value| {
        let mut parameters = value.split([';', ',']).filter_map(|part| part.trim().split_once('='));
        parameters.find_map(|(key, value)| matches!(key, "t" | "reset").then(|| seconds(value)).flatten())
    });
    let plain = || values(headers, "ratelimit-reset").find_map(seconds);
    let x = || values(headers, "x-ratelimit-reset").find_map(seconds);
    let reset = field.or_else(plain).or_else(x)?;
    if reset < UNIX_TIME {
        return Some(reset);
    }
    Some(reset.saturating_sub(now.duration_since(UNIX_EPOCH).unwrap_or_default()))
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok()).map(str::trim)
}

/// `1*DIGIT`, and nothing else: no sign, no fraction, no digits of other scripts.
fn seconds(value: &str) -> Option<Duration> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(value.parse().map_or(Duration::MAX, Duration::from_secs))
}

/// `httpdate`, and the two things that it leaves out: leap seconds, and RFC 9110's rule for years of two digits.
fn http_date(value: &str, now: SystemTime) -> Option<SystemTime> {
    if !value.is_ascii() {
        return None;
    }
    let (value, leap) = match value.find(":60 ") {
        Some(at) if value[..at].ends_with(":59") => (format!("{}:59 {}", &value[..at], &value[at + 4..]), 1),
        _ => (value.to_owned(), 0),
    };
    let at = match rfc_850(&value) {
        Some(rest) => rfc_850_date(rest, now)?,
        None => httpdate::parse_http_date(&value).ok()?,
    };
    at.checked_add(Duration::from_secs(leap))
}

/// `06-Nov-94 08:49:37 GMT` of `Sunday, 06-Nov-94 08:49:37 GMT`.
fn rfc_850(value: &str) -> Option<&str> {
    let (day, rest) = value.split_once(", ")?;
    let known = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"].contains(&day);
    known.then_some(rest)
}

/// "Recipients of a timestamp value in rfc850-date format, which uses a two-digit year, MUST interpret a timestamp that appears
/// to be more than 50 years in the future as representing the most recent year in the past that had the same last two digits"
/// (RFC 9110, 5.6.7). The name of the day follows from the rest.
fn rfc_850_date(rest: &str, now: SystemTime) -> Option<SystemTime> {
    let separators = [2, 6, 9].map(|at| rest.as_bytes().get(at).copied());
    if rest.len() != 22 || separators != [b'-', b'-', b' '].map(Some) {
        return None;
    }
    let year: u16 =
        rest.get(7..9).filter(|year| year.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()?;
    let date = |year: u16| {
        let spelled = format!("{} {} {year:04} {}", &rest[..2], &rest[3..6], &rest[10..]);
        DAYS.iter().find_map(|day| httpdate::parse_http_date(&format!("{day}, {spelled}")).ok())
    };
    let this_year = 1970 + now.duration_since(UNIX_EPOCH).ok()?.as_secs() / MEAN_YEAR.as_secs();
    let century = u16::try_from(this_year).ok()? / 100 * 100;
    let horizon = now.checked_add(50 * MEAN_YEAR)?;
    // Of the centuries around now, the latest that is not beyond the horizon.
    [century + 100, century, century - 100]
        .into_iter()
        .find_map(|century| date(century + year).filter(|&at| at <= horizon))
}

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
/// 365.2425 days.
const MEAN_YEAR: Duration = Duration::from_secs(31_556_952);
/// From here on a number means Unix time: as a wait it would be 31 years.
const UNIX_TIME: Duration = Duration::from_secs(1_000_000_000);
