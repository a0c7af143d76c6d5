//! Every setting of a client.

use std::{error::Error, fmt, num::NonZeroU32, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{
    HeaderName, HeaderValue, Uri,
    header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION},
};
use outbound_core::{BoxError, Construction};
use outbound_guard::LeakGuardLayer;
use outbound_pool::{
    InvalidConfig,
    connect::{Matcher, Protocols, Proxy, Tcp, Tls},
};
use outbound_retry::{Backoff, Budget, IdempotencyKey, RetryAfter, RetryLayer, Standard};
use outbound_timeout::{DeadlineLayer, TimeoutLayer};
use rustls::ClientConfig;
use tower::util::Either;
use tower_http::{decompression::DecompressionLayer, follow_redirect::FollowRedirectLayer};
use tower_layer::Layer;

use super::{
    About, Client, Concurrency, Connector,
    defaults::{Base, Defaults, WithDefaults},
    describe::Description,
    redirect::NoCredentials,
    settings::Settings,
    telemetry::Telling,
};

/// Every setting of a [`Client`]. What each is unless set, and why, is in the [module's docs](super).
#[derive(Debug, Default)]
#[must_use = "a client is there once built"]
pub struct ClientBuilder {
    pub(super) settings: Settings,
    pub(super) defaults: Defaults,
    backoff: Backoff,
    budget: Budget,
    idempotency_key: IdempotencyKey,
    pub(super) concurrency: Option<Concurrency>,
    tls: Option<ClientConfig>,
    pub(super) proxy: Option<Matcher>,
    leak_guard: Option<outbound_guard::Builder>,
    pub(super) telling: Telling,
    /// The first setting that makes no sense.
    invalid: Option<InvalidClient>,
}

/// A setting of a client makes no sense: nothing was built.
#[derive(Debug)]
pub struct InvalidClient {
    setting: &'static str,
    problem: BoxError,
}

// === ClientBuilder ===

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $kind:ty,)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $name: $kind) -> Self {
            self.settings.$name = $name;
            self
        }
    )*};
}

/// # What is sent
impl ClientBuilder {
    /// Where a request goes whose URI is a path: the path is put behind that of `url`, so that `/items` behind
    /// `https://api.example.com/v1` is `https://api.example.com/v1/items`. A request with an absolute URI goes there.
    pub fn base_url<U>(mut self, url: U) -> Self
    where
        U: TryInto<Uri, Error: Into<BoxError>>,
    {
        match url.try_into().map(Base::new) {
            Ok(Some(base)) => self.defaults.base = Some(base),
            Ok(None) => self.refuse("base_url", "it must be absolute, without credentials and query"),
            Err(error) => self.refuse("base_url", error),
        }
        self
    }

    /// A header field of each request that has none of that name, in place of any default of that name. `Authorization`, `Cookie` and `Proxy-Authorization` are marked
    /// sensitive, as a [`secret_header`](Self::secret_header) is.
    pub fn default_header<N, V>(self, name: N, value: V) -> Self
    where
        N: TryInto<HeaderName, Error: Into<BoxError>>,
        V: TryInto<HeaderValue, Error: Into<BoxError>>,
    {
        self.with_header(name, value, false)
    }

    /// Likewise, and it is marked sensitive: it is not logged, does not cross to another origin by a redirect, and is not compressed into
    /// HTTP/2's shared tables. With a [`base_url`](Self::base_url), it goes to the origin of that alone.
    pub fn secret_header<N, V>(self, name: N, value: V) -> Self
    where
        N: TryInto<HeaderName, Error: Into<BoxError>>,
        V: TryInto<HeaderValue, Error: Into<BoxError>>,
    {
        self.with_header(name, value, true)
    }

    /// `Authorization: Bearer` with this token (RFC 6750), as a [`secret_header`](Self::secret_header).
    pub fn bearer_auth(self, token: impl fmt::Display) -> Self {
        self.secret_header(AUTHORIZATION, format!("Bearer {token}"))
    }

    /// `Authorization: Basic` (RFC 7617), as a [`secret_header`](Self::secret_header).
    pub fn basic_auth(self, user: impl fmt::Display, password: impl fmt::Display) -> Self {
        let credentials = BASE64_STANDARD.encode(format!("{user}:{password}"));
        self.secret_header(AUTHORIZATION, format!("Basic {credentials}"))
    }

    fn with_header<N, V>(mut self, name: N, value: V, is_secret: bool) -> Self
    where
        N: TryInto<HeaderName, Error: Into<BoxError>>,
        V: TryInto<HeaderValue, Error: Into<BoxError>>,
    {
        let setting = if is_secret { "secret_header" } else { "default_header" };
        match (name.try_into(), value.try_into()) {
            (Ok(name), Ok(mut value)) => {
                let is_known = [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION].contains(&name);
                value.set_sensitive(value.is_sensitive() || is_secret || is_known);
                self.defaults.headers.insert(name, value);
            }
            (Err(error), _) => self.refuse(setting, error),
            (_, Err(error)) => self.refuse(setting, error),
        }
        self
    }
}

