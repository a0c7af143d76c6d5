//! What counts as a valid `Retry-After`, and what a rate limit's reset means.

use std::{
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use outbound_retry::{AboveCap, RetryAfter, RetryLayer, Standard, rate_limit_reset, retry_after};
use proptest::prelude::*;

/// Sun, 06 Nov 1994 08:49:37 GMT: the date of RFC 9110, 5.6.7.
const THEN: u64 = 784_111_777;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let field = |&(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    fields.iter().map(field).collect()
}

fn read(values: &[&str], now: u64) -> Option<u64> {
    let fields: Vec<_> = values.iter().map(|&value| ("retry-after", value)).collect();
    retry_after(&headers(&fields), at(now)).map(|wait| wait.as_secs())
}

#[test]
fn values() {
    #[rustfmt::skip]
    let table: &[(&str, &[&str], u64, Option<u64>)] = &[
        // name                          values                                          now        wait
        ("none",                         &[],                                            THEN,      None),
        ("seconds",                      &["120"],                                       THEN,      Some(120)),
        ("zero",                         &["0"],                                         THEN,      Some(0)),
        ("leading zeros",                &["007"],                                       THEN,      Some(7)),
        ("space around",                 &[" 5 "],                                       THEN,      Some(5)),
        ("u64 and no more",              &["18446744073709551615"],                      THEN,      Some(u64::MAX)),
        ("more than u64",                &["99999999999999999999"],                      THEN,      Some(u64::MAX)),
        ("minus",                        &["-1"],                                        THEN,      None),
        ("plus",                         &["+5"],                                        THEN,      None),
        ("fraction",                     &["1.5"],                                       THEN,      None),
        ("exponent",                     &["1e3"],                                       THEN,      None),
        ("hex",                          &["0x10"],                                      THEN,      None),
        ("unit",                         &["5s"],                                        THEN,      None),
        ("inner space",                  &["1 2"],                                       THEN,      None),
        ("empty",                        &[""],                                          THEN,      None),
        ("word",                         &["abc"],                                       THEN,      None),
        ("superscript",                  &["²"],                                         THEN,      None),
        ("full-width digit",             &["５"],                                        THEN,      None),
        ("list",                         &["5, 6"],                                      THEN,      None),
        ("two, first valid",             &["7", "9"],                                    THEN,      Some(7)),
        ("two, second valid",            &["soon", "9"],                                 THEN,      Some(9)),
        ("IMF-fixdate",                  &["Sun, 06 Nov 1994 08:49:37 GMT"],             THEN - 30, Some(30)),
        ("RFC 850",                      &["Sunday, 06-Nov-94 08:49:37 GMT"],            THEN - 30, Some(30)),
        ("RFC 850, no such day",         &["Someday, 06-Nov-94 08:49:37 GMT"],           THEN - 30, None),
        ("RFC 850, not a space",         &["Sunday, 06-Nov-94X08:49:37 GMT"],            THEN - 30, None),
        ("RFC 850, no time",             &["Sunday, 06-Nov-94"],                         THEN - 30, None),
        ("asctime",                      &["Sun Nov  6 08:49:37 1994"],                  THEN - 30, Some(30)),
        ("now",                          &["Sun, 06 Nov 1994 08:49:37 GMT"],             THEN,      Some(0)),
        ("past",                         &["Sun, 06 Nov 1994 08:49:37 GMT"],             THEN + 9,  Some(0)),
        ("the epoch",                    &["Thu, 01 Jan 1970 00:00:00 GMT"],             THEN,      Some(0)),
        ("other zone",                   &["Sun, 06 Nov 1994 08:49:37 CET"],             THEN,      None),
        ("offset",                       &["Sun, 06 Nov 1994 08:49:37 +0100"],           THEN,      None),
        ("no zone",                      &["Sun, 06 Nov 1994 08:49:37"],                 THEN,      None),
        ("30 February",                  &["Wed, 30 Feb 1994 08:49:37 GMT"],             THEN,      None),
        ("29 February 2024",             &["Thu, 29 Feb 2024 00:00:00 GMT"],     1_709_164_799,     Some(1)),
        ("29 February 2023",             &["Wed, 29 Feb 2023 00:00:00 GMT"],             THEN,      None),
        ("day 00",                       &["Sun, 00 Nov 1994 08:49:37 GMT"],             THEN,      None),
        ("hour 24",                      &["Sun, 06 Nov 1994 24:00:00 GMT"],             THEN,      None),
        ("second 61",                    &["Sun, 06 Nov 1994 08:49:61 GMT"],             THEN,      None),
        ("leap second, IMF-fixdate",     &["Sat, 31 Dec 2016 23:59:60 GMT"],     1_483_228_790,     Some(10)),
        ("leap second, RFC 850",         &["Saturday, 31-Dec-16 23:59:60 GMT"],  1_483_228_790,     Some(10)),
        ("leap second, asctime",         &["Sat Dec 31 23:59:60 2016"],          1_483_228_790,     Some(10)),
        ("the year 2038",                &["Tue, 19 Jan 2038 03:14:08 GMT"],     2_147_483_647,     Some(1)),
        ("the year 9999",                &["Fri, 31 Dec 9999 23:59:59 GMT"],   253_402_300_790,     Some(9)),
        ("its last leap second",         &["Fri, 31 Dec 9999 23:59:60 GMT"],   253_402_300_790,     Some(10)),
        ("the year 10000",               &["Sat, 01 Jan 10000 00:00:00 GMT"],            THEN,      None),
        ("RFC 850, 50 years from 2026",  &["Wednesday, 01-Jan-76 00:00:00 GMT"], 1_780_000_000,     Some(1_565_062_400)),
        ("RFC 850, a past century",      &["Saturday, 01-Jan-77 00:00:00 GMT"],  1_780_000_000,     Some(0)),
    ];
    for &(name, values, now, wait) in table {
        assert_eq!(read(values, now), wait, "{name}");
    }
}

#[test]
fn rate_limits() {
    #[rustfmt::skip]
    type Row = (&'static str, &'static [(&'static str, &'static str)], Option<u64>);
    let table: &[Row] = &[
        ("none", &[], None),
        ("seconds", &[("x-ratelimit-reset", "30")], Some(30)),
        ("Unix time", &[("x-ratelimit-reset", "784111807")], Some(784_111_807)),
        ("Unix time, past 2001", &[("x-ratelimit-reset", "1700000030")], Some(1_700_000_030 - THEN)),
        ("draft 2", &[("ratelimit-reset", "50")], Some(50)),
        ("draft 6", &[("ratelimit", "limit=100, remaining=0, reset=50")], Some(50)),
        ("draft 9", &[("ratelimit", "\"default\";r=0;t=12")], Some(12)),
        ("the newest first", &[("x-ratelimit-reset", "30"), ("ratelimit", "\"a\";t=1")], Some(1)),
        ("garbage", &[("x-ratelimit-reset", "soon"), ("ratelimit", ";;t=x")], None),
    ];
    for &(name, fields, wait) in table {
        let reset = rate_limit_reset(&headers(fields), at(THEN));
        assert_eq!(reset.map(|wait| wait.as_secs()), wait, "{name}");
    }
    let past = headers(&[("x-ratelimit-reset", "1700000000")]);
    assert_eq!(rate_limit_reset(&past, at(1_700_000_009)), Some(Duration::ZERO));
}

proptest! {
    #[test]
    fn nothing_panics(value in "\\PC{0,40}", now in 0_u64..400_000_000_000) {
        let _ = read(&[&value], now);
        if let Ok(value) = value.parse::<HeaderValue>() {
            let map: HeaderMap = [(HeaderName::from_static("ratelimit"), value)].into_iter().collect();
            let _ = rate_limit_reset(&map, at(now));
        }
    }

    #[test]
    fn no_date_of_the_right_shape_panics(
        shape in 0..3,
        (day, month, year) in (0_u32..40, 0_usize..13, 0_u32..10_100),
        (hour, minute, second) in (0_u32..26, 0_u32..62, 0_u32..63),
        now in 0_u64..400_000_000_000,
    ) {
        let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Abc"][month];
        let time = format!("{hour:02}:{minute:02}:{second:02}");
        for (short, long) in [("Sun", "Sunday"), ("Thu", "Thursday")] {
            let value = match shape {
                0 => format!("{short}, {day:02} {month} {year:04} {time} GMT"),
                1 => format!("{long}, {day:02}-{month}-{:02} {time} GMT", year % 100),
                _ => format!("{short} {month} {day:2} {time} {year:04}"),
            };
            let _ = read(&[&value], now);
        }
    }
}

/// A value, and the seconds that it means: it is made of them, not read.
type Meant = (String, Option<u64>);

/// `delay-seconds` (RFC 9110, 10.2.3) with the space that a field may have around it, however many digits.
fn delay() -> impl Strategy<Value = Meant> {
    ("[ \t]{0,2}", "[0-9]{1,25}", "[ \t]{0,2}").prop_map(|(before, digits, after)| {
        let seconds = digits.bytes().fold(0_u128, |sum, digit| sum * 10 + u128::from(digit - b'0'));
        (format!("{before}{digits}{after}"), Some(u64::try_from(seconds).unwrap_or(u64::MAX)))
    })
}

/// A date in any of its three forms (RFC 9110, 5.6.7), with a leap second where one may be; `now` is given.
fn date(now: u64) -> impl Strategy<Value = Meant> {
    let near = now.saturating_sub(CENTURY / 2 - YEAR)..now + CENTURY / 2 - YEAR;
    let whole = (0..END_OF_9999, 0..2_u8);
    let two_digits = (near, Just(2_u8));
    (prop_oneof![whole, two_digits], any::<bool>()).prop_map(move |((at, form), leap)| {
        let at = if leap { at / DAY * DAY + DAY - 1 } else { at };
        (spelled(at, form, leap), Some((at + u64::from(leap)).saturating_sub(now)))
    })
}

/// The instant by the calendar (Hinnant, "chrono-compatible low-level date algorithms": `civil_from_days`).
fn spelled(at: u64, form: u8, leap: bool) -> String {
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let name = DAYS[(at / DAY % 7) as usize];
    let days = at / DAY + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 2 } else { from_march - 10 };
    let year = year_of_era + era * 400 + u64::from(month < 2);
    let month = MONTHS[month as usize];
    let second = at % 60 + u64::from(leap);
    let time = format!("{:02}:{:02}:{second:02}", at / 3_600 % 24, at / 60 % 60);
    match form {
        0 => format!("{}, {day:02} {month} {year:04} {time} GMT", &name[..3]),
        1 => format!("{} {month} {day:2} {time} {year:04}", &name[..3]),
        _ => format!("{name}, {day:02}-{month}-{:02} {time} GMT", year % 100),
    }
}

