//! Every setting of the preset `Client` does what it says, as the server sees it.

use std::{
    fmt::Debug,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header::AUTHORIZATION};
use http_body_util::BodyExt;
use outbound::{
    Body, BoxError, Client, ClientExt, Delivery, Elapsed, Failure, Kind, LeakGuardLayer, Overloaded, Phase,
    ResponseExt, TelemetryLayer,
    client::{ClientBuilder, Concurrency, Contradiction},
    find,
    guard::Leak,
    limit::Aimd,
    pool::connect::{Matcher, NoHttp2, Protocols},
    retry::{Backoff, Budget, IdempotencyKey, Jitter, Ratio},
};
use outbound_testkit::{
    Answer, BlackHole, Certificate, Friendly, Gate, Hostile, Script, Upload, Upstream, handler, listening,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tower::ServiceExt;
use tracing::{
    Event, Id, Level, Metadata, Subscriber,
    field::Field,
    span::{Attributes, Record},
};

type Row = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()>>>);

macro_rules! rows {
    ($($name:ident)*) => { &[$((stringify!($name), || Box::pin($name()))),*] };
}

const SETTINGS: &[Row] = rows! {
    base_url default_header secret_header bearer_auth basic_auth
    total_timeout head_timeout read_timeout write_timeout pool_timeout resolve_timeout connect_timeout tls_timeout
    max_connections max_connections_per_host max_idle max_idle_per_host idle_timeout max_lifetime max_waiting
    protocols http2_prior_knowledge proxy leak_guard telemetry tls_config
    max_attempts backoff retry_after_cap retry_budget idempotency_key concurrency redirects decompression
};

