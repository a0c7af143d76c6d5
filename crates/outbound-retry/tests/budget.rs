//! How much extra traffic there can be, whatever happens.

use std::{
    future::{Ready, ready},
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use outbound_core::{BoxError, Elapsed, GaveUp, Kind, Ledger, Phase, Retries};
use outbound_retry::{Backoff, Budget, Ratio, Replay, RetryLayer, Rule, Share, Standard, Tokens};
use outbound_testkit::{Gate, Plan, Probe, TestBody};
use proptest::{prelude::*, test_runner::TestCaseError};
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceExt, service_fn};

const SECOND: Duration = Duration::from_secs(1);

fn eager() -> Standard {
    Standard::default().backoff(Backoff::new(Duration::ZERO, Duration::ZERO).unwrap())
}

fn layer(attempts: u32, budget: &Budget) -> RetryLayer {
    RetryLayer::new(eager()).max_attempts(NonZeroU32::new(attempts).unwrap()).budget(budget.clone())
}

fn get(host: &str) -> Request<TestBody> {
    Request::get(format!("http://{host}/")).body(TestBody::new()).unwrap()
}

/// How many attempts so many calls, one after the other, make of a service that always fails.
async fn storm(layer: &RetryLayer, calls: usize, plan: Plan) -> usize {
    let (probe, handle) = Probe::pair([plan]);
    let service = layer.layer(probe);
    for _ in 0..calls {
        let _ = service.clone().oneshot(get("a")).await;
    }
    handle.counts().calls
}

