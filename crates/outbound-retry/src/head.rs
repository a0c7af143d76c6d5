//! The head of a request, kept so that it can be sent again.

use std::fmt;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, request::Parts};
use outbound_core::{Attempt, CallContext};
use smallvec::SmallVec;

/// The head of a request. Keeping it costs no allocation of its own where the fields fit [`INLINE`] and the only extension is
/// outbound's context.
///
/// A clone of a `HeaderMap` would be two, and one more for each value that owns its bytes; so the bytes are copied.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    version: Version,
    fields: Fields,
    context: Option<CallContext>,
    /// All extensions, if there are any but outbound's own.
    extensions: Option<Extensions>,
}

/// Name and value, name and value; before each its length, before the value whether it is sensitive.
struct Fields(SmallVec<[u8; INLINE]>);

impl Head {
    pub(crate) fn of(parts: &Parts) -> Self {
        let context = CallContext::of(parts);
        let foreign = parts.extensions.len() > usize::from(context.is_some());
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            fields: Fields::of(&parts.headers),
            context,
            extensions: foreign.then(|| parts.extensions.clone()),
        }
    }

    /// The same request again, as this attempt: with an exchange record yet to be made, and everything else as it was.
    pub(crate) fn request<B>(&self, attempt: Attempt, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = self.fields.map();
        if let Some(extensions) = &self.extensions {
            *request.extensions_mut() = extensions.clone();
        }
        if let Some(context) = &self.context {
            context.clone().attach(&mut request);
        }
        attempt.attach(&mut request);
        request
    }
}

// === Fields ===

impl Fields {
    fn of(map: &HeaderMap) -> Self {
        let size = |(name, value): (&HeaderName, &HeaderValue)| {
            2 * size_of::<usize>() + name.as_str().len() + value.len()
        };
        let mut bytes = SmallVec::with_capacity(map.iter().map(size).sum());
        for (name, value) in map {
            let (name, sensitive) = (name.as_str().as_bytes(), usize::from(value.is_sensitive()));
            bytes.extend_from_slice(&name.len().to_le_bytes());
            bytes.extend_from_slice(&(value.len() << 1 | sensitive).to_le_bytes());
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(value.as_bytes());
        }
        Self(bytes)
    }

    fn map(&self) -> HeaderMap {
        let mut rest = &self.0[..];
        std::iter::from_fn(|| field(&mut rest)).fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
    }
}

/// Names may be secret where values are, and nobody needs the bytes.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

fn field(rest: &mut &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let mut length = || Some(usize::from_le_bytes(rest.split_off(..size_of::<usize>())?.try_into().ok()?));
    let (name, value) = (length()?, length()?);
    let name = HeaderName::from_bytes(rest.split_off(..name)?).ok()?;
    let sensitive = value & 1 == 1;
    let mut value = HeaderValue::from_bytes(rest.split_off(..value >> 1)?).ok()?;
    value.set_sensitive(sensitive);
    Some((name, value))
}

/// Room for the fields of an ordinary request, a bearer token among them.
const INLINE: usize = 1024;
