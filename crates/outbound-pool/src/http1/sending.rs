//! One exchange on one connection, up to the head of its response.

use std::{
    error::Error,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, HOST},
    uri::PathAndQuery,
};
use hyper::body::Incoming;
use outbound_core::{BoxError, Exchange, Failure, Kind, Phase, TransportError, find};
use tokio::time::Instant;

use super::{connection::Exclusive, framing::Framing, wire::HeadTooLarge};
use crate::{
    body::Body,
    connect::Forwarding,
    connection::Slot,
    http1,
    request::{Call, content_length, without_userinfo},
    upload::{Keep, Upload},
};

/// The exchange: waits until the connection is ready, sends, and waits for the head.
pub(crate) struct Sending {
    /// Until the exchange is over.
    lease: Option<Exclusive>,
    /// Likewise.
    call: Option<Box<Call>>,
    is_sent: bool,
    has_body: bool,
    /// The connection was idle, and may turn out to be closed: what it takes to send the request again is kept.
    is_kept: bool,
    /// Somebody watches the exchange.
    tracked: bool,
    /// The request asks the server to close the connection.
    closes: bool,
    /// It is a `CONNECT`.
    connects: bool,
    /// `Exchange::bytes_in` when this connection took it.
    bytes_in: u64,
}

/// The exchange failed. [`recover`](Self::recover) tells whether the request can be sent again without asking anybody.
pub(crate) struct Broken {
    lease: Exclusive,
    call: Box<Call>,
    error: BoxError,
    /// The request, if hyper has not even begun with it.
    returned: Option<Request<Upload>>,
    /// See [`Sending`].
    is_kept: bool,
    has_body: bool,
    bytes_in: u64,
}

// === Sending ===

impl Sending {
    pub(crate) fn new(mut lease: Exclusive, mut call: Box<Call>, now: Instant) -> Self {
        let idle_since = lease.idle_since();
        let connection = &mut *lease;
        let tracked = call.exchange.is_some();
        let exchange = call.exchange.take().unwrap_or_else(|| {
            let spare = connection.exchange.take();
            let exchange = spare.map_or_else(Exchange::new, |spare| spare.renewed(now));
            exchange.aim(call.origin.clone(), &call.request);
            exchange
        });
        exchange.connected(connection.info(idle_since, now));
        exchange.enter_at(Phase::Send, now);
        let bytes_in = exchange.bytes_in();
        let has_body = call.request.body().has_body();
        connection.wire.begin(exchange.clone(), has_body);
        connection.exchange = Some(exchange);
        // Whatever has been idle, the server may have closed meanwhile: even what has served nobody yet.
        let was_idle = connection.served > 0 || idle_since.is_some();
        let framing = prepare(&mut call.request, &connection.host, connection.forwarding.as_ref());
        if has_body || framing.has_length {
            let keep = match (was_idle, call.is_idempotent) {
                (false, _) => Keep::Nothing,
                (true, false) => Keep::Unsent,
                (true, true) => Keep::Small,
            };
            let length = content_length(call.request.headers());
            call.request.body_mut().on(&connection.wire, keep, length);
        }
        let is_kept = was_idle && !call.is_second;
        let connects = call.request.method() == Method::CONNECT;
        if connects || framing.upgrades {
            connection.may_upgrade();
        }
        Self {
            lease: Some(lease),
            call: Some(call),
            is_sent: false,
            has_body,
            is_kept,
            tracked,
            closes: framing.closes,
            connects,
            bytes_in,
        }
    }

    /// The request for hyper. What it takes to send it again stays, but for its fields, which the connection keeps, and its body.
    fn request(&mut self) -> Request<Upload> {
        let (Some(lease), Some(call)) = (&mut self.lease, &mut self.call) else { unreachable!("{OVER}") };
        let mut kept = Request::new(Upload::default());
        if self.is_kept {
            let request = &call.request;
            lease.fields.keep(request.headers());
            *kept.method_mut() = request.method().clone();
            *kept.uri_mut() = request.uri().clone();
            *kept.version_mut() = request.version();
            if !request.extensions().is_empty() {
                *kept.extensions_mut() = request.extensions().clone();
            }
        }
        self.is_sent = true;
        mem::replace(&mut call.request, kept)
    }

    /// Whether the head exceeds what is allowed. It may have come whole, in one read with the beginning of its body.
    fn is_too_large(&self, head: &Response<Incoming>) -> Option<HeadTooLarge> {
        let lease = self.lease.as_ref()?;
        let limit = lease.wire.max_head();
        let read = lease.exchange.as_ref()?.bytes_in() - self.bytes_in;
        (read > limit as u64 && head_size(head.headers()) > limit).then_some(HeadTooLarge { limit })
    }

    fn answered(&mut self, mut head: Response<Incoming>) -> Response<Body> {
        let (Some(mut lease), Some(call)) = (self.lease.take(), self.call.take()) else {
            unreachable!("{OVER}")
        };
        let framing = Framing::of(head.headers());
        let reusable = !self.closes && framing.is_reusable(head.status(), head.version());
        drop(lease.let_go());
        if self.has_body {
            drop(lease.wire.take_rest());
        }
        if let Some(exchange) = &lease.exchange {
            exchange.enter(Phase::Body);
            call.carry_over(&mut head, exchange, self.tracked);
        }
        let is_upgrade = match head.status() {
            StatusCode::SWITCHING_PROTOCOLS => true,
            status => self.connects && status.is_success(),
        };
        if is_upgrade {
            lease.detach();
            return head.map(|incoming| http1::Body::detached(incoming).into());
        }
        head.map(|incoming| http1::Body::new(incoming, lease, reusable).into())
    }

