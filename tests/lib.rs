//! Tests of whole stacks: the layers together, over real sockets. What one layer promises alone is tested in its crate.
