//! Every interleaving of a body's readers: the later has all of it, the one before a part and its end, and nobody waits in vain.

use std::{
    convert::Infallible,
    future::poll_fn,
    sync::atomic::Ordering::{Relaxed, SeqCst},
};

use loom::{future::block_on, thread};

use super::*;

/// A body of two chunks, which notices if two poll it at once.
struct Two {
    given: u8,
    source: Arc<Spring>,
}

/// Where they come from.
struct Spring {
    polled: AtomicUsize,
    /// How many there are so far, and who waits for more.
    there: Mutex<(u8, Option<Waker>)>,
}

impl Spring {
    fn of(there: u8) -> Arc<Self> {
        Arc::new(Self { polled: AtomicUsize::new(0), there: Mutex::new((there, None)) })
    }

    fn flow(&self) {
        let mut there = self.there.lock().unwrap();
        there.0 += 1;
        let waker = there.1.take();
        drop(there);
        wake(waker);
    }
}

impl Body for Two {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let source = self.source.clone();
        assert_eq!(source.polled.fetch_add(1, SeqCst), 0, "one at a time");
        let mut there = source.there.lock().unwrap();
        let is_dry = there.0 <= self.given && self.given < 2;
        if is_dry {
            there.1 = Some(cx.waker().clone());
        }
        drop(there);
        source.polled.fetch_sub(1, SeqCst);
        match self.given {
            _ if is_dry => Poll::Pending,
            2 => Poll::Ready(None),
            _ => {
                self.given += 1;
                Poll::Ready(Some(Ok(Frame::data(vec![self.given].into()))))
            }
        }
    }
}

fn kept(source: &Arc<Spring>, sum: Option<Arc<Room>>) -> Arc<Kept<Two>> {
    let body = Two { given: 0, source: source.clone() };
    Kept::new(body, None, &Cap { each: 64, sum }).expect("it is no end")
}

/// What a reader has been handed, and whether that was all.
fn read(mut body: Replay<Two>) -> (Vec<u8>, bool) {
    let mut read = Vec::new();
    loop {
        match block_on(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx))) {
            Some(Ok(frame)) => read.extend(frame.into_data().unwrap()),
            Some(Err(_)) => return (read, false),
            None => return (read, true),
        }
    }
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

/// What holds in the end, whoever was how far when the second attempt began.
fn has_all(first: thread::JoinHandle<(Vec<u8>, bool)>, second: Replay<Two>) {
    assert_eq!(read(second), (vec![1, 2], true));
    let (read, all) = first.join().unwrap();
    assert!(if all { read == [1, 2] } else { [1, 2].starts_with(&read) }, "{read:?}, {all}");
}

#[test]
fn who_is_in_the_middle_of_its_turn_hands_it_on() {
    model(|| {
        let kept = kept(&Spring::of(2), None);
        let first = kept.first();
        let first = thread::spawn(move || read(first));
        has_all(first, kept.rewind().expect("it is small enough"));
    });
}

#[test]
fn who_waits_for_a_body_that_waits_is_woken() {
    model(|| {
        let source = Spring::of(1);
        let kept = kept(&source, None);
        let first = kept.first();
        let first = thread::spawn(move || read(first));
        let flows = thread::spawn(move || source.flow());
        has_all(first, kept.rewind().expect("it is small enough"));
        flows.join().unwrap();
    });
}

/// Two requests keep what there is room for, one of them after it was told that nobody needs it any more.
#[test]
fn the_room_of_all_is_neither_overdrawn_nor_lost() {
    model(|| {
        let room = Arc::new(Room::new(3));
        let reads = |room: &Arc<Room>| {
            let kept = kept(&Spring::of(2), Some(room.clone()));
            assert_eq!(read(kept.first()), (vec![1, 2], true));
            kept
        };
        let other = thread::spawn({
            let room = room.clone();
            move || drop(reads(&room))
        });
        let kept = reads(&room);
        kept.finish();
        other.join().unwrap();
        drop(kept);
        assert_eq!(room.0.load(Relaxed), 3);
    });
}