/// What is neither: digits with something in them that is none, or anything without the colons of a time.
fn garbage() -> impl Strategy<Value = Meant> {
    let broken = ("[0-9]{1,9}", 0..10_usize, "[-+.,;:eExX_/]").prop_map(|(mut digits, at, stranger)| {
        digits.insert_str(at.min(digits.len()), &stranger);
        digits
    });
    let other = "[^:\\x00-\\x1f\\x7f]{0,40}".prop_filter("digits are seconds", |value| {
        let value = value.trim();
        value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit())
    });
    prop_oneof![broken, other].prop_map(|value| (value, None))
}

/// Several fields at some time.
fn fields() -> impl Strategy<Value = (u64, Vec<Meant>)> {
    (0..CENTURY).prop_flat_map(|now| {
        let field = prop_oneof![2 => delay(), 3 => date(now), 3 => garbage()];
        (Just(now), prop::collection::vec(field, 0..4))
    })
}

/// A parameter of a `RateLimit` field, and what it says of the reset.
fn parameter() -> impl Strategy<Value = Meant> {
    let key = prop::sample::select(&["t", "reset", "r", "limit", "remaining", "w", "T", "tt", ""][..]);
    let value = prop_oneof!["[0-9]{1,12}", "[0-9]{0,3}[-+.x ][0-9]{0,3}", Just(String::new())];
    (key, value).prop_map(|(key, value)| {
        let is_reset = matches!(key, "t" | "reset");
        let seconds = value.trim_end().parse().ok().filter(|_| !value.starts_with('+') && is_reset);
        (format!("{key}={value}"), seconds)
    })
}

