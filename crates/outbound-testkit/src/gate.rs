//! Where a script or a handler waits until the test says go.

use std::{fmt, sync::Arc};

use crate::board::Board;

/// A point in a script or handler that nothing passes until the test opens it.
///
/// With a gate a test decides the order of events, instead of sleeping and hoping. Clones are the same gate.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use outbound_testkit::Gate;
///
/// let gate = Gate::new("head read");
/// let waits = tokio::spawn({ let gate = gate.clone(); async move { gate.pass().await } });
/// gate.arrived(1).await;
/// assert!(!waits.is_finished());
/// gate.open();
/// waits.await.unwrap();
/// # }
/// ```
#[derive(Clone)]
pub struct Gate {
    name: &'static str,
    board: Arc<Board<Passage>>,
}

#[derive(Debug, Default)]
struct Passage {
    open: bool,
    tickets: usize,
    arrived: usize,
    waiting: usize,
}

/// Keeps the count of those waiting right when one of them is dropped.
struct Waiting<'a>(&'a Board<Passage>);

// === Gate ===

impl Gate {
    /// A closed gate; its name appears in panics.
    pub fn new(name: &'static str) -> Self {
        Gate { name, board: Arc::default() }
    }

    /// Lets through everyone who waits and everyone who comes later.
    pub fn open(&self) {
        self.board.write(|passage| passage.open = true);
    }

    /// Closes it again for those who come later.
    pub fn close(&self) {
        self.board.write(|passage| passage.open = false);
    }

    /// Lets one through: somebody who waits, else the next to come.
    pub fn let_one_through(&self) {
        self.board.write(|passage| passage.tickets += 1);
    }

    /// Waits until the gate lets the caller through.
    pub async fn pass(&self) {
        self.board.write(|passage| {
            passage.arrived += 1;
            passage.waiting += 1;
        });
        let _waiting = Waiting(&self.board);
        self.board
            .take(|passage| {
                if !passage.open {
                    passage.tickets = passage.tickets.checked_sub(1)?;
                }
                Some(())
            })
            .await;
    }

    /// How many wait at the gate now.
    pub fn waiting(&self) -> usize {
        self.board.read(|passage| passage.waiting)
    }

    /// Waits until `n` have arrived since the gate was made, passed ones included.
    ///
    /// # Panics
    ///
    /// When that has not happened after 20 seconds of the wall clock.
    pub async fn arrived(&self, n: usize) {
        self.board
            .expect(
                |passage| passage.arrived >= n,
                |passage| format!("gate “{}”: waited for {n} to arrive; {passage:?}", self.name),
            )
            .await;
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.board.read(|passage| f.debug_tuple("Gate").field(&self.name).field(passage).finish())
    }
}

// === Waiting ===

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.write(|passage| passage.waiting -= 1);
    }
}
