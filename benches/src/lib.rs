//! Peers side by side: what one exchange costs over each of them, and what our layers cost alone. `cargo run --release -p
//! outbound-benches -- help` lists what can be measured; the results are in `docs/performance`.

mod exchange;
mod instructions;
mod json;
mod peers;
mod process;
mod server;
mod work;

use std::alloc::System;

use clap::Parser;
use stats_alloc::StatsAlloc;

/// Counts allocations, in the program that has it.
pub(crate) type Heap = &'static StatsAlloc<System>;

/// Peers side by side.
#[derive(Parser)]
#[command(max_term_width = 100)]
enum Command {
    /// Instructions and allocations of a warm exchange, under callgrind: the regression gate
    Instructions(instructions::Options),
    /// From what size on JSON is better encoded and decoded off the workers
    Json,
    /// One peer's exchanges with a server that runs, and what they cost
    Exchange(exchange::Options),
    /// The server: tells its address and answers until it is killed
    Serve(process::Served),
}

/// Does what the command line says.
pub fn main(heap: Option<Heap>) {
    match Command::parse() {
        Command::Instructions(options) => instructions::main(&options),
        Command::Json => json::main(),
        Command::Exchange(options) => exchange::main(&options, heap),
        Command::Serve(served) => process::serve(&served),
    }
}
