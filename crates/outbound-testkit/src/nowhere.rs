//! Addresses at which nobody answers.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// An address that swallows every SYN: a listener that never accepts, with a full backlog.
///
/// Connecting to it neither succeeds nor fails. Linux drops the SYN of a connection for which there is no room; other
/// kernels may refuse it.
#[derive(Debug)]
pub struct BlackHole {
    addr: SocketAddr,
    _listener: Socket,
    _backlog: Vec<Socket>,
}

/// An address that refuses connections, reserved until this is dropped.
#[derive(Debug)]
pub struct Refusal {
    addr: SocketAddr,
    _bound: Socket,
}

// === BlackHole ===

impl BlackHole {
    /// Opens one on a free loopback port.
    ///
    /// # Panics
    ///
    /// When no port is free.
    #[expect(clippy::new_without_default, reason = "it opens sockets")]
    pub fn new() -> Self {
        let (listener, addr) = bound();
        listener.listen(0).expect("a bound socket listens");
        // One connection fits into a backlog of 0; the others wait for room, as everybody who comes later does.
        let backlog = (0..3)
            .map(|_| {
                let socket = socket();
                socket.set_nonblocking(true).expect("a socket can be made non-blocking");
                let _ = socket.connect(&addr.into());
                socket
            })
            .collect();
        BlackHole { addr, _listener: listener, _backlog: backlog }
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

// === Refusal ===

impl Refusal {
    /// Reserves a free loopback port.
    ///
    /// # Panics
    ///
    /// When no port is free.
    #[expect(clippy::new_without_default, reason = "it opens a socket")]
    pub fn new() -> Self {
        let (bound, addr) = bound();
        Refusal { addr, _bound: bound }
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

fn bound() -> (Socket, SocketAddr) {
    let socket = socket();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).expect("a free loopback port");
    let addr = socket.local_addr().ok().and_then(|addr| addr.as_socket());
    (socket, addr.expect("a bound socket has an address"))
}

fn socket() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket")
}
