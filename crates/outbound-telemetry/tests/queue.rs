//! How long an attempt waited for its turn.

mod support;

use std::time::Duration;

use http::{Request, Response};
use outbound_core::{BoxError, Elapsed, Exchange, Origin, Overloaded, Phase};
use outbound_retry::RetryLayer;
use outbound_testkit::{Plan, Probe, TestBody};
use support::{Told, get, ms};
use tower::{Layer, ServiceExt, service_fn};

/// Whoever reports on the exchange is believed; of who does not, nothing is known, unless a limit says so itself.
#[tokio::test(start_paused = true)]
async fn time_in_queue_is_told_where_it_is_known() {
    use Phase::{Acquire, Connect, Head, Queue, Send};
    let answered = || Ok(());
    let overloaded = || Err(BoxError::from(Overloaded::new("limit", 1, 1)));
    let gave_up = || Err(BoxError::from(Overloaded::new("limit", 1, 1).waited(ms(30))));
    let no_head = || Err(BoxError::from(Elapsed::new(Head, ms(10))));
    let too_late = || Err(BoxError::from(Elapsed::new(Queue, ms(10))));
    let invalid = || Err(BoxError::from(Origin::of(&"ftp://a.example".parse().unwrap()).unwrap_err()));
    type Row<'a> = (&'a str, &'a [(Phase, u64)], fn() -> Result<(), BoxError>, Option<f64>);
    #[rustfmt::skip]
    let rows: [Row<'_>; 11] = [
        ("warm",                       &[(Send, 5), (Head, 5)],                                answered,   Some(0.0)),
        ("queued",                     &[(Queue, 30), (Send, 5)],                              answered,   Some(0.03)),
        ("queued and dialed",          &[(Queue, 30), (Acquire, 20), (Connect, 10), (Send, 5)], answered,   Some(0.05)),
        ("failed later",               &[(Queue, 30), (Send, 10)],                             no_head,    Some(0.03)),
        ("failed acquiring",           &[(Queue, 30), (Acquire, 20)],                          overloaded, Some(0.05)),
        ("turned away",                &[],                                                    overloaded, Some(0.0)),
        ("turned away, having waited", &[(Queue, 40)],                                         gave_up,    Some(0.03)),
        ("not sent, not reported",     &[(Queue, 40)],                                         too_late,   None),
        ("not sendable, not reported", &[(Queue, 40)],                                         invalid,    None),
        ("answered, not reported",     &[(Queue, 40)],                                         answered,   None),
        ("failed, not reported",       &[(Queue, 40)],                                         no_head,    None),
    ];
    for (name, phases, outcome, expected) in rows {
        let told = Told::new();
        let phases = phases.to_vec();
        let service = service_fn(move |request: Request<TestBody>| {
            let (exchange, phases) = (Exchange::of(&request).unwrap(), phases.clone());
            async move {
                for (phase, time) in phases {
                    if phase != Queue {
                        exchange.enter(phase);
                    }
                    tokio::time::sleep(Duration::from_millis(time)).await;
                }
                outcome().map(|()| Response::new(TestBody::new()))
            }
        });
        let _ = told.layer().layer(service).oneshot(get("http://a.example/")).await;
        let metrics = told.metrics();
        let queue = metrics.get("http.client.request.time_in_queue");
        assert_eq!(queue.map(|queue| queue.points[0].value), expected, "{name}");
    }
}

/// Outside retry the time between attempts is in no queue: 100 ms and more of it here.
#[tokio::test(start_paused = true)]
async fn backoff_is_no_queue() {
    let told = Told::new();
    let turned_away =
        || Plan::new().delay(ms(20)).error_from(|| Overloaded::new("limit", 1, 1).waited(ms(20)));
    let (inner, probe) = Probe::pair([turned_away(), turned_away(), turned_away()]);
    let service = told.layer().layer(RetryLayer::default().layer(inner));
    let _ = service.oneshot(get("http://a.example/")).await;
    assert_eq!(probe.counts().calls, 3);
    let queued = told.only("http.client.request.time_in_queue");
    assert_eq!((queued.count, queued.value), (1, 0.02), "of the attempt that failed last");
}
