//! Keys do not disturb each other, and take memory while they are in use only.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::{Pin, pin},
    sync::{Arc, Barrier, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{Request, Response, Version, request::Parts};
use outbound_core::{BoxError, OnEnd, Origin, Overloaded, find};
use outbound_limit::{ConcurrencyLimit, ConcurrencyLimitLayer, PerOrigin, Release};
use outbound_testkit::{Plan, Probe, TestBody};
use tower::{Layer, Service, ServiceExt, service_fn};

type Limited = ConcurrencyLimit<Probe, PerOrigin>;

fn per_origin(limit: usize) -> (Limited, PerOrigin) {
    let layer = ConcurrencyLimitLayer::new(limit).max_waiting(2).per_origin();
    let (probe, _) = Probe::pair([Plan::new().body("held")]);
    (layer.layer(probe), layer.handle())
}

fn to(uri: &str) -> Request<TestBody> {
    Request::get(uri).body(TestBody::new()).unwrap()
}

fn origin(uri: &str) -> Option<Origin> {
    Origin::of(&uri.parse().unwrap()).ok()
}

async fn call(service: &Limited, uri: &str) -> Result<Response<OnEnd<TestBody, Release>>, BoxError> {
    service.clone().oneshot(to(uri)).await
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn a_noisy_key_does_not_disturb_another() {
    let (service, handle) = per_origin(1);
    let noisy = call(&service, "http://noisy.example/").await.unwrap();
    let mut line: Vec<_> = (0..2).map(|_| Box::pin(call(&service, "http://noisy.example/"))).collect();
    for call in &mut line {
        assert!(poll_once(call.as_mut()).is_pending());
    }
    let error = call(&service, "http://NOISY.example:80/x").await.unwrap_err();
    let error = find::<Overloaded>(&*error).unwrap();
    assert_eq!(error.origin(), origin("http://noisy.example").as_ref());
    assert_eq!((error.limit(), error.waiting()), (1, 2));

    let calm = call(&service, "http://calm.example/").await.unwrap();
    let tls = call(&service, "https://noisy.example/").await.unwrap();
    assert_eq!(handle.keys(), 3);
    let stats = handle.stats_of(&origin("http://noisy.example")).unwrap();
    assert_eq!((stats.in_use, stats.waiting, stats.rejected), (1, 2, 1));
    let stats = handle.stats();
    assert_eq!((stats.limit, stats.in_use, stats.waiting, stats.rejected), (1, 3, 2, 1));
    drop((noisy, line, calm, tls));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_nobody_uses_is_forgotten() {
    let (service, handle) = per_origin(1);
    assert_eq!(handle.keys(), 0);
    let held = call(&service, "http://a.example/").await.unwrap();
    let mut waiting = Box::pin(call(&service, "http://a.example/"));
    assert!(poll_once(waiting.as_mut()).is_pending());
    tokio::time::advance(Duration::from_millis(7)).await;
    assert_eq!(handle.keys(), 1);
    drop(held);
    assert_eq!(handle.keys(), 1, "still waited for");
    drop(waiting);
    assert_eq!((handle.keys(), handle.stats_of(&origin("http://a.example"))), (0, None));
    assert_eq!(handle.stats().longest_wait, Duration::from_millis(7), "what it counted stays");

    // Ten thousand at once, and none after: also when they fail, time out or are dropped in the middle.
    let mut many = Vec::new();
    for index in 0..10_000 {
        many.push(call(&service, &format!("http://{index}.example/")).await.unwrap());
    }
    assert_eq!((handle.keys(), handle.stats().in_use), (10_000, 10_000));
    drop(many);
    assert_eq!((handle.keys(), handle.stats().in_use), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn whoever_is_turned_away_leaves_no_key_behind() {
    let layer = ConcurrencyLimitLayer::new(0).max_wait(Duration::from_secs(1)).per_origin();
    let handle = layer.handle();
    let (probe, _) = Probe::pair([Plan::new()]);
    let service = layer.layer(probe);
    let at_once = layer.max_waiting(0).layer(Probe::pair([Plan::new()]).0);
    let late = call(&service, "http://a.example/").await.unwrap_err();
    let full = call(&at_once, "http://a.example/").await.unwrap_err();
    assert!(late.to_string().ends_with("gave up after 1 s"), "{late}");
    assert!(full.to_string().ends_with("0 waiting"), "{full}");
    assert_eq!((handle.keys(), handle.stats().rejected), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_all_keys_changes() {
    let (service, handle) = per_origin(1);
    let held = call(&service, "http://a.example/").await.unwrap();
    let mut waiting = pin!(call(&service, "http://a.example/"));
    assert!(poll_once(waiting.as_mut()).is_pending());
    handle.set_limit(2);
    let Poll::Ready(Ok(second)) = poll_once(waiting.as_mut()) else { panic!("a known key") };
    let fresh = call(&service, "http://b.example/").await.unwrap();
    let fresh = (fresh, call(&service, "http://b.example/").await.unwrap());
    assert_eq!((handle.stats().limit, handle.stats().in_use), (2, 4));
    drop((held, second, fresh));
    assert_eq!(handle.keys(), 0);
}

#[tokio::test(start_paused = true)]
async fn any_key_will_do() {
    /// Not even `Clone`.
    #[derive(PartialEq, Eq, Hash)]
    struct Tenant(Vec<u8>);
    let layer = ConcurrencyLimitLayer::new(1)
        .max_waiting(0)
        .per_key(|request| request.headers.get("tenant").map(|tenant| Tenant(tenant.as_bytes().to_vec())));
    let (probe, _) = Probe::pair([Plan::new().body("held")]);
    let service = layer.layer(probe);
    let call = async |tenant: &'static str| {
        let request = Request::get("/path").header("tenant", tenant).body(TestBody::new()).unwrap();
        service.clone().oneshot(request).await
    };
    let a = call("a").await.unwrap();
    let b = call("b").await.unwrap();
    assert!(call("a").await.is_err());
    drop((a, b));
    call("a").await.unwrap();
    assert_eq!(layer.handle().keys(), 0);
}

/// The key is made of the head, and nothing of that is lost on the way.
#[tokio::test(start_paused = true)]
async fn a_request_goes_on_as_it_came() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = |seen: &Mutex<Vec<String>>, head: &Parts| {
        let number = head.extensions.get::<u8>();
        seen.lock().unwrap().push(format!("{head:?} {number:?}"));
    };
    let (keys, calls) = (seen.clone(), seen.clone());
    let layer = ConcurrencyLimitLayer::new(1).per_key(move |head| note(&keys, head));
    let service = layer.layer(service_fn(move |request: Request<TestBody>| {
        note(&calls, &request.into_parts().0);
        ready(Ok::<_, Infallible>(Response::new(TestBody::new())))
    }));
    let request =
        Request::put("http://a.example/path?query").version(Version::HTTP_2).header("name", "value");
    service.oneshot(request.extension(7_u8).body(TestBody::new()).unwrap()).await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0], seen[1]);
    for part in ["PUT", "/path?query", "HTTP/2.0", "\"value\"", "Some(7)"] {
        assert!(seen[1].contains(part), "{part} in {}", seen[1]);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_without_an_origin_share_a_limit() {
    let (service, handle) = per_origin(1);
    let held = call(&service, "/path").await.unwrap();
    assert!(poll_once(pin!(call(&service, "/other"))).is_pending());
    assert_eq!((handle.keys(), handle.stats_of(&None).unwrap().in_use), (1, 1));
    drop(held);
}

/// Each round four threads call the same key, and let go of it at once.
#[test]
fn threads_that_meet_at_a_key_neither_lose_it_nor_leave_it_behind() {
    let layer = ConcurrencyLimitLayer::new(3).max_waiting(0).per_key(|_| ());
    let handle = layer.handle();
    let in_step = Barrier::new(THREADS);
    // Told at the end: a thread that panics would leave the others at the barrier.
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut service = layer.layer(tower::service_fn(|_: Request<()>| {
                    std::future::ready(Ok::<_, BoxError>(Response::new(TestBody::from("held"))))
                }));
                for round in 0..5_000 {
                    in_step.wait();
                    let response = poll_once(pin!(service.call(Request::new(()))));
                    if in_step.wait().is_leader() {
                        let stats = handle.stats();
                        if (handle.keys(), stats.in_use, stats.rejected) != (1, 3, round + 1) {
                            wrong.lock().unwrap().push(format!("round {round}: {stats:?}"));
                        }
                    }
                    in_step.wait();
                    drop(response);
                    if in_step.wait().is_leader() && handle.keys() != 0 {
                        wrong.lock().unwrap().push(format!("round {round}: left behind"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} rounds, the first: {}", wrong.len(), wrong[0]);
}

const THREADS: usize = 4;
