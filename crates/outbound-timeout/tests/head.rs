//! Which limit ends the wait for a response head, and at which instant.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Request, Response};
use outbound_core::{BoxError, Deadline, Delivery, Elapsed, Exchange, Phase, find};
use outbound_timeout::{DeadlineLayer, TimeoutLayer};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneService};

use self::{Delivery::*, Do::*};

/// What the service below does before it answers.
#[derive(Clone, Copy, Debug)]
enum Do {
    Enter(Phase),
    Wrote,
    Starved,
    Fed,
    Wait(u64),
}

type Script = &'static [Do];

type Player = BoxCloneService<Request<Script>, Response<()>, BoxError>;

type Outcome = Result<(), (&'static str, Phase, Delivery)>;

/// Name, head limit, write-idle limit, deadline, what the service does, when the call ends and how; all in milliseconds.
type Row = (&'static str, u64, u64, u64, Script, u64, Outcome);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // Over a service that does not report, all of it counts.
    ("answered in time",               100, MAX, MAX, &[Wait(99)],  99,  Ok(())),
    ("on the very tick: ready wins",   100, MAX, MAX, &[Wait(100)], 100, Ok(())),
    ("a tick too late",                100, MAX, MAX, &[Wait(101)], 100, Err(("head", Phase::Head, Maybe))),
    ("no limit at all",                MAX, MAX, MAX, &[Wait(DAY)], DAY, Ok(())),
    ("write-idle has nothing to see",  100, 10,  MAX, &[Wait(99)],  99,  Ok(())),
    // The earlier of limit and deadline; the deadline, if both are on one tick.
    ("deadline first",                 100, MAX, 50,  &[Wait(99)],  50,  Err(("deadline", Phase::Head, Maybe))),
    ("deadline last",                  100, MAX, 101, &[Wait(102)], 100, Err(("head", Phase::Head, Maybe))),
    ("both at once",                   100, MAX, 100, &[Wait(102)], 100, Err(("deadline", Phase::Head, Maybe))),
    ("both at once, and the answer",   100, MAX, 100, &[Wait(100)], 100, Ok(())),
    ("no limit, but a deadline",       MAX, MAX, DAY, &[Wait(MAX)], DAY, Err(("deadline", Phase::Head, Maybe))),
    // Nothing is sent.
    ("a limit of zero",                0,   MAX, MAX, &[],          0,   Err(("head", Phase::Queue, NotSent))),
    ("a deadline of zero",             100, MAX, 0,   &[],          0,   Err(("deadline", Phase::Queue, NotSent))),
    // Over one that does, it counts from the request having been sent.
    ("the head alone counts",          100, MAX, MAX, &[Enter(Phase::Acquire), Wait(70), Enter(Phase::Connect), Wait(70), Enter(Phase::Send), Wait(70), Enter(Phase::Head), Wait(99)], 309, Ok(())),
    ("the head is late",               100, MAX, MAX, &[Enter(Phase::Connect), Wait(70), Enter(Phase::Send), Wrote, Wait(75), Enter(Phase::Head), Wait(101)], 245, Err(("head", Phase::Head, Maybe))),
    ("sent between two ticks of ours", 100, MAX, MAX, &[Enter(Phase::Send), Wrote, Wait(101), Enter(Phase::Head), Wait(MAX)], 201, Err(("head", Phase::Head, Maybe))),
    ("sent again on another",          100, MAX, MAX, &[Enter(Phase::Head), Wait(60), Enter(Phase::Connect), Wait(60), Enter(Phase::Head), Wait(99)], 219, Ok(())),
    ("the deadline while connecting",  100, MAX, 300, &[Enter(Phase::Connect), Wait(500)], 300, Err(("deadline", Phase::Connect, NotSent))),
    ("somebody withholds the answer",  100, MAX, MAX, &[Enter(Phase::Send), Wrote, Wait(20), Enter(Phase::Head), Wait(50), Enter(Phase::Body), Wait(51)], 120, Err(("head", Phase::Body, Answered))),
    ("sent twice, answer withheld",    100, MAX, MAX, &[Enter(Phase::Head), Wait(60), Enter(Phase::Connect), Wait(99), Enter(Phase::Head), Wait(10), Enter(Phase::Body), Wait(89)], 258, Ok(())),
    ("sent twice, withheld too long",  100, MAX, MAX, &[Enter(Phase::Head), Wait(60), Enter(Phase::Connect), Wait(99), Enter(Phase::Head), Wait(10), Enter(Phase::Body), Wait(91)], 259, Err(("head", Phase::Body, Answered))),
    // Write-idle.
    ("the peer takes a little",        100, 40,  MAX, &[Enter(Phase::Send), Wait(39), Wrote, Wait(40), Wrote, Wait(39), Enter(Phase::Head)], 118, Ok(())),
    ("the peer takes nothing",         100, 40,  MAX, &[Enter(Phase::Connect), Wait(15), Enter(Phase::Send), Wait(MAX)], 55, Err(("write-idle", Phase::Send, NotSent))),
    ("the peer takes no more",         100, 40,  MAX, &[Enter(Phase::Send), Wrote, Wait(30), Wrote, Wait(MAX)], 70, Err(("write-idle", Phase::Send, Maybe))),
    ("the body has nothing to give",   100, 40,  MAX, &[Enter(Phase::Send), Wrote, Starved, Wait(500), Fed, Wrote, Enter(Phase::Head)], 500, Ok(())),
    ("nobody takes what it gave",      100, 40,  MAX, &[Enter(Phase::Send), Wrote, Starved, Wait(500), Fed, Wait(MAX)], 540, Err(("write-idle", Phase::Send, Maybe))),
    ("the deadline in an upload",      100, 40,  110, &[Enter(Phase::Send), Wrote, Wait(39), Wrote, Wait(39), Wrote, Wait(39)], 110, Err(("deadline", Phase::Send, Maybe))),
];

#[tokio::test(start_paused = true)]
async fn the_earliest_limit_ends_the_call_at_its_instant() {
    for &(name, head, write_idle, deadline, script, at, outcome) in ROWS {
        let layer = TimeoutLayer::new(ms(head)).write_idle(ms(write_idle));
        let mut request = Request::new(script);
        Deadline::after(ms(deadline)).tighten(&mut request);
        assert_eq!(ended(layer, request).await, (ms(at), outcome), "{name}");
    }
}

/// The same, where the deadline is the layer's own.
#[tokio::test(start_paused = true)]
async fn a_deadline_layer_alone() {
    for &(name, _, _, deadline, script, at, outcome) in ROWS.iter().filter(|row| row.1 == MAX) {
        let request = Request::new(script);
        assert_eq!(ended(DeadlineLayer::new(ms(deadline)), request).await, (ms(at), outcome), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_idle_limits_start_out_as_the_head_limit() {
    let upload: Script = &[Enter(Phase::Send), Wait(MAX)];
    let outcome = Err(("write-idle", Phase::Send, NotSent));
    assert_eq!(ended(TimeoutLayer::new(ms(100)), Request::new(upload)).await, (ms(100), outcome));
}

#[tokio::test(start_paused = true)]
async fn the_earlier_deadline_wins() {
    for (name, brought, own, at) in [("the caller's", 50, 100, 50), ("the layer's", 100, 50, 50)] {
        let mut request = Request::new(&[Wait(MAX)] as Script);
        Deadline::after(ms(brought)).tighten(&mut request);
        let (took, outcome) = ended(DeadlineLayer::new(ms(own)), request).await;
        assert_eq!((took, outcome), (ms(at), Err(("deadline", Phase::Head, Maybe))), "{name}");
    }
}

/// As after a retry layer that knows nothing of records and sends the request again as it was.
#[tokio::test(start_paused = true)]
async fn an_old_record_is_no_reason_to_fail() {
    let mut request = Request::new(&[Wait(MAX)] as Script);
    Exchange::track(&mut request).enter(Phase::Head);
    sleep(ms(500)).await;
    let outcome = Err(("head", Phase::Head, NotSent));
    assert_eq!(ended(TimeoutLayer::new(ms(100)), request).await, (ms(100), outcome));
}

/// The layer that knows more of the call tells what happened to it.
#[tokio::test(start_paused = true)]
async fn what_the_inner_layer_saw_is_what_the_caller_gets() {
    let script: Script = &[Enter(Phase::Connect), Wait(MAX)];
    let layer = (DeadlineLayer::new(ms(50)), TimeoutLayer::new(ms(100)));
    assert_eq!(
        ended(layer, Request::new(script)).await,
        (ms(50), Err(("deadline", Phase::Connect, NotSent)))
    );
}

#[tokio::test(start_paused = true)]
async fn the_error_says_it_all_in_a_line() {
    let script: Script = &[Enter(Phase::Send), Wrote, Enter(Phase::Head), Wait(MAX)];
    let error = TimeoutLayer::new(ms(250)).layer(player().0).oneshot(Request::new(script)).await.unwrap_err();
    assert!(
        error.to_string().starts_with("timed out after 250 ms waiting for the response head,"),
        "{error}"
    );
    let elapsed = find::<Elapsed>(&*error).unwrap();
    assert_eq!((elapsed.limit(), elapsed.elapsed(), elapsed.late_by()), (ms(250), ms(250), ms(0)));
    assert_eq!(elapsed.snapshot().unwrap().bytes_out, 1);
}

/// Sends `request` through `layer`; whatever failed before it began has sent nothing.
async fn ended<L>(layer: L, request: Request<Script>) -> (Duration, Outcome)
where
    L: Layer<Player>,
    L::Service: Service<Request<Script>, Error = BoxError>,
{
    let (player, calls) = player();
    let begun = Instant::now();
    let outcome = match layer.layer(player).oneshot(request).await {
        Ok(_) => Ok(()),
        Err(error) => {
            let elapsed = find::<Elapsed>(&*error).expect("nothing else fails");
            assert_eq!(elapsed.late_by(), Duration::ZERO, "{elapsed}");
            assert_eq!(calls.load(Relaxed) == 0, elapsed.phase() == Phase::Queue, "{elapsed}");
            Err((elapsed.name(), elapsed.phase(), elapsed.delivery()))
        }
    };
    (begun.elapsed(), outcome)
}

fn player() -> (Player, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let player = service_fn({
        let calls = calls.clone();
        move |request| {
            calls.fetch_add(1, Relaxed);
            play(request)
        }
    });
    (BoxCloneService::new(player), calls)
}

async fn play(request: Request<Script>) -> Result<Response<()>, BoxError> {
    let exchange = Exchange::of(&request).unwrap_or_default();
    for &step in *request.body() {
        match step {
            Enter(phase) => exchange.enter(phase),
            Wrote => exchange.wrote(1),
            Starved => exchange.starved(),
            Fed => exchange.fed(),
            Wait(time) => sleep(ms(time)).await,
        }
    }
    Ok(Response::new(()))
}

fn ms(time: u64) -> Duration {
    if time == MAX { Duration::MAX } else { Duration::from_millis(time) }
}

const DAY: u64 = 24 * 60 * 60 * 1000;
const MAX: u64 = u64::MAX;
