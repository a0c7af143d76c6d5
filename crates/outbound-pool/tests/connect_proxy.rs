//! Through proxies: what they are told, what they may answer, and who never learns the credentials.
#![cfg(all(feature = "proxy", feature = "rustls"))]

mod support;

use std::{
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Method, Uri, header};
use hyper_util::client::legacy::connect::Connection;
use outbound_core::{AtProxy, Delivery, Elapsed, Exchange, Failure, Kind, Phase, find};
use outbound_pool::{
    Pool,
    connect::{
        Connect, Matcher, NoTunnel, NotAdmitted, NotEncrypted, Protocols, Proxy, ProxyAuthorization, Tcp, Tls,
    },
};
use outbound_testkit::{Answer, Certificate, Friendly, Hostile, Refusal, Script, TestBody, handler};
use support::*;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tower::ServiceExt;

/// A proxy that opens tunnels, of the kind that the client asks for; whatever is asked, they lead to one upstream.
struct Relay {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl Relay {
    async fn new(leads_to: SocketAddr) -> Self {
        Self::with(leads_to, async |socket| socket).await
    }

    async fn with<F, Fut, T>(leads_to: SocketAddr, accept: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = T> + Send,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (mut serving, notes) = (JoinSet::new(), asked.clone());
        serving.spawn(async move {
            let mut tunnels = JoinSet::new();
            loop {
                let socket = accept(listener.accept().await.unwrap().0).await;
                tunnels.spawn(serve(socket, leads_to, notes.clone()));
            }
        });
        Self { addr, asked, _serving: serving }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve<T>(mut client: T, leads_to: SocketAddr, asked: Arc<Mutex<Vec<String>>>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let note = |line: String| asked.lock().unwrap().push(line);
    match client.read_u8().await.unwrap() {
        5 => {
            let methods = take(&mut client).await;
            let with_password = methods == [2];
            client.write_all(&[5, u8::from(with_password) * 2]).await.unwrap();
            if with_password {
                client.read_u8().await.unwrap();
                let (user, password) = (take(&mut client).await, take(&mut client).await);
                note(format!(
                    "{}:{}",
                    String::from_utf8(user).unwrap(),
                    String::from_utf8(password).unwrap()
                ));
                client.write_all(&[1, 0]).await.unwrap();
            }
            let mut connect = [0; 4];
            client.read_exact(&mut connect).await.unwrap();
            assert_eq!(connect[..3], [5, 1, 0]);
            let host = match connect[3] {
                1 => format!("{:?}", exactly::<4>(&mut client).await),
                3 => String::from_utf8(take(&mut client).await).unwrap(),
                _ => format!("{:?}", exactly::<16>(&mut client).await),
            };
            note(format!("5 {host} {}", client.read_u16().await.unwrap()));
            client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        }
        4 => {
            assert_eq!(client.read_u8().await.unwrap(), 1);
            let port = client.read_u16().await.unwrap();
            let ip = exactly::<4>(&mut client).await;
            let user = until_byte(&mut client, b"\0").await;
            let host =
                if ip[..3] == [0; 3] { until_byte(&mut client, b"\0").await } else { format!("{ip:?}") };
            note(format!("4 {host} {port} {user}"));
            client.write_all(&[0, 0x5a, 0, 0, 0, 0, 0, 0]).await.unwrap();
        }
        first => {
            let rest = until_byte(&mut client, b"\r\n\r\n").await;
            note(format!("{}{rest}", char::from(first)));
            client.write_all(b"HTTP/1.1 200 Connection established\r\nx: y\r\n\r\n").await.unwrap();
        }
    }
    let mut server = TcpStream::connect(leads_to).await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

/// As many bytes as the first one says.
async fn take(client: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = vec![0; client.read_u8().await.unwrap().into()];
    client.read_exact(&mut bytes).await.unwrap();
    bytes
}

async fn exactly<const N: usize>(client: &mut (impl AsyncRead + Unpin)) -> [u8; N] {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes).await.unwrap();
    bytes
}

async fn until_byte(client: &mut (impl AsyncRead + Unpin), end: &[u8]) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        bytes.push(client.read_u8().await.unwrap());
    }
    bytes.truncate(bytes.len() - end.len());
    String::from_utf8(bytes).unwrap()
}

fn all(proxy: impl std::fmt::Display) -> Matcher {
    Matcher::builder().all(proxy.to_string()).build()
}

/// Trusts `certificate`, for whatever the origin is called.
fn through(proxy: std::fmt::Arguments<'_>, certificate: &Certificate) -> Pool<impl Connect + use<>> {
    build_with(Tls::new(Proxy::new(Tcp::new(), all(proxy)), certificate.client([])))
}

// === tunnels ===

#[tokio::test]
async fn tunnels_of_every_kind() {
    let local = Certificate::local();
    for (name, scheme, host, userinfo, asked) in [
        (
            "CONNECT",
            "http",
            "localhost",
            "",
            &["CONNECT localhost:PORT HTTP/1.1\r\nHost: localhost:PORT"][..],
        ),
        (
            "CONNECT with credentials",
            "http",
            "localhost",
            "Aladdin:open%20sesame@",
            &[
                "CONNECT localhost:PORT HTTP/1.1\r\nHost: localhost:PORT\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            ],
        ),
        (
            "CONNECT to an address",
            "http",
            "127.0.0.1",
            "",
            &["CONNECT 127.0.0.1:PORT HTTP/1.1\r\nHost: 127.0.0.1:PORT"],
        ),
        ("SOCKS 5", "socks5", "localhost", "", &["5 localhost PORT"]),
        ("SOCKS 5h", "socks5h", "localhost", "", &["5 localhost PORT"]),
        (
            "SOCKS 5 with credentials",
            "socks5",
            "localhost",
            "user:secret@",
            &["user:secret", "5 localhost PORT"],
        ),
        ("SOCKS 5 to an address", "socks5", "127.0.0.1", "", &["5 [127, 0, 0, 1] PORT"]),
        ("SOCKS 4", "socks4", "localhost", "", &["4 localhost PORT "]),
        ("SOCKS 4a", "socks4a", "localhost", "", &["4 localhost PORT "]),
        ("SOCKS 4 to an address", "socks4", "127.0.0.1", "", &["4 [127, 0, 0, 1] PORT "]),
    ] {
        let upstream = Friendly::new(handler::hello).tls(local.clone()).start();
        let relay = Relay::new(upstream.addr()).await;
        let pool = through(format_args!("{scheme}://{userinfo}{}", relay.addr), &local);
        let uri: Uri = format!("https://{host}:{}/path", upstream.addr().port()).parse().unwrap();
        for _ in 0..2 {
            let mut request = get(uri.clone());
            request.headers_mut().insert("x-secret", "secret".parse().unwrap());
            let exchange = Exchange::track(&mut request);
            assert_eq!(fetch(&pool, request).await.expect(name).body(), "hello", "{name}");
            let established = exchange.connection().unwrap();
            assert!(!established.established().proxied, "{name}: what is sent is meant for the origin");
            assert!(!established.established().timings.spent(Phase::Tls).is_zero(), "{name}");
        }
        let port = upstream.addr().port().to_string();
        let asked: Vec<_> = asked.iter().map(|line| line.replace("PORT", &port)).collect();
        assert_eq!(relay.asked(), asked, "{name}");
        assert_eq!(upstream.requests(2).await[1].target, "/path", "{name}");
        assert_eq!(upstream.sightings().connections.len(), 1, "{name}");
        drop(pool);
        upstream.all_closed().await;
    }
}

/// A port that the URI does not name is its scheme's.
#[tokio::test]
async fn socks_for_what_is_not_encrypted() {
    for scheme in ["socks5", "socks4"] {
        let upstream = Friendly::new(handler::hello).start();
        let relay = Relay::new(upstream.addr()).await;
        let pool = build_with(Proxy::new(Tcp::new(), all(format_args!("{scheme}://{}", relay.addr))));
        fetch(&pool, get("http://a.example/path".parse().unwrap())).await.unwrap();
        assert!(relay.asked()[0][1..].starts_with(" a.example 80"), "{:?}", relay.asked());
        let seen = upstream.requests(1).await;
        assert_eq!((&*seen[0].target, &seen[0].headers["host"]), ("/path", &"a.example".parse().unwrap()));
        drop(pool);
        upstream.all_closed().await;
    }
}

/// TLS to the proxy, and within it TLS to the origin. The proxy would rather speak HTTP/2, and is not asked to.
#[tokio::test]
async fn a_proxy_that_is_spoken_to_over_tls() {
    let origin = Certificate::local();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let ring = || Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let mut server = rustls::ServerConfig::builder_with_provider(ring())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let to_proxy = rustls::ClientConfig::builder_with_provider(ring())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();

    let upstream = Friendly::new(handler::hello).tls(origin.clone()).start();
    let relay = Relay::with(upstream.addr(), move |socket| {
        let accepting = acceptor.accept(socket);
        async {
            let stream = accepting.await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
            stream
        }
    })
    .await;
    let inner = Tls::new(Tcp::new(), to_proxy).protocols(Protocols::Both);
    let proxy = Proxy::new(inner, all(format_args!("https://user:secret@{}", relay.addr)));
    let pool = build_with(Tls::new(proxy, origin.client([])));
    assert_eq!(fetch(&pool, get(upstream.uri("/"))).await.unwrap().body(), "hello");
    assert!(relay.asked()[0].contains("Proxy-Authorization: Basic dXNlcjpzZWNyZXQ="), "{:?}", relay.asked());
    drop(pool);
    upstream.all_closed().await;
}

// === forwarding ===

#[tokio::test]
async fn requests_that_a_proxy_forwards() {
    let proxy = Friendly::new(handler::echo).start();
    let pool = build_with(Proxy::new(Tcp::new(), all(format_args!("http://user:secret@{}", proxy.addr()))));
    for uri in ["http://me:secret@A.example/path?query", "http://a.example:80", "http://b.example:8080/"] {
        let mut request = request(Method::POST, uri.parse().unwrap(), TestBody::from("hello"));
        let exchange = Exchange::track(&mut request);
        assert_eq!(fetch(&pool, request).await.unwrap().body(), "hello");
        assert!(exchange.connection().unwrap().established().proxied);
    }
    let seen = proxy.requests(3).await;
    let targets: Vec<_> = seen.iter().map(|request| (&*request.target, request.connection)).collect();
    let expected = [
        ("http://A.example/path?query", 0),
        ("http://a.example:80/", 0),
        // Connections are kept by origin, even to a proxy.
        ("http://b.example:8080/", 1),
    ];
    assert_eq!(targets, expected);
    for (request, host) in seen.iter().zip(["a.example", "a.example", "b.example:8080"]) {
        assert_eq!(request.headers["host"], host);
        assert_eq!(request.headers["proxy-authorization"], "Basic dXNlcjpzZWNyZXQ=");
    }
    drop(pool);
    proxy.all_closed().await;
}

/// The header that the caller has set is the caller's; without credentials there is none.
#[tokio::test]
async fn credentials_for_the_proxy_that_are_the_callers() {
    let proxy = Friendly::new(handler::hello).start();
    for (userinfo, own, expected) in [
        ("", None, None),
        ("", Some("Bearer mine"), Some("Bearer mine")),
        ("user:secret@", Some("Bearer mine"), Some("Bearer mine")),
    ] {
        let pool = build_with(Proxy::new(Tcp::new(), all(format_args!("http://{userinfo}{}", proxy.addr()))));
        let mut request = get("http://a.example/".parse().unwrap());
        if let Some(own) = own {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, own.parse().unwrap());
        }
        fetch(&pool, request).await.unwrap();
        let seen = proxy.sightings().requests.pop().unwrap();
        let sent = seen.headers.get("proxy-authorization").map(|value| value.to_str().unwrap());
        assert_eq!(sent, expected);
    }
    proxy.all_closed().await;
}

/// A tunnel that the caller asks for is opened by the proxy, too.
#[tokio::test]
async fn a_connect_of_the_callers_own() {
    let tunnel = Script::new().read_head().write("HTTP/1.1 200 OK\r\n\r\n").close();
    let proxy = Hostile::new(tunnel).start();
    let pool = build_with(Proxy::new(Tcp::new(), all(format_args!("http://user:secret@{}", proxy.addr()))));
    let connect = request(Method::CONNECT, "http://me:hush@a.example:80/".parse().unwrap(), TestBody::new());
    assert_eq!(send(&pool, connect).await.unwrap().status(), http::StatusCode::OK);
    let seen = &proxy.requests(1).await[0];
    assert_eq!(seen.target, "a.example:80");
    assert_eq!(seen.headers["proxy-authorization"], "Basic dXNlcjpzZWNyZXQ=");
    drop(pool);
    proxy.all_closed().await;
}

/// What is known of the origin is not known of a proxy that forwards.
#[tokio::test]
async fn a_proxy_that_forwards_speaks_http_1_whatever_the_origin_speaks() {
    let proxy = Friendly::new(handler::hello).start();
    let connector = Proxy::new(Tcp::new(), all(format_args!("http://user:secret@{}", proxy.addr())));
    let pool = Pool::builder().http2_prior_knowledge(true).build(connector).unwrap();
    let response = fetch(&pool, get("http://a.example/".parse().unwrap())).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_11);
    let seen = &proxy.requests(1).await[0];
    assert_eq!(seen.target, "http://a.example/");
    assert_eq!(seen.headers["proxy-authorization"], "Basic dXNlcjpzZWNyZXQ=");
    drop(pool);
    proxy.all_closed().await;
}

