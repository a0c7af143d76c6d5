//! What does the preset `Client` do that a bare one does not? `cargo run --release --example client`
//!
//! An upstream that lets 60 requests a second through and tells the others when to come back, that is unavailable now and then, and that now
//! and then does what it is asked and then answers 500. Twenty callers send it 300 orders, each to be carried out once, in three
//! ways: bare, with the retry loop that everybody writes first, and with [`outbound::Client`].
//!
//! Exits with 1 if an order of the third was not accepted, or not carried out exactly once; or if all of the first were accepted.

use std::{
    collections::HashMap,
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use clap::Parser;
use http::header::RETRY_AFTER;
use hyper_util::{client::legacy, rt::TokioExecutor};
use outbound::{
    Body, BoxError, Client, ClientExt, ResponseExt,
    retry::{Budget, IdempotencyKey, Ratio},
};
use outbound_examples::server::Server;
use tokio::{task::JoinSet, time::Instant};

const CALLERS: usize = 20;
const A_SECOND: usize = 60;

#[derive(Clone, Copy, Debug, Parser)]
struct Options {
    /// How many orders to send
    #[arg(long, default_value_t = 300)]
    orders: usize,
}

/// What the upstream has done.
#[derive(Debug, Default)]
struct Books {
    requests: usize,
    /// The second that is counted now, and the requests let through in it.
    second: u64,
    let_through: usize,
    /// How often each order was carried out.
    orders: HashMap<String, usize>,
    /// By idempotency key, what has been carried out.
    done: HashMap<String, ()>,
}

#[derive(Debug, Default)]
struct Column {
    name: &'static str,
    accepted: usize,
    failed: HashMap<String, usize>,
    took: Duration,
    requests: usize,
    lost: usize,
    twice: usize,
}

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let Options { orders } = Options::parse();
    let bare = || legacy::Client::builder(TokioExecutor::new()).build_http::<Body>();
    // What is known of this upstream: it honours the key, it turns away a third of the calls, some of them again and again, and it is quick.
    let client = Client::builder()
        .idempotency_key(IdempotencyKey::Generated)
        .max_attempts(10)
        .retry_budget(Budget::new(Ratio::default().percent(50)))
        .head_timeout(Duration::from_secs(5))
        .build()?;
    let columns = [
        run("bare", bare(), 1, orders).await,
        run("retry loop", bare(), 3, orders).await,
        run("outbound::Client", client.clone(), 1, orders).await,
    ];
    println!("{orders} orders by {CALLERS} callers to an upstream that takes {A_SECOND} a second\n");
    let row = |name: &str, cell: &dyn Fn(&Column) -> String| {
        let cells: Vec<_> = columns.iter().map(|column| format!("{:>18}", cell(column))).collect();
        println!("{name:24}{}", cells.concat());
    };
    row("", &|column| column.name.to_owned());
    row("accepted", &|column| column.accepted.to_string());
    for why in ["429", "500", "503"] {
        row(&format!("failed with {why}"), &|column| {
            column.failed.get(why).copied().unwrap_or_default().to_string()
        });
    }
    row("requests it took", &|column| column.requests.to_string());
    row("seconds", &|column| format!("{:.1}", column.took.as_secs_f64()));
    row("orders lost", &|column| column.lost.to_string());
    row("carried out twice", &|column| column.twice.to_string());
    println!("\nthe third, from the caller inwards:\n{}", client.describe());
    let [bare, _, ours] = columns;
    let shown = bare.accepted < orders && (ours.accepted, ours.lost, ours.twice) == (orders, 0, 0);
    Ok(if shown { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Sends all orders, each up to `tries` times, one right after the other.
async fn run<S, B>(name: &'static str, client: S, tries: usize, orders: usize) -> Column
where
    S: tower::Service<http::Request<Body>, Response = http::Response<B>, Error: Into<BoxError>>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: http_body::Body<Error: Into<BoxError>> + Send + 'static,
    B::Data: Send,
{
    let books = Arc::new(Mutex::new(Books::default()));
    let upstream = Server::start(1, Router::new().route("/orders", post(order)).with_state(books.clone()));
    let (next, url) = (Arc::new(AtomicUsize::new(0)), format!("{}/orders", upstream.url()));
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (client, next, url) = (client.clone(), next.clone(), url.clone());
        callers.spawn(async move {
            let mut outcomes = Vec::new();
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= orders {
                    return outcomes;
                }
                let mut outcome = String::new();
                for _ in 0..tries {
                    outcome = place(&client, &url, number).await.unwrap_or_else(|error| error.to_string());
                    if outcome == "200" {
                        break;
                    }
                }
                outcomes.push(outcome);
            }
        });
    }
    let mut column = Column { name, ..Column::default() };
    for outcome in callers.join_all().await.into_iter().flatten() {
        match outcome.as_str() {
            "200" => column.accepted += 1,
            _ => *column.failed.entry(outcome).or_default() += 1,
        }
    }
    column.took = begun.elapsed();
    let books = books.lock().unwrap();
    column.requests = books.requests;
    column.lost = orders - books.orders.len();
    column.twice = books.orders.values().filter(|&&times| times > 1).count();
    column
}

/// Places one order; tells the status.
async fn place<S, B>(client: &S, url: &str, number: usize) -> Result<String, BoxError>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<B>, Error: Into<BoxError>> + Clone,
    B: http_body::Body<Error: Into<BoxError>>,
{
    let response = client.post(url).json(&format!("order {number}")).send().await?;
    let status = response.status();
    response.bytes().await?;
    Ok(status.as_u16().to_string())
}

/// The upstream.
async fn order(
    State(books): State<Arc<Mutex<Books>>>,
    headers: HeaderMap,
    order: String,
) -> (StatusCode, HeaderMap) {
    tokio::time::sleep(Duration::from_millis(10)).await;
    let mut books = books.lock().unwrap();
    books.requests += 1;
    let second = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    if books.second != second {
        (books.second, books.let_through) = (second, 0);
    }
    if books.let_through == A_SECOND {
        return (StatusCode::TOO_MANY_REQUESTS, HeaderMap::from_iter([(RETRY_AFTER, 1.into())]));
    }
    books.let_through += 1;
    if books.requests % 17 == 0 {
        return (StatusCode::SERVICE_UNAVAILABLE, HeaderMap::new());
    }
    // Like most that know the header, it does an order with the same key once, and says again what came of it.
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
    let is_new = key.is_none_or(|key| books.done.insert(key, ()).is_none());
    if is_new {
        *books.orders.entry(order).or_default() += 1;
    }
    let answer_is_lost = is_new && books.requests % 19 == 0;
    (if answer_is_lost { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK }, HeaderMap::new())
}
