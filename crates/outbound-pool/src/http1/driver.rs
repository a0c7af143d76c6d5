//! What drives a connection's socket: hyper, while it is in use; when it has been idle for a while, hardly anything.
//!
//! hyper keeps two buffers and some state for each connection, a lot for one that nobody uses. Parking a connection ends hyper's part in
//! it and keeps the bare socket, from which one byte is asked for, so that whatever comes closes it; the next exchange puts hyper back.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc, PoisonError,
        atomic::Ordering::{AcqRel, Acquire, Release},
    },
    task::{Context, Poll, Waker, ready},
};

use hyper::client::conn::http1::{self, Parts, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::wire::Wire;
use crate::{
    connection::Slot,
    metered::Metered,
    sync::{AtomicBool, Mutex, MutexGuard},
    upload::Upload,
};

/// A connector's connection, of whatever type.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

pub(super) type Io = TokioIo<Metered<Box<dyn Transport>, Wire, Arc<Slot>>>;

/// The connection's part, as the pool keeps it: without it the task closes the socket.
pub(super) struct Handle(Arc<Driver>);

/// Shared by the connection and its task.
struct Driver {
    stage: Mutex<Stage>,
    /// The task's. Not under the lock above, under which a connection may be dropped: its own, when its socket is.
    waker: Mutex<Option<Waker>>,
    /// It is to be parked.
    parks: AtomicBool,
    /// What is sent next may make the socket one for something else.
    upgrades: AtomicBool,
    /// Nobody wants the connection any more.
    is_abandoned: AtomicBool,
}

/// The task's part: with it everything ends.
pub(super) struct Task(Arc<Driver>);

enum Stage {
    Driven(Box<http1::Connection<Io, Upload>>),
    Upgradeable(Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>),
    Parked(Io),
    Closing(Io),
    Over,
}

/// How a task's work came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The socket has been closed, or belongs to somebody else.
    Over,
    /// Nobody wants the connection any more.
    Abandoned,
}

/// Speaks HTTP/1.1 over `io`.
pub(super) fn drive(io: Io) -> Option<(SendRequest<Upload>, Handle, Task)> {
    let (sender, stage) = Stage::driven(io)?;
    let driver = Arc::new(Driver {
        stage: Mutex::new(stage),
        waker: Mutex::new(None),
        parks: AtomicBool::new(false),
        upgrades: AtomicBool::new(false),
        is_abandoned: AtomicBool::new(false),
    });
    Some((sender, Handle(driver.clone()), Task(driver)))
}

// === Handle ===

impl Handle {
    /// What is sent from now on may make the socket one for something else.
    pub(super) fn may_upgrade(&self) {
        self.0.upgrades.store(true, Release);
    }

    /// The connection, which is idle, is parked by its task, once its sender is dropped. One that was to become something else, and did
    /// not, hyper does not give back: it stays as it is.
    pub(super) fn park(&self) -> bool {
        let parks = !self.0.upgrades.load(Acquire);
        self.0.parks.store(parks, Release);
        parks
    }

    /// A connection that is parked, or about to be, is driven by hyper again. `None` if it has been closed meanwhile.
    pub(super) fn revive(&self) -> Option<SendRequest<Upload>> {
        let mut stage = lock(&self.0.stage);
        // The task may not have got round to it.
        stage.strip();
        self.0.parks.store(false, Release);
        let Stage::Parked(_) = *stage else { return None };
        let Stage::Parked(io) = stage.take() else { unreachable!("just seen") };
        let (sender, driven) = Stage::driven(io)?;
        *stage = driven;
        drop(stage);
        self.0.wake();
        Some(sender)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.is_abandoned.store(true, Release);
        self.0.wake();
    }
}

// === Driver ===

impl Driver {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waker = lock(&self.waker);
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        let mut guard = lock(&self.stage);
        let stage = &mut *guard;
        let over = loop {
            match stage {
                Stage::Driven(_) if self.parks.load(Acquire) => stage.strip(),
                Stage::Driven(_) if self.upgrades.load(Acquire) => {
                    let Stage::Driven(connection) = stage.take() else { unreachable!("just seen") };
                    *stage = Stage::Upgradeable(Box::pin(connection.with_upgrades()));
                }
                Stage::Driven(connection) => {
                    note(ready!(connection.poll_without_shutdown(cx)));
                    // Its sender may have been dropped to park it, while hyper had this turn.
                    if self.parks.swap(false, AcqRel) {
                        stage.strip();
                        continue;
                    }
                    let Stage::Driven(connection) = stage.take() else { unreachable!("just seen") };
                    *stage = Stage::Closing(connection.into_parts().io);
                }
                Stage::Upgradeable(connection) => {
                    note(ready!(connection.as_mut().poll(cx)));
                    break stage.take();
                }
                Stage::Parked(io) => {
                    let mut byte = [0];
                    let _ = ready!(Pin::new(io.inner_mut()).poll_read(cx, &mut ReadBuf::new(&mut byte)));
                    break stage.take();
                }
                Stage::Closing(io) => {
                    let _ = ready!(Pin::new(io.inner_mut()).poll_shutdown(cx));
                    break stage.take();
                }
                Stage::Over => break Stage::Over,
            }
        };
        drop(guard);
        // With its socket it gives back its slot, for which the pool is locked.
        drop(over);
        Poll::Ready(())
    }

    fn wake(&self) {
        let waker = lock(&self.waker).take();
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Stage {
    fn driven(io: Io) -> Option<(SendRequest<Upload>, Self)> {
        let handshake = pin!(http1::Builder::new().handshake(io));
        match handshake.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok((sender, connection))) => Some((sender, Self::Driven(Box::new(connection)))),
            // Over HTTP/1.1 there is nothing to be exchanged, so nothing to wait for.
            _ => None,
        }
    }

    /// Of an idle connection that hyper drives the socket is left. What was read and not asked for closes it.
    fn strip(&mut self) {
        *self = match self.take() {
            Self::Driven(connection) => match connection.into_parts() {
                Parts { io, read_buf, .. } if read_buf.is_empty() => Self::Parked(io),
                Parts { io, .. } => Self::Closing(io),
            },
            stage => stage,
        };
    }

    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Over)
    }
}

// === Task ===

impl Task {
    /// Drives the socket to its end, or until the connection is abandoned.
    pub(super) async fn run(&self) -> End {
        std::future::poll_fn(|cx| match self.0.poll(cx) {
            Poll::Ready(()) => Poll::Ready(End::Over),
            // Asked once the waker is known.
            Poll::Pending if self.0.is_abandoned.load(Acquire) => Poll::Ready(End::Abandoned),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Drives it on, abandoned or not.
    pub(super) async fn finish(&self) {
        std::future::poll_fn(|cx| self.0.poll(cx)).await;
    }

    /// Nobody wants the connection any more: it does not stay parked.
    pub(super) fn close(&self) {
        self.0.parks.store(false, Release);
        let mut stage = lock(&self.0.stage);
        *stage = match stage.take() {
            Stage::Parked(io) => Stage::Closing(io),
            stage => stage,
        };
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let stage = lock(&self.0.stage).take();
        // The socket is closed here, and what hyper has of the user's is dropped, outside the lock.
        drop(stage);
    }
}

/// Whoever had an exchange on the connection has been told; without one there is nobody to tell.
fn note(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
    }
}

fn lock<T>(kept: &Mutex<T>) -> MutexGuard<'_, T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, outbound_loom))]
#[path = "driver_model.rs"]
mod model;
