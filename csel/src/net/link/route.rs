//! Where a packet goes next.
//!
//! # Theory of operation
//! **Purpose.** [`hop`]: ourselves, a port of the segment, all of them, or nowhere.
//! **How it works.** Own addresses and 127/8, ::1 are loopback. Broadcast and multicast flood. What is in the prefix of one of our addresses on the segment
//! is looked up in the segment's ports (there is no router on a segment); all else goes out by the [`uplink`], if there is one. A port's answer is kept in a small cache in the arena that
//! is good as long as [`super::segment::Header::changes`] stays. A [`Hop`] may be kept: sending over one whose port changed hands fails with
//! [`Refused::Gone`](super::tx::Refused::Gone), and the keeper of the hop asks again.
//! **Limits.** 256 cached addresses. **Locks.** None: entries are read under a sequence count, and written by whoever gets it.
//! **Failure.** ENETUNREACH, EHOSTUNREACH, EINVAL (a loopback source for a packet that leaves), as ip(7) has them.
use super::segment::{Port, halves};
use super::uplink;
use crate::arena::Shared;
use crate::errno::{Errno, Result};
use crate::instance::Cx;
use crate::net::addr::Ip;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*, fence};

/// MTU of `lo`: the largest IPv4 packet.
pub const LO_MTU: u32 = 65535;

/// Where a packet to some destination goes next. Plain data; may be kept in the arena (a flow's hop cache); [`Hop::port`] may die: then
/// [`super::tx::reserve`] says so.
#[repr(C)]
#[derive(Clone, Copy, Debug, Shared, PartialEq, Eq)]
pub struct Hop {
    /// The receiving port (our own for loopback and own addresses), [`Hop::FLOOD`] for broadcast and multicast, or [`Hop::UP`].
    pub port: u16,
    /// Over our own loopback (127/8, ::1 or an address of our own): trusted.
    pub loopback: bool,
    /// The life of that port, so that a successor is noticed.
    pub generation: u32,
    /// The largest IP packet.
    pub mtu: u32,
}

impl Hop {
    /// Every port of the segment (and our own, for multicast loop).
    pub const FLOOD: u16 = u16::MAX;
    /// Out of the host, by the uplink.
    pub const UP: u16 = u16::MAX - 1;

    /// Does it leave the host?
    #[inline]
    pub fn leaves(&self) -> bool {
        self.port == Self::UP
    }
}

/// Addresses lately looked up.
#[repr(C)]
#[derive(Shared)]
pub struct Cache {
    entries: [Entry; 256],
}

#[repr(C)]
#[derive(Shared)]
struct Entry {
    /// Odd: being written.
    seq: AtomicU32,
    /// [`super::segment::Header::changes`] when it was looked up.
    changes: AtomicU32,
    high: AtomicU64,
    low: AtomicU64,
    /// Port number plus one.
    port: AtomicU32,
}

