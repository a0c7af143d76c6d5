//! A call that succeeds allocates nothing for its limits, though it waits for its head; a body that it waits for, its timer.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use allocation_counter::measure;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use outbound_core::{Deadline, Exchange};
use outbound_timeout::{DeadlineLayer, StallMonitor, Throughput, TimeoutLayer};
use tower::{Layer, Service, service_fn};

/// Pending, a frame, pending, the end; or the frame and the end at once.
struct Halting(u8, bool);

impl Body for Halting {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0 += 1;
        match self.0 {
            1 | 3 if self.1 => Poll::Pending,
            1 | 2 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"hello"))))),
            _ => Poll::Ready(None),
        }
    }
}

#[tokio::test]
async fn the_success_path_allocates_nothing_but_the_timer_of_a_body_that_is_waited_for() {
    let long = Duration::from_secs(60);
    let monitor = StallMonitor::new();
    let timeout =
        TimeoutLayer::new(long).throughput(Throughput::new(1, long).unwrap()).stall_monitor(&monitor);
    let deadline = DeadlineLayer::new(long).stall_monitor(&monitor);

    let known = || {
        let mut request = Request::new(());
        Deadline::after(long).tighten(&mut request);
        Exchange::track(&mut request);
        request
    };
    let both = deadline.layer(timeout.layer(answering(true)));
    let plain = DeadlineLayer::new(long).layer(TimeoutLayer::new(long).layer(answering(true)));
    for (name, allocated, expected) in [
        ("bare", allocated(answering(true), known()), 0),
        ("deadline, the body is there", allocated(deadline.layer(answering(false)), known()), 0),
        ("timeout, the body is there", allocated(timeout.layer(answering(false)), known()), 1),
        ("deadline", allocated(deadline.layer(answering(true)), known()), 1),
        ("timeout, with its window", allocated(timeout.layer(answering(true)), known()), 2),
        ("both, each with a timer for the monitor", allocated(both, known()), 3),
        ("both, one timer for both", allocated(plain, known()), 1),
    ] {
        assert_eq!(allocated, expected, "{name}");
    }
}

/// What travels with the request is made once for the whole stack, by whoever comes first.
#[tokio::test]
async fn what_travels_is_all_that_is_allocated() {
    let long = Duration::from_secs(60);
    let record = measure(|| drop(Exchange::track(&mut Request::new(())))).count_total;
    let entry = measure(|| Deadline::after(long).tighten(&mut Request::new(()))).count_total;
    assert_eq!(allocated(TimeoutLayer::new(long).layer(answering(false)), Request::new(())), record);
    assert_eq!(allocated(DeadlineLayer::new(long).layer(answering(false)), Request::new(())), entry);
}

/// How many allocations one call through `service` makes, from the call to the end of the body.
fn allocated<S, B>(mut service: S, request: Request<()>) -> u64
where
    S: Service<Request<()>, Response = Response<B>, Error: std::fmt::Debug>,
    B: Body,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let mut request = Some(request);
    let counted = measure(|| {
        let mut call = pin!(service.call(request.take().expect("one call")));
        assert!(call.as_mut().poll(&mut cx).is_pending());
        let Poll::Ready(response) = call.as_mut().poll(&mut cx) else { panic!("it answers the second time") };
        let mut body = pin!(response.unwrap().into_body());
        while !matches!(body.as_mut().poll_frame(&mut cx), Poll::Ready(None)) {}
    });
    counted.count_total
}

/// Answers when polled for the second time, with a body that has to be waited for or not.
fn answering(waits: bool) -> impl Service<Request<()>, Response = Response<Halting>, Error = Infallible> {
    service_fn(move |_| {
        let mut polled = false;
        poll_fn(move |_| match std::mem::replace(&mut polled, true) {
            false => Poll::Pending,
            true => Poll::Ready(Ok(Response::new(Halting(0, waits)))),
        })
    })
}
