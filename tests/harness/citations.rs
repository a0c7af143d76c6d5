//! Tests that a document names exist.

use std::{fs, path::PathBuf};

/// Whether there is a test `name`, which is `crate::file::function`: in the tests or in the sources of that crate. `tests::file::function`
/// is in this one, `tests::faults::name` a row of the matrix.
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
        let known = ["outbound-", "outbound::", "tests::"];
        known.iter().any(|start| name.starts_with(start)) && name.matches("::").count() >= 2
    })
}

/// The directory of the workspace.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("a member of a workspace").to_owned()
}
