//! A doubly linked list threaded through a slab, so that leaving it from anywhere costs the same as leaving it from an end.

use slab::Slab;

/// The oldest entry is the head. An entry may be in several lists, one for each `LINK` below [`Links`]' length.
#[derive(Debug)]
pub(super) struct List<const LINK: usize> {
    head: usize,
    tail: usize,
}

/// An entry's neighbours in each of the lists it may be in.
pub(super) type Links = [Link; 3];

#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    before: usize,
    after: usize,
}

pub(super) trait Linked {
    fn links(&mut self) -> &mut Links;
}

impl<const LINK: usize> List<LINK> {
    pub(super) const fn new() -> Self {
        Self { head: NONE, tail: NONE }
    }

    pub(super) fn oldest(&self) -> Option<usize> {
        (self.head != NONE).then_some(self.head)
    }

    pub(super) fn newest(&self) -> Option<usize> {
        (self.tail != NONE).then_some(self.tail)
    }

    /// The newest that is `such`.
    pub(super) fn newest_such<T: Linked>(
        &self,
        entries: &mut Slab<T>,
        such: impl Fn(&T) -> bool,
    ) -> Option<usize> {
        let mut next = self.newest()?;
        while let Some(entry) = entries.get_mut(next) {
            if such(entry) {
                return Some(next);
            }
            next = entry.links()[LINK].before;
        }
        None
    }

    pub(super) fn push(&mut self, entries: &mut Slab<impl Linked>, key: usize) {
        entries[key].links()[LINK] = Link { before: self.tail, after: NONE };
        match self.newest() {
            Some(tail) => entries[tail].links()[LINK].after = key,
            None => self.head = key,
        }
        self.tail = key;
    }

    pub(super) fn remove(&mut self, entries: &mut Slab<impl Linked>, key: usize) {
        let Link { before, after } = std::mem::take(&mut entries[key].links()[LINK]);
        match entries.get_mut(before) {
            Some(entry) => entry.links()[LINK].after = after,
            None => self.head = after,
        }
        match entries.get_mut(after) {
            Some(entry) => entry.links()[LINK].before = before,
            None => self.tail = before,
        }
    }
}

impl Default for Link {
    fn default() -> Self {
        Self { before: NONE, after: NONE }
    }
}

/// No slab grows that far.
const NONE: usize = usize::MAX;
