//! The seat: whom a producer rings.
//!
//! # Theory of operation
//! **Purpose.** Whoever has committed a frame to a port wakes one thread of the instance there, if none is awake; see [`super`] for the whole.
//! **How it works.** [`Seat::leader`] names the slot to ring, taken off by the ring, so that a burst costs one system call.
//! *Hints.* In an instance of many processes the leader is seldom the one whom a frame concerns: it would wake only to wake another. So whoever
//! drains a frame notes in the seat which slot that frame woke ([`learn`]), by a hash of the frame's ports; the next producer of such a frame rings
//! that slot instead, if its thread sleeps and was not rung already, and leaves the leader on its seat. A thread that was rung so drains before it
//! sleeps or leaves, as a leader does. A hint is never needed and may be wrong: any sleeper can drain. A slot is taken by thread id where that
//! is free, so that a thread mostly finds its old one.
//! **Limits.** [`SLOTS`] slots, [`HINTS`] hints. **Locks.** None. **Failure.** A bell out of reach rings the keeper; a ringer that is killed leaves
//! it to the next one. **See also.** `tests/tests/wakeup.rs`, futex(2).
use crate::arena::{Id, Shared};
use crate::gate::{self, bell};
use crate::instance::Cx;
use crate::net::link;
use crate::stats;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*, fence};

/// Threads of an instance that can sleep at once.
pub const SLOTS: usize = 1024;
/// The keeper's slot.
pub const KEEPER: u32 = 1;

/// Word of a slot: nobody sleeps there, or it has been woken.
pub(super) const AWAKE: u32 = 0;
/// Its thread sleeps, or is about to.
pub(super) const ARMED: u32 = 1;
/// A producer has said that it wakes it, and may be killed before it does: no reason for our own to leave it at that.
pub(super) const RUNG: u32 = 2;

/// Hints of a seat.
const HINTS: usize = 256;
/// A frame of no kind that hints are kept for.
pub const NO_HINT: u32 = u32::MAX;

/// Where one thread sleeps. In the segment: other instances' producers ring it.
#[repr(C)]
#[derive(Shared)]
pub(super) struct Slot {
    pub(super) word: AtomicU32,
    /// How often it was armed.
    pub(super) turn: AtomicU32,
    /// The key of its bell if it sleeps in the kernel's poll; 0: it sleeps on the word.
    pub(super) bell: AtomicU64,
}

/// Who sleeps on a port and whom to ring. In the segment, one for each port; all zeros is an empty seat. A hostile peer that writes here can
/// keep us from being rung, which is what a cut wire does.
#[repr(C)]
#[derive(Shared)]
pub struct Seat {
    /// The slot to ring when a frame was committed ([`claim`]); 0: nobody, somebody is awake or will look.
    pub(super) leader: AtomicU32,
    spare: AtomicU32,
    pub(super) slots: [Slot; SLOTS],
    /// By kind of frame ([`kind`]): the slot that the last one woke.
    hints: [AtomicU32; HINTS],
}

/// Which of the hints is for a frame like this one, its Ethernet header included: told by its ports, or, for one that opens a connection, by the
/// port of the listener. [`NO_HINT`]: none.
#[inline]
pub fn kind(frame: &[u8]) -> u32 {
    // IPv4 without options, or IPv6 without extension headers, and TCP or UDP behind it.
    let at = match (frame.get(14), frame.get(23), frame.get(20)) {
        (Some(0x45), Some(6 | 17), _) => 34,
        (Some(b), _, Some(6 | 17)) if b >> 4 == 6 => 54,
        _ => return NO_HINT,
    };
    let Some(ports) = frame.get(at..at + 4).and_then(|p| p.first_chunk()) else { return NO_HINT };
    let is_tcp = if at == 34 { frame[23] } else { frame[20] } == 6;
    let opens = is_tcp && frame.get(at + 13).is_some_and(|flags| flags & 0x12 == 2);
    let ports = u32::from_be_bytes(*ports) & if opens { 0xffff } else { u32::MAX };
    ports.wrapping_mul(0x9e37_79b1) >> 24
}

/// The frame that was just drained woke the thread in `slot`.
#[inline]
pub fn learn(seat: &Seat, kind: u32, slot: u32) {
    if let Some(h) = seat.hints.get(kind as usize)
        && h.load(Relaxed) != slot
    {
        h.store(slot, Relaxed);
    }
}

impl Seat {
    /// Empties the seat (a new owner of the port).
    pub fn reset(&self) {
        self.leader.store(0, SeqCst);
        for s in &self.slots {
            s.word.store(AWAKE, Relaxed);
        }
    }
    /// Would a producer have to ring? One load.
    #[inline]
    pub fn is_taken(&self) -> bool {
        self.leader.load(SeqCst) != 0
    }
}

/// The seat's word for a slot: its number and how often it was armed, so that a ringer who is late to clear the seat clears no newer claim.
#[inline]
pub(super) fn claim(seat: &Seat, slot: u32) -> u32 {
    match seat.slots.get((slot as usize).wrapping_sub(1)) {
        Some(s) => slot | s.turn.load(Relaxed) << 16,
        None => 0,
    }
}

