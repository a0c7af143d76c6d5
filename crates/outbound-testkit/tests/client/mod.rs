//! A client that sees what is on the wire.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io;

use outbound_testkit::Upstream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub(crate) const GET: &str = "GET /a?b HTTP/1.1\r\nhost: h\r\n\r\n";
pub(crate) const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

pub(crate) struct Client(pub(crate) TcpStream);

/// What came before the end, and whether the end was a FIN (else a reset).
#[derive(Debug, PartialEq)]
pub(crate) enum End {
    Fin(String),
    Reset(String),
}

impl Client {
    pub(crate) async fn of(upstream: &Upstream) -> Self {
        Client(TcpStream::connect(upstream.addr()).await.unwrap())
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads exactly as many bytes as are expected.
    pub(crate) async fn expect(&mut self, expected: &str) {
        let mut bytes = vec![0; expected.len()];
        self.0.read_exact(&mut bytes).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
    }

    pub(crate) async fn end(&mut self) -> End {
        let mut read = Vec::new();
        let mut scrap = [0; 4096];
        let fin = loop {
            match self.0.read(&mut scrap).await {
                Ok(0) => break true,
                Ok(n) => read.extend_from_slice(&scrap[..n]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break false,
                Err(error) => panic!("{error}"),
            }
        };
        let read = String::from_utf8(read).unwrap();
        if fin { End::Fin(read) } else { End::Reset(read) }
    }

    /// Whether there is nothing to read now.
    pub(crate) fn silent(&self) -> bool {
        matches!(self.0.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.0).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
}
