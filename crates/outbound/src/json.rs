//! Your types in requests and responses; JSON on a worker only while it is small.

use std::io;

use bytes::Bytes;
use http::{HeaderValue, header::CONTENT_TYPE, request::Parts};
use outbound_core::{BoxError, CallSite, Deadline, Elapsed, InvalidRequest, Origin, Phase};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{runtime::Handle, time::timeout_at};

use crate::{
    offload::{INLINE_JSON, offload},
    request::{Content, RequestBuilder},
};

/// What remains to be done for a document too large to be encoded on a worker.
pub(crate) type Encode = Box<dyn FnOnce() -> serde_json::Result<Vec<u8>> + Send>;

impl<S> RequestBuilder<S> {
    /// With these pairs added to the query of its URI, percent-encoded: a struct, a map, or a slice of pairs.
    pub fn query(self, pairs: &(impl Serialize + ?Sized)) -> Self {
        self.try_with(|head| {
            let pairs = urlencoded(pairs)?;
            if !pairs.is_empty() {
                let mark = if head.uri.query().is_some() { '&' } else { '?' };
                let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
                let joined = format!("{path}{mark}{pairs}");
                let mut parts = std::mem::take(&mut head.uri).into_parts();
                parts.path_and_query =
                    Some(joined.try_into().map_err(|e| InvalidRequest::new("its query is none").because(e))?);
                head.uri = parts.try_into().map_err(|e| InvalidRequest::new("its URI is none").because(e))?;
            }
            Ok(())
        })
    }

    /// With these pairs as its body, as an HTML form sends them: `application/x-www-form-urlencoded`.
    pub fn form(self, pairs: &(impl Serialize + ?Sized)) -> Self {
        match urlencoded(pairs) {
            Ok(encoded) => self.typed("application/x-www-form-urlencoded").body(encoded),
            Err(invalid) => self.try_with(|_| Err(invalid)),
        }
    }

    /// With `value` as its body, in JSON; encoded here and now.
    ///
    /// A document of some hundred KiB keeps a worker from its other tasks for a millisecond, and one of many MiB stops it: give those to
    /// [`json_owned`](Self::json_owned). A document above 1 MiB is worth a warning that names the line, unless there is no runtime here.
    #[track_caller]
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Self {
        match serde_json::to_vec(value) {
            Ok(encoded) => {
                if encoded.len() > LARGE && Handle::try_current().is_ok() {
                    tracing::warn!(
                        bytes = encoded.len(),
                        call_site = %CallSite::here(),
                        "JSON encoded on an async worker: give it to json_owned, which does it elsewhere"
                    );
                }
                self.typed("application/json").body(encoded)
            }
            Err(error) => self.try_with(|_| Err(unencodable(error))),
        }
    }

    /// With `value` as its body, in JSON; if that is more than [`INLINE_JSON`](crate::INLINE_JSON), it is encoded by
    /// [`offload`](crate::offload()) when the request is sent, and no worker is kept from its other tasks.
    ///
    /// How long it will be, nobody knows beforehand: what does not fit is begun anew there, and that beginning is all it costs here. The
    /// beginning ends with the first piece that does not fit, so a single string is looked through to its end, for what has to
    /// be escaped.
    pub fn json_owned(self, value: impl Serialize + Send + 'static) -> Self {
        let mut typed = self.typed("application/json");
        typed.content = match encode_up_to(INLINE_JSON, &value) {
            Some(Ok(encoded)) => Content::Body(encoded.into()),
            Some(Err(error)) => return typed.try_with(|_| Err(unencodable(error))),
            None => Content::Encode(Box::new(move || serde_json::to_vec(&value))),
        };
        typed
    }

    /// With this `Content-Type`, unless it has one.
    fn typed(self, kind: &'static str) -> Self {
        self.try_with(|head| {
            head.headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(kind));
            Ok(())
        })
    }
}

/// Does it elsewhere, in the time that the call has.
pub(crate) async fn encode(encode: Encode, head: &Parts) -> Result<Vec<u8>, BoxError> {
    let deadline = Deadline::of(head).unwrap_or_default();
    let (total, encoding) = (deadline.left(), offload(encode));
    let encoded = match deadline.instant() {
        None => encoding.await,
        Some(instant) => timeout_at(instant, encoding).await.map_err(|_| {
            let elapsed = Elapsed::new(Phase::Queue, total).named("deadline");
            Origin::of(&head.uri).into_iter().fold(elapsed, Elapsed::to)
        })?,
    };
    encoded.map_err(|error| unencodable(error).into())
}

/// `value` in JSON; `None` if that is more than `limit` bytes, of which no more than `limit` were made.
pub(crate) fn encode_up_to(limit: usize, value: &impl Serialize) -> Option<serde_json::Result<Vec<u8>>> {
    let mut short = Short { bytes: Vec::with_capacity(128), limit };
    match serde_json::to_writer(&mut short, value) {
        Ok(()) => Some(Ok(short.bytes)),
        Err(error) if error.is_io() => None,
        Err(error) => Some(Err(error)),
    }
}

/// The value of `document`, decoded elsewhere if that is much work.
pub(crate) async fn decode<T: DeserializeOwned + Send + 'static>(document: Bytes) -> serde_json::Result<T> {
    if document.len() <= INLINE_JSON {
        serde_json::from_slice(&document)
    } else {
        offload(move || serde_json::from_slice(&document)).await
    }
}

/// Takes bytes up to a limit, and fails with the first beyond it.
struct Short {
    bytes: Vec<u8>,
    limit: usize,
}

impl io::Write for Short {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn urlencoded(pairs: &(impl Serialize + ?Sized)) -> Result<String, InvalidRequest> {
    serde_urlencoded::to_string(pairs).map_err(|e| InvalidRequest::new("its pairs are not flat").because(e))
}

fn unencodable(error: serde_json::Error) -> InvalidRequest {
    InvalidRequest::new("its body cannot be encoded as JSON").because(error)
}

/// Some four milliseconds of a worker's time.
const LARGE: usize = 1024 * 1024;
