//! Every interleaving of the connection's owner, its task and its peer at one driver. hyper itself is taken for one step where it is
//! polled: what is checked is that it is polled.

use std::{future::poll_fn, io, sync::atomic::Ordering::SeqCst};

use http::Request;
use loom::{future::block_on, thread};
use tokio::io::ReadBuf;

use super::*;
use crate::{
    connection::Slots,
    slots::model::{dialed, limits_of},
};

/// A socket whose peer says nothing, but may close it.
struct Socket(Arc<Line>);

/// What is known of it outside.
struct Line {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    reader: Option<Waker>,
    written: usize,
    looks: Option<Waker>,
}

impl Line {
    fn change(&self, change: impl FnOnce(&mut State) -> Option<Waker>) {
        let mut state = lock(&self.state);
        let waker = change(&mut state);
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    /// The peer closes it.
    fn close(&self) {
        self.change(|state| {
            state.is_closed = true;
            state.reader.take()
        });
    }

    /// Waits until something has been written.
    fn written(&self) {
        block_on(poll_fn(|cx| {
            let mut state = lock(&self.state);
            if state.written > 0 {
                return Poll::Ready(());
            }
            state.looks = Some(cx.waker().clone());
            Poll::Pending
        }));
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.0.state);
        if state.is_closed {
            return Poll::Ready(Ok(()));
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.change(|state| {
            state.written += bytes.len();
            state.looks.take()
        });
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A connection, and the thread that is its task.
fn connection() -> (Arc<Line>, SendRequest<Upload>, Handle, thread::JoinHandle<()>) {
    let line = Arc::new(Line { state: Mutex::new(State::default()) });
    let slot = Arc::new(dialed(&Slots::new(limits_of(1, 1, 1))));
    let socket: Box<dyn Transport> = Box::new(Socket(line.clone()));
    let wire = Arc::new(Wire::new(usize::MAX));
    let (sender, handle, task) =
        drive(TokioIo::new(Metered::new(socket, wire, slot))).expect("hyper takes it");
    // As the pool's task does it, but for the time limit.
    let task = thread::spawn(move || {
        if block_on(task.run()) == End::Abandoned {
            task.close();
            block_on(task.finish());
        }
    });
    (line, sender, handle, task)
}

fn request() -> Request<Upload> {
    Request::new(Upload::default())
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

#[test]
fn an_idle_connection_that_nobody_wants_is_closed() {
    model(|| {
        let (_, sender, handle, task) = connection();
        drop(sender);
        drop(handle);
        task.join().unwrap();
    });
}

#[test]
fn a_connection_on_its_way_to_be_parked_that_nobody_wants_is_closed() {
    model(|| {
        let (_, sender, handle, task) = connection();
        assert!(handle.park());
        drop(sender);
        drop(handle);
        task.join().unwrap();
    });
}

#[test]
fn a_connection_that_is_revived_is_driven_wherever_its_task_was() {
    model(|| {
        let (line, sender, handle, task) = connection();
        assert!(handle.park());
        drop(sender);
        let mut sender = handle.revive().expect("it is open");
        let response = sender.try_send_request(request());
        line.written();
        drop((response, sender, handle));
        task.join().unwrap();
    });
}

/// Whoever sends on a connection that its peer closes meanwhile is told so.
#[test]
fn a_peer_that_closes_while_a_connection_is_parked_and_revived() {
    model(|| {
        let (line, sender, handle, task) = connection();
        let peer = thread::spawn(move || line.close());
        assert!(handle.park());
        drop(sender);
        if let Some(mut sender) = handle.revive() {
            let response = sender.try_send_request(request());
            std::sync::atomic::fence(SeqCst);
            let _open = (!sender.is_closed()).then_some(sender);
            assert!(block_on(response).is_err());
        }
        drop(handle);
        peer.join().unwrap();
        task.join().unwrap();
    });
}
