//! OpenTelemetry: spans and measurements of attempts, and what the parts of a stack have to show besides.
//!
//! A `Client` has all of it but one line of the table by one of its settings (`ClientBuilder::telemetry`). Elsewhere,
//! [`TelemetryLayer`] tells of attempts, [`ConnectionsLayer`] of connections' lifetimes. The rest is read whenever the meter collects,
//! as long as the [`Watch`] is kept that each of the functions in the table returns:
//!
//! | metric | kind, unit | told apart by | what it is | by |
//! |---|---|---|---|---|
//! | `http.client.open_connections` | up-down counter, `{connection}` | `http.connection.state` (`active`, `idle`), `server.address`, `server.port` | connections that carry an exchange, and that are free | [`watch_pool`] |
//! | `outbound.pool.unusable` | up-down counter, `{connection}` | `outbound.pool.state` (`dialing`, `closing`), `server.address`, `server.port` | connections that are not yet open, and not yet closed: they count against the limits too | [`watch_pool`] |
//! | `outbound.pool.waiting` | up-down counter, `{request}` | `server.address`, `server.port` | calls that wait for a connection, and have none being opened for them | [`watch_pool`] |
//! | `outbound.pool.events` | counter, `{event}` | `outbound.pool.event`: a field of [`Totals`](crate::pool::Totals) | what has happened since the pool was built | [`watch_pool`] |
//! | `outbound.pool.closed` | counter, `{connection}` | `outbound.pool.reason`: [`Why::as_str`](crate::pool::Why::as_str), `server.address`, `server.port` | connections closed, and dials that came to nothing (the conventions have no place for the reason) | [`count_closings`], to be spawned |
//! | `outbound.pool.exchanges` | up-down counter, `{request}` | | exchanges that go on: an HTTP/2 connection may carry several | [`watch_pool`] |
//! | `outbound.limit.limit` | gauge, `{request}` | | calls let through at once; of a rate, the burst | [`watch_limit`] |
//! | `outbound.limit.in_use` | up-down counter, `{request}` | | permits that are out | [`watch_limit`] |
//! | `outbound.limit.waiting` | up-down counter, `{request}` | | calls that wait for one | [`watch_limit`] |
//! | `outbound.limit.rejected` | counter, `{request}` | | calls turned away | [`watch_limit`] |
//! | `outbound.limit.longest_wait` | gauge, `s` | | the longest wait that has ended | [`watch_limit`] |
//! | `outbound.budget.refused` | counter, `{attempt}` | | retries that the budget did not pay for | [`watch_budget`] |
//! | `outbound.guard.open` | up-down counter, `{request}` | `outbound.guard.stage` (`call`, `body`) | calls whose response is to come, and response bodies with their callers | [`watch_guard`] |
//! | `outbound.guard.held` | up-down counter, `{request}` | | of those, the ones that nobody polls: [`Leak::Held`](crate::guard::Leak::Held) now | [`watch_guard`] |
//! | `outbound.guard.oldest` | gauge, `s` | | the age of the oldest of those; zero if there is none | [`watch_guard`] |
//! | `outbound.guard.leaks` | counter, `{leak}` | `outbound.guard.leak`: [`Leak::kind`](crate::guard::Leak::kind) | what has been found since the guard was made: `held`, `abandoned`, `forgotten`, `churn` of clients, … | [`watch_guard`] |
//! | `outbound.stall.count` | counter, `{stall}` | | timers that this runtime ran late | [`watch_stalls`] |
//! | `outbound.stall.longest` | gauge, `s` | | how late at most | [`watch_stalls`] |
//!
//! All of them have the attribute `outbound.name`, too.
//!
//! ```
//! use opentelemetry::global::meter;
//! use outbound::{Pool, limit::Limiter, pool::connect::Tcp, telemetry};
//!
//! let (meter, pool, limiter) = (meter("outbound"), Pool::builder().build(Tcp::new())?, Limiter::new(64));
//! let watches = (
//!     telemetry::watch_pool(&meter, "users", &pool),
//!     telemetry::watch_limit(&meter, "users", move || limiter.stats()),
//! );
//! # assert_eq!(watches.0.subject().stats().waiting, 0);
//! # Ok::<(), outbound::BoxError>(())
//! ```

pub use outbound_telemetry::*;

#[cfg(feature = "guard")]
mod guard;
#[cfg(feature = "limit")]
mod limit;
#[cfg(feature = "pool")]
mod pool;
#[cfg(feature = "retry")]
mod retry;
#[cfg(feature = "timeout")]
mod timeout;

#[cfg(feature = "guard")]
pub use guard::watch_guard;
#[cfg(feature = "limit")]
pub use limit::watch_limit;
#[cfg(feature = "pool")]
pub use pool::{count_closings, watch_pool};
#[cfg(feature = "retry")]
pub use retry::watch_budget;
#[cfg(feature = "timeout")]
pub use timeout::watch_stalls;
