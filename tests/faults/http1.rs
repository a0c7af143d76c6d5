//! An HTTP/1.1 exchange.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, header};
use outbound::pool::connect::Tcp;
use outbound_testkit::{Answer, Gate, Hostile, Script, TestBody};
use outbound_tests::{
    case::{Case, Row, Told, cited, tell},
    clock::in_steps,
    stack::Setup,
};

pub(crate) fn rows() -> Vec<Row> {
    [before_the_head(), heads(), bodies(), uploads()].into_iter().flatten().collect()
}

fn read() -> Script {
    Script::new().read_head().read_body()
}

fn raw(bytes: impl Into<Bytes>) -> Script {
    read().write(bytes)
}

fn ten() -> Answer {
    Answer::new(200, "0123456789")
}

fn before_the_head() -> Vec<Row> {
    vec![
        cited(
            "RST as soon as it is accepted",
            "reset; not_sent if not a byte was written, else maybe",
            &["outbound-pool::failures::a_connection_reset_as_soon_as_it_is_accepted"],
        ),
        Case::new("fin_before_the_head", "FIN before the head, on a new connection")
            .served(
                read().close(),
                "closed/head/maybe → 200; 2 seen; closed",
                "closed/head/maybe; 1 seen; closed",
            )
            .into(),
        Case::new("fin_on_a_reused_connection", "FIN before the head, on a reused connection")
            .play("GET", || reused(Method::GET, Script::close), "200; 3 seen; closed")
            .play("POST", || reused(Method::POST, Script::close), "closed/head/maybe; 2 seen; closed")
            .into(),
        Case::new("rst_before_the_head", "RST before the head")
            .served(
                read().reset(),
                "reset/head/maybe → 200; 2 seen; closed",
                "reset/head/maybe; 1 seen; closed",
            )
            .into(),
        Case::new("fin_within_the_head", "FIN within the head")
            .served(
                raw("HTTP/1.1 200 O").close(),
                "truncated/head/maybe → 200; 2 seen; closed",
                "truncated/head/maybe; 1 seen; closed",
            )
            .into(),
        Case::new("rst_within_the_head", "RST within the head")
            .play("GET", || rst_within_the_head(Method::GET), "reset/head/maybe → 200; 2 seen; closed")
            .play("POST", || rst_within_the_head(Method::POST), "reset/head/maybe; 1 seen; closed")
            .into(),
        Case::new("fin_while_idle", "FIN while idle, seen before the next request")
            .play("POST", fin_while_idle, "200; 2 seen; closed")
            .into(),
        cited(
            "FIN while idle, and this runtime has not turned since",
            "the socket is asked: a new connection",
            &["outbound-pool::stale::a_close_that_has_not_been_seen_is_found_by_asking_the_socket"],
        ),
        Case::new("silence", "Half-open: the peer says nothing any more")
            .paused()
            .play("GET", || silence(Method::GET, read().stall()), "timeout/head/maybe → 200; 2 seen; closed")
            .play("POST", || silence(Method::POST, read().stall()), "timeout/head/maybe; 1 seen; closed")
            .into(),
        Case::new("slow_head", "A head that drips, byte by byte")
            .paused()
            .play("GET", || silence(Method::GET, drips()), "timeout/head/maybe → 200; 2 seen; closed")
            .play("POST", || silence(Method::POST, drips()), "timeout/head/maybe; 1 seen; closed")
            .into(),
    ]
}

