//! The order of the layers: what each place is good for, and what goes wrong in another.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
    data::{AggregatedMetrics, MetricData},
};
use outbound::{
    BoxError, ConcurrencyLimitLayer, DeadlineLayer, Elapsed, Exchange, LeakGuardLayer, Phase, RetryLayer,
    TelemetryLayer, TimeoutLayer, find, guard::Leak,
};
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

type Call = Request<Full<Bytes>>;

fn get(path: &str) -> Call {
    Request::get(format!("http://a.example{path}")).body(Full::default()).expect("a request")
}

/// A server that asks to be left alone for `after` seconds on the first `busy` calls, each of which takes `takes` seconds.
fn server<B>(
    busy: usize,
    after: u64,
    takes: u64,
) -> impl Service<Request<B>, Response = Response<Full<Bytes>>, Error = BoxError, Future: Send> + Clone + use<B>
where
    B: Send + 'static,
{
    let calls = Arc::new(AtomicUsize::new(0));
    service_fn(move |_: Request<B>| {
        let number = calls.fetch_add(1, SeqCst);
        async move {
            sleep(Duration::from_secs(takes)).await;
            let response = match number < busy {
                true => Response::builder().status(503).header("retry-after", after),
                false => Response::builder(),
            };
            Ok::<_, BoxError>(response.body(Full::default())?)
        }
    })
}

/// The status, or the limit that ran out, and after how many seconds.
async fn outcome<S, B>(service: S, request: Call) -> (String, u64)
where
    S: Service<Call, Response = Response<B>, Error = BoxError>,
{
    let begun = Instant::now();
    let outcome = match service.oneshot(request).await {
        Ok(response) => response.status().as_str().to_owned(),
        Err(error) => {
            find::<Elapsed>(&*error).map_or_else(|| error.to_string(), |elapsed| elapsed.name().to_owned())
        }
    };
    (outcome, begun.elapsed().as_secs())
}

/// *Limit inside retry*: the first call is asleep from 0 to 20 s; with one permit, the other runs meanwhile. Outside it, the permit
/// sleeps too.
#[tokio::test(start_paused = true)]
async fn limit_inside_retry_so_that_nobody_sleeps_with_a_permit() {
    let (retry, limit) = (RetryLayer::default(), ConcurrencyLimitLayer::new(1));
    let inside = ServiceBuilder::new().layer(retry.clone()).layer(limit.clone()).service(server(1, 20, 0));
    let outside = ServiceBuilder::new().layer(limit).layer(retry).service(server(1, 20, 0));
    let at = |seconds| ("200".to_owned(), seconds);
    let both = tokio::join!(outcome(inside.clone(), get("/")), outcome(inside, get("/")));
    assert_eq!(both, (at(20), at(0)), "the documented order");
    let both = tokio::join!(outcome(outside.clone(), get("/")), outcome(outside, get("/")));
    assert_eq!(both, (at(20), at(20)), "the limit outside retry");
}

/// *Timeout inside limit*: the server takes 6 s, an attempt may take 10 s, and the second call waits 6 s for its permit. Outside it,
/// the wait counts, and a server that is in time is said to be slow.
#[tokio::test(start_paused = true)]
async fn timeout_inside_limit_so_that_queueing_does_not_eat_it() {
    let (limit, timeout) = (ConcurrencyLimitLayer::new(1), TimeoutLayer::new(Duration::from_secs(10)));
    let inside = ServiceBuilder::new().layer(limit.clone()).layer(timeout.clone()).service(server(0, 0, 6));
    let outside = ServiceBuilder::new().layer(timeout).layer(limit).service(server(0, 0, 6));
    let both = tokio::join!(outcome(inside.clone(), get("/")), outcome(inside, get("/")));
    assert_eq!(both, (("200".into(), 6), ("200".into(), 12)), "the documented order");
    let both = tokio::join!(outcome(outside.clone(), get("/")), outcome(outside, get("/")));
    assert_eq!(both, (("200".into(), 6), ("head".into(), 10)), "the timeout outside the limit");
}

/// *Deadline outside retry*: of 30 s, with 20 s between attempts, there is one wait and no second. Inside it each attempt has 30 s of
/// its own, and the call takes 40 s.
#[tokio::test(start_paused = true)]
async fn deadline_outside_retry_so_that_it_bounds_the_waits() {
    let (deadline, retry) = (DeadlineLayer::new(Duration::from_secs(30)), RetryLayer::default());
    let outside =
        ServiceBuilder::new().layer(deadline.clone()).layer(retry.clone()).service(server(9, 20, 0));
    let inside = ServiceBuilder::new().layer(retry).layer(deadline).service(server(9, 20, 0));
    assert_eq!(outcome(outside, get("/")).await, ("503".into(), 20), "the documented order");
    assert_eq!(outcome(inside, get("/")).await, ("503".into(), 40), "the deadline inside retry");
}

