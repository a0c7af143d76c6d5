//! The client that everybody writes by hand, as one builder over the pieces.
//!
//! ```no_run
//! use std::time::Duration;
//! use outbound::{Client, ClientExt, ResponseExt};
//!
//! # async fn call() -> Result<(), outbound::BoxError> {
//! let client = Client::builder()
//!     .base_url("https://api.example.com/v1")
//!     .bearer_auth("the token")
//!     .total_timeout(Duration::from_secs(20))
//!     .build()?;
//! println!("{}", client.describe());
//!
//! let items: Vec<String> = client.get("/items").query(&[("page", 1)]).send().await?
//!     .error_for_status().await?
//!     .json().await?;
//! # drop(items);
//! # Ok(())
//! # }
//! ```
//!
//! [`Client`] has no logic of its own. It is this stack, outermost first, and each line of it works alone:
//!
//! | layer | what it is |
//! |---|---|
//! | defaults | base URL, header fields |
//! | [`DeadlineLayer`](outbound_timeout::DeadlineLayer) | one budget of time for the call, its redirects, retries and response body included |
//! | `tower_http::follow_redirect` | if switched on, with a policy that lets no credentials cross origins |
//! | `tower_http::decompression` | gzip, deflate and Brotli |
//! | [`RetryLayer`](outbound_retry::RetryLayer) | what is safe to send again, within a budget |
//! | `TelemetryLayer` | if set (feature `telemetry`), a span and measurements of each attempt; inside retry, so that none hides another, and outside the rest, so that waiting for a turn and for a connection is measured too |
//! | [`ConcurrencyLimitLayer`](outbound_limit::ConcurrencyLimitLayer) or [`AdaptiveLimitLayer`](outbound_limit::AdaptiveLimitLayer) | if set, a permit per attempt until its body has ended; inside retry, so that a call asleep in backoff holds none |
//! | [`TimeoutLayer`](outbound_timeout::TimeoutLayer) | head, read and write of one attempt |
//! | [`LeakGuardLayer`](outbound_guard::LeakGuardLayer) | who holds which response, and from which line of code |
//! | [`Pool`] | connections, over TCP, proxies and rustls, in HTTP/1.1 and HTTP/2 |
//!
//! - **Use it** to call services from a program that has a runtime; build one, and clone it wherever calls are made.
//! - **Do not use it** for one call each, which costs connections and is told as a leak; nor where a layer of your own has to be inside.
//! - **Order:** it is the end of a stack: a layer [around it](Client::layer) sees calls, not their attempts.
//! - **Holds** its connections until they expire, or [`close`](Client::close), or the last clone and the last body have gone.
//! - **Errors:** a [`BoxError`], which [`Failure::of`](outbound_core::Failure::of) reads: phase, kind, whether the server may have acted on it.
//!   Each is one line that names origin, attempt, connection and what was sent, and never a header's value, credentials or a query.
//! - **Panics** if called outside a Tokio runtime with I/O and time switched on; where there is none, take
//!   `build_blocking` (feature `blocking`).
//!
//! # Every setting, its default, and why
//!
//! | setting | default | why |
//! |---|---|---|
//! | `base_url` | none | each request says its whole URI then |
//! | `default_header`, `secret_header`, `bearer_auth`, `basic_auth` | none | what is not asked for is not sent |
//! | `total_timeout` | 60 s | what gateways and balancers in front of callers commonly allow: nobody waits longer |
//! | `head_timeout` | 15 s | three attempts of it, and the backoff between them, fit into the total |
//! | `read_timeout` | 15 s | a body that stands still for as long as a head may take is no better |
//! | `write_timeout` | 15 s | likewise for a server that takes nothing |
//! | `pool_timeout` | 10 s | a wait for a connection that leaves time to use it |
//! | `resolve_timeout` | 5 s | one try of the usual resolver |
//! | `connect_timeout` | 5 s | two SYN retransmissions (1 + 2 s): the third comes too late for a retry elsewhere |
//! | `tls_timeout` | 5 s | a handshake is two round trips and a signature |
//! | `max_connections` | 512 | half of the 1,024 descriptors that a process is commonly given |
//! | `max_connections_per_host` | 128 | no origin takes all |
//! | `max_idle`, `max_idle_per_host` | as many as may be open | idle connections are cheap beside the handshakes they save |
//! | `idle_timeout` | 50 s | below the 60 s after which common balancers drop an idle connection |
//! | `max_lifetime` | none | a server that wants its connections closed says so; 5 minutes if its address changes under its name |
//! | `max_attempts` | 3 | a fourth rarely succeeds where three did not, and makes an outage worse |
//! | `backoff` | 100 ms, doubling up to 10 s, full jitter | the least load on a server that is coming back |
//! | `retry_after_cap` | 20 s | one such wait and two attempts fit into the total; for a longer one the answer is the caller's at once |
//! | `retry_budget` | 20 % of the calls, and 10 a second | a dependency that is down is not sent three times its traffic |
//! | `idempotency_key` | ignored | not every server knows the header |
//! | `concurrency` | none | the pool bounds the connections, and over HTTP/1.1 that is the calls under way |
//! | `max_waiting` | 4,096 | a queue is finite |
//! | `redirects` | 0: none is followed | an API that redirects is news to its caller, and following is how credentials leak |
//! | `decompression` | on | text is a tenth of its size on the wire |
//! | `telemetry` (feature `telemetry`) | none: without it nothing is there to cost anything | whom to tell is the program's affair |
//! | `leak_guard` | on: told after 10 s, once a minute and line | it costs next to nothing, and is wanted when it is too late to switch it on |
//! | `proxy` | as `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say | where there is one, there is no other way out |
//! | `protocols` | HTTP/2 or HTTP/1.1, as the server chooses by ALPN | fewer connections and handshakes where it can |
//! | `http2_prior_knowledge` | off | over plain connections few servers speak it unasked |
//! | `tls_config` | Mozilla's roots, compiled in; without that feature the operating system's; without either it has to be given | the same everywhere |
//!
//! # Coming from reqwest
//!
//! | there | here |
//! |---|---|
//! | `Client::new()`, `reqwest::get(url)` | [`Client::builder`]`().build()?`; nothing for a single call, which would open a connection for it |
//! | `.get(url)`, `.json(&value)`, `.query(…)`, `.form(…)`, `.bearer_auth(…)`, `.body(…)`, `.send().await?` | the same, of [`ClientExt`](crate::ClientExt) |
//! | `.header(name, value)` adds a field | it replaces what there is of that name |
//! | a URL with spaces or umlauts is encoded | a [`Uri`] has to be; `.query(…)` encodes its pairs |
//! | `.timeout(…)` of a request | [`deadline`](crate::RequestBuilder::deadline) |
//! | `.timeout(…)` of a client, none by default | [`total_timeout`](ClientBuilder::total_timeout), 60 s: its retries and the body included |
//! | `.user_agent(…)`, `.default_headers(…)` | [`default_header`](ClientBuilder::default_header), one by one |
//! | `.json().await?`, `.text().await?`, `.bytes().await?` | the same, of [`ResponseExt`](crate::ResponseExt); more than 16 MiB only if asked for, with `json_within` and its like |
//! | `.error_for_status()?` | `.error_for_status().await?`: it keeps the first 8 KiB of what the server says |
//! | `.chunk()`, `.bytes_stream()` | `into_body()`, an [`http_body::Body`] |
//! | `.url()` | the extension `tower_http::follow_redirect::RequestUri` of the response, if redirects are on |
//! | redirects are followed | [`redirects`](ClientBuilder::redirects), none by default |
//! | nothing is retried | what is safe to send again is, twice; [`max_attempts(1)`](ClientBuilder::max_attempts) to leave it |
//! | any number of connections | [`max_connections_per_host`](ClientBuilder::max_connections_per_host), 128; others wait |
//! | `.add_root_certificate(…)`, `.identity(…)`, `.danger_accept_invalid_certs(…)` | [`tls_config`](ClientBuilder::tls_config), by [`rustls`] |
//! | `error.is_timeout()`, `.is_connect()`, `.status()` | [`Failure::of`](outbound_core::Failure::of)`(&*error)`: `kind()`, `phase()`; [`find`](outbound_core::find)`::<`[`StatusError`](crate::StatusError)`>(&*error)` |
//! | `reqwest::Error` in an `anyhow::Result` | `.map_err(anyhow::Error::from_boxed)?`: a [`BoxError`] is a box and no `Error` itself |
//! | `reqwest::blocking` | `build_blocking` (feature `blocking`), of the same builder |
//! | cookie stores, multipart forms, HTTP/3 | not there |
//!
//! ```no_run
//! use std::pin::pin;
//! use http_body_util::BodyExt;
//! use outbound::{Client, ClientExt, Failure, Kind, ResponseExt, StatusError, find};
//!
//! # async fn call(client: Client) -> Result<(), outbound::BoxError> {
//! let answered = async { client.get("/download").send().await?.error_for_status().await };
//! match answered.await {
//!     Ok(response) => {
//!         let mut body = pin!(response.into_body());
//!         while let Some(frame) = body.frame().await {
//!             if let Ok(data) = frame?.into_data() {
//!                 println!("{} bytes", data.len());
//!             }
//!         }
//!     }
//!     Err(error) => match Failure::of(&*error).kind() {
//!         Kind::Timeout | Kind::Overloaded => eprintln!("later: {error}"),
//!         _ => match find::<StatusError>(&*error) {
//!             Some(answer) => eprintln!("{}: {:?}", answer.status(), answer.body()),
//!             None => return Err(error),
//!         },
//!     },
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Growing out of it
//! `Client` is a `tower::Service` like any other: [`layer`](Client::layer) puts a layer around it, and every method of
//! [`ClientExt`](crate::ClientExt) works on the result. To put one further inside, spell the stack out; it is the
//! one in the [crate's docs](crate).

