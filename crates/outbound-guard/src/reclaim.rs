//! Whether a body that is held can be taken away.

use std::{
    fmt, mem,
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use outbound_core::{BoxError, Elapsed, Phase};

use crate::sync::{Mutex, MutexGuard};

/// Whether response bodies can be taken away from whoever holds them: [`Observe`] or [`Reclaiming`]. Not to be implemented elsewhere.
pub trait Mode<B>: Clone {
    /// What a response body becomes.
    type Body;

    #[doc(hidden)]
    fn hold(&self, body: B) -> (Self::Body, Option<Arc<dyn Reclaim>>);
}

/// Bodies belong to the caller alone: the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observe;

/// Bodies are taken away when nobody has polled them for long enough: [`Builder::reclaim_after`](crate::Builder::reclaim_after).
#[derive(Clone, Copy, Debug)]
pub struct Reclaiming {
    pub(crate) after: Duration,
}

/// A body that can be taken away from its holder. It then fails with [`Elapsed`] in [`Phase::Body`], once.
///
/// It is one box, and a short lock per frame, which nobody else wants but whoever takes it away.
pub struct Reclaimable<B> {
    lent: Arc<Mutex<Lent<B>>>,
    after: Duration,
}

enum Lent<B> {
    Here(Pin<Box<B>>),
    /// Being polled, or over.
    Away,
    Reclaimed,
}

/// A body as the sweep sees it.
pub trait Reclaim: Send + Sync {
    /// Drops it, if it `is_idle`: asked where nobody can poll it.
    fn reclaim(&self, is_idle: &dyn Fn() -> bool) -> bool;
}

// === Mode ===

impl<B> Mode<B> for Observe {
    type Body = B;

    #[inline]
    fn hold(&self, body: B) -> (B, Option<Arc<dyn Reclaim>>) {
        (body, None)
    }
}

impl<B: Send + 'static> Mode<B> for Reclaiming {
    type Body = Reclaimable<B>;

    fn hold(&self, body: B) -> (Reclaimable<B>, Option<Arc<dyn Reclaim>>) {
        let lent = Arc::new(Mutex::new(Lent::Here(Box::pin(body))));
        (Reclaimable { lent: lent.clone(), after: self.after }, Some(lent))
    }
}

// === Reclaimable ===

impl<B> Body for Reclaimable<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        // Out of the lock: what a body does when polled is not ours.
        let lent = mem::replace(&mut *lock(&self.lent), Lent::Away);
        match lent {
            Lent::Here(mut body) => {
                let frame = body.as_mut().poll_frame(cx);
                *lock(&self.lent) = Lent::Here(body);
                frame.map_err(Into::into)
            }
            Lent::Reclaimed => {
                let elapsed = Elapsed::new(Phase::Body, self.after).named("reclaim_after");
                Poll::Ready(Some(Err(elapsed.into())))
            }
            Lent::Away => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &*lock(&self.lent) {
            Lent::Here(body) => body.is_end_stream(),
            Lent::Away => true,
            Lent::Reclaimed => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &*lock(&self.lent) {
            Lent::Here(body) => body.size_hint(),
            Lent::Away => SizeHint::with_exact(0),
            Lent::Reclaimed => SizeHint::default(),
        }
    }
}

impl<B> fmt::Debug for Reclaimable<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reclaimable").field("after", &self.after).finish_non_exhaustive()
    }
}

// === Lent ===

impl<B: Send> Reclaim for Mutex<Lent<B>> {
    fn reclaim(&self, is_idle: &dyn Fn() -> bool) -> bool {
        let mut lent = lock(self);
        if !is_idle() {
            return false;
        }
        let body = mem::replace(&mut *lent, Lent::Reclaimed);
        drop(lent);
        drop(body);
        true
    }
}

fn lock<B>(lent: &Mutex<Lent<B>>) -> MutexGuard<'_, Lent<B>> {
    lent.lock().unwrap_or_else(PoisonError::into_inner)
}
