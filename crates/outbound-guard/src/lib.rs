//! Finds what leaks while it leaks, and names the line of code: responses that nobody reads, clients built again and again.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//! use http::{Request, Response};
//! use outbound_guard::{LeakGuardLayer, SendExt};
//! use tower::{Layer, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let inner = service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::from("hello"))));
//! let (layer, detector) = LeakGuardLayer::pair();
//! let client = layer.layer(inner);
//!
//! let response = client.send(Request::get("http://a.example/").body(()).unwrap()).await.unwrap();
//! tokio::time::sleep(Duration::from_secs(41)).await; // and nobody reads it
//!
//! let held = &detector.snapshot()[0];
//! assert_eq!(held.site.unwrap().location().line(), line!() - 4);
//! assert_eq!((held.idle, held.read, held.declared), (Some(Duration::from_secs(41)), 0, Some(5)));
//! assert_eq!(detector.stats().totals.held, 1); // told after ten seconds, as a `tracing` event
//!
//! drop(response);
//! detector.assert_no_leaks();
//! # }
//! ```
//!
//! The event reads, on one line: `response held: http://a.example, called at src/main.rs:9:23, 10 s ago, 0 of 5 bytes read, not
//! polled for 10 s`, and later `response returned after 41 s: …`.
//!
//! - **Use it** in every service, always: it costs next to nothing. In tests, [`LeakDetector::check_on_drop`] fails those that leave
//!   something open.
//! - **Do not use it** to end calls that take too long, which is a timeout's task; or over a service whose calls do not end with
//!   their bodies, as where a connection is upgraded.
//! - **Order:** just above the pool, inside retry, so that it sees each attempt. What layers outside do to a body (a retry layer that
//!   drops a failed response) it sees as the caller's doing.
//! - **Counts** as held the time in which a call or its response body could be polled with effect, and is not: since it came into
//!   being, since its last frame, or since what it had been waiting for has woken it. Every kind of leak is a variant of [`Leak`].
//! - **Does not count:** the time in which the peer is awaited, however long: a quiet event stream is no leak. A call that is
//!   cancelled before its response head. A body without content. As dropped before its end: one that was read to the length declared.
//! - **Errors:** none of its own, except in a body that was [reclaimed](Builder::reclaim_after): [`Elapsed`](outbound_core::Elapsed).
//!   It never ends a body unless told to.
//! - **Panics:** never, except to fail a test: [`LeakDetector::assert_no_leaks`], [`LeakCheck`].
//!
//! # Who
//!
//! A call is known by its [`CallSite`](outbound_core::CallSite), which [`SendExt::send`] puts on a request; by the `tracing` span in
//! which the service was called; and, if that is [wanted](Builder::backtraces), by a backtrace. It knows the connection, and the phase before the response
//! head, if an [`Exchange`](outbound_core::Exchange) rides on the request and the pool below reports on it. Whatever builds clients is
//! known by the line too: outbound's pool [announces](outbound_core::Construction::announce) itself, and a function of your own that
//! builds a client of another library can do the same.
//!
//! No report names a header, userinfo or query.
//!
//! # Who is in the way
//!
//! A call that waits in vain learns who keeps it waiting. The acquire timeout of outbound's pool names the line that began the oldest
//! exchange; a limit outside the guard names the oldest call in its [`Overloaded`](outbound_core::Overloaded), if it is given
//! [`LeakDetector::witness`]; and [`LeakDetector::holders`] lists, for either error, all that are in the way.
//!
//! # Cost
//!
//! Nothing is allocated for a call that behaves while others are open: its record is that of a call before. The first after a rest starts
//! a task, and of more than 1,024 at once in a shard the room is given back in between. There are four shards a core, a thread always
//! uses the same one, and a call takes its lock for an instant when it begins and when it ends: no core waits for another, unless a call
//! has moved to another thread meanwhile, or there are more threads than shards. Each poll costs two looks at the clock at most.
//!
//! One task for all calls looks through them when the first could be due, and every five seconds. It is started by a call, on its
//! runtime, which needs its timer on and has to be driven, and ends when nothing is open. Outside a Tokio runtime there is none: then calls are seen in
//! [`LeakDetector::snapshot`], and told about when they end. A look takes a tenth of the time at most, and is late where there are so many
//! calls that it would take longer.
//!
//! All open calls are looked at, a shard at a time, by [`LeakDetector::snapshot`] and [`LeakDetector::stats`]; and by a limit for each
//! call that it turns away, where it asks a [`LeakDetector::witness`]: little more than a comparison each, but as many as are open.
//!
//! What that is worth, as `cargo bench -p outbound-guard` told it on 2026-11-21, on a virtual machine with two cores under three times their
//! load, three runs: a call with a body of two frames took 0.47 to 0.54 µs of its core's time, whether one worker made calls or two;
//! unwatched 0.10 µs. In a million calls of two workers, one of them went to sleep over a lock that the other held 0 to 0.1 times; where the two
//! shared a shard of the very same guard, 73 to 162 times, and a call took 0.66 to 0.72 µs. Which shard a call is kept in is
//! counted by `tests/shards.rs`. Allocations for one call that behaves: 0, as `tests/allocations.rs` counts them; [`SendExt::send`] makes the
//! one entry in the request's extensions, unless there is one.
//!
//! `docs/leak.md` shows a leak that it found, and what was gained by the fix: sockets and memory over time.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
mod builder;
mod churn;
mod descriptors;
mod detector;
mod future;
mod guard;
mod layer;
mod leak;
mod process;
mod reclaim;
mod record;
mod registry;
mod reporter;
mod send;
mod sweep;
mod sync;

pub use body::GuardedBody;
pub use builder::{Backtraces, Builder};
pub use descriptors::Descriptors;
pub use detector::{LeakCheck, LeakDetector, Stats, Totals};
pub use future::ResponseFuture;
pub use layer::{ClientHandle, LeakGuard, LeakGuardLayer};
pub use leak::{Holding, Leak};
pub use reclaim::{Mode, Observe, Reclaimable, Reclaiming};
pub use send::{SendExt, Sending};
