//! A task blocks its thread while the answers to 500 calls are in the sockets: who calls that a timeout of the peer?
//!
//! The peer answers 20 ms after the stall has begun, the limit is 100 ms, the stall lasts 300 ms. To see the counts, and those of other
//! clients: `cargo test -p outbound-timeout --test stall -- --include-ignored --nocapture --test-threads 1`.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use outbound_core::{AtEnd, BoxError, End, OnEnd};
use outbound_pool::{Pool, connect::Tcp};
use outbound_testkit::{Friendly, Gate, TestBody, Upstream};
use outbound_timeout::{DeadlineLayer, TimeoutLayer};
use tokio::{
    runtime::Builder,
    time::{Instant, sleep, timeout},
};
use tower::{Layer, Service, ServiceExt};

/// Makes one call and reads the response to its end.
type Caller = Arc<dyn Fn(Uri) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> + Send + Sync>;

type Row = (&'static str, Version, Awaits, fn() -> Caller);

/// What the peer holds its answers back at, and when it had given the last of them.
struct Round {
    gate: Gate,
    answered: Instant,
}

struct Notes(Arc<Mutex<Round>>);

/// What the calls await when the stall begins.
#[derive(Clone, Copy, Debug)]
enum Awaits {
    Head,
    Body,
}

#[rustfmt::skip]
const OURS: &[Row] = &[
    ("TimeoutLayer, outbound's pool",     HTTP_11, Awaits::Head, || caller(TimeoutLayer::new(LIMIT).layer(pool()))),
    ("DeadlineLayer, outbound's pool",    HTTP_11, Awaits::Head, || caller(DeadlineLayer::new(LIMIT).layer(pool()))),
    ("TimeoutLayer, hyper-util",          HTTP_11, Awaits::Head, || caller(TimeoutLayer::new(LIMIT).layer(hyper_util()))),
    ("TimeoutLayer, reqwest",             HTTP_11, Awaits::Head, || caller(TimeoutLayer::new(LIMIT).layer(reqwest(|it| it)))),
    ("DeadlineLayer, hyper-util",         HTTP_11, Awaits::Head, || caller(DeadlineLayer::new(LIMIT).layer(hyper_util()))),
    ("TimeoutLayer, hyper-util, h2",      HTTP_2,  Awaits::Head, || caller(TimeoutLayer::new(LIMIT).layer(hyper_util_h2()))),
    ("read-idle, outbound's pool",        HTTP_11, Awaits::Body, || caller(TimeoutLayer::new(LONG).read_idle(LIMIT).layer(pool()))),
    ("read-idle, hyper-util",             HTTP_11, Awaits::Body, || caller(TimeoutLayer::new(LONG).read_idle(LIMIT).layer(hyper_util()))),
    ("read-idle, reqwest",                HTTP_11, Awaits::Body, || caller(TimeoutLayer::new(LONG).read_idle(LIMIT).layer(reqwest(|it| it)))),
    ("DeadlineLayer, hyper-util",         HTTP_11, Awaits::Body, || caller(DeadlineLayer::new(LIMIT).layer(hyper_util()))),
];

#[rustfmt::skip]
const OTHERS: &[Row] = &[
    ("tower's Timeout, hyper-util",             HTTP_11, Awaits::Head, || caller(tower::timeout::Timeout::new(hyper_util(), LIMIT))),
    ("tower-http's Timeout, hyper-util",        HTTP_11, Awaits::Head, || caller(tower_http::timeout::Timeout::with_status_code(boxed(hyper_util()), StatusCode::GATEWAY_TIMEOUT, LIMIT))),
    ("tower's Timeout, hyper-util, h2",         HTTP_2,  Awaits::Head, || caller(tower::timeout::Timeout::new(hyper_util_h2(), LIMIT))),
    ("reqwest's timeout",                       HTTP_11, Awaits::Head, || caller(reqwest(|it| it.timeout(LIMIT)))),
    ("tower-http's body timeout, hyper-util",   HTTP_11, Awaits::Body, || caller(tower_http::timeout::ResponseBodyTimeout::new(hyper_util(), LIMIT))),
    ("reqwest's read_timeout",                  HTTP_11, Awaits::Body, || caller(reqwest(|it| it.read_timeout(LIMIT)))),
];

#[test]
fn a_stall_of_our_own_is_no_timeout_of_the_peer() {
    each(OURS, |client, failed| assert_eq!(failed, 0, "{client}"));
}

#[test]
#[ignore = "for comparison"]
fn what_others_make_of_it() {
    each(OTHERS, |_, _| {});
}

/// Counts the false timeouts of each on either runtime, and has them judged.
fn each(clients: &[Row], judge: impl Fn(&str, usize)) {
    for (runtime, mut builder) in
        [("current-thread", Builder::new_current_thread()), ("two workers", Builder::new_multi_thread())]
    {
        for &(client, version, awaits, caller) in clients {
            // Each has a runtime of its own, so that nobody's leftovers are in the way of the next.
            let tokio = builder.worker_threads(2).enable_all().build().unwrap();
            let Some(failed) = tokio.block_on(false_timeouts(caller(), version, awaits)) else {
                println!(
                    "skipped from {client} on: this machine is too busy to tell, the peer was hardly ever prompt"
                );
                return;
            };
            println!("{runtime:<16}{:<6}{client:<40}{failed:>4} of {CALLS}", format!("{awaits:?}"));
            judge(&format!("{client} awaiting the {awaits:?} on {runtime}"), failed);
        }
    }
}

impl Round {
    fn new() -> Self {
        Self { gate: Gate::new("all requests have been sent"), answered: Instant::now() }
    }
}

impl AtEnd for Notes {
    fn at_end(self, end: End) {
        if end == End::Complete {
            self.0.lock().unwrap().answered = Instant::now();
        }
    }
}

/// How many of the calls fail although the peer answered in good time; `None` if it hardly ever did.
async fn false_timeouts(call: Caller, version: Version, awaits: Awaits) -> Option<usize> {
    let round = Arc::new(Mutex::new(Round::new()));
    let upstream = upstream(version, awaits, &round);
    let uri = upstream.uri("/");
    let (mut failed, mut counted) = (0, 0);
    // The first round opens the connections, and is not counted.
    for counts in [false].into_iter().chain([true; MOST_ROUNDS]) {
        let this = Round::new();
        let gate = this.gate.clone();
        *round.lock().unwrap() = this;
        let begun = Instant::now();
        let calls: Vec<_> = (0..AT_ONCE).map(|_| tokio::spawn(call(uri.clone()))).collect();
        let _ = timeout(ANSWER, gate.arrived(AT_ONCE)).await;
        gate.open();
        if counts {
            tokio::spawn(stall());
        }
        let mut timeouts = 0;
        for call in calls {
            timeouts += usize::from(call.await.unwrap().is_err());
        }
        // Nor does one count in which the peer itself was slow, as happens on a machine that has more to do.
        if counts && round.lock().unwrap().answered.duration_since(begun) < PROMPT {
            failed += timeouts;
            counted += AT_ONCE;
        }
        if counted == CALLS {
            return Some(failed);
        }
    }
    None
}

/// Woken by the reactor, as a handler is, it blocks the very thread that watched the sockets.
#[expect(clippy::disallowed_methods, reason = "blocking a worker is what this is about")]
async fn stall() {
    sleep(Duration::from_millis(1)).await;
    std::thread::sleep(STALL);
}

/// On its own thread, so that it does not stall too.
fn upstream(version: Version, awaits: Awaits, round: &Arc<Mutex<Round>>) -> Upstream {
    let round = round.clone();
    let respond = move |_| {
        let gate = round.lock().unwrap().gate.clone();
        let answer = match awaits {
            Awaits::Head => TestBody::from("hello"),
            Awaits::Body => TestBody::from("he").wait(&gate).delay(ANSWER).data("llo"),
        };
        let answer = OnEnd::new(answer, Notes(round.clone()));
        async move {
            if let Awaits::Head = awaits {
                gate.pass().await;
                sleep(ANSWER).await;
            }
            Response::new(answer)
        }
    };
    let upstream = Friendly::new(respond).own_thread();
    if version == HTTP_2 { upstream.http2().start() } else { upstream.start() }
}

fn pool() -> Pool<Tcp> {
    let limits = Pool::builder().max_connections(AT_ONCE).max_connections_per_host(AT_ONCE);
    limits.build(Tcp::new()).expect("valid limits")
}

fn caller<S, B>(service: S) -> Caller
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body<Error: Into<BoxError>> + Send,
    B::Data: Send,
{
    Arc::new(move |uri| {
        let service = service.clone();
        Box::pin(async move {
            let mut request = Request::new(Full::default());
            *request.uri_mut() = uri;
            let response = service.oneshot(request).await.map_err(Into::into)?;
            if response.status() != StatusCode::OK {
                return Err(response.status().as_str().into());
            }
            response.into_body().collect().await.map_err(Into::into)?;
            Ok(())
        })
    })
}

fn hyper_util() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

fn hyper_util_h2() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).http2_only(true).build_http()
}

