//! What a caller wants of a response: its bytes, its text, its value, or an error.

use std::{error::Error, fmt, pin::pin, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode, response::Parts};
use http_body::Body;
use http_body_util::BodyExt;
use outbound_core::{Answered, Attempt, BoxError, Origin};
use tokio::time::timeout;

/// Reads responses, each within a bound: 16 MiB unless the method is told another.
///
/// A response that is dropped, or whose reading is, closes its connection unless it was read to its end.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), outbound::BoxError> {
/// use http::Response;
/// use outbound::{ResponseExt, StatusError, TooLarge, find};
///
/// let response = Response::new(String::from("[1, 2, 3]"));
/// assert_eq!(response.json::<Vec<u32>>().await?, [1, 2, 3]);
///
/// let response = Response::new(String::from("0123456789"));
/// let error = response.bytes_within(4).await.unwrap_err();
/// assert_eq!(find::<TooLarge>(&*error).unwrap().limit(), 4);
///
/// let response = Response::builder().status(404).body(String::from("no such thing"))?;
/// let error = response.error_for_status().await.unwrap_err();
/// assert_eq!(find::<StatusError>(&*error).unwrap().body(), "no such thing");
/// # Ok(())
/// # }
/// ```
pub trait ResponseExt: Sized + sealed::Sealed {
    /// All bytes of its body.
    ///
    /// # Errors
    /// [`TooLarge`], and what the body says.
    fn bytes(self) -> impl Future<Output = Result<Bytes, BoxError>> {
        self.bytes_within(LIMIT)
    }

    /// All bytes of its body, if they are not more than `limit`. A body that says that it is longer is not read at all.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    fn bytes_within(self, limit: usize) -> impl Future<Output = Result<Bytes, BoxError>>;

    /// Its body as text, which must be UTF-8.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and [`InvalidBody`].
    fn text(self) -> impl Future<Output = Result<String, BoxError>> {
        self.text_within(LIMIT)
    }

    /// Likewise, if it is not more than `limit` bytes.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    fn text_within(self, limit: usize) -> impl Future<Output = Result<String, BoxError>>;

    /// The value that its body is in JSON. A document of more than [`INLINE_JSON`](crate::INLINE_JSON) is decoded by
    /// [`offload`](crate::offload()), and no worker is kept from its other tasks.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and [`InvalidBody`].
    #[cfg(feature = "json")]
    fn json<T>(self) -> impl Future<Output = Result<T, BoxError>>
    where
        T: serde::de::DeserializeOwned + Send + 'static,
    {
        self.json_within(LIMIT)
    }

    /// Likewise, if it is not more than `limit` bytes.
    ///
    /// # Errors
    /// As [`json`](Self::json).
    #[cfg(feature = "json")]
    fn json_within<T>(self, limit: usize) -> impl Future<Output = Result<T, BoxError>>
    where
        T: serde::de::DeserializeOwned + Send + 'static;

    /// Itself, unless its status is of class 4xx or 5xx. Then what fits in 8 KiB of its body, and comes within a second, is kept in
    /// the error: it is where servers say what was wrong.
    ///
    /// # Errors
    /// [`StatusError`].
    ///
    /// # Panics
    /// With such a status, outside a Tokio runtime with its timer on.
    fn error_for_status(self) -> impl Future<Output = Result<Self, BoxError>>;
}

/// The body of a response is longer than its reader allows.
///
/// **May the peer have acted on the request?** Yes: it has answered.
#[derive(Clone, Debug)]
pub struct TooLarge {
    limit: usize,
    announced: Option<u64>,
    answered: Answered,
}

/// The body of a response is not what its reader takes it for: the reason is in its sources.
///
/// **May the peer have acted on the request?** Yes: it has answered.
#[derive(Debug)]
pub struct InvalidBody {
    status: StatusCode,
    expected: &'static str,
    place: Option<(usize, usize)>,
    answered: Answered,
}

/// The response has a status of class 4xx or 5xx.
///
/// **May the peer have acted on the request?** Yes: it has answered, and a 5xx may come after the deed.
#[derive(Clone)]
pub struct StatusError {
    answered: Answered,
    status: StatusCode,
    headers: Box<HeaderMap>,
    body: Bytes,
}

// === ResponseExt ===

