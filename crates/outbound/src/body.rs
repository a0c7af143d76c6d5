//! The one request body of the calls that [`ClientExt`](crate::ClientExt) makes.

use std::{
    fmt, mem,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use outbound_core::BoxError;

/// A request body: bytes that are there, or a stream of them.
///
/// - **Bytes** (made with [`From`] a `String`, a `Vec<u8>`, [`Bytes`] …) cost no allocation, have a length, and can be sent again
///   however many they are.
/// - A **stream** ([`stream`](Self::stream), [`reader`](Self::reader), [`blocking_reader`](Self::blocking_reader)) is boxed once. It has
///   the length that it says; of one that says none, set `Content-Length` where you know it, else it is sent in chunks. It can be
///   sent again as far as a retry layer has kept it.
///
/// ```
/// use http_body::Body as _;
/// use outbound::Body;
///
/// assert_eq!(Body::from("hello").size_hint().exact(), Some(5));
/// assert_eq!(Body::blocking_reader(&b"hello"[..]).size_hint().exact(), None);
/// ```
pub struct Body(Content);

enum Content {
    Bytes(Bytes),
    /// Never contended: it is there so that a body is `Sync`, which reqwest asks for.
    Stream(Mutex<Stream>),
}

type Stream = Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>;

pin_project_lite::pin_project! {
    /// Another body, with our error.
    struct Erase<B> {
        #[pin]
        body: B,
    }
}

impl Body {
    /// No bytes at all.
    pub const fn empty() -> Self {
        Self(Content::Bytes(Bytes::new()))
    }

    /// What `body` gives.
    pub fn stream<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self(Content::Stream(Mutex::new(Box::pin(Erase { body }))))
    }

    /// All of it, unless it is a stream; what is left of it, once it has been polled.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match &self.0 {
            Content::Bytes(bytes) => Some(bytes),
            Content::Stream(_) => None,
        }
    }

    /// The same again, unless it is a stream.
    pub fn try_clone(&self) -> Option<Self> {
        self.as_bytes().cloned().map(Self::from)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Content::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Bytes(bytes) => Poll::Ready(Some(Ok(Frame::data(mem::take(bytes))))),
            Content::Stream(stream) => {
                stream.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll_frame(cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Bytes(bytes) => bytes.is_empty(),
            Content::Stream(stream) => lock(stream).is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(stream) => lock(stream).size_hint(),
        }
    }
}

fn lock(stream: &Mutex<Stream>) -> MutexGuard<'_, Stream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Content::Bytes(bytes) => write!(f, "Body({} bytes)", bytes.len()),
            Content::Stream(_) => f.write_str("Body(stream)"),
        }
    }
}

macro_rules! bytes_from {
    ($($kind:ty),*) => {$(
        impl From<$kind> for Body {
            fn from(bytes: $kind) -> Self {
                Self(Content::Bytes(bytes.into()))
            }
        }
    )*};
}

bytes_from!(Bytes, Vec<u8>, String, &'static str, &'static [u8]);

impl From<()> for Body {
    fn from((): ()) -> Self {
        Self::empty()
    }
}

// === Erase ===

impl<B> http_body::Body for Erase<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().body.poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
