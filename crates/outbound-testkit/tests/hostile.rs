//! Every step of a script does on the wire what it says.

mod client;

use std::time::Duration;

use client::{Client, End, GET, HELLO};
use outbound_testkit::{
    Answer, BlackHole, Ended, Frame, FrameKind, Gate, Hostile, Refusal, Script, Upstream,
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout},
};

fn script() -> Script {
    Script::new()
}

/// Starts the script, sends a GET and reads to the end.
async fn played(script: Script) -> (End, Ended) {
    let upstream = Hostile::new(script).start();
    let mut client = Client::of(&upstream).await;
    // A server that has closed already refuses it.
    let _ = client.0.write_all(GET.as_bytes()).await;
    let end = client.end().await;
    drop(client);
    (end, upstream.ended(0).await)
}

// === Where a connection ends ===

#[tokio::test]
async fn closes_and_resets_at_every_place() {
    let hello = || Answer::new(200, "hello");
    let places = [
        ("before the head", script().read_head(), ""),
        ("mid head", script().exchange(hello().cut_head(9)), "HTTP/1.1 "),
        ("after the head", script().exchange(hello().cut_body(0)), &HELLO[..38]),
        ("mid body", script().exchange(hello().cut_body(2)), &HELLO[..40]),
        ("after the response", script().exchange(hello()), HELLO),
    ];
    for (place, script, sent) in places {
        let (end, ended) = played(script.clone().close()).await;
        assert_eq!(end, End::Fin(sent.into()), "close {place}");
        assert_eq!(ended, Ended::ByUsFin, "close {place}");

        // The kernel may throw away what it sent right before a reset: a gate lets the client read first.
        let gate = Gate::new("read");
        let upstream = Hostile::new(script.wait(&gate).reset()).start();
        let mut client = Client::of(&upstream).await;
        client.send(GET).await;
        client.expect(sent).await;
        gate.open();
        assert_eq!(client.end().await, End::Reset(String::new()), "reset {place}");
        assert_eq!(upstream.ended(0).await, Ended::ByUsReset, "reset {place}");
    }
}

#[tokio::test]
async fn resets_right_after_accepting() {
    let (end, ended) = played(script().reset()).await;
    assert_eq!((end, ended), (End::Reset(String::new()), Ended::ByUsReset));
}

#[tokio::test]
async fn close_is_no_reset_even_with_unread_bytes() {
    let gate = Gate::new("request sent");
    let upstream = Hostile::new(script().wait(&gate).close()).start();
    let mut client = Client::of(&upstream).await;
    client.send(GET).await;
    gate.open();
    assert_eq!(client.end().await, End::Fin(String::new()));
    assert_eq!(upstream.ended(0).await, Ended::ByUsFin);
    // A reset behind the FIN would be an error waiting for the client's next write.
    assert!(client.0.take_error().unwrap().is_none());
}

#[tokio::test]
async fn closes_when_the_first_byte_of_the_next_request_arrives() {
    let upstream = Hostile::new(script().exchange(Answer::new(200, "hello")).first_byte().close()).start();
    let mut client = Client::of(&upstream).await;
    client.send(GET).await;
    client.expect(HELLO).await;
    assert!(client.silent());
    assert_eq!(upstream.open(), 1);
    client.send("P").await;
    assert_eq!(client.end().await, End::Fin(String::new()));
    assert_eq!(upstream.ended(0).await, Ended::ByUsFin);
    assert_eq!(upstream.sightings().connections[0].unparsed, b"P");
}

#[tokio::test]
async fn half_close_ends_one_direction() {
    let upstream = Hostile::new(script().read_head().half_close().read_body()).start();
    let mut client = Client::of(&upstream).await;
    client.send("PUT / HTTP/1.1\r\ncontent-length: 4\r\n\r\n").await;
    assert_eq!(client.end().await, End::Fin(String::new()));
    assert_eq!(upstream.open(), 1);
    client.send("late").await;
    assert_eq!(upstream.requests(1).await[0].body, b"late");
    drop(client);
    assert_eq!(upstream.ended(0).await, Ended::ByUsFin);
}

// === Reading ===

