//! Dropping a future at each of its polls.

use std::{
    cell::RefCell,
    future::{pending, poll_fn},
    rc::Rc,
    task::Poll,
    time::Duration,
};

use outbound_testkit::{Hostile, Script, cancel_at_each_poll};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::yield_now,
    time::{Instant, sleep},
};

/// A future that notes its polls, wakes itself and is done at the fourth.
fn four_polls(log: &RefCell<Vec<usize>>) -> impl Future<Output = &'static str> {
    log.borrow_mut().push(0);
    poll_fn(move |cx| {
        *log.borrow_mut().last_mut().unwrap() += 1;
        match *log.borrow().last().unwrap() {
            4 => Poll::Ready("done"),
            _ => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    })
}

#[tokio::test]
async fn every_number_of_polls_is_tried() {
    let log = RefCell::default();
    let mut checked = Vec::new();
    let done = cancel_at_each_poll(9, || four_polls(&log), async |polls| checked.push(polls)).await;
    assert_eq!(done, Some("done"));
    assert_eq!(*log.borrow(), [0, 1, 2, 3, 4]);
    assert_eq!(checked, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn stops_at_the_most() {
    let log = RefCell::default();
    let done = cancel_at_each_poll(2, || four_polls(&log), async |_| {}).await;
    assert_eq!(done, None);
    assert_eq!(*log.borrow(), [0, 1, 2]);
}

#[tokio::test]
async fn the_future_is_dropped_before_the_check() {
    let held = Rc::new(());
    let holds = || {
        let held = held.clone();
        async move {
            yield_now().await;
            drop(held);
        }
    };
    let check = async |_| assert_eq!(Rc::strong_count(&held), 1);
    let done = cancel_at_each_poll(9, holds, check).await;
    assert_eq!(done, Some(()));
}

#[tokio::test(start_paused = true)]
async fn a_future_that_nobody_wakes_is_polled_all_the_same() {
    let start = Instant::now();
    let done = cancel_at_each_poll(3, pending::<()>, async |_| {}).await;
    assert_eq!(done, None);
    // A millisecond for each of 0 + 1 + 2 + 3 polls.
    assert_eq!(start.elapsed(), Duration::from_millis(6));
}

#[tokio::test(start_paused = true)]
async fn time_passes_while_it_waits() {
    let polls = RefCell::new(0);
    let done = cancel_at_each_poll(
        9,
        || sleep(Duration::from_millis(2)),
        async |at| {
            polls.replace(at);
        },
    );
    assert_eq!(done.await, Some(()));
    assert!(polls.into_inner() > 1);
}

#[tokio::test]
async fn an_exchange_is_cancelled_everywhere() {
    let upstream = Hostile::new(Script::hello()).start();
    let exchange = || async {
        let mut client = TcpStream::connect(upstream.addr()).await?;
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
        client.read_exact(&mut [0; 40]).await
    };
    let done = cancel_at_each_poll(99, exchange, async |_| {
        upstream.all_closed().await;
        assert!(upstream.max_open() <= 1);
    })
    .await;
    assert_eq!(done.unwrap().unwrap(), 40);
    let accepted = upstream.sightings().connections.len();
    assert!(accepted >= 3, "cancelled in connect, in read and never: {accepted}");
}
