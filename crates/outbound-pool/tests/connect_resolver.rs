//! Lookups that block: how many there are at once, who shares one, and what becomes of those that nobody waits for. And what is
//! dialed then.

mod support;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use hyper_util::client::legacy::connect::dns::Name;
use outbound_core::{Delivery, Failure, Kind, Phase};
use outbound_pool::connect::{NoAddress, NotResolved, Resolver, Tcp};
use outbound_testkit::{BlackHole, Friendly, Refusal, handler};
use support::*;
use tokio::{task::JoinHandle, time::Instant};
use tower::{ServiceExt, service_fn};

/// A lookup that blocks until the test lets it go on.
struct Slow {
    resolver: Resolver,
    begun: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    names: Arc<Mutex<Vec<String>>>,
    go: mpsc::Sender<()>,
}

impl Slow {
    fn new(max_lookups: usize) -> Self {
        let (go, goes) = mpsc::channel::<()>();
        let (begun, going_on, most, names) = Default::default();
        let (begun, going_on): (Arc<AtomicUsize>, Arc<AtomicUsize>) = (begun, going_on);
        let (most, names): (Arc<AtomicUsize>, Arc<Mutex<Vec<String>>>) = (most, names);
        let goes = Mutex::new(goes);
        let (b, m, n) = (begun.clone(), most.clone(), names.clone());
        let resolver = Resolver::with_lookup(max_lookups, move |name| {
            n.lock().unwrap().push(name.to_owned());
            b.fetch_add(1, SeqCst);
            m.fetch_max(going_on.fetch_add(1, SeqCst) + 1, SeqCst);
            let _ = goes.lock().unwrap().recv_timeout(Duration::from_secs(10));
            going_on.fetch_sub(1, SeqCst);
            match name {
                "panic" => panic!("the lookup was told to panic"),
                "nobody" => Err(io::Error::other("no such name")),
                _ => Ok(vec![SocketAddr::from(([127, 0, 0, 1], 7))]),
            }
        });
        Self { resolver, begun, most, names, go }
    }

    fn ask(&self, name: &str) -> JoinHandle<Result<Vec<SocketAddr>, NotResolved>> {
        let (resolver, name) = (self.resolver.clone(), name.parse::<Name>().unwrap());
        tokio::spawn(async move { Ok(resolver.oneshot(name).await?.collect()) })
    }

