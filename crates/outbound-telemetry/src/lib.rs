//! OpenTelemetry's HTTP client conventions for outbound calls: one CLIENT span and one measurement per attempt, which last until the
//! response body has ended.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Empty, Full};
//! use opentelemetry::metrics::MeterProvider;
//! use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
//! use outbound_telemetry::{TelemetryLayer, UrlTemplate};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let exporter = InMemoryMetricExporter::default(); // yours is OTLP, or Prometheus
//! let meters = SdkMeterProvider::builder()
//!     .with_reader(PeriodicReader::builder(exporter.clone()).build())
//!     .build();
//! let client = TelemetryLayer::new(&meters.meter("outbound")).layer(service_fn(|_: Request<Empty<Bytes>>| async {
//!     tokio::time::sleep(Duration::from_millis(40)).await;
//!     Ok::<_, Infallible>(Response::builder().status(404).body(Full::<Bytes>::from("no such user")).unwrap())
//! }));
//!
//! let mut request = Request::get("http://users.example/users/7?token=x").body(Empty::<Bytes>::new()).unwrap();
//! UrlTemplate::new("/users/{id}").attach(&mut request); // as long as it is one of few
//! let response = client.oneshot(request).await.unwrap();
//! response.into_body().collect().await.unwrap().to_bytes();
//!
//! meters.force_flush().unwrap();
//! let told = format!("{:?}", exporter.get_finished_metrics().unwrap());
//! assert!(told.contains(r#"name: "http.client.request.duration""#) && told.contains("sum: 0.04"));
//! assert!(told.contains("/users/{id}") && !told.contains("token"));
//! # }
//! ```
//!
//! - **Use it** wherever calls leave a process that is observed. What is not configured costs little: without a meter provider, a
//!   `tracing` subscriber or a propagator, its part does nothing. Without the layer nothing is there to cost anything.
//! - **Do not use it** around a client that does the same by itself: each attempt would be told twice.
//! - **Order:** inside retry, so that each attempt is a span of its own; outside everything else, so that queueing is measured too.
//!   Outside retry it tells calls rather than attempts, and `http.request.resend_count` never. [`ConnectionsLayer`] goes around a
//!   connector.
//! - **Counts** an attempt from its call to the end of its response body, read out, failed or dropped; or until it fails, or is
//!   dropped. So a response that its caller keeps is an active request. (.NET's metric of the same name ends with the head.)
//! - **Does not count** `poll_ready`; the time between attempts; the one transparent resend inside outbound's pool, which is part of
//!   its attempt.
//! - **Errors:** none of its own; those of the service inside pass untouched, those of its body boxed.
//! - **Panics** never.
//!
//! # Metrics
//!
//! | name | what it is | unit | boundaries | attributes | in the conventions |
//! |---|---|---|---|---|---|
//! | `http.client.request.duration` | histogram | `s` | .005 .01 .025 .05 .075 .1 .25 .5 .75 1 2.5 5 7.5 10 | *target*, *outcome* | stable |
//! | `http.client.active_requests` | up-down counter | `{request}` | | *target* | in development |
//! | `http.client.request.body.size` | histogram, [if asked for](TelemetryLayer::body_sizes) | `By` | the SDK's | *target*, *outcome* | in development |
//! | `http.client.response.body.size` | histogram, [if asked for](TelemetryLayer::body_sizes) | `By` | the SDK's | *target*, *outcome* | in development |
//! | `http.client.connection.duration` | histogram, by [`ConnectionsLayer`] | `s` | .01 .02 .05 .1 .2 .5 1 2 5 10 30 60 120 300 | `server.address`, `server.port`, `network.protocol.version` | in development |
//! | `http.client.request.time_in_queue` | histogram | `s` | as the first | *target* | .NET's |
//!
//! *Target* is `http.request.method` (`_OTHER` unless [known](TelemetryLayer::known_methods)), `server.address` and `server.port`
//! (left out if the URI names no origin), and `url.template` if the request carries an [`UrlTemplate`]. *Outcome* is
//! `http.response.status_code` and `network.protocol.version` if a head arrived, and `error.type` if it was an error.
//!
//! `time_in_queue` is the time until the attempt had its turn with every limit, and a connection or leave to open one
//! ([`Phase::Queue`](outbound_core::Phase::Queue) and [`Phase::Acquire`](outbound_core::Phase::Acquire)); opening it is not part of it,
//! as it is in .NET. It is measured where the service inside reports on the request's [`Exchange`](outbound_core::Exchange), as
//! outbound's pool does: also a wait of zero. Of an attempt that is turned away before, it is what the limit says
//! ([`Overloaded::time_waited`](outbound_core::Overloaded::time_waited)). Outside retry it is that of one attempt, and never the time between
//! them. `http.client.open_connections` is a pool's to tell, and read with a [`Watch`].
//!
//! # Spans
//!
//! Spans are `tracing`'s, named `http.client.request`, at level INFO; their fields have the names that tracing-opentelemetry and the
//! conventions want: the attributes above, and `url.full` (scheme, host and path: never a query, and userinfo as `REDACTED`),
//! `http.request.resend_count` (from the second attempt on, by the request's [`Attempt`](outbound_core::Attempt)),
//! `http.request.method_original` (of an unknown method), `network.peer.address` and `network.peer.port` (over outbound's pool). A secret
//! in a *path* is in `url.full`: drop that field in the exporter if yours have any.
//!
//! # What is an error
//!
//! A status of 400 to 599, with the status as `error.type`; and a failure, of the head or of the body, with
//! [`Failure::error_type`](outbound_core::Failure::error_type): `timeout`, `refused`, `truncated`, …. The status counts first. The span's
//! description is the failure's line if it is one of outbound's own; a foreign error's might tell the URL. A call that is cancelled
//! is no error: one that is dropped, before its head or with it, and one that failed with
//! [`Kind::Canceled`](outbound_core::Kind::Canceled). But one that is dropped while its caller waits, after the request's
//! [`Deadline`](outbound_core::Deadline), is a `timeout`: a layer further out has given it up.
//!
//! # The trace goes on
//!
//! The global propagator writes the current context into the request, each header unless the caller has set it; and no
//! `tracestate` beside a `traceparent` that is the caller's. What is current is the attempt's own span if the subscriber makes it so, as
//! tracing-opentelemetry does (`with_context_activation`, on by default); else what was current around the call. In a server,
//! [`RemoteContextLayer`] makes that the context that the inbound request brought.
//!
//! # Cost
//!
//! No box, no spawn. A warm attempt allocates nothing for its measurements, with the SDK or without, and nothing for its span
//! if nobody collects spans. What the API forces: the headers of the propagator, whose values are `String`s; a copy of the host's
//! name for the attempts to hosts beyond some sixty. The `Exchange` that it puts on a request that has none is one for the whole stack.
//! Propagator and SDK read a lock each (`std::sync::RwLock`) that is written only when they are set, or a series is new.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod attempt;
mod body;
mod connections;
mod instruments;
mod layer;
mod propagation;
mod remote;
mod span;
mod target;
mod watch;

pub use body::TelemetryBody;
pub use connections::{Connecting, Connections, ConnectionsLayer, Measured};
pub use layer::{ResponseFuture, Telemetry, TelemetryLayer};
pub use outbound_core::UrlTemplate;
pub use remote::{RemoteContext, RemoteContextLayer};
pub use watch::{Observe, Series, Watch};
