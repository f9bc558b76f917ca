//! Impairments: a link that loses, doubles, swaps, delays and spoils frames, on purpose.
//!
//! # Theory of operation
//! **Purpose.** `--impair drop=1%,dup=1%,reorder=1%,corrupt=0.1%,delay=200us,seed=7` shows what a program, and csel's own TCP, do on a bad network.
//! **How it works.** Every frame the instance sends passes [`pass`] when it is committed; so does what comes in by the uplink, where nobody else would spoil it. One stream of pseudo-random numbers,
//! from the seed, decides: the same traffic meets the same fate. A swapped frame is kept aside until the next one was sent, or a millisecond;
//! delayed frames lie in a ring in the arena until they are due. The timer [`crate::net::timer::Owner::Link`] calls [`release`].
//! **Limits.** One frame can be aside; 4 MiB can be delayed; what does not fit, here or in the receiver's ring, is lost.
//! **Locks.** One, rank LEAF. **Failure.** None: it is the purpose. A frame with a flipped bit is only noticed by who checks checksums.
//! **See also.** tc-netem(8).
use super::segment::RING;
use super::tx;
use crate::arena::{
    Shared,
    ring::{Peek, Ring},
};
use crate::clock::{MS, Nanos};
use crate::instance::Cx;
use crate::stats::bump;
use crate::sync::{Lock, rank};
use core::sync::atomic::AtomicU64;

/// The largest frame: Ethernet header and IP packet.
const MOST: usize = super::rx::ETHERNET + 65535;
/// Bytes before a delayed frame: when it is due, and where to.
const NOTE: usize = 24;

/// Frames on their way.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    wire: Lock<Wire, { rank::LEAF }>,
    delayed: Ring<RING>,
}

#[repr(C)]
#[derive(Shared)]
struct Wire {
    random: u64,
    /// The reader's place in `delayed`.
    head: AtomicU64,
    /// Bytes of the frame aside; 0: none.
    aside_len: usize,
    aside_since: u64,
    aside_to: Target,
    aside: [u8; MOST],
}

/// After a death inside: a frame that was being moved is lost.
pub(super) fn repair(cx: &Cx<'_>) {
    if let Some(mut wire) = cx.inst.net.link.impair.wire.take_over(cx.me).filter(|w| w.inherited()) {
        wire.aside_len = 0;
    }
}

/// Where a frame goes: the fields of a hop that matter, as plain numbers.
#[repr(C)]
#[derive(Clone, Copy, Shared, Debug)]
pub struct Target {
    /// The port, or [`tx::Hop::FLOOD`].
    pub port: u16,
    /// To `lo`; with [`tx::Hop::UP`]: it came in there.
    pub lo: bool,
    /// A flood comes back to us too.
    pub echo: bool,
    /// The port's life.
    pub life: u32,
}

impl Target {
    fn write(self, due: Nanos, to: &mut [u8]) {
        to[..8].copy_from_slice(&due.to_ne_bytes());
        to[8..12].copy_from_slice(&self.life.to_ne_bytes());
        to[12..14].copy_from_slice(&self.port.to_ne_bytes());
        (to[14], to[15]) = (u8::from(self.lo), u8::from(self.echo));
    }
    fn read(from: &[u8; NOTE]) -> (Nanos, Self) {
        let due = u64::from_ne_bytes(*from.first_chunk().unwrap_or(&[0; 8]));
        let life = u32::from_ne_bytes([from[8], from[9], from[10], from[11]]);
        (due, Self { port: u16::from_ne_bytes([from[12], from[13]]), lo: from[14] != 0, echo: from[15] != 0, life })
    }
}