/// # Time
///
/// [`Duration::MAX`] is no limit. None may be zero.
impl ClientBuilder {
    settings! {
        /// The whole call: redirects, retries, backoff, waiting for turns and connections, and the response body. It begins when the
        /// request is ready: what [`json_owned`](crate::RequestBuilder::json_owned) encodes before counts towards the call's own
        /// [`deadline`](crate::RequestBuilder::deadline) alone.
        total_timeout: Duration,
        /// From an attempt having been sent to the head of its response; interim responses (1xx) do not prolong it.
        head_timeout: Duration,
        /// For how long a caller may wait for the next piece of a response body. Time in which nobody waits does not count.
        read_timeout: Duration,
        /// For how long the server may take nothing of a request that there is something to send of.
        write_timeout: Duration,
        /// How long an attempt may wait for a connection, until one is being opened for it.
        pool_timeout: Duration,
        /// How long resolving a name may take.
        resolve_timeout: Duration,
        /// How long connecting may take, over all addresses of a name.
        connect_timeout: Duration,
        /// How long the TLS handshake may take.
        tls_timeout: Duration,
    }
}

/// # Connections
impl ClientBuilder {
    settings! {
        /// Connections open at once, over all hosts.
        max_connections: usize,
        /// How long a connection may be idle until it is closed.
        idle_timeout: Duration,
        /// How old a connection may become: it is closed when it is idle then, or when its response has ended.
        max_lifetime: Duration,
        /// Which versions of HTTP the server may choose from, over TLS.
        protocols: Protocols,
        /// Whether HTTP/2 is spoken over plain connections, without asking (RFC 9113, 3.3).
        http2_prior_knowledge: bool,
        /// How many calls may wait for a connection, and how many for a permit where there is a
        /// [`concurrency`](Self::concurrency); one more fails at once.
        max_waiting: usize,
    }

    /// Connections open at once to one host.
    pub fn max_connections_per_host(mut self, connections: usize) -> Self {
        self.settings.max_connections_per_host = Some(connections);
        self
    }

    /// Connections kept idle, over all hosts; 0 keeps none.
    pub fn max_idle(mut self, connections: usize) -> Self {
        self.settings.max_idle = Some(connections);
        self
    }

    /// Connections kept idle to one host; 0 keeps none.
    pub fn max_idle_per_host(mut self, connections: usize) -> Self {
        self.settings.max_idle_per_host = Some(connections);
        self
    }

    /// Which proxy to take to which host, in place of what the environment says: none at all is `Matcher::builder().build()`.
    pub fn proxy(mut self, matcher: Matcher) -> Self {
        self.proxy = Some(matcher);
        self
    }

    /// What counts as a leak, and who is told. (`reclaim_after` is not for a client, whose bodies are not boxed: it is for a stack of one's
    /// own.)
    pub fn leak_guard(mut self, guard: outbound_guard::Builder) -> Self {
        self.leak_guard = Some(guard);
        self
    }

    /// Whom to trust, and with which certificate of one's own. Which versions of HTTP are offered is not taken from it.
    pub fn tls_config(mut self, config: ClientConfig) -> Self {
        self.tls = Some(config);
        self
    }
}

/// # Retries, and how much at once
impl ClientBuilder {
    settings! {
        /// Attempts of a call, the first included; 1 never retries.
        max_attempts: u32,
        /// The longest `Retry-After` that is waited for; with a longer one the answer is the caller's at once.
        retry_after_cap: Duration,
        /// How many redirects are followed. None of them takes credentials to another origin: neither `Authorization`, `Cookie` and
        /// `Proxy-Authorization` nor any header that is marked sensitive; nor a `Host` of the caller's. One that would take a body
        /// there, or a method that is not safe, is not followed, and none from https to http. What is not followed is the
        /// caller's, as it came.
        redirects: usize,
        /// Whether compressed responses are asked for, and decompressed: gzip, deflate and Brotli.
        decompression: bool,
    }

    /// How long to wait before another attempt.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How many attempts there may be beyond the first, over all calls.
    pub fn retry_budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// What an `Idempotency-Key` header means.
    pub fn idempotency_key(mut self, key: IdempotencyKey) -> Self {
        self.idempotency_key = key;
        self
    }

    /// How many attempts may be under way at once, over all hosts, from their start to the end of their response body: a number, or a
    /// [limit that is learnt](Concurrency::adaptive). Not zero.
    pub fn concurrency(mut self, concurrency: impl Into<Concurrency>) -> Self {
        self.concurrency = Some(concurrency.into());
        self
    }
}

