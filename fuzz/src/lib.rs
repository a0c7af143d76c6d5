//! The fuzz targets: functions of whatever bytes.
//!
//! - `cargo test -p outbound-tests --test fuzz` in this directory's parent: a short run over the corpus and mutations of it, as in CI.
//!   `OUTBOUND_FUZZ_SECONDS=60` goes on for so long.
//! - `cargo +nightly fuzz run http1`: libFuzzer by cargo-fuzz, with AddressSanitizer.
//! - libFuzzer on stable, with coverage and no sanitizer; `--target` keeps the flags off build scripts:
//!
//!   ```sh
//!   RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
//!     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table" \
//!     cargo run --target x86_64-unknown-linux-gnu --bin http1 -- -max_total_time=60 artifacts corpus/http1
//!   ```
//!
//!   What it finds is for the first directory, which must exist; a C++ compiler builds libFuzzer itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Full};
use outbound::{
    BoxError, Delivery, Failure, Origin, Phase, Pool,
    pool::connect::InMemory,
    retry::{rate_limit_reset, retry_after as parse},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tower::ServiceExt;

/// Lines are values of as many fields; the first byte is when it is.
pub fn retry_after(data: &[u8]) {
    let Some((&when, values)) = data.split_first() else { return };
    let now = UNIX_EPOCH + Duration::from_secs(u64::from(when) << 25);
    let headers = fields(&["retry-after"], values);
    let wait = parse(&headers, now);
    assert_eq!(wait, parse(&headers, now), "it depends on something else");
    if let (1, Some(value)) =
        (headers.len(), headers.get("retry-after").and_then(|value| value.to_str().ok()))
    {
        let value = value.trim();
        let is_digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        assert!(!is_digits || wait.is_some(), "digits are seconds: {value}");
        let is_signed = value.starts_with(['+', '-', '.']);
        assert!(!is_signed || wait.is_none(), "a sign is garbage: {value}");
    }
}

/// Lines are values of the fields in turn.
pub fn rate_limit(data: &[u8]) {
    let headers = fields(&["ratelimit", "ratelimit-reset", "x-ratelimit-reset"], data);
    let _ = rate_limit_reset(&headers, SystemTime::now());
    let _ = rate_limit_reset(&headers, UNIX_EPOCH);
}

/// A URI: what is said of it never has its userinfo.
pub fn origin(data: &[u8]) {
    let Ok(uri) = Uri::try_from(data) else { return };
    let Ok(origin) = Origin::of(&uri) else { return };
    let text = origin.to_string();
    assert!(!text.contains('@'), "userinfo in {text}");
    let again = Origin::of(&text.parse().expect("an origin is a URI")).expect("an origin has an origin");
    assert_eq!(again, origin, "{text}");
}

/// What a server answers, over HTTP/1.1: the call and its body end, and the pool is as it was.
pub fn http1(data: &[u8]) {
    play(data, false);
}

/// What a server says after its SETTINGS, over HTTP/2.
pub fn http2(data: &[u8]) {
    play(data, true);
}

fn fields(names: &[&'static str], values: &[u8]) -> HeaderMap {
    let lines = values.split(|&byte| byte == b'\n').take(8);
    let named = names.iter().cycle().zip(lines);
    named
        .filter_map(|(&name, line)| Some((name.parse().ok()?, HeaderValue::from_bytes(line).ok()?)))
        .collect()
}

fn play(data: &[u8], http2: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let said = data.to_vec();
        let connector = InMemory::new(move |io| speak(io, said.clone(), http2));
        let pool = Pool::builder().http2_prior_knowledge(http2).build(connector).expect("the defaults");
        let request = Request::post("http://a.example/").body(Full::from("x")).expect("a request");
        let call = exchange(pool.clone(), request);
        let ended = tokio::time::timeout(Duration::from_secs(3_600), call).await;
        let ended = ended.expect("a server that has closed is not waited for");
        if let Err((delivery, phase)) = ended {
            // After the head, and only then, it has been answered.
            assert_eq!(delivery == Delivery::Answered, phase == Some(Phase::Body));
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        let stats = pool.stats();
        let busy = stats.connections.open() - stats.connections.idle + stats.waiting + stats.exchanges;
        assert_eq!(busy, 0, "{stats:?}");
    });
}

async fn exchange(
    pool: Pool<impl outbound::pool::connect::Connect>,
    request: Request<Full<bytes::Bytes>>,
) -> Result<(), (Delivery, Option<Phase>)> {
    let told = |error: BoxError| {
        let failure = Failure::of(&*error);
        assert!(!error.to_string().contains('\n'), "more than a line: {error}");
        (failure.delivery(), failure.phase())
    };
    let mut body = pool.oneshot(request).await.map_err(told)?.into_body();
    while let Some(frame) = body.frame().await {
        frame.map_err(told)?;
    }
    assert!(body.frame().await.is_none(), "it goes on after its end");
    Ok(())
}

/// Reads the start of a request, says what there is to say in two pieces, and closes.
async fn speak(mut io: DuplexStream, said: Vec<u8>, http2: bool) {
    let mut read = [0; 512];
    let _ = io.read(&mut read).await;
    if http2 {
        let _ = io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        let _ = io.read(&mut read).await;
    }
    let (first, second) = said.split_at(said.len() / 2);
    for piece in [first, second] {
        if io.write_all(piece).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    let _ = io.shutdown().await;
    while io.read(&mut read).await.is_ok_and(|n| n > 0) {}
}
