//! What an upstream has seen.

use std::{
    fmt,
    net::SocketAddr,
    ops::Deref,
    sync::{Arc, OnceLock},
};

use http::{HeaderMap, Method};

use crate::{Frame, board::Board};

/// Everything an upstream has seen so far, from its own side of the sockets.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Sightings {
    /// Every accepted socket, in order of acceptance.
    pub connections: Vec<Connection>,
    /// Every request whose head arrived in full, in that order.
    pub requests: Vec<Received>,
    /// Sockets open now.
    pub open: usize,
    /// The most sockets that were ever open at the same time.
    pub max_open: usize,
}

/// One accepted socket.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Connection {
    /// The client's address.
    pub peer: SocketAddr,
    /// Bytes read from the client, after decryption.
    pub bytes_in: u64,
    /// Request heads read from it.
    pub requests: usize,
    /// Bytes that belong to no request the script asked for.
    pub unparsed: Vec<u8>,
    /// The frames read from it, where a script speaks [`http2`](crate::Script::http2).
    pub frames: Vec<Frame>,
    /// How it ended; `None` while it is open.
    pub ended: Option<Ended>,
}

/// One request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Received {
    /// Index of its connection in [`Sightings::connections`].
    pub connection: usize,
    /// The method.
    pub method: Method,
    /// The request target as sent (HTTP/2: the whole URI).
    pub target: String,
    /// The header fields as sent.
    pub headers: HeaderMap,
    /// The body read so far, without its chunk framing.
    pub body: Vec<u8>,
    /// Head and body as they came over the wire; empty for [`Friendly`](crate::Friendly).
    pub raw: Vec<u8>,
    /// Whether the whole body has been read.
    pub complete: bool,
}

/// How a socket ended, told by who did it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ended {
    /// The client closed it in order.
    ByPeerFin,
    /// The client reset it; what a kernel also does when a client closes a socket with unread bytes.
    ByPeerReset,
    /// The server closed it in order.
    ByUsFin,
    /// The server reset it.
    ByUsReset,
    /// The TLS handshake failed.
    InHandshake,
    /// The upstream was stopped.
    Stopped,
}

/// The record that the tasks of one upstream write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(pub(crate) Arc<Board<Sightings>>);

/// One connection's page in the log.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    log: Log,
    number: usize,
    ended: Arc<OnceLock<Ended>>,
}

/// Keeps a connection open in the log: dropped after the socket, it writes down how that ended.
#[derive(Debug)]
pub(crate) struct Entry(Page);

// === Sightings ===

impl fmt::Display for Sightings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} accepted, {} open, {} at most", self.connections.len(), self.open, self.max_open)?;
        for (number, connection) in self.connections.iter().enumerate() {
            write!(f, "\n  connection {number}: {} bytes in, ", connection.bytes_in)?;
            match connection.ended {
                Some(ended) => write!(f, "ended {ended:?}")?,
                None => write!(f, "open")?,
            }
            if !connection.unparsed.is_empty() {
                write!(f, ", {} bytes unparsed", connection.unparsed.len())?;
            }
            for request in self.requests.iter().filter(|request| request.connection == number) {
                let whole = if request.complete { "whole" } else { "unfinished" };
                let (method, target, body) = (&request.method, &request.target, request.body.len());
                write!(f, "\n    {method} {target}, {body} bytes of body, {whole}")?;
            }
        }
        Ok(())
    }
}

// === Ended ===

impl Ended {
    /// Whether the client ended it, either way.
    pub fn by_peer(self) -> bool {
        matches!(self, Ended::ByPeerFin | Ended::ByPeerReset)
    }

    /// Whether the script ended it, either way.
    pub fn by_us(self) -> bool {
        matches!(self, Ended::ByUsFin | Ended::ByUsReset)
    }
}

// === Log ===

impl Log {
    pub(crate) fn accepted(&self, peer: SocketAddr) -> Entry {
        let number = self.0.write(|seen| {
            seen.connections.push(Connection {
                peer,
                bytes_in: 0,
                requests: 0,
                unparsed: Vec::new(),
                frames: Vec::new(),
                ended: None,
            });
            seen.open += 1;
            seen.max_open = seen.max_open.max(seen.open);
            seen.connections.len() - 1
        });
        Entry(Page { log: self.clone(), number, ended: Arc::default() })
    }
}

// === Page ===

impl Page {
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    pub(crate) fn connection(&self, change: impl FnOnce(&mut Connection)) {
        self.log.0.write(|seen| change(&mut seen.connections[self.number]));
    }

    /// Enters a request; returns its index.
    pub(crate) fn request(&self, request: Received) -> usize {
        self.log.0.write(|seen| {
            seen.connections[self.number].requests += 1;
            seen.requests.push(request);
            seen.requests.len() - 1
        })
    }

    pub(crate) fn update(&self, request: usize, change: impl FnOnce(&mut Received)) {
        self.log.0.write(|seen| change(&mut seen.requests[request]));
    }

    /// The first to say how it ended is believed.
    pub(crate) fn ended(&self, how: Ended) {
        let _ = self.ended.set(how);
    }
}

// === Entry ===

impl Deref for Entry {
    type Target = Page;

    fn deref(&self) -> &Page {
        &self.0
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let ended = self.ended.get().copied().unwrap_or(Ended::Stopped);
        self.log.0.write(|seen| {
            seen.open -= 1;
            seen.connections[self.number].ended = Some(ended);
        });
    }
}
