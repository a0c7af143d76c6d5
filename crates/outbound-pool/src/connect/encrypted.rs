//! What a URI says is encrypted is never sent in the clear.

use std::{error::Error, fmt};

use http::{Uri, uri::Scheme};
use tokio::task::futures::TaskLocalFuture;

/// The URI is `https`, and nobody would encrypt the connection. Nothing was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotEncrypted;

tokio::task_local! {
    /// Whether somebody encrypts what is being opened.
    static ENCRYPTED: bool;
}

/// `dial`, of which somebody will encrypt what it opens, or nobody.
pub(super) fn encrypted<F: Future>(is_encrypted: bool, dial: F) -> TaskLocalFuture<bool, F> {
    ENCRYPTED.scope(is_encrypted, dial)
}

/// Whether `uri` asks for encryption, which is an error if nobody will see to that.
pub(super) fn is_https(uri: &Uri, enforce_http: bool) -> Result<bool, NotEncrypted> {
    let is_https = uri.scheme() == Some(&Scheme::HTTPS);
    let is_encrypted = ENCRYPTED.try_with(|is| *is).unwrap_or(false);
    if is_https && enforce_http && !is_encrypted { Err(NotEncrypted) } else { Ok(is_https) }
}

// === NotEncrypted ===

impl fmt::Display for NotEncrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the URI is https, and the connector does not encrypt: put connect::Tls around it")
    }
}

impl Error for NotEncrypted {}
