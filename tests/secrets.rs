//! What nobody may ever read in a log: credentials, cookies, userinfo, queries and what is sent, planted everywhere, and every public
//! `Debug`, `Display`, event and report looked through.

use std::{
    convert::Infallible,
    error::Error,
    fmt::{Debug, Write as _},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, Uri, header};
use hyper_util::client::legacy::connect::dns::Name;
use outbound::{
    AdaptiveLimitLayer, Attempt, BoxError, CallContext, CallSite, Client, ClientExt, ConcurrencyLimitLayer,
    ConnectionInfo, Deadline, DeadlineLayer, Exchange, Failure, Idempotent, LeakGuardLayer, Origin, Pool,
    RateLimitLayer, ResponseExt, Retries, RetryLayer, TimeoutLayer, Timings, chain,
    guard::{Backtraces, Leak, SendExt},
    limit::Aimd,
    pool::connect::{Matcher, Proxy, ProxyAuthorization, Tcp, Tls},
    retry::{
        BodyFactory, Decision, IdempotencyKey, Outcome, Policy, Standard,
        cool_down::{CoolDownLayer, WhileCooling},
    },
};
use outbound_testkit::{Answer, Certificate, Frame, FrameKind, Hostile, Refusal, Script, TestBody};
use outbound_tests::{
    case::uri,
    frames,
    stack::{Setup, Stack},
};
use tower::{Layer, Service, ServiceExt};
use tracing::{
    Event, Id, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Record},
};

/// Everything that was said, and by whom.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<(String, String)>>>);

impl Said {
    fn add(&self, who: &str, what: impl Into<String>) {
        self.0.lock().unwrap().push((who.to_owned(), what.into()));
    }

    fn debug(&self, who: &str, value: &impl Debug) {
        self.add(who, format!("{value:?} {value:#?}"));
    }

