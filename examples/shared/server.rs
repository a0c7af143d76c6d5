//! A server beside the client under test: on threads and a runtime of its own.

use std::{net::SocketAddr, sync::mpsc, thread};

use axum::Router;
use tokio::{net::TcpListener, runtime::Builder};

/// Serves `router` on a free loopback port, with so many workers, until the process ends.
pub fn start(workers: usize, router: Router) -> SocketAddr {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            tell.send(listener.local_addr().expect("it is bound")).expect("somebody waits for it");
            axum::serve(listener, router).await
        })
    });
    told.recv().expect("the server has started")
}
