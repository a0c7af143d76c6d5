//! TLS between the processes of this program: a certificate made anew for each server, and handed to its clients on their command line.

use std::{fmt, num::ParseIntError, str::FromStr, sync::Arc};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio_rustls::TlsAcceptor;

/// The certificate of a server, and the only one that its clients trust. It is written in hexadecimal.
#[derive(Clone, Debug)]
pub(crate) struct Trust(CertificateDer<'static>);

impl Trust {
    /// In a server that listens on 127.0.0.1: TLS 1.3, ECDSA over P-256, a chain of one, HTTP/1.1 by ALPN.
    pub(crate) fn served() -> (Self, TlsAcceptor) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .expect("they belong together");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        (Self(certificate), Arc::new(config).into())
    }

    /// Of a client, which takes up former sessions or not.
    pub(crate) fn config(&self, resumes: bool) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.clone()).expect("a certificate");
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        if !resumes {
            config.resumption = Resumption::disabled();
        }
        config
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Trust {
    type Err = ParseIntError;

    fn from_str(hex: &str) -> Result<Self, ParseIntError> {
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap_or_default(), 16);
        let der: Vec<u8> = hex.as_bytes().chunks(2).map(byte).collect::<Result<_, _>>()?;
        Ok(Self(der.into()))
    }
}