/// The runtime's clock is paused: it jumps to the next timer when there is nothing else to do. So durations are exact.
#[test]
fn every_setting_does_what_it_says() {
    for (name, observe) in SETTINGS {
        println!("{name}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(observe());
    }
}

/// A setting without a row is not tested, and one without a line in the docs has no stated default.
#[test]
fn no_setting_is_forgotten() {
    let source = concat!(
        include_str!("../crates/outbound/src/client/builder.rs"),
        include_str!("../crates/outbound/src/client/telemetry.rs")
    );
    let plain =
        source.lines().filter_map(|line| line.trim_start().strip_prefix("pub fn ")?.split(['(', '<']).next());
    // Inside `settings!`: `name: Type,`.
    let blocks = source.split("    settings! {\n").skip(1).filter_map(|rest| rest.split("\n    }\n").next());
    let listed = blocks.flat_map(str::lines).filter_map(|line| line.trim_start().split_once(": "));
    let listed = listed.map(|(name, _)| name).filter(|name| !name.starts_with("///"));
    let is_setter = |name: &&str| !["$name", "build", "setting"].contains(name);
    let docs = include_str!("../crates/outbound/src/client/mod.rs");
    let mut found = 0;
    for setter in plain.filter(is_setter).chain(listed) {
        assert!(SETTINGS.iter().any(|(name, _)| *name == setter), "{setter} has no row");
        assert!(docs.contains(&format!("`{setter}`")), "{setter} has no line in the table of defaults");
        found += 1;
    }
    assert_eq!(found, SETTINGS.len());
}

const SECOND: Duration = Duration::from_secs(1);

/// Serves this to every request of every connection.
fn upstream(answer: Answer) -> Upstream {
    Hostile::new(Script::new().forever(Script::new().exchange(answer))).start()
}

fn hello() -> Upstream {
    upstream(Answer::new(200, "hello"))
}

/// Whatever the environment says of proxies.
fn builder() -> ClientBuilder {
    Client::builder().proxy(Matcher::builder().build())
}

/// Makes one call, and reads its response.
async fn call(client: &Client, upstream: &Upstream) -> Result<(StatusCode, String), BoxError> {
    let response = client.get(upstream.uri("/")).send().await?;
    Ok((response.status(), response.text().await?))
}

/// The headers of the last request.
async fn seen(client: &Client, upstream: &Upstream) -> HeaderMap {
    call(client, upstream).await.unwrap();
    upstream.sightings().requests.pop().unwrap().headers
}

/// The name and the phase of the limit that ran out, and after how long.
async fn elapsed(client: Client, upstream: &Upstream) -> (&'static str, Option<Phase>, Duration) {
    let begun = Instant::now();
    let error = call(&client, upstream).await.unwrap_err();
    let name = find::<Elapsed>(&*error).unwrap_or_else(|| panic!("{error}")).name();
    (name, Failure::of(&*error).phase(), begun.elapsed())
}

// === what is sent ===

async fn base_url() {
    let upstream = hello();
    for (base, path, target) in [
        ("", "/items?page=1", "/items?page=1"),
        ("/", "/items", "/items"),
        ("/v1", "/items", "/v1/items"),
        ("/v1/", "/items?page=1", "/v1/items?page=1"),
        ("/v1", "*", "*"),
    ] {
        let client = builder().base_url(format!("http://{}{base}", upstream.addr())).build().unwrap();
        client.request(Method::OPTIONS, path).send().await.unwrap();
        assert_eq!(upstream.sightings().requests.pop().unwrap().target, target, "{base} and {path}");
    }
    let client = builder().base_url("http://nobody.invalid/v1").build().unwrap();
    client.get(upstream.uri("/absolute")).send().await.unwrap();
    assert_eq!(upstream.sightings().requests.pop().unwrap().target, "/absolute");
    let error = client.get("items").send().await.unwrap_err();
    assert_eq!(Failure::of(&*error).kind(), Kind::Invalid, "{error}");
}

async fn default_header() {
    let upstream = hello();
    let client = builder().default_header("x-a", "default").default_header("x-b", "default").build().unwrap();
    client.get(upstream.uri("/")).header("x-b", "own").send().await.unwrap();
    let headers = upstream.sightings().requests.pop().unwrap().headers;
    assert_eq!((&headers["x-a"], &headers["x-b"]), (&"default".parse().unwrap(), &"own".parse().unwrap()));
}

async fn secret_header() {
    let (home, abroad) = (hello(), hello());
    let client = builder().secret_header("x-key", "secret").default_header("x-plain", "x");
    let client = client.base_url(home.uri("/")).build().unwrap();
    assert!(seen(&client, &home).await.contains_key("x-key"));
    let headers = seen(&client, &abroad).await;
    assert!(headers.contains_key("x-plain") && !headers.contains_key("x-key"), "{headers:?}");
    let everywhere = builder().secret_header("x-key", "secret").build().unwrap();
    assert!(seen(&everywhere, &abroad).await.contains_key("x-key"));
    assert!(!format!("{:?}", builder().secret_header("x-key", "hush")).contains("hush"));
}

async fn bearer_auth() {
    let client = builder().bearer_auth("token").build().unwrap();
    assert_eq!(seen(&client, &hello()).await[AUTHORIZATION], "Bearer token");
}

async fn basic_auth() {
    let client = builder().basic_auth("Aladdin", "open sesame").build().unwrap();
    assert_eq!(seen(&client, &hello()).await[AUTHORIZATION], "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
}

// === time ===

async fn total_timeout() {
    // Each piece comes in time, the whole never.
    let drip = Answer::new(200, "x".repeat(100)).to_bytes();
    let script = Script::new().read_head().dribble(drip, 60, 2 * SECOND);
    let upstream = Hostile::new(script).start();
    let client = builder().total_timeout(3 * SECOND).build().unwrap();
    assert_eq!(elapsed(client, &upstream).await, ("deadline", Some(Phase::Body), 3 * SECOND));
    // Longer than the default.
    let drip = Answer::new(200, "x".repeat(600)).to_bytes();
    let upstream = Hostile::new(Script::new().read_head().dribble(drip, 60, 10 * SECOND)).start();
    let client = builder().build().unwrap();
    assert_eq!(elapsed(client, &upstream).await, ("deadline", Some(Phase::Body), 60 * SECOND));
    let client = builder().total_timeout(Duration::MAX).build().unwrap();
    assert_eq!(call(&client, &upstream).await.unwrap().1.len(), 600);
}

async fn head_timeout() {
    let upstream = Hostile::new(Script::new().read_head().stall()).start();
    let client = builder().head_timeout(7 * SECOND).max_attempts(1).build().unwrap();
    assert_eq!(elapsed(client, &upstream).await, ("head", Some(Phase::Head), 7 * SECOND));
    assert!(upstream.ended(0).await.by_peer(), "a connection that timed out is closed");
}

async fn read_timeout() {
    let upstream =
        Hostile::new(Script::new().exchange(Answer::new(200, "hello").cut_body(2)).stall()).start();
    let client = builder().read_timeout(7 * SECOND).build().unwrap();
    assert_eq!(elapsed(client, &upstream).await, ("read-idle", Some(Phase::Body), 7 * SECOND));
}

async fn write_timeout() {
    let upstream = Hostile::new(Script::new().read_head().stall()).start();
    let client = builder().write_timeout(7 * SECOND).max_attempts(1).build().unwrap();
    // More than the sockets' buffers hold.
    let upload = client.post(upstream.uri("/")).body(vec![0; 64 << 20]);
    let error = upload.send().await.unwrap_err();
    let elapsed = find::<Elapsed>(&*error).unwrap();
    assert_eq!((elapsed.name(), elapsed.limit()), ("write-idle", 7 * SECOND), "{error}");
}

async fn pool_timeout() {
    let upstream = Hostile::new(Script::new().read_head().stall()).start();
    let client = builder().pool_timeout(3 * SECOND).max_connections(1).max_attempts(1).build().unwrap();
    let holds = tokio::spawn(client.get(upstream.uri("/")).send());
    upstream.heads(1).await;
    assert_eq!(elapsed(client, &upstream).await, ("acquire", Some(Phase::Acquire), 3 * SECOND));
    assert_eq!(upstream.sightings().connections.len(), 1);
    holds.abort();
}

/// The system's resolver cannot be made slow: that the setting reaches the pool, whose own tests go on from there, is all that is
/// to be seen.
async fn resolve_timeout() {
    let client = builder().resolve_timeout(7 * SECOND).build().unwrap();
    let pool = format!("{:?}", client.pool());
    assert!(pool.contains("resolve: 7s"), "{pool}");
}

async fn connect_timeout() {
    let nobody = BlackHole::new();
    let client = builder().connect_timeout(3 * SECOND).max_attempts(1).build().unwrap();
    let begun = Instant::now();
    let error = client.get(format!("http://{}/", nobody.addr())).send().await.unwrap_err();
    let failure = Failure::of(&*error);
    assert_eq!((failure.kind(), failure.phase()), (Kind::Timeout, Some(Phase::Connect)), "{error}");
    assert_eq!(begun.elapsed(), 3 * SECOND);
}

async fn tls_timeout() {
    let upstream = Hostile::new(Script::new().stall()).start();
    let client = builder().tls_timeout(3 * SECOND).max_attempts(1).build().unwrap();
    let begun = Instant::now();
    let error = client.get(format!("https://{}/", upstream.addr())).send().await.unwrap_err();
    let failure = Failure::of(&*error);
    assert_eq!((failure.kind(), failure.phase()), (Kind::Timeout, Some(Phase::Tls)), "{error}");
    assert_eq!(begun.elapsed(), 3 * SECOND);
}

// === connections ===

/// How many connections each of two servers sees of four calls to each at once, and both of them together.
async fn load(client: ClientBuilder) -> ([usize; 2], usize) {
    let client = client.build().unwrap();
    let gate = Gate::new("answer");
    let script = Script::new().forever(Script::new().read_head().wait(&gate).answer(200, "hello"));
    let servers = [(); 2].map(|()| Arc::new(Hostile::new(script.clone()).start()));
    let calls: Vec<_> = (0..8)
        .map(|n| {
            let (client, server) = (client.clone(), servers[n % 2].clone());
            tokio::spawn(async move { call(&client, &server).await.unwrap() })
        })
        .collect();
    // Nothing more happens by itself.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    let open = servers.each_ref().map(|server| server.open());
    gate.open();
    for call in calls {
        call.await.unwrap();
    }
    (open, client.pool().stats().connections.idle)
}

async fn max_connections() {
    let (open, _) = load(builder().max_connections(3)).await;
    assert_eq!(open.iter().sum::<usize>(), 3, "{open:?}");
}

async fn max_connections_per_host() {
    let (open, _) = load(builder().max_connections_per_host(3)).await;
    assert_eq!(open, [3, 3]);
}

async fn max_idle() {
    let (open, idle) = load(builder().max_idle(3)).await;
    assert_eq!((open, idle), ([4, 4], 3));
}

async fn max_idle_per_host() {
    let (open, idle) = load(builder().max_idle_per_host(3)).await;
    assert_eq!((open, idle), ([4, 4], 6));
}

async fn idle_timeout() {
    let upstream = hello();
    let client = builder().idle_timeout(7 * SECOND).build().unwrap();
    call(&client, &upstream).await.unwrap();
    tokio::time::sleep(6 * SECOND).await;
    assert_eq!(upstream.open(), 1);
    call(&client, &upstream).await.unwrap();
    assert_eq!(upstream.sightings().connections.len(), 1, "it was kept, and its time begins anew");
    tokio::time::sleep(8 * SECOND).await;
    assert!(upstream.ended(0).await.by_peer());
}

async fn max_lifetime() {
    let upstream = hello();
    let client = builder().max_lifetime(20 * SECOND).build().unwrap();
    for (second, connections) in [(0, 1), (17, 1), (40, 2)] {
        tokio::time::sleep(second * SECOND).await;
        call(&client, &upstream).await.unwrap();
        assert_eq!(upstream.sightings().connections.len(), connections, "{second} s later");
    }
    assert!(upstream.ended(0).await.by_peer());
}

async fn max_waiting() {
    let upstream = Hostile::new(Script::new().read_head().stall()).start();
    for (name, one) in [("pool", builder().max_connections(1)), ("permits", builder().concurrency(1))] {
        let client = one.max_waiting(0).max_attempts(1).build().unwrap();
        let holds = tokio::spawn(client.get(upstream.uri("/")).send());
        upstream.until("the head", |seen| seen.requests.iter().any(|request| request.target == "/")).await;
        tokio::task::yield_now().await;
        let error = client.get(upstream.uri("/second")).send().await.unwrap_err();
        let overloaded = find::<Overloaded>(&*error).unwrap_or_else(|| panic!("{name}: {error}"));
        let named = overloaded.oldest().is_some_and(|(_, site)| site.is_some());
        assert_eq!(named, name == "permits", "whose call is in the way: {error}");
        holds.abort();
    }
}

async fn protocols() {
    let certificate = Certificate::local();
    let both = certificate.clone().alpn(["h2", "http/1.1"]);
    let h2 = Friendly::new(handler::hello).http2().tls(both.clone()).start();
    let h1 = || Friendly::new(handler::hello).tls(both.clone()).start();
    let unaware = Friendly::new(handler::hello).tls(certificate.clone()).start();
    let client = || builder().tls_config(certificate.client([]));
    let http1 = client().protocols(Protocols::Http1);
    let http2 = || client().protocols(Protocols::Http2);
    #[rustfmt::skip]
    let cases = [
        ("default, and it knows HTTP/2",   client(), &h2,      Version::HTTP_2),
        ("default, and it does not",       client(), &unaware, Version::HTTP_11),
        ("HTTP/1.1 where it would choose", http1,    &h1(),    Version::HTTP_11),
        ("HTTP/2",                         http2(),  &h2,      Version::HTTP_2),
    ];
    for (name, client, upstream, version) in cases {
        let response = client.build().unwrap().get(upstream.uri("/")).send().await.unwrap();
        assert_eq!(response.version(), version, "{name}");
        assert_eq!(response.text().await.unwrap(), "hello", "{name}");
    }
    let error = call(&http2().build().unwrap(), &unaware).await.unwrap_err();
    assert!(find::<NoHttp2>(&*error).is_some(), "{error}");
}

async fn http2_prior_knowledge() {
    let upstream = Friendly::new(handler::hello).http2().start();
    let client = builder().http2_prior_knowledge(true).build().unwrap();
    assert_eq!(client.get(upstream.uri("/")).send().await.unwrap().version(), Version::HTTP_2);
    let unaware = builder().build().unwrap();
    assert!(call(&unaware, &upstream).await.is_err(), "it is no HTTP/1.1 server");
}

async fn proxy() {
    let certificate = Certificate::local();
    let (plain, secure) = (hello(), Friendly::new(handler::hello).tls(certificate.clone()).start());
    let relay = Relay::start().await;
    let through = || Matcher::builder().all(format!("http://me:hush@{}", relay.addr));
    let client = |matcher: Matcher| {
        Client::builder().proxy(matcher).tls_config(certificate.client([])).build().unwrap()
    };
    for (name, matcher, plain_says, asked) in [
        ("no host", Matcher::builder().build(), "hello", vec![]),
        ("no such host", through().no("127.0.0.1").build(), "hello", vec![]),
        (
            "all hosts",
            through().build(),
            "the proxy",
            vec![format!("GET http://{}/", plain.addr()), format!("CONNECT {}", secure.addr())],
        ),
    ] {
        let client = client(matcher);
        assert_eq!(call(&client, &plain).await.unwrap().1, plain_says, "{name}");
        assert_eq!(call(&client, &secure).await.unwrap().1, "hello", "{name}");
        assert_eq!(relay.asked.lock().unwrap().split_off(0), asked, "{name}");
    }
}

/// A proxy, and the first two words of whatever it was asked.
struct Relay {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let relay = Self { addr: listener.local_addr().unwrap(), asked: Arc::default() };
        let asked = relay.asked.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(Self::serve(client, asked.clone()));
            }
        });
        relay
    }

    /// Opens a tunnel, or answers itself.
    async fn serve(mut client: TcpStream, asked: Arc<Mutex<Vec<String>>>) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.to_lowercase().contains("proxy-authorization: basic bwu6ahvzaa=="), "{head}");
        let words: Vec<_> = head.split(' ').take(2).collect();
        asked.lock().unwrap().push(words.join(" "));
        if words[0] == "CONNECT" {
            let mut origin = TcpStream::connect(words[1]).await.unwrap();
            // What a kernel holds back, it holds back on a clock that does not jump.
            client.set_nodelay(true).unwrap();
            origin.set_nodelay(true).unwrap();
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let _ = copy_bidirectional(&mut client, &mut origin).await;
        } else {
            client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nthe proxy").await.unwrap();
        }
    }
}