mod builder;
mod defaults;
mod describe;
mod limit;
mod redirect;
mod settings;
#[cfg_attr(not(feature = "telemetry"), path = "untold.rs")]
mod telemetry;
mod undecodable;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Frame, SizeHint};
use outbound_core::{BoxError, OnEnd};
use outbound_guard::{ClientHandle, GuardedBody, LeakDetector, LeakGuard};
use outbound_pool::{
    Pool,
    connect::{Proxy, Tcp, Tls},
};
use outbound_retry::Retry;
use outbound_timeout::{Timeout, TimeoutBody, WithDeadline};
use pin_project_lite::pin_project;
use tower::util::Either;
use tower_http::{
    decompression::{Decompression, DecompressionBody},
    follow_redirect::FollowRedirect,
};
use tower_layer::Layer;
use tower_service::Service;

pub use self::{
    builder::{ClientBuilder, InvalidClient},
    describe::{Contradiction, Description},
    limit::Concurrency,
};
use self::{
    defaults::WithDefaults,
    limit::Limit,
    redirect::NoCredentials,
    telemetry::{Measured, Told, ToldBody, Watches},
    undecodable::Undecodable,
};
use crate::Body;

/// A client: a preset stack over a pool. See the [module](self) for all its settings and their defaults.
///
/// Clones share everything. Requests are made with [`ClientExt`](crate::ClientExt), or are any [`Request<Body>`](Body).
#[derive(Clone)]
pub struct Client {
    stack: Stack,
    pool: Pool<Connector>,
    leaks: LeakDetector,
    about: Arc<About>,
}

