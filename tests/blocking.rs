//! The blocking client: the same client, without a runtime, and never inside one.

use std::{
    io::Read,
    num::NonZeroU32,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError, Sender, TryRecvError},
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use outbound::{
    Body, BoxError, Client, ClientExt, Delivery, Elapsed, Failure, Kind, LeakGuardLayer, StatusError,
    blocking::{self, InsideRuntime},
    find,
    retry::{Backoff, Jitter},
};
use outbound_testkit::{Answer, Hostile, Script, Upstream, listening};
use tracing::{
    Event, Id, Level, Metadata, Subscriber,
    span::{Attributes, Record},
};

fn client() -> blocking::Client {
    let wait = Duration::from_millis(1);
    let soon = Backoff::new(wait, wait).unwrap().jitter(Jitter::None);
    Client::builder().max_connections(4).backoff(soon).build_blocking().unwrap()
}

fn upstream(script: Script) -> Upstream {
    Hostile::new(script).own_thread().start()
}

fn serving(answer: Answer) -> Upstream {
    upstream(Script::new().forever(Script::new().exchange(answer)))
}

#[test]
fn calls_retries_and_bodies_work_without_a_runtime() -> Result<(), BoxError> {
    let busy = Script::new().exchange(Answer::new(503, "busy"));
    let upstream = upstream(busy.forever(Script::new().exchange(Answer::new(200, "[1, 2, 3]"))));
    let client = client();
    let put = || client.put(upstream.uri("/")).json(&"x");
    assert_eq!(put().send()?.json::<Vec<u32>>()?, [1, 2, 3]);
    assert_eq!(upstream.sightings().requests.len(), 2, "the first was answered 503");
    assert_eq!(put().send()?.text()?, "[1, 2, 3]");
    assert_eq!(put().send()?.bytes()?, "[1, 2, 3]");
    assert!(put().send()?.bytes_within(4).is_err());
    assert!(put().send()?.text_within(4).is_err());
    assert!(put().send()?.json_within::<Vec<u32>>(4).is_err());
    let mut read = String::new();
    put().body(Body::blocking_reader(&b"from a reader"[..])).send()?.read_to_string(&mut read)?;
    assert_eq!(read, "[1, 2, 3]");
    assert_eq!(upstream.sightings().requests.pop().unwrap().body, b"from a reader");
    let large = vec!["x"; 100_000];
    client.post(upstream.uri("/")).json_owned(large.clone()).send()?;
    assert_eq!(upstream.sightings().requests.pop().unwrap().body, serde_json::to_vec(&large)?);
    Ok(())
}

/// What `Read` has left of a frame is read by whatever comes next.
#[test]
fn what_was_not_read_is_the_next_ones() -> Result<(), BoxError> {
    type Rest = fn(blocking::Response) -> Result<Vec<u8>, BoxError>;
    fn collect(body: http::Response<blocking::ResponseBody>) -> Result<Vec<u8>, BoxError> {
        let body = body.into_body();
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(6), false));
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        Ok(runtime.block_on(body.collect())?.to_bytes().into())
    }
    let cases: [(&str, Rest); 8] = [
        ("bytes", |rest| Ok(rest.bytes()?.into())),
        ("bytes_within", |rest| Ok(rest.bytes_within(6)?.into())),
        ("text", |rest| Ok(rest.text()?.into())),
        ("text_within", |rest| Ok(rest.text_within(6)?.into())),
        ("json", |rest| Ok(rest.json::<u32>()?.to_string().into())),
        ("json_within", |rest| Ok(rest.json_within::<u32>(6)?.to_string().into())),
        ("error_for_status", |rest| Ok(rest.error_for_status()?.bytes()?.into())),
        ("into_inner", |rest| collect(rest.into_inner())),
    ];
    let upstream = serving(Answer::new(200, "0123456789"));
    let client = client();
    for (name, read) in cases {
        let mut response = client.get(upstream.uri("/")).send()?;
        let mut first = [0; 4];
        response.read_exact(&mut first)?;
        assert_eq!(&first, b"0123", "{name}");
        assert_eq!(read(response)?, b"456789", "{name}");
    }
    Ok(())
}

/// There is no worker to be kept from its other tasks.
#[test]
fn large_json_is_worth_a_warning_inside_a_runtime_alone() {
    let (warnings, client, large) = (Warnings::default(), client(), "x".repeat(1 << 20));
    let _listening = listening(warnings.clone());
    drop(client.post("http://a.example/").json(&large));
    assert_eq!(warnings.0.load(Relaxed), 0);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { drop(client.post("http://a.example/").json(&large)) });
    assert_eq!(warnings.0.load(Relaxed), 1);
    runtime.block_on(async { drop(client.post("http://a.example/").json(&large[..1 << 19])) });
    assert_eq!(warnings.0.load(Relaxed), 1);
}

/// How many there were.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::WARN
    }

    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Relaxed);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// What is built, and what is called, is known by the user's own line.
#[test]
fn leaks_are_told_by_line() {
    let upstream = serving(Answer::new(200, "hello"));
    let (told, hears) = mpsc::channel();
    let guard = LeakGuardLayer::builder().churn(NonZeroU32::MIN, Duration::MAX);
    let guard = guard.callback(move |leak| told.send(leak.to_string()).unwrap());
    let client = Client::builder().leak_guard(guard).build_blocking().unwrap();
    let built = format!("1 client built within 0 s at tests/blocking.rs:{}:", line!() - 1);
    assert!(hears.recv().unwrap().starts_with(&built));
    let _held = client.get(upstream.uri("/")).send().unwrap();
    let line = line!() - 1;
    let holdings = client.as_async().leaks().snapshot();
    assert_eq!(holdings[0].site.unwrap().location().line(), line);
}