/// tower-http's `Timeout` makes up a response, and so needs a body that can be made up.
fn boxed(
    client: Client<HttpConnector, Full<Bytes>>,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<UnsyncBoxBody<Bytes, hyper::Error>>,
    Error: Into<BoxError>,
    Future: Send,
> + Clone
+ Send
+ Sync
+ 'static {
    client.map_response(|response: Response<hyper::body::Incoming>| response.map(BodyExt::boxed_unsync))
}

fn reqwest(
    configure: impl Fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> impl Service<Request<Full<Bytes>>, Response = Response<reqwest::Body>, Error = reqwest::Error, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let client = configure(reqwest::Client::builder()).build().unwrap();
    client
        .map_request(|request: Request<Full<Bytes>>| {
            request.map(|_| reqwest::Body::default()).try_into().expect("the URI is absolute")
        })
        .map_response(|response: reqwest::Response| response.into())
}

const HTTP_11: Version = Version::HTTP_11;
const HTTP_2: Version = Version::HTTP_2;
const CALLS: usize = 500;
const AT_ONCE: usize = 100;
const MOST_ROUNDS: usize = 100;
const ANSWER: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_millis(100);
/// From the call to the last answer of a round, sending 100 requests included.
const PROMPT: Duration = Duration::from_millis(75);
const LONG: Duration = Duration::from_secs(60);
const STALL: Duration = Duration::from_millis(300);