/// It died while idle, and the request goes out once more, to a proxy still.
#[tokio::test]
async fn a_forwarded_request_that_is_sent_again() {
    let first = Script::new().exchange(Answer::new(200, "hello")).read_head().close();
    let proxy = Hostile::new(first).then(Script::hello()).start();
    let pool = build_with(Proxy::new(Tcp::new(), all(format_args!("http://user:secret@{}", proxy.addr()))));
    for _ in 0..2 {
        assert_eq!(
            fetch(&pool, get("http://a.example/path".parse().unwrap())).await.unwrap().body(),
            "hello"
        );
    }
    for request in proxy.requests(3).await {
        assert_eq!(request.target, "http://a.example/path");
        assert_eq!(request.headers.get_all("proxy-authorization").iter().count(), 1);
    }
    drop(pool);
    proxy.all_closed().await;
}

/// Over TLS to the proxy: which would rather speak HTTP/2, and is not asked to.
#[tokio::test]
async fn forwarding_over_tls() {
    let local = Certificate::local();
    let proxy = Hostile::new(Script::hello()).tls(local.clone().alpn(["h2", "http/1.1"])).start();
    let inner = Tls::new(Tcp::new(), local.client([])).protocols(Protocols::Both);
    let connector = Proxy::new(inner, all(format_args!("https://{}", proxy.addr())));
    let io = connector.clone().oneshot("http://a.example/".parse().unwrap()).await.unwrap();
    assert!(!io.connected().is_negotiated_h2());
    drop(io);
    let pool = build_with(connector);
    assert_eq!(fetch(&pool, get("http://a.example/".parse().unwrap())).await.unwrap().body(), "hello");
    assert_eq!(proxy.requests(1).await[0].target, "http://a.example/");
    drop(pool);
    proxy.all_closed().await;
}

