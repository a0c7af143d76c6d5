//! What a client tells of itself where the feature `telemetry` is off: nothing, at no cost.

use outbound_guard::LeakDetector;
use outbound_pool::Pool;
use outbound_retry::Budget;
use outbound_timeout::TimeoutLayer;

use super::{Connector, limit::Numbers};

pub(crate) type Told<S> = S;
pub(crate) type ToldBody<B> = B;
pub(crate) type Measured<C> = C;

#[derive(Debug, Default)]
pub(crate) struct Telling;

#[derive(Debug)]
pub(crate) struct Watches;

impl Telling {
    pub(crate) fn of_connections<C>(&self, connector: C) -> Measured<C> {
        connector
    }

    pub(crate) fn of_stalls(&self, timeout: TimeoutLayer) -> TimeoutLayer {
        timeout
    }

    pub(crate) fn of_attempts<S>(&self, service: S) -> Told<S> {
        service
    }

    pub(crate) fn of_the_rest(
        &self,
        _: &Pool<Connector>,
        _: &LeakDetector,
        _: &Budget,
        _: Option<Numbers>,
    ) -> Watches {
        Watches
    }

    pub(crate) fn in_words(&self) -> Option<String> {
        None
    }
}
