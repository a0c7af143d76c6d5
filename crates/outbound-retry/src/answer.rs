//! What a service of HTTP answers with.

use http::{HeaderMap, Response, StatusCode};
use http_body::Body;
use outbound_core::Message;

/// A [`Response`] whose body is a [`Body`]: all that a service inside these layers may answer with.
///
/// It names the response's body where only the service's type is known.
pub trait Answer: Message {
    #[doc(hidden)]
    type Body: Body;
    #[doc(hidden)]
    fn head(&self) -> (StatusCode, &HeaderMap);
    #[doc(hidden)]
    fn into_body(self) -> Self::Body;
}

impl<B: Body> Answer for Response<B> {
    type Body = B;

    fn head(&self) -> (StatusCode, &HeaderMap) {
        (self.status(), self.headers())
    }

    fn into_body(self) -> B {
        self.into_body()
    }
}
