//! What a caller is told of a failure, and what a failure leaves behind: said once, for all tables.

use http::{Method, Request, Uri, header};
use outbound_core::{Delivery, Exchange, Failure, Kind, Phase, TransportError, find};
use outbound_pool::{Pool, Stats, connect::Connect};
use outbound_testkit::{Lives, TestBody, Upstream};

use super::{Healthy, fetch, get, leaves_nothing_by, quiet, request, until};

/// What the caller is told.
pub(crate) struct Told {
    pub(crate) kind: Kind,
    pub(crate) phase: Phase,
    pub(crate) delivery: Delivery,
    /// The error's line, times as `T` and the upstream's address as `ADDR`; empty where it depends on timing.
    pub(crate) line: &'static str,
    /// Its connection takes the next request.
    pub(crate) survives: bool,
    /// What the pool speaks.
    pub(crate) healthy: Healthy,
}

pub(crate) const fn told(kind: Kind, phase: Phase, delivery: Delivery, line: &'static str) -> Told {
    Told { kind, phase, delivery, line, survives: false, healthy: Healthy::Http1 }
}

impl Told {
    pub(crate) const fn survives(self, survives: bool) -> Self {
        Self { survives, ..self }
    }

    pub(crate) const fn over(self, healthy: Healthy) -> Self {
        Self { healthy, ..self }
    }
}

/// A request with secrets in every place that no error may show.
pub(crate) fn secretive(method: Method, uri: &Uri, body: TestBody) -> Request<TestBody> {
    let authority = format!("me:secret@{}", uri.authority().unwrap());
    let uri = Uri::builder().scheme(uri.scheme_str().unwrap()).authority(authority);
    let uri = uri.path_and_query("/path?key=secret").build().unwrap();
    let mut request = request(method, uri, body);
    request.headers_mut().insert(header::AUTHORIZATION, "Bearer secret".parse().unwrap());
    request
}

/// The one place that looks at a failure, and at what it leaves behind.
pub(crate) async fn fails<C: Connect>(
    name: &str,
    pool: Pool<C>,
    upstreams: &[&Upstream],
    mut request: Request<TestBody>,
    expected: Told,
) {
    let lives = Lives::new();
    let body = std::mem::take(request.body_mut());
    *request.body_mut() = body.counted(&lives);
    let exchange = Exchange::track(&mut request);
    let origin = outbound_core::Origin::of(request.uri()).unwrap();

    let error = fetch(&pool, request).await.map(|response| response.status()).expect_err(name);
    let failure = Failure::of(&*error);
    let line = error.to_string();
    let Told { kind, phase, delivery, line: expected_line, survives, healthy } = expected;
    assert_eq!((failure.kind(), failure.phase()), (kind, Some(phase)), "{name}: {line}\n{error:?}");
    assert_eq!(failure.delivery(), delivery, "{name}: {line}");
    assert_eq!(failure.origin(), Some(&origin), "{name}: {line}");
    assert_eq!(failure.connection().is_some(), phase >= Phase::Send, "{name}: {line}");
    assert!(find::<TransportError>(&*error).is_some(), "{name}: {error:?}");
    let written = failure.snapshot().unwrap().bytes_out;
    assert_eq!(written, exchange.bytes_out(), "{name}: {line}");
    assert_eq!(delivery == Delivery::NotSent, written == 0, "{name}: {line}");
    if !expected_line.is_empty() {
        assert_eq!(normal(&line, &origin), expected_line, "{name}");
    }
    assert!(!line.contains("secret") && !line.contains('\n'), "{name}: {line}");

    let stats = match healthy {
        Healthy::Http1 => quiet(&pool).await,
        // What its connection learns reaches the pool by way of the task that drives it.
        Healthy::Http2 => {
            let is_over = |stats: &Stats| stats.connections.open() == usize::from(survives);
            until(&pool, &format!("{name}: the connection to survive, or not"), is_over).await
        }
    };
    assert_eq!(stats.connections.idle, usize::from(survives), "{name}: the connection survived, or did not");
    assert_eq!(lives.alive(), 0, "{name}: the request body is still alive");
    assert_eq!(stats.exchanges, 0, "{name}: the exchange is over");
    if survives {
        let opened = stats.totals.opened;
        let next = fetch(&pool, get(upstreams[0].uri("/next"))).await.expect(name);
        assert_eq!(next.body(), "hello", "{name}: the next request over the same connection");
        assert_eq!(quiet(&pool).await.totals.opened, opened, "{name}: the same connection");
    }
    leaves_nothing_by(name, pool, upstreams, healthy).await;
}

/// `line` with what differs from run to run taken out.
pub(crate) fn normal(line: &str, origin: &outbound_core::Origin) -> String {
    let line = line.replace(origin.host_and_port(), "ADDR");
    let mut words: Vec<&str> = line.split(' ').collect();
    for at in 1..words.len() {
        if ["µs", "ms", "s"].contains(&words[at].trim_end_matches([',', ')']))
            && words[at - 1].parse::<f64>().is_ok()
        {
            words[at - 1] = "T";
            words[at] = words[at].trim_start_matches(['µ', 'm', 's']);
        }
    }
    words.join(" ").replace("T ", "T")
}
