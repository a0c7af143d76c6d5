//! The work that leaving the line costs, and who is left in it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Poll, Wake, Waker},
};

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::time::Instant;

use super::{Entered, Gate, Ticket, Turn};
use crate::order::Order;

const WAITERS: usize = 20_000;
const LEFT_OVER: usize = 10;

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn join(gate: &Gate, order: Order) -> Ticket {
    match gate.enter(order, usize::MAX, Instant::now()) {
        Entered::InLine(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn leaving_is_linear_and_keeps_the_order_of_those_who_stay() {
    let mut shuffled: Vec<_> = (0..WAITERS).collect();
    shuffled.shuffle(&mut StdRng::seed_from_u64(5));
    for (name, leaving) in [
        ("oldest first", (0..WAITERS).collect()),
        ("newest first", (0..WAITERS).rev().collect()),
        ("at random", shuffled),
    ] {
        for order in [Order::Fifo, Order::Lifo] {
            let gate = Gate::new(1);
            assert!(gate.try_acquire());
            let wakes: Vec<_> = (0..WAITERS).map(|_| Arc::new(Wakes::default())).collect();
            let mut line: Vec<_> = wakes
                .iter()
                .map(|wakes| {
                    let ticket = join(&gate, order);
                    assert_eq!(gate.poll(&ticket, &Waker::from(wakes.clone())), Poll::Pending);
                    Some(ticket)
                })
                .collect();

            let before = gate.lock().work;
            for &index in leaving.iter().filter(|&&index| index % LEFT_OVER != 0) {
                gate.leave(&line[index].take().unwrap());
            }
            let work = gate.lock().work - before;
            assert!(work <= 4 * WAITERS, "{name}, {order:?}: {work} steps");
            assert_eq!(gate.stats().waiting, WAITERS / LEFT_OVER, "{name}, {order:?}");

            let mut stayed: Vec<_> = (0..WAITERS).step_by(LEFT_OVER).collect();
            if order == Order::Lifo {
                stayed.reverse();
            }
            for index in stayed {
                gate.release();
                let turn = gate.poll(line[index].as_ref().unwrap(), Waker::noop());
                assert_eq!(turn, Poll::Ready(Turn::Granted), "{name}, {order:?}: {index}");
            }
            gate.release();

            for (index, wakes) in wakes.iter().enumerate() {
                let expected = usize::from(index % LEFT_OVER == 0);
                assert_eq!(wakes.0.load(Relaxed), expected, "{name}, {order:?}: wakes of {index}");
            }
            assert!(gate.is_idle());
            assert_eq!(gate.lock().places.capacity(), 0, "{name}, {order:?}: memory kept");
        }
    }
}

/// A waker that asks for a permit itself, and gives it back, as the task it wakes might do at once on another thread.
struct Reenters(Arc<Gate>);

impl Wake for Reenters {
    fn wake(self: Arc<Self>) {
        if self.0.try_acquire() {
            self.0.release();
        }
        let _ = self.0.stats();
    }
}

impl Drop for Reenters {
    fn drop(&mut self) {
        let _ = self.0.stats();
    }
}

#[test]
fn wakers_are_run_and_dropped_outside_the_lock() {
    let gate = Arc::new(Gate::new(1));
    assert!(gate.try_acquire());
    let [first, second, third] = [(); 3].map(|()| join(&gate, Order::Fifo));
    for ticket in [&first, &second, &third, &third] {
        assert_eq!(gate.poll(ticket, &Waker::from(Arc::new(Reenters(gate.clone())))), Poll::Pending);
    }
    gate.release();
    gate.leave(&second);
    gate.leave(&first);
    assert_eq!(gate.poll(&third, Waker::noop()), Poll::Ready(Turn::Granted));
    gate.resize(|| 0);
    gate.release();
    let fourth = join(&gate, Order::Fifo);
    assert_eq!(gate.poll(&fourth, &Waker::from(Arc::new(Reenters(gate.clone())))), Poll::Pending);
    gate.resize(|| 1);
    gate.leave(&fourth);
    assert!(gate.is_idle());
}

/// Asks for a permit while it is woken, when others are still in line for those that are free.
struct Overtakes(Arc<Gate>, AtomicUsize);

impl Wake for Overtakes {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(usize::from(self.0.try_acquire()), Relaxed);
    }
}

#[test]
fn nobody_overtakes_those_whose_permit_is_on_its_way() {
    let gate = Arc::new(Gate::new(0));
    let [first, second] = [(); 2].map(|()| join(&gate, Order::Fifo));
    let overtakes = Arc::new(Overtakes(gate.clone(), AtomicUsize::new(0)));
    assert_eq!(gate.poll(&first, &Waker::from(overtakes.clone())), Poll::Pending);
    gate.resize(|| 2);
    assert_eq!(overtakes.1.load(Relaxed), 0);
    for ticket in [&first, &second] {
        assert_eq!(gate.poll(ticket, Waker::noop()), Poll::Ready(Turn::Granted));
    }
}

/// As when one has come free since the caller looked.
#[test]
fn who_comes_to_stand_in_line_takes_one_of_those_that_are_free() {
    let gate = Gate::new(3);
    for taken in 1..=3 {
        assert!(matches!(gate.enter(Order::Fifo, 1, Instant::now()), Entered::Granted), "{taken}");
        assert_eq!(gate.in_use(), taken);
    }
    join(&gate, Order::Fifo);
    assert_eq!(gate.in_use(), 3);
}
