//! Who builds what is meant to be built once.

use std::{
    cell::Cell,
    fmt,
    sync::{Arc, PoisonError, RwLock, Weak},
};

use crate::context::CallSite;

/// Something that is meant to be built once and shared has been built: a pool, a client.
///
/// Its constructor [announces](Self::announce) it to whoever [watches](Self::watch) in this process: a leak guard, which tells when
/// one line of code builds again and again. Building is rare, so this may take a lock; a call never does.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use outbound_core::{Construction, Watcher};
///
/// #[derive(Default)]
/// struct Seen(Mutex<Vec<Construction>>);
///
/// impl Watcher for Seen {
///     fn built(&self, construction: Construction) {
///         self.0.lock().unwrap().push(construction);
///     }
/// }
///
/// #[track_caller]
/// fn client() {
///     Construction::announce("client");
/// }
///
/// let seen = Arc::new(Seen::default());
/// Construction::watch(&seen);
/// client();
/// let built = seen.0.lock().unwrap();
/// assert_eq!((built[0].what, built[0].site.location().line()), ("client", line!() - 2));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Construction {
    /// What was built, in the singular: "pool".
    pub what: &'static str,
    /// The line that built it.
    pub site: CallSite,
}

/// Is told of each [`Construction`] in this process.
pub trait Watcher: Send + Sync {
    /// Runs inside the constructor, under no lock. It must not panic.
    fn built(&self, construction: Construction);
}

// === Construction ===

impl Construction {
    /// The caller has built a `what`. Constructors that call this are `#[track_caller]` themselves.
    ///
    /// Nobody is told of what is built within [`parts`](Self::parts).
    #[track_caller]
    pub fn announce(what: &'static str) {
        if IS_PART.get() {
            return;
        }
        let construction = Self { what, site: CallSite::here() };
        let watchers: Vec<_> = {
            let watchers = WATCHERS.read().unwrap_or_else(PoisonError::into_inner);
            watchers.iter().filter_map(Weak::upgrade).collect()
        };
        for watcher in watchers {
            watcher.built(construction);
        }
    }

    /// What `build` builds on this thread is part of something larger, which is announced in its place.
    ///
    /// ```
    /// # use outbound_core::Construction;
    /// # fn pool() {}
    /// #[track_caller]
    /// fn client() {
    ///     Construction::parts(|| pool()); // a constructor that announces "pool"
    ///     Construction::announce("client");
    /// }
    /// ```
    pub fn parts<T>(build: impl FnOnce() -> T) -> T {
        /// Puts things back as they were, after a panic too.
        struct Whole(bool);

        impl Drop for Whole {
            fn drop(&mut self) {
                IS_PART.set(self.0);
            }
        }

        let _whole = Whole(IS_PART.replace(true));
        build()
    }

    /// Tells `watcher` from now on, until nobody else holds it.
    pub fn watch<W: Watcher + 'static>(watcher: &Arc<W>) {
        let mut watchers = WATCHERS.write().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| watcher.strong_count() > 0);
        let watcher: Weak<W> = Arc::downgrade(watcher);
        watchers.push(watcher);
    }
}

impl fmt::Display for Construction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} built at {}", self.what, self.site)
    }
}

static WATCHERS: RwLock<Vec<Weak<dyn Watcher>>> = RwLock::new(Vec::new());

thread_local!(static IS_PART: Cell<bool> = const { Cell::new(false) });

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    struct Deaf;

    impl Watcher for Deaf {
        fn built(&self, _: Construction) {}
    }

    /// A process that makes guards again and again keeps nothing of those that have gone. (Nobody announces here: who does holds
    /// each watcher for that moment.)
    #[test]
    fn watchers_that_have_gone_are_forgotten() {
        for _ in 0..10 {
            let deaf = Arc::new(Deaf);
            Construction::watch(&deaf);
            assert_eq!(Arc::strong_count(&deaf), 1, "watching holds nothing");
        }
        assert_eq!(WATCHERS.read().unwrap().len(), 1);
    }

    /// (Told by the flag alone: who watched and announced here would be in the way of the other test.)
    #[test]
    fn parts_may_have_parts_and_may_panic() {
        assert!(!IS_PART.get());
        Construction::parts(|| {
            Construction::parts(|| assert!(IS_PART.get()));
            assert!(IS_PART.get(), "still a part");
            catch_unwind(|| Construction::parts(|| panic!("built badly"))).unwrap_err();
            assert!(IS_PART.get(), "still a part");
        });
        assert!(!IS_PART.get());
    }
}
