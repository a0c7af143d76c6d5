//! Tests that a document names exist.

use std::{fs, path::PathBuf};

/// Whether there is a test `name`, which is `crate::file::function`: of `tests/file.rs` or, where there is none, of a source file of
/// that crate. `tests::file::function` is of this one.
pub fn exists(name: &str) -> bool {
    let Some((path, function)) = name.rsplit_once("::") else { return false };
    let Some((package, file)) = path.split_once("::") else { return false };
    let file = file.replace("::", "/");
    let root = root();
    let files = match package {
        "tests" => vec![root.join(format!("tests/{file}.rs"))],
        "examples" => vec![root.join(format!("examples/{file}.rs"))],
        _ => vec![
            root.join(format!("crates/{package}/tests/{file}.rs")),
            root.join(format!("crates/{package}/src/{file}.rs")),
        ],
    };
    let marks = [format!("fn {function}("), format!("\"{function}\"")];
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .any(|source| marks.iter().any(|mark| source.contains(mark)))
}

/// Every `crate::file::function` in the back-quotes of a document.
pub fn named_in(document: &str) -> impl Iterator<Item = &str> {
    let quoted = document.split('`').skip(1).step_by(2);
    quoted.filter(|name| {
        let known = ["outbound-", "outbound::", "tests::", "examples::"];
        known.iter().any(|start| name.starts_with(start)) && name.matches("::").count() >= 2
    })
}

/// The directory of the workspace.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("a member of a workspace").to_owned()
}
