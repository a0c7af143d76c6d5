//! Every interleaving of a reader, its peer and the sweep at one record.

use std::{future::poll_fn, task::Context};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::Full;
use loom::{future::block_on, model, thread};

use super::*;
use crate::{
    reclaim::{Mode, Reclaiming},
    sync::Mutex,
};

const SECOND: Duration = Duration::from_secs(1);

fn record() -> Arc<Record> {
    Arc::new(Record::new(Instant::now()))
}

/// Something that comes, and who waits for it.
#[derive(Default)]
struct Peer {
    came: bool,
    waker: Option<Waker>,
}

/// Polls like a guarded body.
fn wait_for(peer: &Mutex<Peer>, record: &Arc<Record>) {
    let own = Waker::from(record.clone());
    block_on(poll_fn(|cx| {
        record.polled();
        let mut peer = peer.lock().unwrap();
        if peer.came {
            return std::task::Poll::Ready(());
        }
        let replaced = peer.waker.replace(own.clone());
        drop(peer);
        drop(replaced);
        record.pending(cx.waker());
        std::task::Poll::Pending
    }));
}

fn comes(peer: &Mutex<Peer>) {
    let mut peer = peer.lock().unwrap();
    peer.came = true;
    let waker = peer.waker.take();
    drop(peer);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[test]
fn no_wake_up_is_lost_between_peer_and_reader() {
    let mut builder = model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let (record, peer) = (record(), Arc::new(Mutex::new(Peer::default())));
        record.begin(record.epoch);
        let wakes = thread::spawn({
            let peer = peer.clone();
            move || comes(&peer)
        });
        // One of an earlier call is still about.
        let stale = thread::spawn({
            let record = record.clone();
            move || record.wake()
        });
        wait_for(&peer, &record);
        wakes.join().unwrap();
        stale.join().unwrap();
    });
}

#[test]
fn whoever_was_woken_and_does_not_come_is_idle() {
    model(|| {
        let (record, peer) = (record(), Arc::new(Mutex::new(Peer::default())));
        record.begin(record.epoch);
        let wakes = thread::spawn({
            let peer = peer.clone();
            move || comes(&peer)
        });
        record.polled();
        let own = Waker::from(record.clone());
        let is_ready = {
            let mut peer = peer.lock().unwrap();
            peer.waker = Some(own);
            peer.came
        };
        if !is_ready {
            record.pending(Waker::noop());
        }
        wakes.join().unwrap();
        assert_eq!(record.idle().is_some(), !is_ready);
    });
}

#[test]
fn what_was_told_is_told_again_when_it_comes_back_and_else_nothing() {
    model(|| {
        let record = record();
        record.begin(record.epoch + SECOND);
        let sweep = thread::spawn({
            let record = record.clone();
            move || record.idle().is_some_and(|idle| record.tell(idle))
        });
        let polled = record.polled().is_some();
        record.read(1);
        let ended = record.end().is_some_and(|idle| idle.told);
        let told = sweep.join().unwrap();
        assert_eq!(u32::from(polled) + u32::from(ended), u32::from(told));
    });
}

/// The record of a body that its caller drops while the sweep takes it away is soon another call's.
#[test]
fn the_next_call_of_a_record_is_not_taken_for_the_one_that_was_reclaimed() {
    model(|| {
        let record = record();
        record.begin(record.epoch + SECOND);
        let since = record.idle().unwrap().since;
        let sweep = thread::spawn({
            let record = record.clone();
            move || record.reclaim(since)
        });
        record.end();
        record.begin(record.epoch + 2 * SECOND);
        sweep.join().unwrap();
        let idle = record.idle().unwrap();
        assert_eq!((idle.since, idle.reclaimed), (nanos(SECOND * 2), false));
    });

    fn nanos(time: Duration) -> u64 {
        time.as_nanos() as u64
    }
}

#[test]
fn a_body_is_read_or_taken_away_and_never_both() {
    model(|| {
        let record = record();
        record.begin(record.epoch);
        let (mut body, reclaim) = Reclaiming { after: SECOND }.hold(Full::new(Bytes::from_static(b"body")));
        let reclaim = reclaim.expect("it can be reclaimed");
        let since = record.idle().unwrap().since;
        let sweep = thread::spawn({
            let record = record.clone();
            move || reclaim.reclaim(&|| record.reclaim(since))
        });
        record.polled();
        let waker = Waker::from(record.clone());
        let frame = std::pin::Pin::new(&mut body).poll_frame(&mut Context::from_waker(&waker));
        let is_read = matches!(&frame, std::task::Poll::Ready(Some(Ok(frame))) if Frame::is_data(frame));
        record.read(4);
        assert_eq!(is_read, !sweep.join().unwrap());
    });
}
