//! A hostile HTTP upstream and the Tower service contract probe.
