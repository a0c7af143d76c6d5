//! The upstream that behaves, and its counters.

mod client;

use std::time::Duration;

use bytes::Bytes;
use client::{Client, End, GET};
use http::Response;
use http_body_util::Full;
use outbound_testkit::{Ended, Friendly, Gate, TestBody, Upstream, handler};
use tokio::time::Instant;

const PUT: &str = "PUT /up HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";

/// Sends the request and returns the body of the response, framing included.
async fn exchanged(upstream: &Upstream, request: &str) -> String {
    let mut client = Client::of(upstream).await;
    client.send(request).await;
    let End::Fin(response) = client.end().await else { panic!("reset") };
    response.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test]
async fn handlers_answer() {
    assert_eq!(exchanged(&Friendly::new(handler::hello).start(), PUT).await, "hello");
    assert_eq!(exchanged(&Friendly::new(handler::echo).start(), PUT).await, "hello");
    assert_eq!(exchanged(&Friendly::new(handler::fixed(3)).start(), PUT).await, "xxx");
}

#[tokio::test]
async fn any_handler_answers() {
    let upstream = Friendly::new(async |request| {
        let (parts, _) = http::Request::into_parts(request);
        Response::builder().status(418).body(Full::<Bytes>::from(parts.uri.to_string())).unwrap()
    });
    assert_eq!(exchanged(&upstream.start(), PUT).await, "/up");
    let broken = Friendly::new(async |_| Response::new(TestBody::from("half").pending(1).error("broken")));
    assert_eq!(exchanged(&broken.start(), PUT).await, "4\r\nhalf\r\n");
}

#[tokio::test(start_paused = true)]
async fn delayed_waits_on_tokios_clock() {
    let upstream = Friendly::new(handler::delayed(Duration::from_secs(5), handler::hello)).start();
    let start = Instant::now();
    assert_eq!(exchanged(&upstream, PUT).await, "hello");
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn gated_waits_for_the_test() {
    let gate = Gate::new("handler");
    let upstream = Friendly::new(handler::gated(&gate, handler::hello)).start();
    let mut client = Client::of(&upstream).await;
    client.send(PUT).await;
    gate.arrived(1).await;
    assert!(client.silent());
    gate.open();
    assert!(matches!(client.end().await, End::Fin(response) if response.ends_with("hello")));
}

#[tokio::test]
async fn records_what_the_handler_reads() {
    let upstream = Friendly::new(handler::hello).start();
    exchanged(&upstream, PUT).await;
    let request = upstream.requests(1).await.remove(0);
    assert_eq!((request.method.as_str(), &*request.target), ("PUT", "/up"));
    assert_eq!(request.headers["host"], "h");
    assert_eq!(request.body, b"hello");

    let gate = Gate::new("never opened");
    let upstream = Friendly::new(handler::gated(&gate, handler::hello)).start();
    let mut client = Client::of(&upstream).await;
    client.send(PUT).await;
    gate.arrived(1).await;
    let request = upstream.heads(1).await.remove(0);
    assert_eq!((&*request.body, request.complete), (&b""[..], false));
}

#[tokio::test]
async fn counts_sockets_and_how_they_end() {
    let upstream = Friendly::new(handler::hello).start();
    let first = Client::of(&upstream).await;
    let mut second = Client::of(&upstream).await;
    upstream.accepted(2).await;
    assert_eq!((upstream.open(), upstream.max_open()), (2, 2));
    drop(first);
    assert_eq!(upstream.ended(0).await, Ended::ByPeerFin);
    second.send(PUT).await;
    second.end().await;
    assert_eq!(upstream.ended(1).await, Ended::ByUsFin);
    let third = Client::of(&upstream).await;
    upstream.accepted(3).await;
    third.reset();
    assert_eq!(upstream.ended(2).await, Ended::ByPeerReset);
    let mut fourth = Client::of(&upstream).await;
    fourth.send("garbage\r\n\r\n").await;
    fourth.end().await;
    assert_eq!(upstream.ended(3).await, Ended::ByUsFin);
    assert_eq!((upstream.open(), upstream.max_open()), (0, 2));
}

#[tokio::test]
async fn dropping_the_handle_stops_everything() {
    let gate = Gate::new("never opened");
    let upstream = Friendly::new(handler::gated(&gate, handler::hello)).start();
    let mut client = Client::of(&upstream).await;
    client.send(GET).await;
    gate.arrived(1).await;
    drop(upstream);
    assert_eq!(client.end().await, End::Fin(String::new()));
    assert_eq!(gate.waiting(), 0);
}

#[cfg(feature = "http2")]
mod http2 {
    use http::{Request, Uri};
    use http_body_util::BodyExt;
    use hyper::client::conn::http2;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::*;

    #[tokio::test]
    async fn serves_streams_and_stops_their_tasks() {
        let gate = Gate::new("second request");
        let held = handler::gated(&gate, handler::echo);
        let upstream = Friendly::new(held).http2().start();
        let io = TokioIo::new(Client::of(&upstream).await.0);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let connection = tokio::spawn(connection);
        let uri: Uri = upstream.uri("/a");
        let request = Request::put(uri).body(Full::<Bytes>::from("hello")).unwrap();

        gate.let_one_through();
        let response = sender.send_request(request.clone()).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
        let seen = upstream.requests(1).await.remove(0);
        assert_eq!((&*seen.target, &*seen.body), (&*upstream.uri("/a").to_string(), &b"hello"[..]));

        let stuck = tokio::spawn(sender.send_request(request));
        gate.arrived(2).await;
        drop(upstream);
        stuck.await.unwrap().unwrap_err();
        assert_eq!(gate.waiting(), 0);
        drop(connection.await);
    }
}
