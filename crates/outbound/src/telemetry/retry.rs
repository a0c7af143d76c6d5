//! What a retry budget has to show.

use opentelemetry::{StringValue, metrics::Meter};
use outbound_retry::Budget;
use outbound_telemetry::{Series, Watch};

/// Shows what a retry budget refused.
pub fn watch_budget(meter: &Meter, name: impl Into<StringValue>, budget: &Budget) -> Watch<Budget> {
    let refused = Series {
        name: "outbound.budget.refused",
        unit: "{attempt}",
        description: "Retries that the budget did not pay for.",
    };
    Watch::new(meter, name, budget.clone()).counter(refused, |budget, observe| observe(budget.refused(), &[]))
}
