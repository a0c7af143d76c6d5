//! One exchange on an HTTP/2 connection, up to the head of its response.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{
    Reason,
    client::{ResponseFuture, SendRequest},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE},
    uri::{Authority, PathAndQuery, Scheme},
};
use outbound_core::{
    BoxError, Delivery, Elapsed, Exchange, Failure, InvalidRequest, Kind, Phase, TransportError,
};

use super::{
    body::Body,
    connection::{Http2, Order},
    pump::{Pump, Stopped},
};
use crate::{
    connection::{Connection, Lease},
    http1::HeadTooLarge,
    request::{Call, content_length, without_userinfo},
    upload::{Keep, Upload},
};

/// The exchange: sends, and waits for the head.
pub(crate) struct Streaming {
    /// Until the exchange is over; declared before the stream's lease would be dropped.
    sent: Option<Sent>,
    stream: Option<Stream>,
    sender: SendRequest<Bytes>,
    /// The request, or its head when its body has gone out.
    call: Option<Box<Call>>,
    /// Its record.
    exchange: Exchange,
    /// Somebody watches the exchange.
    tracked: bool,
    /// The connection had carried an exchange before, or been idle.
    was_used: bool,
    /// Turns of the runtime to wait for what the socket has to say.
    turns: u8,
}

/// What is under way.
struct Sent {
    response: ResponseFuture,
    pump: Option<Pump>,
    /// What had been read from the connection when it was sent.
    bytes_in: u64,
    /// Bytes of interim responses.
    interim: usize,
}

/// A stream's part in its connection. Dropped, it is given back.
pub(crate) struct Stream {
    /// What of the stream still lives, to be dropped first.
    pub(super) rest: Option<Box<dyn Send>>,
    lease: Option<Lease>,
    handle: Arc<Http2>,
}

/// The exchange failed.
pub(crate) enum Failed {
    /// The peer has not processed the request, or may process it twice: it can be sent again without asking anybody.
    Again(Box<Call>),
    For(BoxError),
}

// === Stream ===

impl Stream {
    fn new(lease: Lease) -> Self {
        let Connection::Http2(handle) = &*lease else { unreachable!("a stream is of an HTTP/2 connection") };
        handle.active.fetch_add(1, Relaxed);
        Self { rest: None, handle: handle.clone(), lease: Some(lease) }
    }

    pub(super) fn handle(&self) -> &Http2 {
        &self.handle
    }

    /// The exchange is over, and its stream with it.
    pub(super) fn release(mut self) {
        if let Some(lease) = self.lease.take() {
            lease.release();
        }
    }

    /// The exchange is given up: `rest`, whose drop resets the stream, is dropped at once, or later if there have been too many.
    pub(super) fn abandon(mut self, rest: impl Send + 'static) {
        if self.handle.may_reset() {
            drop(rest);
        } else {
            self.rest = Some(Box::new(rest));
            let handle = self.handle.clone();
            handle.order(Order::Reset(self));
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        drop(self.rest.take());
        self.handle.active.fetch_sub(1, Relaxed);
    }
}

// === Streaming ===

impl Streaming {
    pub(crate) fn new(lease: Lease, mut call: Box<Call>) -> Self {
        let idle_since = lease.idle_since();
        let stream = Stream::new(lease);
        let tracked = call.exchange.is_some();
        let exchange = call.exchange().clone();
        let info = stream.handle.info(idle_since);
        let was_used = info.is_reused() || idle_since.is_some();
        exchange.connected(info);
        exchange.enter(Phase::Send);
        // What an idle socket has to say may be that it is closed: its driver is given the turn to find out.
        let turns = if idle_since.is_some() && stream.handle.has_news() { TURNS } else { 0 };
        let sender = stream.handle.sender();
        Self {
            sent: None,
            stream: Some(stream),
            sender,
            call: Some(call),
            exchange,
            tracked,
            was_used,
            turns,
        }
    }

