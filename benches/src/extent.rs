//! How much of a benchmark to run.

use clap::Args;

/// What most benchmarks can be asked for.
#[derive(Args)]
pub(crate) struct Extent {
    /// A small part of it: whether it works at all
    #[arg(long)]
    pub(crate) short: bool,
    /// Keep the results for the report
    #[arg(long)]
    pub(crate) save: bool,
}