/// *Timeout inside retry*: an attempt that hangs leaves time for another. Outside it, the one limit is for all.
#[tokio::test(start_paused = true)]
async fn timeout_inside_retry_so_that_each_attempt_has_its_own() {
    let hangs_once = || {
        let calls = Arc::new(AtomicUsize::new(0));
        service_fn(move |_: Request<_>| {
            let first = calls.fetch_add(1, SeqCst) == 0;
            async move {
                sleep(Duration::from_secs(if first { 60 } else { 1 })).await;
                Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
            }
        })
    };
    let (retry, timeout) = (RetryLayer::default(), TimeoutLayer::new(Duration::from_secs(10)));
    let inside = ServiceBuilder::new().layer(retry.clone()).layer(timeout.clone()).service(hangs_once());
    let outside = ServiceBuilder::new().layer(timeout).layer(retry).service(hangs_once());
    let (status, took) = outcome(inside, get("/")).await;
    assert_eq!((&*status, took), ("200", 11), "the documented order");
    assert_eq!(outcome(outside, get("/")).await, ("head".into(), 10), "the timeout outside retry");
}

/// *Telemetry outside limit*: of two calls, one has the only permit for 30 ms, and the other waits for it. Inside the limit nobody is seen
/// to wait.
#[tokio::test(start_paused = true)]
async fn telemetry_outside_limit_so_that_queueing_is_measured() {
    // It says when an attempt has had its turn, as a pool does.
    let server = service_fn(|request: Request<_>| {
        Exchange::of(&request).expect("telemetry looks at it").enter(Phase::Send);
        async {
            sleep(Duration::from_millis(30)).await;
            Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
        }
    });
    for (order, outside, waited) in
        [("the documented order", true, 0.03), ("telemetry inside the limit", false, 0.0)]
    {
        let metrics = InMemoryMetricExporter::default();
        let meters =
            SdkMeterProvider::builder().with_reader(PeriodicReader::builder(metrics.clone()).build()).build();
        let (telemetry, limit) = (TelemetryLayer::new(&meters.meter("test")), ConcurrencyLimitLayer::new(1));
        if outside {
            let client = ServiceBuilder::new().layer(telemetry).layer(limit).service(server);
            tokio::join!(outcome(client.clone(), get("/")), outcome(client, get("/")));
        } else {
            let client = ServiceBuilder::new().layer(limit).layer(telemetry).service(server);
            tokio::join!(outcome(client.clone(), get("/")), outcome(client, get("/")));
        }
        meters.force_flush().expect("the exporter is a vector");
        let told = metrics.get_finished_metrics().expect("the exporter is a vector");
        let mut told =
            told.iter().flat_map(|resource| resource.scope_metrics()).flat_map(|scope| scope.metrics());
        let queue =
            told.find(|metric| metric.name() == "http.client.request.time_in_queue").expect("measured");
        let AggregatedMetrics::F64(MetricData::Histogram(queue)) = queue.data() else {
            panic!("{order}: a histogram")
        };
        let [point] = &queue.data_points().collect::<Vec<_>>()[..] else { panic!("{order}: one series") };
        assert_eq!((point.count(), point.min(), point.max()), (2, Some(0.0), Some(waited)), "{order}");
    }
}

/// *Guard inside retry*: it sees who holds what of each attempt. Outside it, it sees a caller who holds a call, and takes the sleep
/// between attempts for waiting.
#[tokio::test(start_paused = true)]
async fn guard_inside_retry_so_that_it_sees_each_attempt() {
    for (order, inside, calls) in [("the documented order", true, 0), ("the guard outside retry", false, 1)] {
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        let tell = move |leak: &Leak| heard.lock().expect("nobody panics with it").push(leak.kind());
        let (guard, detector) = LeakGuardLayer::builder().callback(tell).pair();
        let retry = RetryLayer::default();
        let call = if inside {
            let client = ServiceBuilder::new().layer(retry).layer(guard).service(server(1, 20, 0));
            tokio::spawn(async move { outcome(client, get("/")).await })
        } else {
            let client = ServiceBuilder::new().layer(guard).layer(retry).service(server(1, 20, 0));
            tokio::spawn(async move { outcome(client, get("/")).await })
        };
        sleep(Duration::from_secs(5)).await;
        assert_eq!(detector.stats().calls, calls, "{order}: asleep");
        assert_eq!(call.await.expect("no panic"), ("200".into(), 20), "{order}");
        assert_eq!(told.lock().expect("nobody panics with it").len(), 0, "{order}");
    }
}
