//! Tests of whole stacks: the layers together, over real sockets. What one layer promises alone is tested in its crate.

#[path = "harness/case.rs"]
pub mod case;
#[path = "harness/citations.rs"]
pub mod citations;
#[path = "harness/clock.rs"]
pub mod clock;
#[path = "harness/frames.rs"]
pub mod frames;
#[path = "harness/matrix.rs"]
pub mod matrix;
#[path = "harness/stack.rs"]
pub mod stack;
