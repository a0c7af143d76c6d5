//! `Failure::of` over our errors, those of the operating system, and unknown ones. Those of hyper and h2 are in `foreign.rs`.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use http::{Request, Version};
use outbound_core::{
    Attempt, BoxError, ConnectionInfo, Delivery, Elapsed, Established, Exchange, Failure, InvalidOrigin,
    Kind, Origin, Overloaded, Phase, TransportError,
};

const SEC: Duration = Duration::from_secs(1);

type Read = (Kind, Option<Phase>, Delivery, Duration);

#[track_caller]
fn check(name: &str, error: &(dyn Error + 'static), expected: Read) {
    let failure = Failure::of(error);
    let read = (failure.kind(), failure.phase(), failure.delivery(), failure.late_by());
    assert_eq!(read, expected, "{name}: {error:?}");
    assert_eq!(failure.error_type(), expected.0.as_str(), "{name}");
}

fn exchange() -> Exchange {
    let mut request = Request::new(());
    Attempt::FIRST.next().attach(&mut request);
    let exchange = Exchange::new();
    exchange.aim(Origin::of(&"http://a".parse().unwrap()).unwrap(), &request);
    let established = Arc::new(Established::now(7, Version::HTTP_11));
    exchange.connected(ConnectionInfo::new(established, 1, SEC));
    exchange.enter(Phase::Head);
    exchange.wrote(1);
    exchange
}

#[tokio::test(start_paused = true)]
async fn our_own() {
    use Delivery::{Answered, Maybe, NotSent};
    let none = Duration::ZERO;
    let elapsed = |phase| Elapsed::new(phase, SEC);
    let late = || Elapsed::new(Phase::Head, SEC).took(3 * SEC);
    let transport = |kind| TransportError::new(kind, &exchange());
    let head = Some(Phase::Head);
    let queue = Some(Phase::Queue);
    let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
    let rows: [(&str, BoxError, Read); 20] = [
        ("elapsed, queue", elapsed(Phase::Queue).into(), (Kind::Timeout, queue, NotSent, none)),
        (
            "elapsed, acquire",
            elapsed(Phase::Acquire).into(),
            (Kind::Timeout, Some(Phase::Acquire), NotSent, none),
        ),
        ("elapsed, tls", elapsed(Phase::Tls).into(), (Kind::Timeout, Some(Phase::Tls), NotSent, none)),
        ("elapsed, send", elapsed(Phase::Send).into(), (Kind::Timeout, Some(Phase::Send), Maybe, none)),
        ("elapsed, head", elapsed(Phase::Head).into(), (Kind::Timeout, head, Maybe, none)),
        ("elapsed, body", elapsed(Phase::Body).into(), (Kind::Timeout, Some(Phase::Body), Answered, none)),
        ("elapsed, late", late().into(), (Kind::Timeout, head, Maybe, 2 * SEC)),
        (
            "elapsed, nothing written",
            elapsed(Phase::Send).during(&Exchange::new()).into(),
            (Kind::Timeout, Some(Phase::Send), NotSent, none),
        ),
        ("overloaded", Overloaded::new("pool", 1, 1).into(), (Kind::Overloaded, queue, NotSent, none)),
        ("invalid origin", InvalidOrigin::NoHost.into(), (Kind::Invalid, queue, NotSent, none)),
        ("transport", transport(Kind::Closed).into(), (Kind::Closed, head, Maybe, none)),
        (
            "transport, nothing written",
            TransportError::new(Kind::Refused, &Exchange::new()).into(),
            (Kind::Refused, queue, NotSent, none),
        ),
        (
            "transport says more than its source",
            transport(Kind::Closed).because(reset()).into(),
            (Kind::Closed, head, Maybe, none),
        ),
        (
            "transport, of a limit",
            transport(Kind::Timeout).because(late()).into(),
            (Kind::Timeout, head, Maybe, 2 * SEC),
        ),
        (
            "transport, of another call's limit",
            transport(Kind::RequestBody).because(late()).into(),
            (Kind::RequestBody, head, Maybe, none),
        ),
        (
            "in an io::Error",
            io::Error::other(elapsed(Phase::Connect)).into(),
            (Kind::Timeout, Some(Phase::Connect), NotSent, none),
        ),
        (
            "in an io::Error that says otherwise",
            io::Error::new(io::ErrorKind::ConnectionReset, Overloaded::new("pool", 1, 1)).into(),
            (Kind::Overloaded, queue, NotSent, none),
        ),
        ("in another's error", Other(Some(Box::new(late()))).into(), (Kind::Timeout, head, Maybe, 2 * SEC)),
        (
            "in two of them",
            Other(Some(Other(Some(io::Error::other(transport(Kind::Tls)).into())).into())).into(),
            (Kind::Tls, head, Maybe, none),
        ),
        (
            "invalid origin, wrapped",
            Other(Some(InvalidOrigin::BadPort.into())).into(),
            (Kind::Invalid, queue, NotSent, none),
        ),
    ];
    for (name, error, expected) in rows {
        check(name, &*error, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_snapshot_tells() {
    let snapshots: [(&str, BoxError); 2] = [
        ("transport", TransportError::new(Kind::Closed, &exchange()).into()),
        ("elapsed", Elapsed::new(Phase::Head, SEC).during(&exchange()).into()),
    ];
    for (name, error) in snapshots {
        let failure = Failure::of(&*error);
        assert_eq!(failure.origin().unwrap().to_string(), "http://a", "{name}");
        assert_eq!(failure.attempt(), Some(Attempt::FIRST.next()), "{name}");
        assert_eq!(failure.connection().unwrap().id(), 7, "{name}");
        assert_eq!(failure.snapshot().unwrap().bytes_out, 1, "{name}");
    }
    // Where there is none, the error itself may know.
    let (origin, attempt) = (Origin::of(&"http://a/".parse().unwrap()).unwrap(), Attempt::FIRST.next());
    let error: BoxError = Elapsed::new(Phase::Queue, SEC).to(origin.clone()).at(attempt).into();
    let failure = Failure::of(&*error);
    assert_eq!((failure.origin(), failure.attempt()), (Some(&origin), Some(attempt)));
    let bare: [(&str, BoxError); 4] = [
        ("elapsed", Elapsed::new(Phase::Head, SEC).into()),
        ("overloaded", Overloaded::new("pool", 1, 1).into()),
        ("io", io::Error::other("?").into()),
        ("invalid", InvalidOrigin::NoHost.into()),
    ];
    for (name, error) in bare {
        let failure = Failure::of(&*error);
        assert!(failure.origin().is_none() && failure.attempt().is_none(), "{name}");
        assert!(failure.connection().is_none() && failure.snapshot().is_none(), "{name}");
    }
}

#[test]
fn of_the_operating_system() {
    use io::ErrorKind as Io;
    let rows = [
        (Io::ConnectionRefused, Kind::Refused),
        (Io::ConnectionReset, Kind::Reset),
        (Io::ConnectionAborted, Kind::Reset),
        (Io::BrokenPipe, Kind::Reset),
        (Io::NotConnected, Kind::Reset),
        (Io::UnexpectedEof, Kind::Truncated),
        (Io::TimedOut, Kind::Timeout),
        (Io::HostUnreachable, Kind::Unreachable),
        (Io::NetworkUnreachable, Kind::Unreachable),
        (Io::NetworkDown, Kind::Unreachable),
        (Io::AddrNotAvailable, Kind::Exhausted),
        (Io::AddrInUse, Kind::Exhausted),
        (Io::OutOfMemory, Kind::Exhausted),
        (Io::QuotaExceeded, Kind::Exhausted),
        (Io::InvalidData, Kind::Protocol),
        (Io::InvalidInput, Kind::Protocol),
        (Io::PermissionDenied, Kind::Other),
        (Io::Interrupted, Kind::Other),
        (Io::Other, Kind::Other),
    ];
    for (io, kind) in rows {
        let read = (kind, None, Delivery::Maybe, Duration::ZERO);
        check(&format!("{io:?}"), &io::Error::from(io), read);
        check(&format!("{io:?} with a message"), &io::Error::new(io, "boom"), read);
        check(&format!("{io:?}, nested"), &io::Error::other(io::Error::from(io)), read);
        check(&format!("{io:?}, wrapped"), &Other(Some(io::Error::from(io).into())), read);
    }
    let outer = io::Error::new(Io::TimedOut, io::Error::from(Io::ConnectionRefused));
    check("the innermost decides", &outer, (Kind::Refused, None, Delivery::Maybe, Duration::ZERO));
    let outer = io::Error::new(Io::TimedOut, Other(None));
    check("if it says anything", &outer, (Kind::Timeout, None, Delivery::Maybe, Duration::ZERO));
}

#[cfg(target_os = "linux")]
#[test]
fn of_linux_by_number() {
    let rows = [
        ("ENFILE", 23, Kind::Exhausted),
        ("EMFILE", 24, Kind::Exhausted),
        ("EPIPE", 32, Kind::Reset),
        ("EADDRINUSE", 98, Kind::Exhausted),
        ("EADDRNOTAVAIL", 99, Kind::Exhausted),
        ("ENETDOWN", 100, Kind::Unreachable),
        ("ENETUNREACH", 101, Kind::Unreachable),
        ("ECONNABORTED", 103, Kind::Reset),
        ("ECONNRESET", 104, Kind::Reset),
        ("ENOTCONN", 107, Kind::Reset),
        ("ETIMEDOUT", 110, Kind::Timeout),
        ("ECONNREFUSED", 111, Kind::Refused),
        ("EHOSTUNREACH", 113, Kind::Unreachable),
        ("ENOMEM", 12, Kind::Exhausted),
        ("EIO", 5, Kind::Other),
        ("ENOTTY", 25, Kind::Other),
    ];
    for (name, number, kind) in rows {
        let error = io::Error::from_raw_os_error(number);
        check(name, &error, (kind, None, Delivery::Maybe, Duration::ZERO));
    }
}

#[test]
fn unknown() {
    let boxed: BoxError = "boom".into();
    let rows: [(&str, &(dyn Error + 'static)); 4] = [
        ("a string", &*boxed),
        ("a type of somebody's", &Other(None)),
        ("with a source", &Other(Some("boom".into()))),
        ("of fmt", &fmt::Error),
    ];
    for (name, error) in rows {
        check(name, error, (Kind::Other, None, Delivery::Maybe, Duration::ZERO));
    }
}

#[derive(Debug)]
struct Other(Option<BoxError>);

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("other")
    }
}

impl Error for Other {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&**self.0.as_ref()?)
    }
}
