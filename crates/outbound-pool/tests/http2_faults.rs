//! What can go wrong over HTTP/2 (FAULTS, section 4), frame by frame. One test for each row; what a failure must leave behind is
//! looked at in one place, `support::told::fails`.

mod support;

use std::{pin::Pin, task::Poll, time::Duration};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use outbound_core::{Deadline, Delivery, Elapsed, Exchange, Failure, Kind, Phase, find};
use outbound_pool::{Builder, Events, HeadTooLarge, Pool, What, Why, connect::Tcp};
use outbound_testkit::{
    Frame, FrameKind, Friendly, Gate, Hostile, Lives, Script, TestBody, Upstream, handler,
};
use support::{told::*, *};

// Error codes (RFC 9113, 7).
const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;
// Settings (6.5.2).
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

fn builder() -> Builder {
    Pool::builder().http2_prior_knowledge(true)
}

fn pool() -> Pool<Tcp> {
    build(builder())
}

/// Says hello as a server, and reads the head of the first request.
fn greeted() -> Script {
    Script::new().http2().write(Frame::settings(&[])).until_frame(FrameKind::HEADERS)
}

/// Answers on this stream.
fn answers(script: Script, stream: u32) -> Script {
    script.write(Frame::response(stream, 200, &[])).write(Frame::data(stream, "hello").end())
}

/// Reads the head of the next request, and answers it.
fn then_answers(script: Script, stream: u32) -> Script {
    answers(script.until_frame(FrameKind::HEADERS), stream)
}

/// Serves one request after the other, from the stream with this number on.
fn serves(script: Script, from: u32) -> Script {
    (from..from + 40).step_by(2).fold(script, then_answers)
}

fn healthy() -> Script {
    serves(Script::new().http2().write(Frame::settings(&[])), 1)
}

fn of(kind: Kind, phase: Phase, delivery: Delivery) -> Told {
    told(kind, phase, delivery, "").over(Healthy::Http2)
}

/// A request of this method, with a body if that has one.
fn with(method: Method, upstream: &Upstream) -> Request<TestBody> {
    let body = if method == Method::POST { "body".into() } else { TestBody::new() };
    secretive(method, &upstream.uri("/"), body)
}

/// The script does this to the first request, of either sort, and serves others on that connection if it survives.
async fn told_of(name: &str, script: Script, kind: Kind, phase: Phase, delivery: Delivery, survives: bool) {
    let script = if survives { serves(script, 3) } else { script };
    for method in [Method::GET, Method::POST] {
        let upstream = Hostile::new(script.clone()).start();
        let expected = of(kind, phase, delivery).survives(survives);
        let name = format!("{name}, {method}");
        fails(&name, pool(), &[&upstream], with(method, &upstream), expected).await;
        assert_eq!(upstream.sightings().connections.len(), 1, "{name}: it is not sent again");
    }
}

/// The frames of this kind that a connection has sent.
fn frames(upstream: &Upstream, connection: usize, kind: FrameKind) -> Vec<Frame> {
    let seen = upstream.sightings();
    let frames = seen.connections.get(connection).map(|connection| connection.frames.clone());
    frames.unwrap_or_default().into_iter().filter(|frame| frame.kind == kind && !frame.is_ack()).collect()
}

/// The streams that a connection has reset, and how.
fn resets(upstream: &Upstream, connection: usize) -> Vec<(u32, Option<u32>)> {
    let resets = frames(upstream, connection, FrameKind::RST_STREAM);
    resets.iter().map(|frame| (frame.stream, frame.code())).collect()
}

fn count(upstream: &Upstream, connection: usize, kind: FrameKind) -> usize {
    frames(upstream, connection, kind).len()
}

async fn until_frames(upstream: &Upstream, what: &str, connection: usize, kind: FrameKind, n: usize) {
    upstream
        .until(what, |seen| {
            seen.connections.get(connection).is_some_and(|connection| {
                connection.frames.iter().filter(|frame| frame.kind == kind && !frame.is_ack()).count() >= n
            })
        })
        .await;
}

async fn leaves_nothing(name: &str, pool: Pool<Tcp>, upstreams: &[&Upstream]) {
    leaves_nothing_by(name, pool, upstreams, Healthy::Http2).await;
}

// === GOAWAY ===

#[tokio::test]
async fn goaway_below_the_stream_sends_it_again_on_another_connection() {
    for method in [Method::GET, Method::POST] {
        let gone = greeted().write(Frame::go_away(0, NO_ERROR));
        let upstream = Hostile::new(gone).then(healthy()).start();
        let pool = pool();
        assert_eq!(fetch(&pool, with(method.clone(), &upstream)).await.unwrap().body(), "hello", "{method}");
        assert_eq!(upstream.sightings().connections.len(), 2, "{method}");
        assert_eq!(quiet(&pool).await.connections.idle, 1, "{method}: the first takes no more");
        leaves_nothing("GOAWAY", pool, &[&upstream]).await;
    }
}

/// As where a server ends each connection after so many requests (nginx: `keepalive_requests`), and others have used up the next one, too.
#[tokio::test]
async fn goaway_below_the_stream_of_several_connections_is_nobodys_failure() {
    for method in [Method::GET, Method::POST] {
        let gone = || greeted().write(Frame::go_away(0, NO_ERROR));
        let upstream = Hostile::new(gone()).then(gone()).then(gone()).then(healthy()).start();
        let pool = pool();
        assert_eq!(fetch(&pool, with(method.clone(), &upstream)).await.unwrap().body(), "hello", "{method}");
        assert_eq!(upstream.sightings().connections.len(), 4, "{method}");
        assert_eq!(quiet(&pool).await.connections.idle, 1, "{method}: the others take no more");
        leaves_nothing("GOAWAY three times", pool, &[&upstream]).await;
    }
}

#[tokio::test]
async fn goaway_below_the_stream_without_end_is_the_callers_to_know() {
    let upstream = Hostile::new(greeted().write(Frame::go_away(0, NO_ERROR))).start();
    let expected = of(Kind::Closed, Phase::Head, Delivery::Refused);
    fails("GOAWAY without end", pool(), &[&upstream], with(Method::POST, &upstream), expected).await;
    assert_eq!(upstream.sightings().connections.len(), 4, "three times more, and not a fourth time");
}

/// It may be the answer to this very request.
#[tokio::test]
async fn goaway_with_an_error_may_be_about_the_request() {
    let script = greeted().write(Frame::go_away(0, INTERNAL_ERROR));
    told_of("INTERNAL_ERROR", script, Kind::Closed, Phase::Head, Delivery::Maybe, false).await;
}