async fn leak_guard() {
    let upstream = hello();
    for (name, limit, told) in [("default", None, 0), ("shorter", Some(3 * SECOND), 1)] {
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let hears = heard.clone();
        let guard = LeakGuardLayer::builder().callback(move |leak: &Leak| {
            hears.lock().unwrap().push(leak.to_string());
        });
        let client = builder().leak_guard(match limit {
            Some(limit) => guard.held(limit),
            None => guard,
        });
        let client = client.build().unwrap();
        let response = client.get(upstream.uri("/")).send().await.unwrap();
        let line = format!("client.rs:{}", line!() - 1);
        tokio::time::sleep(4 * SECOND).await;
        let heard = heard.lock().unwrap().split_off(0);
        assert_eq!(heard.len(), told, "{name}: {heard:?}");
        assert!(heard.iter().all(|leak| leak.contains("held") && leak.contains(&line)), "{name}: {heard:?}");
        drop(response);
    }
}

/// Story 2, whether its clients are dropped at once or kept, and however many others there are to hear of it.
#[tokio::test(start_paused = true)]
async fn a_line_that_builds_clients_again_and_again_is_told_once() {
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = told.clone();
    let guard = LeakGuardLayer::builder().callback(move |leak| heard.lock().unwrap().push(leak.to_string()));
    for (name, standing, keeps) in
        [("dropped at once", 0, false), ("kept", 0, true), ("beside others that stand", 3, false)]
    {
        let standing: Vec<_> =
            (0..standing).map(|_| builder().leak_guard(guard.clone()).build().unwrap()).collect();
        let (mut kept, mut line) = (Vec::new(), 0);
        for _ in 0..20 {
            let client = builder().leak_guard(guard.clone()).build().unwrap();
            line = line!() - 1;
            if keeps {
                kept.push(client);
            }
        }
        drop((standing, kept));
        let column = 62;
        let said =
            format!("10 clients built within 0 s at tests/client.rs:{line}:{column}: build one and share it");
        assert_eq!(told.lock().unwrap().split_off(0), [said], "{name}");
        // The same line is told again in another window.
        tokio::time::sleep(61 * SECOND).await;
    }
}

