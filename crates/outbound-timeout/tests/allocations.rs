//! A call that succeeds allocates nothing for its limits, though it waits for its head and for its body.

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

/// Pending, a frame, pending, the end.
struct Halting(u8);

impl Body for Halting {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0 += 1;
        match self.0 {
            1 | 3 => Poll::Pending,
            2 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"hello"))))),
            _ => Poll::Ready(None),
        }
    }
}

#[tokio::test]
async fn the_success_path_allocates_nothing() {
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
    for (name, allocated) in [
        ("bare", allocated(answering(), known())),
        ("timeout", allocated(timeout.layer(answering()), known())),
        ("deadline", allocated(deadline.layer(answering()), known())),
        ("both", allocated(deadline.layer(timeout.layer(answering())), known())),
    ] {
        assert_eq!(allocated, 0, "{name}");
    }
}

/// What travels with the request is made once for the whole stack, by whoever comes first.
#[tokio::test]
async fn what_travels_is_all_that_is_allocated() {
    let long = Duration::from_secs(60);
    let record = measure(|| drop(Exchange::track(&mut Request::new(())))).count_total;
    let entry = measure(|| Deadline::after(long).tighten(&mut Request::new(()))).count_total;
    assert_eq!(allocated(TimeoutLayer::new(long).layer(answering()), Request::new(())), record);
    assert_eq!(allocated(DeadlineLayer::new(long).layer(answering()), Request::new(())), entry);
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
        let ready: [bool; 4] = std::array::from_fn(|_| body.as_mut().poll_frame(&mut cx).is_ready());
        assert_eq!(ready, [false, true, false, true]);
    });
    counted.count_total
}

/// Answers when polled for the second time.
fn answering() -> impl Service<Request<()>, Response = Response<Halting>, Error = Infallible> {
    service_fn(|_| {
        let mut polled = false;
        poll_fn(move |_| match std::mem::replace(&mut polled, true) {
            false => Poll::Pending,
            true => Poll::Ready(Ok(Response::new(Halting(0)))),
        })
    })
}
