//! Gates let through whom they should.

use outbound_testkit::{Gate, cancel_at_each_poll};
use tokio::task::yield_now;

#[tokio::test]
async fn a_ticket_is_for_one() {
    let gate = Gate::new("ticket");
    gate.let_one_through();
    gate.pass().await;
    let done = cancel_at_each_poll(3, || gate.pass(), async |_| assert_eq!(gate.waiting(), 0)).await;
    assert_eq!(done, None);
}

#[tokio::test]
async fn an_open_gate_is_for_all_until_it_is_closed() {
    let gate = Gate::new("open");
    gate.open();
    gate.pass().await;
    gate.pass().await;
    gate.close();
    let passes = tokio::spawn({
        let gate = gate.clone();
        async move { gate.pass().await }
    });
    gate.arrived(3).await;
    for _ in 0..9 {
        yield_now().await;
    }
    assert!(!passes.is_finished());
    assert_eq!(gate.waiting(), 1);
    gate.open();
    passes.await.unwrap();
}
