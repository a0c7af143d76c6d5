//! The machine against its invariants and against plain queues: random moves (proptest), and every interleaving of a few threads (loom).

#[cfg(not(outbound_loom))]
use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::Wake,
};
use std::{task::Waker, time::Duration};

#[cfg(outbound_loom)]
use outbound_core::Origin;

use super::*;
use crate::events::Why;

/// Of even number: for one exchange at a time. Of odd number: for several.
impl Share for u32 {
    fn park(&mut self) -> Option<Box<dyn Send>> {
        Some(Box::new(()))
    }

    fn share(&self) -> Self {
        *self
    }
}

fn ask() -> Ask {
    Ask { ticket: None, site: None, now: Now::read(), nature: Nature::Exclusive, apart: false }
}

/// No limit but these.
pub(crate) fn limits_of(total: usize, per_host: usize, waiting: usize) -> Limits {
    Limits {
        total,
        per_host,
        idle: total,
        idle_per_host: per_host,
        waiting,
        idle_timeout: Duration::from_secs(10),
        park_after: Duration::ZERO,
        lifetime: None,
        requests: u64::MAX,
        seed: 0,
    }
}

/// The right to a socket, for a model that needs no more.
#[cfg(outbound_loom)]
pub(crate) fn dialed(slots: &Arc<crate::connection::Slots>) -> crate::connection::Slot {
    let origin = Origin::of(&http::Uri::from_static("http://a.example/")).unwrap();
    let Ok(Acquire::Later(mut waiting)) = slots.acquire(&origin, ask()) else { unreachable!("none is open") };
    match waiting.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Turn::Dial(slot)) => slot,
        _ => unreachable!("there is room"),
    }
}

/// Counts how often it was woken.
#[cfg(not(outbound_loom))]
#[derive(Default)]
struct Woken(AtomicUsize);

#[cfg(not(outbound_loom))]
impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[cfg(not(outbound_loom))]
mod random {
    use proptest::prelude::*;

    use super::*;

    /// One thing that somebody may do. Numbers pick among what there is.
    #[derive(Clone, Debug)]
    enum Move {
        Ask(u8),
        Poll(usize),
        /// A waiter goes away.
        Cancel(usize),
        /// A dial succeeds, for the waiter that began it.
        Open(usize),
        /// A dial fails or is cancelled, or a socket is closed by the peer.
        Close(usize),
        Release(usize),
        /// A connection is given up; its socket stays open until `Close`.
        Retire(usize),
        /// In the place of one that was given up, another is dialed.
        Redial(usize),
        /// A waiter finds what it was handed dead.
        Dead(usize),
        /// A dial succeeds, for several exchanges at once.
        Share(usize, usize),
        /// The peer allows more or fewer of them.
        Resize(usize, usize),
        /// A connection is to take no more exchanges.
        Condemn(usize),
        /// Dials for nobody.
        Reserve(u8, usize),
        Expire,
    }

    type Key = u8;
    type Conn = u32;

    /// What the outside holds: waiters, slots (sockets or dials) and leases.
    #[derive(Default)]
    struct World {
        waiters: Vec<(Key, Waiting<Key, Conn>, Arc<Woken>)>,
        slots: Vec<(Slot<Key, Conn>, Option<Conn>)>,
        /// Connections that were given up.
        retired: Vec<Conn>,
        leases: Vec<Lease<Key, Conn>>,
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let any_index = || any::<usize>();
        let step = prop_oneof![
            6 => (0..4u8).prop_map(Move::Ask),
            6 => any_index().prop_map(Move::Poll),
            2 => any_index().prop_map(Move::Cancel),
            4 => any_index().prop_map(Move::Open),
            3 => any_index().prop_map(Move::Close),
            5 => any_index().prop_map(Move::Release),
            1 => any_index().prop_map(Move::Retire),
            1 => any_index().prop_map(Move::Redial),
            1 => any_index().prop_map(Move::Dead),
            3 => (any_index(), 1..4usize).prop_map(|(pick, room)| Move::Share(pick, room)),
            1 => (any_index(), 0..4usize).prop_map(|(pick, room)| Move::Resize(pick, room)),
            1 => any_index().prop_map(Move::Condemn),
            1 => (0..4u8, 1..4usize).prop_map(|(host, wanted)| Move::Reserve(host, wanted)),
            1 => Just(Move::Expire),
        ];
        proptest::collection::vec(step, 1..200)
    }

    fn limits() -> impl Strategy<Value = Limits> {
        let counts = (1..6usize, 1..6usize, 0..6usize, 0..6usize, 0..8usize);
        (counts, prop_oneof![Just(u64::MAX), 1..4u64], prop_oneof![Just(None), Just(Some(Duration::ZERO))])
            .prop_map(|((total, per_host, idle, idle_per_host, waiting), requests, lifetime)| Limits {
                idle: idle.min(total),
                idle_per_host,
                idle_timeout: if idle % 2 == 0 { Duration::from_nanos(1) } else { Duration::from_secs(10) },
                requests,
                lifetime,
                ..limits_of(total, per_host.min(total), waiting)
            })
    }

