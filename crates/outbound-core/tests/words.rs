//! The stable names: they are in dashboards and alerts, so a change here is a breaking one.

use outbound_core::{Delivery, Kind, Phase};

#[test]
fn phases() {
    let names = Phase::ALL.iter().map(|phase| phase.as_str()).collect::<Vec<_>>();
    assert_eq!(names, ["queue", "acquire", "resolve", "connect", "tls", "send", "head", "body"]);
    assert!(Phase::ALL.is_sorted(), "a later phase is greater");
}

#[test]
fn kinds() {
    let names = Kind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>();
    let expected = [
        "timeout",
        "overloaded",
        "resolve",
        "refused",
        "unreachable",
        "exhausted",
        "certificate",
        "tls",
        "reset",
        "closed",
        "truncated",
        "protocol",
        "too_large",
        "request_body",
        "invalid",
        "canceled",
        "other",
    ];
    assert_eq!(names, expected);
}

#[test]
fn deliveries() {
    let rows = [
        (Delivery::NotSent, "not_sent", true),
        (Delivery::Refused, "refused", true),
        (Delivery::Maybe, "maybe", false),
        (Delivery::Answered, "answered", false),
    ];
    assert_eq!(rows.map(|(delivery, ..)| delivery), Delivery::ALL);
    for (delivery, name, unprocessed) in rows {
        assert_eq!((delivery.as_str(), delivery.is_unprocessed()), (name, unprocessed));
    }
}

#[test]
fn display_is_the_name_and_pads() {
    assert_eq!(format!("[{}] [{:>7}]", Phase::Tls, Phase::Tls), "[tls] [    tls]");
    assert_eq!(format!("[{:<8}] [{:.3}]", Kind::Reset, Delivery::Maybe), "[reset   ] [may]");
}
