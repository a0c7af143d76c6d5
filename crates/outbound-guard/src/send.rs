//! An entry point that knows who called.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Request;
use outbound_core::CallSite;
use tower_service::Service;

/// Sends requests from a line of code that is known: on any service, with or without a guard in it.
///
/// ```
/// use std::convert::Infallible;
/// use http::{Request, Response};
/// use outbound_core::CallSite;
/// use outbound_guard::SendExt;
/// use tower::service_fn;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let client = service_fn(|request: Request<()>| async move {
///     Ok::<_, Infallible>(Response::new(CallSite::of(&request).unwrap().location().line()))
/// });
/// let response = client.send(Request::new(())).await.unwrap();
/// assert_eq!(response.into_body(), line!() - 1);
/// # }
/// ```
pub trait SendExt: Sized {
    /// Makes a clone of this service ready, and calls it with `request`, on which the caller's line is put as its [`CallSite`]
    /// unless one is there already.
    ///
    /// Functions that pass their caller's line on are `#[track_caller]` themselves, and not `async`: they return this future.
    ///
    /// That entry in the request's extensions is what it allocates, unless there is one already.
    ///
    /// # Errors
    /// Those of the service.
    #[track_caller]
    fn send<B>(&self, mut request: Request<B>) -> Sending<Self, B>
    where
        Self: Service<Request<B>> + Clone,
    {
        if CallSite::of(&request).is_none() {
            CallSite::here().attach(&mut request);
        }
        Sending { state: State::Begun { call: Some((self.clone(), request)) } }
    }
}

impl<S> SendExt for S {}

pin_project_lite::pin_project! {
    /// The response to come, of [`SendExt::send`]. Nothing is sent before its first poll.
    #[must_use = "futures do nothing unless polled"]
    pub struct Sending<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, Request<B>, S::Future>,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProj]
    enum State<S, R, F> {
        Begun { call: Option<(S, R)> },
        Called { #[pin] response: F },
    }
}

impl<S, B> Future for Sending<S, B>
where
    S: Service<Request<B>>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let response = match state.as_mut().project() {
                StateProj::Begun { call } => {
                    let (service, _) = call.as_mut().expect("not polled after it was ready");
                    ready!(service.poll_ready(cx))?;
                    let (mut service, request) = call.take().expect("it was there just now");
                    service.call(request)
                }
                StateProj::Called { response } => return response.poll(cx),
            };
            state.set(State::Called { response });
        }
    }
}

impl<S: Service<Request<B>>, B> fmt::Debug for Sending<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").finish_non_exhaustive()
    }
}
