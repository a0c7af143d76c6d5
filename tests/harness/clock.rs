//! Time that passes only when nothing else happens.

use std::{pin::pin, sync::mpsc, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{advance, resume},
};

/// Runs `future` on a paused clock that moves in steps of `step`, each after the sockets have had their time.
///
/// Tokio's own jumps as soon as the runtime is idle, which it also is while bytes are on their way.
pub async fn in_steps<T>(step: Duration, future: impl Future<Output = T>) -> T {
    // Tokio does not jump while a blocking task is at work.
    let (thaw, frozen) = mpsc::channel::<()>();
    let frost = spawn_blocking(move || frozen.recv());
    let mut future = pin!(future);
    let done = loop {
        tokio::select! {
            biased;
            done = &mut future => break done,
            () = travel() => advance(step).await,
        }
    };
    resume();
    drop(thaw);
    let _ = frost.await;
    done
}

async fn travel() {
    let (_never, nothing) = mpsc::channel::<()>();
    let travelled = spawn_blocking(move || nothing.recv_timeout(TRAVEL));
    let _ = travelled.await;
}

/// What bytes take from socket to socket on a machine under load; of the wall clock.
const TRAVEL: Duration = Duration::from_millis(3);
