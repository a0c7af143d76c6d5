//! `Origin`: every shape of URI, and that it never shows userinfo.

use std::collections::HashSet;

use http::Uri;
use outbound_core::{InvalidOrigin, Origin};
use proptest::prelude::*;

fn origin(uri: &str) -> Origin {
    Origin::of(&uri.parse().unwrap()).unwrap_or_else(|error| panic!("{uri}: {error}"))
}

#[test]
fn shapes_of_uri() {
    // uri, scheme, host, port, host_and_port
    let rows = [
        ("http://a.example", "http", "a.example", 80, "a.example"),
        ("http://a.example/path?query", "http", "a.example", 80, "a.example"),
        ("https://a.example", "https", "a.example", 443, "a.example"),
        ("HTTP://A.Example/Path", "http", "a.example", 80, "a.example"),
        ("HtTpS://A.EXAMPLE:8443", "https", "a.example", 8443, "a.example:8443"),
        ("http://a.example:80", "http", "a.example", 80, "a.example"),
        ("https://a.example:443", "https", "a.example", 443, "a.example"),
        ("http://a.example:443", "http", "a.example", 443, "a.example:443"),
        ("https://a.example:80", "https", "a.example", 80, "a.example:80"),
        ("http://a.example:/", "http", "a.example", 80, "a.example"),
        ("https://a.example:", "https", "a.example", 443, "a.example"),
        ("http://a.example:1", "http", "a.example", 1, "a.example:1"),
        ("http://a.example:65535", "http", "a.example", 65535, "a.example:65535"),
        ("http://a.example:081", "http", "a.example", 81, "a.example:81"),
        ("http://a.example:0080", "http", "a.example", 80, "a.example"),
        ("http://user@a.example", "http", "a.example", 80, "a.example"),
        ("http://user:secret@a.example", "http", "a.example", 80, "a.example"),
        ("http://user:secret@a.example:81", "http", "a.example", 81, "a.example:81"),
        ("http://user:80@a.example", "http", "a.example", 80, "a.example"),
        ("http://User:Secret@A.example:", "http", "a.example", 80, "a.example"),
        ("http://us@er:secret@a.example", "http", "a.example", 80, "a.example"),
        ("http://@a.example", "http", "a.example", 80, "a.example"),
        ("http://127.0.0.1", "http", "127.0.0.1", 80, "127.0.0.1"),
        ("http://127.0.0.1:8080", "http", "127.0.0.1", 8080, "127.0.0.1:8080"),
        ("http://[::1]", "http", "[::1]", 80, "[::1]"),
        ("https://[::1]:443", "https", "[::1]", 443, "[::1]"),
        ("https://[2001:DB8::F]:8443/p", "https", "[2001:db8::f]", 8443, "[2001:db8::f]:8443"),
        ("http://[::1]:", "http", "[::1]", 80, "[::1]"),
        ("http://user:secret@[::1]:81", "http", "[::1]", 81, "[::1]:81"),
        ("http://xn--bcher-kva.example", "http", "xn--bcher-kva.example", 80, "xn--bcher-kva.example"),
        ("http://a.example.", "http", "a.example.", 80, "a.example."),
    ];
    for (uri, scheme, host, port, host_and_port) in rows {
        let origin = origin(uri);
        assert_eq!(
            (origin.scheme(), origin.host(), origin.port(), origin.host_and_port()),
            (scheme, host, port, host_and_port),
            "{uri}"
        );
        assert_eq!(origin.is_https(), scheme == "https", "{uri}");
        assert_eq!(origin.to_string(), format!("{scheme}://{host_and_port}"), "{uri}");
    }
}

#[test]
fn uris_without_an_origin() {
    use InvalidOrigin::{BadPort, NoHost, NoScheme, UnknownScheme};
    let rows = [
        ("/path", NoScheme),
        ("*", NoScheme),
        ("a.example", NoScheme),
        ("a.example:80", NoScheme),
        ("user:secret@a.example", NoScheme),
        ("ftp://a.example", UnknownScheme("ftp".into())),
        ("ws://user:secret@a.example", UnknownScheme("ws".into())),
        ("http+unix://a.example", UnknownScheme("http+unix".into())),
        ("http://:80", NoHost),
        ("http://user@:80", NoHost),
        ("http://a.example:0", BadPort),
        ("http://a.example:00", BadPort),
        ("http://a.example:65536", BadPort),
        ("http://a.example:99999999999999999999", BadPort),
        ("http://[::1]:0", BadPort),
        ("http://a.example:8x", BadPort),
        ("http://user:80@a.example:0", BadPort),
    ];
    for (uri, expected) in rows {
        assert_eq!(Origin::of(&uri.parse::<Uri>().unwrap()).unwrap_err(), expected, "{uri}");
    }
}

