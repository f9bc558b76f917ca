//! Receiving: draining the port's ring and the loopback.
//!
//! # Theory of operation
//! **Purpose.** Frames become calls of [`crate::net::dgram::input`], one at a time, in order.
//! **How it works.** [`drain`] tries for the token. Who has it handles up to [`BATCH`] frames of each ring; who has not need not care: the
//! holder looks at the rings again after it let go (`fence`, [`pending`]), and so does everybody after a commit (`fence`, try the token), so one of
//! the two sees the frame. A caller that leaves frames behind because its batch is done wakes another sleeper of its own instance for them.
//! A frame whose writer is slow (preempted between reserve and commit) holds up those behind it: if the writer is dead it is skipped; if it lives, its
//! commit rings; and a timer looks again, in case it dies.
//! **Limits.** [`BATCH`]; a writer that lives and does not commit for [`PATIENCE`] is given up. **Locks.** The token.
//! **Failure.** A holder of the token that died is succeeded after [`BURY`]; the frame it was at is handled again.
use super::segment::Port;
use super::{pcap, tx};
use crate::arena::{Shared, ring::Peek};
use crate::clock::{MS, Nanos};
use crate::instance::Cx;
use crate::net::{Via, dgram, tcp, wait};
use crate::stats::{add, bump};
use core::sync::atomic::{Ordering::*, fence};

/// Frames of each ring in one drain.
pub const BATCH: usize = 64;
/// A frame that is reserved and not committed for so long is given up though its writer lives.
pub const PATIENCE: Nanos = 2_000 * MS;
/// After so long the holder of the token is asked for.
pub const BURY: Nanos = 2 * MS;
/// How long a sender waits for somebody else's delivery of its loopback frames.
const SETTLE: Nanos = 20 * MS;
/// How many generations of answers it waits for.
const ANSWERS: u32 = 4;
/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// What the holder of the token knows.
#[repr(C)]
#[derive(Shared)]
pub struct Token {
    /// Where the ring is held up by a slow writer.
    stuck_at: u64,
    /// Since when; 0: not.
    stuck_since: u64,
}

/// Our own port.
#[inline]
pub fn own<'a>(cx: &Cx<'a>) -> Option<&'static Port> {
    cx.seg.port(cx.facts().port)
}

/// Is there something to drain? A few loads. A frame still being written does not count: its commit rings.
#[inline]
pub fn pending(cx: &Cx<'_>) -> bool {
    let link = &cx.inst.net.link;
    lo_pending(cx) || link.uplink.pending() || own(cx).is_some_and(|p| p.ring.pending(link.head.load(Relaxed)) || p.room.load(Relaxed) != 0)
}

/// Is there a frame of our own?
#[inline]
pub fn lo_pending(cx: &Cx<'_>) -> bool {
    let link = &cx.inst.net.link;
    link.lo.pending(link.lo_head.load(Relaxed))
}

/// As [`pending`], with frames that are still being written: their writers may be dead.
#[inline]
fn anything(cx: &Cx<'_>) -> bool {
    let link = &cx.inst.net.link;
    link.lo.holds(link.lo_head.load(Relaxed))
        || link.uplink.holds()
        || own(cx).is_some_and(|p| p.ring.holds(link.head.load(Relaxed)) || p.room.load(Relaxed) != 0)
}

/// Is somebody draining just now? Whoever it is looks at the rings again when done, so a thread that finds [`pending`] and the token taken may
/// sleep for a millisecond rather than spin.
#[inline]
pub fn is_draining(cx: &Cx<'_>) -> bool {
    cx.inst.net.link.token.is_held()
}