/// What does not change.
struct About {
    description: Description,
    /// What a call may take, and so the end of all calls.
    total: Duration,
    /// It goes with the last clone of the client, and not with what a call keeps of the stack.
    _handle: ClientHandle,
    _watches: Watches,
}

/// What opens the connections of a [`Client`]: TLS to the server, over a proxy, over TLS to the proxy.
#[derive(Clone, Debug)]
pub struct Connector(Opens);

type Opens = Measured<Tls<Proxy<Tls<Tcp>>>>;
type Attempted = Told<Limit<Timeout<LeakGuard<Pool<Connector>>>>>;
type Decompressed = Decompression<Retry<Attempted>>;
type Redirected = Either<FollowRedirect<Decompressed, NoCredentials>, Decompressed>;
type Stack = WithDefaults<WithDeadline<Redirected>>;
type Called = <Stack as Service<Request<Body>>>::Future;
type InnerBody = TimeoutBody<DecompressionBody<AttemptBody>>;
type AttemptBody = ToldBody<OnEnd<TimeoutBody<GuardedBody<outbound_pool::Body>>, outbound_limit::Release>>;

pin_project! {
    /// The response of a [`Client`] to come. Dropping it gives up whatever is being done.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture {
        #[pin]
        call: Called,
        // It would take a call that outlives its client for one that is forgotten.
        leaks: LeakDetector,
    }
}

