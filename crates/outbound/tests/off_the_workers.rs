//! What is much work is done elsewhere, within a bound, and what nobody waits for is not begun.

use std::{
    collections::HashSet,
    convert::Infallible,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    task::{Context, Poll},
    thread::{self, ThreadId, available_parallelism},
    time::Duration,
};

use http::{Request, Response};
use outbound::{
    Body, BoxError, ClientExt, Delivery, Elapsed, Failure, INLINE_JSON, ResponseExt, find, offload,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tower::service_fn;

type Threads = Arc<Mutex<Vec<ThreadId>>>;

/// A string of `length` bytes that notes on which thread it is encoded.
struct Witness {
    length: usize,
    threads: Threads,
}

impl Serialize for Witness {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.threads.lock().unwrap().push(thread::current().id());
        serializer.serialize_str(&"x".repeat(self.length))
    }
}

/// Where it was decoded.
struct DecodedOn(ThreadId);

impl<'de> Deserialize<'de> for DecodedOn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?;
        Ok(Self(thread::current().id()))
    }
}

#[tokio::test]
async fn small_json_stays_here_and_large_json_goes_elsewhere() -> Result<(), BoxError> {
    let here = thread::current().id();
    let client =
        service_fn(async |request: Request<Body>| Ok::<_, Infallible>(Response::new(request.into_body())));
    for (name, length, stays) in [
        ("small", 10, true),
        ("just so", INLINE_JSON - 2, true), // and two quotes
        ("one too many", INLINE_JSON - 1, false),
        ("large", 1_000_000, false),
    ] {
        let threads = Threads::default();
        let value = Witness { length, threads: threads.clone() };
        let response = client.post("/").json_owned(value).send().await?;
        let encoded_on = threads.lock().unwrap().clone();
        match &encoded_on[..] {
            [first] => assert!(stays && *first == here, "{name}"),
            [first, then] => assert!(!stays && *first == here && *then != here, "{name}"),
            _ => panic!("{name}: encoded {} times", encoded_on.len()),
        }
        assert_eq!(response.body().as_bytes().map(|bytes| bytes.len()), Some(length + 2), "{name}");
        let DecodedOn(thread) = response.json().await?;
        assert_eq!(thread == here, stays, "{name}");
    }
    Ok(())
}

/// Too long for a worker, and endless where it is encoded then: until there is no [`Sender`](mpsc::Sender) any more.
struct Endless(Mutex<mpsc::Receiver<()>>, ThreadId);

impl Serialize for Endless {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if thread::current().id() != self.1 {
            let _ = self.0.lock().unwrap().recv();
        }
        serializer.serialize_str(&"x".repeat(INLINE_JSON))
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_has_no_longer_than_its_deadline_for_it() {
    let _turn = ALL_CORES.lock().await;
    let second = Duration::from_secs(1);
    let client = service_fn(async |_: Request<Body>| -> Result<Response<()>, Infallible> { panic!("sent") });
    let (_encoding, ends) = mpsc::channel();
    let value = Endless(Mutex::new(ends), thread::current().id());
    let call = client.post("http://a.example/").deadline(second).json_owned(value);
    let mut sending = pin!(call.send());
    let mut poll = async || poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await;
    assert!(poll().await.is_pending());
    tokio::time::advance(second - Duration::from_millis(1)).await;
    assert!(poll().await.is_pending());
    tokio::time::advance(Duration::from_millis(1)).await;
    let Poll::Ready(Err(error)) = poll().await else { panic!("it waits on") };
    assert_eq!(error.to_string(), "http://a.example: timed out after 1 s waiting for its turn (deadline)");
    let elapsed = find::<Elapsed>(&*error).unwrap();
    assert_eq!((elapsed.name(), elapsed.limit()), ("deadline", second));
    assert_eq!(Failure::of(&*error).delivery(), Delivery::NotSent);
}

/// Each test of the bound takes it all, so they take turns.
static ALL_CORES: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn bound() -> usize {
    (available_parallelism().unwrap().get() - 1).max(1)
}

#[tokio::test]
async fn as_many_run_at_once_as_there_are_cores_but_one() {
    let _turn = ALL_CORES.lock().await;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let works: Vec<_> = (0..50)
        .map(|_| {
            let (running, most) = (running.clone(), most.clone());
            tokio::spawn(offload(move || {
                most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                thread::yield_now();
                running.fetch_sub(1, SeqCst);
            }))
        })
        .collect();
    for work in works {
        work.await.unwrap();
    }
    assert!(most.load(SeqCst) <= bound(), "{most:?} at once");
}

#[tokio::test]
async fn what_nobody_waits_for_is_not_begun_and_what_has_begun_counts_until_its_end() {
    let _turn = ALL_CORES.lock().await;
    let begun: Arc<Mutex<HashSet<&str>>> = Arc::default();
    let note = |name: &'static str| {
        let begun = begun.clone();
        move || begun.lock().unwrap().insert(name)
    };
    // All that may run at once do, and are given up while they run.
    let (finish, may_finish) = mpsc::channel::<()>();
    let may_finish = Arc::new(Mutex::new(may_finish));
    let (tell, told) = mpsc::channel();
    let busy: Vec<_> = (0..bound())
        .map(|_| {
            let (tell, may_finish) = (tell.clone(), may_finish.clone());
            tokio::spawn(offload(move || {
                tell.send(()).unwrap();
                let _ = may_finish.lock().unwrap().recv();
            }))
        })
        .collect();
    for _ in 0..bound() {
        while told.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
    }
    busy.into_iter().for_each(|busy| busy.abort());

    // They count still: the next one waits, and is given up while it does.
    let mut given_up = Box::pin(offload(note("given up")));
    let mut next = pin!(offload(note("next")));
    for _ in 0..100 {
        let mut waits = |cx: &mut Context<'_>| {
            given_up.as_mut().poll(cx).is_pending() && next.as_mut().poll(cx).is_pending()
        };
        assert!(poll_fn(|cx| Poll::Ready(waits(cx))).await);
        tokio::task::yield_now().await;
    }
    drop(given_up);
    drop(finish);
    assert!(next.await);
    assert_eq!(*begun.lock().unwrap(), HashSet::from(["next"]));
}

#[tokio::test]
async fn a_panic_is_the_callers() {
    let _turn = ALL_CORES.lock().await;
    let error = tokio::spawn(offload(|| panic!("no such luck"))).await.unwrap_err();
    assert_eq!(error.into_panic().downcast_ref(), Some(&"no such luck"));
    assert_eq!(offload(|| 1).await, 1, "its permit is back");
}
