//! Tables and charts of what was measured: `docs/performance`, and the README's section.

use std::{fmt::Write, fs};

use crate::{
    about::About,
    chart::{Bar, bars},
    checkout::Checkout,
    compare::Row,
    contention::Contended,
    exchange::name,
    instructions::Cost,
    layers::Added,
    limits::Opened,
    memory::Memory,
    peers::Peer,
    results::{Section, directory, load, root},
    revive::Revived,
};

type Costs = Section<Vec<(String, Cost)>>;

/// Writes all of them anew.
pub(crate) fn main() {
    let warm: Option<Costs> = load("instructions hello h1");
    let mut page = String::from(INTRODUCTION);
    if let Some(warm) = &warm {
        chart("instructions", "Instructions of a warm GET of 13 bytes over HTTP/1.1", warm, |cost| {
            cost.instructions
        });
        chart("allocations", "Allocations of a warm GET of 13 bytes over HTTP/1.1", warm, |cost| {
            cost.allocations
        });
        let _ = writeln!(
            page,
            "## A warm exchange\n\n![instructions](instructions.svg)\n\n![allocations](allocations.svg)\n"
        );
    }
    for (section, title) in [
        ("instructions hello h1", "GET of 13 bytes, HTTP/1.1"),
        ("instructions hello h2", "GET of 13 bytes, HTTP/2"),
        ("instructions large h1", "GET of 64 KiB, HTTP/1.1"),
        ("instructions json h1", "POST of 40 KB, HTTP/1.1"),
    ] {
        if let Some(costs) = load(section) {
            let _ = writeln!(page, "### {title}\n\n{}\n{}", costs_table(&costs), under(&costs.about));
        }
    }
    if let Some(layers) = load("layers") {
        page += &layers_text(&layers);
    }
    if let Some(limits) = load("limits") {
        page += &limits_text(&limits);
    }
    if let Some(checkouts) = load("checkout") {
        page += &checkout_text(&checkouts);
    }
    if let Some(revived) = load("revive") {
        page += &revive_text(&revived);
    }
    if let Some(memory) = load("memory") {
        page += &memory_text(&memory);
    }
    if let Some(contention) = load("contention") {
        page += &contention_text(&contention);
    }
    if let Some(rows) = load("exchange") {
        page += &exchange_text(&rows);
    }
    write("README.md", &page);
    if let Some(warm) = &warm {
        readme(warm);
    }
}

/// The section of the README, between its two marks.
fn readme(warm: &Costs) {
    let path = root().join("README.md");
    let text = fs::read_to_string(&path).expect("there is a README");
    let (before, rest) = text.split_once(BEGIN).expect("it has the first mark");
    let (_, after) = rest.split_once(END).expect("it has the second mark");
    let table = costs_table(warm);
    let about = under(&warm.about);
    fs::write(path, format!("{before}{BEGIN}\n{table}\n{about}{END}{after}")).expect("it can be written");
}

fn write(file: &str, text: &str) {
    fs::create_dir_all(directory()).expect("it can be made");
    fs::write(directory().join(file), text.trim_end().to_owned() + "\n").expect("it can be written");
}

fn chart(file: &str, title: &str, costs: &Costs, of: fn(&Cost) -> f64) {
    let bar = |(peer, cost): &(String, Cost)| Bar {
        label: Peer::titled(peer).to_owned(),
        value: of(cost),
        text: grouped(of(cost)),
    };
    let shown = costs.measured.iter().filter(|(peer, _)| is_compared(peer));
    write(&format!("{file}.svg"), &bars(title, &shown.map(bar).collect::<Vec<_>>()));
}

fn is_compared(peer: &str) -> bool {
    Peer::COMPARED.iter().any(|compared| name(*compared) == peer)
}

/// Under which circumstances.
fn under(about: &About) -> String {
    let About { date, processor, cores, load, versions } = about;
    format!("{date}, {processor}, {cores} cores, load {load} (what else ran, and this). {versions}.\n")
}

fn costs_table(costs: &Costs) -> String {
    let raw = costs.measured.iter().find(|(peer, _)| *peer == name(Peer::Raw)).map(|&(_, cost)| cost);
    let raw = raw.unwrap_or(costs.measured[0].1);
    let mut table = String::from(
        "| | instructions | × raw hyper | allocations | more than raw | bytes allocated |\n|---|---:|---:|---:|---:|---:|\n",
    );
    for (peer, cost) in &costs.measured {
        let _ = writeln!(
            table,
            "| {} | {} | {:.2} | {:.0} | {:+.0} | {} |",
            Peer::titled(peer),
            grouped(cost.instructions),
            cost.instructions / raw.instructions,
            cost.allocations,
            cost.allocations - raw.allocations,
            grouped(cost.bytes),
        );
    }
    table
}

fn layers_text(layers: &Section<Vec<Added>>) -> String {
    let mut text = String::from(
        "## Layers alone\n\nWhat a layer adds to a call of a `service_fn` that answers at once, the response body read to its end.\n\n\
         | | instructions | over a service pending once | ns | allocations |\n|---|---:|---:|---:|---:|\n",
    );
    for Added { layer, instructions, pending, ns, allocations } in &layers.measured {
        let _ = writeln!(
            text,
            "| {layer} | {} | {} | {ns:.0} | {allocations:.0} |",
            grouped(*instructions),
            grouped(*pending)
        );
    }
    format!("{text}\n{}\n", under(&layers.about))
}

fn limits_text(limits: &Section<Vec<Opened>>) -> String {
    let mut text = String::from(
        "## A limit of 50, and the sockets that the server saw\n\n300 tasks, 6,000 requests of 64 KiB to one host.\n\n| | client | sockets |\n|---|---|---:|\n",
    );
    for Opened { scenario, client, sockets } in &limits.measured {
        let _ = writeln!(text, "| {scenario} | {client} | {sockets} |");
    }
    format!("{text}\n{}\n", under(&limits.about))
}

