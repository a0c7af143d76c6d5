//! How much extra traffic retries may make.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::Uri;
use outbound_core::{Account, Kind, Ledger, Origin};

pub use self::{ratio::Ratio, share::Share, tokens::Tokens};
use self::{ratio::Window, share::Active, tokens::Bucket};
use crate::per_origin::PerOrigin;

mod ratio;
mod share;
mod tokens;

/// A bound on the attempts beyond the first, over all calls: without one, a dependency that is down is sent several times the
/// traffic it already cannot serve (Google SRE book, "Handling Overload").
///
/// Clones share it; put one into as many layers as talk to the same dependency. All of it is atomics: no lock is taken, except that
/// with [`per_origin`](Self::per_origin) the first calls to an origin may wait for the one among them that makes its budget.
/// Where an outer retry layer has put its [`Ledger`] on a request, that is charged instead of this.
///
/// ```
/// use outbound_retry::{Budget, Ratio};
///
/// let budget = Budget::new(Ratio::default().percent(10));
/// assert_eq!(budget.refused(), 0);
/// ```
#[derive(Clone, Debug)]
pub struct Budget(Scope);

/// The kinds of [`Budget`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Rule {
    /// A share of the calls of the last seconds, and a floor.
    Ratio(Ratio),
    /// A bucket of tokens that failures drain and successes refill.
    Tokens(Tokens),
    /// A share of the calls in flight, and a floor.
    Share(Share),
}

/// A call's part in the budget, from its start until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Stake {
    books: Books,
    paid: Option<u64>,
}

/// What the retries of a call are charged to.
#[derive(Debug, Default)]
enum Books {
    /// Nothing: they are free.
    #[default]
    None,
    /// Where the call was counted: this is its outermost layer.
    Own(Arc<Purse>),
    /// Where an outer layer has counted it.
    Outer(Ledger),
}

#[derive(Clone, Debug)]
enum Scope {
    Off,
    One(Arc<Purse>),
    PerOrigin(Arc<PerOrigin<Arc<Purse>>>),
}

#[derive(Debug)]
struct Purse {
    rule: Rule,
    balance: Balance,
    refused: AtomicU64,
}

#[derive(Debug)]
enum Balance {
    Ratio(Window),
    Tokens(Bucket),
    Share(Active),
}

// === Budget ===

impl Budget {
    /// By this rule: a [`Ratio`], [`Tokens`] or a [`Share`].
    pub fn new(rule: impl Into<Rule>) -> Self {
        Self(Scope::One(Arc::new(Purse::new(rule.into()))))
    }

    /// No bound: for a caller who has another one.
    pub fn off() -> Self {
        Self(Scope::Off)
    }

    /// One for each of the first `origins` origins that are called, all alike; those after them share one.
    ///
    /// So an origin that is down does not use up the retries of the others.
    #[must_use]
    pub fn per_origin(self, origins: NonZeroUsize) -> Self {
        match self.0 {
            Scope::One(purse) => Self(Scope::PerOrigin(Arc::new(PerOrigin::new(origins, purse)))),
            other => Self(other),
        }
    }

    /// How many retries were refused so far, over all origins.
    pub fn refused(&self) -> u64 {
        match &self.0 {
            Scope::Off => 0,
            Scope::One(purse) => purse.refused.load(Relaxed),
            Scope::PerOrigin(purses) => purses.iter().map(|purse| purse.refused.load(Relaxed)).sum(),
        }
    }

    /// A call begins; if it is in the books already, an outer layer has counted it.
    pub(crate) fn stake(&self, uri: &Uri, ledger: Option<&Ledger>) -> Stake {
        if let Some(ledger) = ledger {
            return Stake { books: Books::Outer(ledger.clone()), paid: None };
        }
        let purse = match &self.0 {
            Scope::Off => return Stake::default(),
            Scope::One(purse) => purse,
            Scope::PerOrigin(purses) => {
                let origin = Origin::of(uri).ok();
                purses.of(origin.as_ref(), |purse| Arc::new(Purse::new(purse.rule)))
            }
        };
        purse.enter();
        Stake { books: Books::Own(purse.clone()), paid: None }
    }
}

/// A [`Ratio`] of 20 % and at least 10 a second.
impl Default for Budget {
    fn default() -> Self {
        Self::new(Ratio::default())
    }
}