    impl World {
        fn step(&mut self, slots: &Arc<Slots<Key, Conn>>, step: Move, next: &mut Conn) {
            match step {
                // The last of the hosts is the first once more, apart.
                Move::Ask(host) => match slots
                    .acquire(&(host % 3), Ask { nature: nature(host), apart: host == 3, ..ask() })
                {
                    Ok(Acquire::Now(lease)) => self.leases.push(lease),
                    Ok(Acquire::Later(waiting)) => self.waiters.push((host, waiting, Arc::default())),
                    Err(_) => {}
                },
                Move::Poll(pick) => {
                    if let Some(index) = pick.checked_rem(self.waiters.len()) {
                        self.poll(index);
                    }
                }
                Move::Cancel(pick) => drop(take(&mut self.waiters, pick)),
                Move::Open(pick) => {
                    let Some(index) = pick.checked_rem(self.slots.len()) else { return };
                    let (slot, connection) = &mut self.slots[index];
                    if connection.is_none() {
                        *next += 2;
                        *connection = Some(*next & !1);
                        self.leases.push(slot.lease(*next & !1, 0, None));
                    }
                }
                Move::Close(pick) => drop(take(&mut self.slots, pick)),
                Move::Release(pick) => {
                    if let Some(lease) = take(&mut self.leases, pick) {
                        lease.release();
                    }
                }
                Move::Retire(pick) => {
                    if let Some(lease) = take(&mut self.leases, pick) {
                        self.retired.push(*lease);
                    }
                }
                Move::Redial(pick) => {
                    let Some(index) = pick.checked_rem(self.slots.len()) else { return };
                    let (slot, connection) = &mut self.slots[index];
                    let retired =
                        |&connection: &Conn| connection % 2 == 0 && self.retired.contains(&connection);
                    if connection.as_ref().is_some_and(retired) {
                        slot.redial();
                        *connection = None;
                    }
                }
                Move::Dead(pick) => {
                    let Some(index) = pick.checked_rem(self.waiters.len()) else { return };
                    let mut cx = Context::from_waker(Waker::noop());
                    match self.waiters[index].1.poll(&mut cx) {
                        Poll::Ready(Turn::Reuse(dead)) => {
                            drop(dead);
                            self.waiters[index].1.requeue();
                        }
                        Poll::Ready(Turn::Dial(slot)) => self.slots.push((slot, None)),
                        Poll::Ready(Turn::Closed) => unreachable!("nobody closes"),
                        Poll::Pending => {}
                    }
                }
                Move::Share(pick, room) => {
                    let Some(index) = pick.checked_rem(self.slots.len()) else { return };
                    let (slot, connection) = &mut self.slots[index];
                    if connection.is_none() {
                        *next += 2;
                        *connection = Some(*next | 1);
                        self.leases.push(slot.share(*next | 1, || room, 0, None));
                    }
                }
                Move::Resize(pick, room) => {
                    if let Some(index) = pick.checked_rem(self.slots.len()) {
                        self.slots[index].0.resize(room);
                    }
                }
                Move::Condemn(pick) => {
                    if let Some(index) = pick.checked_rem(self.slots.len()) {
                        self.slots[index].0.condemn(Why::Drained);
                    }
                }
                Move::Reserve(host, wanted) => {
                    let reserved = slots.reserve(&host, wanted, nature(host));
                    self.slots.extend(reserved.into_iter().map(|slot| (slot, None)));
                }
                Move::Expire => {
                    slots.expire();
                }
            }
        }

        fn poll(&mut self, index: usize) {
            let waker = Waker::from(self.waiters[index].2.clone());
            match self.waiters[index].1.poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(Turn::Reuse(lease)) => {
                    drop(self.waiters.swap_remove(index));
                    self.leases.push(lease);
                }
                Poll::Ready(Turn::Dial(slot)) => self.slots.push((slot, None)),
                Poll::Ready(Turn::Closed) => unreachable!("nobody closes"),
                Poll::Pending => {}
            }
        }
    }

    /// Half of the hosts are known not to share.
    fn nature(host: u8) -> Nature {
        if host.is_multiple_of(2) { Nature::Exclusive } else { Nature::Unknown }
    }

    fn take<T>(all: &mut Vec<T>, pick: usize) -> Option<T> {
        pick.checked_rem(all.len()).map(|index| all.swap_remove(index))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

        #[test]
        fn invariants_hold_after_every_move(limits in limits(), moves in moves()) {
            let slots = Slots::new(limits);
            let mut world = World::default();
            let mut next = 0;
            for step in moves {
                world.step(&slots, step, &mut next);
                slots.with(|state, _| state.check());
            }
            // Everybody goes: nothing is left, whatever the order of the past.
            world.leases.clear();
            world.waiters.clear();
            slots.shut();
            world.slots.clear();
            slots.with(|state, _| state.check());
            prop_assert!(slots.is_empty());
            let stats = slots.stats();
            prop_assert!(stats.origins.is_empty(), "cold origins are kept: {stats:?}");
            prop_assert_eq!(stats.waiting, 0);
        }
    }
}

/// Who is given what, against the same said with queues: those who wait, the oldest in front; what is idle, the longest idle in front.
/// For connections with one exchange at a time, without limits but those on their number.
#[cfg(not(outbound_loom))]
mod order {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    type Host = usize;
    type Conn = u32;

    const HOSTS: usize = 3;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Given {
        Nothing,
        Dial,
        Reuse(Conn),
    }

    struct Place {
        ticket: Ticket,
        host: Host,
        /// It has, or has had, leave to dial.
        may_dial: bool,
        given: Given,
        /// How many connections had been handed on when it came.
        came: usize,
    }

    struct Queues {
        total: usize,
        per_host: usize,
        line: VecDeque<Place>,
        idle: VecDeque<(Host, Conn)>,
        /// Given up, the socket is open.
        closing: Vec<(Host, Conn)>,
        /// All that count, of each host.
        open: [usize; HOSTS],
        handed_on: usize,
    }

    impl Queues {
        /// The one used last.
        fn take(&mut self, host: Host) -> Option<Conn> {
            let newest = self.idle.iter().rposition(|(of, _)| *of == host)?;
            self.idle.remove(newest).map(|(_, connection)| connection)
        }

        fn wait(&mut self, ticket: Ticket, host: Host) {
            let came = self.handed_on;
            self.line.push_back(Place { ticket, host, may_dial: false, given: Given::Nothing, came });
            self.settle();
        }

        /// What it is given; with a connection, it goes.
        fn poll(&mut self, ticket: Ticket) -> Given {
            let at = self.at(ticket).expect("it waits");
            let given = std::mem::replace(&mut self.line[at].given, Given::Nothing);
            if let Given::Reuse(_) = given {
                self.line.remove(at);
            }
            given
        }

        fn leave(&mut self, ticket: Ticket) {
            let Some(place) = self.at(ticket).and_then(|at| self.line.remove(at)) else { return };
            match place.given {
                Given::Nothing => {}
                Given::Dial => self.close(place.host),
                Given::Reuse(connection) => self.release(place.host, connection),
            }
        }

        /// To the oldest who waits for this host, even if it dials; unless somebody older, of another host, has been passed over by as
        /// many as there may be connections.
        fn release(&mut self, host: Host, connection: Conn) {
            let waits = |place: &Place| place.host == host && !matches!(place.given, Given::Reuse(_));
            match self.line.iter().position(waits) {
                None => self.idle.push_back((host, connection)),
                Some(at) if self.is_overdue_before(self.line[at].ticket) => {
                    self.closing.push((host, connection))
                }
                Some(at) => {
                    self.handed_on += 1;
                    let before = std::mem::replace(&mut self.line[at].given, Given::Reuse(connection));
                    self.open[host] -= usize::from(before == Given::Dial);
                }
            }
            self.settle();
        }