/// Does any of `in_a_million` frames happen to be this one?
fn happens(random: &mut u64, in_a_million: u32) -> bool {
    if in_a_million == 0 {
        return false;
    }
    // xorshift64*: one draw for each question that can come out either way.
    *random ^= *random >> 12;
    *random ^= *random << 25;
    *random ^= *random >> 27;
    (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % 1_000_000 < u64::from(in_a_million)
}

/// Sends a frame over the bad link. It may be changed.
pub fn pass(cx: &Cx<'_>, to: Target, frame: &mut [u8]) {
    let how = cx.config().impair;
    let st = &cx.inst.net.link.impair;
    let mut guard = st.wire.lock(cx.me);
    let w = &mut *guard;
    if w.random == 0 {
        w.random = u64::from(how.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    }
    let mut wake = None;
    if happens(&mut w.random, how.drop_ppm) {
        bump(&cx.inst.stats.frames_impaired);
    } else {
        if happens(&mut w.random, how.corrupt_ppm) && frame.len() > super::rx::ETHERNET {
            bump(&cx.inst.stats.frames_impaired);
            let bit = (w.random >> 20) as usize % ((frame.len() - super::rx::ETHERNET) * 8);
            frame[super::rx::ETHERNET + bit / 8] ^= 1 << (bit % 8);
        }
        let twice = happens(&mut w.random, how.dup_ppm);
        if happens(&mut w.random, how.reorder_ppm) && w.aside_len == 0 && frame.len() <= MOST {
            bump(&cx.inst.stats.frames_impaired);
            w.aside[..frame.len()].copy_from_slice(frame);
            (w.aside_len, w.aside_to, w.aside_since) = (frame.len(), to, cx.now());
            wake = Some(cx.now() + MS);
        } else {
            wake = emit(cx, how.delay_us, to, frame);
            if twice {
                bump(&cx.inst.stats.frames_impaired);
                emit(cx, how.delay_us, to, frame);
            }
            if w.aside_len != 0 {
                let len = core::mem::take(&mut w.aside_len).min(MOST);
                emit(cx, how.delay_us, w.aside_to, &w.aside[..len]);
            }
        }
    }
    drop(guard);
    if let Some(at) = wake {
        super::alarm(cx, at);
    }
}

/// Sends now, or puts on the wire; then, when to look again.
fn emit(cx: &Cx<'_>, delay_us: u32, to: Target, frame: &[u8]) -> Option<Nanos> {
    if delay_us == 0 {
        deliver(cx, to, frame);
        return None;
    }
    let due = cx.now() + Nanos::from(delay_us) * 1000;
    if let Some(mut slot) = cx.inst.net.link.impair.delayed.reserve(cx.me.tid, NOTE + frame.len(), 0) {
        to.write(due, slot.bytes());
        slot.bytes()[NOTE..].copy_from_slice(frame);
        slot.commit();
    }
    Some(due)
}

/// Copies a frame to where it goes; a full ring loses it.
fn deliver(cx: &Cx<'_>, to: Target, frame: &[u8]) {
    let link = &cx.inst.net.link;
    if to.port == tx::Hop::UP {
        return super::uplink::pass(cx, to.lo, frame);
    }
    if to.port == tx::Hop::FLOOD {
        tx::flood(cx, frame);
    }
    let slot = if to.lo || (to.port == tx::Hop::FLOOD && to.echo) {
        link.lo.reserve(cx.me.tid, frame.len(), 0)
    } else {
        cx.seg.port(to.port).and_then(|p| p.ring.reserve(cx.me.tid, frame.len(), to.life))
    };
    if let Some(mut slot) = slot {
        slot.bytes().copy_from_slice(frame);
        slot.commit();
        cx.kicks.note(if to.port == tx::Hop::FLOOD { cx.facts().port } else { to.port });
    }
}

/// Sends what is due. No lock is held.
pub fn release(cx: &Cx<'_>) {
    let how = cx.config().impair;
    let st = &cx.inst.net.link.impair;
    let now = cx.now();
    let mut wake = None;
    let mut guard = st.wire.lock(cx.me);
    let w = &mut *guard;
    if w.aside_len != 0 {
        if w.aside_since + MS <= now {
            let len = core::mem::take(&mut w.aside_len).min(MOST);
            wake = emit(cx, how.delay_us, w.aside_to, &w.aside[..len]);
        } else {
            wake = Some(w.aside_since + MS);
        }
    }
    loop {
        match st.delayed.peek(&w.head) {
            Peek::Empty | Peek::Busy { .. } => break,
            Peek::Bad => {}
            Peek::Frame { frame, span, .. } => {
                if let Some((note, frame)) = frame.split_first_chunk::<NOTE>() {
                    let (due, to) = Target::read(note);
                    if due > now {
                        wake = Some(wake.map_or(due, |at| at.min(due)));
                        break;
                    }
                    deliver(cx, to, frame);
                }
                st.delayed.advance(&w.head, span);
            }
        }
    }
    drop(guard);
    if let Some(at) = wake {
        super::alarm(cx, at);
    }
}
