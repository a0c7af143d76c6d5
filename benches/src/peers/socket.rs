//! No client at all.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Worker;
use crate::work::{Http, Order};

/// Writes a request and reads as many bytes as its answer has.
pub(super) struct Socket {
    socket: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
    /// The head is as long as its server makes it.
    answer: usize,
}

impl Socket {
    pub(super) async fn connect(order: &Order) -> Self {
        assert_eq!(order.http, Http::H1, "a loop speaks no HTTP/2");
        let socket = TcpStream::connect(order.server).await.expect("the server listens");
        socket.set_nodelay(true).expect("TCP");
        let request = format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", order.uri.path(), order.server);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", order.answer).len();
        let buffer = vec![0; 64 * 1024];
        Self { socket, request: request.into_bytes(), buffer, answer: head + order.answer }
    }
}

impl Worker for Socket {
    async fn exchange(&mut self) {
        self.socket.write_all(&self.request).await.expect("the server reads");
        let mut left = self.answer;
        while left > 0 {
            let read = self.socket.read(&mut self.buffer).await.expect("an answer");
            assert!((1..=left).contains(&read), "bytes of the answer");
            left -= read;
        }
    }
}
