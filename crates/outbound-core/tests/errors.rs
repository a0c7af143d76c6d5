//! The errors: their lines, their sources, and how they are found again.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use http::{Request, Version};
use outbound_core::{
    AtProxy, Attempt, BoxError, CallSite, ConnectionInfo, Deadline, Delivery, Elapsed, Established, Exchange,
    Holders, InvalidOrigin, Kind, Origin, Overloaded, Phase, Snapshot, TransportError, chain, find,
};
use tokio::time::advance;

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

/// An attempt at a URI full of secrets: 1.5 s in, 42 bytes written, 7 read.
async fn exchange(attempt: u32, connection: Option<ConnectionInfo>, phase: Phase) -> Exchange {
    let mut request = Request::get("https://user:secret@a.example:8443/path?token=secret").body(()).unwrap();
    request.headers_mut().insert("authorization", "secret".parse().unwrap());
    (1..attempt).fold(Attempt::FIRST, |attempt, _| attempt.next()).attach(&mut request);
    let exchange = Exchange::new();
    exchange.aim(Origin::of(request.uri()).unwrap(), &request);
    if let Some(connection) = connection {
        exchange.connected(connection);
        exchange.wrote(42);
        exchange.read(7);
    }
    advance(SEC).await;
    exchange.enter(phase);
    advance(500 * MS).await;
    exchange
}

fn connection(served: u64, idle: Duration, remote: Option<&str>) -> Option<ConnectionInfo> {
    let mut established = Established::now(17, Version::HTTP_11);
    established.remote = remote.map(|addr| addr.parse().unwrap());
    Some(ConnectionInfo::new(Arc::new(established), served, idle))
}

