//! Every interleaving of a few threads at the gate: nobody is let in over the limit, nobody waits in vain, nothing is lost.

use std::{future::poll_fn, time::Duration};

use loom::{
    future::block_on,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};
use tokio::time::Instant;

use super::{Entered, Gate, Ticket, Turn};
use crate::order::Order;

/// With two threads beside the first, each run explores every interleaving with up to three preemptions.
fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

fn join(gate: &Gate, order: Order) -> Ticket {
    match gate.enter(order, usize::MAX, Instant::now()) {
        Entered::InLine(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

fn wait(gate: &Gate, ticket: &Ticket) -> Turn {
    block_on(poll_fn(|cx| gate.poll(ticket, cx.waker())))
}

pub(crate) fn acquire(gate: &Gate) {
    if gate.try_acquire() {
        return;
    }
    match gate.enter(Order::Fifo, usize::MAX, Instant::now()) {
        Entered::Granted => {}
        Entered::InLine(ticket) => assert_eq!(wait(gate, &ticket), Turn::Granted),
        Entered::Full(_) => unreachable!("there is room for all"),
    }
}

#[test]
fn never_more_than_the_limit_and_nobody_waits_in_vain() {
    model(|| {
        let gate = Arc::new(Gate::new(1));
        let inside = Arc::new(AtomicUsize::new(0));
        let call = move |gate: &Gate, inside: &AtomicUsize| {
            acquire(gate);
            assert_eq!(inside.fetch_add(1, SeqCst), 0);
            inside.fetch_sub(1, SeqCst);
            gate.release();
        };
        let others: Vec<_> = (0..2)
            .map(|_| {
                let (gate, inside) = (gate.clone(), inside.clone());
                thread::spawn(move || call(&gate, &inside))
            })
            .collect();
        call(&gate, &inside);
        for other in others {
            other.join().unwrap();
        }
        assert!(gate.is_idle());
        assert_eq!(gate.stats().waiting, 0);
    });
}

#[test]
fn a_grant_to_one_who_leaves_passes_on() {
    for order in [Order::Fifo, Order::Lifo] {
        model(move || {
            let gate = Arc::new(Gate::new(1));
            assert!(gate.try_acquire());
            let leaves = join(&gate, order);
            let stays = join(&gate, order);
            let releasing = thread::spawn({
                let gate = gate.clone();
                move || gate.release()
            });
            let leaving = thread::spawn({
                let gate = gate.clone();
                move || gate.leave(&leaves)
            });
            assert_eq!(wait(&gate, &stays), Turn::Granted);
            releasing.join().unwrap();
            leaving.join().unwrap();
            gate.release();
            assert!(gate.is_idle());
        });
    }
}

#[test]
fn the_last_to_leave_opens_the_fast_path() {
    model(|| {
        let gate = Arc::new(Gate::new(1));
        assert!(gate.try_acquire());
        let leaves = join(&gate, Order::Fifo);
        let releasing = thread::spawn({
            let gate = gate.clone();
            move || gate.release()
        });
        let leaving = thread::spawn({
            let gate = gate.clone();
            move || gate.leave(&leaves)
        });
        acquire(&gate);
        releasing.join().unwrap();
        leaving.join().unwrap();
        assert_eq!(gate.stats().in_use, 1);
        gate.release();
        assert!(gate.try_acquire());
    });
}

#[test]
fn a_limit_that_shrinks_and_grows_again_serves_who_waits() {
    model(|| {
        let gate = Arc::new(Gate::new(1));
        assert!(gate.try_acquire());
        let waiting = join(&gate, Order::Fifo);
        let resizing = thread::spawn({
            let gate = gate.clone();
            move || {
                gate.resize(|| 0);
                gate.resize(|| 1);
            }
        });
        let releasing = thread::spawn({
            let gate = gate.clone();
            move || gate.release()
        });
        assert_eq!(wait(&gate, &waiting), Turn::Granted);
        resizing.join().unwrap();
        releasing.join().unwrap();
        assert_eq!(gate.stats().in_use, 1);
        gate.release();
        assert!(gate.is_idle());
    });
}

#[test]
fn of_two_sizes_at_once_the_one_written_last_stays() {
    model(|| {
        let gate = Arc::new(Gate::new(1));
        let target = Arc::new(AtomicUsize::new(1));
        let sizes = [2, 3].map(|limit| {
            let (gate, target) = (gate.clone(), target.clone());
            thread::spawn(move || {
                target.store(limit, SeqCst);
                gate.resize(|| target.load(SeqCst));
            })
        });
        acquire(&gate);
        for size in sizes {
            size.join().unwrap();
        }
        assert_eq!(gate.limit(), target.load(SeqCst));
        gate.release();
        assert!(gate.is_idle());
    });
}

#[test]
fn who_is_shed_is_told_and_the_permit_stays_free() {
    model(|| {
        let gate = Arc::new(Gate::new(1));
        assert!(gate.try_acquire());
        let order = Order::CoDel { target: Duration::ZERO, interval: Duration::ZERO };
        let Entered::InLine(shed) = gate.enter(order, 1, Instant::now() - Duration::from_secs(1)) else {
            panic!("nobody else is in line");
        };
        let releasing = thread::spawn({
            let gate = gate.clone();
            move || gate.release()
        });
        assert_eq!(wait(&gate, &shed), Turn::Shed);
        releasing.join().unwrap();
        assert!(gate.is_idle());
    });
}
