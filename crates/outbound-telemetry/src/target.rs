//! What a request says of itself before it is sent.

use std::sync::Arc;

use http::Request;
use opentelemetry::KeyValue;
use outbound_core::{Origin, UrlTemplate};
use smallvec::SmallVec;

use crate::instruments::Hosts;

/// The attributes that every measurement of a request has, from its beginning on.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) method: &'static str,
    pub(crate) server: Option<(Arc<str>, u16)>,
    pub(crate) template: Option<UrlTemplate>,
}

/// Attributes on the stack: as many as a request ever has.
pub(crate) type Attributes = SmallVec<[KeyValue; 7]>;

impl Target {
    /// A request whose URI names no origin has no server either: nothing is made up.
    pub(crate) fn of<B>(request: &Request<B>, known_methods: &[&'static str], hosts: &Hosts) -> Self {
        let method = known_methods.iter().find(|&&known| known == request.method().as_str());
        let server = Origin::of(request.uri()).ok();
        Self {
            method: method.copied().unwrap_or(OTHER),
            server: server.map(|origin| (hosts.get(host(&origin)), origin.port())),
            template: UrlTemplate::of(request),
        }
    }

    /// Always in the same order, so that the SDK finds its series at the first look.
    pub(crate) fn attributes(&self) -> Attributes {
        let mut attributes = Attributes::new();
        attributes.push(KeyValue::new("http.request.method", self.method));
        if let Some((address, port)) = &self.server {
            attributes.push(KeyValue::new("server.address", address.clone()));
            attributes.push(KeyValue::new("server.port", i64::from(*port)));
        }
        if let Some(template) = self.template {
            attributes.push(KeyValue::new("url.template", template.as_str()));
        }
        attributes
    }
}

/// The host of `origin`; an IPv6 address without the brackets that it has in a URI.
pub(crate) fn host(origin: &Origin) -> &str {
    origin.host().trim_start_matches('[').trim_end_matches(']')
}

/// The methods that the conventions know unless told otherwise: RFC 9110, section 9, RFC 5789, and QUERY, still a draft.
pub(crate) const KNOWN_METHODS: &[&str] =
    &["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"];

/// Stands for any method that is not known: each would be a series of its own.
pub(crate) const OTHER: &str = "_OTHER";
