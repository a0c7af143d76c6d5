//! Peers side by side: what one exchange costs over each of them, and what our layers cost alone. `cargo run --release -p
//! outbound-benches -- help` lists what can be measured; the results are in `docs/performance`.

mod about;
mod chart;
mod checkout;
mod compare;
mod contention;
mod counted;
mod exchange;
mod extent;
mod instructions;
mod json;
mod layers;
mod limits;
mod memory;
mod peers;
mod process;
mod report;
mod results;
mod revive;
mod server;
mod trust;
mod work;

use std::alloc::System;

use clap::Parser;
use extent::Extent;
use stats_alloc::StatsAlloc;

/// Counts allocations, in the program that has it.
pub(crate) type Heap = &'static StatsAlloc<System>;

/// Peers side by side.
#[derive(Parser)]
#[command(max_term_width = 100)]
enum Command {
    /// Instructions and allocations of a warm exchange, under callgrind: the regression gate
    Instructions(instructions::Options),
    /// Requests a second, CPU, allocations and latency of peers, in rounds
    Compare(compare::Options),
    /// What each layer adds to a call, beside its counterparts
    Layers(Extent),
    /// How many sockets are opened where 50 are allowed
    Limits(Extent),
    /// Two workers and many tasks over connections within the process
    Contention(contention::Options),
    /// What an exchange costs beside many hosts and idle connections
    Checkout(Extent),
    /// What an exchange costs on a connection that was parked, beside a warm and a new one
    Revive(Extent),
    /// What an idle connection costs in memory
    Memory(Extent),
    /// From what size on JSON is better encoded and decoded off the workers
    Json,
    /// Tables and charts of all that was measured with --save
    Report,
    /// One peer's exchanges with a server that runs, and what they cost
    Exchange(exchange::Options),
    /// Calls of one layer, and what they cost
    Layer(layers::Calls),
    /// Exchanges beside many hosts or idle connections
    Beside(checkout::Beside),
    /// Exchanges apart from each other, on one sort of connection
    Apart(revive::Apart),
    /// Idle connections, and the memory that they take
    Idle(memory::Idle),
    /// The server: tells its address and answers until it is killed
    Serve(process::Served),
}

/// Does what the command line says.
pub fn main(heap: Option<Heap>) {
    match Command::parse() {
        Command::Instructions(options) => instructions::main(&options),
        Command::Compare(options) => compare::main(&options),
        Command::Layers(options) => layers::main(&options),
        Command::Limits(options) => limits::main(&options),
        Command::Contention(options) => contention::main(&options),
        Command::Checkout(options) => checkout::main(&options),
        Command::Revive(options) => revive::main(&options),
        Command::Memory(options) => memory::main(&options),
        Command::Report => report::main(),
        Command::Json => json::main(),
        Command::Exchange(options) => exchange::main(&options, heap),
        Command::Layer(calls) => layers::child(&calls, heap),
        Command::Beside(beside) => checkout::child(&beside, heap),
        Command::Apart(apart) => revive::child(&apart),
        Command::Idle(idle) => memory::child(&idle, heap),
        Command::Serve(served) => process::serve(&served),
    }
}