// === Rule ===

impl From<Ratio> for Rule {
    fn from(ratio: Ratio) -> Self {
        Self::Ratio(ratio)
    }
}

impl From<Tokens> for Rule {
    fn from(tokens: Tokens) -> Self {
        Self::Tokens(tokens)
    }
}

impl From<Share> for Rule {
    fn from(share: Share) -> Self {
        Self::Share(share)
    }
}

// === Stake ===

impl Stake {
    /// What the layers inside charge their retries to.
    pub(crate) fn ledger(&self) -> Option<Ledger> {
        match &self.books {
            Books::None => None,
            Books::Own(purse) => Some(Ledger::new(purse.clone())),
            Books::Outer(ledger) => Some(ledger.clone()),
        }
    }

    /// Pays for one more attempt after a failure; without a budget it is free.
    pub(crate) fn withdraw(&mut self, kind: Option<Kind>) -> bool {
        self.forfeit();
        let Some(account) = self.books.account() else { return true };
        self.paid = account.withdraw(kind);
        self.paid.is_some()
    }

    /// The call has succeeded.
    pub(crate) fn succeeded(&mut self) {
        match &self.books {
            Books::Own(purse) if self.paid.is_none() => purse.reward(),
            _ => self.settle(true),
        }
    }

    /// What was paid for has brought nothing.
    pub(crate) fn forfeit(&mut self) {
        self.settle(false);
    }

    fn settle(&mut self, succeeded: bool) {
        if let (Some(paid), Some(account)) = (self.paid.take(), self.books.account()) {
            account.settle(paid, succeeded);
        }
    }
}

impl Drop for Stake {
    fn drop(&mut self) {
        self.forfeit();
        if let Books::Own(purse) = &self.books {
            purse.leave();
        }
    }
}

// === Books ===

impl Books {
    fn account(&self) -> Option<&dyn Account> {
        match self {
            Self::None => None,
            Self::Own(purse) => Some(&**purse),
            Self::Outer(ledger) => Some(ledger.account()),
        }
    }
}

// === Purse ===

impl Purse {
    fn new(rule: Rule) -> Self {
        let balance = match rule {
            Rule::Ratio(ratio) => Balance::Ratio(Window::new(ratio)),
            Rule::Tokens(tokens) => Balance::Tokens(Bucket::new(tokens)),
            Rule::Share(share) => Balance::Share(Active::new(share)),
        };
        Self { rule, balance, refused: AtomicU64::new(0) }
    }

    fn enter(&self) {
        match &self.balance {
            Balance::Ratio(window) => window.deposit(),
            Balance::Tokens(_) => {}
            Balance::Share(active) => active.enter(),
        }
    }

    fn leave(&self) {
        if let Balance::Share(active) = &self.balance {
            active.leave();
        }
    }

    fn reward(&self) {
        if let Balance::Tokens(bucket) = &self.balance {
            bucket.reward();
        }
    }
}

impl Account for Purse {
    fn withdraw(&self, kind: Option<Kind>) -> Option<u64> {
        let paid = match &self.balance {
            Balance::Ratio(window) => window.withdraw().then_some(1),
            Balance::Tokens(bucket) => bucket.withdraw(kind),
            Balance::Share(active) => active.withdraw().then_some(1),
        };
        if paid.is_none() {
            self.refused.fetch_add(1, Relaxed);
        }
        paid
    }

    fn settle(&self, paid: u64, succeeded: bool) {
        match &self.balance {
            Balance::Ratio(_) => {}
            Balance::Tokens(bucket) if succeeded => bucket.refund(paid),
            Balance::Tokens(_) => {}
            Balance::Share(active) => active.settle(),
        }
    }
}

#[cfg(all(test, outbound_loom))]
mod model {
    use loom::thread;

    use super::Arc;

    pub(super) fn model(check: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(check);
    }

    /// Two threads want the same of it: how many of them have had it.
    pub(super) fn at_once<T: Send + Sync + 'static>(it: &Arc<T>, wants: fn(&T) -> bool) -> usize {
        let other = thread::spawn({
            let it = it.clone();
            move || wants(&it)
        });
        usize::from(wants(it)) + usize::from(other.join().unwrap())
    }
}
