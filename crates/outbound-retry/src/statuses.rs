//! A set of status codes.

use std::fmt;

use http::StatusCode;

/// A set of status codes, made from an array or an iterator of them.
///
/// ```
/// use http::StatusCode;
/// use outbound_retry::Statuses;
///
/// let statuses = Statuses::from([StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE]);
/// assert!(statuses.contains(StatusCode::BAD_GATEWAY));
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Statuses([u64; 16]);

impl Statuses {
    /// Whether `status` is one of them.
    pub fn contains(&self, status: StatusCode) -> bool {
        let (word, bit) = place(status);
        self.0[word] & bit != 0
    }
}

impl FromIterator<StatusCode> for Statuses {
    fn from_iter<I: IntoIterator<Item = StatusCode>>(statuses: I) -> Self {
        statuses.into_iter().map(place).fold(Self::default(), |mut set, (word, bit)| {
            set.0[word] |= bit;
            set
        })
    }
}

impl<const N: usize> From<[StatusCode; N]> for Statuses {
    fn from(statuses: [StatusCode; N]) -> Self {
        statuses.into_iter().collect()
    }
}

impl fmt::Debug for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = (100..1000).filter_map(|status| StatusCode::from_u16(status).ok());
        f.debug_set()
            .entries(all.filter(|&status| self.contains(status)).map(|status| status.as_u16()))
            .finish()
    }
}

/// A status code is 100 to 999: sixteen words have room for it.
fn place(status: StatusCode) -> (usize, u64) {
    (usize::from(status.as_u16() / 64), 1 << (status.as_u16() % 64))
}
