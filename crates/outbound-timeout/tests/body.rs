//! Which limit ends a response body, and at which instant.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use outbound_core::{BoxError, Deadline, Delivery, Elapsed, Phase, find};
use outbound_testkit::{Lives, Scripted, TestBody, assert_body_contract};
use outbound_timeout::{EmptyWindow, Throughput, TimeoutBody, TimeoutLayer};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn};

/// Name, limits, deadline, what the peer sends, how long the reader takes over each frame, when the body ends, after how many
/// frames, and by which limit; in milliseconds.
type Row = (&'static str, TimeoutLayer, u64, TestBody, u64, u64, usize, Option<&'static str>);

#[tokio::test(start_paused = true)]
async fn the_earliest_limit_ends_the_body_at_its_instant() {
    let idle = |time| TimeoutLayer::new(ms(1000)).read_idle(ms(time));
    let slow = |window, grace| {
        let throughput = Throughput::new(100, ms(window)).unwrap().grace(ms(grace));
        idle(1000).throughput(throughput)
    };
    let sends = |times, frame: &'static str, every| {
        (0..times).fold(TestBody::new(), |body, _| body.data(frame).delay(ms(every)))
    };
    let ten = "0123456789";
    let endless = || TestBody::new().endless(ten);
    #[rustfmt::skip]
    let rows: Vec<Row> = vec![
        // The time in which somebody waits counts, and starts anew with each frame.
        ("each frame in time",           idle(100), MAX,  sends(9, ten, 99),               0,   891,  9, None),
        ("on the very tick: ready wins", idle(100), MAX,  sends(9, ten, 100),              0,   900,  9, None),
        ("a tick too late",              idle(100), MAX,  sends(9, ten, 101),              0,   100,  1, Some("read-idle")),
        ("the third is late",            idle(100), MAX,  sends(2, ten, 80).delay(ms(21)), 0,   180,  2, Some("read-idle")),
        ("no limit",                     idle(MAX), MAX,  sends(9, ten, 7_000_000),        0,   63_000_000, 9, None),
        ("a limit of zero, all there",   idle(0),   MAX,  sends(9, ten, 0),                0,   0,    9, None),
        ("a limit of zero, a wait",      idle(0),   MAX,  sends(9, ten, 1),                0,   0,    1, Some("read-idle")),
        // The time that the reader takes does not.
        ("slow reader, all is there",    idle(100), MAX,  sends(9, ten, 0),                200, 1800, 9, None),
        ("slow reader, then a wait",     idle(100), MAX,  sends(9, ten, 99),               200, 2691, 9, None),
        ("slow reader, slow peer",       idle(100), MAX,  sends(9, ten, 101),              200, 300,  1, Some("read-idle")),
        // To the deadline it does: that is the caller's own time.
        ("deadline before idle",         idle(100), 90,   sends(9, ten, 95),               0,   90,   1, Some("deadline")),
        ("idle before deadline",         idle(100), 210,  sends(9, ten, 105),              0,   100,  1, Some("read-idle")),
        ("both at once",                 idle(100), 100,  sends(9, ten, 105),              0,   100,  1, Some("deadline")),
        ("deadline, frame by frame",     idle(100), 250,  sends(9, ten, 60),               0,   250,  5, Some("deadline")),
        ("last frame on the tick",       idle(100), 120,  sends(2, ten, 60).data(ten),     0,   120,  3, None),
        ("endless, deadline",            idle(100), 100,  endless(),                       10,  130, 13, Some("deadline")),
        ("slow reader, as long again",   idle(100), 300,  sends(9, ten, 40),               200, 680,  3, Some("deadline")),
        // So many bytes a second: 100 here.
        ("fast enough",                  slow(500, 0),   MAX, sends(30, ten, 100),         0,   3000, 30, None),
        ("a little too slow",            slow(500, 0),   MAX, sends(30, ten, 110),         0,   1500, 14, Some("throughput")),
        ("too slow, with a grace",       slow(500, 300), MAX, sends(30, "01", 100),        0,   800,  9,  Some("throughput")),
        ("slow at first, with a grace",  slow(500, 300), MAX, sends(30, "01234567", 100),  0,   1300, 14, Some("throughput")),
        ("a byte now and then",          slow(2000, 0),  MAX, sends(30, "0", 900),         0,   2000, 3,  Some("throughput")),
        ("fast, then slow",              slow(500, 0),   MAX, sends(9, ten, 50).data(ten).delay(ms(900)), 0, 1000, 10, Some("throughput")),
        ("slow reader, fast peer",       slow(500, 0),   MAX, sends(30, ten, 90),          300, 11_700, 30, None),
    ];
    for (name, layer, deadline, body, pause, at, frames, limit) in rows {
        let begun = Instant::now();
        let mut body = pin!(timed(layer, deadline, body));
        let mut read = 0;
        let mut ended = None;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(_) => {
                    read += 1;
                    sleep(ms(pause)).await;
                }
                Err(error) => {
                    let elapsed = find::<Elapsed>(&*error).expect("nothing else fails");
                    let where_and_what = (elapsed.phase(), elapsed.delivery());
                    assert_eq!(where_and_what, (Phase::Body, Delivery::Answered), "{name}");
                    if pause == 0 {
                        assert_eq!(elapsed.late_by(), Duration::ZERO, "{name}");
                    }
                    ended = Some(elapsed.name());
                }
            }
        }
        assert_eq!((begun.elapsed(), read, ended), (ms(at), frames, limit), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_fails_once_lets_go_at_once_and_stays_ended() {
    let lives = Lives::default();
    let body = TestBody::from("hello").stall().counted(&lives);
    let mut body = pin!(timed(TimeoutLayer::new(ms(100)), MAX, body));
    assert!(body.frame().await.unwrap().is_ok());
    assert_eq!(lives.alive(), 1);
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "timed out after 100 ms reading the response body (read-idle)");
    assert_eq!(lives.alive(), 0, "the connection goes with the body");
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn it_is_the_body_inside() {
    let throughput = Throughput::new(1, ms(1000)).unwrap();
    let layer = TimeoutLayer::new(ms(1000)).throughput(throughput);
    assert_body_contract(|body| timed(layer.clone(), 1000, body)).await;
}

#[tokio::test(start_paused = true)]
async fn an_error_of_its_own_passes_as_it_is() {
    let mut body = pin!(timed(TimeoutLayer::new(ms(100)), MAX, TestBody::new().error("broken")));
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(error.is::<Scripted>(), "{error}");
}

#[test]
fn a_window_of_no_time_is_refused() {
    assert_eq!(Throughput::new(1, Duration::ZERO), Err(EmptyWindow));
}

/// `body` as it comes through `layer`, from a service that answers at once.
fn timed(layer: TimeoutLayer, deadline: u64, body: TestBody) -> TimeoutBody<TestBody> {
    let mut request = Request::new(());
    Deadline::after(ms(deadline)).tighten(&mut request);
    let answer = |_| std::future::ready(Ok::<_, BoxError>(Response::new(body.clone())));
    let mut call = pin!(layer.layer(service_fn(answer)).oneshot(request));
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(response) => response.unwrap().into_body(),
        Poll::Pending => panic!("the service answers at once"),
    }
}

fn ms(time: u64) -> Duration {
    if time == MAX { Duration::MAX } else { Duration::from_millis(time) }
}

const MAX: u64 = u64::MAX;
