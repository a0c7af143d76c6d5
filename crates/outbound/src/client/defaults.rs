//! What every request of a client has in common: where its path begins, and header fields.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Uri, header::Entry, uri::PathAndQuery};
use outbound_core::{BoxError, InvalidRequest, Origin};
use pin_project_lite::pin_project;
use tower_service::Service;

/// Fills in what a request does not say itself.
#[derive(Clone, Debug)]
pub(crate) struct WithDefaults<S> {
    inner: S,
    defaults: Arc<Defaults>,
}

#[derive(Debug, Default)]
pub(crate) struct Defaults {
    pub(crate) base: Option<Base>,
    pub(crate) headers: HeaderMap,
}

/// A base URL.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    url: Uri,
    origin: Origin,
    /// Its path, without a slash at the end.
    path: Box<str>,
}

pin_project! {
    #[project = StateProjection]
    pub(crate) enum ResponseFuture<F> {
        Call { #[pin] call: F },
        Invalid { error: Option<InvalidRequest> },
    }
}

// === WithDefaults ===

impl<S> WithDefaults<S> {
    pub(crate) fn new(inner: S, defaults: Defaults) -> Self {
        Self { inner, defaults: Arc::new(defaults) }
    }
}

impl<S, B> Service<Request<B>> for WithDefaults<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.defaults.fill_in(&mut request) {
            Ok(()) => ResponseFuture::Call { call: self.inner.call(request) },
            Err(error) => ResponseFuture::Invalid { error: Some(error) },
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<BoxError>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            StateProjection::Call { call } => call.poll(cx).map_err(Into::into),
            StateProjection::Invalid { error } => {
                Poll::Ready(Err(error.take().expect("polled after it had ended").into()))
            }
        }
    }
}

// === Defaults ===

impl Defaults {
    fn fill_in<B>(&self, request: &mut Request<B>) -> Result<(), InvalidRequest> {
        let is_home = match &self.base {
            Some(base) if request.uri().scheme().is_none() => {
                *request.uri_mut() = base.join(request.uri())?;
                true
            }
            Some(base) => Origin::of(request.uri()).is_ok_and(|origin| origin == base.origin),
            None => true,
        };
        for (name, value) in &self.headers {
            // What is secret between us and the origin of the base URL is nobody else's to see.
            if (is_home || !value.is_sensitive())
                && let Entry::Vacant(vacant) = request.headers_mut().entry(name)
            {
                vacant.insert(value.clone());
            }
        }
        Ok(())
    }
}

// === Base ===

impl Base {
    /// `None` if `url` is not absolute, or has a query or credentials in it.
    pub(crate) fn new(url: Uri) -> Option<Self> {
        let is_plain = url.query().is_none() && !url.authority()?.as_str().contains('@');
        let path = url.path().trim_end_matches('/').into();
        is_plain.then_some(Self { origin: Origin::of(&url).ok()?, url, path })
    }

    pub(crate) fn is_https(&self) -> bool {
        self.origin.is_https()
    }

    fn join(&self, relative: &Uri) -> Result<Uri, InvalidRequest> {
        let path = match relative.path_and_query() {
            // `*` is the server as a whole (RFC 9110, 7.1).
            Some(path) if self.path.is_empty() || path == "*" => path.clone(),
            Some(path) => PathAndQuery::from_maybe_shared(format!("{}{path}", self.path)).map_err(invalid)?,
            // `items` alone is an authority.
            None => {
                return Err(InvalidRequest::new("its URI is neither absolute nor a path that begins with /"));
            }
        };
        let mut parts = self.url.clone().into_parts();
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).map_err(invalid)
    }
}

impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

fn invalid(error: impl Into<BoxError>) -> InvalidRequest {
    InvalidRequest::new("its path does not fit the base URL").because(error)
}
