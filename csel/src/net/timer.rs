//! Timers: one deadline for each numbered thing.
//!
//! # Theory of operation
//! **Purpose.** Retransmission, delayed acknowledgements, keep-alive, reassembly: each connection has one deadline, the earliest of its own. There may
//! be tens of thousands, nearly all far away, and nearly all are moved before they fire.
//! **How it works.** Two hashed wheels of [`SLOTS`] slots: the near one with ticks of about 1 ms (4 s ahead), the far one with ticks of about 4 s (5 h
//! ahead; what is later still goes round again). A slot is a list of nodes; bitmaps find the next slot that is not empty, so nothing is ever scanned.
//! Arming is lazy: a node that is already queued for an earlier moment is left there, only its deadline is written; when it comes up early it is
//! queued again. So a busy connection, which moves its deadline with every segment, touches the wheel about once a deadline. [`next`] is a
//! lower bound kept in one word.
//! **Limits.** Fires at most a tick late (plus however late somebody runs it), never early.
//! **Locks.** One of rank TIMER for both wheels; deadlines are atomics outside it. The handshake between [`arm`] (writes the deadline, then reads
//! where the node is queued) and [`run_due`] (unqueues, then reads the deadline) is sequentially consistent: one of them sees the other, so no
//! deadline is lost.
//! **Failure.** None. **See also.** [`super::tcp::tick`]; Varghese and Lauck 1987.
use crate::arena::Shared;
use crate::clock::{NEVER, Nanos};
use crate::instance::{Cx, FLOWS};
use crate::sync::{Lock, rank};
use core::sync::atomic::{AtomicU64, Ordering::*};

/// Slots of a wheel.
const SLOTS: usize = 4096;
const WORDS: usize = SLOTS / 64;
/// log2 of a near tick in nanoseconds: 1.05 ms.
const NEAR: u32 = 20;
/// log2 of a far tick: 4.3 s, one turn of the near wheel.
const FAR: u32 = 32;
/// Nodes: the flows (from 1) and two others.
const NODES: usize = FLOWS + 3;
/// How many fire under one hold of the lock.
const BATCH: usize = 32;

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

impl Owner {
    fn node(self) -> usize {
        match self {
            Self::Flow(n) => n as usize,
            Self::Dgram => FLOWS + 1,
            Self::Link => FLOWS + 2,
        }
    }
    fn of(node: usize) -> Self {
        match node {
            n if n == FLOWS + 1 => Self::Dgram,
            n if n == FLOWS + 2 => Self::Link,
            n => Self::Flow(n as u32),
        }
    }
}

#[repr(C)]
#[derive(Shared)]
struct Node {
    /// When it is due; 0 for never (so that zeros are a valid start).
    due: AtomicU64,
    /// When the slot it is queued in comes up; 0 if it is not queued. Written under the lock.
    queued: AtomicU64,
}

#[repr(C)]
#[derive(Shared, Clone, Copy)]
struct Links {
    next: u32,
    prev: u32,
    /// Slot + 1 in the near wheel, SLOTS + slot + 1 in the far one, 0 if in none.
    place: u32,
}

#[repr(C)]
#[derive(Shared)]
struct Wheels {
    heads: [u32; 2 * SLOTS],
    bits: [u64; 2 * WORDS],
    links: [Links; NODES],
    /// The tick each wheel has been run up to.
    done: [u64; 2],
}

/// The wheels.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    nodes: [Node; NODES],
    /// No timer fires before this; 0 for never.
    next: AtomicU64,
    wheels: Lock<Wheels, { rank::TIMER }>,
}

impl Wheels {
    fn unlink(&mut self, node: usize) {
        let Links { next, prev, place } = self.links[node];
        if place == 0 {
            return;
        }
        let slot = place as usize - 1;
        if prev == 0 {
            self.heads[slot] = next;
            if next == 0 {
                self.bits[slot / 64] &= !(1 << (slot % 64));
            }
        } else {
            self.links[prev as usize].next = next;
        }
        if next != 0 {
            self.links[next as usize].prev = prev;
        }
        self.links[node] = Links { next: 0, prev: 0, place: 0 };
    }

    /// Queues a node that is in no slot; when the slot comes up.
    fn link(&mut self, node: usize, due: Nanos, now: Nanos) -> Nanos {
        let near_now = (now >> NEAR).max(self.done[0]);
        // A tick's slot comes up when the tick is over: late by up to a tick, never early.
        let tick = ((due >> NEAR) + 1).max(near_now + 1);
        let (slot, at) = if tick - near_now < SLOTS as u64 {
            (tick as usize % SLOTS, tick << NEAR)
        } else {
            let far_now = (now >> FAR).max(self.done[1]);
            // A far slot comes up before its nodes are due: they move to the near wheel then.
            let tick = (due >> FAR).clamp(far_now + 1, far_now + SLOTS as u64 - 1);
            (SLOTS + tick as usize % SLOTS, tick << FAR)
        };
        let head = self.heads[slot];
        self.links[node] = Links { next: head, prev: 0, place: slot as u32 + 1 };
        if head != 0 {
            self.links[head as usize].prev = node as u32;
        }
        self.heads[slot] = node as u32;
        self.bits[slot / 64] |= 1 << (slot % 64);
        at
    }