/// Its last clone may be used up by a call: while that goes on there is no body yet.
#[tokio::test(start_paused = true)]
async fn a_client_that_goes_before_its_bodies_is_told_and_one_that_makes_a_last_call_is_not() {
    let upstream = upstream(Answer::new(200, "x".repeat(100_000)));
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = told.clone();
    let guard = LeakGuardLayer::builder().callback(move |leak| heard.lock().unwrap().push(leak.to_string()));
    let client = || builder().redirects(3).leak_guard(guard.clone()).build().unwrap();
    let request = || http::Request::get(upstream.uri("/")).body(Body::empty()).unwrap();

    let oneshot = client().oneshot(request()).await.unwrap();
    let last = client();
    let sent = {
        let call = last.get(upstream.uri("/"));
        drop(last);
        call.send().await.unwrap()
    };
    for response in [oneshot, sent] {
        assert_eq!(response.bytes().await.unwrap().len(), 100_000);
    }
    assert_eq!(*told.lock().unwrap(), [""; 0]);

    let client = client();
    let clone = client.clone();
    let _kept = client.get(upstream.uri("/")).send().await.unwrap();
    let line = line!() - 1;
    drop(client);
    assert_eq!(*told.lock().unwrap(), [""; 0], "a clone is left");
    drop(clone);
    let told = told.lock().unwrap().split_off(0);
    let [told] = &told[..] else { panic!("{told:?}") };
    assert!(
        told.starts_with("client dropped with 1 response open, the oldest: ")
            && told.contains(&format!("client.rs:{line}:")),
        "{told}"
    );
}

/// One span for each attempt, each of which the server sees. What is told in detail is the facade's own tests' affair.
async fn telemetry() {
    let meter = opentelemetry::global::meter("test");
    let (on, off) = (TelemetryLayer::new(&meter), TelemetryLayer::off());
    for (name, layer, attempts_told) in [("none", None, 0), ("off", Some(off), 0), ("on", Some(on), 3)] {
        let spans = Spans::default();
        let _listening = listening(spans.clone());
        let client = match layer {
            Some(layer) => builder().telemetry("users", layer),
            None => builder(),
        };
        assert_eq!(attempts(client, Method::GET, busy()).await.0, 3, "{name}");
        assert_eq!(*spans.0.lock().unwrap(), vec!["http.client.request"; attempts_told], "{name}");
    }
}

/// The names of the spans that were made.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<&'static str>>>);

