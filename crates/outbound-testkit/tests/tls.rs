//! An upstream that serves TLS, well and badly.
#![cfg(feature = "tls")]

mod client;

use std::{io, sync::Arc};

use client::{Client, GET, HELLO};
use outbound_testkit::{Answer, Certificate, Ended, Friendly, Gate, Hostile, Script, Upstream, handler};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

type Connected = io::Result<TlsStream<TcpStream>>;

async fn connect(upstream: &Upstream, trusted: &Certificate, alpn: &[&str]) -> Connected {
    let connector = TlsConnector::from(Arc::new(trusted.client(alpn.iter().copied())));
    let socket = Client::of(upstream).await.0;
    connector.connect(ServerName::try_from("localhost").unwrap(), socket).await
}

#[tokio::test]
async fn scripts_play_over_tls() {
    let certificate = Certificate::local();
    let upstream = Hostile::new(Script::hello()).tls(certificate.clone()).start();
    let mut client = connect(&upstream, &certificate, &[]).await.unwrap();
    client.write_all(GET.as_bytes()).await.unwrap();
    let mut response = [0; HELLO.len()];
    client.read_exact(&mut response).await.unwrap();
    assert_eq!(response, HELLO.as_bytes());
    assert_eq!(upstream.requests(1).await[0].target, "/a?b");
    assert_eq!(upstream.uri("/").scheme_str(), Some("https"));
    client.shutdown().await.unwrap();
    assert_eq!(upstream.ended(0).await, Ended::ByPeerFin);
}

#[tokio::test]
async fn close_says_goodbye_and_cut_does_not() {
    let certificate = Certificate::local();
    let script = Script::new().exchange(Answer::new(200, "hello"));
    let upstream = Hostile::new(script.clone().close()).then(script.cut()).tls(certificate.clone()).start();
    for (number, expected) in [Ok(HELLO.len()), Err(io::ErrorKind::UnexpectedEof)].iter().enumerate() {
        let mut client = connect(&upstream, &certificate, &[]).await.unwrap();
        client.write_all(GET.as_bytes()).await.unwrap();
        let read = client.read_to_end(&mut Vec::new()).await;
        assert_eq!(&read.map_err(|error| error.kind()), expected);
        assert_eq!(upstream.ended(number).await, Ended::ByUsFin);
    }
}

#[tokio::test]
async fn a_reset_is_a_reset_under_tls_too() {
    let certificate = Certificate::local();
    let upstream = Hostile::new(Script::new().read_head().reset()).tls(certificate.clone()).start();
    let mut client = connect(&upstream, &certificate, &[]).await.unwrap();
    client.write_all(GET.as_bytes()).await.unwrap();
    let error = client.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(upstream.ended(0).await, Ended::ByUsReset);
}

#[tokio::test]
async fn the_handshake_waits_for_its_gate() {
    let certificate = Certificate::local();
    let gate = Gate::new("handshake");
    let upstream = Hostile::new(Script::hello().before_handshake(Script::new().wait(&gate)))
        .tls(certificate.clone())
        .start();
    let shaking = tokio::spawn({
        let (socket, config) = (Client::of(&upstream).await.0, certificate.client([]));
        let name = ServerName::try_from("localhost").unwrap();
        async move { TlsConnector::from(Arc::new(config)).connect(name, socket).await.map(drop) }
    });
    gate.arrived(1).await;
    assert!(!shaking.is_finished());
    gate.open();
    shaking.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stalled_handshake_sees_the_client_go() {
    let certificate = Certificate::local();
    let upstream = Hostile::new(Script::hello().before_handshake(Script::new().stall()))
        .tls(certificate.clone())
        .start();
    let client = Client::of(&upstream).await;
    upstream.accepted(1).await;
    drop(client);
    assert_eq!(upstream.ended(0).await, Ended::ByPeerFin);
}

#[tokio::test]
async fn bad_certificates_are_refused_for_their_reason() {
    let good = Certificate::local();
    let (expired, misnamed) = (Certificate::expired(), Certificate::named("wrong.example"));
    let cases = [
        // name       served     trusted    what rustls says
        ("expired", &expired, &expired, "Expired"),
        ("wrong name", &misnamed, &misnamed, "NotValidForName"),
        ("untrusted", &good, &misnamed, "UnknownIssuer"),
    ];
    for (name, served, trusted, reason) in cases {
        let upstream = Hostile::new(Script::hello()).tls(served.clone()).start();
        let error = connect(&upstream, trusted, &[]).await.unwrap_err();
        assert!(format!("{error:?}").contains(reason), "{name}: {error:?}");
        assert_eq!(upstream.ended(0).await, Ended::InHandshake, "{name}");
    }
}

#[tokio::test]
async fn alpn_is_what_was_asked_for() {
    type Names<'a> = &'a [&'a str];
    let offered: [(Names<'_>, Names<'_>, Option<&[u8]>); 3] = [
        (&["h2", "http/1.1"], &["http/1.1", "h2"], Some(b"h2")),
        (&["http/1.1"], &["h2", "http/1.1"], Some(b"http/1.1")),
        (&[], &["h2"], None),
    ];
    for (server, client, agreed) in offered {
        let certificate = Certificate::local().alpn(server.iter().copied());
        let upstream = Friendly::new(handler::hello).tls(certificate.clone()).start();
        let connected = connect(&upstream, &certificate, client).await.unwrap();
        assert_eq!(connected.get_ref().1.alpn_protocol(), agreed);
    }
}

#[tokio::test]
async fn friendly_serves_tls() {
    let certificate = Certificate::local();
    let upstream = Friendly::new(handler::hello).tls(certificate.clone()).start();
    let mut client = connect(&upstream, &certificate, &[]).await.unwrap();
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).await.unwrap();
    assert!(response.ends_with("\r\n\r\nhello"), "{response}");
    assert_eq!(upstream.ended(0).await, Ended::ByUsFin);
}