    /// Turns the runtime until so many lookups have begun, and then some more.
    async fn begun(&self, lookups: usize) {
        let begun = std::time::SystemTime::now();
        while self.begun.load(SeqCst) < lookups {
            assert!(
                begun.elapsed().unwrap_or_default().as_secs() < 20,
                "waited in vain for {lookups} lookups"
            );
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(self.begun.load(SeqCst), lookups);
    }
}

#[tokio::test]
async fn one_lookup_serves_all_who_ask_for_the_same_name() {
    let slow = Slow::new(8);
    let asked: Vec<_> = (0..100).map(|_| slow.ask("a.example")).collect();
    slow.begun(1).await;
    slow.go.send(()).unwrap();
    for asked in asked {
        assert_eq!(asked.await.unwrap().unwrap(), [SocketAddr::from(([127, 0, 0, 1], 7))]);
    }
    // It is over: who asks now asks anew.
    let again = slow.ask("a.example");
    slow.begun(2).await;
    slow.go.send(()).unwrap();
    again.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_goes_away_disturbs_nobody() {
    for leaver in 0..3 {
        let slow = Slow::new(8);
        let mut asked: Vec<_> = (0..3).map(|_| slow.ask("a.example")).collect();
        slow.begun(1).await;
        let leaver = asked.remove(leaver);
        leaver.abort();
        assert!(leaver.await.unwrap_err().is_cancelled());
        slow.go.send(()).unwrap();
        for asked in asked {
            asked.await.unwrap().unwrap();
        }
        assert_eq!(slow.begun.load(SeqCst), 1, "nobody began again");
    }
}

#[tokio::test]
async fn no_more_lookups_at_once_than_allowed() {
    let slow = Slow::new(2);
    let asked: Vec<_> = (0..6).map(|number| slow.ask(&format!("{number}.example"))).collect();
    slow.begun(2).await;
    // A lookup that was given up still has its thread, and so its place.
    asked[0].abort();
    slow.begun(2).await;
    for _ in 0..6 {
        slow.go.send(()).unwrap();
    }
    for asked in asked.into_iter().skip(1) {
        asked.await.unwrap().unwrap();
    }
    assert_eq!((slow.most.load(SeqCst), slow.begun.load(SeqCst)), (2, 6));
}

#[tokio::test]
async fn a_lookup_that_nobody_waits_for_any_more_is_not_begun() {
    let slow = Slow::new(1);
    let first = slow.ask("first.example");
    slow.begun(1).await;
    let given_up: Vec<_> = (0..3).map(|number| slow.ask(&format!("{number}.example"))).collect();
    let last = slow.ask("last.example");
    slow.begun(1).await;
    for given_up in given_up {
        given_up.abort();
        let _ = given_up.await;
    }
    slow.go.send(()).unwrap();
    first.await.unwrap().unwrap();
    slow.begun(2).await;
    slow.go.send(()).unwrap();
    last.await.unwrap().unwrap();
    assert_eq!(*slow.names.lock().unwrap(), ["first.example", "last.example"]);
    // And it can be asked for again.
    let again = slow.ask("0.example");
    slow.begun(3).await;
    slow.go.send(()).unwrap();
    again.await.unwrap().unwrap();
}

#[tokio::test]
async fn all_are_told_what_went_wrong() {
    for (name, why) in [("nobody", "no such name"), ("panic", "the lookup panicked")] {
        let slow = Slow::new(8);
        let asked: Vec<_> = (0..3).map(|_| slow.ask(name)).collect();
        slow.begun(1).await;
        slow.go.send(()).unwrap();
        for asked in asked {
            let error = asked.await.unwrap().unwrap_err();
            let last = outbound_core::chain(&error).last().unwrap();
            assert_eq!(last.to_string(), why);
        }
        // Neither the name nor the place is lost.
        let again = slow.ask(name);
        slow.begun(2).await;
        slow.go.send(()).unwrap();
        again.await.unwrap().unwrap_err();
    }
}

/// The name has an entry as long as its runtime lives, and not for ever.
#[test]
fn a_runtime_that_ends_takes_nothing_with_it() {
    let slow = Slow::new(8);
    let first = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    first.block_on(async {
        slow.ask("a.example");
        slow.begun(1).await;
    });
    first.shutdown_background();
    let second = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    second.block_on(async {
        let again = slow.ask("a.example");
        slow.begun(2).await;
        slow.go.send(()).unwrap();
        slow.go.send(()).unwrap();
        again.await.unwrap().unwrap();
    });
}

#[tokio::test]
async fn over_the_pool() {
    let upstream = Friendly::new(handler::hello).start();
    let addr = upstream.addr();
    let lookups = Arc::new(AtomicUsize::new(0));
    let counted = lookups.clone();
    let resolver = Resolver::with_lookup(4, move |name| {
        counted.fetch_add(1, SeqCst);
        match name {
            "none.example" => Ok(vec![]),
            "nobody.example" => Err(io::Error::other("no such name")),
            // The port is the URI's, where the resolver knows none.
            _ => Ok(vec![SocketAddr::new(addr.ip(), 0)]),
        }
    });
    let pool = build_with(Tcp::with_resolver(resolver));
    let uri = |host| format!("http://{host}:{}/", addr.port()).parse().unwrap();
    assert_eq!(fetch(&pool, get(uri("a.example"))).await.unwrap().body(), "hello");
    for (host, reason) in
        [("none.example", "the name resolved to no address"), ("nobody.example", "no such name")]
    {
        let error = fetch(&pool, get(uri(host))).await.map(drop).unwrap_err();
        let failure = Failure::of(&*error);
        assert_eq!((failure.kind(), failure.phase()), (Kind::Resolve, Some(Phase::Resolve)), "{error}");
        assert_eq!(failure.delivery(), Delivery::NotSent, "{error}");
        let line = error.to_string();
        let start = format!("http://{host}:{}: name not resolved after ", addr.port());
        assert!(
            line.starts_with(&start) && line.ends_with(&format!(" ({reason}), nothing was sent")),
            "{line}"
        );
        assert_eq!(outbound_core::find::<NoAddress>(&*error).is_some(), host == "none.example");
    }
    // An address needs no lookup.
    fetch(&pool, get(upstream.uri("/"))).await.unwrap();
    assert_eq!(lookups.load(SeqCst), 3);
    leaves_nothing("a resolver of one's own", pool, &[&upstream]).await;
}

#[tokio::test]
async fn the_system_knows_localhost() {
    let upstream = Friendly::new(handler::hello).start();
    let pool = pool();
    let uri = format!("http://localhost:{}/", upstream.addr().port());
    assert_eq!(fetch(&pool, get(uri.parse().unwrap())).await.unwrap().body(), "hello");
    leaves_nothing("localhost", pool, &[&upstream]).await;
}

/// One family of addresses has a head start on the other.
#[tokio::test(start_paused = true)]
async fn the_other_family_is_tried_after_the_head_start() {
    let Ok(other) = std::net::TcpListener::bind("[::1]:0") else { return println!("no IPv6 here") };
    let hole = BlackHole::new();
    let addresses = [hole.addr(), other.local_addr().unwrap()];
    let resolver = service_fn(move |_: Name| std::future::ready(io::Result::Ok(addresses.into_iter())));
    let tcp = Tcp::with_resolver(resolver);
    let start = Duration::from_secs(7);
    for (name, tcp, expected) in
        [("default", tcp.clone(), Duration::from_millis(300)), ("7 s", tcp.happy_eyeballs(start), start)]
    {
        let begun = Instant::now();
        let uri = "http://name.example/".parse().unwrap();
        tcp.oneshot(uri).await.unwrap();
        assert_eq!(begun.elapsed(), expected, "{name}");
    }
}

/// As the kernel tells: what address the peer sees, and in how many hundredths of a second it will probe the connection.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn sockets_are_opened_as_asked() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = || format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    for (name, tcp, from, probes) in [
        ("default", Tcp::new(), "127.0.0.1", Some(6_000)),
        ("a local address", Tcp::new().local_address([127, 0, 0, 2].into()), "127.0.0.2", Some(6_000)),
        ("keepalive", Tcp::new().keepalive(Some(Duration::from_secs(30))), "127.0.0.1", Some(3_000)),
        ("no keepalive", Tcp::new().keepalive(None), "127.0.0.1", None),
    ] {
        let _io = tcp.oneshot(uri()).await.unwrap();
        let (_accepted, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip().to_string(), from, "{name}");
        let sockets = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let mut rows = sockets.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| row[1].ends_with(&format!(":{:04X}", peer.port()))).expect(name);
        let (timer, due) = row[5].split_once(':').unwrap();
        let due = u64::from_str_radix(due, 16).unwrap();
        match probes {
            // A machine under load may need a while until here.
            Some(probes) => assert!(timer == "02" && due <= probes && due > probes - 1_000, "{name}: {due}"),
            None => assert_eq!(timer, "00", "{name}"),
        }
    }
}

/// However many addresses a name has, each gets its share of the limit, and a share is not nothing: 99 are silent or refuse, and
/// the last answers.
#[tokio::test(start_paused = true)]
async fn many_dead_addresses_leave_time_for_the_one_that_is_alive() {
    let (upstream, hole, refusal) = (Friendly::new(handler::hello).start(), BlackHole::new(), Refusal::new());
    let mut addresses = vec![hole.addr(); 50];
    addresses.extend([refusal.addr(); 49]);
    addresses.push(upstream.addr());
    let resolver =
        service_fn(move |_: Name| std::future::ready(io::Result::Ok(addresses.clone().into_iter())));
    let builder = outbound_pool::Pool::builder().connect_timeout(Duration::from_secs(10));
    let pool = builder.build(Tcp::with_resolver(resolver)).unwrap();
    let response = fetch(&pool, get("http://name.example/".parse().unwrap())).await.unwrap();
    assert_eq!(response.body(), "hello");
    tokio::time::resume();
    drop(pool);
    upstream.all_closed().await;
}