/// What was warned of.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("outbound")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut spans = self.0.lock().unwrap();
        spans.push(span.metadata().name());
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("outbound::client")
    }

    fn event(&self, event: &Event<'_>) {
        assert_eq!(*event.metadata().level(), Level::WARN);
        event.record(&mut |_: &Field, value: &dyn Debug| self.0.lock().unwrap().push(format!("{value:?}")));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

async fn tls_config() {
    let certificate = Certificate::local();
    let script = Script::new().forever(Script::new().exchange(Answer::new(200, "hello")));
    let upstream = Hostile::new(script).tls(certificate.clone()).start();
    let client = builder().tls_config(certificate.client([])).build().unwrap();
    assert_eq!(call(&client, &upstream).await.unwrap().1, "hello");
    let error = call(&builder().build().unwrap(), &upstream).await.unwrap_err();
    assert_eq!(Failure::of(&*error).kind(), Kind::Certificate, "{error}");
}

// === retries, and how much at once ===

/// How many requests an ever busy server sees of one call, and how long that takes.
async fn attempts(client: ClientBuilder, method: Method, busy: Answer) -> (usize, Duration) {
    let upstream = upstream(busy);
    let begun = Instant::now();
    let response = client.build().unwrap().request(method, upstream.uri("/")).send().await.unwrap();
    assert_eq!(response.status(), 503);
    (upstream.sightings().requests.len(), begun.elapsed())
}

fn busy() -> Answer {
    Answer::new(503, "")
}

fn steady(wait: Duration) -> Backoff {
    Backoff::new(wait, wait).unwrap().jitter(Jitter::None)
}

async fn max_attempts() {
    for most in [1, 3, 5] {
        let client = builder().max_attempts(most);
        assert_eq!(attempts(client, Method::GET, busy()).await.0, most as usize);
    }
}

async fn backoff() {
    let client = builder().backoff(steady(2 * SECOND));
    assert_eq!(attempts(client, Method::GET, busy()).await, (3, 4 * SECOND));
}

async fn retry_after_cap() {
    let asks = || busy().header("retry-after", "5");
    let client = || builder().max_attempts(2);
    assert_eq!(attempts(client().retry_after_cap(5 * SECOND), Method::GET, asks()).await, (2, 5 * SECOND));
    assert_eq!(
        attempts(client().retry_after_cap(4 * SECOND), Method::GET, asks()).await,
        (1, Duration::ZERO)
    );
}

async fn retry_budget() {
    let none = Budget::new(Ratio::default().percent(0).floor(0));
    assert_eq!(attempts(builder().retry_budget(none), Method::GET, busy()).await.0, 1);
}

async fn idempotency_key() {
    let client = || builder().max_attempts(2);
    assert_eq!(attempts(client(), Method::POST, busy()).await.0, 1);
    let client = || client().idempotency_key(IdempotencyKey::Generated);
    assert_eq!(attempts(client(), Method::POST, busy()).await.0, 2);
    let upstream = hello();
    client().build().unwrap().post(upstream.uri("/")).send().await.unwrap();
    assert!(upstream.sightings().requests[0].headers.contains_key("idempotency-key"));
}

async fn concurrency() {
    let learnt = Concurrency::adaptive(Aimd::default().limits(1, 3, 10).unwrap());
    for (limit, name) in [(Concurrency::from(3), "fixed"), (learnt, "adaptive")] {
        let (open, _) = load(builder().concurrency(limit)).await;
        assert_eq!(open.iter().sum::<usize>(), 3, "{name}");
    }
}

async fn redirects() {
    let there = hello();
    let here = upstream(Answer::new(302, "").header("location", there.uri("/there").to_string()));
    for (most, status, requests) in [(0, 302, 0), (1, 200, 1)] {
        let client = builder().redirects(most).build().unwrap();
        assert_eq!(call(&client, &here).await.unwrap().0, status, "{most}");
        assert_eq!(there.sightings().requests.len(), requests, "{most}");
    }
    let in_circles = upstream(Answer::new(302, "").header("location", "/again"));
    let client = builder().redirects(4).build().unwrap();
    assert_eq!(call(&client, &in_circles).await.unwrap().0, 302);
    assert_eq!(in_circles.sightings().requests.len(), 5);
}

async fn decompression() {
    let upstream = upstream(Answer::new(200, HELLO_IN_GZIP).header("content-encoding", "gzip"));
    let on = builder().build().unwrap();
    assert_eq!(seen(&on, &upstream).await["accept-encoding"], "gzip,deflate,br");
    assert_eq!(call(&on, &upstream).await.unwrap().1, "hello");
    let off = builder().decompression(false).build().unwrap();
    let response = off.get(upstream.uri("/")).send().await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert_eq!(response.bytes().await.unwrap(), HELLO_IN_GZIP);
    let headers = upstream.sightings().requests.pop().unwrap().headers;
    assert!(!headers.contains_key("accept-encoding"));
}

/// `printf hello | gzip -n`
const HELLO_IN_GZIP: &[u8] = &[
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00,
    0x86, 0xa6, 0x10, 0x36, 0x05, 0x00, 0x00, 0x00,
];

// === what is no single setting ===

/// Answers by the first step of the path: `/302@there/on` sends to `/on` there, and `/503` is that status.
fn signpost() -> Upstream {
    async fn point(request: Request<Upload>) -> Response<String> {
        let path = request.uri().path().to_owned();
        let _ = request.into_body().collect().await;
        let (step, rest) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        let (status, place) = step.split_once('@').unwrap_or((step, ""));
        // One without a status that redirects is nothing to a client.
        let location = format!("http://{place}/{rest}");
        Response::builder().status(status).header("location", location).body(String::new()).unwrap()
    }
    Friendly::new(point).start()
}

/// Credentials never cross origins, whoever put them there, and do not come back on the way home; nor does a `Host` that was
/// the first origin's.
#[tokio::test]
async fn a_redirect_to_another_origin_takes_no_credentials_with_it() {
    let client = builder().redirects(5).bearer_auth("ours").secret_header("x-key", "ours").build().unwrap();
    for (name, stations, takes) in [
        ("abroad, and home", [0, 1, 0], [true, false, false]),
        ("abroad, and on", [0, 1, 2], [true, false, false]),
        ("within, and abroad", [0, 0, 1], [true, true, false]),
    ] {
        let servers = [signpost(), signpost(), signpost()];
        let [first, second, third] = stations.map(|station: usize| servers[station].addr());
        let asked = client.get(format!("http://{first}/302@{second}/302@{third}/200"));
        let asked = asked.header("cookie", "a=b").header("host", "own.example").header("x-plain", "stays");
        assert_eq!(asked.send().await.unwrap().status(), 200, "{name}");
        for (hop, takes) in takes.into_iter().enumerate() {
            let server = &servers[stations[hop]];
            let before = stations[..hop].iter().filter(|&&station| station == stations[hop]).count();
            let headers = &server.sightings().requests[before].headers;
            for secret in ["authorization", "x-key", "cookie"] {
                assert_eq!(headers.contains_key(secret), takes, "{name}, hop {hop}: {secret}");
            }
            let host = if takes { "own.example".to_owned() } else { server.addr().to_string() };
            assert_eq!(headers["host"], host, "{name}, hop {hop}");
            assert_eq!(headers["x-plain"], "stays", "{name}, hop {hop}");
        }
    }
}

/// A body does not cross origins, whatever the method; a streamed one cannot be sent twice.
#[tokio::test]
async fn a_redirect_takes_the_body_along_within_its_origin_alone() {
    let client = builder().redirects(5).build().unwrap();
    let (some, none) = (|| Body::from("the body"), Body::empty);
    let stream = || Body::blocking_reader(&b"once"[..]);
    #[rustfmt::skip]
    let cases = [
        // name                    method           body      status  abroad  the request that follows
        ("POST within",            Method::POST,    some(),   307,    false,  Some((Method::POST, 8))),
        ("POST within",            Method::POST,    some(),   302,    false,  Some((Method::GET, 0))),
        ("GET within",             Method::GET,     some(),   302,    false,  Some((Method::GET, 8))),
        ("a stream within",        Method::POST,    stream(), 307,    false,  None),
        ("POST abroad",            Method::POST,    some(),   307,    true,   None),
        ("POST abroad",            Method::POST,    some(),   302,    true,   Some((Method::GET, 0))),
        ("POST abroad",            Method::POST,    some(),   301,    true,   Some((Method::GET, 0))),
        ("POST abroad",            Method::POST,    some(),   303,    true,   Some((Method::GET, 0))),
        ("PUT abroad",             Method::PUT,     some(),   302,    true,   None),
        ("DELETE abroad",          Method::DELETE,  none(),   307,    true,   None),
        ("GET abroad",             Method::GET,     some(),   301,    true,   None),
        ("GET abroad",             Method::GET,     some(),   302,    true,   None),
        ("GET abroad",             Method::GET,     some(),   307,    true,   None),
        ("GET abroad",             Method::GET,     some(),   308,    true,   None),
        ("GET abroad",             Method::GET,     some(),   303,    true,   Some((Method::GET, 0))),
        ("GET abroad, empty",      Method::GET,     none(),   307,    true,   Some((Method::GET, 0))),
        ("QUERY abroad",           Method::QUERY,   some(),   302,    true,   None),
        ("QUERY abroad",           Method::QUERY,   some(),   307,    true,   None),
    ];
    for (name, method, body, status, is_abroad, expected) in cases {
        let (home, abroad) = (signpost(), signpost());
        let there = if is_abroad { &abroad } else { &home };
        let asked = client.request(method, format!("http://{}/{status}@{}/200", home.addr(), there.addr()));
        let answered = asked.body(body).send().await.unwrap().status();
        assert_eq!(answered, if expected.is_some() { 200 } else { status }, "{name}, {status}");
        let mut requests = there.sightings().requests.into_iter().skip(usize::from(!is_abroad));
        let followed = requests.next().map(|request| (request.method, request.body.len()));
        assert_eq!(followed, expected, "{name}, {status}");
    }
}

/// A body that is too large to be kept is made again for each attempt; not for one of a request that has none any more.
#[tokio::test(start_paused = true)]
async fn a_body_that_a_redirect_has_dropped_does_not_come_back_with_a_retry() {
    let server = signpost();
    let client = builder().redirects(5).max_attempts(2).build().unwrap();
    let posted = client.post(format!("http://{0}/303@{0}/503", server.addr())).body(vec![b'x'; 100_000]);
    assert_eq!(posted.send().await.unwrap().status(), 503);
    let requests = server.sightings().requests.into_iter();
    let requests: Vec<_> = requests.map(|request| (request.method, request.body.len())).collect();
    assert_eq!(requests, [(Method::POST, 100_000), (Method::GET, 0), (Method::GET, 0)]);
}

#[tokio::test]
async fn a_redirect_from_https_to_http_is_not_followed() {
    let plain = hello();
    let certificate = Certificate::local();
    let away = Answer::new(302, "").header("location", plain.uri("/").to_string());
    let secure = Hostile::new(Script::new().exchange(away)).tls(certificate.clone()).start();
    let client = builder().redirects(5).tls_config(certificate.client([])).build().unwrap();
    assert_eq!(call(&client, &secure).await.unwrap().0, 302);
    assert!(plain.sightings().requests.is_empty());
}

/// Each row is a process of its own, because the environment belongs to the whole of one.
#[tokio::test]
async fn proxies_are_those_of_the_environment_unless_somebody_says_otherwise() {
    if let Ok(uri) = std::env::var("OUTBOUND_TEST_URI") {
        let mut client = Client::builder().max_attempts(1);
        if std::env::var("OUTBOUND_TEST_NO_PROXY").is_ok() {
            client = client.proxy(Matcher::builder().build());
        }
        let said = match client.build().unwrap().get(uri).send().await {
            Ok(response) => response.text().await.unwrap(),
            Err(error) => error.to_string(),
        };
        return print!("<{said}>");
    }
    let serving = |answer| {
        let script = Script::new().forever(Script::new().exchange(answer));
        Hostile::new(script).own_thread().start()
    };
    let origin = serving(Answer::new(200, "the origin"));
    let proxy = serving(Answer::new(200, "the proxy"));
    let guarded = serving(Answer::new(403, ""));
    let (http, https) = (origin.uri("/").to_string(), "https://a.example/".to_owned());
    let (at, at_guarded) = (format!("http://{}", proxy.addr()), format!("http://me:hush@{}", guarded.addr()));
    let refused = format!("https://a.example through the proxy http://{}: ", guarded.addr());
    for (name, uri, variables, expected) in [
        ("none", &http, &[][..], "the origin"),
        ("HTTP_PROXY", &http, &[("HTTP_PROXY", &*at)], "the proxy"),
        ("HTTPS_PROXY for http", &http, &[("HTTPS_PROXY", &at)], "the origin"),
        ("HTTPS_PROXY for https", &https, &[("HTTPS_PROXY", &at_guarded)], &refused),
        ("NO_PROXY", &http, &[("ALL_PROXY", &at), ("NO_PROXY", "a.example,127.0.0.1")], "the origin"),
        ("NO_PROXY for others", &http, &[("ALL_PROXY", &at), ("NO_PROXY", "a.example")], "the proxy"),
        ("the builder", &http, &[("HTTP_PROXY", &at), ("OUTBOUND_TEST_NO_PROXY", "1")], "the origin"),
    ] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "proxies_are_those_of_the_environment_unless_somebody_says_otherwise"]);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"] {
            child.env_remove(name).env_remove(name.to_lowercase());
        }
        let child = child.arg("--nocapture").env("OUTBOUND_TEST_URI", uri).envs(variables.iter().copied());
        let output = child.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let said = said.split_once('<').and_then(|(_, rest)| rest.split_once('>')).unwrap_or_default().0;
        assert!(said.starts_with(expected), "{name}: {said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(!said.contains("hush"), "{name}: {said}");
    }
    assert_eq!(guarded.sightings().requests[0].target, "a.example:443");
}

