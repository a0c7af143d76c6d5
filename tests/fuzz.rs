//! The fuzz targets on stable: every seed of the corpus, and mutations of them, by a seeded generator.
//! `OUTBOUND_FUZZ_SECONDS=60` for each target to go on for so long instead.

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "it is a crate of its own, too")]
mod targets;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, SystemTime},
};

use outbound_tests::citations::root;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

/// Words that mean something to somebody.
const WORDS: [&[u8]; 16] = [
    b"\r\n",
    b"\n",
    b": ",
    b"0",
    b"-1",
    b"+5",
    b"18446744073709551615",
    b"ffffffffffffffff",
    b"content-length: 1\r\n",
    b"transfer-encoding: chunked\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"connection: close\r\n",
    b"GMT",
    b"\0\0\0\x04\0\0\0\0\0",
    b"\x88",
    b"\xff\xff\xff",
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(root().join("fuzz/corpus").join(target)).expect("a corpus");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a seed")).collect()
}

/// A few changes to `data`.
fn mutate(mut data: Vec<u8>, seeds: &[Vec<u8>], random: &mut impl Rng) -> Vec<u8> {
    for _ in 0..random.random_range(1..5) {
        let at = random.random_range(0..=data.len());
        let to = (at + random.random_range(0..8)).min(data.len());
        match random.random_range(0..6) {
            0 if at < data.len() => data[at] ^= 1 << random.random_range(0..8),
            1 if at < data.len() => data[at] = random.random(),
            2 => drop(data.splice(at..to, WORDS[random.random_range(0..WORDS.len())].iter().copied())),
            3 => drop(data.drain(at..to)),
            4 => {
                let copy = data[at..to].repeat(random.random_range(1..4));
                data.splice(at..at, copy);
            }
            _ => {
                let other = &seeds[random.random_range(0..seeds.len())];
                let from = random.random_range(0..=other.len());
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
        }
    }
    data
}

fn run(name: &str, target: fn(&[u8]), times: usize) {
    let (seeds, mut random, begun) = (seeds(name), StdRng::seed_from_u64(7), SystemTime::now());
    let limit = std::env::var("OUTBOUND_FUZZ_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .map(Duration::from_secs);
    let mut tried = 0;
    let goes_on = |tried| match limit {
        Some(limit) => begun.elapsed().unwrap_or_default() < limit,
        None => tried < times,
    };
    while goes_on(tried) {
        let seed = &seeds[tried % seeds.len()];
        let data = if tried < seeds.len() { seed.clone() } else { mutate(seed.clone(), &seeds, &mut random) };
        let result = catch_unwind(AssertUnwindSafe(|| target(&data)));
        assert!(result.is_ok(), "{name}: input {tried}: {:?}", String::from_utf8_lossy(&data));
        tried += 1;
    }
    println!("{name}: {tried} inputs");
}

#[test]
fn retry_after() {
    run("retry_after", targets::retry_after, 20_000);
}

#[test]
fn rate_limit() {
    run("rate_limit", targets::rate_limit, 20_000);
}

#[test]
fn origin() {
    run("origin", targets::origin, 20_000);
}

#[test]
fn http1() {
    run("http1", targets::http1, 1_000);
}

#[test]
fn http2() {
    run("http2", targets::http2, 1_000);
}