    fn error(&self, who: &str, error: &(dyn Error + 'static)) {
        self.add(who, format!("{error} {error:?} {error:#?}"));
        for cause in chain(error) {
            self.add(&format!("{who}, a cause"), format!("{cause} {cause:?}"));
        }
        self.debug(&format!("{who}, the failure"), &Failure::of(error));
    }

    /// None of it has a secret.
    fn is_discreet(&self, at_least: usize) {
        let said = self.0.lock().unwrap();
        assert!(said.len() >= at_least, "only {} were looked at", said.len());
        for (who, what) in said.iter() {
            for (secret, spelled) in SECRETS {
                assert!(!what.contains(spelled), "{who} tells {secret}: {what}");
            }
        }
    }
}

/// Each in a spelling that is nowhere else.
const SECRETS: [(&str, &str); 8] = [
    ("the authorization", "s3cr3t-authorization"),
    ("a cookie", "s3cr3t-cookie"),
    ("a field's value", "s3cr3t-field"),
    ("the userinfo", "s3cr3t-userinfo"),
    ("the userinfo, encoded", "czNjcjN0LXVzZXJpbmZv"),
    ("the query", "s3cr3t-query"),
    ("what is sent", "s3cr3t-body"),
    ("the proxy's credentials", "s3cr3t-proxy"),
];

/// A request that carries them all.
fn with_secrets<B>(method: Method, uri: &Uri, body: B) -> Request<B> {
    let authority = format!("me:s3cr3t-userinfo@{}", uri.authority().unwrap());
    let uri = Uri::builder().scheme(uri.scheme_str().unwrap()).authority(authority);
    let uri = uri.path_and_query("/path?token=s3cr3t-query").build().unwrap();
    let mut request = Request::new(body);
    (*request.method_mut(), *request.uri_mut()) = (method, uri);
    for (name, value) in [
        (header::AUTHORIZATION, "Bearer s3cr3t-authorization"),
        (header::PROXY_AUTHORIZATION, "Basic s3cr3t-proxy"),
        (header::COOKIE, "session=s3cr3t-cookie"),
        (header::HeaderName::from_static("x-api-key"), "s3cr3t-field"),
    ] {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    request
}

fn answer(status: u16) -> Answer {
    Answer::new(status, "s3cr3t-answer")
        .header("set-cookie", "session=s3cr3t-cookie")
        .header("www-authenticate", "s3cr3t-field")
}

// === events ===

/// Hears every event and span of the library, down to TRACE.
struct Listener(Said);

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        for error in chain(error) {
            let _ = write!(self.0, " {field}={error} {error:?}");
        }
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("outbound")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields(String::new());
        span.record(&mut fields);
        self.0.add(&format!("the span {}", span.metadata().name()), fields.0);
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut fields = Fields(String::new());
        values.record(&mut fields);
        self.0.add("a span's record", fields.0);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        self.0.add(&format!("an event of {}", event.metadata().target()), fields.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

// === the walk ===

/// Everything that the whole stack says of one call, however that ends.
async fn stack(said: &Said, name: &str, stack: Stack, method: Method, uri: &Uri) {
    let mut request = with_secrets(method, uri, TestBody::from("s3cr3t-body"));
    CallSite::here().attach(&mut request);
    Idempotent.attach(&mut request);
    Deadline::after(Duration::from_secs(60)).tighten(&mut request);
    let (exchange, retries) = (Exchange::track(&mut request), Retries::track(&mut request));
    said.debug(&format!("{name}: the context of the call"), &CallContext::of(&request));
    match stack.client.clone().oneshot(request).await {
        Ok(response) => {
            said.debug(&format!("{name}: attempt"), &Attempt::of(&response));
            said.debug(&format!("{name}: connection"), &ConnectionInfo::of(&response));
            said.debug(&format!("{name}: timings"), &Timings::of(&response));
            for holding in stack.guard.snapshot() {
                said.add(&format!("{name}: holding"), format!("{holding} {holding:#} {holding:?}"));
            }
            if let Err(error) = outbound_tests::stack::read(response.into_body()).await {
                said.error(&format!("{name}: the body's error"), &*error);
            }
        }
        Err(error) => {
            said.error(&format!("{name}: the error"), &*error);
            for holding in stack.guard.holders(&*error) {
                said.add(&format!("{name}: holder"), holding.to_string());
            }
        }
    }
    said.debug(&format!("{name}: exchange"), &exchange);
    said.debug(&format!("{name}: retries"), &retries);
    said.debug(&format!("{name}: stats"), &stack.stats());
    said.debug(&format!("{name}: limiter"), &stack.limiter);
    said.debug(&format!("{name}: detector"), &stack.guard);
}

/// All faults that are told differently.
async fn faults(said: &Said) {
    let read = || Script::new().read_head().read_body();
    let ten = answer(200);
    for (name, script) in [
        ("answered", Script::new().forever(Script::new().exchange(answer(200)))),
        ("busy", Script::new().forever(Script::new().exchange(answer(503)))),
        (
            "asked to wait",
            Script::new().forever(Script::new().exchange(answer(429).header("retry-after", "600"))),
        ),
        ("silent", read()),
        ("closed", read().close()),
        ("reset", read().reset()),
        ("garbage", read().write("s3cr3t-answer\r\n\r\n")),
        ("a broken field", read().write("HTTP/1.1 200 OK\r\nset-cookie : s3cr3t-cookie\r\n\r\n")),
        (
            "a head too large",
            read().write(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "s3cr3t-field".repeat(9_000))),
        ),
        ("a body cut short", read().respond(ten.clone().cut_body(5)).close()),
        (
            "a broken chunk",
            read().write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\ns3cr3t-answer\r\n"),
        ),
        ("reused, then closed", Script::new().exchange(ten).read_head().close()),
    ] {
        let upstream = Hostile::new(script.clone()).start();
        stack(said, name, listening(said, false), Method::PUT, &upstream.uri("/")).await;
        let redialed = listening(said, false);
        let (again, uri) = (redialed.client.clone(), upstream.uri("/"));
        let _ = again.oneshot(with_secrets(Method::GET, &uri, TestBody::new())).await;
        stack(said, name, redialed, Method::PUT, &uri).await;
    }
    use frames::*;
    let resets = |code| each(settled(&[]), 1, |script, stream| script.write(Frame::reset(stream, code)));
    let gone = [&Frame::go_away(0, INTERNAL_ERROR).payload[..], b"s3cr3t-answer"].concat();
    for (name, script) in [
        ("HTTP/2", hello()),
        ("HTTP/2, refused", resets(REFUSED_STREAM)),
        ("HTTP/2, reset", resets(CANCEL)),
        ("HTTP/2, gone", asked().write(Frame::new(FrameKind::GOAWAY, 0, 0, gone))),
    ] {
        let upstream = Hostile::new(script).start();
        stack(said, name, listening(said, true), Method::PUT, &upstream.uri("/")).await;
    }
    let nobody = Refusal::new();
    stack(said, "refused", listening(said, false), Method::PUT, &uri(nobody.addr())).await;
    let nowhere = tower::service_fn(async |_: Name| {
        Err::<std::vec::IntoIter<SocketAddr>, _>(BoxError::from("nowhere"))
    });
    let unresolved = Setup::default().over(Tcp::with_resolver(nowhere));
    stack(said, "no such name", unresolved, Method::PUT, &uri("name.example")).await;
}

/// A stack whose guard is heard.
fn listening(said: &Said, http2: bool) -> Stack {
    let said = said.clone();
    let tell = move |leak: &Leak| said.add("a leak", format!("{leak} {leak:?}"));
    // What is said is the same, however early.
    let timeout = TimeoutLayer::new(Duration::from_millis(100));
    Setup { http2, timeout, ..Setup::default() }.told_with(tell, Tcp::new())
}

/// A layer, what it makes of a pool, and the futures and bodies of that: answered, busy, and refused.
async fn layer<L, S, B, E>(said: &Said, name: &str, layer: L, answering: &Uri, refusing: &Uri)
where
    L: Layer<Pool<Tcp>, Service = S> + Debug,
    S: Service<Request<TestBody>, Response = Response<B>, Error = E, Future: Debug> + Debug,
    B: Debug,
    E: Into<BoxError>,
{
    said.debug(name, &layer);
    let mut service = layer.layer(Pool::builder().build(Tcp::new()).unwrap());
    said.debug(&format!("{name}: the service"), &service);
    for (way, uri) in [("answered", answering), ("refused", refusing)] {
        let request = with_secrets(Method::GET, uri, TestBody::new());
        std::future::poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into).unwrap();
        let future = service.call(request);
        said.debug(&format!("{name}: the future"), &future);
        match future.await.map_err(Into::into) {
            Ok(response) => said.debug(&format!("{name}: the body"), response.body()),
            Err(error) => said.error(&format!("{name}, {way}"), &*error),
        }
    }
}

async fn layers(said: &Said) {
    let script = || Script::new().forever(Script::new().exchange(answer(200)));
    let (upstream, nobody) = (Hostile::new(script()).start(), Refusal::new());
    let (a, r) = (&upstream.uri("/"), &uri(nobody.addr()));
    let second = Duration::from_secs(1);
    layer(said, "deadline", DeadlineLayer::new(second), a, r).await;
    layer(said, "timeout", TimeoutLayer::new(second), a, r).await;
    layer(said, "retry", RetryLayer::default(), a, r).await;
    layer(said, "cool-down", CoolDownLayer::new(WhileCooling::Wait), a, r).await;
    layer(said, "concurrency", ConcurrencyLimitLayer::new(1), a, r).await;
    layer(said, "concurrency per origin", ConcurrencyLimitLayer::new(1).per_origin(), a, r).await;
    layer(said, "rate", RateLimitLayer::new(9, second).unwrap(), a, r).await;
    layer(said, "adaptive", AdaptiveLimitLayer::new(Aimd::default()), a, r).await;
    let (guard, detector) = LeakGuardLayer::builder().backtraces(Backtraces::All).pair();
    layer(said, "guard", guard, a, r).await;
    said.debug("guard: the detector", &detector);
    let (guard, _detector) = LeakGuardLayer::builder().reclaim_after(second).pair();
    layer(said, "guard that reclaims", guard, a, r).await;
    let (meter, _) = (opentelemetry_noop(), ());
    layer(said, "telemetry", outbound::TelemetryLayer::new(&meter), a, r).await;
    layer(said, "nothing", tower::layer::util::Identity::new(), a, r).await;
}

fn opentelemetry_noop() -> opentelemetry::metrics::Meter {
    opentelemetry::global::meter("secrets")
}

/// What a user writes of a client: its builder, a call before and after it is sent, what is made of the answer.
async fn client(said: &Said) {
    let upstream = Hostile::new(Script::new().forever(Script::new().exchange(answer(401)))).start();
    let builder = || {
        Client::builder()
            .base_url(upstream.uri("/v1"))
            .bearer_auth("s3cr3t-authorization")
            .default_header("cookie", "session=s3cr3t-cookie")
            .secret_header("x-api-key", "s3cr3t-field")
            .proxy(Matcher::builder().http("http://me:s3cr3t-proxy@127.0.0.1:1").no("127.0.0.1").build())
    };
    said.debug("the builder", &builder());
    let wrong = Client::builder().base_url("http://me:s3cr3t-userinfo@a.example/?token=s3cr3t-query").build();
    said.error("a base URL with credentials", &wrong.unwrap_err());
    let client = builder().build().unwrap();
    said.debug("the client", &client);
    said.add("the description", client.describe().to_string());
    said.debug("the description, debugged", client.describe());
    let call = || {
        client
            .post("/path?token=s3cr3t-query")
            .basic_auth("me", "s3cr3t-authorization")
            .header("x-other-key", "s3cr3t-field")
            .body("s3cr3t-body")
    };
    said.debug("a call", &call());
    let response = call().send().await.unwrap();
    said.debug("its body", response.body());
    let error = response.error_for_status().await.map(drop).unwrap_err();
    said.error("a status as an error", &*error);
    let error =
        client.get("http://me:s3cr3t-userinfo@\u{0}?token=s3cr3t-query").send().await.map(drop).unwrap_err();
    said.error("a URI that is none", &*error);
    let error = client
        .get("ftp://me:s3cr3t-userinfo@a.example/?token=s3cr3t-query")
        .send()
        .await
        .map(drop)
        .unwrap_err();
    said.error("a scheme that is none", &*error);
}

/// Values that hold what they must not tell.
async fn values(said: &Said) {
    let request = with_secrets(Method::PUT, &uri("a.example"), TestBody::from("s3cr3t-body"));
    said.debug("the origin", &Origin::of(request.uri()));
    said.debug("no origin", &Origin::of(&"/path?token=s3cr3t-query".parse().unwrap()));
    said.debug(
        "proxy authorization",
        &ProxyAuthorization::new(HeaderValue::from_static("Basic s3cr3t-proxy")),
    );
    let matcher = || Matcher::builder().all("http://me:s3cr3t-proxy@127.0.0.1:1").build();
    let proxy = Tls::new(Proxy::new(Tcp::new(), matcher()), Certificate::local().client([]));
    said.debug("a connector", &proxy);
    let pool = Pool::builder().build(proxy).unwrap();
    said.debug("a pool", &pool);
    for scheme in ["http", "https"] {
        let uri: Uri = format!("{scheme}://a.example/").parse().unwrap();
        let error = pool.clone().oneshot(with_secrets(Method::GET, &uri, TestBody::new())).await.unwrap_err();
        said.error("a proxy that is not there", &*error);
    }
    let (mut parts, _) = request.into_parts();
    Standard::default().idempotency_key(IdempotencyKey::Accepted).before(&mut parts);
    said.debug("a factory", &BodyFactory::new(|| "s3cr3t-body".to_owned()));
    // A policy sees the whole request, and a user may print what it sees.
    let outcomes = said.clone();
    let policy = move |outcome: &Outcome<'_>| {
        outcomes.debug("a closed outcome's failure", &outcome.failure());
        Decision::Stop
    };
    let nobody = Refusal::new();
    let pool = Pool::builder().build(Tcp::new()).unwrap();
    let service = RetryLayer::new(policy).layer(pool);
    let _ = service.oneshot(with_secrets(Method::GET, &uri(nobody.addr()), TestBody::new())).await;
    let _guarded = SendExt::send(
        &tower::service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(()))),
        with_secrets(Method::GET, &uri("a.example"), ()),
    );
    said.debug("a call that is sent", &_guarded);
}

#[tokio::test]
async fn nothing_that_is_said_has_a_secret() {
    let said = Said::default();
    let listening = tracing::subscriber::set_default(Listener(said.clone()));
    faults(&said).await;
    layers(&said).await;
    client(&said).await;
    values(&said).await;
    drop(listening);
    let events = said.0.lock().unwrap().iter().filter(|(who, _)| who.starts_with("an event")).count();
    assert!(events > 20, "only {events} events were heard");
    said.is_discreet(300);
}
