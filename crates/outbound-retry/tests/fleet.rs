//! What an outage of a minute costs a service that a fleet calls: a small part of the fleet of `examples/fleet`.

use simulation::{Fleet, Strategy};

#[path = "../examples/fleet/simulation.rs"]
mod simulation;

#[test]
fn the_budget_bounds_the_load_in_the_outage_and_after_it() {
    let fleet = Fleet { processes: 1, clients: 100, before: 20, outage: 60, after: 20 };
    let back = (fleet.before + fleet.outage) as usize;
    for (strategy, least, most) in [
        // For each process and second 100 calls, 20 retries for them and 10 of the floor; what was saved up before is spent
        // in the first seconds.
        (Strategy::Default, 1.25, 1.35),
        (Strategy::NoBudget, 2.95, 3.05),
        (Strategy::ReqwestRetry, 3.9, 4.1),
    ] {
        let load = fleet.run(strategy);
        let times = |seconds: std::ops::Range<usize>| {
            let offered: u32 = load.offered[seconds.clone()].iter().sum();
            f64::from(offered) / f64::from(fleet.calls()) / seconds.len() as f64
        };
        let outage = times(fleet.before as usize + 20..back);
        assert!((least..=most).contains(&outage), "{strategy:?}: {outage} times the load");
        assert_eq!(times(0..fleet.before as usize), 1.0, "{strategy:?}: no retries when all is well");
    }
    let load = fleet.run(Strategy::Default);
    let over: u32 =
        load.offered[back..].iter().map(|&offered| offered.saturating_sub(fleet.capacity())).sum();
    assert_eq!(over, 0, "it never meets more than it can serve once it is back");
}
