//! The benchmarks, on the allocator that the system has.

fn main() {
    outbound_benches::main(None);
}
