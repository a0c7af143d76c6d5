//! Establishing a connection.

use std::{
    future::pending,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{Method, Uri};
use hyper_util::client::legacy::connect::dns::Name;
use outbound::{
    BoxError,
    pool::connect::{Connect, Protocols, Tcp, Tls},
};
use outbound_testkit::{BlackHole, Certificate, Gate, Hostile, Refusal, Script, TestBody};
use outbound_tests::{
    case::{Case, Row, Told, cited, play, tell, tell_of_nobody, uri},
    clock::in_steps,
    frames,
    stack::Setup,
};
use tower::{ServiceExt, service_fn};

pub(crate) fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = vec![
        Case::new("refused", "Connection refused")
            .play("GET", || refused(Method::GET), "3 × refused/connect/not_sent; no connection")
            .play("POST", || refused(Method::POST), "3 × refused/connect/not_sent; no connection")
            .into(),
        Case::new("black_hole", "SYN answered by nobody")
            .paused()
            .play("", black_hole, "3 × timeout/connect/not_sent; no connection")
            .into(),
        Case::new("one_dead_address", "One of several addresses dead")
            .play("", one_dead_address, "200; 1 seen; kept")
            .into(),
        Case::new("name_unknown", "DNS: no such name")
            .play("", || name(Answers::NoSuchName), "3 × resolve/resolve/not_sent; no connection")
            .into(),
        Case::new("name_slow", "DNS: no answer")
            .paused()
            .play("", || name(Answers::Nothing), "3 × timeout/resolve/not_sent; no connection")
            .into(),
        Case::new("name_without_addresses", "DNS: a name without addresses")
            .play("", || name(Answers::NoAddress), "3 × resolve/resolve/not_sent; no connection")
            .into(),
        cited(
            "DNS: who shares a lookup is cancelled",
            "the others are not disturbed",
            &["outbound-pool::connect_resolver::who_goes_away_disturbs_nobody"],
        ),
        Case::new("tls_stalls", "TLS handshake stalls")
            .paused()
            .play("POST", tls_stalls, "timeout/tls/not_sent → 200; 1 seen; closed")
            .into(),
        Case::new("certificates", "Certificate not to be trusted: unknown issuer, wrong name, expired")
            .play("unknown issuer", || certificate(Certificate::local(), Certificate::local()), CERTIFICATE)
            .play("wrong name", || itself(Certificate::named("elsewhere.example")), CERTIFICATE)
            .play("expired", || itself(Certificate::expired()), CERTIFICATE)
            .into(),
        Case::new("alpn", "ALPN: HTTP/2 wanted and not chosen")
            .play("", alpn, "tls/tls/not_sent; 0 seen; closed")
            .into(),
    ];
    rows.extend([
        Case::new("http1_for_http2", "HTTP/1 spoken on an HTTP/2 connection")
            .served_http2(
                Script::new().first_byte().write("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"),
                "protocol/connect/not_sent; 0 seen; closed",
                "protocol/connect/not_sent; 0 seen; closed",
            )
            .into(),
        Case::new("tls_for_http1", "TLS, or garbage, spoken on an HTTP/1.1 connection")
            .served(
                Script::new().read_head().read_body().write("\u{15}\u{3}\u{3}\0\u{2}\u{2}\n"),
                "protocol/head/maybe; 1 seen; closed",
                "protocol/head/maybe; 1 seen; closed",
            )
            .into(),
        Case::new("no_settings", "HTTP/2: connected, and no SETTINGS ever")
            .paused()
            .play("POST", no_settings, "timeout/connect/not_sent → 200; 1 seen; closed")
            .into(),
        Case::new("no_descriptors", "No descriptors left (EMFILE, as the connector would tell it)")
            .play("POST", || fails_once(io::Error::from_raw_os_error(24)), EXHAUSTED)
            .into(),
        Case::new("no_ports", "No ports left (EADDRNOTAVAIL, likewise)")
            .play("POST", || fails_once(io::ErrorKind::AddrNotAvailable.into()), EXHAUSTED)
            .into(),
        cited(
            "The caller goes away while a connection is established",
            "nothing is left, or the connection is for the next",
            &[
                "tests::cancel::while_resolving",
                "tests::cancel::while_dialing",
                "tests::cancel::while_shaking_hands",
                "tests::cancel::before_the_settings",
                "outbound-pool::cancel::who_stops_dialing_makes_room_for_the_next",
                "outbound-pool::cancel::a_dial_that_was_overtaken_is_finished_and_used",
            ],
        ),
        Case::new("pool_closed", "The pool is closed while it connects")
            .play("", pool_closed, "canceled/connect/not_sent; no connection")
            .into(),
    ]);
    rows
}

async fn refused(method: Method) -> Told {
    let refusal = Refusal::new();
    let stack = Setup::default().over(Tcp::new());
    let body = if method == Method::POST { "x".into() } else { Default::default() };
    let line = stack.call(stack.request(method, uri(refusal.addr()), body)).await;
    tell_of_nobody(line, stack).await
}

