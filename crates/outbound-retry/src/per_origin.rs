//! One of something for each origin, found without a lock.

use std::{
    fmt,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    num::NonZeroUsize,
    sync::OnceLock,
};

use outbound_core::Origin;

/// One `T` for each of the first so many origins, found without a lock and never moved; the rest share one, so that the memory is
/// bounded whatever a caller asks for. Only threads that make one at the same moment may wait for each other.
pub(crate) struct PerOrigin<T> {
    slots: Box<[OnceLock<(Origin, T)>]>,
    rest: T,
}

impl<T> PerOrigin<T> {
    pub(crate) fn new(origins: NonZeroUsize, rest: T) -> Self {
        Self { slots: (0..origins.get()).map(|_| OnceLock::new()).collect(), rest }
    }

    /// All there are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(OnceLock::get).map(|(_, value)| value).chain([&self.rest])
    }

    /// That of `origin`, made now if it has none yet and there is room; for no origin, that of the rest.
    pub(crate) fn of(&self, origin: Option<&Origin>, make: impl Fn(&T) -> T) -> &T {
        let Some(origin) = origin else { return &self.rest };
        self.slots_for(origin)
            .map(|slot| slot.get_or_init(|| (origin.clone(), make(&self.rest))))
            .find_map(|(held, value)| (held == origin).then_some(value))
            .unwrap_or(&self.rest)
    }

    /// That of `origin` if it has one; else that of the rest.
    pub(crate) fn get(&self, origin: Option<&Origin>) -> &T {
        let Some(origin) = origin else { return &self.rest };
        self.slots_for(origin)
            .map_while(OnceLock::get)
            .find_map(|(held, value)| (held == origin).then_some(value))
            .unwrap_or(&self.rest)
    }

    /// Where it may be, in order: it is in none after one that is empty.
    fn slots_for(&self, origin: &Origin) -> impl Iterator<Item = &OnceLock<(Origin, T)>> + use<'_, T> {
        let hash = BuildHasherDefault::<DefaultHasher>::new().hash_one(origin);
        let start = usize::try_from(hash % self.slots.len() as u64).unwrap_or_default();
        let (before, after) = self.slots.split_at(start);
        after.iter().chain(before)
    }
}

impl<T: fmt::Debug> fmt::Debug for PerOrigin<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.slots.iter().filter_map(OnceLock::get).map(|(k, v)| (k, v))).finish()
    }
}
