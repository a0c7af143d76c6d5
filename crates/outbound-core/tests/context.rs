//! The keys that travel: on every message, each on its own, and all in one entry.

use std::{fmt::Debug, panic::Location, sync::Arc, time::Duration};

use http::{Extensions, Request, Response, Version};
use outbound_core::{
    Attempt, CallContext, CallSite, ConnectionInfo, Deadline, Established, Exchange, Idempotent, Message,
    Phase, Timings, UrlTemplate,
};
use tokio::time::{Instant, advance};

/// Puts one key on a message, or reads all of them as text.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Key {
    Deadline,
    Attempt,
    CallSite,
    Idempotent,
    UrlTemplate,
    Exchange,
}

const KEYS: [Key; 6] =
    [Key::Deadline, Key::Attempt, Key::CallSite, Key::Idempotent, Key::UrlTemplate, Key::Exchange];

const USER: UrlTemplate = UrlTemplate::new("/users/{id}");

fn attach(key: Key, message: &mut impl Message) {
    match key {
        Key::Deadline => Deadline::NEVER.tighten(message),
        Key::Attempt => Attempt::FIRST.attach(message),
        Key::CallSite => CallSite::here().attach(message),
        Key::Idempotent => Idempotent.attach(message),
        Key::UrlTemplate => USER.attach(message),
        Key::Exchange => Exchange::new().attach(message),
    }
}

fn keys(message: &impl Message) -> Vec<Key> {
    let has = |key| match key {
        Key::Deadline => Deadline::of(message).is_some(),
        Key::Attempt => Attempt::of(message).is_some(),
        Key::CallSite => CallSite::of(message).is_some(),
        Key::Idempotent => Idempotent::of(message),
        Key::UrlTemplate => UrlTemplate::of(message) == Some(USER),
        Key::Exchange => Exchange::of(message).is_some(),
    };
    KEYS.into_iter().filter(|&key| has(key)).collect()
}

fn each_key_alone_and_all<M: Message>(name: &str, message: fn() -> M, extensions: fn(&M) -> &Extensions) {
    let bare = message();
    assert_eq!(keys(&bare), [], "{name}");
    assert!(extensions(&bare).is_empty(), "{name}: reading adds nothing");
    for key in KEYS {
        let mut message = message();
        attach(key, &mut message);
        assert_eq!(keys(&message), [key], "{name}");
    }
    let mut all = message();
    for (at, key) in KEYS.into_iter().enumerate() {
        attach(key, &mut all);
        assert_eq!(keys(&all), KEYS[..=at], "{name}");
        assert_eq!(extensions(&all).len(), 1, "{name}: one entry for all of them");
    }
}

#[test]
fn on_every_message() {
    each_key_alone_and_all("Request", || Request::new(()), Request::extensions);
    each_key_alone_and_all("Response", || Response::new(()), Response::extensions);
    each_key_alone_and_all("Extensions", Extensions::new, |extensions| extensions);
    each_key_alone_and_all("request::Parts", || Request::new(()).into_parts().0, |parts| &parts.extensions);
    each_key_alone_and_all("response::Parts", || Response::new(()).into_parts().0, |parts| &parts.extensions);
}

#[test]
fn stays_through_parts_and_clones() {
    let mut request = Request::new("body");
    Attempt::FIRST.next().attach(&mut request);
    let clone = request.clone();
    Attempt::FIRST.attach(&mut request);
    let (parts, body) = request.into_parts();
    assert_eq!(Attempt::of(&parts), Some(Attempt::FIRST));
    assert_eq!(Attempt::of(&Request::from_parts(parts, body)), Some(Attempt::FIRST));
    assert_eq!(Attempt::of(&clone), Some(Attempt::FIRST.next()), "a clone is on its own");
}

#[test]
fn leaves_other_extensions_alone() {
    let mut request = Request::new(());
    request.extensions_mut().insert("mine");
    Idempotent.attach(&mut request);
    assert_eq!(request.extensions().get(), Some(&"mine"));
    assert_eq!(request.extensions().len(), 2);
}

