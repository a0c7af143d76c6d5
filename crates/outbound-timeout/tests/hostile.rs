//! Peers that do not end anything by themselves: each call ends at its limit, in its phase.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use outbound_core::{BoxError, Delivery, Elapsed, Exchange, Failure, Kind, Phase, find};
use outbound_pool::{Pool, connect::Tcp};
use outbound_testkit::{Answer, Hostile, Script};
use outbound_timeout::{Throughput, TimeoutLayer};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};
use tower::{Layer, ServiceExt, service_fn};

#[tokio::test(start_paused = true)]
async fn each_ends_at_its_limit_in_its_phase() {
    let continued = "HTTP/1.1 100 Continue\r\n\r\n";
    let hello = Answer::new(200, "hello").to_bytes();
    let head = || Script::new().read_head();
    #[rustfmt::skip]
    let rows = [
        ("silence",             head().stall(),                                                       1000, "head",       Phase::Head),
        ("a byte now and then", head().dribble(hello.clone(), 1, ms(50)),                              1000, "head",       Phase::Head),
        ("1xx without end",     head().forever(Script::new().write(continued).delay(ms(10))),          1000, "head",       Phase::Head),
        ("half a body",         head().respond(Answer::new(200, "hello").cut_body(2)),                 500,  "read-idle",  Phase::Body),
        ("a body in drops",     head().respond(Answer::new(200, "x".repeat(500)).cut_body(0)).dribble("x".repeat(500), 1, ms(50)), 2000, "throughput", Phase::Body),
    ];
    let throughput = Throughput::new(1000, ms(2000)).unwrap();
    let layer = TimeoutLayer::new(ms(1000)).read_idle(ms(500)).throughput(throughput);
    for (name, script, at, limit, phase) in rows {
        let upstream = Hostile::new(script).start();
        let client = layer.layer(Client::builder(TokioExecutor::new()).build_http());
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = upstream.uri("/");
        let begun = Instant::now();
        let error = match client.oneshot(request).await {
            Ok(response) => response.into_body().collect().await.unwrap_err(),
            Err(error) => error,
        };
        let elapsed = find::<Elapsed>(&*error).expect("nothing else fails");
        assert_eq!((begun.elapsed(), elapsed.name(), elapsed.phase()), (ms(at), limit, phase), "{name}");
        upstream.ended(0).await;
    }
}

/// Interim responses as fast as they can be written keep hyper's connection task, and with it the only thread, from ever looking at a
/// timer. The pool ends them by their bytes.
#[tokio::test]
async fn a_flood_of_interim_responses_ends_over_the_pool() {
    let flood: &str = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000).leak();
    let upstream = Hostile::new(Script::new().read_head().forever(Script::new().write(flood))).start();
    let pool = Pool::builder().build(Tcp::new()).expect("the defaults");
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = upstream.uri("/");
    let error = TimeoutLayer::new(ms(60_000)).layer(pool).oneshot(request).await.unwrap_err();
    let failure = Failure::of(&*error);
    assert_eq!((failure.kind(), failure.delivery()), (Kind::TooLarge, Delivery::Maybe), "{error}");
    upstream.ended(0).await;
}

/// Behind a window that stays shut; the service does what a pool does, and says what the socket takes.
#[tokio::test(start_paused = true)]
async fn an_upload_that_nobody_takes_ends_at_write_idle() {
    let upstream = Hostile::new(Script::new().read_head().stall()).start();
    let addr = upstream.addr();
    let pool = service_fn(move |request: Request<()>| async move {
        let exchange = Exchange::of(&request).expect("the layer tracks it");
        exchange.enter(Phase::Connect);
        let mut socket = TcpStream::connect(addr).await?;
        exchange.enter(Phase::Send);
        exchange.wrote(socket.write(b"PUT / HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n").await?);
        loop {
            exchange.wrote(socket.write(&[0; 65536]).await?);
            if false {
                return Ok::<_, io::Error>(Response::new(()));
            }
        }
    });
    let layer = TimeoutLayer::new(ms(1000)).write_idle(ms(300));
    let begun = Instant::now();
    let error: BoxError = layer.layer(pool).oneshot(Request::new(())).await.unwrap_err();
    let elapsed = find::<Elapsed>(&*error).expect("nothing else fails");
    let what = (begun.elapsed(), elapsed.name(), elapsed.phase(), elapsed.delivery());
    assert_eq!(what, (ms(300), "write-idle", Phase::Send, Delivery::Maybe), "{elapsed}");
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}