async fn black_hole() -> Told {
    let hole = BlackHole::new();
    let stack = Setup { deadline: MINUTE, ..Setup::default() }.over(Tcp::new());
    let call = stack.call(stack.request(Method::POST, uri(hole.addr()), "x".into()));
    let line = in_steps(SECOND, call).await;
    tell_of_nobody(line, stack).await
}

// === names ===

enum Answers {
    NoSuchName,
    NoAddress,
    Nothing,
}

async fn name(answers: Answers) -> Told {
    let is_silent = matches!(answers, Answers::Nothing);
    let answers = Arc::new(answers);
    let resolver = service_fn(move |_: Name| {
        let answers = answers.clone();
        async move {
            match *answers {
                Answers::NoSuchName => Err(BoxError::from(io::Error::other("no such name"))),
                Answers::NoAddress => Ok(Vec::<SocketAddr>::new().into_iter()),
                Answers::Nothing => pending().await,
            }
        }
    });
    let stack = Setup::default().over(Tcp::with_resolver(resolver));
    let call = stack.call(stack.request(Method::POST, uri("name.example"), "x".into()));
    let line = if is_silent { in_steps(SECOND, call).await } else { call.await };
    tell_of_nobody(line, stack).await
}

async fn one_dead_address() -> Told {
    let (upstream, refusal) = (Hostile::new(Script::hello()).start(), Refusal::new());
    let addresses = [refusal.addr(), upstream.addr()];
    let resolver = service_fn(move |_: Name| async move { Ok::<_, BoxError>(addresses.into_iter()) });
    let stack = Setup::default().over(Tcp::with_resolver(resolver));
    let line = stack.call(stack.request(Method::GET, uri("name.example"), Default::default())).await;
    tell(line, stack, upstream).await
}

// === TLS ===

async fn certificate(serves: Certificate, trusts: Certificate) -> Told {
    let tls = Tls::new(Tcp::new(), trusts.client([]));
    play(Setup::default(), tls, Hostile::new(Script::hello()).tls(serves), Method::GET).await
}

async fn itself(certificate: Certificate) -> Told {
    self::certificate(certificate.clone(), certificate).await
}

async fn tls_stalls() -> Told {
    let local = Certificate::local();
    let stalls = Script::new().before_handshake(Script::new().first_byte().stall());
    let upstream = Hostile::new(stalls).then(Script::hello()).tls(local.clone()).start();
    let stack = Setup::default().over(Tls::new(Tcp::new(), local.client([])));
    let call = stack.call(stack.request(Method::POST, upstream.uri("/"), "x".into()));
    let line = in_steps(SECOND, call).await;
    tell(line, stack, upstream).await
}

async fn alpn() -> Told {
    let local = Certificate::local();
    let tls = Tls::new(Tcp::new(), local.client([])).protocols(Protocols::Http2);
    play(Setup::default(), tls, Hostile::new(Script::hello()).tls(local), Method::GET).await
}

// === the rest ===

async fn no_settings() -> Told {
    let upstream = Hostile::new(Script::new().first_byte().stall()).then(frames::hello()).start();
    let stack = Setup { http2: true, ..Setup::default() }.over(Tcp::new());
    let call = stack.call(stack.request(Method::POST, upstream.uri("/"), "x".into()));
    let line = in_steps(SECOND, call).await;
    tell(line, stack, upstream).await
}

/// A connector whose first dial fails.
fn at_first(fails: io::Error) -> impl Connect {
    let (fails, failed) = (Arc::new(fails), Arc::new(AtomicBool::new(false)));
    service_fn(move |uri: Uri| {
        let again = failed.swap(true, SeqCst);
        let error = match fails.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => fails.kind().into(),
        };
        async move { if again { Tcp::new().oneshot(uri).await } else { Err(error.into()) } }
    })
}

async fn fails_once(error: io::Error) -> Told {
    play(Setup::default(), at_first(error), Hostile::new(Script::hello()), Method::POST).await
}

async fn pool_closed() -> Told {
    let gate = Gate::new("dial");
    let connector = {
        let gate = gate.clone();
        service_fn(move |uri: Uri| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                Tcp::new().oneshot(uri).await
            }
        })
    };
    let (refusal, stack) = (Refusal::new(), Setup::default().over(connector));
    let call = stack.call(stack.request(Method::GET, uri(refusal.addr()), TestBody::new()));
    let close = async {
        gate.arrived(1).await;
        stack.close().await;
    };
    let (line, ()) = tokio::join!(call, close);
    tell_of_nobody(line, stack).await
}

const CERTIFICATE: &str = "certificate/tls/not_sent; 0 seen; closed";
const EXHAUSTED: &str = "exhausted/connect/not_sent → 200; 1 seen; kept";
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
