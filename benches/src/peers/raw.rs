//! hyper and nothing else: a connection each over HTTP/1.1, one for all over HTTP/2.

use bytes::Bytes;
use http::{HeaderValue, Uri, header::HOST};
use http_body_util::Full;
use hyper::{
    client::conn::{http1, http2},
    rt::{Read, Write},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{Visit, Worker, service::read};
use crate::work::{Http, Order};

pub(super) async fn accept<V: Visit>(order: &Order, visit: V) -> V::Output {
    match order.http {
        Http::H1 => visit.visit(async || Http1::connect(order).await).await,
        Http::H2 => {
            let io = connect(order).await;
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.expect("no I/O yet");
            tokio::spawn(connection);
            visit.visit(async || Http2 { sender: sender.clone(), order: order.clone() }).await
        }
    }
}

/// A connection of its own.
pub(crate) struct Http1 {
    sender: http1::SendRequest<Full<Bytes>>,
    path: Uri,
    host: HeaderValue,
    order: Order,
}

struct Http2 {
    sender: http2::SendRequest<Full<Bytes>>,
    order: Order,
}

async fn connect(order: &Order) -> TokioIo<TcpStream> {
    let socket = TcpStream::connect(order.server).await.expect("the server listens");
    socket.set_nodelay(true).expect("TCP");
    TokioIo::new(socket)
}

// === Http1 ===

impl Http1 {
    async fn connect(order: &Order) -> Self {
        Self::new(connect(order).await, order).await
    }

    /// Over something else than a socket.
    pub(crate) async fn over<Io>(io: Io, order: &Order) -> Self
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Self::new(TokioIo::new(io), order).await
    }

    async fn new(io: impl Read + Write + Unpin + Send + 'static, order: &Order) -> Self {
        let (sender, connection) = http1::handshake(io).await.expect("no I/O yet");
        tokio::spawn(connection);
        let host = order.server.to_string().parse().expect("a valid value");
        let path = order.uri.path().parse().expect("a valid path");
        Self { sender, path, host, order: order.clone() }
    }
}

impl Worker for Http1 {
    async fn exchange(&mut self) {
        self.sender.ready().await.expect("it is kept alive");
        let mut request = self.order.request();
        *request.uri_mut() = self.path.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        read(self.sender.send_request(request).await.expect("an answer"), self.order.answer).await;
    }
}

// === Http2 ===

impl Worker for Http2 {
    async fn exchange(&mut self) {
        self.sender.ready().await.expect("it is kept alive");
        let request = self.order.request();
        read(self.sender.send_request(request).await.expect("an answer"), self.order.answer).await;
    }
}
