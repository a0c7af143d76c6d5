//! HTTP/2 by prior knowledge, against servers made of h2.

mod support;

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, server::SendResponse};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use outbound_core::{Delivery, Failure, Kind, Phase};
use outbound_pool::{Pool, connect::Tcp};
use outbound_testkit::{Friendly, Hostile, Script, handler};
use support::*;
use tokio::net::TcpListener;

fn http2() -> Pool<Tcp> {
    build(Pool::builder().http2_prior_knowledge(true))
}

fn post(uri: Uri) -> Request<Full<Bytes>> {
    request(Method::POST, uri, Full::from("body"))
}

/// A server that gives each stream to `answer`, with the number of its connection; and how many connections there were.
async fn serve<F, A>(streams: u32, answer: F) -> (Uri, Arc<AtomicUsize>)
where
    F: Fn(usize, Request<h2::RecvStream>, SendResponse<Bytes>) -> A + Clone + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (number, answer) = (count.fetch_add(1, SeqCst), answer.clone());
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                builder.max_concurrent_streams(streams);
                let mut connection = builder.handshake::<_, Bytes>(socket).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    if request.uri().path() == "/bye" {
                        connection.graceful_shutdown();
                    }
                    tokio::spawn(answer(number, request, respond));
                }
            });
        }
    });
    (uri, accepted)
}

fn hello(mut respond: SendResponse<Bytes>) {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data("hello".into(), true).unwrap();
}

#[test]
fn a_burst_shares_one_connection() {
    on_each_runtime(async || {
        let upstream = Friendly::new(handler::hello).http2().start();
        let pool = http2();
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let (pool, uri) = (pool.clone(), upstream.uri("/"));
                tokio::spawn(async move { fetch(&pool, post(uri)).await.unwrap() })
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap().body(), "hello");
        }
        let stats = pool.stats();
        assert_eq!((stats.totals.dialed, stats.exchanges), (1, 0), "{stats:?}");
        assert_eq!(stats.connections.idle, 1);
        assert_eq!(upstream.sightings().connections.len(), 1);
        drop(pool);
        upstream.all_closed().await;
    });
}

#[tokio::test]
async fn no_more_streams_than_the_peer_allows_then_another_connection_then_the_queue() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = (now.clone(), most.clone());
    let (uri, accepted) = serve(2, move |_, _, respond| {
        let (now, most) = counters.clone();
        async move {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::time::sleep(Duration::from_millis(2)).await;
            now.fetch_sub(1, SeqCst);
            hello(respond);
        }
    })
    .await;
    let pool = build(Pool::builder().http2_prior_knowledge(true).max_connections_per_host(3));
    let calls: Vec<_> = (0..60)
        .map(|_| {
            let (pool, uri) = (pool.clone(), uri.clone());
            tokio::spawn(async move { fetch(&pool, get(uri)).await.unwrap() })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().body(), "hello");
    }
    assert_eq!(accepted.load(SeqCst), 3, "as many connections as are allowed");
    assert_eq!(most.load(SeqCst), 6, "two streams on each");
    assert_eq!(quiet(&pool).await.exchanges, 0);
}

/// RFC 9113, 8.2.2: of `TE` only `trailers` may go out.
#[tokio::test]
async fn fields_about_the_connection_stay_behind() {
    let upstream = Friendly::new(handler::hello).http2().start();
    let pool = http2();
    for (name, te, goes_out) in
        [("trailers", ["trailers", "trailers"], true), ("a coding", ["trailers", "gzip"], false)]
    {
        let mut request = get(upstream.uri("/"));
        te.iter().for_each(|te| _ = request.headers_mut().append("te", te.parse().unwrap()));
        request.headers_mut().insert("keep-alive", "5".parse().unwrap());
        fetch(&pool, request).await.expect(name);
        let seen = upstream.sightings();
        let headers = &seen.requests.last().expect(name).headers;
        assert_eq!((headers.contains_key("te"), headers.get("keep-alive")), (goes_out, None), "{name}");
    }
}

