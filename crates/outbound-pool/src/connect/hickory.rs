//! Names resolved by hickory-resolver.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use hickory_resolver::{TokioResolver, net::NetError};
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

/// Resolves names by hickory-resolver, which asks the name servers itself: no thread blocks, answers are kept for as long as they
/// say, and a lookup that is dropped ends.
///
/// ```no_run
/// use outbound_pool::connect::{Hickory, Tcp, hickory_resolver::TokioResolver};
///
/// let connector = Tcp::with_resolver(Hickory::new(TokioResolver::builder_tokio()?.build()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Hickory(TokioResolver);

impl Hickory {
    /// By `resolver`, as it is configured. Clones share its cache.
    pub fn new(resolver: TokioResolver) -> Self {
        Self(resolver)
    }
}

impl Service<Name> for Hickory {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = NetError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NetError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.0.clone();
        Box::pin(async move {
            let found = resolver.lookup_ip(name.as_str()).await?;
            let addresses: Vec<_> = found.iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok(addresses.into_iter())
        })
    }
}

impl std::fmt::Debug for Hickory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hickory").finish_non_exhaustive()
    }
}