    /// Hands the request to h2; its head is kept for a second try.
    fn send(&mut self) -> Result<(), Failed> {
        let (Some(call), Some(stream)) = (&mut self.call, &self.stream) else { unreachable!("sent once") };
        if let Err(error) = prepare(&mut call.request) {
            return Err(Failed::For(
                TransportError::new(Kind::Invalid, &self.exchange).because(error).into(),
            ));
        }
        // Without a body, but with a length, it has one that is too short.
        let length = content_length(call.request.headers());
        call.request.body_mut().announce(Keep::Small, length);
        let has_body = call.request.body().has_body();
        let mut head = Request::new(());
        *head.method_mut() = call.request.method().clone();
        *head.uri_mut() = call.request.uri().clone();
        *head.version_mut() = Version::HTTP_2;
        *head.headers_mut() = call.request.headers().clone();
        let size = head_size(head.headers()) + head.uri().to_string().len() + head.method().as_str().len();
        let bytes_in = stream.handle.traffic.bytes_in();
        let (response, sending) = match self.sender.send_request(head, !has_body) {
            Ok(sent) => sent,
            Err(error) => return Err(self.failed(error, None)),
        };
        self.exchange.wrote(size);
        let pump = has_body
            .then(|| Pump::new(sending, std::mem::take(call.request.body_mut()), self.exchange.clone()));
        if pump.is_none() {
            self.exchange.enter(Phase::Head);
        }
        self.sent = Some(Sent { response, pump, bytes_in, interim: 0 });
        Ok(())
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Body>, Failed>> {
        let Self { sent: Some(sent), exchange, .. } = self else { unreachable!("polled after it was sent") };
        if let Some(pump) = sent.pump.as_mut().filter(|pump| !pump.is_over()) {
            match pump.poll(cx) {
                Poll::Ready(Ok(())) => {
                    // Kept until the head has arrived: it may have to start again.
                    exchange.enter(Phase::Head);
                }
                Poll::Ready(Err(Stopped::Body(error))) => {
                    let failed = TransportError::new(Kind::RequestBody, &*exchange).because(error);
                    return Poll::Ready(Err(Failed::For(failed.into())));
                }
                Poll::Ready(Err(Stopped::Stream)) | Poll::Pending => {}
            }
        }
        let limit = head_limit(&self.stream);
        let too_large = |exchange: &Exchange| {
            let error = TransportError::new(Kind::TooLarge, exchange).because(HeadTooLarge { limit });
            Poll::Ready(Err(Failed::For(error.into())))
        };
        while let Poll::Ready(Some(Ok(interim))) = sent.response.poll_informational(cx) {
            sent.interim += head_size(interim.headers()) + STATUS;
            if sent.interim > limit {
                return too_large(exchange);
            }
        }
        let head = match ready!(Pin::new(&mut sent.response).poll(cx)) {
            Ok(head) if sent.interim + head_size(head.headers()) > limit => return too_large(exchange),
            Ok(head) => head,
            Err(error) => {
                let sent = self.sent.take();
                return Poll::Ready(Err(self.failed(error, sent)));
            }
        };
        Poll::Ready(Ok(self.answered(head)))
    }

    fn answered(&mut self, head: Response<h2::RecvStream>) -> Response<Body> {
        let (mut parts, incoming) = head.into_parts();
        let (sent, stream, call) = (self.sent.take(), self.stream.take(), self.call.take());
        self.exchange.read(head_size(&parts.headers) + STATUS);
        self.exchange.enter(Phase::Body);
        if let Some(call) = call {
            call.carry_over(&mut parts, &self.exchange, self.tracked);
        }
        let stream = stream.expect("an exchange has a stream");
        stream.handle.heard();
        let pump = sent.and_then(|sent| sent.pump).filter(|pump| !pump.is_over());
        let length = content_length(&parts.headers);
        let body = Body::new(incoming, pump, stream, self.exchange.clone(), length);
        Response::from_parts(parts, body)
    }

    /// It has failed. What the peer, or the connection, has not ended is reset, no faster than what a caller gives up.
    fn give_up(&mut self) {
        if let (Some(stream), Some(sent)) = (self.stream.take(), self.sent.take()) {
            stream.abandon(sent);
        }
    }

    /// Whether the request is to be sent again, and what failed if not.
    fn failed(&mut self, error: h2::Error, sent: Option<Sent>) -> Failed {
        let (stream, exchange) = (self.stream.as_ref().expect("an exchange has a stream"), &self.exchange);
        let was_sent = sent.is_some();
        let is_silent = sent.as_ref().is_none_or(|sent| sent.interim == 0);
        let is_first = sent.as_ref().is_some_and(|sent| sent.response.stream_id().as_u32() == FIRST);
        // h2 says so of none but the streams above the last that the peer names: these it has not processed (RFC 9113, 6.8). With an error
        // it may be the answer to the connection's first request all the same, as Go takes it too.
        let is_turned_away = error.is_go_away()
            && error.is_remote()
            && (!is_first || error.reason() == Some(Reason::NO_ERROR));
        let is_refused = is_turned_away || Failure::of(&error).delivery() == Delivery::Refused;
        if is_refused && error.is_reset() {
            stream.handle().refused();
        }
        // A GOAWAY is about its connection alone, and the next one may be just as close to its end.
        let tries = if is_turned_away { TURNED_AWAY } else { 1 };
        let call = self.call.take().filter(|call| call.sent < tries);
        // Who did not answer a ping has been waited for long enough.
        let is_lost = (error.is_io() || error.is_go_away()) && !stream.handle().silent.load(Relaxed);
        let may_go_again = |call: &Call| {
            !was_sent || is_refused || (self.was_used && is_silent && is_lost && call.is_idempotent)
        };
        if let Some(mut call) = call.filter(|call| may_go_again(call)) {
            let body = match sent {
                Some(Sent { pump: Some(pump), .. }) => pump.into_upload(),
                Some(_) => Some(Upload::default()),
                None => Some(std::mem::take(call.request.body_mut())),
            };
            if let Some(body) = body {
                tracing::debug!(origin = %call.origin, %error, "the request was not processed: sending again");
                *call.request.body_mut() = body;
                call.exchange = Some(exchange.clone());
                call.sent += 1;
                return Failed::Again(call);
            }
        }
        if is_refused {
            exchange.refused();
        }
        Failed::For(told(exchange, stream.handle(), error))
    }
}

/// The error for the caller.
pub(super) fn told(exchange: &Exchange, handle: &Http2, error: h2::Error) -> BoxError {
    if handle.silent.load(Relaxed) {
        let elapsed = Elapsed::new(exchange.phase(), handle.ping_timeout).named("ping");
        return TransportError::new(Kind::Timeout, exchange).because(elapsed).into();
    }
    let kind = match (Failure::of(&error).kind(), exchange.phase()) {
        (Kind::Canceled | Kind::Other, _) => Kind::Closed,
        // Without END_STREAM it is no end, whatever the peer calls it (RFC 9113, 8.1).
        (Kind::Reset, Phase::Body) if error.reason() == Some(Reason::NO_ERROR) => Kind::Truncated,
        (Kind::Closed, Phase::Body) => Kind::Truncated,
        (kind, _) => kind,
    };
    TransportError::new(kind, exchange).because(error).into()
}

impl Future for Streaming {
    type Output = Result<Response<Body>, Failed>;