/// Of any other the peer says that it has not processed it, whatever made it say GOAWAY (RFC 9113, 6.8). Go does likewise.
#[tokio::test]
async fn goaway_with_an_error_is_not_about_a_later_request_above_its_last_stream() {
    for (name, code) in [("INTERNAL_ERROR", INTERNAL_ERROR), ("ENHANCE_YOUR_CALM", ENHANCE_YOUR_CALM)] {
        let gone = || answers(greeted(), 1).until_frame(FrameKind::HEADERS).write(Frame::go_away(1, code));
        let upstream = Hostile::new(gone()).then(gone()).then(healthy()).start();
        let pool = pool();
        for connections in [1, 2] {
            assert_eq!(fetch(&pool, with(Method::POST, &upstream)).await.expect(name).body(), "hello");
            assert_eq!(upstream.sightings().connections.len(), connections, "{name}");
        }
        // More of its body has gone out than is kept.
        let large = request(Method::POST, upstream.uri("/"), TestBody::new().data(vec![b'x'; 100_000]));
        let error = fetch(&pool, large).await.unwrap_err();
        assert_eq!(Failure::of(&*error).delivery(), Delivery::Refused, "{name}: {error}");
        assert_eq!(upstream.sightings().connections.len(), 2, "{name}");
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

/// However it is turned away, a request goes out four times at most, and after it was refused only once more.
#[tokio::test]
async fn what_is_refused_and_turned_away_by_turns() {
    let refused = || greeted().write(Frame::reset(1, REFUSED_STREAM));
    let gone = || greeted().write(Frame::go_away(0, NO_ERROR));
    let refused_then_gone = refused().until_frame(FrameKind::HEADERS).write(Frame::go_away(1, NO_ERROR));
    for (name, first, others, sent) in [
        ("refused, then GOAWAY", refused_then_gone, gone(), [2, 1, 1].as_slice()),
        ("GOAWAY, then refused", gone(), refused(), &[1, 1]),
    ] {
        let upstream = Hostile::new(first).then(others).start();
        let pool = pool();
        let error = fetch(&pool, with(Method::POST, &upstream)).await.unwrap_err();
        assert_eq!(Failure::of(&*error).delivery(), Delivery::Refused, "{name}: {error}");
        let connections = 0..upstream.sightings().connections.len();
        let heads: Vec<_> = connections.map(|nth| count(&upstream, nth, FrameKind::HEADERS)).collect();
        assert_eq!(heads, sent, "{name}: on each connection");
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

/// As who comes back from a dead connection over HTTP/1.1.
#[tokio::test]
async fn who_is_turned_away_needs_no_room_in_the_queue() {
    let (goes, ends) = (Gate::new("goes"), Gate::new("ends"));
    let script = greeted().until_frame(FrameKind::HEADERS).wait(&goes).write(Frame::go_away(1, NO_ERROR));
    let upstream = Hostile::new(answers(script.wait(&ends), 1)).then(healthy()).start();
    let pool = build(builder().max_connections(1).max_waiting(0));
    let mut calls = Vec::new();
    for heads in 1..=2 {
        calls.push(start_with(&pool, with(Method::POST, &upstream)));
        upstream.accepted(1).await;
        until_frames(&upstream, "its head", 0, FrameKind::HEADERS, heads).await;
    }
    goes.open();
    until(&pool, "the second to wait for the end of the first", |stats| stats.waiting == 1).await;
    ends.open();
    for call in calls {
        assert_eq!(answered(&pool, call).await.body(), "hello");
    }
    leaves_nothing("no room", pool, &[&upstream]).await;
}

/// It goes before all who came after it and have not been given leave to dial meanwhile.
#[tokio::test]
async fn who_is_turned_away_has_its_place_in_the_queue() {
    let goes = Gate::new("goes");
    let one = || Script::new().http2().write(Frame::settings(&[(MAX_CONCURRENT_STREAMS, 1)]));
    let gone = one().until_frame(FrameKind::HEADERS).wait(&goes).write(Frame::go_away(0, NO_ERROR));
    let next = [(1, "first"), (3, "second"), (5, "last")].into_iter();
    let next = next.fold(one(), |script, (stream, body)| {
        let head = Frame::response(stream, 200, &[]);
        script.until_frame(FrameKind::HEADERS).write(head).write(Frame::data(stream, body).end())
    });
    let upstream = Hostile::new(gone).then(next).start();
    let pool = build(builder().max_connections(1));
    let first = start_with(&pool, with(Method::POST, &upstream));
    upstream.accepted(1).await;
    until_frames(&upstream, "the first", 0, FrameKind::HEADERS, 1).await;
    let others = [(); 2].map(|()| start(&pool, &upstream));
    until(&pool, "the others to wait", |stats| stats.waiting == 2).await;
    goes.open();
    assert_ne!(answered(&pool, first).await.body(), "last");
    for other in others {
        answered(&pool, other).await;
    }
    leaves_nothing("its place", pool, &[&upstream]).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_again_once_the_deadline_has_passed() {
    let _frozen = Frozen::new();
    let refuses = Gate::new("refuses");
    let script = greeted().wait(&refuses).write(Frame::reset(1, REFUSED_STREAM));
    let upstream = Hostile::new(serves(script, 3)).start();
    let pool = pool();
    let mut request = with(Method::POST, &upstream);
    Deadline::after(Duration::from_secs(1)).tighten(&mut request);
    let call = start_with(&pool, request);
    upstream.accepted(1).await;
    until_frames(&upstream, "the head", 0, FrameKind::HEADERS, 1).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    refuses.open();
    until(&pool, "the end", |_| call.is_finished()).await;
    let error = call.await.unwrap().unwrap_err();
    let failure = Failure::of(&*error);
    assert_eq!((failure.kind(), failure.delivery()), (Kind::Timeout, Delivery::Maybe), "{error}");
    assert_eq!(count(&upstream, 0, FrameKind::HEADERS), 1);
    tokio::time::resume();
    leaves_nothing("too late", pool, &[&upstream]).await;
}

#[tokio::test]
async fn goaway_that_includes_the_stream_lets_it_end_and_no_other_begin() {
    for (name, last) in [("the last", 1), ("warning first", (1 << 31) - 1)] {
        let bye = answers(greeted().write(Frame::go_away(last, NO_ERROR)), 1);
        let upstream = Hostile::new(bye).then(healthy()).start();
        let pool = pool();
        for _ in 0..2 {
            assert_eq!(fetch(&pool, with(Method::POST, &upstream)).await.unwrap().body(), "hello", "{name}");
            until(&pool, "GOAWAY to be read", |stats| {
                stats.connections.open() == usize::from(stats.totals.opened == 2)
            })
            .await;
        }
        assert_eq!(count(&upstream, 0, FrameKind::HEADERS), 1, "{name}");
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

// === streams that are refused or reset ===

#[tokio::test]
async fn a_refused_stream_is_sent_again_on_the_same_connection() {
    let script = serves(greeted().write(Frame::reset(1, REFUSED_STREAM)), 3);
    let upstream = Hostile::new(script).start();
    let pool = pool();
    assert_eq!(fetch(&pool, with(Method::POST, &upstream)).await.unwrap().body(), "hello");
    assert_eq!(upstream.sightings().connections.len(), 1, "once may happen");
    assert_eq!(fetch(&pool, with(Method::POST, &upstream)).await.unwrap().body(), "hello");
    assert_eq!(upstream.sightings().connections.len(), 1);
    leaves_nothing("refused", pool, &[&upstream]).await;
}

#[tokio::test]
async fn two_refusals_retire_the_connection() {
    let twice = greeted()
        .write(Frame::reset(1, REFUSED_STREAM))
        .until_frame(FrameKind::HEADERS)
        .write(Frame::reset(3, REFUSED_STREAM));
    let upstream = Hostile::new(twice).then(healthy()).start();
    let expected = of(Kind::Reset, Phase::Head, Delivery::Refused);
    fails("refused twice", pool(), &[&upstream], with(Method::POST, &upstream), expected).await;
    assert_eq!(upstream.sightings().connections.len(), 1, "not a third time");
}

#[tokio::test]
async fn a_reset_before_the_head_harms_nothing_but_its_stream() {
    for (name, code) in [("CANCEL", CANCEL), ("INTERNAL_ERROR", INTERNAL_ERROR), ("NO_ERROR", NO_ERROR)] {
        let script = greeted().write(Frame::reset(1, code));
        told_of(name, script, Kind::Reset, Phase::Head, Delivery::Maybe, true).await;
    }
}

/// RFC 9113, 8.1: the server needs no more of the request.
#[tokio::test]
async fn a_whole_response_stops_the_upload() {
    for (name, says_so) in [("with a reset", true), ("without", false)] {
        let script = answers(greeted(), 1);
        let script = if says_so { script.write(Frame::reset(1, NO_ERROR)) } else { script };
        let upstream = Hostile::new(serves(script, 3)).start();
        let (pool, lives) = (pool(), Lives::new());
        let body = TestBody::new().endless(vec![b'x'; 1_000]).counted(&lives);
        let response = send(&pool, request(Method::POST, upstream.uri("/"), body)).await.unwrap();
        // Its end is enough: it is kept.
        let mut response = response.into_body();
        assert_eq!(response.frame().await.expect(name).expect(name).into_data().unwrap(), "hello", "{name}");
        until(&pool, "the upload to be dropped", |stats| stats.exchanges + lives.alive() == 0).await;
        drop(response);
        assert_eq!(fetch(&pool, get(upstream.uri("/"))).await.unwrap().body(), "hello", "{name}");
        assert_eq!(upstream.sightings().connections.len(), 1, "{name}");
        if !says_so {
            assert_eq!(resets(&upstream, 0), [(1, Some(CANCEL))], "{name}: the server learns of it");
        }
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

/// Nobody is left to be told what comes of it.
#[tokio::test]
async fn a_response_that_is_given_up_stops_the_upload() {
    for (name, body) in [
        ("endless", TestBody::new().endless(vec![b'x'; 1_000])),
        ("stalled", TestBody::new().data("half").stall()),
    ] {
        let upstream = Hostile::new(serves(half(&[]), 3)).start();
        let (pool, lives) = (pool(), Lives::new());
        let request = request(Method::POST, upstream.uri("/"), body.counted(&lives));
        drop(send(&pool, request).await.expect(name));
        until(&pool, "the upload to be dropped", |stats| stats.exchanges + lives.alive() == 0).await;
        until_frames(&upstream, "the reset", 0, FrameKind::RST_STREAM, 1).await;
        assert_eq!(resets(&upstream, 0), [(1, Some(CANCEL))], "{name}: the server learns of it");
        assert_eq!(fetch(&pool, get(upstream.uri("/"))).await.unwrap().body(), "hello", "{name}");
        assert_eq!(upstream.sightings().connections.len(), 1, "{name}");
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

#[tokio::test]
async fn a_response_that_fails_stops_the_upload() {
    for (name, end, connections) in [
        ("reset", half(&[]).write(Frame::reset(1, INTERNAL_ERROR)), 1),
        ("longer than it said", half(&[("content-length", "3")]), 1),
        ("FIN", half(&[]).close(), 2),
    ] {
        let end = if connections == 1 { serves(end, 3) } else { end };
        let upstream = Hostile::new(end).then(healthy()).start();
        let (pool, lives) = (pool(), Lives::new());
        let body = TestBody::new().data("half").stall().counted(&lives);
        let response = send(&pool, request(Method::POST, upstream.uri("/"), body)).await.expect(name);
        let mut response = response.into_body();
        while let Some(Ok(_)) = response.frame().await {}
        until(&pool, "the upload to be dropped", |stats| stats.exchanges + lives.alive() == 0).await;
        drop(response);
        assert_eq!(fetch(&pool, get(upstream.uri("/"))).await.unwrap().body(), "hello", "{name}");
        assert_eq!(upstream.sightings().connections.len(), connections, "{name}");
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

// === bodies ===

/// A response head with these fields, and five bytes.
fn half(fields: &[(&str, &str)]) -> Script {
    greeted().write(Frame::response(1, 200, fields)).write(Frame::data(1, "hello"))
}

/// hyper takes this for the end of the body, even where a Content-Length says otherwise.
#[tokio::test]
async fn a_reset_without_error_within_a_body_is_no_end() {
    for (name, fields) in [("a length", &[("content-length", "10")][..]), ("no length", &[])] {
        let script = half(fields).write(Frame::reset(1, NO_ERROR));
        told_of(name, script, Kind::Truncated, Phase::Body, Delivery::Answered, true).await;
    }
}

#[tokio::test]
async fn a_reset_within_a_body() {
    for (name, code) in [("CANCEL", CANCEL), ("INTERNAL_ERROR", INTERNAL_ERROR)] {
        let script = half(&[]).write(Frame::reset(1, code));
        told_of(name, script, Kind::Reset, Phase::Body, Delivery::Answered, true).await;
    }
}

#[tokio::test]
async fn the_end_of_the_connection_within_a_body() {
    for (name, script, kind) in [
        ("FIN", half(&[]).close(), Kind::Truncated),
        ("RST", half(&[]).delay(Duration::from_millis(20)).reset(), Kind::Reset),
        ("GOAWAY and FIN", half(&[]).write(Frame::go_away(1, NO_ERROR)).close(), Kind::Truncated),
        ("GOAWAY with an error", half(&[]).write(Frame::go_away(1, INTERNAL_ERROR)).close(), Kind::Truncated),
    ] {
        told_of(name, script, kind, Phase::Body, Delivery::Answered, false).await;
    }
}

#[tokio::test]
async fn a_body_that_contradicts_its_content_length() {
    for (name, length) in [("shorter", "10"), ("longer", "3")] {
        let fields = [("content-length", length)];
        let script = greeted().write(Frame::response(1, 200, &fields)).write(Frame::data(1, "hello").end());
        told_of(name, script, Kind::Protocol, Phase::Body, Delivery::Answered, true).await;
    }
}

/// A server may take what has arrived for all there is: it must not look like that.
#[tokio::test]
async fn a_request_body_that_contradicts_its_content_length() {
    for (name, length, body) in [
        ("shorter", "9", TestBody::new().data("half")),
        ("shorter, its end unannounced", "9", TestBody::new().data("half").unannounced_end()),
        ("shorter, with trailers", "9", TestBody::new().data("half").trailer("x-sum", "4").unsized_hint()),
        ("nothing", "9", TestBody::new()),
        ("an empty frame", "9", TestBody::new().data("")),
        ("longer", "3", TestBody::new().data("half")),
        ("longer by a frame", "4", TestBody::new().data("half").data("more")),
    ] {
        let upstream = Hostile::new(serves(greeted(), 3)).start();
        let mut request = secretive(Method::POST, &upstream.uri("/"), body);
        request.headers_mut().insert(header::CONTENT_LENGTH, length.parse().unwrap());
        let expected = of(Kind::RequestBody, Phase::Send, Delivery::Maybe).survives(true);
        fails(name, pool(), &[&upstream], request, expected).await;
        assert_eq!(resets(&upstream, 0), [(1, Some(CANCEL))], "{name}");
        let sent = [FrameKind::HEADERS, FrameKind::DATA].map(|kind| frames(&upstream, 0, kind)).concat();
        let ended: Vec<_> = sent.iter().filter(|frame| frame.is_end()).map(|frame| frame.stream).collect();
        assert_eq!(ended, [3], "{name}");
    }
}

/// h2 counts them: a peer that sends nothing in many frames is up to no good.
#[tokio::test]
async fn empty_frames_without_end() {
    let flood: Vec<u8> = Bytes::from(Frame::data(1, "")).repeat(10_000);
    let script = greeted().write(Frame::response(1, 200, &[])).write(flood);
    told_of("empty DATA", script, Kind::Protocol, Phase::Body, Delivery::Answered, false).await;
}

// === heads ===

#[tokio::test]
async fn a_head_that_is_too_large() {
    let large = "x".repeat(100_000);
    for (name, fields) in [
        ("a long field", vec![("x", &*large)]),
        ("many fields", vec![("x", "thirty bytes, more than a name"); 3_000]),
    ] {
        let block = Bytes::from(Frame::response(1, 200, &fields)).slice(9..);
        let mut script = greeted();
        let pieces: Vec<_> = block.chunks(16_384).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let kind = if at == 0 { FrameKind::HEADERS } else { FrameKind::CONTINUATION };
            let end_headers = if at + 1 == pieces.len() { 4 } else { 0 };
            script = script.write(Frame::new(kind, end_headers, 1, piece.to_vec()));
        }
        told_of(name, script, Kind::TooLarge, Phase::Head, Delivery::Maybe, true).await;
    }
}

#[tokio::test]
async fn interim_responses_without_end() {
    let flood: Vec<u8> = Bytes::from(Frame::response(1, 103, &[("link", "</style.css>")])).repeat(4_000);
    told_of("a flood", greeted().write(flood.clone()), Kind::TooLarge, Phase::Head, Delivery::Maybe, true)
        .await;
    let for_ever = greeted().write_forever(flood);
    let upstream = Hostile::new(for_ever).start();
    let pool = pool();
    let error = fetch(&pool, get(upstream.uri("/"))).await.unwrap_err();
    assert!(find::<HeadTooLarge>(&*error).is_some(), "{error:?}");
    drop(upstream);
    leaves_nothing("a flood without end", pool, &[]).await;
}

#[tokio::test]
async fn some_interim_responses() {
    let interim = |script: Script, _| script.write(Frame::response(1, 103, &[("link", "</style.css>")]));
    let upstream = Hostile::new(serves(answers((0..50).fold(greeted(), interim), 1), 3)).start();
    let pool = pool();
    for _ in 0..2 {
        assert_eq!(fetch(&pool, get(upstream.uri("/"))).await.unwrap().body(), "hello");
    }
    assert_eq!(upstream.sightings().connections.len(), 1);
    leaves_nothing("interim", pool, &[&upstream]).await;
}

// === frames that must not come ===

#[tokio::test]
async fn frames_that_must_not_come() {
    let promise = Frame::new(FrameKind::PUSH_PROMISE, 4, 1, vec![0, 0, 0, 2, 0x82]);
    let head = || Phase::Head;
    for (name, script, survives) in [
        ("a push", greeted().write(promise), false),
        ("a stream of the server's own", greeted().write(Frame::response(2, 200, &[])), false),
        ("a stream that nobody has begun", greeted().write(Frame::data(9, "x")), false),
        ("DATA before HEADERS", greeted().write(Frame::data(1, "x")), false),
        ("a head without status", greeted().write(Frame::new(FrameKind::HEADERS, 4, 1, "")), true),
        (
            "HEADERS that nobody can read",
            greeted().write(Frame::new(FrameKind::HEADERS, 4, 1, "\u{7f}")),
            false,
        ),
        ("a window of nothing", greeted().write(Frame::window_update(0, 0)), false),
        ("a window too large", greeted().write(Frame::window_update(0, i32::MAX as u32)), false),
        (
            "a SETTINGS of five bytes",
            greeted().write(Frame::new(FrameKind::SETTINGS, 0, 0, vec![0; 5])),
            false,
        ),
        ("a frame too large", greeted().write(Frame::data(1, vec![0; 17_000])), false),
    ] {
        told_of(name, script, Kind::Protocol, head(), Delivery::Maybe, survives).await;
    }
}

// === before the first request ===

#[tokio::test]
async fn no_settings_or_none_that_let_anything_begin() {
    let none_ever = Script::new().http2();
    let no_streams = Script::new().http2().write(Frame::settings(&[(MAX_CONCURRENT_STREAMS, 0)]));
    for (name, script) in [("no SETTINGS", none_ever), ("no streams", no_streams)] {
        let upstream = Hostile::new(script).start();
        let pool = build(builder().http2_handshake_timeout(Duration::from_millis(20)));
        let expected = of(Kind::Timeout, Phase::Connect, Delivery::NotSent);
        fails(name, pool, &[&upstream], with(Method::POST, &upstream), expected).await;
        assert_eq!(count(&upstream, 0, FrameKind::HEADERS), 0, "{name}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_http_1() {
    let bad = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let upstream = Hostile::new(Script::new().first_byte().write(bad).close()).start();
    let expected = of(Kind::Protocol, Phase::Connect, Delivery::NotSent);
    fails("HTTP/1.1", pool(), &[&upstream], with(Method::POST, &upstream), expected).await;
}

#[tokio::test]
async fn a_server_that_leaves_before_it_says_anything() {
    for (name, script, kind) in [
        ("FIN", Script::new().http2().close(), Kind::Closed),
        ("RST", Script::new().http2().reset(), Kind::Reset),
        ("GOAWAY", Script::new().http2().write(Frame::go_away(0, PROTOCOL_ERROR)).close(), Kind::Closed),
    ] {
        let upstream = Hostile::new(script).start();
        let expected = of(kind, Phase::Connect, Delivery::NotSent);
        fails(name, pool(), &[&upstream], with(Method::POST, &upstream), expected).await;
    }
}

#[tokio::test]
async fn who_gives_up_before_the_settings_leaves_nothing() {
    let upstream = Hostile::new(Script::new().http2()).then(healthy()).start();
    let pool = build(builder().max_connections(1));
    let (call, next) = (start(&pool, &upstream), start(&pool, &upstream));
    upstream.accepted(1).await;
    until_frames(&upstream, "the client's SETTINGS", 0, FrameKind::SETTINGS, 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(next.await.unwrap().unwrap().body(), "hello", "the next one dials");
    assert_eq!(upstream.sightings().connections.len(), 2);
    leaves_nothing("given up", pool, &[&upstream]).await;
}

// === how many streams ===

type Call = tokio::task::JoinHandle<Result<http::Response<Bytes>, outbound_core::BoxError>>;

fn start(pool: &Pool<Tcp>, upstream: &Upstream) -> Call {
    start_with(pool, with(Method::GET, upstream))
}

fn start_with(pool: &Pool<Tcp>, request: Request<TestBody>) -> Call {
    let pool = pool.clone();
    tokio::spawn(async move { fetch(&pool, request).await })
}

/// What comes of a call that would be waited for in vain if the pool were wrong.
async fn answered(pool: &Pool<Tcp>, call: Call) -> http::Response<Bytes> {
    until(pool, "an answer", |_| call.is_finished()).await;
    call.await.unwrap().unwrap()
}

#[tokio::test]
async fn one_stream_at_a_time_serves_many_and_who_gives_up_takes_no_place() {
    let goes = Gate::new("goes");
    let one = Frame::settings(&[(MAX_CONCURRENT_STREAMS, 1)]);
    let script = Script::new().http2().write(one).until_frame(FrameKind::HEADERS).wait(&goes);
    let upstream = Hostile::new(serves(answers(script, 1), 3)).start();
    let pool = build(builder().max_connections_per_host(1));
    let mut calls: Vec<_> = (0..4).map(|_| start(&pool, &upstream)).collect();
    until(&pool, "three to wait", |stats| stats.waiting == 3).await;
    let given_up = calls.remove(1);
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    goes.open();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().body(), "hello");
    }
    assert_eq!(count(&upstream, 0, FrameKind::HEADERS), 3);
    assert!(resets(&upstream, 0).is_empty(), "what has not begun needs no end");
    leaves_nothing("one stream", pool, &[&upstream]).await;
}

#[tokio::test]
async fn a_peer_that_allows_fewer_streams_from_now_on() {
    for (name, allowed) in [("one", 1), ("none", 0)] {
        let (lowers, raises) = (Gate::new("lowers"), Gate::new("raises"));
        let script = greeted()
            .wait(&lowers)
            .write(Frame::settings(&[(MAX_CONCURRENT_STREAMS, allowed)]))
            .write(Frame::response(1, 200, &[]))
            .wait(&raises)
            .write(Frame::settings(&[(MAX_CONCURRENT_STREAMS, 100)]))
            .until_frame(FrameKind::HEADERS)
            .write(Frame::response(3, 200, &[]))
            .write(Frame::data(3, "hello").end())
            .write(Frame::data(1, "hello").end());
        let upstream = Hostile::new(serves(script, 5)).start();
        let pool = build(builder().max_connections_per_host(1));
        let first = {
            let (pool, request) = (pool.clone(), get(upstream.uri("/")));
            tokio::spawn(async move { send(&pool, request).await })
        };
        upstream.accepted(1).await;
        until_frames(&upstream, "the first", 0, FrameKind::HEADERS, 1).await;
        lowers.open();
        // Its head comes after the SETTINGS, so those have been read.
        let first = first.await.unwrap().expect(name);
        let second = start(&pool, &upstream);
        until(&pool, "the second to wait", |stats| stats.waiting == 1).await;
        assert_eq!(count(&upstream, 0, FrameKind::HEADERS), 1, "{name}");
        raises.open();
        assert_eq!(second.await.unwrap().expect(name).body(), "hello", "{name}");
        assert_eq!(first.into_body().collect().await.expect(name).to_bytes(), "hello", "{name}");
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

// === flow control ===

#[tokio::test]
async fn an_upload_that_the_peer_has_no_room_for_is_given_up() {
    let none = Frame::settings(&[(INITIAL_WINDOW_SIZE, 0)]);
    let script = Script::new().http2().write(none).until_frame(FrameKind::HEADERS);
    let upstream = Hostile::new(serves(script, 3)).start();
    let (pool, lives) = (pool(), Lives::new());
    let mut request =
        request(Method::POST, upstream.uri("/"), TestBody::from("no room for this").counted(&lives));
    let exchange = Exchange::track(&mut request);
    let call = tokio::spawn({
        let pool = pool.clone();
        async move { fetch(&pool, request).await }
    });
    upstream.accepted(1).await;
    until_frames(&upstream, "the head", 0, FrameKind::HEADERS, 1).await;
    assert_eq!((exchange.phase(), exchange.delivery()), (Phase::Send, Delivery::Maybe));
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    until_frames(&upstream, "the reset", 0, FrameKind::RST_STREAM, 1).await;
    assert_eq!((resets(&upstream, 0), lives.alive()), (vec![(1, Some(CANCEL))], 0));
    assert_eq!(count(&upstream, 0, FrameKind::DATA), 0);
    until_frames(&upstream, "the ping", 0, FrameKind::PING, 1).await;
    settle(&upstream, &pool).await;
    assert_eq!(answered(&pool, start(&pool, &upstream)).await.body(), "hello");
    assert_eq!(upstream.sightings().connections.len(), 1, "it answered the ping");
    leaves_nothing("no room", pool, &[&upstream]).await;
}

#[tokio::test]
async fn a_body_that_nobody_reads_stops_no_other() {
    let upstream = Friendly::new(handler::fixed(8_000_000)).http2().start();
    let pool = pool();
    let mut unread = Vec::new();
    for _ in 0..3 {
        unread.push(send(&pool, get(upstream.uri("/"))).await.unwrap());
    }
    let read = fetch(&pool, get(upstream.uri("/"))).await.unwrap();
    assert_eq!(read.body().len(), 8_000_000);
    assert_eq!(upstream.sightings().connections.len(), 1);
    let late = unread.pop().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(late.len(), 8_000_000, "what was not read was not lost");
    drop(unread);
    leaves_nothing("unread", pool, &[&upstream]).await;
}

// === pings ===

const INTERVAL: Duration = Duration::from_secs(10);
/// What h2 writes into a ping of its user's.
const OPAQUE: [u8; 8] = [0x3b, 0x7c, 0xdb, 0x7a, 0x0b, 0x87, 0x16, 0xb4];
const PING: Duration = Duration::from_secs(2);

/// A clock that stands still, and so many turns that whatever is on its way has arrived.
async fn settle(upstream: &Upstream, pool: &Pool<Tcp>) {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    let _ = (upstream.sightings(), pool.stats());
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_asked_and_if_it_does_not_answer_all_its_streams_fail() {
    let _frozen = Frozen::new();
    let upstream = Hostile::new(greeted().until_frame(FrameKind::HEADERS).mute()).start();
    let pool = build(builder().http2_keep_alive(INTERVAL).http2_ping_timeout(PING));
    let calls = [start(&pool, &upstream), start(&pool, &upstream)];
    upstream.accepted(1).await;
    until_frames(&upstream, "both heads", 0, FrameKind::HEADERS, 2).await;
    settle(&upstream, &pool).await;
    // What came before the first interval was heard in it.
    tokio::time::advance(INTERVAL).await;
    settle(&upstream, &pool).await;
    tokio::time::advance(INTERVAL - Duration::from_millis(1)).await;
    settle(&upstream, &pool).await;
    assert_eq!(count(&upstream, 0, FrameKind::PING), 0);
    tokio::time::advance(Duration::from_millis(1)).await;
    until_frames(&upstream, "the ping", 0, FrameKind::PING, 1).await;
    tokio::time::advance(PING - Duration::from_millis(1)).await;
    settle(&upstream, &pool).await;
    assert!(calls.iter().all(|call| !call.is_finished()));
    tokio::time::advance(Duration::from_millis(1)).await;
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        let failure = Failure::of(&*error);
        assert_eq!(
            (failure.kind(), failure.phase(), failure.delivery()),
            (Kind::Timeout, Some(Phase::Head), Delivery::Maybe),
            "{error}"
        );
        assert_eq!(find::<Elapsed>(&*error).unwrap().limit(), PING, "{error}");
    }
    tokio::time::resume();
    leaves_nothing("silence", pool, &[&upstream]).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_that_answers_its_pings_is_waited_for() {
    let _frozen = Frozen::new();
    let goes = Gate::new("goes");
    let pinged = |script: Script, _| script.until_frame(FrameKind::PING);
    let script = (0..5).fold(greeted(), pinged).wait(&goes);
    let upstream = Hostile::new(serves(answers(script, 1), 3)).start();
    let pool = build(builder().http2_keep_alive(INTERVAL).http2_ping_timeout(PING));
    let call = start(&pool, &upstream);
    upstream.accepted(1).await;
    until_frames(&upstream, "the head", 0, FrameKind::HEADERS, 1).await;
    for pings in 0..5 {
        // Its answer to the ping before is something that it said.
        for _ in 0..2 {
            settle(&upstream, &pool).await;
            tokio::time::advance(INTERVAL).await;
        }
        until_frames(&upstream, "a ping", 0, FrameKind::PING, pings + 1).await;
    }
    goes.open();
    assert_eq!(call.await.unwrap().unwrap().body(), "hello");
    tokio::time::advance(INTERVAL * 3).await;
    settle(&upstream, &pool).await;
    assert_eq!(count(&upstream, 0, FrameKind::PING), 5, "an idle connection is not asked");
    tokio::time::resume();
    leaves_nothing("patience", pool, &[&upstream]).await;
}

/// A call is given up, the head of which, the `nth`, the peer has seen.
async fn give_up(upstream: &Upstream, pool: &Pool<Tcp>, nth: usize) {
    let call = start(pool, upstream);
    upstream.accepted(1).await;
    until_frames(upstream, "the head", 0, FrameKind::HEADERS, nth).await;
    settle(upstream, pool).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
}

/// OkHttp: `oneStreamTimeoutDoesNotBreakConnection`. Until the answer is there, nobody else is sent that way.
#[tokio::test(start_paused = true)]
async fn after_a_stream_was_given_up_the_peer_is_asked_before_it_is_used_again() {
    let _frozen = Frozen::new();
    let answers_ping = Gate::new("answers the ping");
    let asked = greeted().mute().until_frame(FrameKind::PING).until_frame(FrameKind::RST_STREAM);
    // Another word than the answer is no answer.
    let doubted = asked.write(Frame::settings(&[(MAX_CONCURRENT_STREAMS, 50)])).wait(&answers_ping);
    let pong = Frame::new(FrameKind::PING, 1, 0, OPAQUE.to_vec());
    let upstream = Hostile::new(serves(doubted.write(pong), 3)).then(healthy()).start();
    let pool = build(builder().http2_ping_timeout(PING));
    give_up(&upstream, &pool, 1).await;
    until_frames(&upstream, "the ping", 0, FrameKind::PING, 1).await;
    until_frames(&upstream, "the reset", 0, FrameKind::RST_STREAM, 1).await;
    assert_eq!(resets(&upstream, 0), [(1, Some(CANCEL))]);
    settle(&upstream, &pool).await;
    answered(&pool, start(&pool, &upstream)).await;
    assert_eq!(upstream.sightings().connections.len(), 2, "in doubt a new connection is taken");
    answers_ping.open();
    settle(&upstream, &pool).await;
    tokio::time::advance(PING * 2).await;
    settle(&upstream, &pool).await;
    let stats = pool.stats();
    assert_eq!((stats.connections.idle, stats.connections.open()), (2, 2), "it has answered: {stats:?}");
    tokio::time::resume();
    leaves_nothing("doubt", pool, &[&upstream]).await;
}

/// Where there may be no other connection, the next call waits for the answer.
#[tokio::test(start_paused = true)]
async fn after_a_stream_was_given_up_the_peer_is_used_again_once_it_has_answered() {
    let _frozen = Frozen::new();
    let answers_ping = Gate::new("answers the ping");
    let asked = greeted().mute().until_frame(FrameKind::PING).until_frame(FrameKind::RST_STREAM);
    let pong = Frame::new(FrameKind::PING, 1, 0, OPAQUE.to_vec());
    let upstream = Hostile::new(serves(asked.wait(&answers_ping).write(pong), 3)).start();
    let pool = build(builder().max_connections_per_host(1).http2_ping_timeout(PING));
    give_up(&upstream, &pool, 1).await;
    until_frames(&upstream, "the reset", 0, FrameKind::RST_STREAM, 1).await;
    settle(&upstream, &pool).await;
    let next = start(&pool, &upstream);
    until(&pool, "it to wait", |stats| stats.waiting == 1).await;
    answers_ping.open();
    assert_eq!(answered(&pool, next).await.body(), "hello");
    assert_eq!(upstream.sightings().connections.len(), 1);
    tokio::time::resume();
    leaves_nothing("an answer", pool, &[&upstream]).await;
}

/// A peer that has said something since the stream began is there: it is not asked, and its connection goes on at once.
#[tokio::test(start_paused = true)]
async fn a_stream_that_was_given_up_is_no_reason_to_doubt_a_peer_that_talks() {
    let _frozen = Frozen::new();
    let beside = answers(greeted().until_frame(FrameKind::HEADERS), 3);
    let upstream = Hostile::new(serves(beside, 5)).start();
    let pool = build(builder().http2_ping_timeout(PING));
    let given_up = start(&pool, &upstream);
    upstream.accepted(1).await;
    until_frames(&upstream, "the head", 0, FrameKind::HEADERS, 1).await;
    assert_eq!(start(&pool, &upstream).await.unwrap().unwrap().body(), "hello", "another is answered");
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    assert_eq!(fetch(&pool, get(upstream.uri("/"))).await.unwrap().body(), "hello");
    until_frames(&upstream, "the reset", 0, FrameKind::RST_STREAM, 1).await;
    settle(&upstream, &pool).await;
    assert_eq!((resets(&upstream, 0), count(&upstream, 0, FrameKind::PING)), (vec![(1, Some(CANCEL))], 0));
    assert_eq!(upstream.sightings().connections.len(), 1);
    tokio::time::resume();
    leaves_nothing("no doubt", pool, &[&upstream]).await;
}

/// As before the head: who waited, and heard nothing, doubts. Who had not asked for more has heard all it wanted to.
#[tokio::test(start_paused = true)]
async fn after_a_body_was_given_up_in_silence_the_peer_is_asked() {
    let _frozen = Frozen::new();
    for (name, waits) in [("waited for", true), ("not waited for", false)] {
        let upstream = Hostile::new(serves(half(&[]).mute(), 3)).then(healthy()).start();
        let pool = build(builder().http2_ping_timeout(PING));
        let mut body = send(&pool, get(upstream.uri("/"))).await.expect(name).into_body();
        assert_eq!(body.frame().await.expect(name).expect(name).into_data().unwrap(), "hello", "{name}");
        settle(&upstream, &pool).await;
        if waits {
            let more = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx)));
            assert!(more.await.is_pending(), "{name}");
        }
        drop(body);
        until_frames(&upstream, "the reset", 0, FrameKind::RST_STREAM, 1).await;
        settle(&upstream, &pool).await;
        assert_eq!(count(&upstream, 0, FrameKind::PING), usize::from(waits), "{name}");
        answered(&pool, start(&pool, &upstream)).await;
        assert_eq!(upstream.sightings().connections.len(), 1 + usize::from(waits), "{name}");
        tokio::time::advance(PING).await;
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

/// gRPC's servers take pings without anything of theirs in between for an attack (`too_many_pings`, golang/go#70575). A peer that has
/// nothing to say for long gets no more requests instead.
#[tokio::test(start_paused = true)]
async fn a_peer_is_not_asked_twice_without_a_word_in_between() {
    let _frozen = Frozen::new();
    let script = greeted().until_frame(FrameKind::HEADERS).until_frame(FrameKind::HEADERS);
    let upstream = Hostile::new(answers(script, 5)).start();
    let pool = build(builder().http2_ping_timeout(PING).max_connections_per_host(1));
    for (nth, pings, open) in [(1, 1, 1), (2, 1, 1)] {
        give_up(&upstream, &pool, nth).await;
        until_frames(&upstream, "the reset", 0, FrameKind::RST_STREAM, nth).await;
        settle(&upstream, &pool).await;
        assert_eq!(count(&upstream, 0, FrameKind::PING), pings, "given up: {nth}");
        assert_eq!(pool.stats().connections.idle, open, "given up: {nth}");
    }
    assert_eq!(answered(&pool, start(&pool, &upstream)).await.body(), "hello");
    tokio::time::advance(PING * 10).await;
    give_up(&upstream, &pool, 4).await;
    until_frames(&upstream, "it to be asked again", 0, FrameKind::PING, 2).await;
    settle(&upstream, &pool).await;
    assert_eq!(pool.stats().connections.idle, 1, "it has answered");
    tokio::time::advance(PING).await;
    give_up(&upstream, &pool, 5).await;
    until_frames(&upstream, "the reset", 0, FrameKind::RST_STREAM, 4).await;
    upstream.all_closed().await;
    assert_eq!(count(&upstream, 0, FrameKind::PING), 2);
    tokio::time::resume();
    leaves_nothing("no word", pool, &[&upstream]).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_stream_was_given_up_a_peer_that_does_not_answer_is_left() {
    let _frozen = Frozen::new();
    let upstream = Hostile::new(greeted().mute()).start();
    let pool = build(builder().http2_ping_timeout(PING));
    let mut events = pool.events();
    let calls: Vec<_> = (0..2).map(|_| start(&pool, &upstream)).collect();
    upstream.accepted(1).await;
    until_frames(&upstream, "both heads", 0, FrameKind::HEADERS, 2).await;
    settle(&upstream, &pool).await;
    for call in calls {
        call.abort();
        let _ = call.await;
    }
    until_frames(&upstream, "the ping", 0, FrameKind::PING, 1).await;
    tokio::time::advance(PING - Duration::from_millis(1)).await;
    settle(&upstream, &pool).await;
    assert_eq!((pool.stats().connections.open(), upstream.open()), (1, 1));
    tokio::time::advance(Duration::from_millis(1)).await;
    upstream.all_closed().await;
    assert_eq!(count(&upstream, 0, FrameKind::PING), 1, "one doubt at a time");
    assert_eq!(closed_because(&mut events).await, Why::Drained);
    tokio::time::resume();
    leaves_nothing("dead", pool, &[&upstream]).await;
}

// === resets of our own ===

/// More than are reset at once.
const CALLS: usize = 150;

async fn given_up_at_once(upstream: &Upstream, pool: &Pool<Tcp>) {
    let calls: Vec<_> = (0..CALLS).map(|_| start(pool, upstream)).collect();
    upstream.accepted(1).await;
    until_frames(upstream, "all heads", 0, FrameKind::HEADERS, CALLS).await;
    settle(upstream, pool).await;
    calls.iter().for_each(|call| call.abort());
    for call in calls {
        let _ = call.await;
    }
    until_frames(upstream, "the first resets", 0, FrameKind::RST_STREAM, 100).await;
    settle(upstream, pool).await;
}

/// Servers that guard against rapid resets (CVE-2023-44487) close the connection for all: golang/go#76296.
#[tokio::test(start_paused = true)]
async fn calls_given_up_by_the_hundred_are_reset_at_a_pace() {
    let _frozen = Frozen::new();
    let upstream = Hostile::new(greeted()).start();
    let pool = pool();
    given_up_at_once(&upstream, &pool).await;
    assert_eq!(resets(&upstream, 0).len(), 100, "as many as servers take at once");
    assert_eq!(pool.stats().exchanges, CALLS - 100, "the others are still there");
    for more in 1..=CALLS - 100 {
        tokio::time::advance(Duration::from_millis(10)).await;
        until_frames(&upstream, "one more", 0, FrameKind::RST_STREAM, 100 + more).await;
        settle(&upstream, &pool).await;
        assert_eq!(resets(&upstream, 0).len(), 100 + more, "one every ten milliseconds");
    }
    assert_eq!(pool.stats().exchanges, 0);
    tokio::time::resume();
    leaves_nothing("a storm", pool, &[&upstream]).await;
}

#[tokio::test(start_paused = true)]
async fn request_bodies_that_fail_are_reset_at_that_pace() {
    let _frozen = Frozen::new();
    let upstream = Hostile::new(greeted()).start();
    let pool = pool();
    let body = || TestBody::new().data("half").error("broken");
    let calls: Vec<_> =
        (0..CALLS).map(|_| start_with(&pool, request(Method::POST, upstream.uri("/"), body()))).collect();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(Failure::of(&*error).kind(), Kind::RequestBody, "{error}");
    }
    until_frames(&upstream, "the first resets", 0, FrameKind::RST_STREAM, 100).await;
    settle(&upstream, &pool).await;
    assert_eq!((resets(&upstream, 0).len(), pool.stats().exchanges), (100, CALLS - 100));
    drop(pool);
    tokio::time::advance(Duration::from_millis(10)).await;
    upstream.all_closed().await;
}

/// There is nobody left whom the peer's displeasure could hit.
#[tokio::test(start_paused = true)]
async fn what_has_been_given_up_does_not_outlive_the_pool() {
    let _frozen = Frozen::new();
    let upstream = Hostile::new(greeted()).start();
    let pool = pool();
    given_up_at_once(&upstream, &pool).await;
    drop(pool);
    tokio::time::advance(Duration::from_millis(10)).await;
    upstream.all_closed().await;
}

/// What it sent before it knew of the reset is passed over (RFC 9113, 5.1). Of each stream that is forgotten h2 counts that it comes late, and
/// never forgets that: in the end it closes the connection.
#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_late_harms_no_other() {
    const ROUNDS: usize = 2;
    let _frozen = Frozen::new();
    let late = Gate::new("late");
    let reads = |kind| Script::new().until_frame(kind);
    let script = Script::new().http2().write(Frame::settings(&[]));
    let script = script.repeat(ROUNDS * 100, reads(FrameKind::HEADERS));
    let script = script.repeat(100, reads(FrameKind::RST_STREAM)).wait(&late);
    let answers: Vec<u8> = (0..ROUNDS as u32 * 100)
        .flat_map(|nth| Bytes::from(Frame::response(2 * nth + 1, 200, &[]).end()))
        .collect();
    let upstream = Hostile::new(serves(script.write(answers), 2 * ROUNDS as u32 * 100 + 1)).start();
    let pool = build(builder().max_connections_per_host(1).http2_ping_timeout(INTERVAL));
    for round in 1..=ROUNDS {
        let calls: Vec<_> = (0..100).map(|_| start(&pool, &upstream)).collect();
        upstream.accepted(1).await;
        until_frames(&upstream, "all heads", 0, FrameKind::HEADERS, round * 100).await;
        settle(&upstream, &pool).await;
        for call in calls {
            call.abort();
            let _ = call.await;
        }
        until_frames(&upstream, "the resets", 0, FrameKind::RST_STREAM, round * 100).await;
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    late.open();
    assert_eq!(answered(&pool, start(&pool, &upstream)).await.body(), "hello");
    assert_eq!(resets(&upstream, 0).len(), ROUNDS * 100, "none is reset twice");
    assert_eq!(upstream.sightings().connections.len(), 1);
    tokio::time::resume();
    leaves_nothing("late answers", pool, &[&upstream]).await;
}

#[tokio::test]
async fn a_peer_that_has_had_enough_of_them() {
    let script =
        greeted().until_frame(FrameKind::HEADERS).write(Frame::go_away(3, ENHANCE_YOUR_CALM)).close();
    let upstream = Hostile::new(script).start();
    let pool = pool();
    let calls = [(); 2].map(|()| start_with(&pool, with(Method::POST, &upstream)));
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        let failure = Failure::of(&*error);
        let told = (failure.kind(), failure.phase(), failure.delivery());
        assert_eq!(told, (Kind::Closed, Some(Phase::Head), Delivery::Maybe), "{error}");
    }
    assert_eq!((quiet(&pool).await.connections.open(), upstream.sightings().connections.len()), (0, 1));
    leaves_nothing("calm", pool, &[&upstream]).await;
}

// === why connections are closed ===

/// Why the next connection was closed.
async fn closed_because(events: &mut Events) -> Why {
    loop {
        if let What::Closed(why) = events.next().await.unwrap().unwrap().what {
            return why;
        }
    }
}

#[tokio::test]
async fn the_reason_for_which_a_connection_was_closed_is_told() {
    let goes = Gate::new("goes");
    for (name, script, answered, why) in [
        ("FIN while idle", answers(greeted(), 1).wait(&goes).close(), true, Why::Lost),
        ("GOAWAY", answers(greeted(), 1).wait(&goes).write(Frame::go_away(1, NO_ERROR)), true, Why::Drained),
        ("FIN before the head", greeted().close(), false, Why::Spent),
        ("FIN within the body", half(&[]).close(), false, Why::Spent),
    ] {
        let upstream = Hostile::new(script).start();
        let pool = pool();
        let mut events = pool.events();
        assert_eq!(fetch(&pool, with(Method::POST, &upstream)).await.is_ok(), answered, "{name}");
        quiet(&pool).await;
        goes.open();
        assert_eq!(closed_because(&mut events).await, why, "{name}");
        assert_eq!(pool.stats().totals.lost, u64::from(why == Why::Lost), "{name}");
        leaves_nothing(name, pool, &[&upstream]).await;
        goes.close();
    }
}

// === connections closed while idle ===

/// The runtime has not turned since, so that nobody has read the end of the connection.
#[tokio::test]
async fn an_idle_connection_that_has_ended_is_found() {
    for (name, end) in [
        ("FIN", (|script| script.close()) as fn(Script) -> Script),
        ("GOAWAY and FIN", |script| script.write(Frame::go_away(1, NO_ERROR)).close()),
        ("RST", |script| script.reset()),
    ] {
        let goes = Gate::new("goes");
        let first = end(answers(greeted(), 1).wait(&goes));
        let upstream = Hostile::new(first).then(healthy()).own_thread().start();
        let pool = pool();
        fetch(&pool, with(Method::POST, &upstream)).await.expect(name);
        quiet(&pool).await;
        goes.open();
        upstream.until_blocking("the close", |seen| seen.connections[0].ended.is_some());
        let answered = fetch(&pool, with(Method::POST, &upstream)).await;
        assert_eq!(answered.expect(name).body(), "hello", "{name}");
        let seen = upstream.sightings();
        assert_eq!(seen.connections.len(), 2, "{name}");
        assert_eq!(count(&upstream, 0, FrameKind::HEADERS), 1, "{name}: nothing was sent into the void");
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}

/// As over HTTP/1.1: what is idempotent is sent again, once, if the connection had been used and nothing came back.
#[tokio::test]
async fn a_request_that_meets_the_close_is_sent_again_only_if_that_is_safe() {
    for (name, method, again) in
        [("GET", Method::GET, true), ("PUT", Method::PUT, true), ("POST", Method::POST, false)]
    {
        let dies = answers(greeted(), 1).until_frame(FrameKind::HEADERS).close();
        let upstream = Hostile::new(dies).then(healthy()).start();
        let pool = pool();
        fetch(&pool, get(upstream.uri("/"))).await.expect(name);
        let body: TestBody = if method == Method::GET { TestBody::new() } else { "body".into() };
        let answered = fetch(&pool, request(method, upstream.uri("/"), body)).await;
        assert_eq!(answered.is_ok(), again, "{name}: {answered:?}");
        if let Err(error) = answered {
            let failure = Failure::of(&*error);
            let told = (failure.kind(), failure.phase(), failure.delivery());
            assert_eq!(told, (Kind::Closed, Some(Phase::Head), Delivery::Maybe), "{error}");
        }
        let connections = upstream.sightings().connections.len();
        assert_eq!(connections, if again { 2 } else { 1 }, "{name}");
        let open = |stats: &outbound_pool::Stats| stats.connections.open() == connections - 1;
        until(&pool, "the first to be closed, and only that", open).await;
        leaves_nothing(name, pool, &[&upstream]).await;
    }
}
