//! The words the outbound layers share.
