//! What a URI says is encrypted is never sent in the clear.

use std::{error::Error, fmt};

use http::{Uri, uri::Scheme};
#[cfg(any(feature = "rustls", feature = "proxy"))]
use tokio::task::futures::TaskLocalFuture;

/// The URI is `https`, and nobody would encrypt the connection. Nothing was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotEncrypted;

/// What a connector that opens for another one has to know of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// It encrypts what is opened.
    Tls,
    /// It speaks to a proxy over what is opened: HTTP/1.1, or SOCKS, and encrypted only if the proxy's URI says so.
    #[cfg_attr(not(feature = "proxy"), allow(dead_code, reason = "the proxy is the one that says so"))]
    Proxy,
}

tokio::task_local! {
    static FOR: For;
}

impl For {
    /// `dial`, which opens for the connector that `self` is.
    #[cfg(any(feature = "rustls", feature = "proxy"))]
    pub(super) fn open<F: Future>(self, dial: F) -> TaskLocalFuture<Self, F> {
        FOR.scope(self, dial)
    }

    /// Whom the dial that is polled now opens for.
    pub(super) fn now() -> Option<Self> {
        FOR.try_with(|now| *now).ok()
    }
}

/// Whether `uri` asks for encryption, which is an error if nobody will see to that.
pub(super) fn is_https(uri: &Uri, enforce_http: bool) -> Result<bool, NotEncrypted> {
    let is_https = uri.scheme() == Some(&Scheme::HTTPS);
    if is_https && enforce_http && For::now() != Some(For::Tls) { Err(NotEncrypted) } else { Ok(is_https) }
}

// === NotEncrypted ===

impl fmt::Display for NotEncrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the URI is https, and the connector does not encrypt: put connect::Tls around it")
    }
}

impl Error for NotEncrypted {}
