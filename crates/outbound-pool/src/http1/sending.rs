//! One exchange on one connection, up to the head of its response.

use std::{
    error::Error,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{
    Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    uri::PathAndQuery,
};
use hyper::body::Incoming;
use outbound_core::{
    BoxError, CallSite, Deadline, Exchange, Failure, Kind, Origin, Phase, TransportError, find,
};

use super::{again::Again, body::Body, connection::Exclusive, wire::HeadTooLarge};
use crate::{
    connect::Forwarding,
    connection::Slot,
    request::{Call, carry_over, content_length, has_token, without_userinfo},
    upload::{Keep, Upload},
};

/// The exchange: waits until the connection is ready, sends, and waits for the head.
pub(crate) struct Sending {
    /// Until the exchange is over.
    lease: Option<Exclusive>,
    /// Until it has been sent.
    request: Option<Request<Upload>>,
    origin: Origin,
    site: Option<CallSite>,
    deadline: Deadline,
    /// Somebody watches the exchange.
    tracked: bool,
    context: Extensions,
    /// Kept on a connection that was idle, and may turn out to be closed.
    again: Option<Again>,
    /// `Exchange::bytes_in` when this connection took it.
    bytes_in: u64,
    /// The request asks the server to close the connection.
    closes: bool,
    /// It is a `CONNECT`.
    connects: bool,
}

/// The exchange failed. [`recover`](Self::recover) tells whether the request can be sent again without asking anybody.
pub(crate) struct Broken {
    sending: Sending,
    lease: Exclusive,
    error: hyper::Error,
    /// The request, if hyper has not even begun with it.
    returned: Option<Request<Upload>>,
}

// === Sending ===

impl Sending {
    pub(crate) fn new(mut lease: Exclusive, call: Call) -> Self {
        let Call { origin, mut request, exchange, site, deadline, context, is_idempotent, is_second } = call;
        let idle_since = lease.idle_since();
        let connection = &mut *lease;
        let tracked = exchange.is_some();
        let exchange = exchange.unwrap_or_else(|| {
            let exchange = connection.exchange.take().map_or_else(Exchange::new, Exchange::renewed);
            exchange.aim(origin.clone(), &request);
            exchange
        });
        exchange.connected(connection.info(idle_since));
        exchange.enter(Phase::Send);
        let bytes_in = exchange.bytes_in();
        connection.wire.begin(exchange.clone(), request.body().has_body());
        connection.exchange = Some(exchange);
        // Whatever has been idle, the server may have closed meanwhile: even what has served nobody yet.
        let was_idle = connection.served > 0 || idle_since.is_some();
        let keep = match (was_idle, is_idempotent) {
            (false, _) => Keep::Nothing,
            (true, false) => Keep::Unsent,
            (true, true) => Keep::Small,
        };
        prepare(&mut request, &connection.host, connection.forwarding.as_ref());
        let length = content_length(request.headers());
        request.body_mut().on(&connection.wire, keep, length);
        let closes = has_token(request.headers(), "close");
        let connects = request.method() == Method::CONNECT;
        let again = (was_idle && !is_second).then(|| {
            connection.fields.keep(request.headers());
            Again::new(&request, is_idempotent)
        });
        Self {
            lease: Some(lease),
            request: Some(request),
            origin,
            site,
            deadline,
            tracked,
            context,
            again,
            bytes_in,
            closes,
            connects,
        }
    }

    fn answered(&mut self, mut lease: Exclusive, head: Response<Incoming>) -> Response<Body> {
        let (mut parts, incoming) = head.into_parts();
        let reusable = !self.closes && is_reusable(parts.status, parts.version, &parts.headers);
        drop((lease.let_go(), lease.wire.take_rest()));
        if let Some(exchange) = &lease.exchange {
            exchange.enter(Phase::Body);
            carry_over(mem::take(&mut self.context), &mut parts, exchange, self.tracked);
        }
        let is_upgrade = match parts.status {
            StatusCode::SWITCHING_PROTOCOLS => true,
            status => self.connects && status.is_success(),
        };
        if is_upgrade {
            lease.detach();
            return Response::from_parts(parts, Body::detached(incoming));
        }
        Response::from_parts(parts, Body::new(incoming, lease, reusable))
    }
}

impl Future for Sending {
    type Output = Result<Response<Body>, Box<Broken>>;

    /// Must not be polled again after it has ended.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let connection = &mut **this.lease.as_mut().expect("polled after it had ended");
        let mut result = Ok(());
        if this.request.is_some() {
            result = ready!(connection.poll_ready(cx));
        }
        let answer = match (result, this.request.take()) {
            (Err(error), returned) => Err((error, returned)),
            (Ok(()), request) => {
                if let Some(request) = request {
                    connection.send(request);
                }
                ready!(connection.poll_response(cx)).map_err(|mut failed| {
                    let returned = failed.take_message();
                    (failed.into_error(), returned)
                })
            }
        };
        let lease = this.lease.take().expect("just used");
        Poll::Ready(match answer {
            Ok(head) => Ok(this.answered(lease, head)),
            Err((error, returned)) => {
                let sending = Self {
                    lease: None,
                    request: None,
                    origin: this.origin.clone(),
                    site: this.site,
                    tracked: this.tracked,
                    context: mem::take(&mut this.context),
                    again: this.again.take(),
                    ..*this
                };
                Err(Box::new(Broken { sending, lease, error, returned }))
            }
        })
    }
}