pin_project! {
    /// The body of a [`Client`]'s response: read it with [`ResponseExt`](crate::ResponseExt), or frame by frame.
    ///
    /// It holds its connection and its permit until it has ended. Dropped before, it closes its connection.
    pub struct ResponseBody {
        #[pin]
        body: InnerBody,
        leaks: LeakDetector,
    }
}

// === Client ===

impl Client {
    /// All settings at their defaults.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// What this client is: its layers in their order, its worst case, and what of its settings contradicts itself.
    pub fn describe(&self) -> &Description {
        &self.about.description
    }

    /// The pool inside: its statistics, say.
    pub fn pool(&self) -> &Pool<Connector> {
        &self.pool
    }

    /// Sees which responses are held, by which line of code, and what has leaked so far; fails a test that leaves one open.
    ///
    /// A client whose last clone is dropped while response bodies are still out is a leak as well: it says so, and names the
    /// lines that made those calls. (`Leak::Forgotten` is told of no client, for each open call of it keeps the detector, and may well
    /// outlive it; what nobody will ever poll again is `Leak::Held`, or shows here by its age.)
    pub fn leaks(&self) -> &LeakDetector {
        &self.leaks
    }

    /// Closes all connections, of all clones, and waits until the last socket is closed.
    ///
    /// What is idle is closed at once; a call that comes later, or waits for a connection, fails with nothing sent; one under way may
    /// end, for which it has as long as any call: `total_timeout`. Dropped, this future leaves the client closed.
    pub async fn close(&self) {
        self.pool.close(self.about.total).await;
    }

    /// This client inside `layer`: the same as `layer.layer(client)`, at the end of a chain.
    pub fn layer<L: Layer<Self>>(self, layer: L) -> L::Service {
        layer.layer(self)
    }
}

impl Service<Request<Body>> for Client {
    type Response = Response<ResponseBody>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.stack.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        ResponseFuture { call: self.stack.call(request), leaks: self.leaks.clone() }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("pool", &self.pool).finish_non_exhaustive()
    }
}

// === Connector ===

impl Service<Uri> for Connector {
    type Response = <Opens as Service<Uri>>::Response;
    type Error = <Opens as Service<Uri>>::Error;
    type Future = <Opens as Service<Uri>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.0.call(uri)
    }
}

// === ResponseFuture ===

impl Future for ResponseFuture {
    type Output = Result<Response<ResponseBody>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answered = this.call.poll(cx);
        answered.map_ok(|response| response.map(|body| ResponseBody { body, leaks: this.leaks.clone() }))
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

// === ResponseBody ===

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().body.poll_frame(cx).map_err(Undecodable::unless_from_below)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