    fn broken(&mut self, error: impl Into<BoxError>, returned: Option<Request<Upload>>) -> Box<Broken> {
        let (Some(lease), Some(call)) = (self.lease.take(), self.call.take()) else { unreachable!("{OVER}") };
        let Self { is_kept, has_body, bytes_in, .. } = *self;
        let error = error.into();
        Box::new(Broken { lease, call, error, returned, is_kept, has_body, bytes_in })
    }
}

impl Future for Sending {
    type Output = Result<Response<Body>, Box<Broken>>;

    /// Must not be polled again after it has ended.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if !this.is_sent {
            if let Err(error) = ready!(this.lease.as_mut().expect(OVER).poll_ready(cx)) {
                let request = this.request();
                return Poll::Ready(Err(this.broken(error, Some(request))));
            }
            let request = this.request();
            this.lease.as_mut().expect(OVER).send(request);
        }
        Poll::Ready(match ready!(this.lease.as_mut().expect(OVER).poll_response(cx)) {
            Ok(head) => match this.is_too_large(&head) {
                None => Ok(this.answered(head)),
                Some(error) => Err(this.broken(error, None)),
            },
            Err(mut failed) => {
                let returned = failed.take_message();
                Err(this.broken(failed.into_error(), returned))
            }
        })
    }
}

/// Of a response's head with these fields, as it is commonly written.
fn head_size(headers: &HeaderMap) -> usize {
    let line =
        |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + ": \r\n".len();
    "HTTP/1.1 200 OK\r\n\r\n".len() + headers.iter().map(line).sum::<usize>()
}

const OVER: &str = "polled after it had ended";

// === Broken ===

impl Broken {
    /// The call, and the right to open the connection on which to send it again; else the error for the caller.
    ///
    /// A connection that had been idle and died without a byte of response was closed by the server meanwhile (RFC 9112, 9.3.1). The
    /// request goes out once more if not a byte of it was written, or if it is idempotent and what was taken of its body is still
    /// there (rule A). It goes out on a new connection, and so there is no third time.
    pub(crate) async fn recover(self) -> Result<(Box<Call>, Arc<Slot>), BoxError> {
        let Self { mut lease, mut call, error, returned, is_kept, has_body, bytes_in } = self;
        let exchange = lease.exchange.take().expect("a connection with an exchange");
        let is_silent = exchange.bytes_in() == bytes_in;
        let may_go_again = is_kept && is_silent && (lease.wire.is_untouched() || call.is_idempotent);
        let (true, Some(slot)) = (may_go_again, lease.let_go()) else {
            return Err(failed(&exchange, error, is_silent));
        };
        let fields = mem::take(&mut lease.fields);
        let wire = lease.wire.clone();
        // The socket is closed, and hyper has let go of the request body, when the driver has ended.
        let _ = lease.close().await;
        if let Some(request) = returned {
            call.request = request.map(Upload::take);
        } else {
            *call.request.headers_mut() = fields.headers();
            if has_body {
                let Some(rest) = wire.take_rest() else { return Err(failed(&exchange, error, is_silent)) };
                *call.request.body_mut() = rest.into();
            }
        }
        let origin = &call.origin;
        tracing::debug!(%origin, error = &*error as &dyn Error, "the idle connection was closed: sending again");
        // It goes on with the same record: what was written once stays written.
        (call.exchange, call.is_second) = (Some(exchange), true);
        Ok((call, slot))
    }

    /// Whether it was the first try on a connection that had been used.
    pub(crate) fn may_go_again(&self) -> bool {
        self.is_kept
    }

    /// The error for the caller.
    pub(crate) fn into_error(mut self) -> BoxError {
        let exchange = self.lease.exchange.take().expect("a connection with an exchange");
        failed(&exchange, self.error, exchange.bytes_in() == self.bytes_in)
    }
}

fn failed(exchange: &Exchange, error: BoxError, is_silent: bool) -> BoxError {
    let kind = match Failure::of(&*error).kind() {
        Kind::Closed if !is_silent => Kind::Truncated,
        _ if find::<HeadTooLarge>(&*error).is_some() => Kind::TooLarge,
        Kind::Canceled | Kind::Other => Kind::Closed,
        kind => kind,
    };
    TransportError::new(kind, exchange).because(error).into()
}

// === HTTP/1.1 ===

/// As HTTP/1.1 wants it: origin-form (RFC 9112, 3.2.1), unless a proxy forwards it; `Host` (3.2), and no other version than 1.0 or 1.1.
///
/// Returned is what its fields said before.
fn prepare(request: &mut Request<Upload>, host: &HeaderValue, forwarding: Option<&Forwarding>) -> Framing {
    let framing = Framing::of(request.headers());
    if !framing.has_host {
        request.headers_mut().insert(HOST, host.clone());
    }
    // Where content is expected, it is said that there is none (RFC 9110, 8.6).
    let expects_content = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    if expects_content && !framing.has_length && !request.body().has_body() {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    if request.version() != Version::HTTP_10 {
        *request.version_mut() = Version::HTTP_11;
    }
    if let Some(forwarding) = forwarding {
        forwarding.prepare(request);
    }
    let is_absolute = forwarding.is_some() && request.method() != Method::CONNECT;
    if !is_absolute && request.uri().authority().is_some() {
        let parts = mem::take(request.uri_mut()).into_parts();
        *request.uri_mut() = match (request.method(), parts.authority) {
            (&Method::CONNECT, Some(authority)) => without_userinfo(&authority),
            _ => parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/")).into(),
        };
    }
    framing
}