    /// The next slot of wheel `w` after tick `from` that is not empty, as a tick.
    fn next_slot(&self, w: usize, from: u64) -> Option<u64> {
        let bits = &self.bits[w * WORDS..(w + 1) * WORDS];
        let first = from + 1;
        let start = first as usize % SLOTS;
        for i in 0..=WORDS {
            let word = (start / 64 + i) % WORDS;
            let mut b = bits[word];
            if i == 0 {
                b &= u64::MAX << (start % 64);
            } else if i == WORDS {
                b &= !(u64::MAX << (start % 64));
            }
            if b != 0 {
                let slot = word * 64 + b.trailing_zeros() as usize;
                return Some(first + ((slot + SLOTS - start) % SLOTS) as u64);
            }
        }
        None
    }

    fn next(&self) -> Nanos {
        let near = self.next_slot(0, self.done[0]).map_or(NEVER, |t| t << NEAR);
        let far = self.next_slot(1, self.done[1]).map_or(NEVER, |t| t << FAR);
        near.min(far)
    }
}

fn word(at: Nanos) -> u64 {
    if at == NEVER { 0 } else { at.max(1) }
}
fn nanos(word: u64) -> Nanos {
    if word == 0 { NEVER } else { word }
}

/// Arms (or moves) a timer; `NEVER` disarms. May fire late, never early by more than a tick, never be lost.
#[inline]
pub fn arm(cx: &Cx<'_>, owner: Owner, at: Nanos) {
    let t = &cx.inst.net.timer;
    let node = &t.nodes[owner.node()];
    node.due.store(word(at), SeqCst);
    // A slot comes up when its tick is over.
    if at == NEVER || nanos(node.queued.load(SeqCst)) <= at.saturating_add(1 << NEAR) {
        return;
    }
    queue(cx, owner.node());
}

#[cold]
fn queue(cx: &Cx<'_>, n: usize) {
    let t = &cx.inst.net.timer;
    let now = cx.now();
    let mut w = t.wheels.lock(cx.me);
    if w.inherited() {
        rebuild(cx, &mut w);
    }
    let due = nanos(t.nodes[n].due.load(SeqCst));
    if due == NEVER {
        return;
    }
    if w.done[0] == 0 {
        w.done = [(now >> NEAR).saturating_sub(1), (now >> FAR).saturating_sub(1)];
    }
    w.unlink(n);
    let at = w.link(n, due, now);
    t.nodes[n].queued.store(at, SeqCst);
    if at < nanos(t.next.load(Relaxed)) {
        t.next.store(at, SeqCst);
    }
}

/// After a death inside: what was armed and not queued is, and the wheels are made anew if somebody died in them. The instance is halted.
pub(crate) fn repair(cx: &Cx<'_>) {
    let t = &cx.inst.net.timer;
    let Some(mut w) = t.wheels.take_over(cx.me) else { return };
    rebuild(cx, &mut w);
    drop(w);
    for owner in [Owner::Dgram, Owner::Link] {
        arm(cx, owner, cx.now());
    }
}

/// The wheels anew from the deadlines.
#[cold]
fn rebuild(cx: &Cx<'_>, w: &mut Wheels) {
    let t = &cx.inst.net.timer;
    let now = cx.now();
    w.heads.fill(0);
    w.bits.fill(0);
    w.done = [(now >> NEAR).saturating_sub(1), (now >> FAR).saturating_sub(1)];
    for n in (1..=super::tcp::high(cx) as usize).chain([Owner::Dgram.node(), Owner::Link.node()]) {
        w.links[n] = Links { next: 0, prev: 0, place: 0 };
        let due = nanos(t.nodes[n].due.load(SeqCst));
        let at = if due == NEVER { 0 } else { w.link(n, due, now) };
        t.nodes[n].queued.store(at, SeqCst);
    }
    t.next.store(word(w.next()), SeqCst);
}

/// When the next timer is due; a load.
#[inline]
pub fn next(cx: &Cx<'_>) -> Nanos {
    nanos(cx.inst.net.timer.next.load(Relaxed))
}

/// Runs what is due at `cx.now()`. True if anything was.
#[inline]
pub fn run_due(cx: &Cx<'_>) -> bool {
    next(cx) <= cx.now() && fire_all(cx)
}

