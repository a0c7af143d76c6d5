//! What an unfriendly peer could drive is bounded: the rows of `docs/bounds.md` that no layer's own tests hit.

use std::{
    future::{Ready, ready},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use outbound::{Client, ClientExt, Exchange, ResponseExt, TooLarge, find, pool::connect::Tcp};
use outbound_testkit::{Answer, FrameKind, Friendly, Hostile, Script, Sightings, TestBody, Upload};
use outbound_tests::{
    clock::in_steps,
    frames,
    stack::{Setup, patiently},
};
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

/// A response without end, and how much of it the server got rid of.
struct Endless(Arc<AtomicUsize>);

impl Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        const CHUNK: &[u8] = &[b'x'; 16 * 1024];
        self.0.fetch_add(CHUNK.len(), SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(CHUNK)))))
    }
}

/// What nobody reads stays with the server: over HTTP/1.1 but for hyper's buffer and the frame that it has handed out, once the reader has
/// made it grow to its greatest.
#[tokio::test]
async fn a_body_that_nobody_reads_is_not_buffered() {
    const BUFFER: u64 = 8_192 + 4_096 * 100;
    let sent = Arc::new(AtomicUsize::new(0));
    let upstream = Friendly::new(endless(&sent)).start();
    let stack = Setup { leaks: &["abandoned"], ..Setup::default() }.over(Tcp::new());
    let mut request = stack.request(Method::GET, upstream.uri("/"), TestBody::new());
    let exchange = Exchange::track(&mut request);
    let mut body = stack.client.clone().oneshot(request).await.unwrap().into_body();
    let mut read = 0;
    while read < 32 * BUFFER {
        read += body.frame().await.unwrap().unwrap().into_data().unwrap().len() as u64;
    }
    stands_still(&sent).await;
    let ahead = exchange.bytes_in() - read;
    assert!((1..=2 * BUFFER).contains(&ahead), "{ahead} bytes were read and not asked for");
    drop(body);
    stack.leaves_nothing(vec![upstream]).await;
}

/// Over HTTP/2 each stream takes its window, and no other stops it; besides the window the server hands out what it buffers itself.
#[tokio::test]
async fn streams_that_nobody_reads_take_their_windows() {
    const STREAMS: usize = 4;
    const WINDOW: usize = 2 << 20;
    const BUFFER: usize = 512 << 10;
    let sent = Arc::new(AtomicUsize::new(0));
    let upstream = Friendly::new(endless(&sent)).http2().start();
    let stack = Setup { http2: true, leaks: &["abandoned"], ..Setup::default() }.over(Tcp::new());
    let request = || stack.request(Method::GET, upstream.uri("/"), TestBody::new());
    let mut held = Vec::new();
    for streams in 1..=STREAMS {
        held.push(stack.client.clone().oneshot(request()).await.unwrap());
        let sent = stands_still(&sent).await;
        let bounds = streams * WINDOW..=streams * (WINDOW + BUFFER);
        assert!(bounds.contains(&sent), "{sent} bytes for {streams} streams");
    }
    assert_eq!(upstream.sightings().connections.len(), 1);
    drop(held);
    stack.leaves_nothing(vec![upstream]).await;
}

fn endless(sent: &Arc<AtomicUsize>) -> impl Fn(Request<Upload>) -> Ready<Response<Endless>> + use<> {
    let sent = sent.clone();
    move |_| ready(Response::new(Endless(sent.clone())))
}

/// How much it was when it did not grow any more.
async fn stands_still(sent: &AtomicUsize) -> usize {
    let (mut last, mut still) = (0, 0);
    let stands_still = || {
        let now = sent.load(SeqCst);
        still = if now == last { still + 1 } else { 0 };
        last = now;
        still > 10_000
    };
    patiently("the server to stop", stands_still, || format!("{} bytes", sent.load(SeqCst))).await;
    sent.load(SeqCst)
}

/// Servers that guard against rapid resets (CVE-2023-44487) close the connection for all: so not more than a hundred at once, and then
/// one in ten milliseconds.
#[tokio::test(start_paused = true)]
async fn calls_given_up_are_reset_at_a_pace() {
    const CALLS: usize = 300;
    const AT_ONCE: usize = 100;
    const EVERY: Duration = Duration::from_millis(10);
    let count = |seen: &Sightings, kind| {
        seen.connections.iter().flat_map(|it| &it.frames).filter(|frame| frame.kind == kind).count()
    };
    let upstream = Hostile::new(frames::settled(&[])).start();
    let stack = Setup { http2: true, permits: CALLS, ..Setup::default() }.over(Tcp::new());
    let took = in_steps(EVERY, async {
        let call =
            || stack.client.clone().oneshot(stack.request(Method::GET, upstream.uri("/"), TestBody::new()));
        let calls: Vec<_> = (0..CALLS).map(|_| tokio::spawn(call())).collect();
        upstream.until("all heads", |seen| count(seen, FrameKind::HEADERS) == CALLS).await;
        calls.iter().for_each(|call| call.abort());
        for call in calls {
            let _ = call.await;
        }
        let given_up = Instant::now();
        loop {
            let resets = count(&upstream.sightings(), FrameKind::RST_STREAM);
            let ticks = (given_up.elapsed().as_nanos() / EVERY.as_nanos()) as usize;
            assert!(resets <= AT_ONCE + ticks, "{resets} resets after {ticks} times {EVERY:?}");
            if resets == CALLS {
                return given_up.elapsed();
            }
            sleep(EVERY).await;
        }
    })
    .await;
    assert!(took >= EVERY * (CALLS - AT_ONCE) as u32, "all of them after {took:?}");
    assert_eq!(upstream.sightings().connections.len(), 1);
    stack.leaves_nothing(vec![upstream]).await;
}

/// 200 kB that are 32 MiB: what a whole body may be counts what comes out.
#[tokio::test]
async fn a_bomb_is_cut_off() {
    let upstream =
        Hostile::new(Script::new().exchange(Answer::new(200, bomb()).header("content-encoding", "deflate")))
            .start();
    let client = Client::builder().build().unwrap();
    let response = client.get(upstream.uri("/")).send().await.unwrap();
    let error = response.bytes().await.unwrap_err();
    assert_eq!(find::<TooLarge>(&*error).map(TooLarge::limit), Some(16 << 20), "{error}");
    drop(client);
    upstream.all_closed().await;
}

/// Zeros, in a zlib stream (RFC 1950) of one block with fixed codes (RFC 1951, 3.2.6): a literal, then copies of 258 bytes from one
/// byte back.
fn bomb() -> Bytes {
    let copies = (0..(32 << 20) / 258).flat_map(|_| "1100010100000".bytes());
    let bits = "110".bytes().chain("00110000".bytes()).chain(copies).map(|bit| bit - b'0');
    let bits: Vec<u8> = bits.collect();
    let bytes = bits.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | bit));
    [0x78, 0x01].into_iter().chain(bytes).collect()
}