        /// A socket, or a dial.
        fn close(&mut self, host: Host) {
            self.open[host] -= 1;
            self.settle();
        }

        /// Leave to dial for the oldest whose host has room; what has been idle for longest makes room, for as many as could use it.
        fn settle(&mut self) {
            while let Some(at) = self.line.iter().position(|place| self.could_dial(place)) {
                if self.open.iter().sum::<usize>() < self.total {
                    let place = &mut self.line[at];
                    (place.may_dial, place.given) = (true, Given::Dial);
                    self.open[place.host] += 1;
                } else if !self.idle.is_empty() && self.wanted() > self.closing.len() {
                    self.closing.extend(self.idle.pop_front());
                } else {
                    break;
                }
            }
        }

        fn could_dial(&self, place: &Place) -> bool {
            !place.may_dial && place.given == Given::Nothing && self.open[place.host] < self.per_host
        }

        fn wanted(&self) -> usize {
            let of = |host| {
                let could = self.line.iter().filter(|place| place.host == host && self.could_dial(place));
                could.count().min(self.per_host - self.open[host])
            };
            (0..HOSTS).map(of).sum()
        }

        fn is_overdue_before(&self, ticket: Ticket) -> bool {
            let oldest = self.line.iter().find(|place| self.could_dial(place));
            self.closing.is_empty()
                && oldest.is_some_and(|oldest| {
                    oldest.ticket < ticket && self.handed_on - oldest.came >= self.total
                })
        }

        fn at(&self, ticket: Ticket) -> Option<usize> {
            self.line.iter().position(|place| place.ticket == ticket)
        }
    }

    #[derive(Clone, Debug)]
    enum Move {
        Ask(Host),
        Poll(usize),
        Leave(usize),
        /// A dial succeeds: whoever began it does not wait any more.
        Open(usize),
        /// It fails, and with it the call.
        Fail(usize),
        Release(usize),
        /// A connection is given up.
        Retire(usize),
        /// The socket of one that was given up is closed.
        Close(usize),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let pick = any::<usize>;
        let step = prop_oneof![
            6 => (0..HOSTS).prop_map(Move::Ask),
            6 => pick().prop_map(Move::Poll),
            1 => pick().prop_map(Move::Leave),
            4 => pick().prop_map(Move::Open),
            1 => pick().prop_map(Move::Fail),
            6 => pick().prop_map(Move::Release),
            1 => pick().prop_map(Move::Retire),
            2 => pick().prop_map(Move::Close),
        ];
        proptest::collection::vec(step, 1..200)
    }

    /// What the outside holds of the machine.
    struct World {
        slots: Arc<Slots<Host, Conn>>,
        waiters: Vec<Waiting<Host, Conn>>,
        dials: Vec<(Host, Ticket, Slot<Host, Conn>)>,
        sockets: Vec<(Conn, Slot<Host, Conn>)>,
        leases: Vec<(Host, Lease<Host, Conn>)>,
        queues: Queues,
        next: Conn,
    }

    impl World {
        fn step(&mut self, step: Move) {
            match step {
                Move::Ask(host) => {
                    match self.slots.acquire(&host, Ask { nature: Nature::Exclusive, ..ask() }) {
                        Ok(Acquire::Now(lease)) => {
                            assert_eq!(Some(*lease), self.queues.take(host), "the one used last");
                            self.leases.push((host, lease));
                        }
                        Ok(Acquire::Later(waiting)) => {
                            assert_eq!(self.queues.take(host), None, "it need not wait");
                            self.queues.wait(waiting.ticket(), host);
                            self.waiters.push(waiting);
                        }
                        Err(refusal) => panic!("{refusal:?}"),
                    }
                }
                Move::Poll(pick) => {
                    if let Some(index) = pick.checked_rem(self.waiters.len()) {
                        self.poll(index);
                    }
                }
                Move::Leave(pick) => {
                    if let Some(waiting) = take(&mut self.waiters, pick) {
                        self.queues.leave(waiting.ticket());
                    }
                }
                Move::Open(pick) => {
                    let Some((host, ticket, slot)) = take(&mut self.dials, pick) else { return };
                    self.next += 1;
                    self.leases.push((host, slot.lease(self.next, ticket, None)));
                    self.sockets.push((self.next, slot));
                    self.forget(ticket);
                }
                Move::Fail(pick) => {
                    let Some((host, ticket, slot)) = take(&mut self.dials, pick) else { return };
                    drop(slot);
                    self.queues.close(host);
                    self.forget(ticket);
                }
                Move::Release(pick) => {
                    let Some((host, lease)) = take(&mut self.leases, pick) else { return };
                    self.queues.release(host, *lease);
                    lease.release();
                }
                Move::Retire(pick) => {
                    let Some((host, lease)) = take(&mut self.leases, pick) else { return };
                    self.queues.closing.push((host, *lease));
                    drop(lease);
                }
                Move::Close(pick) => {
                    let Some((host, connection)) = take(&mut self.queues.closing, pick) else { return };
                    self.sockets.retain(|(of, _)| *of != connection);
                    self.queues.close(host);
                }
            }
        }

        fn poll(&mut self, index: usize) {
            let ticket = self.waiters[index].ticket();
            let at = self.queues.at(ticket).expect("it waits");
            let host = self.queues.line[at].host;
            let given = match self.waiters[index].poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => Given::Nothing,
                Poll::Ready(Turn::Dial(slot)) => {
                    self.dials.push((host, ticket, slot));
                    Given::Dial
                }
                Poll::Ready(Turn::Reuse(lease)) => {
                    let connection = *lease;
                    self.leases.push((host, lease));
                    drop(self.waiters.swap_remove(index));
                    Given::Reuse(connection)
                }
                Poll::Ready(Turn::Closed) => unreachable!("nobody closes"),
            };
            assert_eq!(given, self.queues.poll(ticket), "what {ticket} is given");
        }

        /// Whoever holds this ticket has an answer: what it was given besides goes on.
        fn forget(&mut self, ticket: Ticket) {
            self.waiters.retain(|waiting| waiting.ticket() != ticket);
            self.queues.leave(ticket);
        }