#[cold]
fn fire_all(cx: &Cx<'_>) -> bool {
    let mut any = false;
    // Bounded: whoever arms for "at once" gets the next tick.
    for _ in 0..FLOWS / BATCH {
        let mut due = [0u32; BATCH];
        let n = take_due(cx, &mut due);
        for &node in &due[..n] {
            match Owner::of(node as usize) {
                Owner::Flow(f) => super::tcp::tick(cx, f),
                Owner::Dgram => super::dgram::tick(cx),
                Owner::Link => super::link::tick(cx),
            }
        }
        any |= n > 0;
        if n < BATCH {
            break;
        }
    }
    any
}

/// Unqueues what is due, at most as many as fit.
fn take_due(cx: &Cx<'_>, into: &mut [u32; BATCH]) -> usize {
    let t = &cx.inst.net.timer;
    let now = cx.now();
    // Whoever holds the lock runs them or arms one.
    let Some(mut w) = t.wheels.try_lock(cx.me) else { return 0 };
    let mut n = 0;
    'all: for (wheel, shift) in [(1, FAR), (0, NEAR)] {
        let upto = now >> shift;
        while let Some(tick) = w.next_slot(wheel, w.done[wheel])
            && tick <= upto
        {
            let slot = wheel * SLOTS + tick as usize % SLOTS;
            // What is queued again below may land in this very slot, a turn later: take the list off first.
            let mut list = w.heads[slot];
            while list != 0 {
                let node = list as usize;
                list = w.links[node].next;
                if n == BATCH {
                    // The rest next time: `done` still stands before this slot.
                    break 'all;
                }
                w.unlink(node);
                t.nodes[node].queued.store(0, SeqCst);
                let due = nanos(t.nodes[node].due.load(SeqCst));
                if due <= now {
                    t.nodes[node].due.store(0, SeqCst);
                    into[n] = node as u32;
                    n += 1;
                } else if due != NEVER {
                    let at = w.link(node, due, now.max(tick << shift));
                    t.nodes[node].queued.store(at, SeqCst);
                }
            }
            w.done[wheel] = tick;
        }
        if w.done[wheel] < upto {
            w.done[wheel] = upto;
        }
    }
    let next = w.next();
    t.next.store(word(next), SeqCst);
    n
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{MS, SEC};
    use crate::testing::{World, now};

    fn place(cx: &Cx<'_>, n: u32) -> u32 {
        cx.inst.net.timer.wheels.lock(cx.me).links[n as usize].place
    }

    #[test]
    fn fires_late_by_a_tick_at_most_and_never_early() {
        let w = World::new(1);
        let start = now();
        for (i, after) in [0, 7 * MS, 50 * MS, SEC, 4 * SEC, 5 * SEC, 100 * SEC, 7000 * SEC, 20_000 * SEC].into_iter().enumerate() {
            w.hosts[0].call(|cx| arm(cx, Owner::Flow(i as u32 + 1), start + after));
        }
        // Nothing is there to be ticked: what counts is when each leaves the wheels.
        for (i, after) in [0, 7 * MS, 50 * MS, SEC, 4 * SEC, 5 * SEC, 100 * SEC, 7000 * SEC, 20_000 * SEC].into_iter().enumerate() {
            let due = |cx: &Cx<'_>| cx.inst.net.timer.nodes[i + 1].due.load(SeqCst);
            let left = (start + after).saturating_sub(now() + 1);
            w.advance(left);
            if after > 0 {
                assert_ne!(w.hosts[0].call(due), 0, "timer {i} was early");
            }
            w.advance(3 * MS);
            assert_eq!(w.hosts[0].call(due), 0, "timer {i} was late");
        }
        assert_eq!(w.hosts[0].call(next), NEVER);
    }

    #[test]
    fn moves_and_disarms() {
        let w = World::new(1);
        let h = &w.hosts[0];
        let at = now();
        h.call(|cx| arm(cx, Owner::Flow(7), at + SEC));
        let first = h.call(|cx| place(cx, 7));
        // Later: stays where it is until it comes up.
        h.call(|cx| arm(cx, Owner::Flow(7), at + 2 * SEC));
        assert_eq!(h.call(|cx| place(cx, 7)), first);
        w.advance(SEC + 10 * MS);
        assert_ne!(h.call(|cx| place(cx, 7)), first);
        // Earlier: moves at once.
        h.call(|cx| arm(cx, Owner::Flow(7), at + SEC + 50 * MS));
        assert!(h.call(next) <= at + SEC + 53 * MS);
        h.call(|cx| arm(cx, Owner::Flow(7), NEVER));
        w.advance(10 * SEC);
        assert_eq!(h.call(|cx| place(cx, 7)), 0);
        assert_eq!(h.call(next), NEVER);
    }

    #[test]
    fn many_at_one_moment() {
        let w = World::new(1);
        let h = &w.hosts[0];
        let at = now() + SEC;
        for n in 1..=1000 {
            h.call(|cx| arm(cx, Owner::Flow(n), at));
        }
        w.advance(SEC + 3 * MS);
        assert!((1..=1000).all(|n| h.call(|cx| place(cx, n)) == 0));
    }
}