// === which proxy ===

#[tokio::test]
async fn what_the_matcher_leaves_out_is_dialed_directly() {
    let (upstream, refusal) = (Friendly::new(handler::hello).start(), Refusal::new());
    let matcher =
        || Matcher::builder().all(format!("http://{}", refusal.addr())).no("127.0.0.0/8, localhost").build();
    let pool = build_with(Proxy::new(Tcp::new(), matcher()));
    let mut request = get(upstream.uri("/"));
    let exchange = Exchange::track(&mut request);
    fetch(&pool, request).await.unwrap();
    assert_eq!(upstream.requests(1).await[0].target, "/");
    assert!(!exchange.connection().unwrap().established().proxied);
    drop(pool);
    upstream.all_closed().await;

    let local = Certificate::local();
    let upstream = Friendly::new(handler::hello).tls(local.clone()).start();
    let pool = build_with(Tls::new(Proxy::new(Tcp::new(), matcher()), local.client([])));
    assert_eq!(fetch(&pool, get(upstream.uri("/"))).await.unwrap().body(), "hello");
    drop(pool);
    // What would encrypt the way to a proxy leaves this one to the TLS around it.
    let to_proxy = Tls::new(Tcp::new(), local.client([]));
    let pool = build_with(Tls::new(Proxy::new(to_proxy, matcher()), local.client([])));
    assert_eq!(fetch(&pool, get(upstream.uri("/"))).await.unwrap().body(), "hello");
    drop(pool);
    upstream.all_closed().await;
}