        /// What can be seen without asking for it.
        fn check(&self) {
            let counts = self.slots.stats().connections;
            let open: usize = self.queues.open.iter().sum();
            let seen = (counts.idle, counts.closing, counts.open());
            assert_eq!(
                seen,
                (self.queues.idle.len(), self.queues.closing.len(), open),
                "idle, closing, open"
            );
        }
    }

    fn take<T>(all: &mut Vec<T>, pick: usize) -> Option<T> {
        pick.checked_rem(all.len()).map(|index| all.swap_remove(index))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        #[test]
        fn everybody_is_given_what_queues_would_give(total in 1..6usize, per_host in 1..6usize, moves in moves()) {
            let per_host = per_host.min(total);
            let queues = Queues {
                total,
                per_host,
                line: VecDeque::new(),
                idle: VecDeque::new(),
                closing: Vec::new(),
                open: [0; HOSTS],
                handed_on: 0,
            };
            let mut world = World {
                slots: Slots::new(limits_of(total, per_host, usize::MAX)),
                waiters: Vec::new(),
                dials: Vec::new(),
                sockets: Vec::new(),
                leases: Vec::new(),
                queues,
                next: 0,
            };
            for step in moves {
                world.step(step);
                world.check();
            }
            // Everybody asks once more.
            for index in (0..world.waiters.len()).rev() {
                world.poll(index);
            }
        }
    }
}

#[cfg(not(outbound_loom))]
mod told {
    use super::*;

    type Machine = Arc<Slots<&'static str, u32>>;

    fn machine(total: usize, per_host: usize) -> Machine {
        Slots::new(limits_of(total, per_host, 100_000))
    }

