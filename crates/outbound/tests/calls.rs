//! Calls spelled out with `ClientExt`: what a service sees of them.

use std::{convert::Infallible, time::Duration};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use outbound::{
    Body, BoxError, CallSite, ClientExt, Deadline, Failure, Idempotent, InvalidRequest, Kind, RequestBuilder,
    RetryLayer, find,
};
use outbound_testkit::{Plan, Probe};
use tower::{Layer, Service, service_fn};

/// Answers with the request itself, as text.
fn mirror() -> impl Service<Request<Body>, Response = Response<String>, Error = BoxError, Future: Send> + Clone
{
    service_fn(async |request: Request<Body>| {
        let (head, body) = request.into_parts();
        let mut seen = format!("{} {}", head.method, head.uri);
        for (name, value) in &head.headers {
            let secret = if value.is_sensitive() { " (sensitive)" } else { "" };
            seen += &format!("\n{name}: {}{secret}", value.to_str()?);
        }
        let body = body.collect().await?.to_bytes();
        if !body.is_empty() {
            seen += &format!("\n\n{}", str::from_utf8(&body)?);
        }
        Ok(Response::new(seen))
    })
}

#[tokio::test]
async fn a_service_sees_the_request_that_was_spelled_out() -> Result<(), BoxError> {
    let client = mirror();
    let a = "http://a.example";
    #[rustfmt::skip]
    let cases = [
        ("get",               client.get(a),                                     "GET http://a.example/"),
        ("head",              client.head(a),                                    "HEAD http://a.example/"),
        ("post",              client.post(a),                                    "POST http://a.example/"),
        ("put",               client.put(a),                                     "PUT http://a.example/"),
        ("patch",             client.patch(a),                                   "PATCH http://a.example/"),
        ("delete",            client.delete(a),                                  "DELETE http://a.example/"),
        ("request",           client.request(Method::OPTIONS, a),                "OPTIONS http://a.example/"),
        ("path",              client.get("/path"),                               "GET /path"),
        ("query",             client.get(a).query(&[("q", "ä b&c")]),            "GET http://a.example/?q=%C3%A4+b%26c"),
        ("more query",        client.get("/x?y=1").query(&[("z", 2)]),           "GET /x?y=1&z=2"),
        ("empty query",       client.get("/x").query(&[("", ""); 0]),            "GET /x"),
        ("header",            client.get(a).header("x-a", "1"),                  "GET http://a.example/\nx-a: 1"),
        ("header replaced",   client.get(a).header("x-a", 1).header("X-A", 2),   "GET http://a.example/\nx-a: 2"),
        ("bearer",            client.get(a).bearer_auth("t"),                    "GET http://a.example/\nauthorization: Bearer t (sensitive)"),
        ("basic",             client.get(a).basic_auth("Aladdin", "open sesame"),
            "GET http://a.example/\nauthorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ== (sensitive)"),
        ("body",              client.post(a).body("hello"),                      "POST http://a.example/\n\nhello"),
        ("json",              client.post(a).json(&[1, 2]),                      "POST http://a.example/\ncontent-type: application/json\n\n[1,2]"),
        ("json owned",        client.post(a).json_owned(vec![1, 2]),             "POST http://a.example/\ncontent-type: application/json\n\n[1,2]"),
        ("own content type",  client.post(a).header("content-type", "x/y").json(&1), "POST http://a.example/\ncontent-type: x/y\n\n1"),
        ("form",              client.post(a).form(&[("a", "b c")]),
            "POST http://a.example/\ncontent-type: application/x-www-form-urlencoded\n\na=b+c"),
    ];
    for (name, call, seen) in cases {
        assert_eq!(call.send().await?.into_body(), seen, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_sent_is_told_and_not_sent() {
    #[derive(serde::Serialize)]
    struct Unencodable {
        secret: std::collections::HashMap<Vec<u8>, u8>,
    }
    let unencodable = || Unencodable { secret: [(vec![1], 1)].into() };
    let client =
        service_fn(async |_: Request<Body>| -> Result<Response<()>, Infallible> { panic!("called") });
    let a = "http://a.example";
    #[rustfmt::skip]
    let cases = [
        ("uri",          client.get("http://se cret/"),               "its URI is none"),
        ("header name",  client.get(a).header("se cret", "x"),        "a header's name is none"),
        ("header value", client.get(a).header("x", "secret\n"),       "a header's value is none"),
        ("bearer",       client.get(a).bearer_auth("secret\n"),       "its credentials fit in no header"),
        ("query",        client.get(a).query(&"secret"),              "its pairs are not flat"),
        ("form",         client.post(a).form(&[[1]]),                 "its pairs are not flat"),
        ("json",         client.post(a).json(&unencodable()),         "its body cannot be encoded as JSON"),
        ("json owned",   client.post(a).json_owned(unencodable()),    "its body cannot be encoded as JSON"),
        ("the first",    client.get("::").bearer_auth("secret\n"),    "its URI is none"),
    ];
    for (name, call, problem) in cases {
        let debug = format!("{call:?}");
        let error = call.send().await.unwrap_err();
        assert_eq!(find::<InvalidRequest>(&*error).map(InvalidRequest::problem), Some(problem), "{name}");
        assert_eq!(Failure::of(&*error).kind(), Kind::Invalid, "{name}");
        for text in [debug, error.to_string()] {
            assert!(!text.contains("secret"), "{name}: {text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn context_rides_on_the_request() {
    let client = service_fn(async |request: Request<Body>| {
        let site = CallSite::of(&request).map(|site| (site.location().file(), site.location().line()));
        Ok::<_, Infallible>((site, Deadline::of(&request).map(Deadline::left), Idempotent::of(&request)))
    });
    let second = Duration::from_secs(1);
    let (site, deadline, idempotent) = client.post("/").deadline(second).idempotent().send().await.unwrap();
    assert_eq!(site, Some((file!(), line!() - 1)));
    assert_eq!((deadline, idempotent), (Some(second), true));

    let begun = client.get("/").deadline(second);
    tokio::time::sleep(second / 2).await;
    let (_, deadline, idempotent) = begun.send().await.unwrap();
    assert_eq!((deadline, idempotent), (Some(second), false), "it counts from the sending on");
}

#[tokio::test]
async fn the_readied_service_is_called_and_none_before_it_is_polled() {
    let (probe, handle) = Probe::pair([Plan::new().ready_after(2)]);
    let sending = probe.get("/").send();
    assert_eq!(handle.counts().calls, 0);
    sending.await.unwrap();
    assert_eq!(handle.counts().calls, 1);
    drop(probe.get("/").send());
    handle.assert_idle();
}

/// A retry layer keeps 64 KiB; a body that is in memory anyway can be sent again whatever its size.
#[tokio::test(start_paused = true)]
async fn bytes_of_any_size_can_be_sent_again() {
    let (probe, handle) = Probe::pair([Plan::new().reads_body().status(503), Plan::new().reads_body()]);
    let client = RetryLayer::default().layer(probe);
    let large = vec![b'x'; 300_000];
    let response = client.put("http://a.example/").body(large.clone()).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let bodies: Vec<_> = handle.requests().into_iter().map(Request::into_body).collect();
    assert!(bodies.len() == 2 && bodies.iter().all(|body| *body == large));
}

#[test]
fn a_call_is_send_if_its_service_is() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let call: RequestBuilder<_> = is_send(mirror().post("/").json_owned("x"));
    drop(is_send(call.send()));
}
