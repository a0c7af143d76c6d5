//! Certificates to serve TLS with, good and bad.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::{Ended, wire::Wire};

/// A fresh self-signed certificate and its key, for an upstream to serve TLS with.
#[derive(Clone)]
pub struct Certificate {
    der: CertificateDer<'static>,
    key: Arc<KeyPair>,
    alpn: Vec<Vec<u8>>,
}

// === Certificate ===

impl Certificate {
    /// A valid certificate for `localhost`, `127.0.0.1` and `::1`.
    pub fn local() -> Self {
        Certificate::signed(&["localhost", "127.0.0.1", "::1"], |_| {})
    }

    /// A valid certificate, for `name` and for nobody else.
    pub fn named(name: &str) -> Self {
        Certificate::signed(&[name], |_| {})
    }

    /// As [`local`](Self::local), but it expired in the year 2001.
    pub fn expired() -> Self {
        Certificate::signed(&["localhost", "127.0.0.1", "::1"], |params| {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        })
    }

    /// The protocols to offer by ALPN, the preferred first; none without this call.
    pub fn alpn<'a>(mut self, protocols: impl IntoIterator<Item = &'a str>) -> Self {
        self.alpn = protocols.into_iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// The certificate as DER, for a client to trust.
    pub fn der(&self) -> CertificateDer<'static> {
        self.der.clone()
    }

    /// A client that trusts this certificate only, and offers these protocols by ALPN.
    pub fn client<'a>(&self, alpn: impl IntoIterator<Item = &'a str>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).expect("a certificate just made parses");
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.into_iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![self.der()], key)
            .expect("a key just made fits its certificate");
        config.alpn_protocols = self.alpn.clone();
        TlsAcceptor::from(Arc::new(config))
    }

    fn signed(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("the names are host names or addresses");
        // A name of its own, or a client that trusts another certificate takes this one for a bad copy of that.
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        params.distinguished_name.push(DnType::CommonName, format!("test certificate {number}"));
        change(&mut params);
        let key = KeyPair::generate().expect("the system has randomness");
        let der = params.self_signed(&key).expect("a fresh key signs").der().clone();
        Certificate { der, key: Arc::new(key), alpn: Vec::new() }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("alpn", &self.alpn).finish_non_exhaustive()
    }
}

/// The handshake, from the server's side.
pub(crate) async fn handshake(acceptor: &TlsAcceptor, socket: TcpStream) -> Result<Wire, Ended> {
    match acceptor.accept(socket).await {
        Ok(stream) => Ok(Wire::Tls(Box::new(stream))),
        Err(error) => Err(match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Ended::ByPeerFin,
            std::io::ErrorKind::ConnectionReset => Ended::ByPeerReset,
            _ => Ended::InHandshake,
        }),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

static MADE: AtomicUsize = AtomicUsize::new(0);
