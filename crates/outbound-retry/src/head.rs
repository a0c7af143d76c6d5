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

/// A word on the field, its name and its value, one field after the other. The word has the lengths of both, and whether the
/// value is sensitive.
struct Fields(SmallVec<[u8; INLINE]>);

impl Head {
    /// Without its fields: what there is room for would be copied with each move. They are [kept](Self::keep) where it stays.
    #[inline]
    pub(crate) fn without_fields(parts: &Parts, context: Option<CallContext>) -> Self {
        let foreign = parts.extensions.len() > usize::from(context.is_some());
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            fields: Fields(SmallVec::new()),
            context,
            extensions: foreign.then(|| parts.extensions.clone()),
        }
    }

    pub(crate) fn keep(&mut self, fields: &HeaderMap) {
        self.fields.keep(fields);
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
    fn keep(&mut self, map: &HeaderMap) {
        let size = |(name, value): (&HeaderName, &HeaderValue)| WORD + name.as_str().len() + value.len();
        let Self(bytes) = self;
        bytes.reserve_exact(map.iter().map(size).sum());
        for (name, value) in map {
            let name = name.as_str().as_bytes();
            let lengths = (value.len() as u64) << 17 | (name.len() as u64) << 1;
            bytes.extend_from_slice(&(lengths | u64::from(value.is_sensitive())).to_le_bytes());
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(value.as_bytes());
        }
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
    let word = u64::from_le_bytes(rest.split_off(..WORD)?.try_into().ok()?);
    let (name, value) = ((word >> 1 & 0xffff) as usize, (word >> 17) as usize);
    let name = HeaderName::from_bytes(rest.split_off(..name)?).ok()?;
    let mut value = HeaderValue::from_bytes(rest.split_off(..value)?).ok()?;
    value.set_sensitive(word & 1 == 1);
    Some((name, value))
}

/// Room for the fields of an ordinary request: with it, all that is kept of one is no larger than what allocators hand out fast.
const INLINE: usize = 448;

/// A value may be as long as memory allows, a name has less than 64 KiB (`http::header::MAX_HEADER_NAME_LEN`).
const WORD: usize = size_of::<u64>();