/// Rings the leader of a port, or whom frames of this [`kind`] are for, after they were committed to it. No lock is held. True if somebody was rung.
#[inline]
pub fn ring(cx: &Cx<'_>, seat: &Seat, kind: u32) -> bool {
    // The frame must be seen before the seat is looked at.
    fence(SeqCst);
    let leader = seat.leader.load(SeqCst);
    if leader == 0 {
        return false;
    }
    stats::bump(&cx.inst.stats.doorbells);
    let hint = seat.hints.get(kind as usize).map_or(0, |h| h.load(Relaxed));
    if hint > KEEPER
        && hint != leader & 0xffff
        && let Some(s) = seat.slots.get(hint as usize - 1)
        && s.word.compare_exchange(ARMED, RUNG, SeqCst, Relaxed).is_ok()
    {
        // If we are killed just now, or that thread does not get on, the next ringer finds it rung and turns to the leader.
        if summon(cx, s) {
            return true;
        }
    }
    // Wake first, clear the seat then: a ringer killed in between has done its duty, one killed before leaves it to the next one.
    rouse(cx, seat, leader & 0xffff, true);
    let _ = seat.leader.compare_exchange(leader, 0, SeqCst, Relaxed);
    true
}

/// Wakes the keeper if it sleeps: there is something to send by the uplink. No lock is held.
pub fn ring_keeper(cx: &Cx<'_>) {
    // The frame must be seen before the slot is looked at; the keeper arms its slot, then looks at the ring.
    fence(SeqCst);
    let seat = seat(cx);
    if seat.slots[KEEPER as usize - 1].word.load(SeqCst) != AWAKE {
        stats::bump(&cx.inst.stats.doorbells);
        rouse(cx, seat, KEEPER, false);
    }
}

/// Wakes a slot's thread if it sleeps (`hard`: even if one of our own has said that it will; what one instance's processes leave undone is [`super::bury`]'s).
pub(super) fn rouse(cx: &Cx<'_>, seat: &Seat, slot: u32, hard: bool) {
    let Some(s) = seat.slots.get((slot as usize).wrapping_sub(1)) else { return };
    // One of our own leaves a producer's mark: what that one committed is still the sleeper's to drain.
    let was = if hard { s.word.swap(RUNG, SeqCst) } else { s.word.compare_exchange(ARMED, AWAKE, SeqCst, SeqCst).unwrap_or_else(|w| w) };
    if was == AWAKE && !hard {
        return;
    }
    if summon(cx, s) {
        return;
    }
    if slot != KEEPER {
        // Its bell is out of reach (another network namespace, or it has gone): its keeper will see to it.
        rouse(cx, seat, KEEPER, true);
    } else if core::ptr::eq(seat, self::seat(cx)) {
        // Our keeper is dead, perhaps: from now on sleepers look after the timers, until there is another.
        crate::keeper::is_kept(cx);
    }
}

/// The system call that wakes a slot's thread. False: it cannot be reached.
fn summon(cx: &Cx<'_>, s: &Slot) -> bool {
    let key = s.bell.load(Relaxed);
    if key == 0 {
        gate::futex_wake(&s.word, 1);
        return true;
    }
    let clapper = cx.inst.procs.table.get(Id::new(cx.proc)).map_or(-1, |p| p.clapper.load(Relaxed) as i32 - 1);
    bell::ring(clapper, key).is_ok()
}

/// Wakes a thread of our own instance.
pub(crate) fn wake(cx: &Cx<'_>, slot: u32) {
    rouse(cx, seat(cx), slot, false);
}

/// Our own port's seat.
#[inline]
pub(super) fn seat(cx: &Cx<'_>) -> &'static Seat {
    let n = usize::from(cx.facts().port);
    &cx.seg.ports[n % link::segment::PORTS].seat
}

/// Wakes the keeper, whatever it does: a process has come or gone.
pub fn knock(cx: &Cx<'_>) {
    rouse(cx, seat(cx), KEEPER, true);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(v6: bool, proto: u8, ports: [u16; 2], flags: u8) -> Vec<u8> {
        let at = if v6 { 54 } else { 34 };
        let mut f = vec![0; at + 20];
        f[14] = if v6 { 0x60 } else { 0x45 };
        f[if v6 { 20 } else { 23 }] = proto;
        f[at..at + 2].copy_from_slice(&ports[0].to_be_bytes());
        f[at + 2..at + 4].copy_from_slice(&ports[1].to_be_bytes());
        f[at + 13] = flags;
        f
    }

    /// Frames of one connection are of one kind, those that open one are of their listener's; what is no such frame is of none.
    #[test]
    fn kinds() {
        for v6 in [false, true] {
            let of = |proto, ports, flags| kind(&frame(v6, proto, ports, flags));
            assert_eq!(of(6, [40000, 80], 0x10), of(6, [40000, 80], 0x18));
            assert_ne!(of(6, [40000, 80], 0x10), of(6, [40001, 80], 0x10));
            assert_eq!(of(6, [40000, 80], 2), of(6, [40001, 80], 2));
            assert_eq!(of(17, [40000, 53], 0), of(17, [40000, 53], 2));
            assert_eq!(of(1, [40000, 53], 0), NO_HINT);
            assert!((of(6, [1, 65535], 0x10) as usize) < HINTS);
        }
        for n in 0..54 {
            assert_eq!(kind(&frame(true, 6, [1, 2], 0)[..n]), NO_HINT);
        }
    }
}