#[tokio::test(start_paused = true)]
async fn a_ratio_is_a_share_of_the_calls_of_the_window_and_a_floor() {
    for (name, ratio, calls, attempts) in [
        // 10 a second over 10 seconds are 100; a call brings 0.2.
        ("default, few calls", Ratio::default(), 10, 10 + 20),
        ("default, many calls", Ratio::default(), 1000, 1000 + 200 + 100),
        ("no floor", Ratio::default().floor(0), 1000, 1200),
        ("only a floor", Ratio::default().percent(0), 1000, 1100),
        ("nothing", Ratio::default().percent(0).floor(0), 1000, 1000),
        ("all", Ratio::default().percent(200), 1000, 3000),
    ] {
        let layer = layer(3, &Budget::new(ratio));
        assert_eq!(storm(&layer, calls, Plan::new().status(503)).await, attempts, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_ratio_forgets_what_its_window_has_passed() {
    let budget = Budget::new(Ratio::default().floor(0));
    let layer = layer(3, &budget);
    assert_eq!(storm(&layer, 1000, Plan::new()).await, 1000); // 200 retries are saved up
    advance(9 * SECOND).await;
    assert_eq!(storm(&layer, 50, Plan::new().status(503)).await, 50 + 100, "within the window");
    advance(SECOND).await;
    // The oldest are spent first: what 50 calls brought at 9 s is still there, and 50 more bring as much.
    assert_eq!(storm(&layer, 50, Plan::new().status(503)).await, 50 + 20, "after it");
    advance(60 * SECOND).await;
    assert_eq!(storm(&layer, 50, Plan::new().status(503)).await, 50 + 10, "after everything");
    assert_eq!(storm(&layer, 1000, Plan::new()).await, 1000);
    advance(15 * SECOND).await;
    assert_eq!(storm(&layer, 50, Plan::new().status(503)).await, 50 + 10, "long after, in another tenth");

    let floor = Budget::new(Ratio::default().percent(0));
    let layer = self::layer(1000, &floor);
    for (name, wait, retries) in
        [("full", 0, 100), ("spent", 0, 0), ("nine seconds", 9, 90), ("one", 1, 10), ("a minute", 60, 100)]
    {
        advance(wait * SECOND).await;
        assert_eq!(storm(&layer, 1, Plan::new().status(503)).await, 1 + retries, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_are_drained_by_failures_and_refilled_by_successes() {
    let timeout = || Plan::new().error_from(|| Elapsed::new(Phase::Head, SECOND));
    for (name, tokens, plan, retries) in [
        ("500 at 5", Tokens::default(), Plan::new().status(503), 100),
        ("500 at 10 after timeouts", Tokens::default(), timeout(), 50),
        ("30 at 7", Tokens::default().capacity(30).cost(7), Plan::new().status(503), 4),
        ("30 at 7, 9 after timeouts", Tokens::default().capacity(30).cost(7).timeout_cost(9), timeout(), 3),
    ] {
        let layer = layer(2, &Budget::new(tokens));
        assert_eq!(storm(&layer, 1000, plan).await, 1000 + retries, "{name}");
    }

    // Empty; then ten successes bring ten tokens: two retries, of which the one that succeeds gives its five back.
    let layer = layer(2, &Budget::new(Tokens::default().capacity(10)));
    assert_eq!(storm(&layer, 9, Plan::new().status(503)).await, 9 + 2);
    assert_eq!(storm(&layer, 10, Plan::new()).await, 10);
    let (probe, _) = Probe::pair([Plan::new().status(503), Plan::new()]);
    let response = layer.layer(probe).oneshot(get("a")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(storm(&layer, 9, Plan::new().status(503)).await, 9 + 2);
}

#[tokio::test(start_paused = true)]
async fn a_share_counts_what_is_in_flight() {
    for (name, share, calls, retrying) in [
        ("the floor", Share::default(), 1, 1),
        ("the floor is enough", Share::default(), 3, 3),
        ("more than the floor", Share::default(), 9, 3),
        ("the share", Share::default(), 100, 20),
        ("a share of its own", Share::default().percent(50).floor(0), 10, 5),
        ("none", Share::default().percent(0).floor(0), 10, 0),
    ] {
        let (first, second) = (Gate::new("first"), Gate::new("second"));
        let plans = std::iter::repeat_n(Plan::new().status(503).wait(&first), calls)
            .chain([Plan::new().wait(&second)]);
        let (probe, handle) = Probe::pair(plans);
        let service = layer(2, &Budget::new(share)).layer(probe);
        let running: Vec<_> = (0..calls).map(|_| tokio::spawn(service.clone().oneshot(get("a")))).collect();
        first.arrived(calls).await;
        // All fail before the first of them has left.
        first.open();
        second.arrived(retrying).await;
        while handle.counts().futures > retrying {
            tokio::task::yield_now().await;
        }
        second.open();
        let mut succeeded = 0;
        for call in running {
            succeeded += usize::from(call.await.unwrap().unwrap().status() == 200);
        }
        assert_eq!((succeeded, handle.counts().calls), (retrying, calls + retrying), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_is_given_back_when_a_call_ends_or_is_dropped() {
    let layer = layer(2, &Budget::new(Share::default().percent(50).floor(0)));
    assert_eq!(storm(&layer, 10, Plan::new().status(503)).await, 10, "alone, half a retry is none");

    let layer = self::layer(2, &Budget::new(Share::default().percent(0).floor(1)));
    for round in 0..3 {
        let gate = Gate::new("second attempt");
        let (probe, _) = Probe::pair([Plan::new().status(503), Plan::new().wait(&gate)]);
        let call = tokio::spawn(layer.layer(probe).oneshot(get("a")));
        gate.arrived(1).await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled(), "round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn per_origin_one_that_is_down_leaves_the_others_theirs() {
    let budget = Budget::new(Ratio::default().percent(0).floor(1)).per_origin(NonZeroUsize::new(2).unwrap());
    let layer = layer(100, &budget);
    for (name, host, retries) in [
        ("the first has its own", "a", 10),
        ("and no more", "a", 0),
        ("the same, spelled otherwise", "A:80", 0),
        ("the second has its own", "b", 10),
        ("the third shares one", "c", 10),
        ("with the fourth", "d", 0),
    ] {
        let (probe, handle) = Probe::pair([Plan::new().status(503)]);
        layer.layer(probe).oneshot(get(host)).await.unwrap();
        assert_eq!(handle.counts().calls, 1 + retries, "{name}");
    }
    assert_eq!(budget.refused(), 6);
}

#[tokio::test(start_paused = true)]
async fn exhaustion_is_visible_and_an_outer_layer_heeds_it() {
    let poor = || Budget::new(Ratio::default().percent(0).floor(0));
    for (name, outer) in
        [("outer without a budget", Budget::off()), ("outer with another budget", Budget::default())]
    {
        for failing in [Plan::new().status(503), Plan::new().error("broken")] {
            let (probe, handle) = Probe::pair([failing]);
            // What is between them forgets the ledger, as a layer does that makes requests of its own.
            let inner = layer(4, &poor()).layer(probe);
            let between = service_fn(move |mut request: Request<Replay<TestBody>>| {
                let retries = Retries::of(&request);
                request.extensions_mut().clear();
                if let Some(retries) = retries {
                    retries.attach(&mut request);
                }
                inner.clone().oneshot(request)
            });
            let mut request = get("a");
            let retries = Retries::track(&mut request);
            let _ = layer(4, &outer).layer(between).oneshot(request).await;
            assert_eq!(handle.counts().calls, 1, "{name}");
            assert_eq!(retries.gave_up(), Some(GaveUp::Budget), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn three_nested_layers_spend_one_budget() {
    let nested = |budgets: [&Budget; 3], probe| {
        let [outer, middle, inner] = budgets.map(|budget| layer(4, budget));
        outer.layer(middle.layer(inner.layer(probe)))
    };
    let generous = || Budget::new(Ratio::default().percent(100_000));
    let strict = Budget::new(Ratio::default().percent(100).floor(0));
    for (name, outer, attempts) in [("all it may", &generous(), 64), ("the outer's share", &strict, 2)] {
        let (probe, handle) = Probe::pair([Plan::new().status(503)]);
        let service = nested([outer, &generous(), &generous()], probe);
        service.oneshot(get("a")).await.unwrap();
        assert_eq!(handle.counts().calls, attempts, "{name}");
    }
    let (probe, handle) = Probe::pair([Plan::new().status(503)]);
    let service = nested([&Budget::off(), &Budget::off(), &strict], probe);
    let request = get("a");
    assert!(Ledger::of(&request).is_none());
    service.oneshot(request).await.unwrap();
    // The innermost pays for itself, and those outside see that it has nothing left.
    assert_eq!(handle.counts().calls, 2);
}

/// The account that calls under this budget are charged to, after so many of them.
async fn account(budget: &Budget, calls: usize) -> Ledger {
    let (probe, handle) = Probe::pair([Plan::new()]);
    let service = layer(2, budget).layer(probe);
    for _ in 0..calls {
        service.clone().oneshot(get("a")).await.unwrap();
    }
    Ledger::of(&handle.requests()[0]).unwrap()
}

#[tokio::test(start_paused = true)]
async fn it_is_not_overdrawn_from_many_threads() {
    for (name, rule) in [
        ("ratio", Rule::from(Ratio::default().percent(20_000).floor(0))),
        ("floor", Rule::from(Ratio::default().percent(0).floor(20_000))),
        ("tokens", Rule::from(Tokens::default().capacity(1_000_000))),
        ("share", Rule::from(Share::default().percent(0).floor(200_000))),
    ] {
        let ledger = account(&Budget::new(rule), 1000).await;
        // The clock of this test is another thread's: each enters its runtime, and time stands still.
        let (runtime, start) = (tokio::runtime::Handle::current(), Barrier::new(THREADS));
        let paid: usize = std::thread::scope(|scope| {
            let takes = || {
                let _guard = runtime.enter();
                start.wait();
                (0..100_000).filter(|_| ledger.account().withdraw(None).is_some()).count()
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(takes)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        // Threads that each hold a part of a retry's cost may go without, and the next one finds it.
        let rest = std::iter::from_fn(|| ledger.account().withdraw(None)).count();
        assert_eq!(paid + rest, 200_000, "{name}");
    }
}

const THREADS: usize = 4;

/// What a call finds: whether it fails, and how long before the next call.
#[derive(Clone, Copy, Debug)]
struct Step {
    fails: bool,
    pause: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (prop::bool::weighted(0.7), prop_oneof![4 => Just(0_u64), 1 => 0..3000_u64]);
    prop::collection::vec(step.prop_map(|(fails, pause)| Step { fails, pause }), 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// attempts ≤ calls × (1 + ratio) + floor × (time + window), however deep the nesting.
    #[test]
    fn attempts_never_exceed_the_share(
        steps in steps(),
        nesting in 1..4_usize,
        attempts in 1..6_u32,
        percent in 0..60_u32,
        floor in 0..4_u32,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        let made = Arc::new(AtomicU64::new(0));
        let (sent, took) = runtime.block_on(async {
            let server = Flaky { made: made.clone(), fails: Arc::default() };
            let budget = Budget::new(Ratio::default().percent(percent).floor(floor));
            let layers = [(); 2].map(|()| layer(attempts, &Budget::new(Ratio::default())));
            let outer = layer(attempts, &budget);
            let begun = Instant::now();
            for step in &steps {
                server.fails.store(step.fails, Relaxed);
                match nesting {
                    1 => drop(outer.layer(server.clone()).oneshot(get("a")).await),
                    2 => drop(outer.layer(layers[0].layer(server.clone())).oneshot(get("a")).await),
                    _ => {
                        let inner = layers[0].layer(layers[1].layer(server.clone()));
                        drop(outer.layer(inner).oneshot(get("a")).await);
                    }
                }
                advance(Duration::from_millis(step.pause)).await;
            }
            (steps.len() as u64, begun.elapsed())
        });
        // In hundredths, and thousandths of those for the milliseconds.
        let floor = u128::from(floor) * 100 * (took.as_millis() + 10_000);
        let bound = u128::from(sent * u64::from(100 + percent)) * 1_000 + floor;
        prop_assert!(u128::from(made.load(Relaxed)) * 100_000 <= bound, "{made:?} attempts, at most {bound} / 100,000");
    }
}

/// What happens to a budget.
#[derive(Clone, Copy, Debug)]
enum Move {
    /// So many milliseconds pass.
    Pass(u64),
    /// So many calls succeed at once.
    Call(usize),
    /// A retry is asked for, after a timeout or another failure.
    Withdraw(bool),
    /// One of those that were granted is over.
    Settle(usize, bool),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let step = prop_oneof![
        2 => prop_oneof![1..50_u64, 100..3_000_u64, 9_000..12_000_u64].prop_map(Move::Pass),
        3 => (1..9_usize).prop_map(Move::Call),
        6 => any::<bool>().prop_map(Move::Withdraw),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(pick, succeeded)| Move::Settle(pick, succeeded)),
    ];
    prop::collection::vec(step, 1..150)
}

/// Plays `moves` on a budget and on what it is supposed to be: the two agree on every retry.
fn agrees(budget: &dyn Fn() -> Budget, moves: &[Move], mut naive: impl Naive) -> Result<(), TestCaseError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let budget = budget();
        let (begun, ledger) = (Instant::now(), account(&budget, 1).await);
        naive.call(0);
        let mut paid = Vec::new();
        for (number, &step) in moves.iter().enumerate() {
            let now = u64::try_from(begun.elapsed().as_nanos()).unwrap();
            match step {
                Move::Pass(millis) => advance(Duration::from_millis(millis)).await,
                Move::Call(calls) => {
                    storm(&layer(2, &budget), calls, Plan::new()).await;
                    (0..calls).for_each(|_| naive.call(now));
                }
                Move::Withdraw(timed_out) => {
                    let kind = if timed_out { Kind::Timeout } else { Kind::Reset };
                    let granted = ledger.account().withdraw(Some(kind));
                    prop_assert_eq!(granted.is_some(), naive.withdraw(now, timed_out), "move {}", number);
                    paid.extend(granted.map(|paid| (paid, timed_out)));
                }
                Move::Settle(pick, succeeded) => {
                    let Some(pick) = pick.checked_rem(paid.len()) else { continue };
                    let (paid, timed_out) = paid.swap_remove(pick);
                    ledger.account().settle(paid, succeeded);
                    naive.settle(succeeded, timed_out);
                }
            }
        }
        Ok(())
    })
}

/// A budget, without any cleverness. Time is in nanoseconds.
trait Naive {
    /// One call begins, and succeeds.
    fn call(&mut self, now: u64);
    /// Whether there is a retry.
    fn withdraw(&mut self, now: u64, timed_out: bool) -> bool;
    /// It is over.
    fn settle(&mut self, succeeded: bool, timed_out: bool);
}

/// A list of what calls have brought, in hundredths of a retry and when, and a bucket of time that a retry takes an interval of.
struct NaiveRatio {
    percent: u64,
    interval: u64,
    brought: Vec<(u64, u64)>,
    level: u64,
    filled: u64,
}

const WINDOW: u64 = 10_000_000_000;

impl Naive for NaiveRatio {
    fn call(&mut self, now: u64) {
        self.brought.push((now / (WINDOW / 10), self.percent));
    }

    fn withdraw(&mut self, now: u64, _: bool) -> bool {
        self.brought.retain(|&(tenth, _)| tenth + 10 > now / (WINDOW / 10));
        if self.brought.iter().map(|(_, amount)| amount).sum::<u64>() >= 100 {
            let mut owed = 100;
            for (_, amount) in &mut self.brought {
                let taken = owed.min(*amount);
                (owed, *amount) = (owed - taken, *amount - taken);
            }
            return true;
        }
        self.level = WINDOW.min(self.level + now - self.filled);
        self.filled = now;
        let has = self.interval > 0 && self.level >= self.interval;
        self.level -= if has { self.interval } else { 0 };
        has
    }

    fn settle(&mut self, _: bool, _: bool) {}
}

struct NaiveTokens {
    tokens: u64,
    capacity: u64,
    cost: u64,
    timeout_cost: u64,
    reward: u64,
}

impl NaiveTokens {
    fn put(&mut self, tokens: u64) {
        self.tokens = self.capacity.min(self.tokens + tokens);
    }
}

impl Naive for NaiveTokens {
    fn call(&mut self, _: u64) {
        self.put(self.reward);
    }

    fn withdraw(&mut self, _: u64, timed_out: bool) -> bool {
        let cost = if timed_out { self.timeout_cost } else { self.cost };
        let has = self.tokens >= cost;
        self.tokens -= if has { cost } else { 0 };
        has
    }

    fn settle(&mut self, succeeded: bool, timed_out: bool) {
        match (succeeded, timed_out) {
            (false, _) => {}
            (true, false) => self.put(self.cost),
            (true, true) => self.put(self.timeout_cost),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_ratio_is_a_list_of_what_calls_brought_and_a_bucket_of_time(
        percent in 0..250_u32,
        floor in 0..5_u32,
        moves in moves(),
    ) {
        let naive = NaiveRatio {
            percent: percent.into(),
            interval: 1_000_000_000_u64.checked_div(floor.into()).unwrap_or(0),
            brought: Vec::new(),
            level: WINDOW,
            filled: 0,
        };
        agrees(&|| Budget::new(Ratio::default().percent(percent).floor(floor)), &moves, naive)?;
    }

    #[test]
    fn tokens_are_a_bucket(
        (capacity, reward) in (0..60_u32, 0..8_u32),
        (cost, timeout_cost) in (0..12_u32, 0..25_u32),
        moves in moves(),
    ) {
        let tokens =
            Tokens::default().capacity(capacity).cost(cost).timeout_cost(timeout_cost).reward(reward);
        let naive = NaiveTokens {
            tokens: capacity.into(),
            capacity: capacity.into(),
            cost: cost.into(),
            timeout_cost: timeout_cost.into(),
            reward: reward.into(),
        };
        agrees(&|| Budget::new(tokens), &moves, naive)?;
    }
}

/// Fails while it is told to, whatever it is sent.
#[derive(Clone)]
struct Flaky {
    made: Arc<AtomicU64>,
    fails: Arc<AtomicBool>,
}

impl<B> Service<Request<B>> for Flaky {
    type Response = Response<TestBody>;
    type Error = BoxError;
    type Future = Ready<Result<Response<TestBody>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        self.made.fetch_add(1, Relaxed);
        let mut response = Response::new(TestBody::new());
        if self.fails.load(Relaxed) {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        ready(Ok(response))
    }
}
