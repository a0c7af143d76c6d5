//! Reads the errors of hyper, hyper-util's legacy client and h2.

use std::error::Error;

use h2::Reason;

use crate::{
    failure::{Failure, of_io},
    words::{Delivery, Kind, Phase},
};

/// What `error` itself says, on top of what the errors around it said; `None` if it is none of the three.
pub(crate) fn read(error: &(dyn Error + 'static), outer: &Failure) -> Option<Failure> {
    if let Some(error) = error.downcast_ref() {
        Some(of_legacy(error, outer))
    } else if let Some(error) = error.downcast_ref() {
        Some(of_hyper(error, outer))
    } else {
        error.downcast_ref().map(|error| of_h2(error, outer))
    }
}

fn of_legacy(error: &hyper_util::client::legacy::Error, outer: &Failure) -> Failure {
    if error.is_connect() {
        Failure::new(outer.kind(), Phase::Connect, Delivery::NotSent)
    } else {
        outer.clone()
    }
}

fn of_hyper(error: &hyper::Error, outer: &Failure) -> Failure {
    let (kind, phase) = if error.is_incomplete_message() {
        (Kind::Closed, Some(Phase::Head))
    } else if error.is_parse_too_large() {
        (Kind::TooLarge, Some(Phase::Head))
    } else if error.is_parse() {
        (Kind::Protocol, Some(Phase::Head))
    } else if error.is_user() {
        (Kind::RequestBody, Some(Phase::Send))
    } else if error.is_timeout() {
        (Kind::Timeout, outer.phase())
    } else if error.is_canceled() {
        (Kind::Canceled, outer.phase())
    } else if error.is_closed() {
        (Kind::Closed, outer.phase())
    } else {
        (outer.kind(), outer.phase())
    };
    Failure::new(kind, phase, outer.delivery())
}

/// A stream that the peer refused, or that its GOAWAY left out, was not processed: RFC 9113, 8.7.
fn of_h2(error: &h2::Error, outer: &Failure) -> Failure {
    let remote = error.is_remote();
    let delivery = match error.reason() {
        Some(Reason::REFUSED_STREAM) if remote => Delivery::Refused,
        Some(Reason::NO_ERROR) if remote && error.is_go_away() => Delivery::Refused,
        _ => outer.delivery(),
    };
    let kind = match error.reason() {
        _ if error.is_io() => error.get_io().and_then(of_io).unwrap_or(outer.kind()),
        _ if error.is_reset() && remote => Kind::Reset,
        _ if error.is_go_away() && remote => Kind::Closed,
        Some(_) => Kind::Protocol,
        None => outer.kind(),
    };
    Failure::new(kind, outer.phase(), delivery)
}
