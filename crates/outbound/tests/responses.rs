//! What `ResponseExt` makes of responses, good and bad.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::SizeHint;
use http_body_util::{BodyExt, Full};
use outbound::{
    Attempt, BoxError, Delivery, Exchange, Failure, InvalidBody, Kind, Origin, Phase, ResponseExt,
    StatusError, TooLarge, find,
};
use outbound_testkit::TestBody;
use tokio::time::Instant;

fn response(status: u16, body: TestBody) -> Response<TestBody> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert("set-cookie", "session=secret".parse().unwrap());
    response
}

#[tokio::test]
async fn bodies_are_read_up_to_their_limit() {
    let two = || TestBody::new().data("01234").data("56789").trailer("x", "y");
    #[rustfmt::skip]
    let cases = [
        // name                 body                                  limit  read, or what it says of itself
        ("empty",               TestBody::new(),                          0, Ok("")),
        ("one frame",           TestBody::new().data("0123"),             4, Ok("0123")),
        ("two frames",          two(),                                   10, Ok("0123456789")),
        ("of unknown length",   two().unsized_hint(),                    10, Ok("0123456789")),
        ("announced",           two(),                                    9, Err(Some(10))),
        ("found out",           two().unsized_hint(),                     9, Err(None)),
        ("found out at once",   two().unsized_hint(),                     4, Err(None)),
        ("not read at all",     TestBody::new().panic().hint(SizeHint::with_exact(10)), 9, Err(Some(10))),
    ];
    for (name, body, limit, expected) in cases {
        let read = response(200, body).bytes_within(limit).await;
        match expected {
            Ok(bytes) => assert_eq!(read.unwrap(), bytes, "{name}"),
            Err(announced) => {
                let error = read.unwrap_err();
                let error = find::<TooLarge>(&*error).unwrap();
                assert_eq!((error.limit(), error.announced()), (limit, announced), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn the_default_limit_is_sixteen_mib() {
    const LIMIT: usize = 16 * 1024 * 1024;
    let zeros = Bytes::from(vec![b'0'; LIMIT + 1]);
    let of = |length: usize| Response::new(Full::new(zeros.slice(..length)));
    assert_eq!(of(LIMIT).bytes().await.unwrap().len(), LIMIT);
    assert_eq!(of(LIMIT).text().await.unwrap().len(), LIMIT);
    assert!(find::<InvalidBody>(&*of(LIMIT).json::<()>().await.unwrap_err()).is_some());
    for error in [
        of(LIMIT + 1).bytes().await.unwrap_err(),
        of(LIMIT + 1).text().await.unwrap_err(),
        of(LIMIT + 1).json::<()>().await.unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "the response body is larger than 16777216 bytes: it says 16777217");
    }
}

/// A body of one frame is handed on as it is.
#[tokio::test]
async fn one_frame_is_not_copied() {
    let bytes = Bytes::from(vec![b'x'; 100_000]);
    let read = Response::new(Full::new(bytes.clone())).bytes().await.unwrap();
    assert_eq!(read.as_ptr(), bytes.as_ptr());
}

#[tokio::test]
async fn errors_name_the_place_and_quote_nothing() {
    let body = |text: &'static str| response(502, TestBody::new().data(text));
    let text = response(200, TestBody::new().data(&b"\xff"[..])).text().await.unwrap_err();
    let json = body("<html>").json::<u32>().await.unwrap_err();
    let kind = body("[1,\n\"secret\"]").json::<Vec<u32>>().await.unwrap_err();
    for (error, line) in [
        (text, "the body of the response (200 OK) is not UTF-8"),
        (
            json,
            "the body of the response (502 Bad Gateway) is not the JSON expected, from line 1, column 1 on",
        ),
        (
            kind,
            "the body of the response (502 Bad Gateway) is not the JSON expected, from line 2, column 8 on",
        ),
    ] {
        assert_eq!(error.to_string(), line);
        assert!(error.source().is_some());
    }
}

/// Whatever is wrong with an answer, it is one: the server may have acted on the request.
#[tokio::test]
async fn what_is_wrong_with_an_answer_is_known_to_be_one() {
    let origin = Origin::of(&"http://a.example/".parse().unwrap()).unwrap();
    let said = |body: &'static [u8]| {
        let mut response = response(500, TestBody::new().data(body));
        Exchange::track(&mut response).aim(origin.clone(), &http::Request::new(()));
        Attempt::FIRST.next().attach(&mut response);
        response
    };
    #[rustfmt::skip]
    let cases = [
        ("a bad status",     said(b"oh").error_for_status().await.unwrap_err()),
        ("too large, said",  said(b"oh").bytes_within(1).await.unwrap_err()),
        ("too large, found", said(b"oh").map(TestBody::unsized_hint).bytes_within(1).await.unwrap_err()),
        ("no text",          said(&b"\xff"[..]).text().await.unwrap_err()),
        ("no JSON",          said(b"oh").json::<u32>().await.unwrap_err()),
    ];
    for (name, error) in cases {
        let failure = Failure::of(&*error);
        assert_eq!((failure.kind(), failure.phase()), (Kind::Other, Some(Phase::Body)), "{name}");
        assert_eq!(failure.delivery(), Delivery::Answered, "{name}");
        assert_eq!(failure.origin(), Some(&origin), "{name}");
        assert_eq!(failure.attempt(), Some(Attempt::FIRST.next()), "{name}");
    }
    let error = said(b"oh").json::<u32>().await.unwrap_err();
    assert!(find::<serde_json::Error>(&*error).is_some(), "the reason is there still");
}

#[tokio::test]
async fn a_failing_body_fails_its_reader() {
    let error = response(200, TestBody::new().data("x").error("cut")).bytes().await.unwrap_err();
    assert_eq!(error.to_string(), "cut");
}

#[tokio::test(start_paused = true)]
async fn a_bad_status_is_an_error_that_keeps_what_the_server_said() -> Result<(), BoxError> {
    for good in [200, 204, 301, 304] {
        let body = response(good, TestBody::new().data("kept")).error_for_status().await?.into_body();
        assert_eq!(body.collect().await?.to_bytes(), "kept", "{good}");
    }
    let second = Duration::from_secs(1);
    let none = Duration::ZERO;
    #[rustfmt::skip]
    let cases = [
        // name       status  body                                                          kept                took    line
        ("empty",     404, TestBody::new(),                                                 0,                  none,   "answered 404 Not Found"),
        ("short",     422, TestBody::new().data("{\"why\":\n\"x\"}"),                       12,                 none,   r#"answered 422 Unprocessable Entity: {\"why\":\n\"x\"}"#),
        ("endless",   500, TestBody::new().endless("0123456789"),                           8192,               none,   "answered 500 Internal Server Error: 012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789…"),
        ("fails",     503, TestBody::new().data("sor").error("cut"),                        3,                  none,   "answered 503 Service Unavailable: sor"),
        ("stalls",    503, TestBody::new().data("sor").stall(),                             3,                  second, "answered 503 Service Unavailable: sor"),
    ];
    for (name, status, body, kept, took, line) in cases {
        let begun = Instant::now();
        let error = response(status, body).error_for_status().await.unwrap_err();
        assert_eq!(begun.elapsed(), took, "{name}");
        assert_eq!(error.to_string(), line, "{name}");
        let error = find::<StatusError>(&*error).unwrap();
        assert_eq!((error.status().as_u16(), error.body().len()), (status, kept), "{name}");
        assert!(!format!("{error:?}").contains("cookie"), "{name}: {error:?}");
    }
    Ok(())
}

#[test]
fn reading_is_send_if_the_body_is() {
    fn is_send<T: Send>(_: T) {}
    let response = || response(200, TestBody::new());
    is_send(response().bytes());
    is_send(response().text());
    is_send(response().json::<u32>());
    is_send(response().error_for_status());
}
