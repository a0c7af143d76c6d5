//! What costs nothing, counted. Alone in its process, so that nobody else allocates.

use std::{alloc::System, hint::black_box};

use http::{Request, Uri};
use outbound_core::{Attempt, CallSite, Deadline, Exchange, Idempotent, Origin, Phase};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[track_caller]
fn check<T>(name: &str, allocations: usize, make: impl FnOnce() -> T) {
    let region = Region::new(ALLOCATOR);
    let made = black_box(make());
    assert_eq!(region.change().allocations, allocations, "{name}");
    drop(made);
}

#[test]
fn allocations() {
    check("an exchange is one", 1, Exchange::new);
    let unique = Exchange::new();
    check("renewed, unique", 0, || unique.renewed(Instant::now()));
    let shared = Exchange::new();
    let other = shared.clone();
    check("renewed, shared", 1, || shared.renewed(Instant::now()));
    check("a clone", 0, || other.clone());
    check("reports and answers", 0, || {
        other.enter(Phase::Send);
        other.wrote(1);
        other.read(1);
        (other.timings(), other.delivery(), other.since())
    });

    let uri: Uri = "https://a.example:8443/path?query".parse().unwrap();
    check("the origin of a plain URI", 0, || Origin::of(&uri).unwrap());
    let origin = Origin::of(&uri).unwrap();
    check("a clone of an origin", 0, || origin.clone());

    let mut request = Request::new(());
    let exchange = Exchange::new();
    let region = Region::new(ALLOCATOR);
    Idempotent.attach(&mut request);
    let first = region.change().allocations;
    Deadline::NEVER.tighten(&mut request);
    Attempt::FIRST.attach(&mut request);
    CallSite::here().attach(&mut request);
    exchange.attach(&mut request);
    assert_eq!(region.change().allocations, first, "all keys after the first");
    check("reading keys", 0, || (Deadline::of(&request), Attempt::of(&request), Exchange::of(&request)));
}
