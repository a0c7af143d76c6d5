//! HTTP/2.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use outbound::pool::connect::Tcp;
use outbound_testkit::{Frame, FrameKind, Hostile, Script, TestBody, Upstream};
use outbound_tests::{
    case::{Case, Row, Told, cited, tell},
    clock::in_steps,
    frames::*,
    stack::Setup,
};

pub(crate) fn rows() -> Vec<Row> {
    let reset = |code| each(asked().write(Frame::reset(1, code)), 3, answered);
    let head = |length: &str| asked().write(Frame::response(1, 200, &[("content-length", length)]));
    let half = move || head("10").write(Frame::data(1, "hello"));
    let below = |code| asked().write(Frame::go_away(0, code));
    let data = || Frame::data(1, "hello").end();
    let alike = |name, row, script, expected| {
        Row::from(Case::new(name, row).served_http2(script, expected, expected))
    };
    let many = |frame: Frame| Bytes::from(Bytes::from(frame).repeat(10_000));
    let long = [("x", &*"y".repeat(10_000))];
    let part = |kind, flags| {
        let fields = Frame::response(1, 200, &long).payload;
        Frame::new(kind, flags, 1, fields)
    };
    let more = || Frame::new(FrameKind::CONTINUATION, 0, 1, Frame::trailers(1, &long).payload);
    let last = || Frame::new(FrameKind::CONTINUATION, END_HEADERS, 1, Frame::trailers(1, &long).payload);
    let ping = || Frame::new(FrameKind::PING, 0, 0, "12345678");
    let promised = || [&[0, 0, 0, 2][..], &Frame::response(2, 200, &[]).payload].concat();
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
            answered(asked().write(Frame::go_away(1, NO_ERROR)), 1),
            "200; 1 seen; closed",
        ),
        Case::new("enough", "GOAWAY: the server has had enough of us (ENHANCE_YOUR_CALM)")
            .served_http2(
                asked().write(Frame::go_away(1, ENHANCE_YOUR_CALM)).close(),
                "closed/head/maybe → 200; 2 seen; closed",
                "closed/head/maybe; 1 seen; closed",
            )
            .into(),
        cited(
            "GOAWAY with an error, below a stream that is not the connection's first",
            "200 over another connection",
            &[
                "outbound-pool::http2_faults::goaway_with_an_error_is_not_about_a_later_request_above_its_last_stream",
            ],
        ),
        cited(
            "Calls given up by the hundred",
            "reset at a pace that no server takes for an attack",
            &[
                "tests::bounds::calls_given_up_are_reset_at_a_pace",
                "outbound-pool::http2_faults::calls_given_up_by_the_hundred_are_reset_at_a_pace",
            ],
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
            half().write(Frame::reset(1, NO_ERROR)),
            "200, then truncated/body/answered; 1 seen; kept",
        ),
        alike(
            "reset_within_the_body",
            "RST_STREAM within the body: CANCEL",
            half().write(Frame::reset(1, CANCEL)),
            "200, then reset/body/answered; 1 seen; kept",
        ),
        alike("fin_within_an_http2_body", "FIN within the body", half().close(), TRUNCATED),
        alike(
            "goaway_within_the_body",
            "GOAWAY and FIN within the body",
            half().write(Frame::go_away(1, NO_ERROR)).close(),
            TRUNCATED,
        ),
        alike(
            "shorter_than_its_length",
            "END_STREAM before the length",
            head("10").write(data()),
            "200, then protocol/body/answered; 1 seen; kept",
        ),
        alike(
            "longer_than_its_length",
            "DATA beyond the length",
            head("4").write(data()),
            "200, then protocol/body/answered; 1 seen; kept",
        ),
        cited(
            "The request's own body is shorter or longer than its length",
            "request_body/send/maybe, and the stream is reset",
            &["outbound-pool::http2_faults::a_request_body_that_contradicts_its_content_length"],
        ),
        alike(
            "empty_frames",
            "10,000 empty DATA frames",
            head("5").write(many(Frame::data(1, ""))),
            "200, then protocol/body/answered; 1 seen; closed",
        ),
        alike(
            "http2_interim_without_end",
            "Interim responses without end",
            asked().forever(Script::new().write(Frame::response(1, 102, &[]))),
            "too_large/head/maybe; 1 seen; kept",
        ),
        alike(
            "continuation_without_end",
            "CONTINUATION without end",
            asked().write(part(FrameKind::HEADERS, 0)).forever(Script::new().write(more())),
            "protocol/head/maybe; 1 seen; closed",
        ),
        alike(
            "long_http2_field",
            "A head of 100 kB",
            (0..9)
                .fold(asked().write(part(FrameKind::HEADERS, 0)), |script, _| script.write(more()))
                .write(last()),
            "too_large/head/maybe; 1 seen; kept",
        ),
        alike(
            "pings",
            "10,000 PINGs, then the response",
            answered(asked().write(many(ping())), 1),
            "200; 1 seen; kept",
        ),
        alike(
            "settings",
            "10,000 SETTINGS, then the response",
            answered(asked().write(many(Frame::settings(&[]))), 1),
            "200; 1 seen; kept",
        ),
        alike(
            "window_overflow",
            "WINDOW_UPDATE beyond the greatest window",
            asked().write(Frame::window_update(0, i32::MAX as u32)),
            "protocol/head/maybe; 1 seen; closed",
        ),
        alike(
            "window_overrun",
            "DATA of a frame beyond the greatest size",
            head("99").write(Frame::data(1, vec![b'x'; 20_000])),
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
                || silent(settled(&[(3, 0)]).mute(), Method::POST),
                "timeout/connect/not_sent → 200; 1 seen; closed",
            )
            .into(),
        Case::new("no_window", "The peer takes nothing of an upload, and answers no ping")
            .paused()
            .play(
                "PUT",
                || silent(settled(&[(4, 0)]).mute(), Method::PUT),
                "timeout/send/maybe → 200; 2 seen; closed",
            )
            .into(),
        Case::new("silent_stream", "No answer on a stream, nor to a ping")
            .paused()
            .play(
                "GET",
                || silent(settled(&[]).mute(), Method::GET),
                "timeout/head/maybe → 200; 2 seen; closed",
            )
            .play("POST", || silent(settled(&[]).mute(), Method::POST), "timeout/head/maybe; 1 seen; closed")
            .into(),
        cited(
            "No answer to a keep-alive ping",
            "all streams of the connection fail",
            &[
                "outbound-pool::http2_faults::a_silent_peer_is_asked_and_if_it_does_not_answer_all_its_streams_fail",
            ],
        ),
        cited(
            "A body that nobody reads",
            "it stops no other stream",
            &["outbound-pool::http2_faults::a_body_that_nobody_reads_stops_no_other"],
        ),
        cited(
            "The peer takes nothing of an upload, but answers a ping",
            "the stream is reset, the connection used again",
            &["outbound-pool::http2_faults::an_upload_that_the_peer_has_no_room_for_is_given_up"],
        ),
        cited(
            "One call given up, and the peer is there; and it is not",
            "nobody else is sent that way before it has answered a ping; then it is used again, or left",
            &[
                "outbound-pool::http2_faults::after_a_stream_was_given_up_the_peer_is_used_again_once_it_has_answered",
                "outbound-pool::http2_faults::after_a_stream_was_given_up_a_peer_that_does_not_answer_is_left",
            ],
        ),
        Case::new("slow_stream", "No answer on a stream, but to a ping")
            .paused()
            .play("POST", slow_stream, "timeout/head/maybe; 1 seen; kept")
            .into(),
        alike(
            "push",
            "A push that was forbidden",
            asked().write(Frame::new(FrameKind::PUSH_PROMISE, END_HEADERS, 1, promised())),
            BROKEN,
        ),
        alike("data_first", "DATA before HEADERS", asked().write(data()), BROKEN),
        alike(
            "odd_stream",
            "HEADERS on a stream that nobody opened",
            asked().write(Frame::response(9, 200, &[])),
            BROKEN,
        ),
    ]
}

async fn reset_after_the_response() -> Told {
    let script = answered(asked(), 1).write(Frame::reset(1, NO_ERROR));
    let upstream = Hostile::new(script).then(hello()).start();
    let stack = Setup { http2: true, ..Setup::default() }.over(Tcp::new());
    let endless = TestBody::new().endless(vec![b'x'; 1_000]);
    let line = stack.call(stack.request(Method::PUT, upstream.uri("/"), endless)).await;
    tell(line, stack, upstream).await
}

/// With the time that the answer to a ping may take.
async fn silent(script: Script, method: Method) -> Told {
    let upstream = Hostile::new(script).then(hello()).start();
    given_time(upstream, method).await
}

async fn slow_stream() -> Told {
    given_time(Hostile::new(settled(&[])).start(), Method::POST).await
}

async fn given_time(upstream: Upstream, method: Method) -> Told {
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
/// The flag.
const END_HEADERS: u8 = 4;
