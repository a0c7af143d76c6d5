//! Who pays for the attempts of a call beyond its first.

use std::{fmt, sync::Arc};

use crate::{
    context::{Carried, Message},
    words::Kind,
};

/// Pays for attempts beyond the first, until it has nothing left: a retry budget.
///
/// An implementation takes no lock, and may be asked from any thread.
pub trait Account: fmt::Debug + Send + Sync {
    /// Pays for one more attempt, after a failure of `kind` or, if that is `None`, after a response.
    ///
    /// What comes back is handed to [`settle`](Self::settle) when that attempt is over; `None` refuses it.
    fn withdraw(&self, kind: Option<Kind>) -> Option<u64>;

    /// The attempt that `paid` paid for is over.
    fn settle(&self, paid: u64, succeeded: bool);
}

/// The account that every retry of a call is charged to, however many retry layers it passes through.
///
/// The outermost layer that has one puts it on the request, and those inside charge it instead of their own. So nested layers
/// make no more extra traffic than the outermost budget allows, where otherwise their attempts would multiply
/// (Google SRE book, "Addressing Cascading Failures": retry at one level only).
#[derive(Clone, Debug)]
pub struct Ledger(Arc<dyn Account>);

impl Ledger {
    /// Charges to `account`.
    pub fn new(account: Arc<dyn Account>) -> Self {
        Self(account)
    }

    /// The ledger that `message` carries.
    pub fn of(message: &impl Message) -> Option<Self> {
        Carried::of(message)?.ledger.clone()
    }

    /// Puts it on `message`.
    pub fn attach(self, message: &mut impl Message) {
        Carried::on(message).ledger = Some(self);
    }

    /// The account itself.
    pub fn account(&self) -> &dyn Account {
        &*self.0
    }
}
