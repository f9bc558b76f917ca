//! Links: what carries an instance's packets.
//!
//! # Theory of operation
//! **Purpose.** From an IP packet to the receiving instance's ring ([`tx`]), and from the own ring to the replica's entrance ([`rx`]).
//! **How it works.** There are two links, and a third if asked for (`eth1`, the [`uplink`]): `eth0`, a port of a [`segment`], and `lo`, which is a ring of the same kind in the instance's own arena
//! (no other instance can write there, so what comes from it is trusted to be our own). [`join`] finds a port, a name and addresses.
//! The thread that sends writes straight into the receiver's ring and notes the receiver in [`tx::Kicks`]; [`settle`], when no lock is held any
//! more, wakes whoever sleeps there ([`crate::net::wait`]), and drains the own loopback. One thread at a time drains an
//! instance's rings: it holds the receive token, a try-lock. Whoever lets go of it looks once more, so no frame is left with nobody to take it.
//! A frame over loopback has been delivered when the call that sent it returns, as in Linux: if another thread drains just then (the keeper, mostly),
//! the sender waits for it ([`rx::delivered`]).
//! A tap ([`pcap`]) and impairments ([`impair`]) cost one load while there are none.
//! **Limits.** See the modules. **Locks.** The token (rank RX) is the first of all locks.
//! **Failure.** A frame that makes no sense is counted (`frames_bad`) and dropped.
//! **See also.** design section 6.
use crate::arena::{Shared, ring::Ring};
use crate::clock::Nanos;
use crate::instance::Cx;
use crate::net::timer;
use crate::sync::{Lock, rank};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

pub mod impair;
pub mod join;
pub mod pcap;
pub mod route;
pub mod rx;
pub mod segment;
pub mod tx;
pub mod uplink;

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
    /// What sending has to look at besides: 0 before it was asked for, then [`PLAIN`] or a sum of [`TAPPED`], [`IMPAIRED`].
    extras: AtomicU32,
    /// When [`tick`] is due; 0: not.
    alarm: AtomicU64,
    /// The tap.
    pcap: pcap::State,
    /// Frames on a bad link.
    impair: impair::State,
    /// The way out of the host.
    pub uplink: uplink::State,
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

/// Neither tap nor impairment.
const PLAIN: u32 = 1;
/// There is a tap.
const TAPPED: u32 = 2;
/// The link is bad on purpose.
const IMPAIRED: u32 = 4;

/// What sending and receiving have to look at besides.
#[inline]
fn extras(cx: &Cx<'_>) -> u32 {
    match cx.inst.net.link.extras.load(Relaxed) {
        0 => ask_extras(cx),
        known => known,
    }
}

#[cold]
fn ask_extras(cx: &Cx<'_>) -> u32 {
    let config = cx.config();
    let tapped = if config.pcap.is_empty() { 0 } else { TAPPED };
    let impaired = if config.impair.is_none() { 0 } else { IMPAIRED };
    let extras = (tapped | impaired).max(PLAIN);
    cx.inst.net.link.extras.store(extras, Relaxed);
    extras
}

/// After a death inside: the token is free, and frames held back on a bad link are lost if they were being moved.
pub(crate) fn repair(cx: &Cx<'_>) {
    let link = &cx.inst.net.link;
    drop(link.token.take_over(cx.me));
    link.blocked.store(0, Relaxed);
    impair::repair(cx);
}

/// Has [`tick`] called at `at`, or before if it is to be called before anyway.
fn alarm(cx: &Cx<'_>, at: Nanos) {
    let word = &cx.inst.net.link.alarm;
    let mut now = word.load(Relaxed);
    // An alarm in the past was missed: that must not silence all others.
    while now == 0 || at < now || now < cx.now() {
        match word.compare_exchange(now, at, AcqRel, Relaxed) {
            Ok(_) => {
                timer::arm(cx, timer::Owner::Link, at);
                return;
            }
            Err(other) => now = other,
        }
    }
}

/// The timer [`timer::Owner::Link`] is due: sends delayed frames, and looks at a ring that a slow writer held up. No lock is held.
pub fn tick(cx: &Cx<'_>) {
    cx.inst.net.link.alarm.store(0, Release);
    if extras(cx) & IMPAIRED != 0 {
        impair::release(cx);
    }
    rx::drain(cx);
}

/// Rings the bells of the ports we sent to, and drains our own ring if we sent to ourselves. No lock is held.
#[inline]
pub fn settle(cx: &Cx<'_>) {
    // Each round may send more to ourselves; what is left after many rounds is the next call's, or the leader's, who is rung.
    for _ in 0..64 {
        cx.kicks.ring(cx);
        if !rx::lo_pending(cx) || !rx::drain(cx) {
            break;
        }
    }
    if cx.kicks.looped.replace(false) {
        rx::delivered(cx);
    }
    // Nobody is rung for a frame to ourselves unless it is left behind: somebody else was draining, and may have died at it.
    if rx::lo_pending(cx) {
        cx.kicks.note(cx.facts().port);
    }
    cx.kicks.ring(cx);
}

#[cfg(test)]
mod tests;