/// Each row is a process of its own, because the environment belongs to the whole of one.
#[tokio::test]
async fn the_environment() {
    if let Ok(uri) = std::env::var("OUTBOUND_TEST_URI") {
        let pool = build_with(Proxy::new(Tcp::new(), Matcher::from_env()));
        let response = fetch(&pool, get(uri.parse().unwrap())).await.unwrap();
        print!("<{}>", String::from_utf8_lossy(response.body()));
        return;
    }
    let origin = Hostile::new(Script::new().exchange(Answer::new(200, "origin"))).own_thread().start();
    let proxy = Hostile::new(Script::new().exchange(Answer::new(200, "proxy"))).own_thread().start();
    let (to, at) = (origin.uri("/").to_string(), format!("http://{}", proxy.addr()));
    for (name, variables, expected) in [
        ("none", &[][..], "<origin>"),
        ("HTTP_PROXY", &[("HTTP_PROXY", &*at)], "<proxy>"),
        ("http_proxy", &[("http_proxy", &at)], "<proxy>"),
        ("ALL_PROXY", &[("ALL_PROXY", &at)], "<proxy>"),
        ("HTTPS_PROXY", &[("HTTPS_PROXY", &at)], "<origin>"),
        ("NO_PROXY", &[("HTTP_PROXY", &at), ("NO_PROXY", "127.0.0.1")], "<origin>"),
        (
            "NO_PROXY for a network",
            &[("HTTP_PROXY", &at), ("NO_PROXY", "a.example, 127.0.0.0/8")],
            "<origin>",
        ),
        // To hyper-util that is all names, not all addresses.
        ("NO_PROXY for all", &[("HTTP_PROXY", &at), ("NO_PROXY", "*")], "<proxy>"),
        ("NO_PROXY for others", &[("HTTP_PROXY", &at), ("NO_PROXY", "a.example")], "<proxy>"),
        ("CGI", &[("HTTP_PROXY", &at), ("REQUEST_METHOD", "GET")], "<origin>"),
        ("no URI", &[("HTTP_PROXY", "%%%")], "<origin>"),
    ] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "the_environment", "--nocapture"]);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"] {
            child.env_remove(name).env_remove(name.to_lowercase());
        }
        let output = child.env("OUTBOUND_TEST_URI", &to).envs(variables.iter().copied()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(expected), "{name}: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
}

