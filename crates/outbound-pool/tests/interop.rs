//! Servers that nobody here wrote: each is started by a script in the workspace's `tests/interop`, and skipped where it is missing.
#![cfg(feature = "rustls")]

mod support;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{Method, Uri, Version};
use http_body_util::{BodyExt, Full};
use outbound_core::BoxError;
use outbound_pool::{
    Pool,
    connect::{Connect, Tcp, Tls},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};
use support::*;

const REQUESTS: usize = 600;
const CONCURRENCY: usize = 30;
const CONNECTIONS: usize = 8;
/// What a script exits with where its server is missing.
const MISSING: i32 = 77;

/// A server in the foreground, with its files in a directory of its own.
struct Server {
    child: Child,
    directory: PathBuf,
    uri: String,
    certificate: CertificateDer<'static>,
}

impl Server {
    /// `None` where there is none to start.
    fn start(name: &str, mode: &str) -> Option<Self> {
        let directory = std::env::temp_dir().join(format!("outbound-{name}-{mode}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory for the server");
        let certificate = certify(&directory);
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).unwrap().port();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/interop/{name}.sh"));
        let mut command = Command::new(script);
        command.arg(&directory).arg(port.to_string()).arg(mode).stdout(Stdio::null());
        let child = command.spawn().expect("the script to run");
        let scheme = if mode == "tls" { "https" } else { "http" };
        let uri = format!("{scheme}://127.0.0.1:{port}");
        let mut server = Self { child, directory, uri, certificate };
        server.is_there(port).then_some(server)
    }

    /// Waits until it listens.
    fn is_there(&mut self, port: u16) -> bool {
        let begun = SystemTime::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(ended) = self.child.try_wait().expect("a child") {
                assert_eq!(ended.code(), Some(MISSING), "the server ended: {ended}");
                return false;
            }
            let waited = begun.elapsed().unwrap_or_default();
            assert!(waited < Duration::from_secs(30), "the server does not listen");
            std::thread::yield_now();
        }
        true
    }

    fn uri(&self, path: &str) -> Uri {
        format!("{}{path}", self.uri).parse().expect("a URI")
    }

    fn trusted(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Writes `cert.pem` and `key.pem` for 127.0.0.1.
fn certify(directory: &Path) -> CertificateDer<'static> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
    let certificate = params.self_signed(&key).expect("a certificate");
    let pem = |label: &str, der: &[u8]| {
        let text = BASE64_STANDARD.encode(der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    };
    fs::write(directory.join("cert.pem"), pem("CERTIFICATE", certificate.der())).unwrap();
    fs::write(directory.join("key.pem"), pem("PRIVATE KEY", &key.serialize_der())).unwrap();
    certificate.der().clone()
}

async fn many<C: Connect>(name: &str, pool: &Pool<C>, server: &Server, version: Version) {
    let workers = (0..CONCURRENCY).map(|worker| {
        let (pool, uri) = (pool.clone(), server.uri("/"));
        tokio::spawn(async move {
            for number in 0..REQUESTS / CONCURRENCY {
                let (method, body) = match (worker + number) % 3 {
                    0 => (Method::POST, "some content"),
                    _ => (Method::GET, ""),
                };
                let response =
                    fetch(&pool, request(method, uri.clone(), Full::<bytes::Bytes>::from(body))).await?;
                assert_eq!((response.status().as_u16(), &response.body()[..]), (200, &b"hello"[..]));
                assert_eq!(response.version(), version);
            }
            Ok::<_, BoxError>(())
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap().unwrap_or_else(|error| panic!("{name}: {error}\n{error:?}"));
    }
}

/// Many requests, a large body that is read and one that is dropped; and then nothing is left.
async fn converse<C: Connect>(name: &str, pool: Pool<C>, server: &Server, version: Version) {
    many(name, &pool, server, version).await;
    let big = || get(server.uri("/big"));
    let read = fetch(&pool, big()).await.unwrap_or_else(|error| panic!("{name}: {error}\n{error:?}"));
    assert!(read.body().len() >= 10_000 && read.body().iter().all(|&byte| byte == b'x'), "{name}");
    let mut half = send(&pool, big()).await.unwrap().into_body();
    half.frame().await.expect(name).expect(name);
    drop(half);
    let head = request(Method::HEAD, server.uri("/"), Full::<bytes::Bytes>::default());
    assert!(fetch(&pool, head).await.expect(name).body().is_empty(), "{name}");
    let stats = quiet(&pool).await;
    assert_eq!((stats.exchanges, stats.waiting), (0, 0), "{name}: {stats:?}");
    println!("{name}: {:?}", stats.totals);
    if version == Version::HTTP_2 {
        // Those that a server ends after a number of requests, and not one for each call.
        assert!(stats.totals.opened <= REQUESTS as u64 / 20, "{name}: {stats:?}");
    }
    pool.close(Duration::from_secs(5)).await;
    assert_eq!(pool.stats().connections.open(), 0, "{name}");
}

fn interop(server: &str, modes: &[(&str, Version)]) {
    for &(mode, version) in modes {
        let name = format!("{server}, {mode}");
        let Some(running) = Server::start(server, mode) else {
            eprintln!("skipped: {server} is missing; tests/interop/{server}.sh says where it comes from");
            return;
        };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let builder =
                || Pool::builder().max_connections(CONNECTIONS).http2_prior_knowledge(mode == "h2c");
            if mode == "tls" {
                let connector = Tls::new(Tcp::new(), running.trusted());
                converse(&name, builder().build(connector).unwrap(), &running, version).await;
            } else {
                converse(&name, build(builder()), &running, version).await;
            }
        });
    }
}

const HTTP_1: (&str, Version) = ("http1", Version::HTTP_11);
const H2C: (&str, Version) = ("h2c", Version::HTTP_2);
const TLS: (&str, Version) = ("tls", Version::HTTP_2);

#[test]
fn nginx() {
    interop("nginx", &[HTTP_1, TLS]);
}

#[test]
fn nghttpd() {
    interop("nghttpd", &[H2C, TLS]);
}

#[test]
fn haproxy() {
    interop("haproxy", &[HTTP_1, H2C, TLS]);
}

#[test]
fn hypercorn() {
    interop("hypercorn", &[HTTP_1, H2C, TLS]);
}
