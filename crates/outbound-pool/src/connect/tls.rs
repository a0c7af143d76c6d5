//! TLS over any other connector, by rustls.

use std::{
    error::Error,
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Uri, uri::Scheme};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use outbound_core::{BoxError, Phase};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower_service::Service;

use super::{Connect, encrypted::For, http1_only, report};

/// Encrypts what `C` opens for `https` URIs, and leaves what it opens for `http` alone. Inside another `Tls` it encrypts only the way to
/// a [`Proxy`](super::Proxy): the rest is that one's.
///
/// Certificates are verified; there is no switch to turn that off. Who has to do otherwise brings a [`ClientConfig`] that does.
#[derive(Clone)]
pub struct Tls<C> {
    inner: C,
    connector: TlsConnector,
    protocols: Protocols,
}

/// The versions of HTTP that [`Tls`] offers to the server by ALPN (RFC 7301), for the server to choose one.
///
/// A server that chooses none speaks HTTP/1.1 (RFC 9113, 3.2, leaves no other way).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocols {
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/2 alone: a server that does not choose it is not spoken to, but fails with [`NoHttp2`].
    Http2,
    /// HTTP/2, and HTTP/1.1 where the server does not know it, or the request is an upgrade or a `CONNECT`.
    #[default]
    Both,
}

/// [`Protocols::Http2`] was all that was offered, and the server did not choose it. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHttp2;

/// A connection that is encrypted, or is not.
#[derive(Debug)]
pub enum MaybeTls<T> {
    /// As the inner connector opened it.
    Plain(T),
    /// Encrypted.
    Tls(Box<TokioIo<TlsStream<TokioIo<T>>>>),
}

/// A configuration that trusts Mozilla's root certificates, compiled in.
#[cfg(feature = "webpki-roots")]
pub fn webpki_roots() -> ClientConfig {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    builder().with_root_certificates(roots).with_no_client_auth()
}

/// A configuration that trusts what the operating system trusts.
///
/// # Errors
/// When the system's verifier cannot be set up.
#[cfg(feature = "platform-verifier")]
pub fn platform_verifier() -> Result<ClientConfig, rustls::Error> {
    use rustls_platform_verifier::BuilderVerifierExt as _;
    Ok(builder().with_platform_verifier()?.with_no_client_auth())
}

#[cfg(any(feature = "webpki-roots", feature = "platform-verifier"))]
fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions of TLS")
}

// === Tls ===

impl<C> Tls<C> {
    /// Over `inner`, as `config` says, but for its ALPN protocols: those are [`protocols`](Self::protocols).
    pub fn new(inner: C, config: ClientConfig) -> Self {
        Self { inner, connector: Arc::new(config).into(), protocols: Protocols::default() }
    }

    /// The versions of HTTP that the server may choose from; both by default. A proxy is offered that in any case.
    #[must_use]
    pub fn protocols(mut self, protocols: Protocols) -> Self {
        self.protocols = protocols;
        self
    }
}

impl<C: fmt::Debug> fmt::Debug for Tls<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner, protocols, .. } = self;
        f.debug_struct("Tls").field("inner", inner).field("protocols", protocols).finish_non_exhaustive()
    }
}

impl<C: Connect> Service<Uri> for Tls<C> {
    type Response = MaybeTls<C::Io>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let is_https = uri.scheme() == Some(&Scheme::HTTPS);
        let name = uri.host().map(server_name);
        let (connector, protocols) = (self.connector.clone(), self.protocols);
        let opening = For::Tls.open(self.inner.call(uri));
        Box::pin(async move {
            // Inside a proxy that was not needed, what this opens goes straight to the origin, and the `Tls` around encrypts it.
            if !is_https || For::now() == Some(For::Tls) {
                return Ok(MaybeTls::Plain(opening.await.map_err(Into::into)?));
            }
            let name = name.unwrap_or(Err(rustls::pki_types::InvalidDnsNameError))?;
            let io = opening.await.map_err(Into::into)?;
            report(Phase::Tls);
            let protocols = match protocols {
                _ if For::now() == Some(For::Proxy) => Protocols::Http1,
                Protocols::Both if http1_only() => Protocols::Http1,
                chosen => chosen,
            };
            let stream = connector.with_alpn(protocols.alpn()).connect(name, TokioIo::new(io)).await?;
            if protocols == Protocols::Http2 && !is_h2(&stream) {
                return Err(NoHttp2.into());
            }
            Ok(MaybeTls::Tls(Box::new(TokioIo::new(stream))))
        })
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, rustls::pki_types::InvalidDnsNameError> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(bare.to_owned())
}

fn is_h2<T>(stream: &TlsStream<T>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(H2)
}

// === Protocols ===

impl Protocols {
    /// In the order of preference.
    fn alpn(self) -> Vec<Vec<u8>> {
        let ids: &[&[u8]] = match self {
            Self::Http1 => &[HTTP_11],
            Self::Http2 => &[H2],
            Self::Both => &[H2, HTTP_11],
        };
        ids.iter().map(|id| id.to_vec()).collect()
    }
}

// === NoHttp2 ===

impl fmt::Display for NoHttp2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server did not choose HTTP/2, the only protocol offered to it by ALPN")
    }
}

impl Error for NoHttp2 {}

// === MaybeTls ===

impl<T: Read + Write + Connection + Unpin> Connection for MaybeTls<T> {
    fn connected(&self) -> Connected {
        match self {
            Self::Plain(io) => io.connected(),
            Self::Tls(stream) => {
                let connected = stream.inner().get_ref().0.inner().connected();
                if is_h2(stream.inner()) { connected.negotiated_h2() } else { connected }
            }
        }
    }
}

impl<T: Read + Write + Unpin> Read for MaybeTls<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl<T: Read + Write + Unpin> Write for MaybeTls<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// RFC 7301, 6, and RFC 9113, 3.2.
const HTTP_11: &[u8] = b"http/1.1";
const H2: &[u8] = b"h2";
