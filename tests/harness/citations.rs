//! Tests that a document names exist, and are run.

use std::{fs, path::PathBuf};

/// Whether there is a test `name`, which is `crate::file::function`: in the tests or in the sources of that crate, marked as a test and not
/// ignored. `tests::file::function` is in this one, `tests::faults::name` a row of the matrix.
pub fn exists(name: &str) -> bool {
    let Some((path, function)) = name.rsplit_once("::") else { return false };
    let Some((package, file)) = path.split_once("::") else { return false };
    let file = file.replace("::", "/");
    let root = root();
    let mut files = match package {
        "tests" => vec![root.join(format!("tests/{file}.rs"))],
        _ => vec![
            root.join(format!("crates/{package}/tests/{file}.rs")),
            root.join(format!("crates/{package}/src/{file}.rs")),
        ],
    };
    if let Ok(parts) = fs::read_dir(root.join("tests").join(&file)) {
        files.extend(parts.flatten().map(|part| part.path()));
    }
    let is_matrix = path == "tests::faults";
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .any(|source| if is_matrix { has_row(&source, function) } else { has_test(&source, function) })
}

/// Whether a row is made under this name: it is the first argument of something.
fn has_row(source: &str, name: &str) -> bool {
    let source: String = source.split_whitespace().collect();
    source.contains(&format!("(\"{name}\",\""))
}

/// Whether the attributes right above this function make it a test, and none of them has it left out.
fn has_test(source: &str, function: &str) -> bool {
    let mark = format!("fn {function}(");
    let lines: Vec<_> = source.lines().map(str::trim_start).collect();
    lines.iter().enumerate().filter(|(_, line)| line.contains(&mark)).any(|(at, _)| {
        let above =
            lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        let (mut is_test, mut is_ignored) = (false, false);
        for line in above {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            is_ignored |= line.starts_with("#[ignore");
        }
        is_test && !is_ignored
    })
}

/// Every `crate::file::function` in the back-quotes of a document.
pub fn named_in(document: &str) -> impl Iterator<Item = &str> {
    let quoted = document.split('`').skip(1).step_by(2);
    quoted.filter(|name| {
        let known = ["outbound-", "outbound::", "tests::"];
        known.iter().any(|start| name.starts_with(start)) && name.matches("::").count() >= 2
    })
}

/// The directory of the workspace.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("a member of a workspace").to_owned()
}