/// A `RateLimit` field: the first parameter that says when.
fn rate_limit() -> impl Strategy<Value = Meant> {
    let separator = prop::sample::select(&[";", "; ", ",", ", ", " ;"][..]);
    (r#""[a-z]{0,5}""#, prop::collection::vec((separator, parameter()), 0..5)).prop_map(
        |(name, parameters)| {
            let seconds = parameters.iter().find_map(|(_, (_, seconds))| *seconds);
            let text = parameters
                .iter()
                .fold(name, |text, (separator, (parameter, _))| text + separator + parameter);
            (text, seconds)
        },
    )
}

/// What a number means: seconds, or from 10⁹ on an instant.
fn until(reset: u64, now: u64) -> u64 {
    if reset < 1_000_000_000 { reset } else { reset.saturating_sub(now) }
}

proptest! {
    /// The first that is valid, and what it was made of.
    #[test]
    fn what_was_meant_is_what_is_read((now, fields) in fields()) {
        let values: Vec<_> = fields.iter().map(|(value, _)| value.as_str()).collect();
        prop_assert_eq!(read(&values, now), fields.iter().find_map(|(_, seconds)| *seconds));
    }

    /// The newest field that says anything, whatever order they come in.
    #[test]
    fn a_rate_limit_is_read_from_the_newest_field_that_says_anything(
        now in 0..CENTURY,
        newest in prop::collection::vec(rate_limit(), 0..3),
        plain in prop::collection::vec(prop_oneof![delay(), garbage()], 0..3),
        oldest in prop::collection::vec(prop_oneof![delay(), garbage()], 0..3),
        oldest_first in any::<bool>(),
    ) {
        let mut groups = [("ratelimit", newest), ("ratelimit-reset", plain), ("x-ratelimit-reset", oldest)];
        let meant = groups.iter().find_map(|(_, values)| values.iter().find_map(|(_, seconds)| *seconds));
        if oldest_first {
            groups.reverse();
        }
        let named = |(name, values): &'_ (&'static str, Vec<Meant>)| {
            values.iter().map(|(value, _)| (*name, value.clone())).collect::<Vec<_>>()
        };
        let fields: Vec<_> = groups.iter().flat_map(named).collect();
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let reset = rate_limit_reset(&headers(&fields), at(now)).map(|wait| wait.as_secs());
        prop_assert_eq!(reset, meant.map(|reset| until(reset, now)));
    }
}

