//! A client that calls on behalf of an inbound request.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use axum_core::extract::{FromRef, FromRequestParts};
use http::{Request, request::Parts};
use outbound_core::Deadline;
use tower_service::Service;

/// A client for the calls that a handler makes: the one in the router's state, with the deadline of the inbound request on each call.
///
/// It is an extractor where `State<C>` is one, and a service where `C` is one. The deadline is what [`InboundDeadlineLayer`](super::InboundDeadlineLayer)
/// gave the request, and never lengthens one that a call has, or is given by the client. It ends a call by the layers that look at
/// it: `outbound::DeadlineLayer`, which `outbound::Client` has, retries, limits and the pool.
#[derive(Clone, Copy, Debug)]
pub struct Outbound<C> {
    client: C,
    deadline: Deadline,
}

impl<C> Outbound<C> {
    /// Until when the inbound request is worth answering.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// The client as it is in the state: for calls that may outlive the inbound request.
    pub fn into_inner(self) -> C {
        self.client
    }
}

impl<S, C> FromRequestParts<S> for Outbound<C>
where
    S: Sync,
    C: FromRef<S>,
{
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let deadline = Deadline::of(parts).unwrap_or_default();
        Ok(Self { client: C::from_ref(state), deadline })
    }
}

impl<C, B> Service<Request<B>> for Outbound<C>
where
    C: Service<Request<B>>,
{
    type Response = C::Response;
    type Error = C::Error;
    type Future = C::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.client.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if self.deadline != Deadline::NEVER {
            self.deadline.tighten(&mut request);
        }
        self.client.call(request)
    }
}
