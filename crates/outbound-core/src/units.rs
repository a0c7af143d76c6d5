//! How durations and counts read in errors and reports.

use std::{
    fmt::{self, Display},
    time::Duration,
};

/// A duration that a person reads: at three significant digits, with its unit. [`Duration::MAX`] is "forever".
///
/// ```
/// # use std::time::Duration;
/// # use outbound_core::Time;
/// assert_eq!(Time(Duration::from_micros(41_234_567)).to_string(), "41.2 s");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Time(pub Duration);

/// `n thing`, in the plural where there is not exactly one.
///
/// ```
/// # use outbound_core::Count;
/// assert_eq!(format!("{}, {}", Count(1, "byte"), Count(2, "byte")), "1 byte, 2 bytes");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Count(pub u64, pub &'static str);

impl Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        let (value, unit) = match self.0 {
            Duration::MAX => return f.write_str("forever"),
            Duration::ZERO => return f.write_str("0 s"),
            _ if seconds >= 1.0 => (seconds, "s"),
            _ if seconds >= 1e-3 => (seconds * 1e3, "ms"),
            _ => (seconds * 1e6, "µs"),
        };
        let digits = if value >= 100.0 || value.fract() == 0.0 {
            0
        } else if value >= 10.0 {
            1
        } else {
            2
        };
        write!(f, "{value:.digits$} {unit}")
    }
}

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} {}{plural}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (nanos, text) in [
            (0, "0 s"),
            (1_500, "1.50 µs"),
            (12_340_000, "12.3 ms"),
            (300_000_000, "300 ms"),
            (2_000_000_000, "2 s"),
            (41_200_000_000, "41.2 s"),
        ] {
            assert_eq!(Time(Duration::from_nanos(nanos)).to_string(), text, "{nanos} ns");
        }
        assert_eq!(Time(Duration::MAX).to_string(), "forever");
        assert_eq!(format!("{}, {}", Count(1, "byte"), Count(0, "byte")), "1 byte, 0 bytes");
    }
}