const DAY: u64 = 86_400;
const YEAR: u64 = 366 * DAY;
const CENTURY: u64 = 3_155_760_000;
/// The last second that has a date of four digits, and one.
const END_OF_9999: u64 = 253_402_300_800;

/// Dates are in GMT, whatever the zone of the machine.
#[test]
fn the_local_time_zone_does_not_matter() {
    for zone in ["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Kiritimati"] {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "values"])
            .env("TZ", zone)
            .output()
            .unwrap()
            .status;
        assert!(status.success(), "{zone}");
    }
}

#[tokio::test(start_paused = true)]
async fn above_the_cap_is_the_users_choice() {
    use outbound_testkit::{Plan, Probe, TestBody};
    use tower::{Layer, ServiceExt};
    let wait = Duration::from_secs(7);
    let table = [
        ("give up", RetryAfter::default().above_cap(AboveCap::GiveUp), "99", 1, Duration::ZERO),
        ("clamp", RetryAfter::default().above_cap(AboveCap::Clamp), "99", 2, Duration::from_secs(60)),
        ("ignore", RetryAfter::default().above_cap(AboveCap::Ignore), "99", 2, wait),
        (
            "a cap of its own",
            RetryAfter::default().cap(Duration::from_secs(100)),
            "99",
            2,
            Duration::from_secs(99),
        ),
        ("other statuses", RetryAfter::default().statuses([StatusCode::OK]), "9", 2, wait),
        (
            "a clock of its own",
            RetryAfter::default().clock(|| at(THEN - 30)),
            "Sun, 06 Nov 1994 08:49:37 GMT",
            2,
            Duration::from_secs(30),
        ),
    ];
    for (name, retry_after, value, sightings, waited) in table {
        let backoff = outbound_retry::Backoff::new(wait, wait).unwrap().jitter(outbound_retry::Jitter::None);
        let policy = Standard::default().backoff(backoff).retry_after(retry_after);
        let first = Plan::new().status(503).header("retry-after", value);
        let (probe, handle) = Probe::pair([first, Plan::new()]);
        let begun = tokio::time::Instant::now();
        let request = http::Request::get("http://example.com/").body(TestBody::new()).unwrap();
        RetryLayer::new(policy).layer(probe).oneshot(request).await.unwrap();
        assert_eq!((handle.counts().calls, begun.elapsed()), (sightings, waited), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn rate_limits_are_heeded_where_that_is_switched_on_and_retry_after_wins() {
    use outbound_testkit::{Plan, Probe, TestBody};
    use tower::{Layer, ServiceExt};
    let plan = || Plan::new().status(429).header("x-ratelimit-reset", "20");
    for (name, on, first, waited) in [
        ("off", false, plan(), 0),
        ("on", true, plan(), 20),
        ("Retry-After wins", true, plan().header("retry-after", "3"), 3),
        ("an invalid one does not", true, plan().header("retry-after", "-3"), 20),
    ] {
        let none = outbound_retry::Backoff::new(Duration::ZERO, Duration::ZERO).unwrap();
        let policy = Standard::default().backoff(none).retry_after(RetryAfter::default().rate_limit(on));
        let (probe, _) = Probe::pair([first, Plan::new()]);
        let begun = tokio::time::Instant::now();
        let request = http::Request::get("http://example.com/").body(TestBody::new()).unwrap();
        RetryLayer::new(policy).layer(probe).oneshot(request).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_secs(waited), "{name}");
    }
}
