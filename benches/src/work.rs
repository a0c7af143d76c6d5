//! What is asked of every peer.

use std::net::SocketAddr;

use bytes::Bytes;
use clap::ValueEnum;
use http::{HeaderValue, Method, Request, Uri, Version, header::CONTENT_TYPE};

/// One exchange, of four sizes and shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// GET, answered with 13 bytes.
    Hello,
    /// GET, answered with 64 KiB.
    Large,
    /// POST of 40 KB of JSON, answered with 13 bytes.
    Json,
    /// GET, answered with 13 bytes after 50 ms.
    Delayed,
}

/// The version spoken, which for plain connections both sides know beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Http {
    /// HTTP/1.1
    H1,
    /// HTTP/2
    H2,
}

/// All that a request is made of, prepared once.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// Where to.
    pub(crate) server: SocketAddr,
    /// In which version.
    pub(crate) http: Http,
    /// As most clients want it.
    pub(crate) uri: Uri,
    /// Bytes of the response body.
    pub(crate) answer: usize,
    method: Method,
    body: Bytes,
}

// === Work ===

impl Work {
    /// What the server knows it by.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Hello => "/hello",
            Self::Large => "/large",
            Self::Json => "/json",
            Self::Delayed => "/delayed",
        }
    }

    /// The response body.
    pub(crate) fn answer(self) -> Bytes {
        match self {
            Self::Hello | Self::Json | Self::Delayed => Bytes::from_static(b"Hello, world!"),
            Self::Large => Bytes::from_static(&[b'x'; 64 * 1024]),
        }
    }
}

// === Order ===

impl Order {
    /// This work, of that server.
    pub(crate) fn new(work: Work, http: Http, server: SocketAddr) -> Self {
        let (method, body) = match work {
            Work::Json => (Method::POST, json(40_000)),
            Work::Hello | Work::Large | Work::Delayed => (Method::GET, Bytes::new()),
        };
        let uri = format!("http://{server}{}", work.path()).parse().expect("a valid URI");
        Self { server, http, uri, answer: work.answer().len(), method, body }
    }

    /// The same, over TLS.
    pub(crate) fn encrypted(mut self) -> Self {
        let uri = self.uri.to_string().replacen("http:", "https:", 1);
        self.uri = uri.parse().expect("a valid URI");
        self
    }

    /// A request of it.
    pub(crate) fn request<B: From<Bytes>>(&self) -> Request<B> {
        let mut request = Request::new(B::from(self.body.clone()));
        *request.uri_mut() = self.uri.clone();
        if self.method != Method::GET {
            *request.method_mut() = self.method.clone();
            request.headers_mut().insert(CONTENT_TYPE, JSON);
        }
        request
    }

    /// Likewise, as reqwest wants it.
    pub(crate) fn reqwest(&self, url: &reqwest::Url) -> reqwest::Request {
        let mut request = reqwest::Request::new(self.method.clone(), url.clone());
        if self.http == Http::H2 {
            *request.version_mut() = Version::HTTP_2;
        }
        if self.method != Method::GET {
            request.headers_mut().insert(CONTENT_TYPE, JSON);
            *request.body_mut() = Some(self.body.clone().into());
        }
        request
    }
}

fn json(bytes: usize) -> Bytes {
    let mut text = String::from("[");
    while text.len() < bytes - 32 {
        text.push_str(r#"{"name":"an entity","score":0.5},"#);
    }
    text.push_str("null]");
    text.into()
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
