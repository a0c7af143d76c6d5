//! What failed did so on the way through a proxy.

use std::{error::Error, fmt};

use crate::error::BoxError;

/// What failed did so at a proxy, or on the way to it: for connectors to wrap their errors in, so that nobody takes the proxy's
/// failure for the origin's.
///
/// **May the peer have acted on the request?** No: there was no connection to send it on yet.
#[derive(Debug)]
pub struct AtProxy {
    proxy: String,
    source: BoxError,
}

impl AtProxy {
    /// `source` happened at `proxy`, which is a name to print: no userinfo.
    pub fn new(proxy: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self { proxy: proxy.into(), source: source.into() }
    }

    /// The proxy: its scheme, host and port.
    pub fn proxy(&self) -> &str {
        &self.proxy
    }
}

impl fmt::Display for AtProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the proxy {} could not be used", self.proxy)
    }
}

impl Error for AtProxy {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}