// === what goes wrong ===

#[tokio::test]
async fn tunnels_that_proxies_do_not_open() {
    let answers = |head: &'static str| Script::new().read_head().write(head);
    let (http, socks5, socks4) = ("http", "socks5", "socks4");
    let says = |bytes: &'static [u8]| Script::new().read_exactly(3).write(bytes);
    let none: &[u8] = &[5, 0];
    for (name, scheme, script, kind, reason) in [
        (
            "407",
            http,
            answers("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"),
            Kind::Invalid,
            "the proxy answered 407 Proxy Authentication Required",
        ),
        (
            "403",
            http,
            answers("HTTP/1.1 403 Forbidden\r\n\r\n"),
            Kind::Invalid,
            "the proxy answered 403 Forbidden",
        ),
        (
            "429",
            http,
            answers("HTTP/1.1 429 Slow Down\r\n\r\n"),
            Kind::Refused,
            "the proxy answered 429 Too Many Requests",
        ),
        (
            "502",
            http,
            answers("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 6\r\n\r\nsecret"),
            Kind::Refused,
            "the proxy answered 502 Bad Gateway",
        ),
        (
            "503 of HTTP/1.0",
            http,
            answers("HTTP/1.0 503 Service Unavailable\r\n\r\n"),
            Kind::Refused,
            "the proxy answered 503 Service Unavailable",
        ),
        (
            "not HTTP",
            http,
            answers("SSH-2.0-OpenSSH_9.2\r\n\r\n"),
            Kind::Protocol,
            "what the proxy says is no HTTP",
        ),
        ("FIN", http, answers("HTTP/1.1 20").close(), Kind::Closed, "the proxy closed the connection"),
        ("RST", http, answers("").reset(), Kind::Reset, ""),
        (
            "no method",
            socks5,
            says(&[5, 0xff]),
            Kind::Invalid,
            "the proxy says: server does not support user/pass authentication",
        ),
        (
            "another method",
            socks5,
            says(&[5, 2]),
            Kind::Invalid,
            "the proxy says: server implements authentication incorrectly",
        ),
        (
            "not allowed",
            socks5,
            says(none).read_exactly(1).write(&b"\x05\x02\0\x01\0\0\0\0\0\0"[..]),
            Kind::Invalid,
            "the proxy says: connection not allowed",
        ),
        (
            "unreachable",
            socks5,
            says(none).read_exactly(1).write(&b"\x05\x04\0\x01\0\0\0\0\0\0"[..]),
            Kind::Unreachable,
            "the proxy says: host unreachable",
        ),
        (
            "refused",
            socks5,
            says(none).read_exactly(1).write(&b"\x05\x05\0\x01\0\0\0\0\0\0"[..]),
            Kind::Refused,
            "the proxy says: connection refused",
        ),
        (
            "failure",
            socks5,
            says(none).read_exactly(1).write(&b"\x05\x01\0\x01\0\0\0\0\0\0"[..]),
            Kind::Refused,
            "the proxy says: general server failure",
        ),
        (
            "not SOCKS",
            socks5,
            says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            Kind::Protocol,
            "the proxy says: failed parsing server response",
        ),
        (
            "FIN in SOCKS",
            socks5,
            Script::new().read_exactly(3).close(),
            Kind::Closed,
            "the proxy closed the connection",
        ),
        (
            "rejected",
            socks4,
            Script::new().read_exactly(9).write(&b"\0\x5b\0\0\0\0\0\0"[..]),
            Kind::Refused,
            "the proxy says: server failed to execute command",
        ),
    ] {
        let proxy = Hostile::new(script).start();
        let local = Certificate::local();
        let pool = through(format_args!("{scheme}://{}", proxy.addr()), &local);
        let what = format!("{scheme}://{}", proxy.addr());
        let line = fails(name, &pool, kind, &what).await;
        let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        assert!(line.ends_with(&format!("{reason}, nothing was sent")), "{name}: {line}");
        drop(pool);
        proxy.all_closed().await;
    }
}

