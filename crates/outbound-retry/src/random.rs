//! Where the randomness comes from.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// The randomness of jitter and of generated keys: the operating system's, or a seed's for tests and simulations.
///
/// Clones of a seeded one draw from one sequence, in the order in which they ask.
#[derive(Clone, Debug, Default)]
pub struct Random(Option<Arc<AtomicU64>>);

impl Random {
    /// The same sequence every time.
    pub fn seeded(seed: u64) -> Self {
        Self(Some(Arc::new(AtomicU64::new(seed))))
    }

    /// What `draw` makes of it.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut dyn Rng) -> T) -> T {
        match &self.0 {
            None => draw(&mut rand::rng()),
            Some(seed) => draw(&mut StdRng::seed_from_u64(seed.fetch_add(1, Relaxed))),
        }
    }
}
