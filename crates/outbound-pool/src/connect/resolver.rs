//! The system's resolver, of which there is only so much.

use std::{
    collections::HashMap,
    error::Error,
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use hyper_util::client::legacy::connect::dns::Name;
use tokio::{
    sync::{Semaphore, watch},
    task::spawn_blocking,
};
use tower_service::Service;

/// Resolves names by the system's `getaddrinfo`, or by another function that blocks: only so many lookups at once, and one for
/// all who ask for the same name meanwhile. Clones share both.
///
/// `getaddrinfo` cannot be cancelled. A lookup that everybody has given up goes on, on its blocking thread, and keeps its place
/// until it ends, so that a resolver that hangs takes some of Tokio's blocking threads and never all of them. A caller that
/// goes away never disturbs the others, even if it was the first; a lookup that nobody waits for any more is not begun.
///
/// Nothing is cached: that is the system's task.
#[derive(Clone)]
pub struct Resolver(Arc<Lookups>);

/// The resolver said no; its own error is the source.
#[derive(Clone, Debug)]
pub struct NotResolved(Arc<io::Error>);

type Lookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;
type Answer = Result<Arc<[SocketAddr]>, NotResolved>;
type Asked = watch::Receiver<Option<Answer>>;

struct Lookups {
    lookup: Arc<Lookup>,
    places: Arc<Semaphore>,
    going_on: Mutex<HashMap<Name, Asked>>,
}

/// A lookup that others can join until this is dropped.
struct GoingOn {
    lookups: Arc<Lookups>,
    name: Option<Name>,
}

// === Resolver ===

impl Resolver {
    /// At most `max_lookups` at once; further ones wait their turn. With 0, all wait for ever.
    pub fn new(max_lookups: usize) -> Self {
        let getaddrinfo = |host: &str| (host, 0).to_socket_addrs().map(Iterator::collect);
        Self::with_lookup(max_lookups, getaddrinfo)
    }

    /// Likewise, by `lookup`, which may block. An address of port 0 is dialed at the URI's port.
    pub fn with_lookup<F>(max_lookups: usize, lookup: F) -> Self
    where
        F: Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    {
        let places = Arc::new(Semaphore::new(max_lookups.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(Lookups { lookup: Arc::new(lookup), places, going_on: Mutex::default() }))
    }
}

impl Default for Resolver {
    /// At most 32 lookups at once: a sixteenth of Tokio's blocking threads.
    fn default() -> Self {
        Self::new(MAX_LOOKUPS)
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = NotResolved;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NotResolved>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NotResolved>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let lookups = self.0.clone();
        Box::pin(async move {
            let mut asked = lookups.join(name);
            let answer = match asked.wait_for(Option::is_some).await {
                Ok(answer) => answer.clone(),
                Err(_) => None,
            };
            let answer =
                answer.unwrap_or_else(|| Err(NotResolved::because("the runtime of the lookup has ended")));
            Ok(answer?.to_vec().into_iter())
        })
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("free", &self.0.places.available_permits()).finish_non_exhaustive()
    }
}

// === Lookups ===

impl Lookups {
    /// The lookup of `name` that is going on, or one that begins now.
    fn join(self: &Arc<Self>, name: Name) -> Asked {
        let begin = || {
            let (tell, asked) = watch::channel(None);
            let going_on = GoingOn { lookups: self.clone(), name: Some(name.clone()) };
            tokio::spawn(going_on.run(name.clone(), tell));
            asked
        };
        self.lock().entry(name.clone()).or_insert_with(begin).clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Asked>> {
        self.going_on.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === GoingOn ===

impl GoingOn {
    async fn run(mut self, name: Name, tell: watch::Sender<Option<Answer>>) {
        let Ok(place) = self.lookups.places.clone().acquire_owned().await else { return };
        if self.is_abandoned(&tell) {
            return;
        }
        let lookup = self.lookups.lookup.clone();
        let looked_up = spawn_blocking(move || {
            let _place = place;
            lookup(name.as_str())
        });
        let answer = match looked_up.await {
            Ok(Ok(addresses)) => Ok(addresses.into()),
            Ok(Err(error)) => Err(NotResolved(Arc::new(error))),
            Err(_) => Err(NotResolved::because("the lookup panicked")),
        };
        tell.send_replace(Some(answer));
    }

    /// Whether nobody waits for it any more, so that nobody can join it any more either.
    fn is_abandoned(&mut self, tell: &watch::Sender<Option<Answer>>) -> bool {
        let mut going_on = self.lookups.lock();
        let is_abandoned = tell.receiver_count() == 1;
        if is_abandoned && let Some(name) = self.name.take() {
            going_on.remove(&name);
        }
        is_abandoned
    }
}

impl Drop for GoingOn {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            self.lookups.lock().remove(name);
        }
    }
}

// === NotResolved ===

impl NotResolved {
    fn because(reason: &'static str) -> Self {
        Self(Arc::new(io::Error::other(reason)))
    }
}

impl fmt::Display for NotResolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the resolver did not resolve the name")
    }
}

impl Error for NotResolved {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

const MAX_LOOKUPS: usize = 32;
