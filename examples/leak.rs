//! Which line leaks? `cargo run --release --example leak`
//!
//! A service that builds a client for each session, and keeps its sessions: memory and sockets pile up. The leak guard names the line,
//! and then the same service runs with that line fixed. Each runs in a process of its own, against a server in a third.
//!
//! Prints calls, sockets, descriptors and memory of both, and draws them over time: `--svg FILE`. Fails unless the line was named once
//! before, and never after; `--seconds 1` is enough for that.

use std::{
    path::PathBuf,
    process::{ExitCode, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use outbound::{
    BoxError, Pool,
    pool::{InvalidConfig, connect::Tcp},
};
use outbound_examples::upstream::{self, Mood, Upstream};
use outbound_guard::{Leak, LeakGuard, LeakGuardLayer, SendExt};
use plotters::prelude::*;
use serde_json::{Value, json};
use tokio::{
    process::Command,
    time::{Instant, MissedTickBehavior, interval},
};
use tower::Layer;

#[derive(Clone, Debug, Parser)]
struct Options {
    /// Seconds that each of the two runs
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Sessions that begin each second
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(20..))]
    rate: u32,
    /// Where to draw sockets and memory over time
    #[arg(long, default_value = "target/leak.svg")]
    svg: PathBuf,
    #[arg(long, hide = true)]
    run: Option<Service>,
    #[arg(long, hide = true, value_enum)]
    serve: Option<Mood>,
}

/// The service as it was, and as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Service {
    /// Builds a client for each session.
    Before,
    /// Has one client, which the sessions share.
    After,
}

type Client = LeakGuard<Pool<Tcp>>;

/// What a run has shown.
struct Run {
    calls: u64,
    p50: Duration,
    p99: Duration,
    samples: Vec<Sample>,
}

/// The process at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    seconds: f64,
    sockets: u64,
    descriptors: u64,
    /// Resident memory, in bytes.
    memory: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let done = match (options.serve, options.run) {
        (Some(mood), _) => upstream::serve(mood).await.map_err(Into::into),
        (_, Some(service)) => service.run(&options).await,
        _ => compare(&options).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leak: {error}");
            ExitCode::from(2)
        }
    }
}

// === The service ===

impl Service {
    /// Begins sessions at a steady rate, and prints what it has seen as JSON.
    async fn run(self, options: &Options) -> Result<(), BoxError> {
        let upstream = Upstream::start(Mood::Steady).await?;
        let target: Uri = upstream.url.parse()?;
        let begun = Instant::now();
        let named = Arc::new(Mutex::new(Vec::new()));
        let names = named.clone();
        let (guard, detector) = LeakGuardLayer::builder()
            .callback(move |leak| {
                eprintln!("  {:.2} s: {leak}", begun.elapsed().as_secs_f64());
                if let Leak::Churn { construction, .. } = leak {
                    names.lock().expect("nobody panics").push(construction.site.location().line());
                }
            })
            .pair();
        // The fix: it is built here …
        let shared = guard.layer(Pool::builder().build(Tcp::new())?);
        let took = Arc::new(Mutex::new(Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?));

        let (mut sessions, mut samples) = (Vec::new(), vec![Sample::now(begun)]);
        let mut beginning = interval(Duration::from_secs(1) / options.rate);
        beginning.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut sampling = interval(Duration::from_millis(50));
        while begun.elapsed() < Duration::from_secs(options.seconds) {
            tokio::select! {
                _ = beginning.tick() => {
                    let client = match self {
                        Self::Before => build(&guard)?,
                        Self::After => shared.clone(),
                    };
                    tokio::spawn(visit(client.clone(), target.clone(), took.clone()));
                    sessions.push(client);
                }
                _ = sampling.tick() => samples.push(Sample::now(begun)),
            }
        }
        while !detector.snapshot().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        samples.push(Sample::now(begun));
        let took = took.lock().expect("nobody panics").clone();
        let samples: Vec<_> = samples.into_iter().map(Sample::to_json).collect();
        println!(
            "{}",
            json!({
                "calls": took.len(), "p50": took.value_at_quantile(0.5), "p99": took.value_at_quantile(0.99),
                "samples": samples,
            })
        );
        drop((sessions, shared));
        upstream.stop().await?;
        let expected = if self == Self::Before { vec![LEAK] } else { vec![] };
        let named = named.lock().expect("nobody panics").clone();
        if named != expected {
            return Err(format!("lines {named:?} were told to build clients, and not {expected:?}").into());
        }
        Ok(())
    }
}

/// The line below that leaks.
const LEAK: u32 = line!() + 4;

fn build(guard: &LeakGuardLayer) -> Result<Client, InvalidConfig> {
    // … and not here, for each session.
    Ok(guard.layer(Pool::builder().build(Tcp::new())?))
}

/// What a session does.
async fn visit(client: Client, target: Uri, took: Arc<Mutex<Histogram<u64>>>) -> Result<(), BoxError> {
    let begun = Instant::now();
    let request = Request::get(target).body(Empty::<Bytes>::new())?;
    client.send(request).await?.into_body().collect().await?;
    took.lock().expect("nobody panics").saturating_record(begun.elapsed().as_micros() as u64);
    Ok(())
}

