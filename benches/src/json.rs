//! From what size on JSON is better encoded and decoded off the workers: `cargo run --release -p outbound-benches -- json`.
//!
//! Beside the time of each document, the hop: the time to another thread and back for work that is nothing. Where two hops are more than
//! some 15 % of encoding and decoding they are not worth it, and a worker may be kept from its other tasks for some 100 µs (Tokio's
//! own advice).

use std::time::Duration;

use outbound::offload;
use serde_json::{Value, json};
use tokio::time::Instant;

const ROUNDS: usize = 31;

pub(crate) fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let hop = runtime.block_on(async {
        tokio::spawn(async {
            let mut hops = Vec::new();
            for _ in 0..ROUNDS * 100 {
                let begun = Instant::now();
                offload(|| ()).await;
                hops.push(begun.elapsed());
            }
            median(hops)
        })
        .await
        .expect("no panic")
    });
    println!("the hop: {:.1} µs", micros(hop));
    println!("{:>10} {:>12} {:>12} {:>22}", "bytes", "encode µs", "decode µs", "hop, of both in %");
    for entities in [4, 16, 64, 256, 512, 1_024, 4_096, 40_000] {
        let value: Vec<Value> = (0..entities).map(entity).collect();
        let text = serde_json::to_vec(&value).expect("values are JSON");
        let encode =
            median((0..ROUNDS).map(|_| time(|| serde_json::to_vec(&value).expect("JSON"))).collect());
        let decode = median(
            (0..ROUNDS).map(|_| time(|| serde_json::from_slice::<Value>(&text).expect("JSON"))).collect(),
        );
        let share = 100.0 * hop.as_secs_f64() * 2.0 / (encode + decode).as_secs_f64();
        println!("{:>10} {:>12.1} {:>12.1} {:>22.1}", text.len(), micros(encode), micros(decode), share);
    }
}

fn entity(number: usize) -> Value {
    json!({ "id": number, "name": format!("entity {number}"), "score": number as f64 / 7.0, "tags": ["a", "b", "c"],
        "address": { "street": "Long Street", "number": number % 100, "city": "Somewhere" } })
}

fn time<T>(work: impl FnOnce() -> T) -> Duration {
    let begun = Instant::now();
    let result = work();
    let took = begun.elapsed();
    drop(result);
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
