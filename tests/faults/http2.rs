//! HTTP/2.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use outbound::pool::connect::Tcp;
use outbound_testkit::{Friendly, Hostile, Script, TestBody, Upstream, handler};
use outbound_tests::{
    case::{Case, Row, cited, tell},
    clock::in_steps,
    frames::*,
    stack::Setup,
};

pub(crate) fn rows() -> Vec<Row> {
    let asked = || settled(&[]).read_frame(HEADERS);
    let reset = |code: [u8; 4]| asked().reply_frame(RST_STREAM, 0, code.to_vec()).forever(exchange());
    let head = |length: u8| asked().reply_frame(HEADERS, END_HEADERS, ok_of(length));
    let half = move || head(10).reply_frame(DATA, 0, "hello");
    let below = |code: [u8; 4]| asked().frame(GOAWAY, 0, 0, &goaway(0, code));
    let alike = |name, row, script, expected| {
        Row::from(Case::new(name, row).served_http2(script, expected, expected))
    };
    let empty: Bytes = (0..10_000).flat_map(|_| [0, 0, 0, DATA, 0, 0, 0, 0, 1]).collect::<Vec<u8>>().into();
    let (ping, setting_frame) =
        ([0, 0, 8, PING, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]);
    let (pings, settings) = (Bytes::from(ping.repeat(10_000)), Bytes::from(setting_frame.repeat(10_000)));
    // A literal field, not indexed, of a new name (RFC 7541, 6.2.2), of 10,000 bytes.
    let field = [&[0, 1, b'x', 0x7f, 0x91, 0x4d][..], &[b'y'; 10_000]].concat();
    let answered =
        |script: Script| script.reply_frame(HEADERS, END_HEADERS, OK).reply_frame(DATA, END_STREAM, "hello");
    let push = [&[0, 0, 0, 2][..], OK].concat();
    vec![
        alike("goaway_below", "GOAWAY below the stream: NO_ERROR", below(NO_ERROR), "200; 2 seen; closed"),
        Case::new("goaway_error", "GOAWAY below the stream: INTERNAL_ERROR")
            .served_http2(
                below(INTERNAL_ERROR),
                "closed/head/maybe → 200; 2 seen; closed",
                "closed/head/maybe; 1 seen; closed",
            )
            .into(),
        alike(
            "goaway_above",
            "GOAWAY above the stream, then the response",
            asked()
                .frame(GOAWAY, 0, 0, &goaway(1, NO_ERROR))
                .reply_frame(HEADERS, END_HEADERS, OK)
                .reply_frame(DATA, END_STREAM, "hello"),
            "200; 1 seen; closed",
        ),
        alike("refused_stream", "RST_STREAM: REFUSED_STREAM", reset(REFUSED_STREAM), "200; 2 seen; kept"),
        cited(
            "REFUSED_STREAM twice on one connection",
            "refused, and the connection is retired",
            &["outbound-pool::http2::one_that_is_refused_twice_fails_as_not_processed"],
        ),
        Case::new("reset_before_the_head", "RST_STREAM before the head: CANCEL, INTERNAL_ERROR, NO_ERROR")
            .served_http2(reset(CANCEL), RESET_AND_RETRIED, RESET)
            .served_http2(reset(INTERNAL_ERROR), RESET_AND_RETRIED, RESET)
            .served_http2(reset(NO_ERROR), RESET_AND_RETRIED, RESET)
            .into(),
        Case::new("reset_after_the_response", "RST_STREAM: NO_ERROR after the response, the upload goes on")
            .play("", reset_after_the_response, "200; 1 seen; kept")
            .into(),
        alike(
            "reset_no_error_within_the_body",
            "RST_STREAM within the body: NO_ERROR",
            half().reply_frame(RST_STREAM, 0, NO_ERROR.to_vec()),
            "200, then truncated/body/answered; 1 seen; kept",
        ),
        alike(
            "reset_within_the_body",
            "RST_STREAM within the body: CANCEL",
            half().reply_frame(RST_STREAM, 0, CANCEL.to_vec()),
            "200, then reset/body/answered; 1 seen; kept",
        ),
        alike("fin_within_an_http2_body", "FIN within the body", half().close(), TRUNCATED),
        alike(
            "goaway_within_the_body",
            "GOAWAY and FIN within the body",
            half().frame(GOAWAY, 0, 0, &goaway(1, NO_ERROR)).close(),
            TRUNCATED,
        ),
        alike(
            "shorter_than_its_length",
            "END_STREAM before the length",
            head(10).reply_frame(DATA, END_STREAM, "hello"),
            "200, then protocol/body/answered; 1 seen; kept",
        ),
        alike(
            "longer_than_its_length",
            "DATA beyond the length",
            head(4).reply_frame(DATA, END_STREAM, "hello"),
            "200, then protocol/body/answered; 1 seen; kept",
        ),
        alike(
            "empty_frames",
            "10,000 empty DATA frames",
            head(5).write(empty),
            "200, then protocol/body/answered; 1 seen; closed",
        ),
        alike(
            "http2_interim_without_end",
            "Interim responses without end",
            asked().forever(Script::new().reply_frame(HEADERS, END_HEADERS, PROCESSING)),
            "too_large/head/maybe; 1 seen; kept",
        ),
        alike(
            "continuation_without_end",
            "CONTINUATION without end",
            asked().reply_frame(HEADERS, 0, OK).forever(Script::new().reply_frame(
                CONTINUATION,
                0,
                field.clone(),
            )),
            "protocol/head/maybe; 1 seen; closed",
        ),
        alike(
            "long_http2_field",
            "A head of 100 kB",
            (0..10)
                .fold(asked().reply_frame(HEADERS, 0, OK), |script, _| {
                    script.reply_frame(CONTINUATION, 0, field.clone())
                })
                .reply_frame(CONTINUATION, END_HEADERS, field.clone()),
            "protocol/head/maybe; 1 seen; closed",
        ),
        alike(
            "pings",
            "10,000 PINGs, then the response",
            answered(asked().write(pings)),
            "200; 1 seen; kept",
        ),
        alike(
            "settings",
            "10,000 SETTINGS, then the response",
            answered(asked().write(settings)),
            "200; 1 seen; kept",
        ),
        alike(
            "window_overflow",
            "WINDOW_UPDATE beyond the greatest window",
            asked().frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            "protocol/head/maybe; 1 seen; closed",
        ),
        alike(
            "window_overrun",
            "DATA of a frame beyond the greatest size",
            head(99).reply_frame(DATA, 0, vec![b'x'; 20_000]),
            "200, then protocol/body/answered; 1 seen; closed",
        ),
        cited(
            "As many streams as the peer allows",
            "another connection within the limits, then the queue",
            &[
                "outbound-pool::http2::no_more_streams_than_the_peer_allows_then_another_connection_then_the_queue",
            ],
        ),
        Case::new("no_streams", "The peer allows no stream")
            .paused()
            .play(
                "POST",
                || silent(settled(&setting(3, 0)), Method::POST),
                "timeout/connect/not_sent → 200; 1 seen; closed",
            )
            .into(),
        Case::new("no_window", "The peer takes nothing of an upload, and answers no ping")
            .paused()
            .play(
                "PUT",
                || silent(settled(&setting(4, 0)).read_frame(HEADERS), Method::PUT),
                "timeout/send/maybe → 200; 2 seen; closed",
            )
            .into(),
        Case::new("silent_stream", "No answer on a stream, nor to a ping")
            .paused()
            .play(
                "GET",
                || silent(settled(&[]).read_frame(HEADERS), Method::GET),
                "timeout/head/maybe → 200; 2 seen; closed",
            )
            .play(
                "POST",
                || silent(settled(&[]).read_frame(HEADERS), Method::POST),
                "timeout/head/maybe; 1 seen; closed",
            )
            .into(),
        Case::new("slow_stream", "No answer on a stream, but to a ping")
            .paused()
            .play("POST", slow_stream, "timeout/head/maybe; 1 seen; kept")
            .into(),
        alike(
            "push",
            "A push that was forbidden",
            asked().reply_frame(PUSH_PROMISE, END_HEADERS, push),
            BROKEN,
        ),
        alike("data_first", "DATA before HEADERS", asked().reply_frame(DATA, END_STREAM, "hello"), BROKEN),
        alike(
            "odd_stream",
            "HEADERS on a stream that nobody opened",
            asked().frame(HEADERS, END_HEADERS, 9, OK),
            BROKEN,
        ),
    ]
}

