//! A request on its way through the pool.

use std::mem;

use http::{
    Extensions, HeaderMap, Method, Request, Uri,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE},
    uri::Authority,
};
use outbound_core::{BoxError, CallSite, Carried, Deadline, Exchange, Message, Origin};

use crate::{slots::Ticket, upload::Upload};

/// A request on its way through the pool: boxed once, so that futures are small, in all the layers above too.
pub(crate) struct Call {
    pub(crate) origin: Origin,
    /// Once it has been sent, what of it is kept for a second try.
    pub(crate) request: Request<Upload>,
    /// Somebody watches the exchange; else it gets a record when it has a connection.
    pub(crate) exchange: Option<Exchange>,
    pub(crate) site: Option<CallSite>,
    pub(crate) deadline: Deadline,
    /// The request's extensions, to become those of the response.
    pub(crate) context: Extensions,
    pub(crate) is_idempotent: bool,
    /// Its place in the queue, once it has asked for a connection.
    pub(crate) ticket: Option<Ticket>,
    /// How often it has been sent in vain.
    pub(crate) sent: u8,
}

// === Call ===

impl Call {
    pub(crate) fn new<B>(origin: Origin, request: Request<B>) -> Box<Self>
    where
        B: http_body::Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let carried = Carried::of(&request);
        let exchange = carried.and_then(|carried| carried.exchange.clone());
        let site = carried.and_then(|carried| carried.call_site);
        let deadline = carried.and_then(|carried| carried.deadline).unwrap_or_default();
        let is_idempotent =
            request.method().is_idempotent() || carried.is_some_and(|carried| carried.idempotent);
        if let Some(exchange) = &exchange {
            exchange.aim(origin.clone(), &request);
        }
        let mut request = request.map(Upload::new);
        // What outbound's layers put there is all that most requests carry, and the response wants it back. Where there is more,
        // hyper may be meant.
        let context = match &exchange {
            Some(_) if request.extensions().len() == 1 => mem::take(request.extensions_mut()),
            _ => Extensions::new(),
        };
        Box::new(Self {
            origin,
            request,
            exchange,
            site,
            deadline,
            context,
            is_idempotent,
            ticket: None,
            sent: 0,
        })
    }

    /// Whether it asks for the connection itself: with HTTP/1.1 one can be had (RFC 9110, 7.8 and 9.3.6).
    pub(crate) fn is_upgrade(&self) -> bool {
        self.request.method() == Method::CONNECT || self.request.headers().contains_key(UPGRADE)
    }

    /// The record of the exchange, made now if there was none.
    pub(crate) fn exchange(&mut self) -> &Exchange {
        self.exchange.get_or_insert_with(|| {
            let exchange = Exchange::new();
            exchange.aim(self.origin.clone(), &self.request);
            exchange
        })
    }

    /// What a request has, its response has too. What the connection has put there stays.
    pub(crate) fn carry_over(self, response: &mut impl Message, exchange: &Exchange, tracked: bool) {
        if !self.context.is_empty() {
            response.extensions_mut().extend(self.context);
        } else if tracked {
            let carried = Carried::on(response);
            (carried.exchange, carried.attempt) = (Some(exchange.clone()), exchange.attempt());
        }
    }
}

pub(crate) fn without_userinfo(authority: &Authority) -> Uri {
    let whole = authority.as_str();
    let bare = whole.rsplit_once('@').map_or(whole, |(_, bare)| bare);
    bare.parse().unwrap_or_default()
}

/// The length that frames the content, where that is what does (RFC 9112, 6.3).
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(CONTENT_LENGTH).filter(|_| !headers.contains_key(TRANSFER_ENCODING))?;
    length.to_str().ok()?.parse().ok()
}
