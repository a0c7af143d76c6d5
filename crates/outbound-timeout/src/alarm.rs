//! A timer that gives the benefit of the doubt before it rings.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    task::{coop::unconstrained, yield_now},
    time::{Instant, Sleep, sleep_until},
};

use crate::{
    cover,
    limit::{Limit, Watch},
    stall::StallMonitor,
};

pin_project_lite::pin_project! {
    /// One timer for however many limits, re-armed only when it fires: limits move on later and never sooner, so it never
    /// fires late by that, and a call that succeeds arms it at most once.
    #[derive(Debug)]
    pub(crate) struct Alarm {
        #[pin]
        sleep: Sleep,
        stage: Stage,
        uncover: Uncover,
    }
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Counting,
    /// The timer was late: so many turns of the reactor are left, so far apart, and none after a deadline that was still to come.
    Granted {
        left: u8,
        every: Duration,
        bounded: bool,
    },
    /// So many turns of the reactor are left, as soon as it turns.
    Turning(u8),
}

impl Alarm {
    /// Rings at `due` or later; there is none as long as what it is to watch over has a timer that wakes this task as soon.
    #[inline]
    pub(crate) fn at(due: Option<Instant>, cx: &Context<'_>, monitor: Option<&StallMonitor>) -> Option<Self> {
        let due = due?;
        let is_covered = monitor.is_none() && cover::until(due, cx.waker());
        (!is_covered).then(|| Self { sleep: sleep_until(due), stage: Stage::Counting, uncover: Uncover })
    }

    /// Ready once the earliest limit, which `limit` tells, has run out and all grace with it.
    ///
    /// To be polled after what it watches over: ready data beats an expired timer. Whether somebody has `waited` since the last
    /// poll tells a late timer from a late reader.
    pub(crate) fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        watch: &Watch,
        waited: bool,
        mut limit: impl FnMut(Instant) -> Option<Limit>,
    ) -> Poll<(Limit, Instant)> {
        let this = self.project();
        let mut sleep = this.sleep;
        loop {
            // A service that spends the task's whole budget at each poll would otherwise never be timed out.
            if pin!(unconstrained(sleep.as_mut())).poll(cx).is_pending() {
                cover::by(sleep.deadline(), cx.waker());
                return Poll::Pending;
            }
            let now = Instant::now();
            let Some(limit) = limit(now) else { return Poll::Pending };
            let late = now.saturating_duration_since(limit.due);
            match &mut *this.stage {
                Stage::Counting if late >= LATE => {
                    if let Some(monitor) = watch.monitor().filter(|_| waited) {
                        monitor.saw(late);
                    }
                    tracing::debug!(limit = limit.name, ?late, "timer fired late: this side was busy");
                    *this.stage = Stage::Granted {
                        left: GRANTED,
                        every: late.min(limit.length()) / u32::from(GRANTED),
                        bounded: watch.deadline().is_some_and(|deadline| deadline.due > now),
                    };
                }
                Stage::Granted { left, every, .. } if !waited => {
                    let missed = now.duration_since(sleep.deadline()).div_duration_f64(*every);
                    *left = left.saturating_sub(missed as u8);
                }
                _ => {}
            }
            *this.stage = match *this.stage {
                _ if limit.due > now => {
                    sleep.as_mut().reset(limit.due);
                    Stage::Counting
                }
                Stage::Granted { left: left @ 1.., every, bounded } => {
                    let (next, deadline) = (now + every, watch.deadline().filter(|_| bounded));
                    sleep.as_mut().reset(deadline.map_or(next, |deadline| deadline.due.min(next)));
                    Stage::Granted { left: left - 1, every, bounded }
                }
                Stage::Counting | Stage::Granted { .. } => Stage::Turning(TURNS),
                Stage::Turning(0) => return Poll::Ready((limit, now)),
                Stage::Turning(left) => {
                    *this.stage = Stage::Turning(left - 1);
                    // Polled once, it has the scheduler wake this task when it has run what is ready and polled the driver.
                    let _ = pin!(yield_now()).poll(cx);
                    cover::by(now, cx.waker());
                    return Poll::Pending;
                }
            };
        }
    }

    /// What somebody waited for is ready: if that comes after a timer that is late, `monitor` is told all the same.
    pub(crate) fn disarm(&self, monitor: Option<&StallMonitor>) {
        if let (Some(monitor), Stage::Counting) = (monitor, self.stage)
            && self.sleep.is_elapsed()
        {
            let late = self.sleep.deadline().elapsed();
            if late >= LATE {
                monitor.saw(late);
            }
        }
    }
}

/// What is dropped has no timer any more.
#[derive(Debug)]
struct Uncover;

impl Drop for Uncover {
    fn drop(&mut self) {
        cover::clear();
    }
}

/// Tokio's timer ticks once a millisecond, and the poll below it rounds up once more: what is less late than this is on time.
const LATE: Duration = Duration::from_millis(3);

/// Into so many parts the time is cut that a late timer grants: a timer of its own for each, since only those that the driver
/// fires prove that the driver has looked at the sockets, on every kind of runtime.
const GRANTED: u8 = 10;

/// One for the tasks that the driver woke together with this timer, one for what they wake in turn, one more look at the sockets.
const TURNS: u8 = 3;