// === Broken ===

impl Broken {
    /// The call, and the right to open the connection on which to send it again; else the error for the caller.
    ///
    /// A connection that had been idle and died without a byte of response was closed by the server meanwhile (RFC 9112, 9.3.1). The
    /// request goes out once more if not a byte of it was written, or if it is idempotent and what was taken of its body is still
    /// there (rule A). It goes out on a new connection, and so there is no third time.
    pub(crate) async fn recover(self) -> Result<(Call, Arc<Slot>), BoxError> {
        let Self {
            sending: Sending { again, origin, site, deadline, context, bytes_in, .. },
            mut lease,
            error,
            returned,
        } = self;
        let exchange = lease.exchange.take().expect("a connection with an exchange");
        let is_silent = exchange.bytes_in() == bytes_in;
        let is_untouched = lease.wire.is_untouched();
        let again = again.filter(|again| is_silent && (is_untouched || again.is_idempotent));
        let (Some(again), Some(slot)) = (again, lease.let_go()) else {
            return Err(failed(&exchange, error, is_silent));
        };
        let fields = mem::take(&mut lease.fields);
        let wire = lease.wire.clone();
        // The socket is closed, and hyper has let go of the request body, when the driver has ended.
        let _ = lease.close().await;
        let is_idempotent = again.is_idempotent;
        let request = match returned {
            Some(request) => request.map(Upload::take),
            None if again.had_body => match wire.take_rest() {
                Some(rest) => again.request(&fields, rest.into()),
                None => return Err(failed(&exchange, error, is_silent)),
            },
            None => again.request(&fields, Upload::default()),
        };
        tracing::debug!(%origin, error = &error as &dyn Error, "the idle connection was closed: sending again");
        // It goes on with the same record: what was written once stays written.
        let exchange = Some(exchange);
        let call =
            Call { origin, request, exchange, site, deadline, context, is_idempotent, is_second: true };
        Ok((call, slot))
    }

    /// Whether it was the first try on a connection that had been used.
    pub(crate) fn may_go_again(&self) -> bool {
        self.sending.again.is_some()
    }

    /// The error for the caller.
    pub(crate) fn into_error(mut self) -> BoxError {
        let exchange = self.lease.exchange.take().expect("a connection with an exchange");
        failed(&exchange, self.error, exchange.bytes_in() == self.sending.bytes_in)
    }
}

