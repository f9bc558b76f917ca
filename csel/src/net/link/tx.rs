//! Sending: from an IP packet to the receiver's ring.
//!
//! # Theory of operation
//! **Purpose.** The packet is written once, where its receiver reads it.
//! **How it works.** [`reserve`] takes room in the ring of the hop; the caller writes the IP packet there; [`Frame::commit`] adds the Ethernet header,
//! makes it visible and notes the port in [`Kicks`]. [`Kicks::ring`], when no lock is held any more, wakes the port's leader, if it has one ([`wait::ring`]).
//! A flood is staged in our own loopback (which is also how it comes back to us) and copied to every port at its commit.
//! **Limits.** A flood to a full ring is lost there, as on any Ethernet. **Locks.** The ring's own.
//! **Failure.** [`Refused`]. See [`super::segment`] for why a full ring loses no wake-up.
//! **See also.** [`crate::arena::ring`].
use super::impair::{self, Target};
use super::pcap;
use super::rx::ETHERNET;
use super::segment::{PORTS, Port, RING};
use super::uplink;
use crate::arena::ring::Slot;
use crate::instance::Cx;
use crate::net::wait;
use crate::stats::{add, bump};
use core::cell::Cell;
use core::sync::atomic::{Ordering::*, fence};

pub use super::route::{Hop, hop};

/// Why a frame could not be reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The ring is full; the sender's port is noted and rung once there is room (see [`crate::net::tcp::room`]).
    Full,
    /// Nobody is there any more.
    Gone,
}

/// A frame being written in the receiver's ring. Dropping it without [`Frame::commit`] discards it.
pub struct Frame<'a> {
    slot: Slot<'a>,
    hop: Hop,
    echo: bool,
}

/// Room for an IP packet of `len` bytes in the hop's ring.
#[inline]
pub fn reserve<'a>(cx: &Cx<'a>, hop: &Hop, len: usize) -> Result<Frame<'a>, Refused> {
    let inst: &'static crate::instance::Instance = cx.inst;
    let seg: &'static super::segment::Segment = cx.seg;
    let (mine, whole, tid) = (cx.facts().port, len + ETHERNET, cx.me.tid);
    let frame = |slot| Frame { slot, hop: *hop, echo: true };
    if hop.leaves() {
        return uplink::reserve(cx, hop, whole).map(frame);
    }
    if hop.loopback || hop.port == Hop::FLOOD {
        let first = inst.net.link.lo.reserve(tid, whole, 0);
        return match first.or_else(|| again(cx, mine, || inst.net.link.lo.reserve(tid, whole, 0))) {
            Some(slot) => Ok(frame(slot)),
            None => Err(Refused::Full),
        };
    }
    let port = seg.port(hop.port).filter(|p| p.life.load(Acquire) == hop.generation).ok_or(Refused::Gone)?;
    let first = port.ring.reserve(tid, whole, hop.generation);
    match first.or_else(|| again(cx, hop.port, || port.ring.reserve(tid, whole, hop.generation))) {
        Some(slot) => Ok(frame(slot)),
        None => Err(Refused::Full),
    }
}

/// There was no room at port `n`: asks to be rung when there is, and tries once more.
#[cold]
fn again<'a>(cx: &Cx<'_>, n: u16, try_it: impl FnOnce() -> Option<Slot<'a>>) -> Option<Slot<'a>> {
    let mine = usize::from(cx.facts().port);
    let port = cx.seg.port(n)?;
    if let Some(word) = port.room_waiters.get(mine / 64) {
        word.fetch_or(1 << (mine % 64), SeqCst);
    }
    fence(SeqCst);
    let got = try_it();
    if got.is_none() {
        bump(&cx.inst.stats.frames_ring_full);
        // What fills the ring may be frames that were never committed, for which nobody rang.
        cx.kicks.note(n);
    }
    got
}

/// We have drained frames of our own port (or our own loopback, whose waiters share the port's bits): if there is room, those that wait for it are
/// told. `used`: what is still in the ring that was drained.
#[inline]
pub fn room_again(cx: &Cx<'_>, port: &Port, used: u64) {
    if used > RING as u64 / 2 {
        return;
    }
    fence(SeqCst);
    for (i, word) in port.room_waiters.iter().enumerate() {
        if word.load(Relaxed) == 0 {
            continue;
        }
        let mut bits = word.swap(0, AcqRel);
        while bits != 0 {
            let n = (i * 64) as u16 + bits.trailing_zeros() as u16;
            bits &= bits - 1;
            if let Some(waiter) = cx.seg.port(n) {
                waiter.room.store(1, Release);
                cx.kicks.note(n);
            }
        }
    }
}

