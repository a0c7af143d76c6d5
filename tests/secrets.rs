//! What nobody may ever read in a log: credentials, cookies, userinfo, queries and what is sent, planted everywhere, and every public
//! `Debug`, `Display`, event and report looked through. No public type is left out: the sources are asked which there are.

use std::{
    any::type_name,
    collections::BTreeSet,
    convert::Infallible,
    error::Error,
    fmt::{Debug, Display, Write as _},
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use axum_core::{extract::FromRequestParts, response::IntoResponse};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::dns::Name;
use outbound::{
    AdaptiveLimitLayer, Attempt, Body, BoxError, CallContext, CallSite, Carried, Client, ClientExt,
    ConcurrencyLimitLayer, ConnectionInfo, Construction, Deadline, DeadlineLayer, Exchange, Failure, Grace,
    Idempotent, LeakGuardLayer, Ledger, Origin, Pool, RateLimitLayer, ResponseExt, Retries, RetryLayer,
    TelemetryLayer, TimeoutLayer, Timings, Watcher,
    axum::{InboundDeadlineLayer, Outbound, UpstreamFailed},
    chain, find,
    guard::{Backtraces, Leak, SendExt},
    limit::Aimd,
    pool::connect::{
        ConnectTimeoutLayer, InMemory, Liveness, Matcher, NoTunnel, OpenLimitLayer, Proxy,
        ProxyAuthorization, Resolver, Tcp, Tls, TrackLayer, Unix, public_only,
    },
    retry::{
        BodyFactory, Budget, Decision, IdempotencyKey, Outcome, Policy, Standard,
        cool_down::{CoolDownLayer, WhileCooling},
        hedge::HedgeLayer,
    },
    telemetry::{ConnectionsLayer, RemoteContextLayer, Watch},
};
use outbound_testkit::{Answer, Certificate, Frame, FrameKind, Hostile, Refusal, Script, TestBody};
use outbound_tests::{
    case::uri,
    citations::root,
    frames,
    stack::{Setup, Stack},
};
use tower::{Layer, Service, ServiceExt};
use tracing::{
    Event, Id, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Record},
};

/// Everything that was said, and by whom; and the types of those who said it.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<(String, String)>>>, Arc<Mutex<BTreeSet<&'static str>>>);

impl Said {
    fn add(&self, who: &str, what: impl Into<String>) {
        self.0.lock().unwrap().push((who.to_owned(), what.into()));
    }

    fn debug<T: Debug>(&self, who: &str, value: &T) {
        self.1.lock().unwrap().insert(type_name::<T>());
        self.add(who, format!("{value:?} {value:#?}"));
    }

    fn shown<T: Debug + Display>(&self, who: &str, value: &T) {
        self.debug(who, value);
        self.add(who, format!("{value} {value:#}"));
    }

