//! Calls that an axum service makes: their failures as its responses, and its callers' deadlines on them.
//!
//! ```
//! use std::time::Duration;
//! use axum::{Router, routing::get};
//! use http::{Request, Response, StatusCode};
//! use outbound::axum::{InboundDeadlineLayer, Outbound, UpstreamFailed};
//! use outbound::{Body, BoxError, ClientExt, ResponseExt, ServiceBuilderExt, timeout::TimeoutBody};
//! use tower::{ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};
//!
//! type Client = BoxCloneSyncService<Request<Body>, Response<TimeoutBody<String>>, BoxError>;
//!
//! async fn handler(client: Outbound<Client>) -> Result<String, UpstreamFailed> {
//!     Ok(client.get("http://users.example/7").send().await?.text().await?)
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), BoxError> {
//! let silent = service_fn(async |_: Request<Body>| std::future::pending::<Result<_, BoxError>>().await);
//! let client = ServiceBuilder::new().deadline(Duration::from_secs(30)).service(silent);
//! let app = Router::new()
//!     .route("/", get(handler))
//!     .layer(InboundDeadlineLayer::new(Duration::from_secs(10)))
//!     .with_state(Client::new(client));
//!
//! let begun = tokio::time::Instant::now();
//! let request = Request::get("/").header("x-envoy-expected-rq-timeout-ms", "800");
//! let response = app.oneshot(request.body(axum::body::Body::empty())?).await?;
//! assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
//! assert_eq!(begun.elapsed(), Duration::from_millis(800));
//! # Ok(())
//! # }
//! ```
//!
//! - **The client** is state: `outbound::Client` or any other stack that clones, as `State<…>`, or as [`Outbound<…>`](Outbound),
//!   which gives each of its calls the deadline of the request that it is made for.
//! - **Deadlines**: [`InboundDeadlineLayer`] gives each inbound request a deadline: the time that its caller says it waits, or less.
//! - **Cancellation** needs nothing: when a caller hangs up, hyper drops the handler, and with it the call that it waits for; the
//!   connection of that is closed. A task that a handler spawns goes on.
//! - **Failures**: [`UpstreamFailed`] is any error of a call as a response that tells nothing of it.
//! - **Traces**: `outbound::telemetry::RemoteContextLayer` around the router, `TelemetryLayer` in the client, and a propagator, which
//!   `opentelemetry::global::set_text_map_propagator` sets for both.

mod deadline;
mod failed;
mod state;

pub use deadline::{InboundDeadline, InboundDeadlineLayer, TimeoutHeader};
pub use failed::UpstreamFailed;
pub use state::Outbound;