#[track_caller]
fn check(name: &str, error: impl Error + 'static, expected: &str) {
    let line = error.to_string();
    assert_eq!(line, expected, "{name}");
    for text in [line, format!("{error:?}")] {
        for no in ["\n", "user", "secret", "token", "/path"] {
            assert!(!text.contains(no), "{name}: {no:?} in {text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn elapsed() {
    let during = async |attempt, connection, phase| {
        Elapsed::new(phase, SEC).during(&exchange(attempt, connection, phase).await)
    };
    let origin = || Origin::of(&"https://a.example/path".parse().unwrap()).unwrap();
    let rows = [
        ("queue", Elapsed::new(Phase::Queue, 2 * SEC), "timed out after 2 s waiting for its turn"),
        (
            "acquire",
            Elapsed::new(Phase::Acquire, 250 * MS),
            "timed out after 250 ms waiting for a connection",
        ),
        ("resolve", Elapsed::new(Phase::Resolve, SEC), "timed out after 1 s resolving the host name"),
        ("connect", Elapsed::new(Phase::Connect, SEC), "timed out after 1 s connecting"),
        ("tls", Elapsed::new(Phase::Tls, SEC), "timed out after 1 s in the TLS handshake"),
        ("send", Elapsed::new(Phase::Send, SEC), "timed out after 1 s sending the request"),
        ("head", Elapsed::new(Phase::Head, SEC), "timed out after 1 s waiting for the response head"),
        ("body", Elapsed::new(Phase::Body, SEC), "timed out after 1 s reading the response body"),
        (
            "to an origin",
            Elapsed::new(Phase::Head, SEC).to(origin()).at(Attempt::FIRST),
            "https://a.example: timed out after 1 s waiting for the response head",
        ),
        (
            "at a later attempt",
            Elapsed::new(Phase::Head, SEC).to(origin()).at(Attempt::FIRST.next()).named("deadline"),
            "https://a.example: timed out after 1 s waiting for the response head (deadline), attempt 2",
        ),
        (
            "hardly late",
            Elapsed::new(Phase::Head, SEC).took(SEC + 4 * MS),
            "timed out after 1.00 s waiting for the response head",
        ),
        (
            "early",
            Elapsed::new(Phase::Head, SEC).took(300 * MS),
            "timed out after 300 ms waiting for the response head",
        ),
        (
            "no connection",
            during(1, None, Phase::Connect).await,
            "https://a.example:8443: timed out after 1 s connecting, nothing was sent",
        ),
        (
            "a new connection",
            during(1, connection(0, Duration::ZERO, None), Phase::Head).await,
            "https://a.example:8443: timed out after 1 s waiting for the response head, new connection #17: 42 bytes sent, 7 received",
        ),
        (
            "attempt 2, reused",
            during(2, connection(1, 20 * MS, Some("127.0.0.1:8443")), Phase::Head).await,
            "https://a.example:8443: timed out after 1 s waiting for the response head, attempt 2, reused connection #17 (idle 20 ms, 1 request before) to 127.0.0.1:8443: 42 bytes sent, 7 received",
        ),
    ];
    for (name, error, expected) in rows {
        check(name, error, expected);
    }

    let late = Elapsed::new(Phase::Head, 100 * MS).took(300 * MS);
    assert_eq!(
        (late.phase(), late.limit(), late.elapsed(), late.late_by()),
        (Phase::Head, 100 * MS, 300 * MS, 200 * MS)
    );
    let line = late.to_string();
    assert!(
        line.starts_with("timed out after 300 ms waiting for the response head (limit 100 ms; "),
        "{line}"
    );
    assert!(line.contains("200 ms late") && line.ends_with("busy)"), "{line}");
    let barely = Elapsed::new(Phase::Head, SEC).took(SEC + 5 * MS);
    assert!(barely.to_string().contains("5 ms late"), "{barely}");
    let early = Elapsed::new(Phase::Head, SEC).took(300 * MS);
    assert_eq!((early.elapsed(), early.late_by()), (300 * MS, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn elapsed_delivery() {
    use Delivery::{Answered, Maybe, NotSent};
    for &phase in Phase::ALL {
        let alone = match phase {
            Phase::Send | Phase::Head => Maybe,
            Phase::Body => Answered,
            _ => NotSent,
        };
        assert_eq!(Elapsed::new(phase, SEC).delivery(), alone, "{phase}");
        assert!(Elapsed::new(phase, SEC).snapshot().is_none(), "{phase}");
    }
    // Counted bytes are better than the phase alone.
    let silent = Elapsed::new(Phase::Send, SEC).during(&exchange(1, None, Phase::Send).await);
    assert_eq!(silent.delivery(), NotSent);
    assert_eq!(silent.snapshot().unwrap().phase, Phase::Send);
    let refused = exchange(1, connection(0, SEC, None), Phase::Head).await;
    refused.refused();
    assert_eq!(Elapsed::new(Phase::Head, SEC).during(&refused).delivery(), Delivery::Refused);
}

#[tokio::test(start_paused = true)]
async fn transport_error() {
    let error = async |kind, attempt, connection, phase| {
        TransportError::new(kind, &exchange(attempt, connection, phase).await)
    };
    let (new, old) =
        (connection(0, Duration::ZERO, None), connection(3, 41 * SEC + 200 * MS, Some("[::1]:8443")));
    let elapsed = || Elapsed::new(Phase::Connect, SEC).took(1250 * MS);
    let rows = [
        (
            "bare",
            TransportError::new(Kind::Closed, &Exchange::new()),
            "connection closed by the peer while waiting for its turn after 0 s, nothing was sent",
        ),
        (
            "no connection",
            error(Kind::Refused, 1, None, Phase::Connect).await,
            "https://a.example:8443: connection refused after 1.50 s, nothing was sent",
        ),
        (
            "new",
            error(Kind::Reset, 1, new.clone(), Phase::Send).await,
            "https://a.example:8443: connection reset while sending the request after 1.50 s, new connection #17: 42 bytes sent, 7 received",
        ),
        (
            "attempt 2, reused",
            error(Kind::Closed, 2, old.clone(), Phase::Head).await,
            "https://a.example:8443: connection closed by the peer while waiting for the response head after 1.50 s, attempt 2, reused connection #17 (idle 41.2 s, 3 requests before) to [::1]:8443: 42 bytes sent, 7 received",
        ),
        (
            "with a source",
            error(Kind::Reset, 1, new.clone(), Phase::Send).await.because(io::Error::other("boom")),
            "https://a.example:8443: connection reset while sending the request after 1.50 s, new connection #17: 42 bytes sent, 7 received",
        ),
        (
            "a limit",
            error(Kind::Timeout, 1, None, Phase::Connect).await.because(elapsed()),
            "https://a.example:8443: timed out connecting for 1.25 s (limit 1 s), nothing was sent",
        ),
        (
            "at a proxy",
            error(Kind::Refused, 1, None, Phase::Connect)
                .await
                .because(AtProxy::new("http://proxy.example:3128", io::Error::from_raw_os_error(111))),
            "https://a.example:8443 through the proxy http://proxy.example:3128: connection refused after 1.50 s, nothing was sent",
        ),
        (
            "a limit of another call",
            error(Kind::RequestBody, 1, new, Phase::Send).await.because(elapsed()),
            "https://a.example:8443: the request's own body failed while sending the request after 1.50 s, new connection #17: 42 bytes sent, 7 received",
        ),
    ];
    for (name, error, expected) in rows {
        check(name, error, expected);
    }
}

/// Each kind in the phase in which it reads best and in one in which it does not belong.
#[tokio::test(start_paused = true)]
async fn every_kind_and_phase_reads_as_one_sentence() {
    use Phase::*;
    let rows = [
        (Kind::Timeout, Connect, "timed out connecting"),
        (Kind::Timeout, Tls, "timed out in the TLS handshake"),
        (Kind::Overloaded, Queue, "turned away while waiting for its turn"),
        (Kind::Overloaded, Connect, "turned away while connecting"),
        (Kind::Resolve, Resolve, "name not resolved"),
        (Kind::Resolve, Connect, "name not resolved while connecting"),
        (Kind::Refused, Connect, "connection refused"),
        (Kind::Refused, Tls, "connection refused in the TLS handshake"),
        (Kind::Unreachable, Connect, "peer unreachable"),
        (Kind::Unreachable, Send, "peer unreachable while sending the request"),
        (Kind::Exhausted, Connect, "out of descriptors or ports while connecting"),
        (Kind::Exhausted, Resolve, "out of descriptors or ports while resolving the host name"),
        (Kind::Certificate, Tls, "certificate not trusted"),
        (Kind::Certificate, Connect, "certificate not trusted while connecting"),
        (Kind::Tls, Tls, "TLS handshake failed"),
        (Kind::Tls, Send, "TLS failed while sending the request"),
        (Kind::Reset, Tls, "connection reset in the TLS handshake"),
        (Kind::Reset, Body, "connection reset while reading the response body"),
        (Kind::Closed, Head, "connection closed by the peer while waiting for the response head"),
        (Kind::Closed, Acquire, "connection closed by the peer while waiting for a connection"),
        (Kind::Truncated, Body, "response cut short while reading the response body"),
        (Kind::Truncated, Head, "response cut short while waiting for the response head"),
        (Kind::Protocol, Head, "protocol broken by the peer while waiting for the response head"),
        (Kind::TooLarge, Head, "response head too large"),
        (Kind::TooLarge, Send, "response head too large while sending the request"),
        (Kind::RequestBody, Send, "the request's own body failed while sending the request"),
        (Kind::Invalid, Connect, "request not sendable while connecting"),
        (Kind::Canceled, Acquire, "canceled while waiting for a connection"),
        (Kind::Other, Connect, "failed while connecting"),
        (Kind::Other, Tls, "failed in the TLS handshake"),
    ];
    assert!(Kind::ALL.iter().all(|kind| rows.iter().any(|(row, ..)| row == kind)));
    assert!(Phase::ALL.iter().all(|phase| rows.iter().any(|(_, row, _)| row == phase)));
    for (kind, phase, happened) in rows {
        let exchange = Exchange::new();
        exchange.enter(phase);
        let error = TransportError::new(kind, &exchange);
        assert_eq!(error.to_string(), format!("{happened} after 0 s, nothing was sent"), "{kind} {phase}");
        assert_eq!(error.kind(), kind);
    }
}

/// What the connector says is on the line where it says more than the kind.
#[tokio::test(start_paused = true)]
async fn the_reason_of_a_failed_dial() {
    let refused = || io::Error::from_raw_os_error(111);
    let said = |text: &str| -> BoxError { Wrapping("outer", io::Error::other(text).into()).into() };
    let long = "x".repeat(300);
    let cut = format!("certificate not trusted after 0 s ({}…), nothing was sent", &long[..200]);
    for (name, kind, phase, source, expected) in [
        (
            "its innermost error",
            Kind::Certificate,
            Phase::Tls,
            said("it expired"),
            "certificate not trusted after 0 s (it expired), nothing was sent",
        ),
        (
            "on one line",
            Kind::Resolve,
            Phase::Resolve,
            said("no\r\nname"),
            "name not resolved after 0 s (no  name), nothing was sent",
        ),
        ("and no more than a line", Kind::Certificate, Phase::Tls, said(&long), &*cut),
        (
            "not what the system says",
            Kind::Refused,
            Phase::Connect,
            refused().into(),
            "connection refused after 0 s, nothing was sent",
        ),
        (
            "unless that is all that is known",
            Kind::Other,
            Phase::Connect,
            io::Error::from_raw_os_error(2).into(),
            "failed while connecting after 0 s (No such file or directory (os error 2)), nothing was sent",
        ),
        (
            "not once there is a connection",
            Kind::Closed,
            Phase::Head,
            said("words"),
            "connection closed by the peer while waiting for the response head after 0 s, nothing was sent",
        ),
        (
            "not before there is a connector",
            Kind::Overloaded,
            Phase::Acquire,
            said("words"),
            "turned away while waiting for a connection after 0 s, nothing was sent",
        ),
    ] {
        let exchange = Exchange::new();
        exchange.enter(phase);
        check(name, TransportError::new(kind, &exchange).because(source), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn holders() {
    let site = CallSite::here();
    let mut holders = Holders::default();
    (holders.active, holders.idle, holders.dialing) = (3, 1, 2);
    (holders.closing, holders.waiting, holders.limit) = (1, 9, 6);
    let waited = "https://a.example:8443: timed out waiting for a connection after 1.50 s: ";
    let counts = "of 6 connections 3 active, 1 idle, 2 dialing, 1 closing, 9 waiting";
    let mut one = Holders::default();
    one.limit = 1;
    let [mut aged, mut sited] = [holders.clone(), holders.clone()];
    aged.oldest = Some((90 * SEC, None));
    sited.oldest = Some((90 * SEC, Some(site)));
    let rows = [
        ("one", one, "of 1 connection 0 active, 0 idle, 0 dialing, 0 closing, 0 waiting".to_owned()),
        ("counts", holders, counts.to_owned()),
        ("the oldest", aged, format!("{counts}; oldest exchange 90 s")),
        ("and its line", sited, format!("{counts}; oldest exchange 90 s, begun at {site}")),
    ];
    for (name, holders, expected) in rows {
        let exchange = exchange(1, None, Phase::Acquire).await;
        let error = TransportError::new(Kind::Timeout, &exchange).held_by(holders.clone());
        assert_eq!(error.holders(), Some(&holders), "{name}");
        check(name, error, &format!("{waited}{expected}"));
    }
    assert!(TransportError::new(Kind::Timeout, &Exchange::new()).holders().is_none());
}

#[test]
fn overloaded() {
    let error = || Overloaded::new("pool", 50, 128);
    for (name, error, expected) in [
        ("at once", error(), "pool is overloaded: all 50 in use, 128 waiting"),
        (
            "after a wait",
            error().waited(1500 * MS),
            "pool is overloaded: all 50 in use, 128 waiting, gave up after 1.50 s",
        ),
    ] {
        check(name, error, expected);
    }
    let error = error().waited(SEC);
    assert_eq!(
        (error.limiter(), error.limit(), error.waiting(), error.time_waited()),
        ("pool", 50, 128, SEC)
    );
}

#[test]
fn invalid_origin() {
    let rows = [
        ("user:secret@a", "the request's URI has no scheme: expected http://host/… or https://host/…"),
        ("ws://user:secret@a/path?token", "the request's URI has the scheme \"ws\": expected http or https"),
        (
            "http://user:secret@:80/path?token",
            "the request's URI has no host: expected http://host/… or https://host/…",
        ),
        ("http://user:secret@a:0/path?token", "the port in the request's URI is no number from 1 to 65535"),
    ];
    for (uri, expected) in rows {
        check(uri, Origin::of(&uri.parse().unwrap()).unwrap_err(), expected);
    }
}

#[test]
fn sources() {
    let source = io::Error::other("boom");
    let error = TransportError::new(Kind::Reset, &Exchange::new());
    assert!(error.source().is_none());
    let error = error.because(source);
    assert_eq!(error.source().unwrap().to_string(), "boom");
    assert!(Elapsed::new(Phase::Head, SEC).source().is_none());
    assert!(Overloaded::new("pool", 1, 1).source().is_none());
    assert!(InvalidOrigin::NoHost.source().is_none());
    let error = AtProxy::new("http://proxy.example:3128", Overloaded::new("pool", 1, 1));
    assert_eq!(error.to_string(), "the proxy http://proxy.example:3128 could not be used");
    assert_eq!((error.proxy(), find::<Overloaded>(&error).is_some()), ("http://proxy.example:3128", true));
}

/// Says its name, and what caused it.
#[derive(Debug)]
struct Wrapping(&'static str, BoxError);

impl fmt::Display for Wrapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Wrapping {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.1)
    }
}

#[tokio::test(start_paused = true)]
async fn found_wherever_it_is() {
    let ours = || Overloaded::new("pool", 50, 1);
    let io = |error: BoxError| io::Error::new(io::ErrorKind::ConnectionReset, error);
    let transport = |error: BoxError| TransportError::new(Kind::Other, &Exchange::new()).because(error);
    let line = ours().to_string();
    let other = transport("".into()).to_string();
    let rows: [(&str, BoxError, &[&str]); 7] = [
        ("bare", ours().into(), &[&line]),
        ("wrapped", Wrapping("a", ours().into()).into(), &["a", &line]),
        ("in an io::Error", io(ours().into()).into(), &[&line, &line]),
        ("in two of them", io(io(ours().into()).into()).into(), &[&line, &line, &line]),
        (
            "in an io::Error, wrapped",
            Wrapping("a", io(Wrapping("b", ours().into()).into()).into()).into(),
            &["a", "b", "b", &line],
        ),
        ("below ours", transport(io(ours().into()).into()).into(), &[&other, &line, &line]),
        ("boxed twice", Wrapping("a", Box::new(Wrapping("b", Box::new(ours())))).into(), &["a", "b", &line]),
    ];
    for (name, error, lines) in rows {
        let seen: Vec<_> = chain(&*error).map(ToString::to_string).collect();
        assert_eq!(seen, lines, "{name}");
        assert_eq!(find::<Overloaded>(&*error).map(Overloaded::limit), Some(50), "{name}");
        assert!(find::<Elapsed>(&*error).is_none(), "{name}");
    }
    assert!(find::<Overloaded>(&io::Error::from(io::ErrorKind::NotFound)).is_none());
    let outer = Wrapping("a", Box::new(Wrapping("b", "c".into())));
    assert_eq!(find::<Wrapping>(&outer).unwrap().0, "a", "the first in the chain, itself included");
}

#[test]
fn auto_traits() {
    fn error<T: Error + Send + Sync + 'static>() {}
    fn record<T: fmt::Debug + Clone + Send + Sync + 'static>() {}
    error::<Elapsed>();
    error::<Overloaded>();
    error::<TransportError>();
    error::<InvalidOrigin>();
    record::<Elapsed>();
    record::<Overloaded>();
    record::<InvalidOrigin>();
    record::<Snapshot>();
    record::<Holders>();
    record::<Deadline>();
}

#[test]
fn the_line_names_the_limit_and_how_late_it_was() {
    let [limit, late] = [100, 300].map(Duration::from_millis);
    for (elapsed, name, line) in [
        (Elapsed::new(Phase::Tls, limit).named("tls"), "tls", "timed out after 100 ms in the TLS handshake"),
        (
            Elapsed::new(Phase::Body, limit).named("read-idle"),
            "read-idle",
            "timed out after 100 ms reading the response body (read-idle)",
        ),
        (
            Elapsed::new(Phase::Head, limit).took(late),
            "head",
            "timed out after 300 ms waiting for the response head (limit 100 ms; 200 ms late: this side was busy)",
        ),
        (
            Elapsed::new(Phase::Head, limit).named("deadline").took(late),
            "deadline",
            "timed out after 300 ms waiting for the response head (deadline 100 ms; 200 ms late: this side was busy)",
        ),
    ] {
        assert_eq!((elapsed.name(), elapsed.to_string().as_str()), (name, line));
    }
}
