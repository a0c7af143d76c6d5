//! The server, which does as little as it can.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use clap::ValueEnum;
use http::Response;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::work::{Http, Work};

/// Listens on a free port of this machine and says which; [`Listening::serve`] answers.
pub(crate) async fn listen(http: Http, delay: Duration) -> io::Result<(SocketAddr, Listening)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok((listener.local_addr()?, Listening { listener, http, delay, accepted: Arc::default() }))
}

/// A server that nobody runs yet.
#[derive(Debug)]
pub(crate) struct Listening {
    listener: TcpListener,
    http: Http,
    /// How long the delayed answer takes.
    delay: Duration,
    /// Connections that it has been asked for.
    pub(crate) accepted: Arc<AtomicUsize>,
}

impl Listening {
    /// Answers until the process ends.
    pub(crate) async fn serve(self) {
        loop {
            let socket = self.accept().await;
            match self.http {
                Http::H1 => drop(tokio::spawn(serve_h1(socket, self.delay))),
                Http::H2 => drop(tokio::spawn(serve_h2(socket, self.delay))),
            }
        }
    }

    /// Likewise, HTTP/1.1 over TLS.
    pub(crate) async fn serve_encrypted(self, acceptor: TlsAcceptor) {
        loop {
            let (socket, acceptor, delay) = (self.accept().await, acceptor.clone(), self.delay);
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(socket).await {
                    serve_h1(stream, delay).await;
                }
            });
        }
    }

    async fn accept(&self) -> TcpStream {
        loop {
            let Ok((socket, _)) = self.listener.accept().await else { continue };
            self.accepted.fetch_add(1, Ordering::Relaxed);
            let _ = socket.set_nodelay(true);
            return socket;
        }
    }
}

/// One connection of HTTP/1.1: heads of at most 8 KiB, no pipelining.
pub(crate) async fn serve_h1<Io: AsyncRead + AsyncWrite + Unpin>(mut io: Io, delay: Duration) {
    let mut head = vec![0; 8 * 1024];
    loop {
        let mut filled = 0;
        let end = loop {
            match io.read(&mut head[filled..]).await {
                Ok(0) | Err(_) => return,
                Ok(read) => filled += read,
            }
            if let Some(end) = head[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let mut body = content_length(&head[..end]).saturating_sub(filled - end);
        let work = Work::value_variants()
            .iter()
            .copied()
            .find(|work| request_target(&head[..end]) == Some(work.path().as_bytes()))
            .expect("only what is known is asked for");
        while body > 0 {
            match io.read(&mut head).await {
                Ok(0) | Err(_) => return,
                Ok(read) => body = body.saturating_sub(read),
            }
        }
        if work == Work::Delayed {
            tokio::time::sleep(delay).await;
        }
        if io.write_all(ANSWERS.of(work)).await.is_err() || io.flush().await.is_err() {
            return;
        }
    }
}

/// One connection of HTTP/2.
async fn serve_h2(socket: TcpStream, delay: Duration) {
    let mut server = h2::server::Builder::new();
    server.max_concurrent_streams(1_000).initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let Ok(mut connection) = server.handshake::<_, Bytes>(socket).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let path = request.uri().path().to_owned();
            let work = Work::value_variants().iter().copied().find(|work| path == work.path());
            let work = work.expect("only what is known is asked for");
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
            }
            if work == Work::Delayed {
                tokio::time::sleep(delay).await;
            }
            let answer = work.answer();
            let head = Response::builder().header("content-length", answer.len()).body(()).expect("valid");
            if let Ok(mut stream) = respond.send_response(head, false) {
                let _ = stream.send_data(answer, true);
            }
        });
    }
}

/// What is written, prepared once.
struct Answers {
    hello: Vec<u8>,
    large: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let [hello, large] = [Work::Hello, Work::Large].map(|work| {
            let body = work.answer();
            let mut answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
            answer.extend_from_slice(&body);
            answer
        });
        Self { hello, large }
    }

    fn of(&self, work: Work) -> &[u8] {
        match work {
            Work::Large => &self.large,
            Work::Hello | Work::Json | Work::Delayed => &self.hello,
        }
    }
}

static ANSWERS: LazyLock<Answers> = LazyLock::new(Answers::new);

fn request_target(head: &[u8]) -> Option<&[u8]> {
    head.split(|&byte| byte == b' ').nth(1)
}

fn content_length(head: &[u8]) -> usize {
    const NAME: &[u8] = b"content-length:";
    head.split(|&byte| byte == b'\n')
        .find(|line| line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME))
        .and_then(|line| str::from_utf8(&line[NAME.len()..]).ok()?.trim().parse().ok())
        .unwrap_or(0)
}
