//! Reads the errors of hyper, hyper-util's legacy client and h2.

use std::{
    error::Error,
    io,
    ops::ControlFlow::{self, Break, Continue},
};

use h2::Reason;
use hyper_util::client::legacy;

use crate::{
    error::chain,
    failure::{Failure, of_io},
    transport::TransportError,
    words::{Delivery, Kind, Phase},
};

/// What `error` itself says, on top of what the errors around it said; `None` if it is none of the three.
///
/// `Break` if what caused it says nothing about this call any more.
pub(crate) fn read(error: &(dyn Error + 'static), outer: &Failure) -> Option<ControlFlow<Failure, Failure>> {
    if let Some(error) = error.downcast_ref() {
        Some(of_legacy(error, outer))
    } else if let Some(error) = error.downcast_ref() {
        Some(of_hyper(error, outer))
    } else {
        error.downcast_ref().map(|error| Break(of_h2(error, outer)))
    }
}

/// Whether it was the request's own body that failed, so that what is in the chain below is another call's failure.
pub(crate) fn is_of_request_body(error: &(dyn Error + 'static)) -> bool {
    chain(error)
        .take_while(|error| !error.is::<TransportError>())
        .filter_map(|error| error.downcast_ref::<hyper::Error>())
        .any(|error| is(error, "User(Body)"))
}

fn of_legacy(error: &legacy::Error, outer: &Failure) -> ControlFlow<Failure, Failure> {
    if error.is_connect() {
        // The one trace that the type of hyper-util's connector, which is private, leaves of its resolver.
        let is_dns = chain(error).any(|cause| cause.to_string() == "dns error");
        let (kind, phase) =
            if is_dns { (Kind::Resolve, Phase::Resolve) } else { (outer.kind(), Phase::Connect) };
        Continue(Failure::new(kind, phase, Delivery::NotSent))
    } else if error.source().is_none() {
        // No absolute URI, or a method or version that it cannot send: found before anything was done.
        Break(Failure::new(Kind::Invalid, outer.phase(), Delivery::NotSent))
    } else {
        Continue(outer.clone())
    }
}

fn of_hyper(error: &hyper::Error, outer: &Failure) -> ControlFlow<Failure, Failure> {
    let failure = |kind, phase| Failure::new(kind, outer.phase().or(phase), outer.delivery());
    let not_sent = |kind| Failure::new(kind, outer.phase(), Delivery::NotSent);
    if error.is_incomplete_message() {
        Break(failure(Kind::Closed, Some(Phase::Head)))
    } else if error.is_parse_too_large() {
        Break(failure(Kind::TooLarge, Some(Phase::Head)))
    } else if error.is_parse() {
        Break(failure(Kind::Protocol, Some(Phase::Head)))
    } else if error.is_timeout() {
        Break(failure(Kind::Timeout, None))
    } else if error.is_closed()
        || (error.is_canceled() && !is_because(error, "upgrade expected but not completed"))
    {
        // The connection had ended when the request was about to be handed to it, or was still waiting to be begun.
        Break(not_sent(Kind::Closed))
    } else if is(error, "User(DispatchGone)") && !is_because(error, "user code panicked") {
        // The connection's task was dropped with the request on its way. Another connection would do.
        Break(failure(Kind::Closed, None))
    } else if error.is_user() {
        Break(failure(Kind::RequestBody, Some(Phase::Send)))
    } else if is(error, "Body") {
        let delivery = match outer.delivery() {
            Delivery::Maybe => Delivery::Answered,
            delivery => delivery,
        };
        Continue(Failure::new(Kind::Truncated, outer.phase().or(Some(Phase::Body)), delivery))
    } else if is(error, "BodyWrite") {
        Continue(failure(outer.kind(), Some(Phase::Send)))
    } else if is(error, "UnexpectedMessage") {
        Break(failure(Kind::Protocol, None))
    } else if error.source().and_then(|cause| cause.downcast_ref()).is_some_and(is_end) {
        Break(failure(Kind::Closed, None))
    } else {
        Continue(outer.clone())
    }
}

/// A stream that the peer refused, or that its orderly GOAWAY left out, was not processed: RFC 9113, 6.8 and 8.7.
///
/// A GOAWAY with an error code is not taken as such a word: it may be the answer to the connection's first request, which Go does
/// not send again either, and the error does not tell which request this was.
fn of_h2(error: &h2::Error, outer: &Failure) -> Failure {
    let by_peer = error.is_remote();
    let refused = match error.reason() {
        Some(Reason::REFUSED_STREAM) => by_peer && error.is_reset(),
        Some(Reason::NO_ERROR) => by_peer && error.is_go_away(),
        _ => false,
    };
    let (kind, phase) = if let Some(error) = error.get_io() {
        let kind = match outer.phase() {
            Some(Phase::Body) if is_end(error) => Some(Kind::Truncated),
            _ if is_end(error) => Some(Kind::Closed),
            _ => of_io(error),
        };
        (kind.unwrap_or(outer.kind()), outer.phase())
    } else if by_peer {
        (if error.is_reset() { Kind::Reset } else { Kind::Closed }, outer.phase())
    } else if error.is_reset() && !error.is_library() {
        // What hyper does to the stream when the request's body has failed.
        (Kind::RequestBody, outer.phase().or(Some(Phase::Send)))
    } else {
        // Without a reason it was the request that h2 could not send.
        (error.reason().map_or(Kind::Invalid, |_| Kind::Protocol), outer.phase())
    };
    let delivery = match outer.delivery() {
        Delivery::Maybe if refused => Delivery::Refused,
        delivery => delivery,
    };
    Failure::new(kind, phase, delivery)
}

/// Whether the peer closed its side: TLS, or h2, which says so of a stream with a broken pipe of its own making.
fn is_end(error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => true,
        io::ErrorKind::BrokenPipe => error.get_ref().is_some(),
        _ => false,
    }
}

/// Whether `error` is of `sort`: hyper tells some of its sorts apart in `Debug` only, as in `hyper::Error(Body, …)`.
///
/// Should it ever print another name, that sort is one of which nothing is known.
fn is(error: &hyper::Error, sort: &str) -> bool {
    let debug = format!("{error:?}");
    let rest = debug.strip_prefix("hyper::Error(").and_then(|rest| rest.strip_prefix(sort));
    rest.is_some_and(|rest| rest.starts_with([',', ')']))
}

/// Whether hyper gives this as the reason.
fn is_because(error: &hyper::Error, reason: &str) -> bool {
    error.source().is_some_and(|cause| cause.to_string() == reason)
}