fn checkout_text(checkouts: &Section<Vec<Checkout>>) -> String {
    let mut text = String::from(
        "## Many hosts, many idle connections\n\nInstructions of an exchange in its caller's task, which finds the connection and gives it back; hosts in turn, \
         connections within the process. Allocations are those of the connection's own task, too.\n\n\
         | | hosts | idle connections of each | instructions | allocations |\n|---|---:|---:|---:|---:|\n",
    );
    for Checkout { peer, hosts, connections, instructions, allocations } in &checkouts.measured {
        let instructions = grouped(*instructions);
        let _ = writeln!(text, "| {peer} | {hosts} | {connections} | {instructions} | {allocations:.1} |");
    }
    format!("{text}\n{}\n", under(&checkouts.about))
}

fn revive_text(revived: &Section<Vec<Revived>>) -> String {
    let mut text = String::from(
        "## A parked connection\n\nAn exchange on it, beside one on a warm connection and one that opens its own. Instructions are the client's; what the kernel \
         does for it shows in the time. The share is of what a new connection costs over a warm one, where it costs more.\n\n\
         | | instructions | share | system calls | µs | share |\n|---|---:|---:|---:|---:|---:|\n",
    );
    for Revived { on, encrypted, instructions, calls, time } in &revived.measured {
        let alike = || revived.measured.iter().filter(|other| other.encrypted == *encrypted);
        let (Some(warm), Some(new)) = (alike().next(), alike().next_back()) else { continue };
        let share = |of: fn(&Revived) -> f64, one: f64| match of(new) - of(warm) {
            more if more > 0.0 => format!("{:.1} %", (one - of(warm)) / more * 100.0),
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "| {on}{} | {} | {} | {calls:.1} | {time:.0} | {} |",
            if *encrypted { ", TLS" } else { "" },
            grouped(*instructions),
            share(|one| one.instructions, *instructions),
            share(|one| one.time, *time),
        );
    }
    format!("{text}\n{}\n", under(&revived.about))
}

fn memory_text(memory: &Section<Vec<Memory>>) -> String {
    let mut text = String::from(
        "## Memory of an idle connection\n\nBytes of heap for each, over TCP, at once and five seconds later.\n\n\
         | | connections | after | at once | later |\n|---|---:|---|---:|---:|\n",
    );
    for Memory { peer, encrypted, connections, work, bytes, later } in &memory.measured {
        let after = if work == "large" { "64 KiB" } else { "13 bytes" };
        let [bytes, later] = [*bytes, *later].map(grouped);
        let tls = if *encrypted { ", TLS" } else { "" };
        let _ = writeln!(text, "| {peer}{tls} | {connections} | {after} | {bytes} | {later} |");
    }
    format!("{text}\n{}\n", under(&memory.about))
}

fn contention_text(contention: &Section<Vec<Contended>>) -> String {
    let mut text = String::from(
        "## Contention\n\nTwo workers, connections within the process, 256 of them at most. With 10,000 tasks all but those wait.\n\n\
         | | tasks | µs an exchange | ratio |\n|---|---:|---:|---:|\n",
    );
    for Contended { peer, tasks, time } in &contention.measured {
        let first =
            contention.measured.iter().find(|other| other.tasks == *tasks).map_or(*time, |first| first.time);
        let _ = writeln!(text, "| {peer} | {tasks} | {time:.2} | {:.2} |", time / first);
    }
    format!("{text}\n{}\n", under(&contention.about))
}

fn exchange_text(rows: &Section<Vec<Row>>) -> String {
    let mut text = format!(
        "## Requests a second, CPU and latency\n\nServer and client are processes of their own, medians over interleaved rounds. {}\n",
        under(&rows.about)
    );
    let mut workload = None;
    let mut raw = None;
    for row in &rows.measured {
        let of = (&row.work, &row.http, row.concurrency, row.workers);
        if workload != Some(of) {
            (workload, raw) = (Some(of), Some(row.figures));
            let _ = writeln!(
                text,
                "\n### {}, {}, {} tasks, {} workers\n\n\
                 | | a second | × raw | CPU µs | × raw | p50 µs | p99 µs | allocations | bytes |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|",
                row.work, row.http, row.concurrency, row.workers
            );
        }
        let (figures, raw) = (row.figures, raw.unwrap_or(row.figures));
        let _ = writeln!(
            text,
            "| {} | {} | {:.2} | {:.1} | {:.2} | {} | {} | {:.1} | {} |",
            Peer::titled(&row.peer),
            grouped(figures.rate),
            figures.rate / raw.rate,
            figures.cpu,
            figures.cpu / raw.cpu,
            grouped(figures.p50),
            grouped(figures.p99),
            figures.allocations,
            grouped(figures.bytes),
        );
    }
    text
}

/// 12,345
fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = if number <= -0.5 { String::from("-") } else { String::new() };
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const BEGIN: &str = "<!-- measured -->\n";
const END: &str = "<!-- end -->";
const INTRODUCTION: &str = "# Performance

Made by `.ci/benchmarks`, from [results.json](results.json). Instructions are counted by callgrind, allocations by an allocator that
counts: they hold whatever else the machine does. Times, rates and CPU depend on the load that stands below each table: read the
ratios.

Raw is `hyper::client::conn` without any pool: a connection for each task over HTTP/1.1, one for all over HTTP/2. The whole stack is deadline, retry, limit, timeout, leak guard and
pool. tower's three are `Retry`, `ConcurrencyLimit` and `Timeout`; tower-resilience's are its retry, bulkhead and time limiter.

The goals, which of them are met, and why the others are not: [a profile](profile.md).

";