impl Frame<'_> {
    /// Where the IP packet goes: exactly the length asked for.
    #[inline]
    pub fn ip(&mut self) -> &mut [u8] {
        &mut self.slot.bytes()[ETHERNET..]
    }

    /// A flood that must not come back to ourselves (IP_MULTICAST_LOOP off).
    pub fn no_echo(&mut self) {
        self.echo = false;
    }

    /// The packet is whole: makes it visible and notes the port's bell in `cx.kicks`.
    #[inline]
    pub fn commit(mut self, cx: &Cx<'_>) {
        let facts = cx.facts();
        let hop = self.hop;
        let bytes = self.slot.bytes();
        let dst = match cx.seg.port(hop.port) {
            Some(p) if !hop.loopback => p.mac(),
            Some(_) => [0; 6],
            None => group(&bytes[ETHERNET..]),
        };
        bytes[..6].copy_from_slice(&dst);
        bytes[6..12].copy_from_slice(&if hop.loopback { [0; 6] } else { facts.mac });
        let v6 = bytes.get(ETHERNET).is_some_and(|b| b >> 4 == 6);
        bytes[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
        let len = bytes.len() as u64;
        bump(&cx.inst.stats.frames_out);
        add(&cx.inst.stats.bytes_out, len);
        if super::extras(cx) != super::PLAIN {
            self.commit_closely(cx);
            return;
        }
        self.deliver(cx);
    }

    /// Into the ring, and into everybody's if it is a flood.
    #[inline]
    fn deliver(mut self, cx: &Cx<'_>) {
        let port = self.hop.port;
        if self.hop.leaves() {
            self.slot.commit();
            return cx.kicks.note_out();
        }
        if port == Hop::FLOOD {
            flood(cx, self.slot.bytes());
            if !self.echo {
                return;
            }
        }
        let looped = self.hop.loopback || port == Hop::FLOOD;
        let kind = wait::kind(self.slot.bytes());
        self.slot.commit();
        if looped {
            cx.kicks.looped.set(true);
        }
        match port {
            Hop::FLOOD => cx.kicks.note(cx.facts().port),
            // We drain it ourselves ([`super::settle`]).
            _ if looped => {}
            _ => cx.kicks.note_kind(port, kind),
        }
    }

    /// With a tap or a bad link.
    #[cold]
    fn commit_closely(mut self, cx: &Cx<'_>) {
        let (hop, extras) = (self.hop, super::extras(cx));
        let to = Target { port: hop.port, lo: hop.loopback, echo: self.echo, life: hop.generation };
        let bytes = self.slot.bytes();
        // What leaves by the uplink is tapped by the keeper, who knows the Ethernet addresses.
        if extras & super::TAPPED != 0 && !hop.leaves() {
            pcap::tap(cx, if hop.loopback { pcap::LO } else { pcap::ETH }, pcap::OUT, bytes);
        }
        if extras & super::IMPAIRED != 0 {
            // The frame in the ring is discarded; a copy goes on, or several, or none.
            impair::pass(cx, to, bytes);
            return;
        }
        self.deliver(cx);
    }
}

/// A copy for every other port.
pub(super) fn flood(cx: &Cx<'_>, frame: &[u8]) {
    let mine = cx.facts().port;
    for (n, port) in cx.seg.taken().filter(|(n, _)| *n != mine) {
        let fits = frame.len() - ETHERNET <= port.mtu.load(Relaxed) as usize;
        if let Some(mut slot) = fits.then(|| port.ring.reserve(cx.me.tid, frame.len(), port.life.load(Acquire))).flatten() {
            slot.bytes().copy_from_slice(frame);
            slot.commit();
            cx.kicks.note(n);
        }
    }
}

/// The group address of a broadcast or multicast packet (RFC 1112, RFC 2464).
fn group(ip: &[u8]) -> [u8; 6] {
    match ip.first().map(|b| b >> 4) {
        Some(4) if ip.len() >= 20 && ip[16] & 0xf0 == 0xe0 => [1, 0, 0x5e, ip[17] & 0x7f, ip[18], ip[19]],
        Some(6) if ip.len() >= 40 => [0x33, 0x33, ip[36], ip[37], ip[38], ip[39]],
        _ => [0xff; 6],
    }
}

/// Ports whose bells are to be rung by [`super::settle`].
#[derive(Default)]
pub struct Kicks {
    any: Cell<bool>,
    /// A frame of this call went to our own loopback.
    pub(super) looped: Cell<bool>,
    /// The keeper has something to send by the uplink.
    out: Cell<bool>,
    ports: [Cell<u64>; PORTS / 64],
    /// What kind of frame they are rung for, if it is one kind for one port ([`wait::kind`]); else [`wait::NO_HINT`].
    kind: Cell<u32>,
}

impl Kicks {
    /// Port `n` has a frame of this [`wait::kind`] in its ring.
    #[inline]
    fn note_kind(&self, n: u16, kind: u32) {
        let first = !self.any.get();
        let same = first || self.kind.get() == kind;
        self.note(n);
        self.kind.set(if same { kind } else { wait::NO_HINT });
    }

    /// Port `n` has something new in its ring.
    #[inline]
    pub fn note(&self, n: u16) {
        self.kind.set(wait::NO_HINT);
        if let Some(word) = self.ports.get(usize::from(n) / 64) {
            word.set(word.get() | 1 << (n % 64));
            self.any.set(true);
        }
    }

    /// There is something new in the uplink's ring.
    #[inline]
    pub fn note_out(&self) {
        self.out.set(true);
        self.any.set(true);
    }

    /// Wakes their leaders. No lock is held.
    #[inline]
    pub fn ring(&self, cx: &Cx<'_>) {
        if self.any.get() {
            self.ring_all(cx);
        }
    }

    fn ring_all(&self, cx: &Cx<'_>) {
        self.any.set(false);
        if self.out.replace(false) {
            wait::ring_keeper(cx);
        }
        let kind = self.kind.get();
        for (i, word) in self.ports.iter().enumerate() {
            let mut bits = word.replace(0);
            while bits != 0 {
                let n = (i * 64) as u16 + bits.trailing_zeros() as u16;
                bits &= bits - 1;
                if let Some(port) = cx.seg.port(n) {
                    wait::ring(cx, &port.seat, kind);
                }
            }
        }
    }
}