impl ClientBuilder {
    /// The client. What of its settings contradicts itself is told by a warning, and by [`Client::describe`].
    ///
    /// Nothing is opened yet. It may be called outside a runtime; the client's calls may not.
    ///
    /// # Errors
    /// [`InvalidClient`] with the first setting that makes no sense.
    #[track_caller]
    pub fn build(mut self) -> Result<Client, InvalidClient> {
        if let Some(invalid) = self.invalid {
            return Err(invalid);
        }
        self.settings.check(self.concurrency.as_ref().and_then(Concurrency::fixed))?;
        let description = Description::new(&self);
        for contradiction in description.contradictions() {
            tracing::warn!("client: {contradiction}");
        }
        let settings = self.settings;
        let tls = tls_config(self.tls.take())?;
        let to_proxy = Tls::new(Tcp::new(), tls.clone());
        let through = Proxy::new(to_proxy, self.proxy.unwrap_or_else(Matcher::from_env));
        let connector = Tls::new(through, tls).protocols(settings.protocols);
        let connector = Connector(self.telling.of_connections(connector));
        let pool = Construction::parts(|| settings.pool().build(connector));
        let pool = pool.map_err(|error| InvalidClient::new(about(&error), error))?;
        let (guard, leaks) = self.leak_guard.unwrap_or_else(LeakGuardLayer::builder).pair();
        let guarded = guard.layer(pool.clone());

        let timeout = TimeoutLayer::new(settings.head_timeout)
            .read_idle(settings.read_timeout)
            .write_idle(settings.write_timeout);
        let timed = self.telling.of_stalls(timeout).layer(guarded);
        let (limited, numbers) =
            Concurrency::layer(self.concurrency, settings.max_waiting, leaks.witness(), timed);
        let told = self.telling.of_attempts(limited);
        let policy = Standard::default()
            .backoff(self.backoff)
            .retry_after(RetryAfter::default().cap(settings.retry_after_cap))
            .idempotency_key(self.idempotency_key);
        let attempts = NonZeroU32::new(settings.max_attempts).expect("checked");
        let watches = self.telling.of_the_rest(&pool, &leaks, &self.budget, numbers);
        let retried = RetryLayer::new(policy).max_attempts(attempts).budget(self.budget).layer(told);
        let on = settings.decompression;
        let decompressed = DecompressionLayer::new().gzip(on).deflate(on).br(on).layer(retried);
        let redirected = if settings.redirects > 0 {
            let policy = NoCredentials::up_to(settings.redirects);
            Either::Left(FollowRedirectLayer::with_policy(policy).layer(decompressed))
        } else {
            Either::Right(decompressed)
        };
        let timed = DeadlineLayer::new(settings.total_timeout).layer(redirected);
        let stack = WithDefaults::new(timed, self.defaults);
        let about =
            About { description, total: settings.total_timeout, _handle: leaks.client(), _watches: watches };
        // Now that there is a guard which hears it, if it is the only one.
        Construction::announce("client");
        Ok(Client { stack, pool, leaks, about: about.into() })
    }

    /// The first is the one that is told.
    fn refuse(&mut self, setting: &'static str, problem: impl Into<BoxError>) {
        self.invalid.get_or_insert_with(|| InvalidClient::new(setting, problem));
    }
}

/// Its settings have the names that they have here.
fn about(error: &InvalidConfig) -> &'static str {
    match error {
        InvalidConfig::Zero(setting) | InvalidConfig::Above(setting, _) => setting,
        _ => "connections",
    }
}

fn tls_config(config: Option<ClientConfig>) -> Result<ClientConfig, InvalidClient> {
    if let Some(config) = config {
        return Ok(config);
    }
    #[cfg(feature = "webpki-roots")]
    return Ok(outbound_pool::connect::webpki_roots());
    #[cfg(all(feature = "platform-verifier", not(feature = "webpki-roots")))]
    return outbound_pool::connect::platform_verifier().map_err(|e| InvalidClient::new("tls_config", e));
    #[cfg(not(any(feature = "platform-verifier", feature = "webpki-roots")))]
    Err(InvalidClient::new("tls_config", NO_ROOTS))
}

#[cfg(not(any(feature = "platform-verifier", feature = "webpki-roots")))]
const NO_ROOTS: &str =
    "there are no roots to trust: switch on the feature webpki-roots or platform-verifier, or give a config";

// === InvalidClient ===

impl InvalidClient {
    pub(crate) fn new(setting: &'static str, problem: impl Into<BoxError>) -> Self {
        Self { setting, problem: problem.into() }
    }

    /// Which setting.
    pub fn setting(&self) -> &'static str {
        self.setting
    }
}

impl fmt::Display for InvalidClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.problem)
    }
}

impl Error for InvalidClient {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.problem.source()
    }
}
