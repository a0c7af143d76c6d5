//! What the documents say of tests is so.

use std::fs;

use outbound_tests::citations::{exists, named_in, root};

#[test]
fn every_test_that_a_document_names_exists() {
    let mut named = 0;
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let document = fs::read_to_string(&path).unwrap();
        for name in named_in(&document) {
            assert!(exists(name), "{}: there is no test {name}", path.display());
            named += 1;
        }
    }
    assert!(named > 100, "only {named} were looked for");
    for name in [
        "tests::docs::no_such_test",
        "outbound-pool::nowhere::no_such_test",
        // Not a test: a helper of some.
        "tests::cancel::cancelled_anywhere",
        // Left out of every run.
        "outbound-timeout::stall::what_others_make_of_it",
        // A way to play a row, not the name of one.
        "tests::faults::PUT",
    ] {
        assert!(!exists(name), "{name}");
    }
}
