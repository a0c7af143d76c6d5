//! Calls on any stack, spelled out step by step.

use std::{fmt, future::poll_fn, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderName, HeaderValue, Method, Request, Uri, header::AUTHORIZATION, request::Parts};
use outbound_core::{BoxError, CallSite, Deadline, Idempotent, InvalidRequest, UrlTemplate};
use tower_service::Service;

use crate::body::Body;

/// Makes a client of every service that takes a [`Request<Body>`](Body): a pool, any stack
/// of layers over one, an axum router.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), outbound::BoxError> {
/// use http::{Request, Response};
/// use outbound::{Body, ClientExt, ResponseExt};
///
/// // Stands for a stack.
/// let client = tower::service_fn(async |request: Request<Body>| {
///     let said = format!("{} {}", request.method(), request.uri());
///     Ok::<_, outbound::BoxError>(Response::new(said))
/// });
///
/// let response = client
///     .get("http://example.com/search")
///     .query(&[("q", "tower layers")])
///     .bearer_auth("secret")
///     .send()
///     .await?;
/// assert_eq!(response.text().await?, "GET http://example.com/search?q=tower+layers");
/// # Ok(())
/// # }
/// ```
pub trait ClientExt: Clone + sealed::Sealed {
    /// A GET of `uri`.
    fn get<U>(&self, uri: U) -> RequestBuilder<Self>
    where
        U: TryInto<Uri, Error: Into<BoxError>>,
    {
        self.request(Method::GET, uri)
    }

    /// A HEAD of `uri`.
    fn head<U>(&self, uri: U) -> RequestBuilder<Self>
    where
        U: TryInto<Uri, Error: Into<BoxError>>,
    {
        self.request(Method::HEAD, uri)
    }

    /// A POST to `uri`: sent again only if nothing of it was processed for certain, unless it is said to be
    /// [`idempotent`](RequestBuilder::idempotent).
    fn post<U>(&self, uri: U) -> RequestBuilder<Self>
    where
        U: TryInto<Uri, Error: Into<BoxError>>,
    {
        self.request(Method::POST, uri)
    }

    /// A PUT to `uri`.
    fn put<U>(&self, uri: U) -> RequestBuilder<Self>
    where
        U: TryInto<Uri, Error: Into<BoxError>>,
    {
        self.request(Method::PUT, uri)
    }

    /// A PATCH of `uri`: sent again like a POST.
    fn patch<U>(&self, uri: U) -> RequestBuilder<Self>
    where
        U: TryInto<Uri, Error: Into<BoxError>>,
    {
        self.request(Method::PATCH, uri)
    }

    /// A DELETE of `uri`.
    fn delete<U>(&self, uri: U) -> RequestBuilder<Self>
    where
        U: TryInto<Uri, Error: Into<BoxError>>,
    {
        self.request(Method::DELETE, uri)
    }

    /// A request of this method to `uri`: absolute, or a path where the stack has a base URL.
    fn request<U>(&self, method: Method, uri: U) -> RequestBuilder<Self>
    where
        U: TryInto<Uri, Error: Into<BoxError>>,
    {
        RequestBuilder::new(self.clone(), method, uri)
    }
}

impl<S> ClientExt for S where S: Service<Request<Body>> + Clone {}

impl<S> sealed::Sealed for S where S: Service<Request<Body>> + Clone {}

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// A call to be made: [`ClientExt`].
///
/// What cannot be sent (a URI that is none, a value that does not serialize) is told by [`send`](Self::send), as
/// [`InvalidRequest`].
#[must_use = "nothing happens until it is sent"]
pub struct RequestBuilder<S> {
    pub(crate) service: S,
    /// Without its content; or the first thing that is wrong with it.
    head: Result<Parts, InvalidRequest>,
    pub(crate) content: Content,
    deadline: Option<Duration>,
}

pub(crate) enum Content {
    Body(Body),
    /// A document too large to be encoded here.
    #[cfg(feature = "json")]
    Encode(crate::json::Encode),
}

impl<S> RequestBuilder<S> {
    fn new<U>(service: S, method: Method, uri: U) -> Self
    where
        U: TryInto<Uri, Error: Into<BoxError>>,
    {
        let head = uri.try_into().map_err(|error| InvalidRequest::new("its URI is none").because(error));
        let head = head.map(|uri| {
            let (mut parts, ()) = Request::new(()).into_parts();
            (parts.method, parts.uri) = (method, uri);
            parts
        });
        Self { service, head, content: Content::Body(Body::empty()), deadline: None }
    }

    /// With this header field, in place of any of that name.
    pub fn header<N, V>(self, name: N, value: V) -> Self
    where
        N: TryInto<HeaderName, Error: Into<BoxError>>,
        V: TryInto<HeaderValue, Error: Into<BoxError>>,
    {
        self.try_with(|head| {
            let name =
                name.try_into().map_err(|e| InvalidRequest::new("a header's name is none").because(e))?;
            let value =
                value.try_into().map_err(|e| InvalidRequest::new("a header's value is none").because(e))?;
            head.headers.insert(name, value);
            Ok(())
        })
    }

