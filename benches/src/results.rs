//! What was measured: one file of JSON, a section for each benchmark, from which the tables and charts are made.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::about::About;

/// What was measured, and under which circumstances.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Section<T> {
    pub(crate) about: About,
    pub(crate) measured: T,
}

/// Puts `measured` in the place of what the file has under `section`, and when and where it was.
pub(crate) fn save(section: &str, measured: &impl Serialize) {
    let mut sections = sections();
    let measured = Section { about: About::now(), measured };
    sections.insert(section.to_owned(), serde_json::to_value(measured).expect("numbers and names"));
    let text = serde_json::to_string_pretty(&sections).expect("it is JSON") + "\n";
    fs::create_dir_all(directory()).expect("it can be made");
    fs::write(file(), text).expect("it can be written");
}

/// What the file has under `section`.
pub(crate) fn load<T: DeserializeOwned>(section: &str) -> Option<Section<T>> {
    let measured = serde_json::from_value(sections().remove(section)?);
    Some(measured.unwrap_or_else(|error| panic!("{section} is not what it is taken for: {error}")))
}

/// Where tables and charts are.
pub(crate) fn directory() -> PathBuf {
    root().join("docs/performance")
}

/// The workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sections() -> Map<String, Value> {
    let text = fs::read(file()).unwrap_or_else(|_| b"{}".to_vec());
    serde_json::from_slice(&text).expect("the results are JSON")
}

fn file() -> PathBuf {
    directory().join("results.json")
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