impl<B> ResponseExt for Response<B>
where
    B: Body<Error: Into<BoxError>>,
{
    async fn bytes_within(self, limit: usize) -> Result<Bytes, BoxError> {
        let (head, body) = self.into_parts();
        read(&head, body, limit).await
    }

    async fn text_within(self, limit: usize) -> Result<String, BoxError> {
        let (head, body) = self.into_parts();
        let bytes = read(&head, body, limit).await?;
        String::from_utf8(bytes.into()).map_err(|error| {
            // Without the bytes, which the error would show.
            let answered = Answered::new(&head).because(error.utf8_error());
            InvalidBody { status: head.status, expected: "UTF-8", place: None, answered }.into()
        })
    }

    #[cfg(feature = "json")]
    async fn json_within<T>(self, limit: usize) -> Result<T, BoxError>
    where
        T: serde::de::DeserializeOwned + Send + 'static,
    {
        let (head, body) = self.into_parts();
        let document = read(&head, body, limit).await?;
        crate::json::decode(document).await.map_err(|error| {
            let place = Some((error.line(), error.column()));
            let answered = Answered::new(&head).because(error);
            InvalidBody { status: head.status, expected: "the JSON expected", place, answered }.into()
        })
    }

    async fn error_for_status(self) -> Result<Self, BoxError> {
        let status = self.status();
        if !(status.is_client_error() || status.is_server_error()) {
            return Ok(self);
        }
        let answered = Answered::new(&self);
        let (parts, body) = self.into_parts();
        let body = excerpt(body).await;
        Err(StatusError { answered, status, headers: Box::new(parts.headers), body }.into())
    }
}

/// All bytes of `body`, if they are not more than `limit`.
async fn read<B>(head: &Parts, body: B, limit: usize) -> Result<Bytes, BoxError>
where
    B: Body<Error: Into<BoxError>>,
{
    let too_large = |announced| TooLarge { limit, announced, answered: Answered::new(head) };
    let hint = body.size_hint();
    if let Some(announced) = Some(hint.lower()).filter(|&lower| lower > limit as u64) {
        return Err(too_large(Some(announced)).into());
    }
    let mut body = pin!(body);
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame.map_err(Into::into)?.into_data() else { continue };
        if first.len() + rest.len() + data.remaining() > limit {
            return Err(too_large(None).into());
        }
        if first.is_empty() && rest.is_empty() {
            // The only one, perhaps: it is not copied then.
            first = data.copy_to_bytes(data.remaining());
        } else {
            if rest.is_empty() {
                let left = usize::try_from(body.size_hint().lower()).unwrap_or_default();
                rest.reserve(first.len() + data.remaining() + left);
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// What can be had of `body` within [`EXCERPT`] and [`PATIENCE`].
async fn excerpt<B: Body>(body: B) -> Bytes {
    let mut kept = BytesMut::new();
    let reading = async {
        let mut body = pin!(body);
        while kept.len() < EXCERPT
            && let Some(Ok(frame)) = body.frame().await
        {
            if let Ok(mut data) = frame.into_data() {
                let fits = data.remaining().min(EXCERPT - kept.len());
                kept.extend_from_slice(&data.copy_to_bytes(fits));
            }
        }
    };
    // Half of it is better than nothing.
    let _ = timeout(PATIENCE, reading).await;
    kept.freeze()
}

// === TooLarge ===

impl TooLarge {
    /// The bytes that were allowed.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The bytes that the response said it had, if it did.
    pub fn announced(&self) -> Option<u64> {
        self.announced
    }
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the response body is larger than {} bytes", self.limit)?;
        match self.announced {
            Some(announced) => write!(f, ": it says {announced}"),
            None => Ok(()),
        }
    }
}

impl Error for TooLarge {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.answered)
    }
}

// === InvalidBody ===

impl InvalidBody {
    /// The status of the response: an error page is a common reason.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

/// Without the source, which may quote what the body says.
impl fmt::Display for InvalidBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, expected, place, .. } = self;
        write!(f, "the body of the response ({status}) is not {expected}")?;
        match place {
            Some((line, column)) => write!(f, ", from line {line}, column {column} on"),
            None => Ok(()),
        }
    }
}

impl Error for InvalidBody {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.answered)
    }
}

// === StatusError ===

impl StatusError {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The header fields of the response.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The beginning of its body: up to 8 KiB.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Where the request went, if the stack says so.
    pub fn origin(&self) -> Option<&Origin> {
        self.answered.origin()
    }
}

/// With the first of its body, on one line.
impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = self.answered.origin() {
            write!(f, "{origin}: ")?;
        }
        write!(f, "answered {}", self.status)?;
        if let Some(attempt) = self.answered.attempt().filter(|&attempt| attempt > Attempt::FIRST) {
            write!(f, " at attempt {attempt}")?;
        }
        let text = String::from_utf8_lossy(&self.body);
        let Some((end, _)) = text.char_indices().nth(LINE) else {
            return if text.is_empty() { Ok(()) } else { write!(f, ": {}", text.escape_debug()) };
        };
        write!(f, ": {}…", text[..end].escape_debug())
    }
}

/// Without the fields, which may be cookies: [`headers`](StatusError::headers) has them.
impl fmt::Debug for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusError")
            .field("answered", &self.answered)
            .field("status", &self.status)
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

impl Error for StatusError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.answered)
    }
}

mod sealed {
    pub trait Sealed {}

    impl<B> Sealed for http::Response<B> {}
}

/// Sixty-four of them at once are a GiB.
const LIMIT: usize = 16 * 1024 * 1024;
/// What of a failed response's body is kept; and what is waited for it.
const EXCERPT: usize = 8 * 1024;
const PATIENCE: Duration = Duration::from_secs(1);
/// The characters of it that an error's line shows.
const LINE: usize = 120;
