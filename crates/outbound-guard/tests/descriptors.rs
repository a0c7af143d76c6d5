//! How many descriptors are open. Alone in its process, so that nobody else opens any.

use outbound_guard::LeakGuardLayer;

#[test]
fn descriptors_are_those_of_this_process() {
    let (_layer, detector) = LeakGuardLayer::pair();
    let Some(before) = detector.descriptors() else { return assert!(!cfg!(target_os = "linux")) };
    let files: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    let after = detector.descriptors().unwrap();
    assert_eq!((after.open, after.limit), (before.open + 50, before.limit));
    assert_eq!(after.left() + 50, before.left());
    drop(files);
}