/// What `http` does not even parse: neither can it arrive here.
#[test]
fn no_uri_at_all() {
    for uri in ["http://", "http:///path", "http://[::1", "http://a b/", "http://a:b:c/"] {
        assert!(uri.parse::<Uri>().is_err(), "{uri}");
    }
}

#[test]
fn spellings_of_one_origin_are_equal() {
    let groups: [&[&str]; 6] = [
        &[
            "http://a",
            "HTTP://A",
            "http://a:80",
            "http://a:",
            "http://a:080",
            "http://user:pw@a/p?q",
            "http://u@A:80",
        ],
        &["https://a", "HTTPS://a:443", "https://user@A:"],
        &["http://a:443"],
        &["http://b", "http://B:80"],
        &["http://[::a]", "http://[::A]:80", "http://u:p@[::a]:"],
        &["http://[::a]:81", "http://[::A]:081"],
    ];
    let mut seen = HashSet::new();
    for (at, group) in groups.iter().enumerate() {
        for uri in *group {
            assert_eq!(origin(uri), origin(group[0]), "{uri}");
            assert_eq!(origin(uri).to_string(), origin(group[0]).to_string(), "{uri}");
            seen.insert(origin(uri));
        }
        assert_eq!(seen.len(), at + 1, "{group:?}");
        let like_it = groups.iter().filter(|other| origin(other[0]) == origin(group[0]));
        assert_eq!(like_it.count(), 1, "{group:?}: a set asks for equality only if the hashes are equal");
    }
}

#[test]
fn userinfo_is_never_shown() {
    for uri in
        ["http://user:secret@a.example/", "https://USER:SECRET@A:1/", "http://user@[::1]/", "http://secret@a"]
    {
        let origin = origin(uri);
        for text in [origin.to_string(), format!("{origin:?}"), origin.host_and_port().to_owned()] {
            let text = text.to_lowercase();
            assert!(
                !text.contains("user") && !text.contains("secret") && !text.contains('@'),
                "{uri}: {text}"
            );
        }
    }
    for uri in ["ws://user:secret@a/", "http://user:secret@a:0/", "user:secret@a"] {
        let error = Origin::of(&uri.parse().unwrap()).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("secret"), "{uri}: {text}");
    }
}

proptest! {
    #[test]
    fn display_reads_back(
        https: bool,
        user in "([a-z0-9]{1,8}(:[A-Z0-9]{0,8})?@)?",
        host in "[a-zA-Z0-9]([a-zA-Z0-9.-]{0,20}[a-zA-Z0-9])?|\\[[0-9a-fA-F]{1,4}::[0-9a-fA-F]{1,4}\\]",
        port in proptest::option::of(1_u16..),
        path in "(/[a-z]{0,8}(\\?[a-z]{0,8})?)?",
    ) {
        let scheme = if https { "HTTPS" } else { "http" };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let origin = origin(&format!("{scheme}://{user}{host}{port}{path}"));
        let again = self::origin(&origin.to_string());
        prop_assert_eq!(&again, &origin);
        prop_assert_eq!(again.to_string(), origin.to_string());
        prop_assert_eq!(again.host_and_port(), origin.host_and_port());
        prop_assert_eq!(origin.host(), host.to_ascii_lowercase());
    }

    /// Whatever `http` calls a URI, nothing here panics.
    #[test]
    fn any_uri(text in "(http|https|ftp|HTTP)?(://)?[a-zA-Z0-9:@.\\[\\]]{0,24}(/[a-z]*)?") {
        if let Ok(uri) = text.parse::<Uri>() && let Ok(origin) = Origin::of(&uri) {
            prop_assert!(!origin.host().is_empty());
            prop_assert!(!origin.to_string().contains('@'), "{} of {}", origin, text);
            prop_assert!(origin.port() > 0);
            prop_assert_eq!(self::origin(&origin.to_string()), origin);
        }
    }
}