#[test]
fn a_template_is_of_the_call() {
    let mut request = Request::new(());
    USER.attach(&mut request);
    let mut again = Request::new(());
    CallContext::of(&request).unwrap().attach(&mut again);
    assert_eq!(UrlTemplate::of(&again).map(|template| template.to_string()), Some(USER.as_str().to_owned()));
}

#[test]
fn attempts_count_from_one() {
    let mut attempt = Attempt::FIRST;
    for number in 1..=3 {
        assert_eq!((attempt.number(), attempt.to_string()), (number, number.to_string()));
        assert!(attempt < attempt.next());
        attempt = attempt.next();
    }
}

#[test]
fn call_site_is_the_callers_line() {
    #[track_caller]
    fn entry() -> CallSite {
        CallSite::here()
    }
    let (site, line) = (entry(), line!());
    let location: &Location<'_> = site.location();
    assert_eq!((location.file(), location.line()), (file!(), line));
    assert_eq!(site.to_string(), format!("{}:{line}:{}", file!(), location.column()));
}

#[test]
fn an_exchange_is_shared_by_its_messages() {
    let mut request = Request::new(());
    let tracked = Exchange::track(&mut request);
    tracked.wrote(3);
    assert_eq!(Exchange::track(&mut request).bytes_out(), 3, "tracking again finds it");
    let mut response = Response::new(());
    Exchange::of(&request).unwrap().attach(&mut response);
    tracked.wrote(4);
    assert_eq!(Exchange::of(&response).unwrap().bytes_out(), 7);
    Exchange::new().attach(&mut request);
    assert_eq!(Exchange::of(&request).unwrap().bytes_out(), 0, "attaching replaces it");
}

#[tokio::test(start_paused = true)]
async fn a_response_tells_its_connection_and_timings() {
    let mut response = Response::new(());
    assert!(ConnectionInfo::of(&response).is_none());
    assert!(Timings::of(&response).is_none());

    let exchange = Exchange::track(&mut response);
    assert!(ConnectionInfo::of(&response).is_none());
    let rows = [("new", 0, Duration::ZERO, false), ("reused", 4, Duration::from_secs(9), true)];
    for (name, served, idle, reused) in rows {
        let established = Arc::new(Established::now(7, Version::HTTP_2));
        exchange.connected(ConnectionInfo::new(established.clone(), served, idle));
        let info = ConnectionInfo::of(&response).unwrap();
        assert_eq!(
            (info.id(), info.served(), info.idle(), info.is_reused()),
            (7, served, idle, reused),
            "{name}"
        );
        assert!(std::ptr::eq(info.established(), &*established), "{name}");
    }
    let established = Established::now(1, Version::HTTP_11);
    assert_eq!((established.opened, established.version), (Instant::now(), Version::HTTP_11));
    assert_eq!((established.local, established.remote, established.proxied), (None, None, false));
    assert_eq!(established.timings, Timings::default());

    advance(Duration::from_millis(5)).await;
    assert_eq!(Timings::of(&response).unwrap().spent(Phase::Queue), Duration::from_millis(5));
}

#[test]
fn timings_add_up() {
    let mut timings = Timings::default();
    assert_eq!(timings.total(), Duration::ZERO);
    timings.add(Phase::Connect, Duration::from_millis(2));
    timings.add(Phase::Connect, Duration::from_millis(3));
    timings.add(Phase::Body, Duration::from_millis(7));
    for &phase in Phase::ALL {
        let spent = match phase {
            Phase::Connect => 5,
            Phase::Body => 7,
            _ => 0,
        };
        assert_eq!(timings.spent(phase), Duration::from_millis(spent), "{phase}");
    }
    assert_eq!(timings.total(), Duration::from_millis(12));
    timings.add(Phase::Connect, Duration::MAX);
    assert_eq!(
        (timings.spent(Phase::Connect), timings.total()),
        (Duration::MAX, Duration::MAX),
        "no overflow"
    );
}

#[test]
fn everything_can_cross_threads() {
    fn check<T: Send + Sync + Clone + Debug + 'static>() {}
    check::<Deadline>();
    check::<Attempt>();
    check::<CallSite>();
    check::<Idempotent>();
    check::<UrlTemplate>();
    check::<Exchange>();
    check::<ConnectionInfo>();
    check::<Established>();
    check::<Timings>();
}