async fn reset_after_the_response() -> String {
    let script = settled(&[])
        .read_frame(HEADERS)
        .reply_frame(HEADERS, END_HEADERS, OK)
        .reply_frame(DATA, END_STREAM, "hello")
        .reply_frame(RST_STREAM, 0, NO_ERROR.to_vec());
    let upstream = Hostile::new(script).then(hello()).start();
    let stack = Setup { http2: true, ..Setup::default() }.over(Tcp::new());
    let endless = TestBody::new().endless(vec![b'x'; 1_000]);
    let line = stack.call(stack.request(Method::PUT, upstream.uri("/"), endless)).await;
    tell(line, stack, upstream).await
}

/// With the time that the answer to a ping may take.
async fn silent(script: Script, method: Method) -> String {
    let upstream = Hostile::new(script).then(hello()).start();
    given_time(upstream, method).await
}

async fn slow_stream() -> String {
    let never = |request| {
        Box::pin(async move {
            let hello = handler::hello(request).await;
            if hello.status() == 200 { std::future::pending().await } else { hello }
        })
    };
    given_time(Friendly::new(never).http2().start(), Method::POST).await
}

async fn given_time(upstream: Upstream, method: Method) -> String {
    let stack = Setup { http2: true, ..Setup::default() }.over(Tcp::new());
    let body = if method == Method::GET { TestBody::new() } else { TestBody::from("x") };
    let call = async {
        let line = stack.call(stack.request(method, upstream.uri("/"), body)).await;
        tokio::time::sleep(Duration::from_secs(12)).await;
        line
    };
    let line = in_steps(Duration::from_secs(1), call).await;
    tell(line, stack, upstream).await
}

const RESET: &str = "reset/head/maybe; 1 seen; kept";
const RESET_AND_RETRIED: &str = "reset/head/maybe → 200; 2 seen; kept";
const TRUNCATED: &str = "200, then truncated/body/answered; 1 seen; closed";
const BROKEN: &str = "protocol/head/maybe; 1 seen; closed";
