//! What the benchmarks share: the server, and the peers behind one face.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// The answer to everything: 13 bytes.
pub const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nHello, world!";

/// Serves [`ANSWER`] to whatever fits into one read, on a thread and runtime of its own.
pub fn server() -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            tell.send(listener.local_addr().expect("an address")).expect("the caller waits");
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket));
            }
        });
    });
    told.recv().expect("the server starts")
}

async fn serve(mut socket: TcpStream) {
    let _ = socket.set_nodelay(true);
    let mut request = [0; 8 * 1024];
    while let Ok(1..) = socket.read(&mut request).await {
        if socket.write_all(ANSWER).await.is_err() {
            return;
        }
    }
}
