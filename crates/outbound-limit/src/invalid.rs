//! An option that cannot be.

use std::{error::Error, fmt};

/// This option cannot have that value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidOption {
    option: &'static str,
    expected: &'static str,
}

impl InvalidOption {
    /// The option's name.
    pub fn option(&self) -> &'static str {
        self.option
    }

    pub(crate) fn new(option: &'static str, expected: &'static str) -> Self {
        Self { option, expected }
    }

    /// `option` is `expected`, or else this error.
    pub(crate) fn unless(holds: bool, option: &'static str, expected: &'static str) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::new(option, expected)) }
    }
}

impl fmt::Display for InvalidOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has to be {}", self.option, self.expected)
    }
}

impl Error for InvalidOption {}