/// Drains the rings into [`dgram::input`], if the receive token is free. Bounded work per call. True if anything was done. No lock is held.
pub fn drain(cx: &Cx<'_>) -> bool {
    let mut any = false;
    for _ in 0..4 {
        if !anything(cx) {
            break;
        }
        if let Some(p) = own(cx)
            && p.room.load(Relaxed) != 0
            && p.room.swap(0, AcqRel) != 0
        {
            any = true;
            tcp::room(cx);
        }
        let link = &cx.inst.net.link;
        let Some(mut token) = link.token.try_lock(cx.me) else {
            blocked(cx);
            break;
        };
        if link.blocked.load(Relaxed) != 0 {
            link.blocked.store(0, Relaxed);
        }
        let done = port(cx, &mut token) | lo(cx, &mut token) | up(cx);
        drop(token);
        any |= done;
        fence(SeqCst);
        if !done {
            break;
        }
    }
    // Left behind: another thread of ours, if one sleeps, goes on. (We may return to the application and not come back soon.)
    if any && pending(cx) {
        cx.kicks.note(cx.facts().port);
    }
    any
}

/// This call has sent over loopback; somebody else (the keeper, another thread) may be draining just now. Linux's sender delivers inside its own
/// call, answers included, so that whoever looks at the peer next finds what was sent: we wait until it is through, for [`ANSWERS`] generations of
/// answers, and at most [`SETTLE`] (the holder of the token may be stopped).
#[inline]
pub(super) fn delivered(cx: &Cx<'_>) {
    let link = &cx.inst.net.link;
    if link.lo.holds(link.lo_head.load(Acquire)) {
        await_delivery(cx);
    }
}

#[cold]
fn await_delivery(cx: &Cx<'_>) {
    let link = &cx.inst.net.link;
    let mut until = 0;
    for _ in 0..ANSWERS {
        let target = link.lo.tail();
        let mut turn = 0;
        while (link.lo_head.load(Acquire).wrapping_sub(target) as i64) < 0 {
            turn += 1;
            if !link.token.is_held() && drain(cx) {
                cx.kicks.ring(cx);
                continue;
            }
            if turn < 64 {
                core::hint::spin_loop();
                continue;
            }
            let now = crate::gate::clock_gettime(libc::CLOCK_MONOTONIC);
            if until == 0 {
                until = now + SETTLE;
            }
            if now >= until {
                return;
            }
            // First for the case that the holder (or who is writing before us) is queued behind us on this CPU.
            if turn < 68 || !link.token.is_held() {
                crate::gate::sched_yield();
            } else {
                drop(link.token.lock_until(cx.me, until));
            }
        }
        if !lo_pending(cx) {
            return;
        }
    }
}

/// The token is taken. If that lasts, its holder may be dead.
#[cold]
fn blocked(cx: &Cx<'_>) {
    let link = &cx.inst.net.link;
    let since = link.blocked.load(Relaxed);
    let now = cx.fresh_now();
    if since == 0 {
        let _ = link.blocked.compare_exchange(0, now, Relaxed, Relaxed);
    } else if now.saturating_sub(since) > BURY {
        link.token.bury();
        let _ = link.blocked.compare_exchange(since, 0, Relaxed, Relaxed);
    }
}

/// Drains the port's ring.
fn port(cx: &Cx<'_>, token: &mut Token) -> bool {
    let Some(p) = own(cx) else { return false };
    let (link, stats) = (&cx.inst.net.link, &cx.inst.stats);
    let (life, mac) = (p.life.load(Relaxed), cx.facts().mac);
    let tapped = super::extras(cx) & super::TAPPED != 0;
    let (mut frames, mut bytes) = (0, 0);
    let from = link.head.load(Relaxed);
    for _ in 0..BATCH {
        match p.ring.peek(&link.head) {
            Peek::Empty => break,
            Peek::Bad => bump(&stats.frames_bad),
            Peek::Busy { tid, span, more } => {
                if !slow(cx, token, tid, more) {
                    break;
                }
                bump(&stats.frames_bad);
                p.ring.advance(&link.head, span);
            }
            Peek::Frame { frame, tag, span } => {
                token.stuck_since = 0;
                frames += 1;
                bytes += frame.len() as u64;
                if tapped {
                    pcap::tap(cx, pcap::ETH, pcap::IN, frame);
                }
                // A frame for whoever had the port before us is not for us.
                if tag == life {
                    cx.wakes.last.set(0);
                    ethernet(cx, frame, mac);
                    if cx.wakes.last.get() != 0 {
                        wait::learn(&p.seat, wait::kind(frame), cx.wakes.last.get());
                    }
                }
                p.ring.advance(&link.head, span);
            }
        }
    }
    if frames != 0 {
        add(&stats.frames_in, frames);
        add(&stats.bytes_in, bytes);
    }
    let moved = link.head.load(Relaxed) != from;
    if moved {
        tx::room_again(cx, p, p.ring.used());
    }
    moved
}

