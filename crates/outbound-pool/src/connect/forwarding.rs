//! Requests to a proxy that forwards them.

use http::{Extensions, HeaderValue, Method, Request, Uri, header::PROXY_AUTHORIZATION, uri::Authority};
use hyper_util::client::legacy::connect::Connected;

/// The value of the `Proxy-Authorization` header of requests that go to a proxy which forwards them. A connector adds it to
/// `Connected` beside [`proxy(true)`](Connected::proxy), and the pool sends it; hyper-util's client leaves that to its caller.
#[derive(Clone, Debug)]
pub struct ProxyAuthorization(HeaderValue);

/// A connection leads to a proxy that forwards each request.
#[derive(Debug)]
pub(crate) struct Forwarding {
    authorization: Option<HeaderValue>,
}

// === ProxyAuthorization ===

impl ProxyAuthorization {
    /// `value` is marked sensitive, so that no `Debug` shows it.
    pub fn new(mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        Self(value)
    }

    /// The header's value.
    pub fn value(&self) -> &HeaderValue {
        &self.0
    }
}

// === Forwarding ===

impl Forwarding {
    /// What the connector says of a connection, `extras` being what it added.
    pub(crate) fn of(connected: &Connected, extras: &Extensions) -> Option<Self> {
        let authorization = || extras.get::<ProxyAuthorization>().map(|value| value.0.clone());
        connected.is_proxied().then(|| Self { authorization: authorization() })
    }

    /// As a proxy wants it: with the credentials that are for it (RFC 9110, 11.7.2), and in absolute-form (RFC 9112, 3.2.2). A
    /// `CONNECT` has a form of its own, for any server (3.2.3).
    pub(crate) fn prepare<B>(&self, request: &mut Request<B>) {
        if let Some(authorization) = &self.authorization {
            request.headers_mut().entry(PROXY_AUTHORIZATION).or_insert_with(|| authorization.clone());
        }
        if request.method() == Method::CONNECT {
            return;
        }
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.authority = parts.authority.map(|authority| without_userinfo(&authority));
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    }
}

fn without_userinfo(authority: &Authority) -> Authority {
    match authority.as_str().rsplit_once('@') {
        Some((_, bare)) => bare.parse().unwrap_or_else(|_| authority.clone()),
        None => authority.clone(),
    }
}