// === What is seen of it ===

/// Runs both, and shows them side by side.
async fn compare(options: &Options) -> Result<(), BoxError> {
    println!("before: a client for each session");
    let before = observe("before", options).await?;
    println!("after: one client, which the sessions share");
    let after = observe("after", options).await?;

    println!("\n{:<24} {:>12} {:>12}", "", "before", "after");
    type Row<'a> = (&'a str, fn(&Run) -> String);
    let rows: [Row<'_>; 7] = [
        ("calls", |run| run.calls.to_string()),
        ("p50 of a call", |run| format!("{:.2} ms", run.p50.as_secs_f64() * 1e3)),
        ("p99 of a call", |run| format!("{:.2} ms", run.p99.as_secs_f64() * 1e3)),
        ("sockets at the end", |run| run.end().sockets.to_string()),
        ("descriptors at the end", |run| run.end().descriptors.to_string()),
        ("memory at the end", |run| format!("{:.1} MB", run.end().memory as f64 / 1e6)),
        ("memory at the start", |run| format!("{:.1} MB", run.samples[0].memory as f64 / 1e6)),
    ];
    for (name, value) in rows {
        println!("{name:<24} {:>12} {:>12}", value(&before), value(&after));
    }
    draw(options, &before, &after)?;
    println!("\n{}", options.svg.display());
    Ok(())
}

/// Runs the service in a process of its own.
async fn observe(service: &str, options: &Options) -> Result<Run, BoxError> {
    let child = Command::new(std::env::current_exe()?)
        .args(["--run", service])
        .args(["--seconds", &options.seconds.to_string(), "--rate", &options.rate.to_string()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        return Err(format!("the service ended with {}", output.status).into());
    }
    let seen: Value = serde_json::from_slice(&output.stdout)?;
    let micros = |name: &str| Duration::from_micros(seen[name].as_u64().unwrap_or_default());
    let samples = seen["samples"].as_array().into_iter().flatten().map(Sample::from_json).collect();
    Ok(Run {
        calls: seen["calls"].as_u64().unwrap_or_default(),
        p50: micros("p50"),
        p99: micros("p99"),
        samples,
    })
}

impl Run {
    fn end(&self) -> Sample {
        self.samples.last().copied().unwrap_or_default()
    }
}

impl Sample {
    /// From `/proc`; zero where there is none.
    fn now(begun: Instant) -> Self {
        let links = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
        let names: Vec<_> = links.filter_map(|link| std::fs::read_link(link.path()).ok()).collect();
        let sockets = names.iter().filter(|name| name.to_string_lossy().starts_with("socket:")).count();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = resident.and_then(|size| size.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        Self {
            seconds: begun.elapsed().as_secs_f64(),
            sockets: sockets as u64,
            descriptors: names.len() as u64,
            memory: kilobytes.unwrap_or_default() * 1024,
        }
    }

    fn to_json(self) -> Value {
        json!([self.seconds, self.sockets, self.descriptors, self.memory])
    }

    fn from_json(sample: &Value) -> Self {
        let count = |index: usize| sample[index].as_u64().unwrap_or_default();
        let seconds = sample[0].as_f64().unwrap_or_default();
        Self { seconds, sockets: count(1), descriptors: count(2), memory: count(3) }
    }
}

/// Two charts, one below the other: sockets and memory of both runs over time.
fn draw(options: &Options, before: &Run, after: &Run) -> Result<(), BoxError> {
    if let Some(folder) = options.svg.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let area = SVGBackend::new(&options.svg, (900, 700)).into_drawing_area();
    area.fill(&WHITE)?;
    type Value = fn(&Sample) -> f64;
    let charts: [(&str, Value); 2] = [
        ("open sockets", |sample| sample.sockets as f64),
        ("resident memory, MB", |sample| sample.memory as f64 / 1e6),
    ];
    for (part, (name, value)) in area.split_evenly((2, 1)).iter().zip(charts) {
        let samples = || before.samples.iter().chain(&after.samples);
        let most = samples().map(value).fold(1.0, f64::max) * 1.1;
        let end = samples().map(|sample| sample.seconds).fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(part)
            .caption(name, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..end, 0.0..most)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .label_style(("sans-serif", 14))
            .y_label_formatter(&|value| format!("{value:.0}"))
            .x_desc("seconds")
            .draw()?;
        for (run, label, color) in [
            (before, "before: a client per session", RGBColor(200, 60, 40)),
            (after, "after: one client, shared", RGBColor(40, 120, 60)),
        ] {
            let points = run.samples.iter().map(|sample| (sample.seconds, value(sample)));
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)))?
                .label(label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(("sans-serif", 14))
            .background_style(WHITE)
            .border_style(BLACK.mix(0.3))
            .draw()?;
    }
    area.present()?;
    Ok(())
}
