//! The options.

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use crate::{
    churn::Allowed,
    detector::LeakDetector,
    guard::Guard,
    layer::LeakGuardLayer,
    leak::Leak,
    reclaim::{Observe, Reclaiming},
    reporter::Callback,
};

/// What counts as a leak, and who is told: [`LeakGuardLayer::builder`].
///
/// | option | default | why |
/// |---|---|---|
/// | `held` | 10 s | longer than any pause that a reader takes on purpose; what HikariCP's users commonly set |
/// | `churn` | 10 in 60 s | configuration is not reloaded that often |
/// | `spare_descriptors` | a fifth of the soft limit | time enough to act |
/// | `window` | 60 s | an event a minute of each kind and level from each line of code, whatever happens |
/// | `backtraces` | off | they cost some microseconds each |
/// | `reclaim_after` | never | it is the caller's body |
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder<M = Observe> {
    options: Options,
    mode: M,
}

/// For which calls a backtrace is kept, to be shown with them. Like the levels of Netty's `ResourceLeakDetector`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backtraces {
    /// For none.
    #[default]
    Off,
    /// For one call in so many, counted per shard of threads. Netty's default is 128.
    OneIn(NonZeroU32),
    /// For all.
    All,
}

#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) held: Duration,
    pub(crate) churn: Option<Allowed>,
    pub(crate) spare_descriptors: Option<u64>,
    pub(crate) backtraces: Backtraces,
    pub(crate) window: Duration,
    pub(crate) callback: Option<Callback>,
}

// === Builder ===

impl Builder {
    pub(crate) fn new() -> Self {
        let churn = Allowed {
            fewer_than: const { NonZeroU32::new(10).expect("not zero") },
            window: Duration::from_secs(60),
        };
        let options = Options {
            held: Duration::from_secs(10),
            churn: Some(churn),
            spare_descriptors: None,
            backtraces: Backtraces::Off,
            window: Duration::from_secs(60),
            callback: None,
        };
        Self { options, mode: Observe }
    }

    /// Takes a response body away that nobody has polled for so long though there was something to poll it for, and with it its
    /// connection: [`Leak::Reclaimed`]. The holder finds an [`Elapsed`](outbound_core::Elapsed) in it.
    ///
    /// Bodies have to be `Send + 'static` for that, and cost a box each and a short lock per frame. A response head that does not
    /// come is not reclaimed: that is a timeout's task. [`Duration::MAX`] is never.
    pub fn reclaim_after(self, after: Duration) -> Builder<Reclaiming> {
        Builder { options: self.options, mode: Reclaiming { after } }
    }

    /// The layer, and the handle to see what it sees.
    pub fn pair(self) -> (LeakGuardLayer, LeakDetector) {
        let guard = Guard::new(self.options, None);
        (LeakGuardLayer::new(guard.clone(), self.mode), LeakDetector::new(guard))
    }
}

impl Builder<Reclaiming> {
    /// The layer, and the handle to see what it sees.
    pub fn pair(self) -> (LeakGuardLayer<Reclaiming>, LeakDetector) {
        let guard = Guard::new(self.options, Some(self.mode.after));
        (LeakGuardLayer::new(guard.clone(), self.mode), LeakDetector::new(guard))
    }
}

impl<M> Builder<M> {
    /// For how long a call or its response may go unpolled though there is something to poll it for: [`Leak::Held`].
    /// [`Duration::MAX`] is for ever.
    pub fn held(mut self, limit: Duration) -> Self {
        self.options.held = limit;
        self
    }

    /// How many pools and clients, built by one line of code within `window`, are too many: [`Leak::Churn`]. [`NonZeroU32::MAX`] is
    /// never: nothing is counted for that.
    ///
    /// They are counted once for the whole process, from its first guard on, and told once a window, by one of its guards: of those for which
    /// they are too many, the oldest that has a [`callback`](Self::callback), or else the oldest.
    pub fn churn(mut self, builds: NonZeroU32, window: Duration) -> Self {
        let allowed = Allowed { fewer_than: builds, window };
        self.options.churn = (builds < NonZeroU32::MAX).then_some(allowed);
        self
    }

    /// How many file descriptors are to be left: with fewer it is [`Leak::Descriptors`].
    ///
    /// They are counted every five seconds while calls are open, and whenever something is built, once a second at most; and told once for
    /// the whole process, until there are enough again. Zero is never. On Linux only, where it looks through `/proc/self/fd`.
    pub fn spare_descriptors(mut self, descriptors: u64) -> Self {
        self.options.spare_descriptors = Some(descriptors);
        self
    }

    /// For which calls a backtrace is kept.
    pub fn backtraces(mut self, backtraces: Backtraces) -> Self {
        self.options.backtraces = backtraces;
        self
    }

    /// For how long a line of code gets no second `tracing` event of the same kind and level from this guard. The next one tells how many
    /// were muted.
    pub fn window(mut self, window: Duration) -> Self {
        self.options.window = window;
        self
    }

    /// Is told everything, at once, on the thread where it is found: in the drop of a body for one. It must not block or panic.
    pub fn callback(mut self, callback: impl Fn(&Leak) + Send + Sync + 'static) -> Self {
        self.options.callback = Some(Arc::new(callback));
        self
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("held", &self.held)
            .field("churn", &self.churn)
            .field("spare_descriptors", &self.spare_descriptors)
            .field("backtraces", &self.backtraces)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}
