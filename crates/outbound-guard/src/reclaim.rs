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
    /// Being polled; or it has panicked in a poll.
    Away,
    Reclaimed,
    /// It has failed.
    Over,
}

/// A body as the sweep sees it.
pub trait Reclaim: Send + Sync {
    /// Drops it, if nobody is polling it and it `is_idle`: asked where nobody can poll it.
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
        let (frame, lent) = match lent {
            Lent::Here(mut body) => {
                let frame = body.as_mut().poll_frame(cx);
                (frame.map_err(Into::into), Lent::Here(body))
            }
            Lent::Reclaimed => {
                let elapsed = Elapsed::new(Phase::Body, self.after).named("reclaim_after");
                (Poll::Ready(Some(Err(elapsed.into()))), Lent::Over)
            }
            Lent::Away => (Poll::Ready(Some(Err(PANICKED.into()))), Lent::Over),
            Lent::Over => (Poll::Ready(None), Lent::Over),
        };
        *lock(&self.lent) = lent;
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &*lock(&self.lent) {
            Lent::Here(body) => body.is_end_stream(),
            Lent::Away | Lent::Reclaimed => false,
            Lent::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &*lock(&self.lent) {
            Lent::Here(body) => body.size_hint(),
            Lent::Away | Lent::Reclaimed => SizeHint::default(),
            Lent::Over => SizeHint::with_exact(0),
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
        if !matches!(*lent, Lent::Here(_)) || !is_idle() {
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

const PANICKED: &str = "the response body panicked when it was polled before";

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        task::Waker,
    };

    use bytes::Bytes;

    use super::*;

    /// Is taken away while it is polled, if it can be, and panics at its second poll.
    #[derive(Default)]
    struct Beset {
        reclaim: Arc<std::sync::OnceLock<Arc<dyn Reclaim>>>,
        polls: u8,
    }

    impl Body for Beset {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            self.polls += 1;
            assert!(self.polls < 2, "for no good reason");
            assert!(!self.reclaim.get().unwrap().reclaim(&|| true), "it is being polled");
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"half")))))
        }
    }

    #[test]
    fn what_is_polled_is_not_taken_away_and_what_panicked_has_not_ended() {
        let beset = Beset::default();
        let cell = beset.reclaim.clone();
        let (mut body, reclaim) = Reclaiming { after: Duration::ZERO }.hold(beset);
        let _ = cell.set(reclaim.unwrap());
        let mut poll = || Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(poll(), Poll::Ready(Some(Ok(_)))), "it is put back and goes on");
        catch_unwind(AssertUnwindSafe(&mut poll)).unwrap_err();
        let Poll::Ready(Some(Err(error))) = poll() else { panic!("a body that was cut short ends well") };
        assert_eq!(error.to_string(), PANICKED);
        assert!(matches!(poll(), Poll::Ready(None)));
        assert!(!cell.get().unwrap().reclaim(&|| true), "nothing is left");
    }
}
