//! Who builds what is meant to be built once.

use std::{
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
    #[track_caller]
    pub fn announce(what: &'static str) {
        let construction = Self { what, site: CallSite::here() };
        let watchers: Vec<_> = {
            let watchers = WATCHERS.read().unwrap_or_else(PoisonError::into_inner);
            watchers.iter().filter_map(Weak::upgrade).collect()
        };
        for watcher in watchers {
            watcher.built(construction);
        }
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

#[cfg(test)]
mod tests {
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
}