    fn error(&self, who: &str, error: &(dyn Error + 'static)) {
        self.add(who, format!("{error} {error:?} {error:#?}"));
        for cause in chain(error) {
            self.add(&format!("{who}, a cause"), format!("{cause} {cause:?}"));
        }
        self.debug(&format!("{who}, the failure"), &Failure::of(error));
    }

    /// What is told to a caller of ours of a call of ours that failed: nothing.
    async fn failed(&self, who: &str, error: BoxError) {
        self.error(who, &*error);
        let failed = UpstreamFailed::from(error);
        self.debug(&format!("{who}, to our caller"), &failed);
        let response = failed.into_response();
        self.debug(&format!("{who}, the response to our caller"), &response);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        self.add(&format!("{who}, the body of that"), String::from_utf8_lossy(&body));
    }

    /// No type of ours but these has been left out, and none of these was listed for nothing.
    fn is_complete(&self, but: &[&str]) {
        let paths = self.1.lock().unwrap().iter().flat_map(|name| paths(name)).collect::<BTreeSet<_>>();
        let said = self.0.lock().unwrap();
        let words: BTreeSet<_> = said.iter().flat_map(|(_, what)| what.split(|c| !is_of_word(c))).collect();
        let is_left_out = |(name, path): &(String, String)| {
            // Errors are behind `dyn Error`: they say themselves what they are.
            !paths.contains(path) && !words.contains(name.as_str())
        };
        let left_out: Vec<_> = public_types().into_iter().filter(is_left_out).map(|(_, path)| path).collect();
        let missing: Vec<_> = left_out.iter().filter(|path| !but.contains(&path.as_str())).collect();
        assert!(missing.is_empty(), "nobody has looked at {missing:#?}");
        let needless: Vec<_> =
            but.iter().filter(|&&path| !left_out.iter().any(|left| left == path)).collect();
        assert!(needless.is_empty(), "looked at, or gone: {needless:#?}");
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

/// `crate::Type` of each type in the name of one.
fn paths(name: &'static str) -> impl Iterator<Item = String> {
    name.split(|c| !is_of_word(c) && c != ':').filter_map(|path| {
        let (package, rest) = path.split_once("::")?;
        let (_, name) = rest.rsplit_once("::").unwrap_or(("", rest));
        Some(format!("{package}::{name}"))
    })
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The name and `crate::Type` of all that is `pub struct` or `pub enum` in the sources, and not for tests.
fn public_types() -> Vec<(String, String)> {
    let mut types = Vec::new();
    for package in fs::read_dir(root().join("crates")).unwrap().flatten() {
        let name = package.file_name().to_string_lossy().replace('-', "_");
        if name != "outbound_testkit" {
            declared(&package.path().join("src"), &name, &mut types);
        }
    }
    assert!(types.len() > 100, "only {} types were found", types.len());
    types
}

fn declared(directory: &Path, package: &str, types: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            declared(&path, package, types);
            continue;
        }
        for line in fs::read_to_string(path).unwrap().lines() {
            let line = line.trim_start();
            let rest = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "));
            let name = rest.and_then(|rest| rest.split(|c| !is_of_word(c)).next());
            types.extend(name.map(|name| (name.to_owned(), format!("{package}::{name}"))));
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
                said.shown(&format!("{name}: holding"), &holding);
            }
            if let Err(error) = outbound_tests::stack::read(response.into_body()).await {
                said.failed(&format!("{name}: the body's error"), error).await;
            }
        }
        Err(error) => {
            for holding in stack.guard.holders(&*error) {
                said.shown(&format!("{name}: holder"), &holding);
            }
            said.failed(&format!("{name}: the error"), error).await;
        }
    }
    said.debug(&format!("{name}: exchange"), &exchange);
    said.debug(&format!("{name}: retries"), &retries);
    said.debug(&format!("{name}: stats"), &stack.stats());
    said.debug(&format!("{name}: limiter"), &stack.limiter);
    said.debug(&format!("{name}: detector"), &stack.guard);
    said.debug(&format!("{name}: detector's stats"), &stack.guard.stats());
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
        ("interim responses without end", read().forever(Script::new().write(INTERIM.repeat(1_000)))),
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
    let tell = move |leak: &Leak| said.shown("a leak", leak);
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
    let per_path = ConcurrencyLimitLayer::new(1).per_key(|parts| parts.uri.to_string());
    layer(said, "concurrency per key", per_path, a, r).await;
    layer(said, "rate", RateLimitLayer::new(9, second).unwrap(), a, r).await;
    layer(said, "rate per origin", RateLimitLayer::new(9, second).unwrap().per_origin(), a, r).await;
    let per_path = RateLimitLayer::new(9, second).unwrap().per_key(|parts| parts.uri.to_string());
    layer(said, "rate per key", per_path, a, r).await;
    layer(said, "hedge", HedgeLayer::new(Duration::ZERO), a, r).await;
    layer(said, "budget per origin", RetryLayer::default().budget(per_origin()), a, r).await;
    layer(said, "closed", ConcurrencyLimitLayer::new(0).max_waiting(0), a, r).await;
    let busy = Script::new().forever(Script::new().exchange(answer(429).header("retry-after", "9")));
    let busy = Hostile::new(busy).start();
    let (first, then) = (&busy.uri("/"), &busy.uri("/again"));
    layer(said, "cooling down", CoolDownLayer::new(WhileCooling::FailFast), first, then).await;
    layer(said, "adaptive", AdaptiveLimitLayer::new(Aimd::default()), a, r).await;
    let (guard, detector) = LeakGuardLayer::builder().backtraces(Backtraces::All).pair();
    layer(said, "guard", guard, a, r).await;
    said.debug("guard: the detector", &detector);
    said.debug("guard: a client's handle", &detector.client());
    said.debug("guard: the check", &detector.check_on_drop());
    let (guard, _detector) = LeakGuardLayer::builder().reclaim_after(second).pair();
    layer(said, "guard that reclaims", guard, a, r).await;
    layer(said, "telemetry", TelemetryLayer::new(&meter()), a, r).await;
    layer(said, "remote context", RemoteContextLayer::new(), a, r).await;
    layer(said, "inbound deadline", InboundDeadlineLayer::new(second), a, r).await;
    layer(said, "nothing", tower::layer::util::Identity::new(), a, r).await;
}

fn per_origin() -> Budget {
    Budget::default().per_origin(std::num::NonZeroUsize::MIN)
}

fn meter() -> opentelemetry::metrics::Meter {
    opentelemetry::global::meter("secrets")
}

/// Connectors, what they open, and what a pool tells of its connections.
async fn connectors(said: &Said) {
    let local = Certificate::local();
    let script = || Script::new().forever(Script::new().exchange(answer(200)));
    let (plain, encrypted) =
        (Hostile::new(script()).start(), Hostile::new(script()).tls(local.clone()).start());
    let proxy = format!("http://me:s3cr3t-proxy@{}", plain.addr());
    let refuses = Hostile::new(Script::new().forever(Script::new().exchange(answer(407)))).start();
    let refusing = format!("http://me:s3cr3t-proxy@{}", refuses.addr());
    for (name, upstream, matcher) in [
        ("plain", &plain, Matcher::builder().build()),
        ("encrypted", &encrypted, Matcher::builder().build()),
        ("forwarded", &plain, Matcher::builder().http(&*proxy).build()),
        ("tunneled", &encrypted, Matcher::builder().https(&*proxy).build()),
        ("without a tunnel", &encrypted, Matcher::builder().https(&*refusing).build()),
    ] {
        let (track, tracker) = TrackLayer::pair();
        let (limit, patience) =
            (OpenLimitLayer::new(9).unwrap(), ConnectTimeoutLayer::new(Duration::from_secs(9)));
        let dialer = Tls::new(Proxy::new(Tcp::new(), matcher), local.client([]));
        let connector = tower::ServiceBuilder::new()
            .layer(&track)
            .layer(&limit)
            .layer(&patience)
            .layer(ConnectionsLayer::new(&meter()))
            .service(dialer);
        said.debug(
            &format!("{name}: the layers"),
            &(track, limit, patience, ConnectionsLayer::new(&meter())),
        );
        said.debug(&format!("{name}: the connector"), &connector);
        let request = with_secrets(Method::GET, &upstream.uri("/"), TestBody::new());
        match connector.clone().oneshot(request.uri().clone()).await {
            Ok(io) => {
                said.debug(&format!("{name}: what it opened"), &io);
                said.debug(&format!("{name}: what is tracked"), &tracker.connections());
            }
            Err(error) => {
                said.error(&format!("{name}: why it did not"), &*error);
                said.debug(&format!("{name}: how the proxy refused"), &find::<NoTunnel>(&*error));
            }
        }
        said.debug(&format!("{name}: the tracker"), &(tracker.traffic(), &tracker));
        let pool = Pool::builder().build(connector).unwrap();
        let mut events = pool.events();
        said.debug(&format!("{name}: the events"), &events);
        let answered = pool.clone().oneshot(request).await;
        match answered {
            Ok(response) => drop(response.into_body().collect().await),
            Err(error) => said.error(&format!("{name}: the error"), &*error),
        }
        drop(pool);
        while let Some(event) = events.next().await {
            said.debug(&format!("{name}: an event"), &event);
        }
    }
    for (name, connector, scheme) in
        [("not encrypted", Tcp::new(), "https"), ("not admitted", Tcp::new().admit(public_only), "http")]
    {
        let uri = format!("{scheme}://{}/", plain.addr()).parse().unwrap();
        let pool = Pool::builder().build(connector).unwrap();
        let error = pool.oneshot(with_secrets(Method::GET, &uri, TestBody::new())).await.unwrap_err();
        said.error(name, &*error);
    }
    let builder = Pool::builder().max_connections(1).acquire_timeout(Duration::from_millis(1));
    said.debug("a builder of pools", &builder);
    let pool = builder.build(Tcp::new()).unwrap();
    let call = || pool.clone().oneshot(with_secrets(Method::GET, &plain.uri("/"), TestBody::new()));
    let held = call().await.unwrap();
    said.error("no connection", &*call().await.unwrap_err());
    drop(held);
    said.debug("a builder of guards", &LeakGuardLayer::builder());
    said.debug("liveness", &Liveness::new(|| true));
    said.debug("grace", &Grace::new(Duration::from_secs(1), Deadline::NEVER));
    let pipes = InMemory::new(|io| async { drop(io) });
    said.debug("a connector in memory", &pipes);
    said.debug("a pipe", &pipes.oneshot(uri("a.example")).await.unwrap());
    said.debug("a connector to a file", &Unix::new("/nowhere"));
    said.debug("a resolver", &Resolver::default());
}

/// A client without a runtime.
fn blocking(said: &Said) {
    let script = Script::new().forever(Script::new().exchange(answer(200)));
    let upstream = Hostile::new(script).own_thread().start();
    let client = Client::builder().bearer_auth("s3cr3t-authorization").build_blocking().unwrap();
    said.debug("blocking: the client", &client);
    let uri = format!("http://me:s3cr3t-userinfo@{}/path?token=s3cr3t-query", upstream.addr());
    let call = client.post(uri).header("cookie", "session=s3cr3t-cookie").body("s3cr3t-body");
    said.debug("blocking: a call", &call);
    let response = call.send().unwrap();
    said.debug("blocking: its response", &response);
    let body = response.into_inner().into_body();
    said.debug("blocking: its body", &body);
    drop(body);
    let nobody = Refusal::new();
    let uri = format!("http://me:s3cr3t-userinfo@{}/path?token=s3cr3t-query", nobody.addr());
    let error = client.get(uri).send().unwrap_err();
    said.error("blocking: the error", &*error);
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
    let mut parts = with_secrets(Method::GET, &upstream.uri("/"), ()).into_parts().0;
    let extracted = Outbound::<Client>::from_request_parts(&mut parts, &client).await.unwrap();
    said.debug("the client, extracted", &extracted);
    said.debug("a watch", &Watch::new(&meter(), "client", client.clone()));
    said.debug(
        "a call to come",
        &client.clone().call(with_secrets(Method::GET, &upstream.uri("/"), Body::empty())),
    );
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
    let too_large = call().send().await.unwrap().bytes_within(1).await.unwrap_err();
    said.failed("a body too large", too_large).await;
    let not_json = call().send().await.unwrap().json::<u32>().await.unwrap_err();
    said.failed("a body that is no number", not_json).await;
    let not_utf8 = Response::new(Full::new(Bytes::from_static(b"s3cr3t-answer\xff")));
    said.failed("a body that is no text", not_utf8.text().await.unwrap_err()).await;
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

/// Hears of what is built.
struct Built(Said);

impl Watcher for Built {
    fn built(&self, construction: Construction) {
        self.0.shown("a construction", &construction);
    }
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
    said.debug("a body", &Body::from("s3cr3t-body"));
    // A policy sees the whole request and the head of the answer, and a user may print what it sees.
    let outcomes = said.clone();
    let policy = move |outcome: &Outcome<'_>| {
        outcomes.debug("an outcome", outcome);
        Decision::Stop
    };
    let busy = Hostile::new(Script::new().forever(Script::new().exchange(answer(503)))).start();
    let nobody = Refusal::new();
    for uri in [busy.uri("/"), uri(nobody.addr())] {
        let contexts = said.clone();
        let pool = Pool::builder().build(Tcp::new()).unwrap();
        let pool = tower::service_fn(move |request: Request<_>| {
            contexts.debug("what an attempt carries", &Carried::of(&request));
            contexts.debug("what it is charged to", &Ledger::of(&request));
            contexts.debug("what it sends", request.body());
            pool.clone().oneshot(request)
        });
        let service = RetryLayer::new(&policy).layer(pool);
        let _ = service.oneshot(with_secrets(Method::PUT, &uri, TestBody::from("s3cr3t-body"))).await;
    }
    let _guarded = SendExt::send(
        &tower::service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(()))),
        with_secrets(Method::GET, &uri("a.example"), ()),
    );
    said.debug("a call that is sent", &_guarded);
}

