//! A deadline that leaves waking to a timer inside it ends on time, whatever becomes of that timer.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{Request, Response};
use http_body_util::Empty;
use outbound_core::{BoxError, Deadline, Elapsed, find};
use outbound_timeout::{DeadlineLayer, TimeoutLayer};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

type Answer = Response<Empty<&'static [u8]>>;
type Call = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// What becomes of a call inside that is limited by itself.
#[derive(Clone, Copy)]
enum Fate {
    Awaited,
    /// Polled once, and dropped by then.
    Dropped,
    /// Polled once, and kept.
    Kept,
    /// Polled once by somebody whom nobody wakes, and kept.
    KeptUnheard,
    /// Awaited by a task of its own.
    Spawned,
    /// Dropped when it has been awaited for a while.
    DroppedLater,
}

fn inner() -> Call {
    let silent = service_fn(async |_| {
        pending::<()>().await;
        Ok::<Answer, Infallible>(Response::default())
    });
    let call = TimeoutLayer::new(Duration::from_secs(60)).layer(silent);
    let mut request = Request::new(());
    Deadline::after(Duration::from_millis(700)).tighten(&mut request);
    Box::pin(async move { call.oneshot(request).await.map(drop) })
}

async fn suffer(fate: Fate) {
    let mut call = inner();
    let mut once = async |waker: Option<&Waker>| {
        poll_fn(|cx| {
            let mut unheard = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(if waker.is_some() { &mut unheard } else { cx }).is_pending());
            Poll::Ready(())
        })
        .await;
    };
    match fate {
        Fate::Awaited => drop(call.await),
        Fate::Dropped => {
            once(None).await;
            drop(call);
        }
        Fate::Kept => once(None).await,
        Fate::KeptUnheard => once(Some(Waker::noop())).await,
        Fate::Spawned => drop(tokio::spawn(call).await),
        Fate::DroppedLater => tokio::select! {
            _ = &mut call => {}
            () = sleep(Duration::from_millis(300)) => drop(call),
        },
    }
    pending().await
}

#[tokio::test(start_paused = true)]
async fn a_deadline_outside_ends_on_time_whatever_becomes_of_the_timer_inside() {
    #[rustfmt::skip]
    let table = [
        ("awaited",         Fate::Awaited),
        ("dropped",         Fate::Dropped),
        ("kept",            Fate::Kept),
        ("kept, unheard",   Fate::KeptUnheard),
        ("spawned",         Fate::Spawned),
        ("dropped later",   Fate::DroppedLater),
    ];
    for (name, fate) in table {
        let service = service_fn(move |_: Request<()>| async move {
            suffer(fate).await;
            Ok::<Answer, Infallible>(Response::default())
        });
        let mut client = DeadlineLayer::new(Duration::from_secs(1)).layer(service);
        let begun = Instant::now();
        let error = client.call(Request::new(())).await.unwrap_err();
        assert_eq!(find::<Elapsed>(&*error).unwrap().name(), "deadline", "{name}");
        assert_eq!(begun.elapsed(), Duration::from_secs(1), "{name}");
    }
}
