//! Connections that are measured are the connections that they were.

mod support;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use http::Uri;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use outbound_telemetry::ConnectionsLayer;
use support::{Told, ms};
use tower::{Layer, ServiceExt, service_fn};

/// Notes what is done with it.
#[derive(Clone, Default)]
struct Notes {
    is_h2: bool,
    is_vectored: bool,
    done: Arc<Mutex<Vec<&'static str>>>,
}

impl Notes {
    fn note(&self, what: &'static str) {
        self.done.lock().unwrap().push(what);
    }
}

impl Connection for Notes {
    fn connected(&self) -> Connected {
        let connected = Connected::new().proxy(true);
        if self.is_h2 { connected.negotiated_h2() } else { connected }
    }
}

impl Read for Notes {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.note("read");
        buffer.put_slice(b"hello");
        Poll::Ready(Ok(()))
    }
}

impl Write for Notes {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        self.note("write");
        Poll::Ready(Ok(1))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.note("write_vectored");
        Poll::Ready(Ok(bytes.iter().map(|bytes| bytes.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        self.is_vectored
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.note("flush");
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.note("shutdown");
        Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_spoken_is_told_where_tls_has_negotiated_it() {
    for (name, is_h2, version) in [("HTTP/2", true, "network.protocol.version=2 "), ("unknown", false, "")] {
        let told = Told::new();
        let connector =
            ConnectionsLayer::new(&told.meter()).layer(opening(Notes { is_h2, ..Notes::default() }));
        let connection = connector.oneshot("https://a.example".parse().unwrap()).await.unwrap();
        tokio::time::sleep(ms(1_500)).await;
        assert!(!told.metrics().contains_key(LASTED), "{name}: it lasts");
        drop(connection);
        let lasted = told.only(LASTED);
        assert_eq!(lasted.attributes, format!("{version}server.address=a.example server.port=443"), "{name}");
        assert_eq!((lasted.count, lasted.value), (1, 1.5), "{name}");
    }
}

/// Measured or not: each call is one call of the connection inside, and so is its answer.
#[tokio::test]
async fn each_call_goes_to_the_connection_inside() {
    let told = Told::new();
    for (name, layer) in
        [("measured", ConnectionsLayer::new(&told.meter())), ("off", ConnectionsLayer::off())]
    {
        for is_vectored in [false, true] {
            let notes = Notes { is_h2: true, is_vectored, ..Notes::default() };
            let connector = layer.layer(opening(notes.clone()));
            let mut connection = connector.oneshot("https://a.example".parse().unwrap()).await.unwrap();
            let connected = connection.connected();
            assert!(connected.is_negotiated_h2() && connected.is_proxied(), "{name}");
            assert_eq!(connection.is_write_vectored(), is_vectored, "{name}");

            let (mut io, cx) = (Pin::new(&mut connection), &mut Context::from_waker(Waker::noop()));
            let mut room = [0; 8];
            let mut buffer = ReadBuf::new(&mut room);
            assert!(matches!(io.as_mut().poll_read(cx, buffer.unfilled()), Poll::Ready(Ok(()))), "{name}");
            assert_eq!(buffer.filled(), b"hello", "{name}");
            assert!(matches!(io.as_mut().poll_write(cx, b"abc"), Poll::Ready(Ok(1))), "{name}");
            let pieces = [IoSlice::new(b"abc"), IoSlice::new(b"de")];
            assert!(matches!(io.as_mut().poll_write_vectored(cx, &pieces), Poll::Ready(Ok(5))), "{name}");
            assert!(io.as_mut().poll_flush(cx).is_pending(), "{name}");
            let Poll::Ready(Err(error)) = io.as_mut().poll_shutdown(cx) else { panic!("{name}: it fails") };
            assert_eq!(error.kind(), io::ErrorKind::NotConnected, "{name}");
            let done = ["read", "write", "write_vectored", "flush", "shutdown"];
            assert_eq!(*notes.done.lock().unwrap(), done, "{name}");
        }
    }
    assert_eq!(told.only(LASTED).count, 2, "those that are measured");
}

fn opening(
    notes: Notes,
) -> impl tower::Service<Uri, Response = Notes, Error = Infallible, Future = Ready<Result<Notes, Infallible>>>
{
    service_fn(move |_: Uri| ready(Ok(notes.clone())))
}

const LASTED: &str = "http.client.connection.duration";
