//! What retry layers carry: the ledger, the sum of the retries, and the part of the context that outlives an attempt.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use outbound_core::{
    Account, Attempt, BoxError, CallContext, CoolingDown, Deadline, Delivery, Exchange, Failure, GaveUp,
    Idempotent, Kind, Ledger, Origin, Retries,
};
use tokio::time::Instant;

#[derive(Debug)]
struct Penniless;

impl Account for Penniless {
    fn withdraw(&self, _: Option<Kind>) -> Option<u64> {
        None
    }

    fn settle(&self, _: u64, _: bool) {}
}

#[test]
fn call_context_is_everything_but_the_attempt() {
    let mut request = Request::new(());
    assert!(CallContext::of(&request).is_none());
    Deadline::after(Duration::MAX).tighten(&mut request);
    Idempotent.attach(&mut request);
    Attempt::FIRST.attach(&mut request);
    Exchange::track(&mut request);
    Ledger::new(Arc::new(Penniless)).attach(&mut request);
    let retries = Retries::track(&mut request);

    let mut next = Request::new(());
    Exchange::track(&mut next);
    CallContext::of(&request).unwrap().attach(&mut next);
    assert_eq!(Deadline::of(&next), Some(Deadline::NEVER));
    assert!(Idempotent::of(&next));
    assert!(Attempt::of(&next).is_none(), "its number is the attempt's own");
    assert!(Exchange::of(&next).is_none(), "its record is the attempt's own");
    assert!(Ledger::of(&next).unwrap().account().withdraw(None).is_none());
    retries.resend(7);
    assert_eq!(Retries::of(&next).unwrap().resent(), 7, "the sum is the call's");
}

#[test]
fn the_first_attempt_is_noted_only_where_that_costs_nothing() {
    let mut bare = Response::new(());
    Attempt::FIRST.note(&mut bare);
    assert!(bare.extensions().is_empty());
    Attempt::FIRST.next().note(&mut bare);
    assert_eq!(Attempt::of(&bare).unwrap().number(), 2);

    let mut carrying = Response::new(());
    Idempotent.attach(&mut carrying);
    Attempt::FIRST.note(&mut carrying);
    assert_eq!(Attempt::of(&carrying), Some(Attempt::FIRST));
}

#[tokio::test(start_paused = true)]
async fn retries_add_up_until_somebody_gives_up() {
    let retries = Retries::new();
    retries.retry(Duration::from_secs(1));
    let at = Instant::now() + Duration::from_secs(9);
    retries.give_up(GaveUp::Deadline, Some(at));
    assert_eq!((retries.gave_up(), retries.retry_at()), (Some(GaveUp::Deadline), Some(at)));
    retries.retry(Duration::from_secs(2));
    assert_eq!((retries.count(), retries.slept()), (2, Duration::from_secs(3)));
    assert_eq!((retries.gave_up(), retries.retry_at()), (None, None), "an outer layer went on");
}

#[test]
fn cooling_down_reads_as_nothing_sent() {
    let origin = Origin::of(&"https://user:secret@example.com/".parse().unwrap()).unwrap();
    let error: BoxError = CoolingDown::new(origin, Duration::from_millis(3200)).into();
    assert_eq!(
        error.to_string(),
        "https://example.com asked for no requests for a while, try again in 3.20 s: nothing was sent"
    );
    let failure = Failure::of(&*error);
    assert_eq!((failure.kind(), failure.delivery()), (Kind::Overloaded, Delivery::NotSent));
}
