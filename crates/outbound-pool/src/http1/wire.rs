//! What passes over one connection, counted where it passes: below hyper, above the socket.

use std::{
    error::Error,
    fmt, io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use outbound_core::{Exchange, Phase};

use crate::{metered::Meter, upload::Rest};

/// The exchange that a connection carries now, as its socket, its request body and its owner see it.
#[derive(Debug)]
pub(crate) struct Wire {
    current: Mutex<Current>,
    /// Bytes that a response head may have.
    max_head: usize,
}

#[derive(Debug, Default)]
struct Current {
    exchange: Option<Exchange>,
    /// There is a request body, and hyper has not let go of it.
    uploading: bool,
    /// `Exchange::bytes_out` when this connection took it.
    base: u64,
    /// The request body, given back in a state in which it can be sent again.
    rest: Option<Rest>,
    /// `Exchange::bytes_in` at which a response head that is not complete is too large.
    enough: u64,
}

/// The response head, the interim responses (1xx; RFC 9110, 15.2) before it included, is larger than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadTooLarge {
    /// Bytes that are allowed.
    pub limit: usize,
}

// === Wire ===

impl Wire {
    pub(crate) fn new(max_head: usize) -> Self {
        Self { current: Mutex::default(), max_head }
    }

    /// Bytes that a response head may have.
    pub(crate) fn max_head(&self) -> usize {
        self.max_head
    }

    /// This connection carries `exchange` from now on.
    pub(crate) fn begin(&self, exchange: Exchange, has_body: bool) {
        let base = exchange.bytes_out();
        let enough = exchange.bytes_in().saturating_add(self.max_head as u64);
        *self.lock() = Current { exchange: Some(exchange), uploading: has_body, base, rest: None, enough };
    }

    /// It carries none any more. Returned is whether hyper has had all of the request body that it wants.
    pub(crate) fn end(&self) -> bool {
        let ended = std::mem::take(&mut *self.lock());
        !ended.uploading
    }

    /// Whether hyper has all of the request body that it wants.
    pub(crate) fn is_uploaded(&self) -> bool {
        !self.lock().uploading
    }

    /// Whether not a byte of the present request has been written to this connection.
    pub(crate) fn is_untouched(&self) -> bool {
        self.lock().is_untouched()
    }

    /// The request body has been asked for more, and had some or not: what it does not give the peer cannot take.
    pub(crate) fn fed(&self, fed: bool) {
        if let Some(exchange) = &self.lock().exchange {
            if fed { exchange.fed() } else { exchange.starved() }
        }
    }

    /// The request body is at its end.
    pub(crate) fn uploaded(&self) {
        self.lock().uploading = false;
    }

    /// hyper has let go of the request body: at its announced length, which may be before it says that it is over, or with its
    /// connection. `rest` is what can be sent again.
    pub(crate) fn cut_off(&self, rest: Option<Rest>) {
        let mut current = self.lock();
        current.uploading = false;
        let replaced = std::mem::replace(&mut current.rest, rest);
        drop(current);
        drop(replaced);
    }

    /// The request body that was given back.
    pub(crate) fn take_rest(&self) -> Option<Rest> {
        self.lock().rest.take()
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Meter for Wire {
    fn wrote(&self, bytes: usize, all: bool) {
        let current = self.lock();
        if let Some(exchange) = &current.exchange {
            // The end of a request is flushed next, and that is when the clock is read.
            if all && !current.uploading { exchange.carried(bytes) } else { exchange.wrote(bytes) }
        }
    }

    /// hyper takes any number of interim responses, without ever turning back to the runtime when they come fast enough; so this is where
    /// that ends. (It may read the whole of a response before the caller has seen its head: only what comes on top is too much here.)
    fn read(&self, bytes: usize) -> io::Result<()> {
        let current = self.lock();
        let Some(exchange) = &current.exchange else { return Ok(()) };
        if bytes > 0 && exchange.bytes_in() >= current.enough && exchange.phase() < Phase::Body {
            return Err(io::Error::other(HeadTooLarge { limit: self.max_head }));
        }
        exchange.read(bytes);
        Ok(())
    }

    /// All that hyper had to write is written: if that was the end of the request, the wait for the response begins.
    fn flushed(&self) {
        let current = self.lock();
        if let Some(exchange) = &current.exchange
            && !current.uploading
            && !current.is_untouched()
        {
            exchange.sent();
        }
    }
}

impl Current {
    fn is_untouched(&self) -> bool {
        self.exchange.as_ref().is_none_or(|exchange| exchange.bytes_out() == self.base)
    }
}

// === HeadTooLarge ===

impl fmt::Display for HeadTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the head of the response, interim responses included, exceeds {} bytes", self.limit)
    }
}

impl Error for HeadTooLarge {}