    /// With `Authorization: Bearer` and this token (RFC 6750), marked sensitive: it is not logged, does not follow a redirect to another
    /// origin, and is not compressed into HTTP/2's shared tables.
    pub fn bearer_auth(self, token: impl fmt::Display) -> Self {
        self.authorization(format!("Bearer {token}"))
    }

    /// With `Authorization: Basic` (RFC 7617), marked sensitive likewise.
    pub fn basic_auth(self, user: impl fmt::Display, password: impl fmt::Display) -> Self {
        self.authorization(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
    }

    fn authorization(self, credentials: String) -> Self {
        self.try_with(|head| {
            let mut value = HeaderValue::try_from(credentials)
                .map_err(|_| InvalidRequest::new("its credentials fit in no header"))?;
            value.set_sensitive(true);
            head.headers.insert(AUTHORIZATION, value);
            Ok(())
        })
    }

    /// With this body.
    pub fn body(self, body: impl Into<Body>) -> Self {
        Self { content: Content::Body(body.into()), ..self }
    }

    /// Sending it twice does no more than sending it once, whatever its method: it may be retried like a GET.
    pub fn idempotent(self) -> Self {
        self.try_with(|head| {
            Idempotent.attach(head);
            Ok(())
        })
    }

    /// The template that its path was made from, as in `/users/{id}`: what telemetry calls the call by, as long as it is one of few.
    pub fn url_template(self, template: &'static str) -> Self {
        self.try_with(|head| {
            UrlTemplate::new(template).attach(head);
            Ok(())
        })
    }

    /// All of it, until the end of the response body, may take so long from [`send`](Self::send) on, the encoding of a large document
    /// included; less if the stack says less.
    pub fn deadline(self, total: Duration) -> Self {
        Self { deadline: Some(total), ..self }
    }

    /// The same call, over another service.
    #[cfg(feature = "blocking")]
    pub(crate) fn over<T>(self, service: T) -> RequestBuilder<T> {
        let Self { head, content, deadline, .. } = self;
        RequestBuilder { service, head, content, deadline }
    }

    /// Makes the request as it would be sent, but for the encoding of a large document.
    fn into_parts(self, site: CallSite) -> Result<(S, Parts, Content), InvalidRequest> {
        let mut head = self.head?;
        site.attach(&mut head);
        if let Some(total) = self.deadline {
            Deadline::after(total).tighten(&mut head);
        }
        Ok((self.service, head, self.content))
    }

    pub(crate) fn try_with(mut self, change: impl FnOnce(&mut Parts) -> Result<(), InvalidRequest>) -> Self {
        if let Ok(head) = &mut self.head
            && let Err(invalid) = change(head)
        {
            self.head = Err(invalid);
        }
        self
    }
}

impl<S: Service<Request<Body>, Error: Into<BoxError>>> RequestBuilder<S> {
    /// Sends it, and waits for the head of the response. The line that calls this is what errors and the leak guard name.
    ///
    /// Dropped, it gives up whatever the stack is doing.
    ///
    /// # Errors
    /// [`InvalidRequest`] if it could not be made, and what the stack says.
    #[track_caller]
    pub fn send(self) -> impl Future<Output = Result<S::Response, BoxError>> + use<S> {
        let parts = self.into_parts(CallSite::here());
        async move {
            let (mut service, head, content) = parts?;
            #[cfg_attr(not(feature = "json"), expect(clippy::infallible_destructuring_match))]
            let body = match content {
                Content::Body(body) => body,
                #[cfg(feature = "json")]
                Content::Encode(encode) => crate::json::encode(encode, &head).await?.into(),
            };
            let request = rewindable(Request::from_parts(head, body));
            poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
            let called = service.call(request);
            // It may be the last clone of a client, which is not to go after its response has come.
            drop(service);
            called.await.map_err(Into::into)
        }
    }
}

impl<S> fmt::Debug for RequestBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("RequestBuilder");
        match &self.head {
            Ok(head) => debug.field("method", &head.method),
            Err(invalid) => debug.field("invalid", invalid),
        };
        debug.finish_non_exhaustive()
    }
}

/// A retry layer keeps what it has room for; bytes that are there anyway need none.
fn rewindable(request: Request<Body>) -> Request<Body> {
    #[cfg(feature = "retry")]
    if let Some(bytes) = request.body().as_bytes().filter(|bytes| bytes.len() > KEPT).cloned() {
        let mut request = request;
        outbound_retry::BodyFactory::new(move || Body::from(bytes.clone())).attach(&mut request);
        return request;
    }
    request
}

/// What a retry layer keeps of a body unless told otherwise.
#[cfg(feature = "retry")]
const KEPT: usize = 64 * 1024;