    /// Must not be polled again after it has ended.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.turns > 0 {
            this.turns -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.sent.is_none() {
            let sent = match ready!(this.sender.poll_ready(cx)) {
                Ok(()) => this.send(),
                Err(error) => Err(this.failed(error, None)),
            };
            if let Err(failed) = sent {
                this.stream = None;
                return Poll::Ready(Err(failed));
            }
        }
        let polled = this.poll_sent(cx);
        if let Poll::Ready(Err(_)) = polled {
            this.give_up();
        }
        polled
    }
}

impl Drop for Streaming {
    /// Given up before the head: that one stream is reset.
    fn drop(&mut self) {
        let (Some(sent), Some(stream)) = (self.sent.take(), self.stream.take()) else { return };
        stream.handle.doubt(sent.bytes_in);
        stream.abandon(sent);
    }
}

impl fmt::Debug for Streaming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streaming").finish_non_exhaustive()
    }
}

fn head_limit(stream: &Option<Stream>) -> usize {
    stream.as_ref().map_or(usize::MAX, |stream| stream.handle.max_head)
}

/// Header fields as they count against a limit: names and values, before they are compressed.
pub(super) fn head_size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

// === HTTP/2 ===

/// As HTTP/2 wants it: no field that is about the connection (RFC 9113, 8.2.2), and the authority in its place (8.3.1).
fn prepare(request: &mut Request<Upload>) -> Result<(), InvalidRequest> {
    if request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE) {
        return Err(InvalidRequest::new(
            "an upgrade takes a connection of its own, over HTTP/1.1: this one speaks HTTP/2",
        ));
    }
    let length =
        (!request.body().has_body()).then_some(0).or(http_body::Body::size_hint(request.body()).exact());
    let expects_content = [Method::POST, Method::PUT, Method::PATCH].contains(request.method());
    let headers = request.headers_mut();
    if headers.contains_key(CONNECTION) {
        let listed: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in listed {
            headers.remove(name);
        }
    }
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
    if headers.get_all(TE).iter().any(|te| te != "trailers") {
        headers.remove(TE);
    }
    if let Some(length) = length.filter(|&length| length > 0 || expects_content) {
        headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    let host = headers.remove(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let bare = parts.authority.and_then(|authority| without_userinfo(&authority).into_parts().authority);
    parts.authority = host.or(bare);
    parts.scheme = parts.scheme.or(Some(Scheme::HTTP));
    parts.path_and_query = parts.path_and_query.or(Some(PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| InvalidRequest::new("the URI has no host"))?;
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

const STATUS: usize = 10;
/// The stream of a connection's first request (RFC 9113, 5.1.1).
const FIRST: u32 = 1;
/// Go sends a request up to seven times again, but waits before all but the first.
const TURNED_AWAY: u8 = 3;
const TURNS: u8 = 3;