#[tokio::test(start_paused = true)]
async fn a_closed_client_has_no_sockets_and_serves_nobody() {
    let upstream = upstream(Answer::new(200, vec![b'x'; 1 << 20]));
    let client = builder().build().unwrap();
    call(&client, &upstream).await.unwrap();
    let response = client.get(upstream.uri("/")).send().await.unwrap();
    call(&client, &upstream).await.unwrap();
    assert_eq!(client.pool().stats().connections.open(), 2, "one idle, one with a response");

    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close().await }
    });
    tokio::time::sleep(10 * SECOND).await;
    assert!(!closing.is_finished(), "it waits for what goes on");
    assert_eq!(client.pool().stats().connections.open(), 1, "what is idle is closed at once");
    let late = client.get(upstream.uri("/")).send().await.unwrap_err();
    let failure = Failure::of(&*late);
    assert_eq!((failure.kind(), failure.delivery()), (Kind::Canceled, Delivery::NotSent), "{late}");
    assert_eq!(response.bytes().await.unwrap().len(), 1 << 20);
    closing.await.unwrap();
    assert_eq!(client.pool().stats().connections.open(), 0);
    upstream.all_closed().await;

    let begun = Instant::now();
    client.close().await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "there is nothing left to close");
}

/// What does not end by itself is closed when no call could go on any more.
#[tokio::test(start_paused = true)]
async fn closing_waits_no_longer_than_a_call_may_take() {
    let upstream = upstream(Answer::new(200, vec![b'x'; 8 << 20]));
    let client = builder().total_timeout(7 * SECOND).head_timeout(SECOND).build().unwrap();
    let response = client.get(upstream.uri("/")).send().await.unwrap();
    let begun = Instant::now();
    client.close().await;
    assert_eq!(begun.elapsed(), 7 * SECOND);
    assert_eq!(client.pool().stats().connections.open(), 0);
    upstream.all_closed().await;
    assert!(response.bytes().await.is_err());
}

