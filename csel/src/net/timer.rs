//! Timers: one deadline for each numbered thing. (Interface; helper `tcp` writes the wheel.)
use crate::arena::Shared;
use crate::clock::{NEVER, Nanos};
use crate::instance::Cx;

/// What a timer belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A TCP flow: [`super::tcp::tick`].
    Flow(u32),
    /// Reassembly queues and other datagram housekeeping: [`super::dgram::tick`].
    Dgram,
    /// A slow writer or a delayed frame: [`super::link::tick`].
    Link,
}

/// The wheel.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    todo: u64,
}

/// Arms (or moves) a timer; `NEVER` disarms. May fire late, never early by more than a tick, never be lost.
pub fn arm(_cx: &Cx<'_>, _owner: Owner, _at: Nanos) {}
/// When the next timer is due; a load or two.
#[inline]
pub fn next(_cx: &Cx<'_>) -> Nanos {
    NEVER
}
/// Runs what is due at `cx.now()`. True if anything was.
#[inline]
pub fn run_due(_cx: &Cx<'_>) -> bool {
    false
}
