//! Calls that move between threads, and wakers of calls that are over.

mod support;

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

use allocation_counter::measure;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, channel::Channel};
use outbound_guard::{LeakGuardLayer, SendExt};
use outbound_pool::{Pool, connect::Tcp};
use outbound_testkit::{Friendly, handler};
use support::*;
use tower::{Layer, Service, service_fn};

/// Frames come from one thread while another reads: no wake-up is lost, and nothing stays behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_wake_up_is_lost() {
    let log = Log::new();
    let (layer, detector) = LeakGuardLayer::builder().callback(log.callback()).pair();
    let client = layer.layer(service_fn(async |_: Request<()>| {
        let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
        tokio::spawn(async move {
            for _ in 0..50 {
                sender.send_data(Bytes::from_static(b"hello")).await.unwrap();
            }
        });
        Ok::<_, Infallible>(Response::new(body))
    }));
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let body = client.send(Request::new(())).await.unwrap().into_body();
                let read = tokio::spawn(body.collect());
                assert_eq!(read.await.unwrap().unwrap().to_bytes().len(), 250);
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    detector.assert_no_leaks();
    assert_eq!(log.take(), []);
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// The record of a call is used again: a waker that somebody kept of an earlier one does no harm to the later.
#[tokio::test(start_paused = true)]
async fn a_waker_of_an_earlier_call_costs_one_poll() {
    let kept: Arc<Mutex<Vec<Waker>>> = Arc::default();
    let keeping = kept.clone();
    let log = Log::new();
    let (layer, detector) = LeakGuardLayer::builder().callback(log.callback()).pair();
    let mut client = layer.layer(service_fn(move |_: Request<()>| {
        let kept = keeping.clone();
        poll_fn(move |cx| {
            kept.lock().unwrap().push(cx.waker().clone());
            Poll::<Result<Response<Full<Bytes>>, Infallible>>::Pending
        })
    }));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    drop(futures_poll(pin!(client.call(Request::new(())))));
    let mut later = Box::pin(client.call(Request::new(())));
    assert!(later.as_mut().poll(&mut cx).is_pending());

    let wakers = std::mem::take(&mut *kept.lock().unwrap());
    assert!(wakers[0].will_wake(&wakers[1]), "the record is the same");
    wakers[0].wake_by_ref();
    assert_eq!(woken.0.load(SeqCst), 1);
    assert!(later.as_mut().poll(&mut cx).is_pending());
    tokio::time::sleep(ms(60_000)).await;
    assert_eq!(log.take(), [], "the peer is awaited");
    wakers[1].wake_by_ref();
    assert_eq!(woken.0.load(SeqCst), 2);
    assert!(later.as_mut().poll(&mut cx).is_pending());
    let held = Arc::strong_count(&woken);
    drop(later);
    assert_eq!(Arc::strong_count(&woken), held - 1, "a call that is over holds nobody");
    wakers[0].wake_by_ref();
    assert_eq!(woken.0.load(SeqCst), 2, "it is over");
    detector.assert_no_leaks();
}

/// What a burst took is given back.
#[test]
fn a_burst_leaves_little_behind() {
    let (layer, detector) = LeakGuardLayer::pair();
    let mut client = layer.layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
    }));
    drop(client.call(Request::new(())));
    let counted = measure(|| {
        let calls: Vec<_> = (0..100_000).map(|_| client.call(Request::new(()))).collect();
        assert_eq!(detector.snapshot().len(), calls.len());
    });
    assert!(counted.bytes_max > 10_000_000, "{counted:?}");
    assert!(counted.bytes_current < 200_000, "{counted:?}");
}

/// A forgotten body is never dropped by its holder, and its connection is free all the same.
#[tokio::test]
async fn a_forgotten_body_is_reclaimed_with_its_connection() {
    let upstream = Friendly::new(handler::fixed(1_000_000)).start();
    let (layer, _detector) = LeakGuardLayer::builder().held(ms(10)).reclaim_after(ms(20)).pair();
    let client = layer.layer(Pool::builder().build(Tcp::new()).unwrap());
    let request = Request::get(upstream.uri("/")).body(Full::<Bytes>::default()).unwrap();
    let body = Box::new(client.send(request).await.unwrap().into_body());
    let _ = std::mem::ManuallyDrop::new(body);
    upstream.all_closed().await;
}
