//! Which lock a call takes: its thread's, and no other thread's. Alone in its process, for threads are counted from its start.

use std::{
    convert::Infallible,
    future::pending,
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, JoinHandle},
};

use http::{Request, Response};
use outbound_guard::{LeakGuardLayer, SendExt};
use support::*;
use tokio::runtime::Handle;
use tower::{Layer, Service, service_fn};

mod support;

/// A thread that makes a call each time it is told to, and keeps it open.
struct Caller {
    orders: Sender<()>,
    done: Receiver<()>,
    thread: JoinHandle<()>,
}

impl Caller {
    fn new<S>(client: S, number: usize) -> Self
    where
        S: Service<Request<()>> + Clone + Send + 'static,
    {
        let (orders, told) = channel();
        let (tell, done) = channel();
        let runtime = Handle::current();
        let thread = thread::spawn(move || {
            let _clock = runtime.enter();
            let mut calls = Vec::new();
            for () in told {
                let request = Request::get(format!("http://{number}.example/")).body(()).unwrap();
                let mut call = Box::pin(client.send(request));
                assert!(futures_poll(call.as_mut()).is_pending());
                calls.push(call);
                tell.send(()).unwrap();
            }
        });
        Self { orders, done, thread }
    }

    fn call(&self) {
        self.orders.send(()).unwrap();
        self.done.recv().unwrap();
    }
}

/// All calls begin at the same instant, so that a snapshot lists them as they are kept: shard by shard, and in a shard by their turn.
#[tokio::test(start_paused = true)]
async fn a_call_is_kept_in_the_shard_of_its_thread() {
    let (layer, detector) = LeakGuardLayer::pair();
    let silent = service_fn(|_: Request<()>| pending::<Result<Response<String>, Infallible>>());
    let client = layer.layer(silent);
    let shards = 4 * thread::available_parallelism().unwrap().get();
    let callers: Vec<_> = (0..=shards).map(|number| Caller::new(client.clone(), number)).collect();
    for _ in 0..2 {
        callers.iter().for_each(Caller::call);
    }
    let kept: Vec<usize> = detector
        .snapshot()
        .iter()
        .map(|holding| {
            let host = holding.origin.as_ref().unwrap().host();
            host.strip_suffix(".example").unwrap().parse().unwrap()
        })
        .collect();
    let first = [0, shards, 0, shards];
    let others = (1..shards).flat_map(|number| [number, number]);
    assert_eq!(
        kept,
        first.into_iter().chain(others).collect::<Vec<_>>(),
        "only one more than there are shares one"
    );

    for Caller { orders, thread, .. } in callers {
        drop(orders);
        thread.join().unwrap();
    }
    detector.assert_no_leaks();
}