#[test]
fn errors_are_the_same() {
    let missing = serving(Answer::new(404, "no such thing"));
    let error = client().get(missing.uri("/")).send().unwrap().error_for_status().unwrap_err();
    assert_eq!(find::<StatusError>(&*error).unwrap().body(), "no such thing");

    let cut = serving(Answer::new(200, "0123456789").cut_body(5));
    let mut response = client().get(cut.uri("/")).deadline(Duration::from_millis(200)).send().unwrap();
    let mut read = Vec::new();
    let error = response.read_to_end(&mut read).unwrap_err();
    assert!(find::<Elapsed>(&error).is_some(), "{error}");
    assert_eq!(read, b"01234");
}

#[test]
fn threads_share_it_and_its_connections_go_with_it() {
    let upstream = serving(Answer::new(200, "hello"));
    let client = client();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (client, uri) = (client.clone(), upstream.uri("/"));
            thread::spawn(move || (0..10).for_each(|_| drop(client.get(uri.clone()).send().unwrap().text())))
        })
        .collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    assert_eq!(upstream.sightings().requests.len(), 80);
    assert!(upstream.max_open() <= 4);
    let last = client.get(upstream.uri("/")).send().unwrap();
    drop(client);
    assert_eq!(last.text().unwrap(), "hello", "a response outlives its client");
    upstream.until_blocking("all to be closed", |seen| seen.open == 0);
}

#[test]
fn its_thread_ends_with_the_last_of_it() {
    let upstream = serving(Answer::new(200, "hello"));
    let client = client();
    let (held, holder) = mpsc::channel();
    let response = client.post(upstream.uri("/")).body(Body::stream(Beside(Some(held)))).send().unwrap();
    drop(client);
    assert_eq!(holder.try_recv(), Err(TryRecvError::Empty), "a response needs it still");
    drop(response);
    assert_eq!(holder.recv_timeout(Duration::from_secs(20)), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn a_closed_one_has_no_sockets_and_serves_nobody() {
    let upstream = serving(Answer::new(200, "hello"));
    let client = client();
    client.get(upstream.uri("/")).send().unwrap().text().unwrap();
    assert_eq!(client.as_async().pool().stats().connections.idle, 1);
    client.close().unwrap();
    assert_eq!(client.as_async().pool().stats().connections.open(), 0);
    upstream.until_blocking("its socket to be closed", |seen| seen.open == 0);
    let late = client.get(upstream.uri("/")).send().unwrap_err();
    assert_eq!(Failure::of(&*late).kind(), Kind::Canceled, "{late}");
    client.close().unwrap();
}

#[tokio::test]
async fn inside_a_runtime_it_says_so_and_sends_nothing() {
    let upstream = serving(Answer::new(200, "hello"));
    let (client, uri) = (client(), upstream.uri("/"));
    let error = client.get(uri.clone()).send().unwrap_err();
    assert!(find::<InsideRuntime>(&*error).is_some());
    let failure = Failure::of(&*error);
    assert_eq!((failure.kind(), failure.delivery()), (Kind::Invalid, Delivery::NotSent));
    assert_eq!(
        error.to_string(),
        "the request cannot be sent: a blocking call inside a Tokio runtime would stop one of its workers"
    );
    assert!(find::<InsideRuntime>(&*client.close().unwrap_err()).is_some());
    let (client, uri) = tokio::task::spawn_blocking(move || {
        let error = client.get(uri.clone()).send().unwrap_err();
        assert!(find::<InsideRuntime>(&*error).is_some(), "its blocking pool is inside too");
        (client, uri)
    })
    .await
    .unwrap();
    assert!(upstream.sightings().requests.is_empty());

    // A thread of one's own is outside, and a response may come in. What fails then is not the request.
    type Use = fn(blocking::Response) -> BoxError;
    let uses: [(&str, Use); 4] = [
        ("text", |response| response.text().unwrap_err()),
        ("json", |response| response.json::<String>().unwrap_err()),
        ("error_for_status", |response| response.error_for_status().unwrap_err()),
        ("read", |mut response| response.read(&mut [0]).unwrap_err().into()),
    ];
    for (name, read) in uses {
        let (client, uri) = (client.clone(), uri.clone());
        let response = thread::spawn(move || client.post(uri).send().unwrap()).join().unwrap();
        assert_eq!(response.status(), 200, "{name}");
        let error = read(response);
        assert_eq!(
            error.to_string(),
            "a blocking call inside a Tokio runtime would stop one of its workers: use outbound::Client there, or a \
             thread of your own",
            "{name}"
        );
        assert!(find::<InsideRuntime>(&*error).is_some(), "{name}");
        assert!(!Failure::of(&*error).delivery().is_unprocessed(), "{name}: it was sent and answered");
    }
}

/// An empty body that leaves a task behind, which lasts for as long as the runtime that polled it.
struct Beside(Option<Sender<()>>);

impl http_body::Body for Beside {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(held) = self.0.take() {
            tokio::spawn(async move {
                let _held = held;
                std::future::pending::<()>().await
            });
        }
        Poll::Ready(None)
    }
}
