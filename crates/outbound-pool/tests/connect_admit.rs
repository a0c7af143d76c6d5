//! Which addresses are dialed, and which are not.

mod support;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use http::Uri;
use hyper_util::client::legacy::connect::dns::Name;
use outbound_core::{BoxError, Delivery, Failure, Kind, Phase, find};
use outbound_pool::{
    Pool,
    connect::{Connect, NotAdmitted, Tcp, public_only},
};
use outbound_testkit::{Friendly, Hostile, Script, handler};
use support::*;
use tower::service_fn;

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().expect(ip), 80)
}

/// The first and the last address of each range, and their neighbours outside of it.
#[test]
fn the_public_internet_and_nothing_else() {
    let (this, private) = ("this network (RFC 791, 3.2)", "private (RFC 1918, 3)");
    let (shared, loopback) = ("shared address space (RFC 6598, 7)", "loopback (RFC 1122, 3.2.1.3)");
    let (local, unique) = ("link-local (RFC 3927, 2.1)", "unique local (RFC 4193, 3.1)");
    let (docs, docs6) = ("documentation (RFC 5737, 3)", "documentation (RFC 3849, 2)");
    let assigned = "protocol assignments (RFC 2928, 2)";
    let not_global = "not global unicast (RFC 4291, 2.4)";
    let compatible = "IPv4-compatible (RFC 4291, 2.5.5.1)";
    for (address, rule) in [
        ("0.0.0.0", "unspecified (RFC 1122, 3.2.1.3)"),
        ("0.0.0.1", this),
        ("0.255.255.255", this),
        ("1.0.0.0", ""),
        ("9.255.255.255", ""),
        ("10.0.0.0", private),
        ("10.255.255.255", private),
        ("11.0.0.0", ""),
        ("100.63.255.255", ""),
        ("100.64.0.0", shared),
        ("100.127.255.255", shared),
        ("100.128.0.0", ""),
        ("126.255.255.255", ""),
        ("127.0.0.0", loopback),
        ("127.255.255.255", loopback),
        ("128.0.0.0", ""),
        ("169.253.255.255", ""),
        ("169.254.0.0", local),
        ("169.254.255.255", local),
        ("169.255.0.0", ""),
        ("172.15.255.255", ""),
        ("172.16.0.0", private),
        ("172.31.255.255", private),
        ("172.32.0.0", ""),
        ("191.255.255.255", ""),
        ("192.0.0.0", "protocol assignments (RFC 6890, 2.1)"),
        ("192.0.0.255", "protocol assignments (RFC 6890, 2.1)"),
        ("192.0.1.255", ""),
        ("192.0.2.0", docs),
        ("192.0.2.255", docs),
        ("192.0.3.0", ""),
        ("192.88.98.255", ""),
        ("192.88.99.0", "6to4 relay anycast (RFC 7526, 1)"),
        ("192.88.99.255", "6to4 relay anycast (RFC 7526, 1)"),
        ("192.88.100.0", ""),
        ("192.167.255.255", ""),
        ("192.168.0.0", private),
        ("192.168.255.255", private),
        ("192.169.0.0", ""),
        ("198.17.255.255", ""),
        ("198.18.0.0", "benchmarking (RFC 2544, C.2.2)"),
        ("198.19.255.255", "benchmarking (RFC 2544, C.2.2)"),
        ("198.20.0.0", ""),
        ("198.51.99.255", ""),
        ("198.51.100.0", docs),
        ("198.51.100.255", docs),
        ("198.51.101.0", ""),
        ("203.0.112.255", ""),
        ("203.0.113.0", docs),
        ("203.0.113.255", docs),
        ("203.0.114.0", ""),
        ("223.255.255.255", ""),
        ("224.0.0.0", "multicast (RFC 5771, 3)"),
        ("239.255.255.255", "multicast (RFC 5771, 3)"),
        ("240.0.0.0", "reserved (RFC 1112, 4)"),
        ("255.255.255.254", "reserved (RFC 1112, 4)"),
        ("255.255.255.255", "limited broadcast (RFC 919, 7)"),
        // Clouds' metadata.
        ("169.254.169.254", "cloud metadata (link-local)"),
        ("169.254.170.2", "cloud metadata (link-local, of containers)"),
        ("100.100.100.200", "cloud metadata (in shared address space)"),
        ("192.0.0.192", "cloud metadata (in protocol assignments)"),
        ("168.63.129.16", "cloud metadata (with a public address)"),
        ("168.63.129.17", ""),
        ("fd00:ec2::254", "cloud metadata (unique local)"),
        ("fd20:ce::254", "cloud metadata (unique local)"),
        // IPv6.
        ("::", "unspecified (RFC 4291, 2.5.2)"),
        ("::1", "loopback (RFC 4291, 2.5.3)"),
        ("::2", compatible),
        ("::8.8.8.8", compatible),
        ("::1:0:0:0", not_global),
        ("64:ff9b:1::", "local NAT64 (RFC 8215, 3)"),
        ("64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "local NAT64 (RFC 8215, 3)"),
        ("64:ff9b:2::", not_global),
        ("100::", "discard-only (RFC 6666, 4)"),
        ("100::ffff:ffff:ffff:ffff", "discard-only (RFC 6666, 4)"),
        ("100:0:0:1::", "dummy prefix (RFC 9780, 4)"),
        ("100:0:0:2::", not_global),
        ("1fff:ffff::", not_global),
        ("2000::", ""),
        ("2001::", "Teredo (RFC 4380, 2.6)"),
        ("2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "Teredo (RFC 4380, 2.6)"),
        ("2001:1::1", assigned),
        ("2001:2::", "benchmarking (RFC 5180, 8)"),
        ("2001:2:0:ffff:ffff:ffff:ffff:ffff", "benchmarking (RFC 5180, 8)"),
        ("2001:2:1::", assigned),
        ("2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", assigned),
        ("2001:200::", ""),
        ("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", ""),
        ("2001:db8::", docs6),
        ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", docs6),
        ("2001:db9::", ""),
        ("2606:4700::1111", ""),
        ("3ffe:ffff::", ""),
        ("3fff::", "documentation (RFC 9637, 3)"),
        ("3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "documentation (RFC 9637, 3)"),
        ("3fff:1000::", ""),
        ("4000::", not_global),
        ("5f00::", "segment routing (RFC 9602, 3)"),
        ("5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "segment routing (RFC 9602, 3)"),
        ("fbff:ffff::", not_global),
        ("fc00::", unique),
        ("fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", unique),
        ("fe00::", not_global),
        ("fe80::", "link-local (RFC 4291, 2.5.6)"),
        ("febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link-local (RFC 4291, 2.5.6)"),
        ("fec0::", "site-local (RFC 3879, 4)"),
        ("feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "site-local (RFC 3879, 4)"),
        ("ff00::", "multicast (RFC 4291, 2.7)"),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast (RFC 4291, 2.7)"),
        // IPv4 in IPv6.
        ("::ffff:127.0.0.1", loopback),
        ("::ffff:169.254.169.254", "cloud metadata (link-local)"),
        ("::ffff:8.8.8.8", ""),
        ("::ffff:0:10.0.0.1", private),
        ("::ffff:0:8.8.8.8", ""),
        ("64:ff9b::10.0.0.1", private),
        ("64:ff9b::8.8.8.8", ""),
        ("2002:7f00:1::1", loopback),
        ("2002:a9fe:a9fe::", "cloud metadata (link-local)"),
        ("2002:808:808::1", ""),
    ] {
        let expected = if rule.is_empty() { Ok(()) } else { Err(rule.into()) };
        assert_eq!(public_only(at(address)), expected, "{address}");
    }
}

#[tokio::test]
async fn an_address_that_is_not_admitted_is_not_dialed() {
    let upstream = Hostile::new(Script::hello()).start();
    let (v4, port) = (upstream.addr(), upstream.addr().port());
    let name = format!("http://name.example:{port}/");
    let mapped = format!("[::ffff:127.0.0.1]:{port}");
    for (what, uri, resolved, reason) in [
        (
            "an address in the URI",
            format!("http://{v4}/"),
            vec![],
            format!("{v4} is not to be dialed: loopback (RFC 1122, 3.2.1.3)"),
        ),
        (
            "a mapped one",
            format!("http://{mapped}/"),
            vec![],
            format!("{mapped} is not to be dialed: loopback (RFC 1122, 3.2.1.3)"),
        ),
        (
            "a number, as the resolver reads it",
            format!("http://2130706433:{port}/"),
            vec![at("127.0.0.1")],
            format!("{v4} is not to be dialed: loopback (RFC 1122, 3.2.1.3)"),
        ),
        (
            "a name",
            name.clone(),
            vec![at("127.0.0.1")],
            format!("{v4} is not to be dialed: loopback (RFC 1122, 3.2.1.3)"),
        ),
        (
            "a name of three",
            name,
            vec![at("10.0.0.1"), at("127.0.0.1"), at("::1")],
            format!("10.0.0.1:{port} is not to be dialed: private (RFC 1918, 3); nor are 2 more"),
        ),
    ] {
        let pool = resolving(resolved, public_only);
        let error = fetch(&pool, get(uri.parse().unwrap())).await.map(drop).unwrap_err();
        let failure = Failure::of(&*error);
        assert_eq!(
            (failure.kind(), failure.phase()),
            (Kind::Invalid, Some(Phase::Connect)),
            "{what}: {error}"
        );
        assert_eq!(failure.delivery(), Delivery::NotSent, "{what}");
        assert!(find::<NotAdmitted>(&*error).is_some(), "{what}: {error:?}");
        assert!(error.to_string().contains(&format!("({reason})")), "{what}: {error}");
        leaves_nothing_but_refusals(what, &pool).await;
    }
    assert!(upstream.sightings().connections.is_empty());
}

#[tokio::test]
async fn what_is_admitted_of_several_is_dialed() {
    let upstream = Friendly::new(handler::hello).start();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let only_v4 = {
        let seen = seen.clone();
        move |address: SocketAddr| {
            seen.lock().unwrap().push(address);
            if address.is_ipv4() { Ok(()) } else { Err("no IPv6".into()) }
        }
    };
    let pool = resolving(vec![at("::1"), at("127.0.0.1")], only_v4);
    let uri: Uri = format!("http://name.example:{}/", upstream.addr().port()).parse().unwrap();
    assert_eq!(fetch(&pool, get(uri)).await.unwrap().body(), "hello");
    let port = upstream.addr().port();
    let expected = [SocketAddr::new("::1".parse().unwrap(), port), upstream.addr()];
    assert_eq!(*seen.lock().unwrap(), expected, "the hook sees the port that is dialed");
    drop(pool);
    upstream.all_closed().await;
}

fn resolving<F>(answer: Vec<SocketAddr>, admit: F) -> Pool<impl Connect>
where
    F: Fn(SocketAddr) -> Result<(), std::borrow::Cow<'static, str>> + Send + Sync + 'static,
{
    let resolver =
        service_fn(move |_: Name| std::future::ready(Ok::<_, BoxError>(answer.clone().into_iter())));
    build_with(Tcp::with_resolver(resolver).admit(admit))
}

/// The next request is refused as well, so that the pool alone can be looked at.
async fn leaves_nothing_but_refusals<C: Connect>(name: &str, pool: &Pool<C>) {
    let stats = quiet(pool).await;
    assert_eq!((stats.connections.open(), stats.totals.opened), (0, 0), "{name}");
}
