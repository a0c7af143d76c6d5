//! When, on what, and with which versions.

use std::{env, fs, process::Command};

use serde::{Deserialize, Serialize};

use crate::results::root;

/// Of a measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) date: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    /// Processes that wanted a core, on average over the last minute: what else ran.
    pub(crate) load: String,
    pub(crate) versions: String,
}

impl About {
    /// Of what is measured now.
    pub(crate) fn now() -> Self {
        let said = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = said.lines().find_map(|line| line.strip_prefix("model name"));
        Self {
            date: output("date", &["-u", "+%F %H:%M UTC"]),
            processor: model.map_or("unknown", |model| model.trim_matches(['\t', ' ', ':'])).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            load: fs::read_to_string("/proc/loadavg")
                .unwrap_or_default()
                .split(' ')
                .next()
                .unwrap_or("?")
                .into(),
            versions: versions(),
        }
    }
}

fn versions() -> String {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap_or_default();
    let rustc = output(&env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()), &["--version"]);
    let mut versions = vec![rustc.split(' ').take(2).collect::<Vec<_>>().join(" ")];
    for package in PACKAGES {
        let start = format!("name = \"{package}\"\nversion = \"");
        versions.extend(
            lock.split(&*start)
                .skip(1)
                .map(|rest| format!("{package} {}", rest.split('"').next().unwrap_or_default())),
        );
    }
    versions.join(", ")
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

const PACKAGES: [&str; 11] = [
    "tokio",
    "hyper",
    "h2",
    "hyper-util",
    "reqwest",
    "reqwest-middleware",
    "reqwest-retry",
    "tower",
    "tower-resilience-bulkhead",
    "tower-resilience-retry",
    "tower-resilience-timelimiter",
];
