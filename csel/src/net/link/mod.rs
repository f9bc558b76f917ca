//! Links: what carries an instance's packets.
//!
//! # Theory of operation
//! **Purpose.** From an IP packet to the receiving instance's ring ([`tx`]), and from the own ring to the replica's entrance ([`rx`]).
//! **How it works.** There are two links: `eth0`, a port of a [`segment`], and `lo`, which is a ring of the same kind in the instance's own arena
//! (no other instance can write there, so what comes from it is trusted to be our own). [`join`] finds a port, a name and addresses.
//! The thread that sends writes straight into the receiver's ring and notes the receiver in [`tx::Kicks`]; [`settle`], when no lock is held any
//! more, wakes whoever sleeps there ([`crate::net::wait`]), and drains the own loopback. One thread at a time drains an
//! instance's rings: it holds the receive token, a try-lock. Whoever lets go of it looks once more, so no frame is left with nobody to take it.
//! **Limits.** See the modules. **Locks.** The token (rank RX) is the first of all locks.
//! **Failure.** A frame that makes no sense is counted (`frames_bad`) and dropped.
//! **See also.** design section 6.
use crate::arena::{Shared, ring::Ring};
use crate::instance::Cx;
use crate::sync::{Lock, rank};
use core::sync::atomic::{AtomicU64, Ordering::*};

pub mod join;
pub mod route;
pub mod rx;
pub mod segment;
pub mod tx;

/// Link state of the instance.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    /// The receive token: who drains.
    token: Lock<rx::Token, { rank::RX }>,
    /// Since when somebody found the token taken and work to do; 0: not.
    blocked: AtomicU64,
    /// The reader's place in the port's ring.
    head: AtomicU64,
    /// The reader's place in `lo`.
    lo_head: AtomicU64,
    /// Addresses lately looked up.
    routes: route::Cache,
    /// Frames to ourselves.
    lo: Ring<{ segment::RING }>,
}

impl State {
    /// A fresh instance's reader starts where the port's last reader left. Called once, before the instance has any traffic.
    pub fn begin(&self, seg: &segment::Segment, port: u16) {
        if let Some(p) = seg.port(port) {
            self.head.store(p.ring.resume(), Relaxed);
        }
    }
}

/// The timer [`crate::net::timer::Owner::Link`] is due: looks at a ring that a slow writer held up. No lock is held.
pub fn tick(cx: &Cx<'_>) {
    rx::drain(cx);
}

/// Rings the bells of the ports we sent to, and drains our own ring if we sent to ourselves and nobody else is at it. No lock is held.
#[inline]
pub fn settle(cx: &Cx<'_>) {
    // Each round may send more to ourselves; what is left after many rounds is the next call's, or the leader's, who is rung.
    for _ in 0..64 {
        cx.kicks.ring(cx);
        if !rx::lo_pending(cx) || !rx::drain(cx) {
            break;
        }
        crate::net::tcp::settle(cx);
    }
    cx.kicks.ring(cx);
}