#[tokio::test]
async fn a_call_given_up_harms_no_other() {
    let (uri, accepted) = serve(100, |_, request, respond| async move {
        if request.uri().path() == "/slow" {
            std::future::pending::<()>().await;
        }
        hello(respond);
    })
    .await;
    let pool = http2();
    fetch(&pool, get(uri.clone())).await.unwrap();
    let slow: Uri = format!("{uri}slow").parse().unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(20), fetch(&pool, get(slow))).await;
    assert!(given_up.is_err());
    for _ in 0..3 {
        assert_eq!(fetch(&pool, post(uri.clone())).await.unwrap().body(), "hello");
    }
    assert_eq!((accepted.load(SeqCst), pool.stats().exchanges), (1, 0));
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_whatever_its_method() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    let (uri, _) = serve(100, move |_, request, mut respond| {
        let refuse = request.method() == Method::POST && count.fetch_add(1, SeqCst) == 0;
        async move { if refuse { respond.send_reset(Reason::REFUSED_STREAM) } else { hello(respond) } }
    })
    .await;
    let pool = http2();
    assert_eq!(fetch(&pool, post(uri)).await.unwrap().body(), "hello");
    assert_eq!(refused.load(SeqCst), 2);
}

#[tokio::test]
async fn one_that_is_refused_twice_fails_as_not_processed() {
    let (uri, _) =
        serve(100, |_, _, mut respond| async move { respond.send_reset(Reason::REFUSED_STREAM) }).await;
    let pool = http2();
    let error = fetch(&pool, post(uri)).await.unwrap_err();
    assert_eq!(Failure::of(&*error).delivery(), Delivery::Refused, "{error}");
    until(&pool, "two refusals to retire the connection", |stats| stats.connections.open() == 0).await;
}

#[tokio::test]
async fn after_goaway_the_next_call_takes_a_new_connection() {
    let (uri, accepted) = serve(100, |_, _, respond| async move { hello(respond) }).await;
    let pool = http2();
    let bye: Uri = format!("{uri}bye").parse().unwrap();
    assert_eq!(fetch(&pool, post(bye)).await.unwrap().body(), "hello");
    until(&pool, "the connection to be given up", |stats| stats.connections.idle == 0).await;
    assert_eq!(fetch(&pool, post(uri)).await.unwrap().body(), "hello");
    assert_eq!(accepted.load(SeqCst), 2);
}

#[tokio::test]
async fn a_reset_without_error_is_no_end_of_a_body() {
    let (uri, _) = serve(100, |_, _, mut respond| async move {
        let response = Response::builder().header("content-length", "10").body(()).unwrap();
        let mut body = respond.send_response(response, false).unwrap();
        body.send_data("hello".into(), false).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        body.send_reset(Reason::NO_ERROR);
    })
    .await;
    let pool = http2();
    let response = send(&pool, get(uri)).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    let failure = Failure::of(&*error);
    assert_eq!((failure.kind(), failure.delivery()), (Kind::Truncated, Delivery::Answered), "{error}");
    assert_eq!(quiet(&pool).await.connections.idle, 1, "the connection is none the worse for it");
}

#[tokio::test]
async fn a_server_that_never_says_what_it_allows() {
    let upstream = Hostile::new(Script::new().stall()).start();
    let limit = Duration::from_millis(50);
    let pool = build(Pool::builder().http2_prior_knowledge(true).http2_handshake_timeout(limit));
    let error = fetch(&pool, post(upstream.uri("/"))).await.unwrap_err();
    let failure = Failure::of(&*error);
    assert_eq!(
        (failure.kind(), failure.phase(), failure.delivery()),
        (Kind::Timeout, Some(Phase::Connect), Delivery::NotSent),
        "{error}"
    );
    assert_eq!(quiet(&pool).await.connections.open(), 0);
}