fn heads() -> Vec<Row> {
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(1_000);
    let flood = format!("{interim}HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
    let fields = |count| format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(count));
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(500_000));
    let head = |fields: &str| raw(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nhello"));
    let alike =
        |name, row, script, expected| Row::from(Case::new(name, row).served(script, expected, expected));
    vec![
        alike("interim", "1,000 interim responses (1xx), then 200", raw(flood), "200; 1 seen; kept"),
        alike(
            "interim_without_end",
            "Interim responses without end",
            read().forever(Script::new().write(interim)),
            TOO_LARGE,
        ),
        alike(
            "switching",
            "101 that nobody asked for",
            raw("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
            "101; 1 seen; closed",
        ),
        Case::new("many_fields", "101 fields; 100,000 of them")
            .served(raw(fields(101)), TOO_LARGE, TOO_LARGE)
            .served(raw(fields(100_000)), TOO_LARGE, TOO_LARGE)
            .into(),
        alike("most_fields", "100 fields", raw(fields(100)).close(), "200; 1 seen; closed"),
        alike("long_field", "A field of 500 kB", raw(long), TOO_LARGE),
        alike("space_before_colon", "A space before a colon", head("x : y"), PROTOCOL),
        alike("folded", "A folded line", head("x: y\r\n z"), PROTOCOL),
        alike(
            "bare_lf",
            "Lines that end in a bare LF",
            raw("HTTP/1.1 200 OK\ncontent-length: 5\n\nhello"),
            "200; 1 seen; kept",
        ),
        alike("two_lengths", "Two lengths", head("content-length: 5\r\ncontent-length: 6"), PROTOCOL),
        alike("signed_length", "A length with a sign", head("content-length: +5"), PROTOCOL),
        alike(
            "greatest_length",
            "The greatest length",
            head("content-length: 18446744073709551615"),
            TOO_LARGE,
        ),
        alike(
            "length_and_chunked",
            "A length, and chunked",
            raw(
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            ),
            "200; 1 seen; closed",
        ),
        alike(
            "chunked_twice",
            "Chunked twice",
            raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            "200; 1 seen; closed",
        ),
    ]
}

fn bodies() -> Vec<Row> {
    let chunked = |rest: &str| raw(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{rest}"));
    let alike =
        |name, row, script, expected| Row::from(Case::new(name, row).served(script, expected, expected));
    vec![
        alike("body_fin", "5 of 10 bytes, then FIN", read().respond(ten().cut_body(5)).close(), TRUNCATED),
        Case::new("body_rst", "5 of 10 bytes, then RST")
            .play(
                "",
                || rst_within_the_body(ten().cut_body(5)),
                "200, then reset/body/answered; 1 seen; closed",
            )
            .into(),
        alike(
            "chunk_cut",
            "Cut within a chunk",
            read().respond(ten().chunked(8).cut_body(5)).close(),
            TRUNCATED,
        ),
        alike(
            "no_last_chunk",
            "No last chunk",
            read().respond(ten().chunked(10).cut_body(14)).close(),
            TRUNCATED,
        ),
        alike("chunk_size", "A chunk size that is none", chunked("zz\r\n"), BROKEN),
        alike(
            "chunk_size_overflow",
            "A chunk size too large for a number",
            chunked("fffffffffffffffff\r\n"),
            BROKEN,
        ),
        alike(
            "chunk_extension",
            "A chunk extension without end",
            chunked("5;").forever(Script::new().write("x".repeat(10_000))),
            BROKEN,
        ),
        alike(
            "trailers",
            "Trailers without end",
            chunked("0\r\n").forever(Script::new().write("x: y\r\n".repeat(1_000))),
            BROKEN,
        ),
        alike(
            "until_close",
            "No length, and FIN",
            read().respond(ten().until_close()).close(),
            "200; 1 seen; closed",
        ),
        Case::new("until_rst", "No length, and RST")
            .play(
                "",
                || rst_within_the_body(ten().until_close()),
                "200, then reset/body/answered; 1 seen; closed",
            )
            .into(),
        alike(
            "extra_bytes",
            "Bytes after the response",
            raw("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhelloHTTP/1.1 408 Request Timeout\r\n\r\n"),
            "200; 1 seen; closed",
        ),
        cited(
            "A late 408 on an idle connection",
            "it answers nobody: a new connection",
            &["outbound-pool::stale::a_close_that_has_been_seen_costs_nothing_but_a_dial"],
        ),
        alike(
            "no_content",
            "204 and a length",
            raw("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n"),
            "204; 1 seen; kept",
        ),
        cited(
            "HEAD or 304, and a length; bytes after them",
            "the connection is kept; with bytes after them it is closed",
            &[
                "outbound-pool::exchange::sequential_requests_share_one_connection_whatever_ends_the_response",
                "outbound-pool::exchange::stray_bytes_are_nobodys",
            ],
        ),
        alike("http_10", "HTTP/1.0", read().respond(ten().http_10()), "200; 1 seen; closed"),
        alike(
            "connection_close",
            "`Connection: close`",
            read().respond(ten().header("connection", "close")),
            "200; 1 seen; closed",
        ),
        Case::new("dribbling", "A body that drips, a byte a second, to a reader that waits")
            .paused()
            .play("", || dribbling(5), "200; 1 seen; kept")
            .into(),
        Case::new("body_stalls", "A body that stops")
            .paused()
            .play("", || dribbling(60), "200, then timeout/body/answered; 1 seen; closed")
            .into(),
        cited(
            "A reader that pauses is no slow server",
            "no timeout",
            &["outbound-timeout::body::the_earliest_limit_ends_the_body_at_its_instant"],
        ),
    ]
}

fn uploads() -> Vec<Row> {
    let endless = || TestBody::new().endless(vec![b'x'; 100_000]);
    let early = |status: u16| Script::new().read_head().answer(status, "enough");
    vec![
        Case::new("early_413_drained", "413 before the end of the upload, the server reads on")
            .play(
                "",
                move || upload(endless(), None, early(413).read_exactly(usize::MAX)),
                "413; 1 seen; closed",
            )
            .into(),
        cited(
            "413 before the end of the upload, which then ends",
            "its connection is not used again either",
            &["outbound-pool::exchange::a_response_before_the_end_of_the_upload_ends_its_connection"],
        ),
        Case::new("early_413_closed", "413 before the end of the upload, the server closes")
            .play("", move || upload(endless(), None, early(413).close()), "413; 1 seen; closed")
            .into(),
        Case::new("upload_reset", "The server resets in the middle of an upload")
            .play(
                "PUT that can be sent again",
                || upload_reset(Method::PUT),
                "reset/send/maybe → 200; 2 seen; closed",
            )
            .play(
                "POST that can be sent again",
                || upload_reset(Method::POST),
                "reset/send/maybe; 1 seen; closed",
            )
            .play(
                "PUT without end",
                move || upload(endless(), None, Script::new().read_head().read_exactly(100_000).reset()),
                "reset/send/maybe; 1 seen; closed",
            )
            .into(),
        Case::new("early_200", "200 before the end of an upload that never ends")
            .play(
                "",
                move || upload(endless(), None, early(200).read_exactly(usize::MAX)),
                "200; 1 seen; closed",
            )
            .into(),
        Case::new("upload_fails", "The request's own body fails")
            .play(
                "at once",
                || upload(TestBody::new().error("broken"), None, read()),
                "request_body/send/not_sent; 0 seen; closed",
            )
            .play(
                "later",
                || {
                    let later = TestBody::new().data("half").delay(Duration::from_millis(1)).error("broken");
                    upload(later, None, read())
                },
                "request_body/send/maybe; 1 seen; closed",
            )
            .into(),
        Case::new("upload_length", "The request's own body is shorter or longer than its length")
            .play(
                "shorter",
                || upload(TestBody::new().data("half"), Some("9"), read()),
                "request_body/send/not_sent; 0 seen; closed",
            )
            .play(
                "longer",
                || upload(TestBody::new().data("half"), Some("3"), read()),
                "request_body/send/not_sent; 0 seen; closed",
            )
            .into(),
        Case::new("upload_panics", "The request's own body panics")
            .play(
                "",
                || upload(TestBody::new().data("half").pending(1).panic(), None, read()),
                "request_body/send/maybe; 1 seen; closed",
            )
            .into(),
        Case::new("expect", "`Expect: 100-continue`, and a final status instead")
            .play("", expect, "417; 1 seen; kept")
            .into(),
    ]
}

// === how they are played ===

/// One exchange that is well, and then one on the same connection that is ended.
async fn reused(method: Method, end: fn(Script) -> Script) -> Told {
    let script = end(Script::new().exchange(Answer::new(200, "hello")).read_head().read_body());
    let upstream = Hostile::new(script).then(Script::hello()).start();
    let stack = Setup::default().over(Tcp::new());
    assert_eq!(stack.call(stack.request(Method::GET, upstream.uri("/"), TestBody::new())).await, "200");
    let body = if method == Method::POST { TestBody::from("x") } else { TestBody::new() };
    let line = stack.call(stack.request(method, upstream.uri("/"), body)).await;
    tell(line, stack, upstream).await
}

async fn fin_while_idle() -> Told {
    let goes = Gate::new("goes");
    let script = Script::new().exchange(Answer::new(200, "hello")).wait(&goes).close();
    let upstream = Hostile::new(script).then(Script::hello()).start();
    let stack = Setup::default().over(Tcp::new());
    assert_eq!(stack.call(stack.request(Method::GET, upstream.uri("/"), TestBody::new())).await, "200");
    goes.open();
    upstream.ended(0).await;
    let line = stack.call(stack.request(Method::POST, upstream.uri("/"), "x".into())).await;
    tell(line, stack, upstream).await
}

/// The kernel may throw away what was sent right before a reset: it comes when that has been read.
async fn rst_within_the_head(method: Method) -> Told {
    let read = Gate::new("read");
    let script = raw("HTTP/1.1 200 O").wait(&read).reset();
    let upstream = Hostile::new(script).then(Script::hello()).start();
    let stack = Setup::default().over(Tcp::new());
    let body = if method == Method::POST { TestBody::from("x") } else { TestBody::new() };
    let mut request = stack.request(method, upstream.uri("/"), body);
    let exchange = outbound::Exchange::track(&mut request);
    let open = async {
        read.arrived(1).await;
        outbound_tests::stack::patiently(
            "half a head",
            || exchange.bytes_in() == 14,
            || format!("{exchange:?}"),
        )
        .await;
        read.open();
    };
    let (line, ()) = tokio::join!(stack.call(request), open);
    tell(line, stack, upstream).await
}

async fn rst_within_the_body(answer: Answer) -> Told {
    let read = Gate::new("read");
    let upstream = Hostile::new(self::read().respond(answer).wait(&read).reset()).start();
    let stack = Setup::default().over(Tcp::new());
    let mut request = stack.request(Method::GET, upstream.uri("/"), TestBody::new());
    let exchange = outbound::Exchange::track(&mut request);
    let open = async {
        read.arrived(1).await;
        let is_body = || exchange.phase() == outbound::Phase::Body;
        outbound_tests::stack::patiently("the head", is_body, || format!("{exchange:?}")).await;
        read.open();
    };
    let (line, ()) = tokio::join!(stack.call(request), open);
    tell(line, stack, upstream).await
}

/// Longer than an attempt may take for its head, in both ways.
fn drips() -> Script {
    read().dribble(ten(), 1, Duration::from_millis(900))
}

async fn silence(method: Method, script: Script) -> Told {
    let upstream = Hostile::new(script).then(Script::hello()).start();
    let stack = Setup::default().over(Tcp::new());
    let body = if method == Method::POST { TestBody::from("x") } else { TestBody::new() };
    let line =
        in_steps(Duration::from_millis(500), stack.call(stack.request(method, upstream.uri("/"), body)))
            .await;
    tell(line, stack, upstream).await
}

/// The head at once, the body byte by byte.
async fn dribbling(seconds: u64) -> Told {
    let script = read().respond(Answer::new(200, "hello").cut_body(0)).dribble(
        "hello",
        1,
        Duration::from_secs(seconds),
    );
    let upstream = Hostile::new(script).start();
    // What a limit ends outside the guard, the guard takes for dropped.
    let setup = Setup { deadline: Duration::from_secs(600), leaks: &["abandoned"], ..Setup::default() };
    let stack = setup.over(Tcp::new());
    let call = stack.call(stack.request(Method::GET, upstream.uri("/"), TestBody::new()));
    let line = in_steps(Duration::from_secs(1), call).await;
    tell(line, stack, upstream).await
}

async fn upload(body: TestBody, length: Option<&str>, script: Script) -> Told {
    let upstream = Hostile::new(script).then(Script::hello()).start();
    let stack = Setup::default().over(Tcp::new());
    let mut request = stack.request(Method::PUT, upstream.uri("/"), body);
    if let Some(length) = length {
        request.headers_mut().insert(header::CONTENT_LENGTH, length.parse().expect("a number"));
    }
    let line = stack.call(request).await;
    tell(line, stack, upstream).await
}

/// Half of a body has been sent, and the other half is there when the server has reset the connection.
async fn upload_reset(method: Method) -> Told {
    let rest = Gate::new("rest");
    let script = Script::new().read_head().read_exactly(4).reset();
    let upstream = Hostile::new(script).then(Script::hello()).start();
    let stack = Setup::default().over(Tcp::new());
    let body = TestBody::new().data("half").wait(&rest).data("rest");
    let call = stack.call(stack.request(method, upstream.uri("/"), body));
    let open = async {
        upstream.ended(0).await;
        rest.open();
    };
    let (line, ()) = tokio::join!(call, open);
    tell(line, stack, upstream).await
}

async fn expect() -> Told {
    let script = Script::new().read_head().answer(417, "no");
    let upstream = Hostile::new(script).start();
    let stack = Setup::default().over(Tcp::new());
    let mut request = stack.request(Method::POST, upstream.uri("/"), "x".into());
    request.headers_mut().insert(header::EXPECT, "100-continue".parse().expect("a value"));
    let line = stack.call(request).await;
    tell(line, stack, upstream).await
}

const PROTOCOL: &str = "protocol/head/maybe; 1 seen; closed";
const TOO_LARGE: &str = "too_large/head/maybe; 1 seen; closed";
const TRUNCATED: &str = "200, then truncated/body/answered; 1 seen; closed";
const BROKEN: &str = "200, then protocol/body/answered; 1 seen; closed";
