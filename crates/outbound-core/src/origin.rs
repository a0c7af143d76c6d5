//! Scheme, host and port: what connections, limits and budgets are kept by.

use std::{error::Error, fmt, hash::Hash, hash::Hasher};

use http::{
    Uri,
    uri::{Authority, Scheme},
};

/// Where a request goes: scheme, host and port (RFC 6454, 4), with the default port filled in and the host in lower case.
///
/// Two spellings of one origin are equal and hash alike. It never holds userinfo. Taking it from a `Uri` that is in lower
/// case and has no userinfo allocates nothing.
///
/// ```
/// use outbound_core::Origin;
///
/// let origin = Origin::of(&"HTTP://user:secret@Example.com/path".parse()?)?;
/// assert_eq!(origin, Origin::of(&"http://example.com:80/".parse()?)?);
/// assert_eq!(origin.to_string(), "http://example.com");
/// # Ok::<(), outbound_core::BoxError>(())
/// ```
#[derive(Clone)]
pub struct Origin {
    https: bool,
    port: u16,
    /// Where the host ends in `authority`.
    host: usize,
    /// `host` or `host:port`, and nothing else.
    authority: Authority,
}

/// This URI names no origin that a request can be sent to: nothing was opened and nothing sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidOrigin {
    /// It has no scheme, as in `/path` or `example.com`.
    NoScheme,
    /// Its scheme is neither `http` nor `https`.
    UnknownScheme(String),
    /// It has no host.
    NoHost,
    /// Its port is no number from 1 to 65535.
    BadPort,
}

// === Origin ===

impl Origin {
    /// The origin of `uri`.
    ///
    /// # Errors
    /// [`InvalidOrigin`] if it lacks a host, or a scheme of `http` or `https`.
    pub fn of(uri: &Uri) -> Result<Self, InvalidOrigin> {
        let https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) => return Err(InvalidOrigin::UnknownScheme(scheme.to_string())),
            None => return Err(InvalidOrigin::NoScheme),
        };
        let authority = uri.authority().ok_or(InvalidOrigin::NoHost)?;
        let text = authority.as_str();
        if text.bytes().any(|byte| byte == b'@' || byte.is_ascii_uppercase()) {
            let plain = text.rsplit_once('@').map_or(text, |(_, plain)| plain);
            let plain = plain.to_ascii_lowercase().parse().map_err(|_| InvalidOrigin::NoHost)?;
            return Self::plain(https, plain);
        }
        Self::plain(https, authority.clone())
    }

    /// Of an authority without userinfo and capitals.
    fn plain(https: bool, authority: Authority) -> Result<Self, InvalidOrigin> {
        let text = authority.as_str();
        // A colon before a bracket belongs to an IPv6 address.
        let (host, port) = match text.bytes().rposition(|byte| matches!(byte, b':' | b']')) {
            Some(colon) if text.as_bytes()[colon] == b':' => (colon, &text[colon + 1..]),
            _ => (text.len(), ""),
        };
        let is_padded = port.starts_with('0');
        let port = match port {
            "" if https => 443,
            "" => 80,
            digits => digits.parse().ok().filter(|&port| port > 0).ok_or(InvalidOrigin::BadPort)?,
        };
        if host == 0 {
            return Err(InvalidOrigin::NoHost);
        }
        let authority = if is_padded {
            format!("{}:{port}", &text[..host]).parse().map_err(|_| InvalidOrigin::NoHost)?
        } else {
            authority
        };
        Ok(Self { https, port, host, authority })
    }

    /// Whether its scheme is `https`.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// The host, in lower case; an IPv6 address keeps its brackets.
    pub fn host(&self) -> &str {
        &self.authority.as_str()[..self.host]
    }

    /// The port, the scheme's default where the URI named none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host`, or `host:port` where the port is not the scheme's default: the value of a `Host` header (RFC 9110, 7.2).
    pub fn host_and_port(&self) -> &str {
        match (self.https, self.port) {
            (false, 80) | (true, 443) => self.host(),
            _ => self.authority.as_str(),
        }
    }
}

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        (self.https, self.port, self.host()) == (other.https, other.port, other.host())
    }
}

impl Eq for Origin {}

impl Hash for Origin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.https, self.port, self.host()).hash(state);
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.host_and_port())
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({self})")
    }
}

// === InvalidOrigin ===

impl fmt::Display for InvalidOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoScheme => {
                f.write_str("the request's URI has no scheme: expected http://host/… or https://host/…")
            }
            Self::UnknownScheme(scheme) => {
                write!(f, "the request's URI has the scheme {scheme:?}: expected http or https")
            }
            Self::NoHost => {
                f.write_str("the request's URI has no host: expected http://host/… or https://host/…")
            }
            Self::BadPort => f.write_str("the port in the request's URI is no number from 1 to 65535"),
        }
    }
}

impl Error for InvalidOrigin {}