    fn wait(slots: &Machine, host: &'static str) -> Waiting<&'static str, u32> {
        match slots.acquire(&host, ask()).expect("room to wait") {
            Acquire::Later(waiting) => waiting,
            Acquire::Now(_) => panic!("nothing was to be idle"),
        }
    }

    fn poll(waiting: &mut Waiting<&'static str, u32>) -> Poll<Turn<&'static str, u32>> {
        waiting.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn slot(waiting: &mut Waiting<&'static str, u32>) -> Slot<&'static str, u32> {
        match poll(waiting) {
            Poll::Ready(Turn::Dial(slot)) => slot,
            other => panic!("expected leave to dial, got {}", describe(&other)),
        }
    }

    fn lease(waiting: &mut Waiting<&'static str, u32>) -> Lease<&'static str, u32> {
        match poll(waiting) {
            Poll::Ready(Turn::Reuse(lease)) => lease,
            other => panic!("expected a connection, got {}", describe(&other)),
        }
    }

    fn describe<K: Clone + Eq + Hash, C: Share>(polled: &Poll<Turn<K, C>>) -> &'static str {
        match polled {
            Poll::Pending => "nothing",
            Poll::Ready(Turn::Dial(_)) => "leave to dial",
            Poll::Ready(Turn::Reuse(_)) => "a connection",
            Poll::Ready(Turn::Closed) => "that the pool is closed",
        }
    }

    /// Opens `connection` for a new request.
    fn open(
        slots: &Machine,
        host: &'static str,
        connection: u32,
    ) -> (Slot<&'static str, u32>, Lease<&'static str, u32>) {
        let mut waiting = wait(slots, host);
        let slot = slot(&mut waiting);
        let lease = slot.lease(connection, 0, None);
        (slot, lease)
    }

    #[test]
    fn a_freed_connection_goes_to_the_oldest_waiter_then_to_the_next() {
        let slots = machine(1, 1);
        let (_slot, first) = open(&slots, "a", 7);
        let mut waiters: Vec<_> = (0..5).map(|_| wait(&slots, "a")).collect();
        let mut held = first;
        for turn in 0..5 {
            assert!(waiters.iter_mut().all(|waiting| poll(waiting).is_pending()), "turn {turn}");
            held.release();
            held = lease(&mut waiters.remove(0));
            assert_eq!(*held, 7, "turn {turn}");
        }
    }

    #[test]
    fn a_freed_connection_goes_to_the_oldest_even_if_that_one_is_dialing() {
        let slots = machine(2, 2);
        let (_slot, held) = open(&slots, "a", 1);
        let mut dialing = wait(&slots, "a");
        let dial = slot(&mut dialing);
        let mut younger = wait(&slots, "a");
        held.release();
        assert_eq!(*lease(&mut dialing), 1);
        drop(dialing);
        // Its dial goes on without it and serves the next.
        dial.lease(2, 0, None).release();
        assert_eq!(*lease(&mut younger), 2);
    }

    #[test]
    fn a_dial_that_was_granted_but_not_begun_is_given_back_with_the_freed_connection() {
        let slots = machine(3, 2);
        let (_a, held) = open(&slots, "a", 1);
        let mut granted = wait(&slots, "a");
        let mut blocked = wait(&slots, "a");
        assert_eq!(slots.stats().connections.dialing, 1);
        held.release();
        assert_eq!(*lease(&mut granted), 1);
        // The leave to dial went on to the other waiter.
        drop(slot(&mut blocked));
    }

    #[test]
    fn between_grant_and_poll_a_cancelled_waiter_passes_its_grant_on() {
        for (name, cancel_dial) in [("a connection", false), ("leave to dial", true)] {
            let slots = machine(1, 1);
            let (slot_, held) = open(&slots, "a", 1);
            let granted = wait(&slots, "a");
            let mut next = wait(&slots, "a");
            if cancel_dial {
                drop(held);
                drop(slot_);
                drop(granted);
                drop(slot(&mut next));
            } else {
                held.release();
                drop(granted);
                assert_eq!(*lease(&mut next), 1, "{name}");
                drop(slot_);
            }
        }
    }

    #[test]
    fn a_failed_or_cancelled_dial_gives_its_room_to_the_next() {
        let slots = machine(1, 1);
        let mut first = wait(&slots, "a");
        let dial = slot(&mut first);
        let mut second = wait(&slots, "a");
        assert!(poll(&mut second).is_pending(), "a dial in progress counts");
        drop(first);
        assert!(poll(&mut second).is_pending(), "the dial goes on although its waiter has gone");
        drop(dial);
        drop(slot(&mut second));
    }

    #[test]
    fn what_was_handed_dead_leaves_the_waiter_at_its_old_place() {
        let slots = machine(1, 1);
        let (slot_, held) = open(&slots, "a", 1);
        let mut first = wait(&slots, "a");
        let mut second = wait(&slots, "a");
        held.release();
        drop(lease(&mut first));
        first.requeue();
        assert!(poll(&mut first).is_pending(), "the dead socket is still open");
        drop(slot_);
        let _dial = slot(&mut first);
        assert!(poll(&mut second).is_pending());
    }

    #[test]
    fn what_was_handed_dead_is_made_good_by_one_that_is_idle_meanwhile() {
        let slots = machine(2, 2);
        let (_first, held) = open(&slots, "a", 1);
        let (_second, other) = open(&slots, "a", 2);
        let mut waiting = wait(&slots, "a");
        held.release();
        other.release();
        drop(lease(&mut waiting));
        waiting.requeue();
        assert_eq!(*lease(&mut waiting), 2);
    }

    #[test]
    fn who_dials_in_the_place_of_a_dead_connection_owes_its_room_to_whoever_waited_for_it() {
        let slots = machine(2, 2);
        let (dead, held) = open(&slots, "a", 1);
        let (idle, other) = open(&slots, "c", 2);
        other.release();
        drop(held);
        let mut waiting = wait(&slots, "b");
        assert_eq!(slots.stats().connections.idle, 1, "it waits for the one that is closing");
        dead.redial();
        assert_eq!(slots.stats().totals.evicted, 1, "which is not to come: the idle one makes room");
        drop(idle);
        drop(slot(&mut waiting));
    }

    #[test]
    fn a_connection_is_counted_until_its_socket_is_closed() {
        let slots = machine(1, 1);
        let (socket, held) = open(&slots, "a", 1);
        drop(held);
        let mut waiting = wait(&slots, "a");
        assert!(poll(&mut waiting).is_pending());
        assert_eq!(slots.stats().connections.closing, 1);
        drop(socket);
        drop(slot(&mut waiting));
    }

    #[test]
    fn at_the_total_cap_the_least_recently_used_idle_connection_of_another_host_makes_room() {
        let slots = machine(3, 3);
        let sockets: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .zip(1..)
            .map(|(host, connection)| {
                let (slot, lease) = open(&slots, host, connection);
                lease.release();
                (host, slot)
            })
            .collect();
        let mut waiting = wait(&slots, "d");
        let stats = slots.stats();
        assert_eq!((stats.totals.evicted, stats.connections.closing, stats.connections.idle), (1, 1, 2));
        let closing = stats.origins.iter().find(|origin| origin.connections.closing == 1).unwrap();
        assert_eq!(closing.origin, "a", "the one that was used longest ago");
        assert!(poll(&mut waiting).is_pending(), "its socket is still open");
        let (mut a, others): (Vec<_>, Vec<_>) = sockets.into_iter().partition(|(host, _)| *host == "a");
        a.clear();
        drop(slot(&mut waiting));
        drop(others);
    }

    #[test]
    fn ten_waiters_at_the_total_cap_evict_ten_at_once_and_no_more() {
        let slots = machine(20, 20);
        let mut sockets: Vec<_> = (0..20).map(|connection| open(&slots, "a", connection)).collect();
        let sockets: Vec<_> = sockets.drain(..).map(|(slot, lease)| (lease.release(), slot)).collect();
        let waiters: Vec<_> = (0..10).map(|_| wait(&slots, "b")).collect();
        assert_eq!(slots.stats().connections.closing, 10);
        drop((sockets, waiters));
    }

    #[test]
    fn hosts_of_a_full_pool_take_turns_so_that_none_starves() {
        let slots = machine(4, 4);
        let (sockets, mut held): (Vec<_>, Vec<_>) =
            (0..4).map(|connection| open(&slots, "a", connection)).unzip();
        let mut sockets = Some(sockets);
        let mut starving = wait(&slots, "b");
        for turn in 0..8 {
            let mut sibling = wait(&slots, "a");
            let Some(oldest) = held.pop() else { panic!("all connections were given up in turn {turn}") };
            oldest.release();
            let stats = slots.stats();
            if stats.connections.closing == 1 {
                assert_eq!(turn, 4, "each of the four connections may pass over it once");
                drop(sibling);
                drop(sockets.take());
                drop(slot(&mut starving));
                return;
            }
            held.insert(0, lease(&mut sibling));
        }
        panic!("the other host starves");
    }

    #[test]
    fn an_overdue_waiter_takes_what_is_closing_already_and_no_more() {
        let slots = machine(2, 2);
        let (closing, given_up) = open(&slots, "a", 1);
        let (_other, mut held) = open(&slots, "a", 2);
        let mut overdue = wait(&slots, "b");
        for _ in 0..2 {
            let mut sibling = wait(&slots, "a");
            held.release();
            held = lease(&mut sibling);
        }
        drop(given_up);
        let mut sibling = wait(&slots, "a");
        held.release();
        assert_eq!(*lease(&mut sibling), 2, "one is on its way out for the other host");
        drop(closing);
        drop(slot(&mut overdue));
    }

    #[test]
    fn room_in_a_full_pool_goes_to_the_oldest_waiter_of_any_host() {
        let slots = machine(1, 1);
        let (socket, held) = open(&slots, "a", 1);
        let mut waiters = ["c", "b", "d"].map(|host| wait(&slots, host));
        drop((held, socket));
        for (turn, waiting) in waiters.iter_mut().enumerate() {
            assert_eq!(slots.stats().waiting, 2 - turn, "one at a time");
            drop(slot(waiting));
        }
    }

    #[test]
    fn who_is_handed_a_dead_connection_instead_of_a_dial_not_begun_gets_another_dial() {
        let slots = machine(2, 2);
        let (socket, held) = open(&slots, "a", 1);
        let mut granted = wait(&slots, "a");
        held.release();
        drop(lease(&mut granted));
        drop(socket);
        granted.requeue();
        drop(slot(&mut granted));
    }

    #[test]
    fn who_is_handed_a_dead_connection_while_dialing_gets_no_second_dial() {
        let slots = machine(3, 3);
        let (_socket, held) = open(&slots, "a", 1);
        let mut dialing = wait(&slots, "a");
        let _dial = slot(&mut dialing);
        held.release();
        drop(lease(&mut dialing));
        dialing.requeue();
        assert!(poll(&mut dialing).is_pending());
        let stats = slots.stats();
        assert_eq!((stats.connections.dialing, stats.waiting), (1, 0));
    }

    #[test]
    fn one_full_host_does_not_block_another() {
        let slots = machine(2, 1);
        let (_socket, _held) = open(&slots, "a", 1);
        let _waiting: Vec<_> = (0..3).map(|_| wait(&slots, "a")).collect();
        drop(slot(&mut wait(&slots, "b")));
    }

    #[test]
    fn the_queue_is_finite() {
        let slots: Machine = Slots::new(limits_of(1, 1, 2));
        let (_socket, _held) = open(&slots, "a", 1);
        let _waiting = [wait(&slots, "a"), wait(&slots, "b")];
        assert_eq!(slots.acquire(&"c", ask()).err(), Some(Refusal::Full { limit: 1, waiting: 2 }));
        assert_eq!(slots.stats().totals.overflowed, 1);
    }

    #[test]
    fn idle_connections_expire_to_the_tick_the_oldest_first() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let timeout = Duration::from_secs(10);
            let slots = machine(3, 3);
            let opened: Vec<_> = (0..2).map(|connection| open(&slots, "a", connection)).collect();
            let mut sockets = Vec::new();
            let begun = Instant::now();
            for (socket, lease) in opened {
                lease.release();
                sockets.push(socket);
                tokio::time::advance(Duration::from_secs(3)).await;
            }
            assert_eq!(slots.expire(), Some(begun + timeout));
            tokio::time::advance(Duration::from_secs(4) - Duration::from_nanos(1)).await;
            assert_eq!((slots.expire(), slots.stats().totals.expired), (Some(begun + timeout), 0));
            tokio::time::advance(Duration::from_nanos(1)).await;
            let next = begun + Duration::from_secs(3) + timeout;
            assert_eq!((slots.expire(), slots.stats().totals.expired), (Some(next), 1));
        });
    }

    /// A machine that was suspended for an hour has not noticed on its monotonic clock.
    #[test]
    fn what_was_idle_for_too_long_by_the_wall_clock_is_not_used_again() {
        let hour = Duration::from_secs(3_600);
        for (name, wakes, reused) in [
            ("at once", Now::read(), true),
            ("an hour later", Now { wall: Now::read().wall + hour, ..Now::read() }, false),
            ("the clock was set back", Now { wall: Now::read().wall - hour, ..Now::read() }, true),
        ] {
            let slots = machine(1, 1);
            let (socket, held) = open(&slots, "a", 1);
            held.release();
            let acquired = slots.acquire(&"a", Ask { now: wakes, ..ask() });
            assert_eq!(matches!(acquired, Ok(Acquire::Now(_))), reused, "{name}");
            assert_eq!(slots.stats().totals.expired, u64::from(!reused), "{name}");
            drop((acquired, socket));
        }
    }

    #[test]
    fn those_opened_together_do_not_end_together_but_none_too_early_or_too_late() {
        const LIFETIME: Duration = Duration::from_secs(1_000);
        let lives = |seed| {
            let limits = Limits { lifetime: Some(LIFETIME), seed, ..limits_of(1, 1, 1) };
            (1..=1_000).map(|serial| limits.jittered_lifetime(serial).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(lives(7), lives(7), "the same seed, the same jitter");
        assert_ne!(lives(7), lives(8));
        for seed in 0..10 {
            let lives = lives(seed);
            assert!(lives.iter().all(|&life| life <= LIFETIME && life >= LIFETIME * 9 / 10), "seed {seed}");
            // Each hundredth of the lifetime has its share of the ends.
            for tenth in 0..10 {
                let from = LIFETIME * 9 / 10 + LIFETIME / 100 * tenth;
                let ends =
                    lives.iter().filter(|&&life| life >= from && life <= from + LIFETIME / 100).count();
                assert!((60..140).contains(&ends), "seed {seed}: {ends} of 1,000 end in tenth {tenth}");
            }
        }
    }

    #[test]
    fn an_idle_connection_that_allows_no_exchange_is_given_to_nobody_until_it_does() {
        let slots = machine(2, 1);
        let shared = Ask { nature: Nature::Unknown, ..ask() };
        let Ok(Acquire::Later(mut first)) = slots.acquire(&"a", shared) else { panic!("nothing is open") };
        let socket = slot(&mut first);
        let held = socket.share(1, || 5, first.ticket(), None);
        drop(first);
        socket.resize(0);
        held.release();
        assert_eq!(slots.stats().connections.idle, 1);
        let Ok(Acquire::Later(mut next)) = slots.acquire(&"a", shared) else { panic!("it allows none") };
        assert!(poll(&mut next).is_pending(), "its host is full");
        socket.resize(0);
        assert!(poll(&mut next).is_pending(), "none still");
        socket.resize(1);
        assert_eq!(*lease(&mut next), 1);
        drop((next, socket));
    }

    #[test]
    fn what_is_kept_apart_is_for_its_like_but_counts_in_total() {
        let slots = machine(2, 1);
        let apart = Ask { apart: true, ..ask() };
        let (socket, held) = open(&slots, "a", 1);
        held.release();
        let Ok(Acquire::Later(mut first)) = slots.acquire(&"a", apart) else { panic!("nothing is open") };
        let other = slot(&mut first);
        other.lease(2, first.ticket(), None).release();
        drop(first);
        let stats = slots.stats();
        assert_eq!((stats.origins.len(), stats.origins[0].connections.idle), (1, 2), "{stats:?}");
        for (ask, connection) in [(ask(), 1), (apart, 2)] {
            let Ok(Acquire::Now(lease)) = slots.acquire(&"a", ask) else { panic!("one is idle") };
            assert_eq!(*lease, connection);
            lease.release();
        }
        assert!(poll(&mut wait(&slots, "b")).is_pending(), "in total there is no room");
        drop((socket, other));
    }

    #[test]
    fn beyond_its_idle_limits_the_longest_idle_is_closed() {
        for (name, idle, idle_per_host, kept) in [
            ("total", 2, 9, 2),
            ("per host", 9, 1, 1),
            ("none in total", 0, 9, 0),
            ("none per host", 9, 0, 0),
        ] {
            let slots: Machine = Slots::new(Limits { idle, idle_per_host, ..limits_of(9, 9, 9) });
            let opened: Vec<_> = (0..4).map(|connection| open(&slots, "a", connection)).collect();
            let sockets: Vec<_> = opened.into_iter().map(|(slot, lease)| (lease.release(), slot)).collect();
            let stats = slots.stats();
            assert_eq!((stats.connections.idle, stats.totals.surplus), (kept, 4 - kept as u64), "{name}");
            if let Ok(Acquire::Now(lease)) = slots.acquire(&"a", ask()) {
                assert_eq!(*lease, 3, "{name}: the freshest is kept");
            }
            drop(sockets);
        }
    }

    #[test]
    fn once_shut_nothing_is_kept_but_waiters_are_served() {
        let slots = machine(1, 1);
        let (socket, held) = open(&slots, "a", 1);
        let mut waiting = wait(&slots, "a");
        slots.shut();
        held.release();
        assert_eq!(slots.stats().connections.closing, 1);
        drop(socket);
        drop(slot(&mut waiting));
    }

    #[test]
    fn a_waker_may_come_back_to_the_machine() {
        struct Reenter(Machine);
        impl Wake for Reenter {
            fn wake(self: Arc<Self>) {
                self.0.stats();
                drop(wait(&self.0, "b"));
            }
        }
        let slots = machine(1, 1);
        let (socket, held) = open(&slots, "a", 1);
        let waker = Waker::from(Arc::new(Reenter(slots.clone())));
        let mut waiting = wait(&slots, "a");
        assert!(waiting.poll(&mut Context::from_waker(&waker)).is_pending());
        held.release();
        drop(lease(&mut waiting));
        drop(socket);
    }

    /// The work is counted, not timed: a cancelled waiter touches its own entries only, so nobody else is woken or moved.
    #[test]
    fn ten_thousand_waiters_go_in_any_order_and_the_rest_stay_in_order() {
        const WAITERS: usize = 10_000;
        // A permutation without randomness: multiples of a number that shares no factor with WAITERS.
        let shuffled = |index: usize| index * 7_919 % WAITERS;
        for (name, order) in [
            ("oldest first", &(|index| index) as &dyn Fn(usize) -> usize),
            ("youngest first", &|index| WAITERS - 1 - index),
            ("shuffled", &shuffled),
        ] {
            let slots = machine(1, 1);
            let (_socket, mut held) = open(&slots, "a", 1);
            let mut waiters: Vec<_> = (0..WAITERS).map(|_| Some(wait(&slots, "a"))).collect();
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(woken.clone());
            for waiting in waiters.iter_mut().flatten() {
                assert!(waiting.poll(&mut Context::from_waker(&waker)).is_pending());
            }
            for index in (0..WAITERS).map(order).filter(|index| index % 1_000 != 0) {
                waiters[index] = None;
            }
            assert_eq!(woken.0.load(SeqCst), 0, "{name}: nobody is woken for another's leaving");
            for index in (0..WAITERS).step_by(1_000) {
                held.release();
                held = lease(waiters[index].as_mut().unwrap());
                waiters[index] = None;
            }
            drop(held);
            assert_eq!(slots.stats().waiting, 0, "{name}");
        }
    }
}

#[cfg(outbound_loom)]
mod interleaved {
    use loom::{
        future::block_on,
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    use super::*;

    type Machine = Arc<Slots<u8, u32>>;

    fn model(check: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(builder.preemption_bound.unwrap_or(2));
        builder.check(check);
    }

    fn machine(total: usize, per_host: usize) -> Machine {
        Slots::new(limits_of(total, per_host, 9))
    }

    fn waiter(slots: &Machine, host: u8) -> Result<Lease<u8, u32>, Waiting<u8, u32>> {
        match slots.acquire(&host, ask()).expect("room to wait") {
            Acquire::Now(lease) => Ok(lease),
            Acquire::Later(waiting) => Err(waiting),
        }
    }

    /// One exchange as the pool does it: wait, dial if told to, give back. Loom finds the interleaving in which it waits forever.
    fn exchange(slots: &Machine, host: u8) {
        let (lease, _socket) = match waiter(slots, host) {
            Ok(lease) => (lease, None),
            Err(mut waiting) => match block_on(std::future::poll_fn(|cx| waiting.poll(cx))) {
                Turn::Reuse(lease) => (lease, None),
                Turn::Dial(slot) => (slot.lease(1, waiting.ticket(), None), Some(slot)),
                Turn::Closed => unreachable!("nobody closes"),
            },
        };
        slots.with(|state, _| state.check());
        lease.release();
        // A socket that was opened here is closed here too, which takes it from the shelf or from under its next user.
    }

    #[test]
    fn two_exchanges_at_a_limit_of_one() {
        model(|| {
            let slots = machine(1, 1);
            let other = slots.clone();
            let thread = thread::spawn(move || exchange(&other, 1));
            exchange(&slots, 1);
            thread.join().unwrap();
            assert!(slots.is_empty());
        });
    }

    #[test]
    fn two_hosts_at_a_total_of_one() {
        model(|| {
            let slots = machine(1, 1);
            let other = slots.clone();
            let thread = thread::spawn(move || exchange(&other, 1));
            exchange(&slots, 2);
            thread.join().unwrap();
            assert!(slots.is_empty());
        });
    }

    #[test]
    fn a_waiter_that_goes_while_it_is_handed_a_connection_passes_it_on() {
        model(|| {
            let slots = machine(1, 1);
            let Err(mut first) = waiter(&slots, 1) else { unreachable!() };
            let Turn::Dial(socket) = block_on(std::future::poll_fn(|cx| first.poll(cx))) else {
                unreachable!()
            };
            let lease = socket.lease(1, 0, None);
            drop(first);
            let Err(leaving) = waiter(&slots, 1) else { unreachable!() };
            let Err(mut staying) = waiter(&slots, 1) else { unreachable!() };
            let thread = thread::spawn(move || drop(leaving));
            let release = thread::spawn(move || lease.release());
            let turn = block_on(std::future::poll_fn(|cx| staying.poll(cx)));
            assert!(matches!(turn, Turn::Reuse(_)), "the connection is handed on, not closed");
            thread.join().unwrap();
            release.join().unwrap();
            drop((turn, staying, socket));
            assert!(slots.is_empty());
        });
    }

    #[test]
    fn a_dial_that_fails_while_another_waits_wakes_it() {
        model(|| {
            let slots = machine(1, 1);
            let Err(mut first) = waiter(&slots, 1) else { unreachable!() };
            let Turn::Dial(dial) = block_on(std::future::poll_fn(|cx| first.poll(cx))) else {
                unreachable!()
            };
            let other = slots.clone();
            let thread = thread::spawn(move || exchange(&other, 1));
            drop(dial);
            drop(first);
            thread.join().unwrap();
            assert!(slots.is_empty());
        });
    }

    #[test]
    fn a_peer_that_closes_while_the_connection_is_taken_and_given_back() {
        model(|| {
            let slots = machine(1, 1);
            let Err(mut first) = waiter(&slots, 1) else { unreachable!() };
            let Turn::Dial(socket) = block_on(std::future::poll_fn(|cx| first.poll(cx))) else {
                unreachable!()
            };
            socket.lease(1, 0, None).release();
            drop(first);
            let closes = thread::spawn(move || drop(socket));
            exchange(&slots, 1);
            closes.join().unwrap();
            slots.with(|state, _| state.check());
            assert!(slots.is_empty());
        });
    }

    /// For a connection that carries several.
    fn shared() -> Ask {
        Ask { nature: Nature::Unknown, ..ask() }
    }

    /// One exchange of several on a connection; `None` if the machine is closed. Returned is the socket, if it was opened for this one.
    fn stream(slots: &Machine, room: usize) -> Option<Option<Slot<u8, u32>>> {
        let (lease, socket) = match slots.acquire(&1, shared()).ok()? {
            Acquire::Now(lease) => (lease, None),
            Acquire::Later(mut waiting) => match block_on(std::future::poll_fn(|cx| waiting.poll(cx))) {
                Turn::Reuse(lease) => (lease, None),
                Turn::Dial(slot) => (slot.share(1, || room, waiting.ticket(), None), Some(slot)),
                Turn::Closed => return None,
            },
        };
        slots.with(|state, _| state.check());
        lease.release();
        Some(socket)
    }

    /// The first exchange of a shared connection.
    fn opened(slots: &Machine, room: usize) -> (Arc<Slot<u8, u32>>, Lease<u8, u32>) {
        let Ok(Acquire::Later(mut waiting)) = slots.acquire(&1, shared()) else { unreachable!() };
        let Turn::Dial(socket) = block_on(std::future::poll_fn(|cx| waiting.poll(cx))) else {
            unreachable!()
        };
        let lease = socket.share(1, || room, waiting.ticket(), None);
        (Arc::new(socket), lease)
    }

    #[test]
    fn two_exchanges_over_a_connection_that_carries_one_at_a_time_or_both() {
        for room in [1, 2] {
            model(move || {
                let slots = machine(1, 1);
                let other = slots.clone();
                let thread = thread::spawn(move || drop(stream(&other, room)));
                drop(stream(&slots, room));
                thread.join().unwrap();
                assert!(slots.is_empty());
            });
        }
    }

    #[test]
    fn a_peer_that_allows_none_and_then_one_while_an_exchange_ends_and_another_begins() {
        model(|| {
            let slots = machine(1, 1);
            let (socket, lease) = opened(&slots, 1);
            let other = slots.clone();
            let begins = thread::spawn(move || drop(stream(&other, 1)));
            let peer = socket.clone();
            let changes = thread::spawn(move || {
                peer.resize(0);
                peer.resize(1);
            });
            lease.release();
            changes.join().unwrap();
            begins.join().unwrap();
            slots.with(|state, _| state.check());
            drop(socket);
            assert!(slots.is_empty());
        });
    }

    /// Its task is driven before the connection is in use, and may hear from the peer at once.
    #[test]
    fn a_peer_that_changes_its_mind_while_the_connection_is_opened() {
        model(|| {
            let slots = machine(1, 1);
            let Ok(Acquire::Later(mut waiting)) = slots.acquire(&1, shared()) else { unreachable!() };
            let Turn::Dial(socket) = block_on(std::future::poll_fn(|cx| waiting.poll(cx))) else {
                unreachable!()
            };
            let (socket, allowed) = (Arc::new(socket), Arc::new(AtomicUsize::new(1)));
            let changes = thread::spawn({
                let (socket, allowed) = (socket.clone(), allowed.clone());
                move || {
                    allowed.store(2, Ordering::Release);
                    socket.resize(2);
                }
            });
            let first = socket.share(1, || allowed.load(Ordering::Acquire), waiting.ticket(), None);
            changes.join().unwrap();
            let second = slots.acquire(&1, shared());
            assert!(matches!(second, Ok(Acquire::Now(_))), "two are allowed");
            drop((first, second, waiting, socket));
        });
    }

    #[test]
    fn a_connection_takes_no_more_while_one_exchange_ends_and_another_begins() {
        model(|| {
            let slots = machine(1, 1);
            let (socket, lease) = opened(&slots, 2);
            let other = slots.clone();
            let begins = thread::spawn(move || drop(stream(&other, 2)));
            socket.condemn(Why::Drained);
            lease.release();
            slots.with(|state, _| state.check());
            drop(socket);
            begins.join().unwrap();
            assert!(slots.is_empty());
        });
    }

    #[test]
    fn the_end_of_a_life_while_the_connection_comes_back() {
        model(|| {
            let limits = Limits { lifetime: Some(Duration::ZERO), ..limits_of(1, 1, 9) };
            let slots: Machine = Slots::new(limits);
            let Err(mut first) = waiter(&slots, 1) else { unreachable!() };
            let Turn::Dial(socket) = block_on(std::future::poll_fn(|cx| first.poll(cx))) else {
                unreachable!()
            };
            let lease = socket.lease(1, 0, None);
            drop(first);
            let other = slots.clone();
            let expires = thread::spawn(move || other.expire());
            lease.release();
            expires.join().unwrap();
            slots.with(|state, _| state.check());
            slots.expire();
            let stats = slots.stats();
            assert_eq!((stats.connections.idle, stats.totals.retired), (0, 1));
            drop(socket);
            assert!(slots.is_empty());
        });
    }

    #[test]
    fn a_machine_that_is_closed_tells_who_waits_and_ends_with_its_last_socket() {
        model(|| {
            let slots = machine(1, 1);
            let (socket, lease) = opened(&slots, 1);
            let other = slots.clone();
            let waits = thread::spawn(move || drop(stream(&other, 1)));
            let closing = slots.clone();
            let closes = thread::spawn(move || {
                closing.close();
                block_on(std::future::poll_fn(|cx| closing.poll_closed(cx)));
                assert!(closing.is_empty());
            });
            lease.release();
            drop(socket);
            closes.join().unwrap();
            waits.join().unwrap();
            assert!(slots.is_empty());
        });
    }

    #[test]
    fn the_last_handle_goes_while_a_connection_comes_back() {
        model(|| {
            let slots = machine(1, 1);
            let Err(mut first) = waiter(&slots, 1) else { unreachable!() };
            let Turn::Dial(socket) = block_on(std::future::poll_fn(|cx| first.poll(cx))) else {
                unreachable!()
            };
            let lease = socket.lease(1, 0, None);
            drop(first);
            let other = slots.clone();
            let shuts = thread::spawn(move || other.shut());
            lease.release();
            shuts.join().unwrap();
            assert_eq!(slots.stats().connections.idle, 0, "nothing is kept idle by a pool that has gone");
            drop(socket);
            assert!(slots.is_empty());
        });
    }
}
