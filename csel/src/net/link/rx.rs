//! Receiving: draining the port's ring. (Interface; helper `link`.)
use crate::instance::Cx;
/// Is there a frame in our ring? A load or two.
#[inline]
pub fn pending(_cx: &Cx<'_>) -> bool {
    false
}
/// Drains the ring into [`crate::net::dgram::input`], if the receive token is free; whoever holds the token goes on until the ring is empty.
/// Bounded work per call. True if any frame was handled.
pub fn drain(_cx: &Cx<'_>) -> bool {
    false
}
