//! The fault matrix: plays its rows, and writes what came of them as a table.

use std::{
    any::Any,
    fmt::Write as _,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use tokio::runtime::Builder;

use crate::{
    case::{Case, Row, Told},
    citations,
};

/// A heading, and the rows under it.
#[derive(Debug)]
pub struct Section {
    /// What these faults have in common.
    pub title: &'static str,
    /// Each of them.
    pub rows: Vec<Row>,
}

/// Plays all rows whose names contain the first argument. Unless there was one it compares the table with `document`, or writes it
/// there if `--write` was said.
pub fn main(document: &str, introduction: &str, sections: &[Section]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let rows: Vec<_> = sections.iter().flat_map(|section| &section.rows).collect();
    let cases: Vec<&Case> = rows
        .iter()
        .filter_map(|row| match row {
            Row::Case(case) => Some(case),
            Row::Cited(_) => None,
        })
        .filter(|case| filter.is_none_or(|filter| case.name.contains(filter.as_str())))
        .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        cases.iter().for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    let mut failures = play_all(&cases);
    for row in &rows {
        let Row::Cited(cited) = row else { continue };
        let missing = cited.tests.iter().filter(|name| !citations::exists(name));
        failures.extend(missing.map(|name| format!("{}: there is no test {name}", cited.row)));
    }
    println!("\n{} rows played, {} cited, {} failed", cases.len(), rows.len() - cases.len(), failures.len());
    if filter.is_none() && failures.is_empty() {
        let path = citations::root().join(document);
        let table = table(introduction, sections);
        if arguments.iter().any(|argument| argument == "--write") {
            fs::write(&path, table).expect("the document can be written");
        } else if fs::read_to_string(&path).unwrap_or_default() != table {
            failures.push(format!("{document} is not what the rows say: run this test with --write"));
        }
    }
    for failure in &failures {
        eprintln!("\n{failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// On some threads; returned is what went wrong.
fn play_all(cases: &[&Case]) -> Vec<String> {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Relaxed)) {
            let result = catch_unwind(AssertUnwindSafe(|| play(case)));
            let failed = match result {
                Ok(failed) => failed,
                Err(panic) => vec![message(&*panic)],
            };
            println!("row {} ... {}", case.name, if failed.is_empty() { "ok" } else { "FAILED" });
            let mut failures = failures.lock().expect("nobody panics with it");
            failures.extend(failed.into_iter().map(|what| format!("{}: {what}", case.name)));
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
    failures.into_inner().expect("nobody panics with it")
}

/// Each play on a runtime of its own.
fn play(case: &Case) -> Vec<String> {
    let plays = case.plays.iter().filter_map(|play| {
        let runtime = Builder::new_current_thread().enable_all().start_paused(case.paused).build();
        let result = catch_unwind(AssertUnwindSafe(|| runtime.expect("a runtime").block_on((play.run)())));
        let came = result.map_or_else(|panic| format!("panicked: {}", message(&*panic)), Told::into_line);
        (came != play.expected)
            .then(|| format!("{}:\n  expected {}\n  came     {came}", play.with, play.expected))
    });
    plays.collect()
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

fn table(introduction: &str, sections: &[Section]) -> String {
    let mut text = introduction.to_owned();
    for Section { title, rows } in sections {
        let _ = write!(text, "\n## {title}\n\n| fault | expected | test | played |\n|---|---|---|---|\n");
        for row in rows {
            let (fault, expected, tests, played) = match row {
                Row::Case(case) => (case.row, outcomes(case), format!("`tests::faults::{}`", case.name), "✓"),
                Row::Cited(cited) => {
                    let tests: Vec<_> = cited.tests.iter().map(|name| format!("`{name}`")).collect();
                    (cited.row, cited.expected.to_owned(), tests.join("<br>"), "cited")
                }
            };
            let _ = writeln!(text, "| {fault} | {expected} | {tests} | {played} |");
        }
    }
    text
}

/// All that is played; what is the same in all ways is said once.
fn outcomes(case: &Case) -> String {
    if case.plays.iter().all(|play| play.expected == case.plays[0].expected) {
        return case.plays[0].expected.to_owned();
    }
    let plays = case.plays.iter().map(|play| format!("{}: {}", play.with, play.expected));
    plays.collect::<Vec<_>>().join("<br>")
}

/// They wait more than they work.
const THREADS: usize = 6;
