//! What a client tells of itself, where the feature `telemetry` is on; `untold.rs` stands in its place where it is off.

use opentelemetry::StringValue;
use outbound_guard::LeakDetector;
use outbound_pool::Pool;
use outbound_retry::Budget;
use outbound_telemetry::{Connections, ConnectionsLayer, Telemetry, TelemetryBody, TelemetryLayer, Watch};
use outbound_timeout::{StallMonitor, TimeoutLayer};
use tower_layer::Layer;

use super::{ClientBuilder, Connector, limit::Numbers};
use crate::telemetry::{watch_budget, watch_guard, watch_limit, watch_pool, watch_stalls};

/// A service that tells of its calls.
pub(crate) type Told<S> = Telemetry<S>;
pub(crate) type ToldBody<B> = TelemetryBody<B>;
/// A connector that tells of its connections.
pub(crate) type Measured<C> = Connections<C>;

/// Whether to tell, how, and under which name.
#[derive(Debug)]
pub(crate) struct Telling {
    name: StringValue,
    layer: TelemetryLayer,
    stalls: StallMonitor,
}

/// What a meter looks at, for as long as the client is there.
pub(crate) type Watches = Option<(
    Watch<Pool<Connector>>,
    Watch<LeakDetector>,
    Watch<Budget>,
    Watch<StallMonitor>,
    Option<Watch<Numbers>>,
)>;

/// # What is told
impl ClientBuilder {
    /// Tells OpenTelemetry of each attempt, by a span and measurements, of each connection's lifetime, and of what pool, retries, limit and
    /// leak guard have to show: all that [`outbound::telemetry`](crate::telemetry) lists. The gauges have `name` as their `outbound.name`,
    /// and are there for as long as a clone of the client is. Each client wants a name of its own: of two with one name, one hides the other.
    /// A meter does not give back what it was given, so a client that is built again and again leaves its (empty) gauges with the meter's
    /// provider each time: build one, and clone it.
    ///
    /// A [redirect](Self::redirects) that is followed is a request of its own: its attempts are counted anew, and it has no `url.template`, which is
    /// the first URI's.
    ///
    /// ```
    /// use outbound::{Client, TelemetryLayer};
    ///
    /// let meter = opentelemetry::global::meter("my service");
    /// // A trace is no business of a third party's.
    /// let layer = TelemetryLayer::new(&meter).trace_context(false);
    /// let client = Client::builder().telemetry("payments", layer).build()?;
    /// # drop(client);
    /// # Ok::<(), outbound::BoxError>(())
    /// ```
    pub fn telemetry(mut self, name: impl Into<StringValue>, layer: TelemetryLayer) -> Self {
        self.telling = Telling { name: name.into(), layer, stalls: StallMonitor::new() };
        self
    }
}

impl Telling {
    pub(crate) fn of_connections<C>(&self, connector: C) -> Measured<C> {
        self.layer.meter().map_or_else(ConnectionsLayer::off, ConnectionsLayer::new).layer(connector)
    }

    pub(crate) fn of_stalls(&self, timeout: TimeoutLayer) -> TimeoutLayer {
        match self.layer.meter() {
            Some(_) => timeout.stall_monitor(&self.stalls),
            None => timeout,
        }
    }

    pub(crate) fn of_attempts<S>(&self, service: S) -> Told<S> {
        self.layer.layer(service)
    }

    pub(crate) fn of_the_rest(
        &self,
        pool: &Pool<Connector>,
        leaks: &LeakDetector,
        budget: &Budget,
        limit: Option<Numbers>,
    ) -> Watches {
        let (meter, name) = (self.layer.meter()?, || self.name.clone());
        Some((
            watch_pool(meter, name(), pool),
            watch_guard(meter, name(), leaks),
            watch_budget(meter, name(), budget),
            watch_stalls(meter, name(), &self.stalls),
            limit.map(|numbers| watch_limit(meter, name(), numbers)),
        ))
    }

    /// In words, if anything is told.
    pub(crate) fn in_words(&self) -> Option<String> {
        self.layer
            .meter()
            .map(|_| format!("a span and a measurement of each attempt, gauges as {:?}", self.name.as_str()))
    }
}

impl Default for Telling {
    fn default() -> Self {
        Self { name: "".into(), layer: TelemetryLayer::off(), stalls: StallMonitor::new() }
    }
}