#[tokio::test]
async fn nothing_that_is_said_has_a_secret() {
    let said = Said::default();
    let listening = outbound_testkit::listening(Listener(said.clone()));
    let built = Arc::new(Built(said.clone()));
    Construction::watch(&built);
    faults(&said).await;
    layers(&said).await;
    connectors(&said).await;
    client(&said).await;
    values(&said).await;
    let without_runtime = said.clone();
    let blocking = thread::spawn(move || {
        let _listening = outbound_testkit::listening(Listener(without_runtime.clone()));
        blocking(&without_runtime);
    });
    blocking.join().unwrap();
    drop((listening, built));
    let events = said.0.lock().unwrap().iter().filter(|(who, _)| who.starts_with("an event")).count();
    assert!(events > 20, "only {events} events were heard");
    said.is_discreet(400);
    said.is_complete(&PLAIN);
}

const INTERIM: &str = "HTTP/1.1 102 Processing\r\n\r\n";

/// Numbers, words, times and choices, and dials that show nothing but another's future: there is no room in them for what anybody sends.
/// And the client's connector, which nobody gets to see; what it is made of is looked at.
const PLAIN: [&str; 47] = [
    "outbound::Concurrency",
    "outbound::Connector",
    "outbound::Contradiction",
    "outbound::InsideRuntime",
    "outbound_core::Count",
    "outbound_core::End",
    "outbound_core::Idempotent",
    "outbound_core::Time",
    "outbound_core::UrlTemplate",
    "outbound_guard::Backtraces",
    "outbound_guard::Descriptors",
    "outbound_limit::Bucket",
    "outbound_limit::Gate",
    "outbound_limit::Gradient2",
    "outbound_limit::InvalidOption",
    "outbound_limit::Order",
    "outbound_limit::Sample",
    "outbound_limit::Scope",
    "outbound_limit::Vegas",
    "outbound_limit::Windowed",
    "outbound_pool::Addresses",
    "outbound_pool::Connecting",
    "outbound_pool::Hickory",
    "outbound_pool::InvalidConfig",
    "outbound_pool::NoAddress",
    "outbound_pool::NoHttp2",
    "outbound_pool::NotResolved",
    "outbound_pool::Protocols",
    "outbound_pool::What",
    "outbound_pool::Why",
    "outbound_retry::AboveCap",
    "outbound_retry::Band",
    "outbound_retry::Decision",
    "outbound_retry::HedgeDelay",
    "outbound_retry::IdempotencyKey",
    "outbound_retry::InvalidSetting",
    "outbound_retry::Jitter",
    "outbound_retry::Percentile",
    "outbound_retry::Rule",
    "outbound_retry::Share",
    "outbound_retry::Statuses",
    "outbound_retry::Tokens",
    "outbound_retry::WhileCooling",
    "outbound_telemetry::Connecting",
    "outbound_telemetry::Series",
    "outbound_timeout::EmptyWindow",
    "outbound_timeout::Throughput",
];
