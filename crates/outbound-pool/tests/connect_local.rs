//! Connections that do not leave the machine, or the process.

mod support;

use std::convert::Infallible;

use bytes::Bytes;
use http::{Extensions, Request};
use http_body_util::Full;
use hyper::{Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{client::legacy::connect::Connection, rt::TokioIo};
use outbound_core::{Delivery, Failure, Kind, Phase};
use outbound_pool::{
    Pool,
    connect::{InMemory, Liveness},
};
use support::*;
use tokio::{
    io::{AsyncReadExt, DuplexStream},
    sync::oneshot,
};
use tower::ServiceExt;

/// Answers with the request's `Host` header.
async fn serve(io: DuplexStream) {
    let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service_fn(host)).await;
}

async fn host(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from(request.headers()["host"].as_bytes().to_vec())))
}

/// Whether a connection says that it is alive.
fn liveness<T: Connection>(io: &T) -> Liveness {
    let mut extras = Extensions::new();
    io.connected().get_extras(&mut extras);
    extras.remove().expect("a Liveness")
}

// === in memory ===

#[tokio::test]
async fn a_server_in_memory() {
    let pool = build_with(InMemory::new(serve));
    for uri in ["http://a.example/", "http://a.example/", "https://b.example:8443/"] {
        let response = fetch(&pool, get(uri.parse().unwrap())).await.expect(uri);
        assert_eq!(response.body(), uri.split('/').nth(2).unwrap());
    }
    assert_eq!(pool.stats().totals.opened, 2, "one for each origin");
    leaves_nothing_open(pool).await;
}

#[tokio::test]
async fn a_server_in_memory_that_is_gone() {
    let (close, closed) = oneshot::channel::<()>();
    let closed = std::sync::Arc::new(tokio::sync::Mutex::new(closed));
    let connector = InMemory::new(move |io| {
        let closed = closed.clone();
        async move {
            let _ = (&mut *closed.lock().await).await;
            drop(io);
        }
    });
    let mut io = connector.oneshot("http://a.example/".parse().unwrap()).await.unwrap();
    let liveness = liveness(io.inner());
    assert!(liveness.is_alive());
    drop(close);
    assert_eq!(io.inner_mut().read(&mut [0]).await.unwrap(), 0);
    assert!(!liveness.is_alive());
}

#[tokio::test]
async fn a_pipe_holds_as_much_as_it_is_told_to() {
    let connector = InMemory::new(|mut io: DuplexStream| async move {
        let _ = io.read_to_end(&mut Vec::new()).await;
    });
    let mut io = connector.buffer(7).oneshot("http://a.example/".parse().unwrap()).await.unwrap();
    let written = tokio::io::AsyncWriteExt::write(io.inner_mut(), &[0; 100]).await.unwrap();
    assert_eq!(written, 7);
}

async fn leaves_nothing_open<C>(pool: Pool<C>) {
    let stats = quiet(&pool).await;
    assert_eq!(stats.totals.dialed, stats.totals.closed + stats.connections.open() as u64, "{stats:?}");
}

// === Unix sockets ===

#[cfg(unix)]
mod unix {
    use std::{
        io::{Read, Write},
        os::unix::net::{UnixListener, UnixStream},
        path::PathBuf,
    };

    use outbound_core::find;
    use outbound_pool::connect::{NotEncrypted, Unix};

    use super::*;

    /// A path of its own, removed in the end.
    struct Socket(PathBuf);

    impl Socket {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("outbound-{name}-{}.sock", std::process::id())))
        }
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// Reads the head of a request and answers with its `Host` header.
    fn answer(stream: &mut UnixStream) -> bool {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).unwrap() == 0 {
                return false;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{host}", host.len()).unwrap();
        true
    }

    #[tokio::test]
    async fn any_uri_leads_to_the_socket() {
        let socket = Socket::new("any");
        let listener = UnixListener::bind(&socket.0).unwrap();
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                std::thread::spawn(move || while answer(&mut stream) {});
            }
        });
        let pool = build_with(Unix::new(&socket.0));
        for uri in ["http://a.example/", "http://a.example/again", "http://b.example:8080/"] {
            let response = fetch(&pool, get(uri.parse().unwrap())).await.expect(uri);
            assert_eq!(response.body(), uri.split('/').nth(2).unwrap());
        }
        assert_eq!(pool.stats().totals.opened, 2, "one for each origin");
        server.join().unwrap();

        let error = fetch(&pool, get("https://a.example/".parse().unwrap())).await.map(drop).unwrap_err();
        assert!(find::<NotEncrypted>(&*error).is_some(), "{error}");
        assert_eq!(Failure::of(&*error).kind(), Kind::Invalid);
        leaves_nothing_open(pool).await;
    }

    /// The runtime does not turn meanwhile: the socket itself is asked.
    #[tokio::test]
    async fn a_socket_tells_whether_it_is_alive() {
        let socket = Socket::new("alive");
        let listener = UnixListener::bind(&socket.0).unwrap();
        for (name, says) in [("closed", &b""[..]), ("something nobody asked for", b"!")] {
            let io = Unix::new(&socket.0).oneshot("http://a.example/".parse().unwrap()).await.unwrap();
            let liveness = liveness(&io);
            let mut server = listener.accept().unwrap().0;
            assert!(liveness.is_alive(), "{name}");
            server.write_all(says).unwrap();
            let open = Some(server).filter(|_| !says.is_empty());
            assert!(!liveness.is_alive(), "{name}");
            drop((open, io));
            assert!(!liveness.is_alive(), "{name}: and nothing is left");
        }
    }

    #[tokio::test]
    async fn where_nobody_listens() {
        let (gone, missing) = (Socket::new("gone"), Socket::new("missing"));
        drop(UnixListener::bind(&gone.0).unwrap());
        for (socket, kind, what, why) in [
            (&gone, Kind::Refused, "connection refused", "Connection refused"),
            (&missing, Kind::Other, "failed while connecting", "No such file or directory"),
        ] {
            let pool = build_with(Unix::new(&socket.0));
            let error = fetch(&pool, get("http://a.example/".parse().unwrap())).await.map(drop).unwrap_err();
            let failure = Failure::of(&*error);
            assert_eq!((failure.kind(), failure.phase()), (kind, Some(Phase::Connect)), "{error}");
            assert_eq!(failure.delivery(), Delivery::NotSent, "{error}");
            let line = error.to_string();
            assert!(line.starts_with(&format!("http://a.example: {what} after ")), "{line}");
            assert!(line.contains(&format!("({}: {why} (os error ", socket.0.display())), "{line}");
            leaves_nothing_open(pool).await;
        }
    }
}
