//! What does a retry budget do for a service that is down?
//!
//! Ten thousand clients in a hundred processes call one service once a second each. It is down for a minute. How much load is it
//! offered, during the outage and when it comes back? The answer is a picture:
//!
//! ```sh
//! cargo run --release -p outbound-retry --example fleet [-- target/fleet.svg]
//! ```

use std::{env, fmt::Write, fs, path::PathBuf, process::ExitCode};

use simulation::{Fleet, Load, Strategy};

mod simulation;

fn main() -> ExitCode {
    let path = env::args_os().nth(1).map_or_else(|| PathBuf::from("target/fleet.svg"), PathBuf::from);
    let fleet = Fleet { processes: 100, clients: 100, before: 30, outage: 60, after: 60 };
    let lines = [
        (Strategy::Default, "outbound: 20 % of traffic + 10/s per process", "#0b7a3b"),
        (Strategy::NoBudget, "the same without a budget: 3 attempts", "#c77700"),
        (Strategy::ReqwestRetry, "reqwest-retry: 4 attempts, 1 s doubling, full jitter", "#b3002d"),
    ]
    .map(|(strategy, name, colour)| {
        let load = fleet.run(strategy);
        let (down, up) = (fleet.before as usize, (fleet.before + fleet.outage) as usize);
        let peak = load.offered.iter().max().copied().unwrap_or_default();
        let mean = load.offered[down..up].iter().sum::<u32>() / fleet.outage as u32;
        let turned_away: u32 = (up..load.offered.len()).map(|n| load.offered[n] - load.served[n]).sum();
        println!(
            "{name}: {:.2} times the normal load in the outage, {:.2} at its peak; {turned_away} turned away after it",
            times(mean, fleet),
            times(peak, fleet),
        );
        (name, colour, load)
    });
    match fs::write(&path, svg(fleet, &lines)) {
        Ok(()) => {
            println!("{}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

fn times(load: u32, fleet: Fleet) -> f64 {
    f64::from(load) / f64::from(fleet.calls())
}

fn svg(fleet: Fleet, lines: &[(&str, &str, Load)]) -> String {
    let x = |second: f64| LEFT + second / fleet.seconds() as f64 * WIDTH;
    let y = |times: f64| TOP + HEIGHT - times / HIGHEST * HEIGHT;
    let (down, up) = (x(fleet.before as f64), x((fleet.before + fleet.outage) as f64));
    let mut svg = String::new();
    let mut add = |element: String| {
        let _ = writeln!(svg, "{element}");
    };
    add(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif" font-size="13">"#,
        LEFT + WIDTH + 20.0,
        TOP + HEIGHT + 50.0
    ));
    add(r##"<rect width="100%" height="100%" fill="#fff"/>"##.into());
    add(format!(
        r##"<rect x="{down:.1}" y="{TOP}" width="{:.1}" height="{HEIGHT}" fill="#f0e6e6"/>"##,
        up - down
    ));
    add(format!(r##"<text x="{:.1}" y="{}" fill="#777">outage</text>"##, down + 6.0, TOP + HEIGHT - 8.0));
    for times in 0..=HIGHEST as u32 {
        let at = y(f64::from(times));
        add(format!(r##"<path d="M{LEFT} {at:.1}h{WIDTH}" stroke="#ddd"/>"##));
        add(format!(r#"<text x="{}" y="{:.1}" text-anchor="end">{times}×</text>"#, LEFT - 6.0, at + 4.0));
    }
    let capacity = y(times(fleet.capacity(), fleet));
    add(format!(r##"<path d="M{LEFT} {capacity:.1}h{WIDTH}" stroke="#333" stroke-dasharray="4 4"/>"##));
    add(format!(
        r#"<text x="{}" y="{:.1}" text-anchor="end">capacity</text>"#,
        LEFT + WIDTH,
        capacity + 15.0
    ));
    for second in (0..=fleet.seconds()).step_by(30) {
        let (at, below) = (x(second as f64), TOP + HEIGHT + 18.0);
        add(format!(r#"<text x="{at:.1}" y="{below}" text-anchor="middle">{second} s</text>"#));
    }
    for (n, (name, colour, load)) in lines.iter().enumerate() {
        let points: Vec<_> = (load.offered.iter().enumerate())
            .map(|(second, &load)| format!("{:.1},{:.1}", x(second as f64 + 0.5), y(times(load, fleet))))
            .collect();
        let points = points.join(" ");
        add(format!(r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>"#));
        let at = 22.0 + 17.0 * n as f64;
        add(format!(r#"<text x="{LEFT}" y="{at}" fill="{colour}">{name}</text>"#));
    }
    add(format!(
        r#"<text x="{}" y="22" text-anchor="end">load offered to a service by {} clients</text>"#,
        LEFT + WIDTH,
        fleet.calls()
    ));
    add("</svg>".into());
    svg
}

const LEFT: f64 = 50.0;
const TOP: f64 = 75.0;
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
/// The top of the axis, in times the normal load.
const HIGHEST: f64 = 5.0;