#[tokio::test]
async fn a_client_that_is_dropped_with_a_body_out_names_the_line() {
    let upstream = hello();
    let client = builder().build().unwrap();
    let leaks = client.leaks().clone();
    call(&client, &upstream).await.unwrap();
    drop(client);
    assert_eq!(leaks.stats().totals.clients_dropped, 0, "its bodies are back");

    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let hears = heard.clone();
    let guard = LeakGuardLayer::builder().callback(move |leak: &Leak| {
        hears.lock().unwrap().push(leak.to_string());
    });
    let client = builder().leak_guard(guard).build().unwrap();
    let response = client.get(upstream.uri("/")).send().await.unwrap();
    let line = format!("client.rs:{}", line!() - 1);
    let leaks = client.leaks().clone();
    let site = leaks.snapshot()[0].site.unwrap();
    assert!(site.to_string().contains(&line), "{site}");
    drop(client.clone());
    assert_eq!(leaks.stats().totals.clients_dropped, 0, "there is another clone");
    drop(client);
    let told = heard.lock().unwrap().split_off(0);
    let [told] = &told[..] else { panic!("{told:?}") };
    assert!(told.starts_with("client dropped with 1 response open") && told.contains(&line), "{told}");
    assert_eq!(response.text().await.unwrap(), "hello", "the body is the caller's still");
    leaks.assert_no_leaks();
}

#[test]
fn settings_that_make_no_sense_are_told_by_name() {
    let zero = Duration::ZERO;
    #[rustfmt::skip]
    let cases = [
        ("base_url",        builder().base_url("/relative")),
        ("base_url",        builder().base_url("http://user:hush@a.example/")),
        ("base_url",        builder().base_url("http://a.example/?hush")),
        ("base_url",        builder().base_url("no url")),
        ("default_header",  builder().default_header("na me", "x")),
        ("default_header",  builder().default_header("name", "hush\n")),
        ("secret_header",   builder().bearer_auth("hush\n")),
        ("total_timeout",   builder().total_timeout(zero)),
        ("head_timeout",    builder().head_timeout(zero)),
        ("read_timeout",    builder().read_timeout(zero)),
        ("write_timeout",   builder().write_timeout(zero)),
        ("pool_timeout",    builder().pool_timeout(zero)),
        ("resolve_timeout", builder().resolve_timeout(zero)),
        ("connect_timeout", builder().connect_timeout(zero)),
        ("tls_timeout",     builder().tls_timeout(zero)),
        ("max_attempts",    builder().max_attempts(0)),
        ("concurrency",     builder().concurrency(0)),
        ("max_connections", builder().max_connections(0)),
        ("max_connections_per_host", builder().max_connections_per_host(1_000)),
        ("max_idle",        builder().max_idle(1_000)),
        ("idle_timeout",    builder().idle_timeout(zero)),
        ("max_lifetime",    builder().max_lifetime(zero)),
        ("base_url",        builder().base_url("the first").max_attempts(0)),
    ];
    for (setting, builder) in cases {
        let error = builder.build().unwrap_err();
        assert_eq!(error.setting(), setting, "{error}");
        assert!(!error.to_string().contains("hush"), "{error}");
    }
}

