//! A call that behaves allocates nothing for being watched. Alone in its process.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use allocation_counter::measure;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use outbound_core::{CallSite, Exchange};
use outbound_guard::{LeakGuardLayer, SendExt};
use tower::{Layer, Service, service_fn};
use tracing::subscriber;
use tracing_subscriber::Registry;

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
    let _tracing = subscriber::set_default(Registry::default());
    let span = tracing::info_span!("handling");
    let _entered = span.enter();
    let (layer, detector) = LeakGuardLayer::pair();
    let guarded = layer.layer(answering());
    for (name, request) in [
        ("bare", (|| Request::get("http://a.example/path?query").body(()).unwrap()) as fn() -> Request<()>),
        ("with a call site and an exchange", known),
    ] {
        assert_eq!(allocated(guarded.clone(), request), 0, "{name}");
    }
    detector.assert_no_leaks();
    assert_eq!(detector.stats().totals, Default::default());
}

/// What travels with a request is one entry for the whole stack, made by whoever comes first.
#[tokio::test]
async fn sending_allocates_the_call_site_unless_something_travels_already() {
    let client = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(())));
    let entry = measure(|| CallSite::here().attach(&mut Request::new(()))).count_total;
    let send = |request| measure(|| drop(client.send(request))).count_total;
    assert_eq!(send(Request::new(())), entry);
    assert_eq!(send(known()), 0);
}

fn known() -> Request<()> {
    let mut request = Request::get("http://a.example/").body(()).unwrap();
    Exchange::track(&mut request);
    CallSite::here().attach(&mut request);
    request
}

/// How many allocations the second of two calls through `service` makes, from the call to the end of the body: the first makes
/// the room.
fn allocated<S, B>(mut service: S, request: fn() -> Request<()>) -> u64
where
    S: Service<Request<()>, Response = Response<B>, Error: std::fmt::Debug>,
    B: Body,
{
    let mut call = |request| {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut cx).is_ready());
        let mut call = pin!(service.call(request));
        assert!(call.as_mut().poll(&mut cx).is_pending());
        let Poll::Ready(response) = call.as_mut().poll(&mut cx) else { panic!("it answers the second time") };
        let mut body = pin!(response.unwrap().into_body());
        let ready: [bool; 4] = std::array::from_fn(|_| body.as_mut().poll_frame(&mut cx).is_ready());
        assert_eq!(ready, [false, true, false, true]);
    };
    call(request());
    let mut request = Some(request());
    measure(|| call(request.take().expect("one call"))).count_total
}

/// Answers when polled for the second time.
fn answering() -> impl Service<Request<()>, Response = Response<Halting>, Error = Infallible> + Clone {
    service_fn(|_| {
        let mut polled = false;
        poll_fn(move |_| match std::mem::replace(&mut polled, true) {
            false => Poll::Pending,
            true => Poll::Ready(Ok(Response::new(Halting(0)))),
        })
    })
}