impl Cache {
    fn entry(&self, high: u64, low: u64) -> &Entry {
        &self.entries[((high ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize]
    }

    fn get(&self, ip: Ip, changes: u32) -> Option<u16> {
        let (high, low) = halves(ip);
        let e = self.entry(high, low);
        let seq = e.seq.load(Acquire);
        let found = e.high.load(Relaxed) == high && e.low.load(Relaxed) == low && e.changes.load(Relaxed) == changes;
        let port = e.port.load(Relaxed);
        fence(Acquire);
        (seq & 1 == 0 && found && port != 0 && e.seq.load(Relaxed) == seq).then(|| (port - 1) as u16)
    }

    fn put(&self, ip: Ip, changes: u32, port: u16) {
        let (high, low) = halves(ip);
        let e = self.entry(high, low);
        let seq = e.seq.load(Relaxed);
        // A writer that died inside leaves an odd count: that entry is never used again, which costs a little time and nothing else.
        if seq & 1 == 1 || e.seq.compare_exchange(seq, seq.wrapping_add(1), Acquire, Relaxed).is_err() {
            return;
        }
        fence(Release);
        e.high.store(high, Relaxed);
        e.low.store(low, Relaxed);
        e.changes.store(changes, Relaxed);
        e.port.store(u32::from(port) + 1, Relaxed);
        e.seq.store(seq.wrapping_add(2), Release);
    }
}

/// The next hop from `src` (which may be unspecified) to `dst`. ENETUNREACH: no route; EHOSTUNREACH: nobody on the segment has that address.
pub fn hop(cx: &Cx<'_>, src: Ip, dst: Ip) -> Result<Hop> {
    let facts = cx.facts();
    if dst.is_unspecified() || cx.is_local(dst) {
        return Ok(Hop { port: facts.port, loopback: true, generation: 0, mtu: LO_MTU });
    }
    if src.is_loopback() {
        return Err(Errno::EINVAL);
    }
    // Who speaks from an address of the uplink means its link where the destination does not say which.
    let linkish = dst.is_multicast() || dst == Ip::BROADCAST || dst.is_link_local6();
    if linkish && uplink::owns(cx, src) {
        return uplink::hop(cx, dst);
    }
    if dst.is_multicast() || dst == Ip::BROADCAST {
        return if facts.addr_count == 0 { Err(Errno::ENETUNREACH) } else { Ok(flood(cx)) };
    }
    let Some(net) = facts.addrs().iter().find(|p| dst.matches(p.ip, p.len)) else {
        return uplink::hop(cx, dst);
    };
    if is_broadcast(dst, net.len) {
        return Ok(flood(cx));
    }
    let changes = cx.seg.header.changes.load(Acquire);
    let cached = cx.inst.net.link.routes.get(dst, changes).and_then(|n| cx.seg.port(n).map(|p| (n, p))).filter(|(_, p)| p.is_taken());
    let (n, port) = match cached {
        Some(hit) => hit,
        None => {
            let found = cx.seg.holder(dst).ok_or(Errno::EHOSTUNREACH)?;
            cx.inst.net.link.routes.put(dst, changes, found.0);
            found
        }
    };
    Ok(to(cx, n, port))
}

/// Is `dst` reached through the kernel (`--route PREFIX=host`)? The longest prefix decides: a route wins over a network of the instance that is as long, never over its own addresses.
/// A group or broadcast address is the kernel's only if a route names groups.
pub fn leads_to_host(cx: &Cx<'_>, dst: Ip) -> bool {
    let config = cx.config();
    let routes = config.route.as_slice();
    if routes.is_empty() || dst.is_unspecified() {
        return false;
    }
    let group = dst.is_multicast() || dst == Ip::BROADCAST;
    let host =
        routes.iter().map(|r| (Ip::from(r.net), r.len)).filter(|&(net, len)| dst.matches(net, len) && (!group || net.is_multicast()));
    let Some(longest) = host.map(|(_, len)| len).max() else { return false };
    let loopback = dst.is_loopback().then_some(if dst.is_v4() { 8 } else { 128 });
    let own = cx.facts().addrs().iter().filter(|p| dst.matches(p.ip, p.len)).map(|p| if p.ip == dst { u8::MAX } else { p.len });
    own.chain(loopback).max().is_none_or(|len| len <= longest)
}

/// A hop to port `n`.
fn to(cx: &Cx<'_>, n: u16, port: &Port) -> Hop {
    // A peer's MTU is hostile; 68 is the least an IPv4 link may have.
    let mtu = cx.facts().mtu.min(port.mtu.load(Relaxed)).clamp(68, 65535);
    Hop { port: n, loopback: false, generation: port.life.load(Acquire), mtu }
}

fn flood(cx: &Cx<'_>) -> Hop {
    Hop { port: Hop::FLOOD, loopback: false, generation: 0, mtu: cx.facts().mtu }
}

/// Is it the broadcast address of its network?
pub fn is_broadcast(ip: Ip, len: u8) -> bool {
    let Some(a) = ip.as_v4() else { return false };
    let host = u32::MAX.checked_shr(u32::from(len)).unwrap_or(0);
    len < 31 && u32::from_be_bytes(a) & host == host
}

/// Does the hop still lead where it led?
#[inline]
pub fn is_valid(cx: &Cx<'_>, hop: &Hop) -> bool {
    if hop.leaves() {
        return uplink::is_current(cx, hop);
    }
    hop.loopback || hop.port == Hop::FLOOD || cx.seg.port(hop.port).is_some_and(|p| p.life.load(Acquire) == hop.generation)
}
