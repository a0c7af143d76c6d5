//! The semaphore under every limit here: one word for the fast path, one line of waiters behind a lock.
//!
//! Why not tokio's `Semaphore`? It cannot take a permit back that is in use (a limit that shrinks), serve the newest first,
//! shed at the head of the line, or say how many wait. It is as good in what it does: no allocation to wait, constant time to
//! leave, wakers run outside the lock. So is this.
//!
//! The word is twice the number of free permits, below zero after the limit has shrunk under calls in flight, plus one
//! while anybody is in line. Without that bit, taking and giving back is one compare-and-swap. With it, the word changes
//! under the lock only: nobody overtakes the line, and nobody in it misses a permit.

use std::{
    mem,
    sync::{
        PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    task::{Poll, Waker},
    time::Duration,
};

use slab::Slab;
use tokio::time::Instant;

use crate::{
    order::Order,
    stats::Stats,
    sync::{AtomicIsize, AtomicUsize, Mutex, MutexGuard},
};

#[derive(Debug)]
pub struct Gate {
    word: AtomicIsize,
    /// Changes under the lock only, together with the word.
    limit: AtomicUsize,
    line: Mutex<Line>,
    rejected: AtomicU64,
    longest_wait: AtomicU64,
}

/// A place in the line. Whoever holds it calls [`Gate::poll`] until that is ready, or [`Gate::leave`].
#[derive(Debug)]
pub(crate) struct Ticket(usize);

#[derive(Debug)]
pub(crate) enum Entered {
    /// A permit came free in the meantime.
    Granted,
    InLine(Ticket),
    /// So many were in line already.
    Full(usize),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Granted,
    Shed,
}

/// A doubly linked list through a slab: any place is left in constant time, and waiting allocates only where the slab grows.
#[derive(Debug)]
struct Line {
    places: Slab<Place>,
    head: usize,
    tail: usize,
    waiting: usize,
    /// Since when somebody has been in line without a break.
    busy_since: Option<Instant>,
    /// Places looked at or changed: what the tests count instead of time.
    #[cfg(test)]
    work: usize,
}

#[derive(Debug)]
struct Place {
    before: usize,
    after: usize,
    since: Instant,
    order: Order,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting(Waker),
    Granted,
    Shed,
}

// === Gate ===

impl Gate {
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.min(MAX_LIMIT);
        Self {
            word: AtomicIsize::new(signed(limit) * PERMIT),
            limit: AtomicUsize::new(limit),
            line: Mutex::new(Line::new()),
            rejected: AtomicU64::new(0),
            longest_wait: AtomicU64::new(0),
        }
    }

    /// Takes a permit if one is free and nobody is in line for it.
    pub(crate) fn try_acquire(&self) -> bool {
        let free = |word| (word >= PERMIT && word & QUEUED == 0).then_some(word - PERMIT);
        self.word.fetch_update(AcqRel, Acquire, free).is_ok()
    }

    pub(crate) fn release(&self) {
        let unqueued = |word| (word & QUEUED == 0).then_some(word + PERMIT);
        if self.word.fetch_update(AcqRel, Acquire, unqueued).is_err() {
            self.settle(1);
        }
    }

    /// Whether nobody holds a permit or waits for one.
    pub(crate) fn is_idle(&self) -> bool {
        self.word.load(Acquire) == signed(self.limit()) * PERMIT
    }

    /// Takes a permit, or a place in line if fewer than `max_waiting` are there.
    pub(crate) fn enter(&self, order: Order, max_waiting: usize, now: Instant) -> Entered {
        let mut line = self.lock();
        if line.waiting >= max_waiting {
            return if self.try_acquire() { Entered::Granted } else { Entered::Full(line.waiting) };
        }
        if line.waiting == 0 {
            // In one step: either a permit is free and ours, or whoever frees the next one sees that we are in line.
            let step = |word| Some(if word >= PERMIT { word - PERMIT } else { word | QUEUED });
            if self.word.fetch_update(AcqRel, Acquire, step).is_ok_and(|word| word >= PERMIT) {
                return Entered::Granted;
            }
            line.busy_since = Some(now);
        }
        Entered::InLine(line.join(order, now))
    }

    /// Whether it is this place's turn; once it is, the place is no more.
    pub(crate) fn poll(&self, ticket: &Ticket, waker: &Waker) -> Poll<Turn> {
        // Cloning and dropping a waker is foreign code: not under the lock.
        let waker = waker.clone();
        let mut line = self.lock();
        let turn = match &mut line.place(ticket.0).state {
            State::Waiting(old) => {
                let old = mem::replace(old, waker);
                drop(line);
                drop(old);
                return Poll::Pending;
            }
            State::Granted => Turn::Granted,
            State::Shed => Turn::Shed,
        };
        let (place, spare) = line.remove(ticket.0);
        drop(line);
        drop(spare);
        self.waited(place.since.elapsed());
        Poll::Ready(turn)
    }

    /// Leaves the line. A permit that had been handed over already goes to the next.
    pub(crate) fn leave(&self, ticket: &Ticket) {
        let mut line = self.lock();
        if let State::Waiting(_) = line.place(ticket.0).state {
            line.unlink(ticket.0);
            self.line_changed(&mut line, 0);
        }
        let (place, spare) = line.remove(ticket.0);
        drop(line);
        drop(spare);
        self.waited(place.since.elapsed());
        if let State::Granted = place.state {
            self.settle(1);
        }
    }

    /// Sets the limit to what `limit` says once the lock is held: of two calls at once the later has the last word.
    pub(crate) fn resize(&self, limit: impl FnOnce() -> usize) {
        let line = self.lock();
        let new = limit().min(MAX_LIMIT);
        let old = self.limit.swap(new, AcqRel);
        self.word.fetch_add((signed(new) - signed(old)) * PERMIT, AcqRel);
        drop(line);
        self.settle(0);
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Acquire)
    }

    /// Exact unless the limit is being changed.
    pub(crate) fn in_use(&self) -> usize {
        (signed(self.limit()) - (self.word.load(Acquire) >> 1)).try_into().unwrap_or(0)
    }

    pub(crate) fn reject(&self) {
        self.rejected.fetch_add(1, Relaxed);
    }

    pub(crate) fn stats(&self) -> Stats {
        let line = self.lock();
        Stats {
            limit: self.limit(),
            in_use: self.in_use(),
            waiting: line.waiting,
            rejected: self.rejected(),
            longest_wait: self.longest_wait(),
        }
    }

    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Relaxed)
    }

    pub(crate) fn longest_wait(&self) -> Duration {
        Duration::from_nanos(self.longest_wait.load(Relaxed))
    }

    /// Adds `freed` permits and hands out what is free, one waker at a time and each outside the lock.
    fn settle(&self, freed: isize) {
        let now = Instant::now();
        let mut line = self.lock();
        self.word.fetch_add(freed * PERMIT, AcqRel);
        while let Some(waker) = self.serve(&mut line, now) {
            let more = self.can_serve(&line);
            drop(line);
            waker.wake();
            if !more {
                return;
            }
            line = self.lock();
        }
    }

    fn can_serve(&self, line: &Line) -> bool {
        line.waiting > 0 && self.word.load(Acquire) >= PERMIT
    }

    /// Grants a free permit to the head of the line, or sheds it; the waker tells it so.
    fn serve(&self, line: &mut Line, now: Instant) -> Option<Waker> {
        if !self.can_serve(line) {
            return None;
        }
        let head = line.head;
        let standing = line.busy_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        line.unlink(head);
        let place = line.place(head);
        let shed = place.order.sheds(now.saturating_duration_since(place.since), standing);
        let (state, taken) = if shed { (State::Shed, 0) } else { (State::Granted, PERMIT) };
        let state = mem::replace(&mut place.state, state);
        self.line_changed(line, taken);
        match state {
            State::Waiting(waker) => Some(waker),
            State::Granted | State::Shed => unreachable!("only who waits is in line"),
        }
    }

    /// Takes `taken` off the word, and its bit if nobody is in line any more, in one step: else a newcomer could slip in between.
    fn line_changed(&self, line: &mut Line, taken: isize) {
        let emptied = if line.waiting == 0 { QUEUED } else { 0 };
        self.word.fetch_sub(taken + emptied, AcqRel);
    }

    pub(crate) fn waited(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.longest_wait.fetch_max(nanos, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === Line ===

impl Line {
    fn new() -> Self {
        Self {
            places: Slab::new(),
            head: NOBODY,
            tail: NOBODY,
            waiting: 0,
            busy_since: None,
            #[cfg(test)]
            work: 0,
        }
    }

    fn place(&mut self, index: usize) -> &mut Place {
        #[cfg(test)]
        {
            self.work += 1;
        }
        &mut self.places[index]
    }

    /// The newest goes to the head of a LIFO line, else to its tail.
    fn join(&mut self, order: Order, since: Instant) -> Ticket {
        let state = State::Waiting(Waker::noop().clone());
        let (before, after) = match order {
            Order::Lifo => (NOBODY, self.head),
            Order::Fifo | Order::CoDel { .. } => (self.tail, NOBODY),
        };
        let index = self.places.insert(Place { before, after, since, order, state });
        self.link(before, index, after, index);
        self.waiting += 1;
        Ticket(index)
    }

    fn unlink(&mut self, index: usize) {
        let &mut Place { before, after, .. } = self.place(index);
        self.link(before, after, after, before);
        self.waiting -= 1;
    }

    /// `next` follows `before`, and `previous` precedes `after`.
    fn link(&mut self, before: usize, next: usize, after: usize, previous: usize) {
        match before {
            NOBODY => self.head = next,
            before => self.place(before).after = next,
        }
        match after {
            NOBODY => self.tail = previous,
            after => self.place(after).before = previous,
        }
    }

    /// The place, and the memory of a line that was long once: to be dropped outside the lock.
    fn remove(&mut self, index: usize) -> (Place, Slab<Place>) {
        let place = self.places.remove(index);
        let spare = self.places.is_empty() && self.places.capacity() > KEPT_PLACES;
        (place, if spare { mem::take(&mut self.places) } else { Slab::new() })
    }
}

fn signed(limit: usize) -> isize {
    isize::try_from(limit).unwrap_or(isize::MAX)
}

/// One free permit in the word.
const PERMIT: isize = 2;
/// The bit of the word that is set while anybody is in line.
const QUEUED: isize = 1;
/// More than can ever be in use, and twice it still fits the word.
pub(crate) const MAX_LIMIT: usize = usize::MAX >> 3;
/// No index of a slab.
const NOBODY: usize = usize::MAX;
/// A line that was no longer than this keeps its memory.
const KEPT_PLACES: usize = 64;

#[cfg(all(test, not(outbound_loom)))]
#[path = "gate_work.rs"]
mod work;

#[cfg(all(test, outbound_loom))]
#[path = "gate_model.rs"]
pub(crate) mod model;
