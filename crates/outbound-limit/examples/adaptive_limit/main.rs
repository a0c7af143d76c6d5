//! How do the adaptive limits follow a server whose capacity changes?
//!
//! Writes a plot of the simulation: `cargo run -p outbound-limit --example adaptive_limit [FILE.svg]`.

use std::{env, fmt::Write as _, fs, path::PathBuf};

mod simulation;

use simulation::{CAPACITIES, Limits, PHASE};

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> std::io::Result<()> {
    let file =
        env::args_os().nth(1).map_or_else(|| PathBuf::from("target/adaptive_limit.svg"), PathBuf::from);
    let plots = simulation::all().await;
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&file, svg(&plots))?;
    println!("{}", file.display());
    Ok(())
}

/// One panel below the other: the capacity within 20 %, and the limit.
fn svg(plots: &[(&str, Limits)]) -> String {
    let height = PANEL * plots.len();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (panel, (name, limits)) in plots.iter().enumerate() {
        let _ = writeln!(svg, "<g transform=\"translate({LEFT} {})\">", panel * PANEL + TOP);
        let _ = writeln!(svg, "<text y=\"-8\" font-weight=\"bold\">{name}</text>");
        for (phase, capacity) in CAPACITIES.into_iter().enumerate() {
            let (from, capacity) = (x(phase * PHASE), capacity as f64);
            let _ = writeln!(
                svg,
                "<rect x=\"{from}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"#cfe8cf\"/>",
                y(capacity * 1.2),
                x(PHASE),
                y(capacity * 0.8) - y(capacity * 1.2),
            );
            let _ = writeln!(
                svg,
                "<line x1=\"{from}\" x2=\"{}\" y1=\"{1}\" y2=\"{1}\" stroke=\"#3a7d3a\"/>",
                x((phase + 1) * PHASE),
                y(capacity),
            );
        }
        for tick in (0..=HIGHEST).step_by(20) {
            let _ = writeln!(
                svg,
                "<text x=\"-6\" y=\"{}\" text-anchor=\"end\">{tick}</text>",
                y(tick as f64) + 4.0
            );
        }
        for second in (0..=limits.len()).step_by(PHASE / 2) {
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{second} s</text>",
                x(second),
                y(0.0) + 16.0
            );
        }
        let points: String = limits
            .iter()
            .enumerate()
            .map(|(second, &limit)| format!("{},{} ", x(second + 1), y(limit as f64)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"#b03030\" stroke-width=\"1.5\"/>"
        );
        let _ = writeln!(svg, "</g>");
    }
    svg + "</svg>\n"
}

fn x(second: usize) -> f64 {
    second as f64 * (WIDTH - 2 * LEFT) as f64 / (CAPACITIES.len() * PHASE) as f64
}

fn y(limit: f64) -> f64 {
    (1.0 - limit / HIGHEST as f64) * (PANEL - 2 * TOP) as f64
}

const WIDTH: usize = 760;
const PANEL: usize = 220;
const LEFT: usize = 40;
const TOP: usize = 30;
const HIGHEST: usize = 80;