#[test]
fn it_describes_itself_and_its_contradictions() {
    let plain = builder().build().unwrap();
    assert_eq!(plain.describe().contradictions(), []);
    assert_eq!((plain.describe().attempts(), plain.describe().time()), (3, Some(60 * SECOND)));
    let total = 10 * SECOND;
    let never = |setting, seconds: u32| {
        let line = format!("{setting} ({seconds}s) never runs out: total_timeout (10s) does before");
        Some((Contradiction::NeverRunsOut { setting, limit: seconds * SECOND, total }, line))
    };
    let unfit = |attempts, head| {
        let line = format!("{attempts} attempts of up to {head}s do not fit into total_timeout (10s)");
        Some((Contradiction::AttemptsDoNotFit { attempts, head: head * SECOND, total }, line))
    };
    let permits = |concurrency, setting, connections| {
        let line = format!(
            "concurrency ({concurrency}) is above {setting} ({connections}): over HTTP/1.1 permits are held by calls \
             that wait for a connection"
        );
        Some((Contradiction::MorePermitsThanConnections { concurrency, setting, connections }, line))
    };
    let all = |concurrency| permits(concurrency, "max_connections", 512);
    let host = |concurrency| permits(concurrency, "max_connections_per_host", 128);
    let fewer = |setting, idle| {
        let line = format!(
            "{setting} ({idle}) is below max_connections_per_host (128): under load connections are opened anew again and again"
        );
        Some((Contradiction::FewerIdleThanOpen { setting, idle, open: 128 }, line))
    };
    let short = || {
        let short =
            Client::builder().total_timeout(10 * SECOND).head_timeout(3 * SECOND).pool_timeout(SECOND);
        short.read_timeout(SECOND).write_timeout(SECOND).retry_after_cap(SECOND)
    };
    let streams = || short().concurrency(513).protocols(Protocols::Http2);
    let (http, https) = ("http://a.example", "https://a.example");
    #[rustfmt::skip]
    let cases = [
        ("none",              short(),                               None),
        ("head",              short().head_timeout(10 * SECOND),     never("head_timeout", 10)),
        ("read",              short().read_timeout(10 * SECOND),     never("read_timeout", 10)),
        ("write",             short().write_timeout(11 * SECOND),    never("write_timeout", 11)),
        ("pool",              short().pool_timeout(11 * SECOND),     never("pool_timeout", 11)),
        ("resolve",           short().resolve_timeout(11 * SECOND),  never("resolve_timeout", 11)),
        ("connect",           short().connect_timeout(11 * SECOND),  never("connect_timeout", 11)),
        ("tls",               short().tls_timeout(11 * SECOND),      never("tls_timeout", 11)),
        ("wait",              short().retry_after_cap(20 * SECOND),  never("retry_after_cap", 20)),
        ("shorter by a bit",  short().pool_timeout(total - Duration::from_nanos(1)), None),
        ("no limit",          short().read_timeout(Duration::MAX),   None),
        ("no total",          short().total_timeout(Duration::MAX),  None),
        ("attempts",          short().max_attempts(4),               unfit(4, 3)),
        ("attempts that fit", short().head_timeout(5 * SECOND).max_attempts(2), None),
        ("permits",           short().concurrency(513),              all(513)),
        ("permits that fit",  short().concurrency(512),              None),
        ("permits, one host", short().concurrency(129).base_url(https), host(129)),
        ("and they fit",      short().concurrency(128).base_url(https), None),
        ("permits, learnt",   short().concurrency(Concurrency::adaptive(Aimd::default())), None),
        ("streams over TLS",  streams(),                             all(513)),
        ("streams",           streams().http2_prior_knowledge(true), None),
        ("streams, https",    streams().base_url(https),               None),
        ("streams, http",     streams().base_url(http),             host(513)),
        ("streams, known",    short().concurrency(513).http2_prior_knowledge(true).base_url(http), None),
        ("idle",              short().max_idle_per_host(127),        fewer("max_idle_per_host", 127)),
        ("all idle",          short().max_idle_per_host(128),        None),
        ("none idle",         short().max_idle_per_host(0),          None),
        ("idle, over all",    short().max_idle(127),                 fewer("max_idle", 127)),
        ("idle, the fewest",  short().max_idle_per_host(3).max_idle(9), fewer("max_idle_per_host", 3)),
        ("none idle at all",  short().max_idle(0),                   None),
    ];
    for (name, builder, expected) in cases {
        let warnings = Warnings::default();
        let client = {
            let _listening = listening(warnings.clone());
            builder.build().unwrap()
        };
        let (contradiction, line) = expected.unzip();
        assert_eq!(client.describe().contradictions(), contradiction.as_slice(), "{name}");
        // It is told twice: in the description, and when it is built.
        let described = client.describe().to_string();
        let told: Vec<_> =
            described.lines().filter_map(|line| line.strip_prefix("contradiction  ")).collect();
        assert_eq!(told, line.as_slice(), "{name}");
        let warned = line.map(|line| format!("client: {line}"));
        assert_eq!(*warnings.0.lock().unwrap(), warned.as_slice(), "{name}");
    }
    let endless = short().total_timeout(Duration::MAX).build().unwrap();
    assert_eq!(endless.describe().time(), None);
    let endless = endless.describe().to_string();
    assert!(endless.contains("deadline       no limit for the whole call"), "{endless}");
    assert!(endless.ends_with("worst case     3 attempts, for ever"), "{endless}");
    let told = builder().telemetry("users", TelemetryLayer::new(&opentelemetry::global::meter("test")));
    let told = told.build().unwrap().describe().to_string();
    let line = "\ntelemetry      a span and a measurement of each attempt, gauges as \"users\"\nlimit ";
    assert!(told.contains(line), "{told}");
    let off = builder().telemetry("users", TelemetryLayer::off()).build().unwrap();
    assert_eq!(off.describe().to_string(), plain.describe().to_string());
    let every = Duration::from_secs(300);
    let other = builder().max_lifetime(every).protocols(Protocols::Http2).http2_prior_knowledge(true).build();
    let other = other.unwrap().describe().to_string();
    assert!(other.contains(" kept for 50s, none of them beyond an age of 300s; "), "{other}");
    assert!(
        other.contains("over TLS HTTP/2, else HTTP/2; through the proxies of its own matcher"),
        "{other}"
    );
    let client =
        short().head_timeout(15 * SECOND).redirects(2).base_url("http://a.example/v1/").bearer_auth("hush");
    let client = client.concurrency(40).build().unwrap();
    let lines = "\
defaults       base URL http://a.example/v1, 1 header fields, 1 of them secret
deadline       10s for the whole call, its response body included
redirects      up to 2, without credentials to another origin
decompression  gzip, deflate, br
retry          up to 3 attempts, Retry-After up to 1s
limit          40 at once, 4096 may wait
timeout        head 15s, read 1s, write 1s, for each attempt
leak guard     on
pool           512 connections, 128 to a host, 128 of them kept for 50s; acquire 1s, resolve 5s, connect 5s, TLS 5s
connect        over TLS HTTP/2 or HTTP/1.1, else HTTP/1.1; through the environment's proxies
worst case     9 attempts, 10s
contradiction  head_timeout (15s) never runs out: total_timeout (10s) does before";
    assert_eq!(client.describe().to_string(), lines);
}

#[test]
fn a_client_and_its_calls_are_send() {
    fn is_send<T: Send>(_: &T) {}
    fn is_sync<T: Sync + Clone + std::fmt::Debug>(_: &T) {}
    let client = builder().build().unwrap();
    is_sync(&client);
    is_send(&client.get("http://a.example/").send());
    let layered = client.layer(tower::layer::layer_fn(|client| client));
    is_send(&async move { layered.get("/").send().await?.json::<String>().await });
}