#[tokio::test]
async fn records_a_request() {
    let upstream = Hostile::new(Script::hello()).start();
    let mut client = Client::of(&upstream).await;
    let head = "POST /p?q HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\nX-A: 2\r\n\r\n";
    let body = "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    client.send(format!("{head}{body}")).await;
    client.expect(HELLO).await;
    let request = upstream.requests(1).await.remove(0);
    assert_eq!((request.method.as_str(), &*request.target), ("POST", "/p?q"));
    assert_eq!(request.headers["host"], "h");
    assert_eq!(request.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(request.body, b"abcde");
    assert_eq!(request.raw, format!("{head}{body}").as_bytes());
    assert_eq!(request.connection, 0);
}

#[tokio::test]
async fn a_request_is_whole_when_its_body_is() {
    let gate = Gate::new("half");
    let upstream = Hostile::new(script().read_head().read_exactly(2).wait(&gate).read_body()).start();
    let mut client = Client::of(&upstream).await;
    client.send("PUT / HTTP/1.1\r\ncontent-length: 4\r\n\r\nabcd").await;
    gate.arrived(1).await;
    let request = upstream.heads(1).await.remove(0);
    assert_eq!((&*request.body, request.complete), (&b"ab"[..], false));
    gate.open();
    let request = upstream.requests(1).await.remove(0);
    assert_eq!((&*request.body, request.complete), (&b"abcd"[..], true));
}

#[tokio::test]
async fn reads_exactly_so_many_bytes() {
    let upstream = Hostile::new(script().read_exactly(3).answer(200, "").close()).start();
    let mut client = Client::of(&upstream).await;
    client.send("GE").await;
    upstream.until("two bytes", |seen| seen.connections.iter().any(|c| c.bytes_in == 2)).await;
    assert!(client.silent());
    client.send("T").await;
    let empty = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(client.end().await, End::Fin(empty.into()));
    assert_eq!(upstream.ended(0).await, Ended::ByUsFin);
    assert_eq!(upstream.sightings().connections[0].unparsed, b"GET");
}

#[tokio::test]
async fn pipelined_requests_are_two() {
    let upstream = Hostile::new(Script::hello()).start();
    let mut client = Client::of(&upstream).await;
    client.send(format!("{GET}{GET}")).await;
    client.expect(&HELLO.repeat(2)).await;
    assert_eq!(upstream.requests(2).await.len(), 2);
    assert_eq!(upstream.sightings().connections[0].requests, 2);
}

#[tokio::test]
async fn what_comes_after_the_script_is_kept() {
    let upstream = Hostile::new(script().exchange(Answer::new(200, "hello"))).start();
    let mut client = Client::of(&upstream).await;
    client.send(GET).await;
    client.expect(HELLO).await;
    client.send("more").await;
    drop(client);
    assert_eq!(upstream.ended(0).await, Ended::ByPeerFin);
    assert_eq!(upstream.sightings().connections[0].unparsed, b"more");
}

#[tokio::test]
async fn an_early_answer_leaves_the_upload_to_the_script() {
    let upload = "PUT / HTTP/1.1\r\ncontent-length: 4\r\n\r\nab";
    let early = "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n";
    let answered = || script().read_head().answer(413, "");

    // Drains.
    let upstream = Hostile::new(answered().read_body().close()).start();
    let mut client = Client::of(&upstream).await;
    client.send(upload).await;
    client.expect(early).await;
    assert!(client.silent());
    client.send("cd").await;
    assert_eq!(client.end().await, End::Fin(String::new()));
    assert_eq!(upstream.requests(1).await[0].body, b"abcd");

    // Closes.
    let upstream = Hostile::new(answered().close()).start();
    let mut client = Client::of(&upstream).await;
    client.send(upload).await;
    assert_eq!(client.end().await, End::Fin(early.into()));
    assert!(!upstream.heads(1).await[0].complete);

    // Stops reading: the upload gets stuck.
    let gate = Gate::new("client gone");
    let upstream = Hostile::new(answered().wait(&gate)).start();
    let mut client = Client::of(&upstream).await;
    client.send(upload).await;
    client.expect(early).await;
    let before = upstream.sightings().connections[0].bytes_in;
    let mut sent = 0;
    while let Ok(written) = timeout(Duration::from_millis(100), client.0.write(&[b'x'; 1 << 16])).await {
        sent += written.unwrap();
        assert!(sent < 1 << 26, "the upload does not get stuck");
    }
    assert_eq!(upstream.sightings().connections[0].bytes_in, before);
    drop(client);
    gate.open();
    assert!(upstream.ended(0).await.by_peer());
}

// === Writing ===

#[tokio::test]
async fn answers_are_framed_as_told() {
    let hello = || Answer::new(200, "hello");
    let cases = [
        ("length", hello(), HELLO),
        ("header", hello().header("x", "y"), "HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 5\r\n\r\nhello"),
        (
            "chunked",
            hello().chunked(3).trailer("t", "1"),
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nt: 1\r\n\r\n",
        ),
        ("until close", hello().until_close(), "HTTP/1.1 200 OK\r\n\r\nhello"),
        ("1.0", hello().http_10(), "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello"),
        ("no content", Answer::new(204, ""), "HTTP/1.1 204 No Content\r\n\r\n"),
        ("unknown status", Answer::new(799, ""), "HTTP/1.1 799 Scripted\r\ncontent-length: 0\r\n\r\n"),
        (
            "cut chunk",
            hello().chunked(5).cut_body(4),
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nh",
        ),
        ("cut past the head", hello().cut_head(999), &HELLO[..38]),
    ];
    for (name, answer, wire) in cases {
        let (end, _) = played(script().exchange(answer).close()).await;
        assert_eq!(end, End::Fin(wire.into()), "{name}");
    }
}

#[tokio::test]
async fn writes_exact_bytes() {
    let garbage = "\0\u{1}HTTP/9\r\rcontent-length: 5\r\ncontent-length: 6\r\n\r\n";
    let (end, _) = played(script().read_head().write(garbage).close()).await;
    assert_eq!(end, End::Fin(garbage.into()));
}

#[tokio::test]
async fn writes_for_ever() {
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let upstream = Hostile::new(script().read_head().write_forever(interim)).start();
    let mut client = Client::of(&upstream).await;
    client.send(GET).await;
    client.expect(&interim.repeat(10_000)).await;
    assert_eq!(upstream.open(), 1);
    drop(client);
    assert!(upstream.ended(0).await.by_peer());
}

#[tokio::test(start_paused = true)]
async fn dribbles() {
    // Seven bytes, three at once: at 0, 50 and 100 ms.
    let every = Duration::from_millis(50);
    let upstream = Hostile::new(script().dribble("abcdefg", 3, every).close()).start();
    let mut client = Client::of(&upstream).await;
    let start = Instant::now();
    client.expect("abc").await;
    client.expect("def").await;
    client.expect("g").await;
    assert_eq!(client.end().await, End::Fin(String::new()));
    assert_eq!(start.elapsed().as_millis(), 100);
}

#[tokio::test(start_paused = true)]
async fn closes_idle_after_a_delay() {
    let idle = Duration::from_secs(75);
    let upstream = Hostile::new(script().exchange(Answer::new(200, "hello")).delay(idle).close()).start();
    let mut client = Client::of(&upstream).await;
    let start = Instant::now();
    client.send(GET).await;
    client.expect(HELLO).await;
    assert_eq!(client.end().await, End::Fin(String::new()));
    assert_eq!(start.elapsed().as_secs(), 75);
}

#[tokio::test]
async fn unread_bytes_do_not_hide_that_the_client_goes() {
    let gate = Gate::new("never opened");
    for script in [script().stall(), script().wait(&gate)] {
        let upstream = Hostile::new(script).start();
        let mut client = Client::of(&upstream).await;
        client.send(GET).await;
        drop(client);
        assert_eq!(upstream.ended(0).await, Ended::ByPeerFin);
        assert_eq!(upstream.sightings().connections[0].bytes_in, 0);
    }
}

/// A client's preface and SETTINGS in two pieces, a PING, then HEADERS: the first two are answered.
#[tokio::test]
async fn frames_are_read_answered_and_written() {
    let script = script().http2().write(Frame::settings(&[]));
    let upstream = Hostile::new(script.until_frame(FrameKind::HEADERS).write(Frame::reset(3, 8))).start();
    let mut client = Client::of(&upstream).await;
    client.send("PRI * HTTP/2.0\r\n\r").await;
    client.send("\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    client.expect("\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0").await;
    client.send("\0\0\x08\x06\0\0\0\0\x0012345678").await;
    client.expect("\0\0\x08\x06\x01\0\0\0\x0012345678").await;
    client.send("\0\0\x01\x01\x05\0\0\0\x03h").await;
    client.expect("\0\0\x04\x03\0\0\0\0\x03\0\0\0\x08").await;
    let frames = &upstream.sightings().connections[0].frames;
    assert_eq!(frames.iter().map(|frame| frame.kind.0).collect::<Vec<_>>(), [4, 6, 1]);
}

#[tokio::test]
async fn repeats_and_goes_on() {
    let exchange = script().exchange(Answer::new(200, "hello"));
    let late = "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n";
    let upstream = Hostile::new(script().repeat(3, exchange).write(late).close()).start();
    let mut client = Client::of(&upstream).await;
    for _ in 0..2 {
        client.send(GET).await;
        client.expect(HELLO).await;
        assert!(client.silent());
    }
    client.send(GET).await;
    assert_eq!(client.end().await, End::Fin(format!("{HELLO}{late}")));
}

// === Waiting ===

#[tokio::test]
async fn nothing_passes_a_closed_gate() {
    let gate = Gate::new("answer");
    let upstream = Hostile::new(script().read_head().wait(&gate).answer(200, "hello")).start();
    let mut clients = [Client::of(&upstream).await, Client::of(&upstream).await];
    for client in &mut clients {
        client.send(GET).await;
    }
    gate.arrived(2).await;
    assert_eq!(gate.waiting(), 2);
    assert!(clients.iter().all(Client::silent));

    gate.let_one_through();
    upstream.until("one to pass", |_| gate.waiting() == 1).await;
    gate.open();
    for client in &mut clients {
        client.expect(HELLO).await;
    }
    assert_eq!(gate.waiting(), 0);
}

#[tokio::test]
async fn whoever_waits_sees_the_client_go() {
    let gate = Gate::new("never opened");
    let hour = Duration::from_secs(3600);
    let cases = [
        ("stall", script().read_head().stall()),
        ("gate", script().read_head().wait(&gate)),
        ("delay", script().read_head().delay(hour)),
        ("dribble", script().read_head().dribble("ab", 1, hour)),
        ("read_head", script().read_head().read_head()),
        ("read_body", script().read_head().read_body().read_exactly(1)),
        ("idle", script().read_head()),
    ];
    for (name, script) in cases {
        for (reset, expected) in [(false, Ended::ByPeerFin), (true, Ended::ByPeerReset)] {
            let upstream = Hostile::new(script.clone()).start();
            let mut client = Client::of(&upstream).await;
            client.send(GET).await;
            upstream.heads(1).await;
            if name == "dribble" {
                client.expect("a").await;
            }
            assert_eq!(upstream.open(), 1, "{name}");
            if reset {
                client.reset();
            } else {
                drop(client);
            }
            assert_eq!(upstream.ended(0).await, expected, "{name}");
            assert_eq!(gate.waiting(), 0, "{name}");
        }
    }
}

// === The upstream ===

#[tokio::test]
async fn scripts_go_in_order_and_the_last_repeats() {
    let upstream = Hostile::new(script().write("1").close())
        .then(script().write("2").close())
        .then(script().write("3").close())
        .start();
    for expected in ["1", "2", "3", "3", "3"] {
        assert_eq!(Client::of(&upstream).await.end().await, End::Fin(expected.into()));
    }
}

#[tokio::test]
async fn counts_sockets() {
    let upstream = Hostile::new(Script::hello()).start();
    upstream.all_closed().await;
    let first = Client::of(&upstream).await;
    let second = Client::of(&upstream).await;
    upstream.accepted(2).await;
    assert_eq!((upstream.open(), upstream.max_open()), (2, 2));
    drop(first);
    assert_eq!(upstream.ended(0).await, Ended::ByPeerFin);
    assert_eq!((upstream.open(), upstream.max_open()), (1, 2));
    let third = Client::of(&upstream).await;
    upstream.accepted(3).await;
    assert_eq!((upstream.open(), upstream.max_open()), (2, 2));
    drop((second, third));
    upstream.all_closed().await;
    assert_eq!((upstream.open(), upstream.max_open()), (0, 2));
    assert_eq!(upstream.sightings().connections.len(), 3);
}

/// Both sockets are in the backlog, the first one closed, before the server takes a look.
#[tokio::test]
async fn one_after_the_other_is_one_at_a_time() {
    let upstream = Hostile::new(Script::hello()).start();
    drop(std::net::TcpStream::connect(upstream.addr()).unwrap());
    let _open = std::net::TcpStream::connect(upstream.addr()).unwrap();
    upstream.accepted(2).await;
    assert_eq!((upstream.open(), upstream.max_open()), (1, 1));
}

#[tokio::test]
async fn all_closed_means_those_in_the_backlog_too() {
    let upstream = Hostile::new(Script::hello()).start();
    drop(std::net::TcpStream::connect(upstream.addr()).unwrap());
    upstream.all_closed().await;
    assert_eq!(upstream.sightings().connections[0].ended, Some(Ended::ByPeerFin));
}

#[tokio::test]
async fn dropping_the_handle_stops_everything() {
    for own_thread in [false, true] {
        let gate = Gate::new("never opened");
        let hostile = Hostile::new(script().wait(&gate));
        let upstream = if own_thread { hostile.own_thread() } else { hostile }.start();
        let addr = upstream.addr();
        let mut client = Client::of(&upstream).await;
        gate.arrived(1).await;
        drop(upstream);
        assert_eq!(client.end().await, End::Fin(String::new()));
        assert_eq!(gate.waiting(), 0);
        TcpStream::connect(addr).await.unwrap_err();
    }
}

#[tokio::test]
async fn its_own_thread_goes_on_while_this_one_is_blocked() {
    let upstream = Hostile::new(Script::hello()).own_thread().start();
    let mut client = std::net::TcpStream::connect(upstream.addr()).unwrap();
    std::io::Write::write_all(&mut client, GET.as_bytes()).unwrap();
    // Nothing on this runtime has been polled.
    upstream.until_blocking("a request", |seen| seen.requests.len() == 1);
    drop(client);
    upstream.until_blocking("its end", |seen| seen.open == 0);
}

#[tokio::test]
async fn sightings_read_as_a_summary() {
    let upstream = Hostile::new(Script::hello()).start();
    let mut client = Client::of(&upstream).await;
    client.send(GET).await;
    client.expect(HELLO).await;
    let summary = upstream.sightings().to_string();
    assert_eq!(
        summary,
        "1 accepted, 1 open, 1 at most\
         \n  connection 0: 30 bytes in, open\
         \n    GET /a?b, 0 bytes of body, whole"
    );
}

/// A wait needs no Tokio timer: on a paused clock that would be over at once.
#[tokio::test(start_paused = true)]
async fn waits_do_not_move_a_paused_clock() {
    let start = Instant::now();
    let upstream = Hostile::new(Script::hello()).own_thread().start();
    let addr = upstream.addr();
    let client = std::thread::spawn(move || {
        let mut client = std::net::TcpStream::connect(addr).unwrap();
        std::io::Write::write_all(&mut client, GET.as_bytes()).unwrap();
        client
    });
    upstream.requests(1).await;
    drop(client.join().unwrap());
    upstream.all_closed().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn uris_lead_to_it() {
    let upstream: Upstream = Hostile::new(Script::hello()).start();
    let port = upstream.addr().port();
    assert_eq!(upstream.uri("/a?b").to_string(), format!("http://127.0.0.1:{port}/a?b"));
}

// === Nowhere ===

#[tokio::test]
async fn a_black_hole_neither_accepts_nor_refuses() {
    let hole = BlackHole::new();
    let tried = timeout(Duration::from_millis(200), TcpStream::connect(hole.addr())).await;
    assert!(tried.is_err(), "{tried:?}");
}

#[tokio::test]
async fn a_refusal_refuses() {
    let refusal = Refusal::new();
    let error = TcpStream::connect(refusal.addr()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}