fn failed(exchange: &Exchange, error: hyper::Error, is_silent: bool) -> BoxError {
    let kind = match Failure::of(&error).kind() {
        Kind::Closed if !is_silent => Kind::Truncated,
        _ if find::<HeadTooLarge>(&error).is_some() => Kind::TooLarge,
        Kind::Canceled | Kind::Other => Kind::Closed,
        kind => kind,
    };
    TransportError::new(kind, exchange).because(error).into()
}

// === HTTP/1.1 ===

/// As HTTP/1.1 wants it: origin-form (RFC 9112, 3.2.1), unless a proxy forwards it; `Host` (3.2), and no other version than 1.0 or 1.1.
fn prepare(request: &mut Request<Upload>, host: &HeaderValue, forwarding: Option<&Forwarding>) {
    if !request.headers().contains_key(HOST) {
        request.headers_mut().insert(HOST, host.clone());
    }
    // Where content is expected, it is said that there is none (RFC 9110, 8.6).
    let expects_content = [Method::POST, Method::PUT, Method::PATCH].contains(request.method());
    if expects_content && !request.body().has_body() {
        request.headers_mut().entry(CONTENT_LENGTH).or_insert(HeaderValue::from_static("0"));
    }
    if request.version() != Version::HTTP_10 {
        *request.version_mut() = Version::HTTP_11;
    }
    if let Some(forwarding) = forwarding.filter(|_| request.method() != Method::CONNECT) {
        forwarding.prepare(request);
    } else if request.uri().authority().is_some() {
        let parts = mem::take(request.uri_mut()).into_parts();
        *request.uri_mut() = match (request.method(), parts.authority) {
            (&Method::CONNECT, Some(authority)) => without_userinfo(&authority),
            _ => parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/")).into(),
        };
    }
}

/// Whether the connection persists after this response (RFC 9112, 9.3), and its framing leaves no doubt where that ends (6.3).
fn is_reusable(status: StatusCode, version: Version, headers: &HeaderMap) -> bool {
    let persists = match version {
        Version::HTTP_11 => !has_token(headers, "close"),
        _ => has_token(headers, "keep-alive"),
    };
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_ambiguous = codings.next().is_some_and(|coding| {
        let is_plain = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        !is_plain || codings.next().is_some() || headers.contains_key(CONTENT_LENGTH)
    });
    persists && !is_ambiguous && status != StatusCode::SWITCHING_PROTOCOLS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// hyper closes many of these by itself, so that no server could tell.
    #[test]
    fn a_connection_is_used_again_only_if_its_response_leaves_no_doubt() {
        let (ten, eleven) = (Version::HTTP_10, Version::HTTP_11);
        for (name, status, version, fields, reusable) in [
            ("plain", 200, eleven, &[("content-length", "5")][..], true),
            ("chunked", 200, eleven, &[("transfer-encoding", "Chunked")], true),
            ("keep-alive", 200, eleven, &[("connection", "keep-alive")], true),
            ("close", 200, eleven, &[("connection", "close")], false),
            ("close in a list", 200, eleven, &[("connection", "x-y , Close")], false),
            (
                "close in a second field",
                200,
                eleven,
                &[("connection", "x-y"), ("connection", "close")],
                false,
            ),
            ("no close", 200, eleven, &[("connection", "closed, not-close")], true),
            ("HTTP/1.0", 200, ten, &[], false),
            ("HTTP/1.0 keep-alive", 200, ten, &[("connection", "Keep-Alive")], true),
            ("switching protocols", 101, eleven, &[], false),
            ("two codings", 200, eleven, &[("transfer-encoding", "gzip, chunked")], false),
            ("chunked twice", 200, eleven, &[("transfer-encoding", "chunked, chunked")], false),
            (
                "chunked in two fields",
                200,
                eleven,
                &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                false,
            ),
            (
                "chunked and a length",
                200,
                eleven,
                &[("transfer-encoding", "chunked"), ("content-length", "5")],
                false,
            ),
        ] {
            let mut headers = HeaderMap::new();
            for &(name, value) in fields {
                headers.append(name, HeaderValue::from_static(value));
            }
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(is_reusable(status, version, &headers), reusable, "{name}");
        }
    }
}