/// However the proxy is spoken to: by then the connection to it is there, and TLS has had its turn.
#[tokio::test]
async fn a_tunnel_that_is_not_opened_over_tls() {
    let local = Certificate::local();
    let script = Script::new().read_head().write("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
    let proxy = Hostile::new(script).tls(local.clone()).start();
    let what = format!("https://{}", proxy.addr());
    let inner = Tls::new(Tcp::new(), local.client([]));
    let pool = build_with(Tls::new(Proxy::new(inner, all(&what)), local.client([])));
    fails("407 over TLS", &pool, Kind::Invalid, &what).await;
    drop(pool);
    proxy.all_closed().await;
}

/// Once there is a tunnel, it is TLS that takes the time, whoever does it.
#[tokio::test]
async fn after_the_tunnel_comes_tls() {
    let upstream = Hostile::new(Script::hello()).start();
    let relay = Relay::new(upstream.addr()).await;
    let proxy = Proxy::new(Tcp::new(), all(format_args!("http://{}", relay.addr))).enforce_http(false);
    let handshake = tower::service_fn(move |uri: Uri| {
        let tunnel = proxy.clone().oneshot(uri);
        async move {
            let _tunnel = tunnel.await?;
            std::future::pending::<Result<hyper_util::rt::TokioIo<TcpStream>, outbound_core::BoxError>>()
                .await
        }
    });
    let pool = Pool::builder().tls_timeout(Duration::from_millis(1)).build(handshake).unwrap();
    let error = fetch(&pool, get("https://a.example/".parse().unwrap())).await.map(drop).unwrap_err();
    assert_eq!(find::<Elapsed>(&*error).unwrap().phase(), Phase::Tls, "{error}");
}

/// A port that the proxy's URI does not name is its scheme's, and the hook of `Tcp` sees the proxy.
#[tokio::test]
async fn where_proxies_are_dialed() {
    for (proxy, dialed) in [
        ("127.0.0.1", "127.0.0.1:80"),
        ("http://127.0.0.1", "127.0.0.1:80"),
        ("https://[::1]", "[::1]:443"),
        ("socks4://127.0.0.1", "127.0.0.1:1080"),
        ("socks5h://127.0.0.1", "127.0.0.1:1080"),
        ("socks5://127.0.0.1:7", "127.0.0.1:7"),
    ] {
        let inner = Tls::new(Tcp::new().admit(|_| Err("no".into())), Certificate::local().client([]));
        let error = Proxy::new(inner, all(proxy)).oneshot("http://a.example/".parse().unwrap()).await;
        let error = error.map(drop).unwrap_err();
        assert_eq!(find::<NotAdmitted>(&*error).unwrap().address(), dialed.parse().unwrap(), "{proxy}");
    }
}

#[tokio::test]
async fn proxies_that_cannot_be_reached() {
    let (refusal, local) = (Refusal::new(), Certificate::local());
    let tls = Hostile::new(Script::hello()).tls(Certificate::local()).start();
    for (name, proxy, kind, phase) in [
        ("refused", format!("http://{}", refusal.addr()), Kind::Refused, Phase::Connect),
        ("SOCKS refused", format!("socks5://{}", refusal.addr()), Kind::Refused, Phase::Connect),
        ("no such name", "http://proxy.invalid:3128".to_owned(), Kind::Resolve, Phase::Resolve),
        ("not to be trusted", format!("https://{}", tls.addr()), Kind::Certificate, Phase::Tls),
    ] {
        let inner = Tls::new(Tcp::new(), local.client([]));
        let pool = build_with(Tls::new(Proxy::new(inner, all(&proxy)), local.client([])));
        let error = fetch(&pool, get("https://a.example/".parse().unwrap())).await.map(drop).unwrap_err();
        let failure = Failure::of(&*error);
        assert_eq!((failure.kind(), failure.phase()), (kind, Some(phase)), "{name}: {error}");
        assert_eq!(failure.delivery(), Delivery::NotSent, "{name}: {error}");
        let start = format!("https://a.example through the proxy {proxy}: ");
        assert!(error.to_string().starts_with(&start), "{name}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_says_nothing() {
    let frozen = Frozen::new();
    let limit = Duration::from_secs(3);
    let proxy = Hostile::new(Script::new().read_head().stall()).start();
    let connector = Tls::new(
        Proxy::new(Tcp::new(), all(format_args!("http://{}", proxy.addr()))),
        Certificate::local().client([]),
    );
    let pool = Pool::builder().connect_timeout(limit).build(connector).unwrap();
    let call = tokio::spawn({
        let pool = pool.clone();
        async move { fetch(&pool, get("https://a.example/".parse().unwrap())).await.map(drop) }
    });
    proxy.until("the CONNECT", |seen| seen.requests.len() == 1).await;
    tokio::time::advance(limit).await;
    let error = call.await.unwrap().unwrap_err();
    let elapsed = find::<Elapsed>(&*error).unwrap();
    assert_eq!((elapsed.phase(), elapsed.limit()), (Phase::Connect, limit), "{error}");
    assert_eq!(Failure::of(&*error).delivery(), Delivery::NotSent);
    drop((pool, frozen));
    tokio::time::resume();
    proxy.all_closed().await;
}

/// Neither what is for the proxy nor what is for the origin is ever sent in the clear when its URI says otherwise.
#[tokio::test]
async fn nobody_encrypts() {
    let upstream = Hostile::new(Script::hello()).start();
    let (addr, local) = (upstream.addr(), Certificate::local());
    let bare = |scheme| Proxy::new(Tcp::new(), all(format_args!("{scheme}://user:secret@{addr}")));
    let tls = Tls::new(bare("https"), local.client([]));
    for (name, error) in [
        ("the origin, by CONNECT", not_encrypted(bare("http"), "https://a.example/").await),
        ("the origin, by SOCKS", not_encrypted(bare("socks5"), "https://a.example/").await),
        ("the proxy, for a tunnel", not_encrypted(tls.clone(), "https://a.example/").await),
        ("the proxy, for forwarding", not_encrypted(tls, "http://a.example/").await),
    ] {
        assert!(find::<NotEncrypted>(&*error).is_some(), "{name}: {error}");
        assert_eq!(Failure::of(&*error).kind(), Kind::Invalid, "{name}: {error}");
    }
    assert!(upstream.sightings().requests.is_empty());
    // Unless somebody else does.
    let relay = Relay::new(addr).await;
    let proxy = Proxy::new(Tcp::new(), all(format_args!("http://{}", relay.addr))).enforce_http(false);
    assert!(proxy.oneshot("https://a.example/".parse().unwrap()).await.is_ok());
}

async fn not_encrypted<C: Connect>(connector: C, uri: &str) -> outbound_core::BoxError {
    let error = fetch(&build_with(connector), get(uri.parse().unwrap())).await.map(drop).unwrap_err();
    assert!(!format!("{error:?} {error}").contains("secret"), "{error:?}");
    error
}

#[tokio::test]
async fn credentials_are_not_shown() {
    for scheme in ["http", "https", "socks5"] {
        let matcher = all(format_args!("{scheme}://user:secret@127.0.0.1:1"));
        let connector = Proxy::new(Tcp::new(), matcher);
        assert!(!format!("{connector:?}").contains("secret"), "{connector:?}");
    }
    let authorization = ProxyAuthorization::new("secret".parse().unwrap());
    assert!(!format!("{authorization:?}").contains("secret"), "{authorization:?}");
    let proxy = Hostile::new(Script::hello()).start();
    let connector = Proxy::new(Tcp::new(), all(format_args!("http://user:secret@{}", proxy.addr())));
    let io = connector.oneshot("http://a.example/".parse().unwrap()).await.unwrap();
    // What "user:secret" is in base 64.
    assert!(!format!("{io:?}").contains("dXNlcjpzZWNyZXQ="), "{io:?}");
}

/// What the caller is told of a tunnel that was not opened. Returned is the error's line.
async fn fails<C: Connect>(name: &str, pool: &Pool<C>, kind: Kind, proxy: &str) -> String {
    let mut request = get("https://me:secret@a.example/path?key=secret".parse().unwrap());
    request.headers_mut().insert(header::AUTHORIZATION, "Bearer secret".parse().unwrap());
    let error = fetch(pool, request).await.map(drop).expect_err(name);
    let failure = Failure::of(&*error);
    assert_eq!((failure.kind(), failure.phase()), (kind, Some(Phase::Connect)), "{name}: {error}\n{error:?}");
    assert_eq!(failure.delivery(), Delivery::NotSent, "{name}: {error}");
    let at = find::<AtProxy>(&*error).unwrap();
    assert_eq!(at.proxy(), proxy, "{name}");
    assert_eq!(find::<NoTunnel>(at).is_some(), kind != Kind::Reset, "{name}: {error:?}");
    let line = error.to_string();
    assert!(line.starts_with(&format!("https://a.example through the proxy {proxy}: ")), "{name}: {line}");
    assert!(!line.contains("secret") && !line.contains('\n'), "{name}: {line}");
    let stats = quiet(pool).await;
    assert_eq!((stats.connections.open(), stats.totals.opened), (0, 0), "{name}");
    line
}
