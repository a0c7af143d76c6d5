//! The fault matrix over the documented stack. `cargo test -p outbound-tests --test faults -- --write` writes it to `docs/faults.md`.

#[path = "faults/connection.rs"]
mod connection;
#[path = "faults/http1.rs"]
mod http1;
#[path = "faults/http2.rs"]
mod http2;
#[path = "faults/runtime.rs"]
mod runtime;

use std::process::ExitCode;

use outbound_tests::matrix::{self, Section};

fn main() -> ExitCode {
    let sections = [
        Section { title: "Establishing a connection", rows: connection::rows() },
        Section { title: "An HTTP/1.1 exchange", rows: http1::rows() },
        Section { title: "HTTP/2", rows: http2::rows() },
        Section { title: "Pool, layers, runtime, clock", rows: runtime::rows() },
    ];
    matrix::main("docs/faults.md", INTRODUCTION, &sections)
}

const INTRODUCTION: &str = "\
# Faults

What the documented stack (deadline, retry, limit, timeout, guard, pool) does when things break. Each row is played against a server
that does just that to its first connection and behaves on all others; or it concerns one layer, and is tested there.

An attempt reads `kind/phase/delivery` if it failed, else as its status; `→` is a retry, *then* is how the body failed. *seen* are the request
heads that the server read over all connections, and the last word is what became of the first connection.

After every row that is played (✓), the harness itself asserts: the gauges of pool, limit and guard are at zero, every request body has
been dropped, a response body that has ended stays ended, the guard has nothing to tell, a fresh request succeeds (after the pool was
closed: is told so); and once the stack is dropped every socket is closed and no task is left. A row that is *cited* is tested where it
says; what is asserted here is that those are tests, and that nothing has them left out.

Written by `cargo test -p outbound-tests --test faults -- --write`; without `--write` that command fails if a row does, or if this file is
not what it would write.
";