/// Drains the loopback.
fn lo(cx: &Cx<'_>, token: &mut Token) -> bool {
    let link = &cx.inst.net.link;
    let from = link.lo_head.load(Relaxed);
    for _ in 0..BATCH {
        match link.lo.peek(&link.lo_head) {
            Peek::Empty => break,
            Peek::Bad => {}
            Peek::Busy { tid, span, more } => {
                if !slow(cx, token, tid, more) {
                    break;
                }
                link.lo.advance(&link.lo_head, span);
            }
            Peek::Frame { frame, span, .. } => {
                token.stuck_since = 0;
                if let Some(ip) = frame.get(ETHERNET..) {
                    dgram::input(cx, ip, Via::Lo);
                }
                link.lo.advance(&link.lo_head, span);
            }
        }
    }
    let moved = link.lo_head.load(Relaxed) != from;
    if moved && let Some(p) = own(cx) {
        tx::room_again(cx, p, link.lo.used());
    }
    moved
}

/// Drains what came by the uplink. The keeper alone writes there; if it died writing, the next one begins behind that.
fn up(cx: &Cx<'_>) -> bool {
    let (up, stats) = (&cx.inst.net.link.uplink, &cx.inst.stats);
    if !up.is_on() {
        return false;
    }
    let from = up.head.load(Relaxed);
    let (mut frames, mut bytes) = (0, 0);
    for _ in 0..BATCH {
        match up.inn.peek(&up.head) {
            Peek::Empty => break,
            Peek::Bad => {}
            Peek::Busy { tid, span, .. } => {
                if crate::gate::thread_exists(tid) {
                    break;
                }
                up.inn.advance(&up.head, span);
            }
            Peek::Frame { frame, span, .. } => {
                frames += 1;
                bytes += frame.len() as u64;
                if let Some(ip) = frame.get(ETHERNET..) {
                    dgram::input(cx, ip, Via::Uplink);
                }
                up.inn.advance(&up.head, span);
            }
        }
    }
    if frames != 0 {
        add(&stats.frames_in, frames);
        add(&stats.bytes_in, bytes);
    }
    up.head.load(Relaxed) != from
}

/// The next frame is still being written by `tid`. True: give it up.
#[cold]
fn slow(cx: &Cx<'_>, token: &mut Token, tid: u32, more: bool) -> bool {
    if !more {
        // Nothing behind it: its commit rings, or nothing is lost.
        return false;
    }
    if !crate::gate::thread_exists(tid) {
        return true;
    }
    let now = cx.now();
    let at = cx.inst.net.link.head.load(Relaxed);
    if token.stuck_since == 0 || token.stuck_at != at {
        (token.stuck_at, token.stuck_since) = (at, now);
    }
    super::alarm(cx, now + MS);
    now.saturating_sub(token.stuck_since) > PATIENCE
}

/// A frame from the segment: is it for us, and what is in it?
fn ethernet(cx: &Cx<'_>, frame: &[u8], mac: [u8; 6]) {
    let Some((header, ip)) = frame.split_first_chunk::<ETHERNET>() else {
        bump(&cx.inst.stats.frames_bad);
        return;
    };
    if header[..6] != mac && header[0] & 1 == 0 {
        return;
    }
    match (u16::from_be_bytes([header[12], header[13]]), ip.first().map(|b| b >> 4)) {
        (0x0800, Some(4)) | (0x86dd, Some(6)) => dgram::input(cx, ip, Via::Segment),
        _ => bump(&cx.inst.stats.frames_bad),
    }
}
