//! An adaptive limit finds the capacity of a server, and finds it again when it changes.

#[path = "../examples/adaptive_limit/simulation.rs"]
mod simulation;

use simulation::{CAPACITIES, PHASE};

/// So many seconds after a change it has found the new capacity.
const FOUND: usize = 40;

#[tokio::test(start_paused = true)]
async fn the_limit_is_within_a_fifth_of_the_capacity_after_40_seconds() {
    for (name, limits) in simulation::all().await {
        assert_eq!(limits.len(), PHASE * CAPACITIES.len(), "{name}");
        for (phase, (limits, capacity)) in limits.chunks(PHASE).zip(CAPACITIES).enumerate() {
            for (second, &limit) in limits.iter().enumerate().skip(FOUND) {
                let near = limit.abs_diff(capacity) * 5 <= capacity;
                assert!(near, "{name}: {limit} at a capacity of {capacity}, {second} s into phase {phase}");
            }
        }
    }
}
