//! The error type on the seam between layers, and how to find a failure inside one.

use std::{error::Error, io};

/// What every layer returns: any error, boxed once where it arose and never wrapped on its way up.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The first `E` in `error`'s chain, `error` itself included.
///
/// ```
/// use outbound_core::{BoxError, Overloaded, find};
///
/// let error: BoxError = Overloaded::new("pool", 50, 128).into();
/// assert_eq!(find::<Overloaded>(&*error).unwrap().limit(), 50);
/// ```
pub fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// `error` and everything that caused it, outermost first.
///
/// Unlike a walk over [`Error::source`] alone it also visits the payload of an [`io::Error`], which `source` skips.
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref().and_then(io::Error::get_ref) {
        Some(payload) => Some(payload),
        None => error.source(),
    })
}
