//! Raw sockets.
//!
//! # Theory of operation
//! **Purpose.** raw(7): a copy of every packet of a protocol, and packets written by hand.
//! **How it works.** The [`Registry`] is a short list; whoever has a packet asks [`Registry::any`] first, so that nobody pays while there is no raw socket.
//! An IPv4 socket sees the packet with its header, an IPv6 one without. Checksums that segments inside the host do not carry are filled in on
//! the copy. What is sent with a header of the application's own (IP_HDRINCL) has its checksum, length, and (if zero) source and
//! identification filled in.
//! **Limits.** [`SOCKETS`] raw sockets an instance. **Locks.** A table lock for the list, then each socket's.
//! **Failure.** As raw(7). **See also.** raw(7), RFC 3542.
use super::output::{self, Ipv, Sum};
use super::queue::{Data, Head, Report};
use super::{Body, cmsg, lock, multicast, udp};
use crate::arena::{Id, Shared};
use crate::call::{Kind, SendMsg};
use crate::errno::{Errno, Result};
use crate::fd::{Held, Sock};
use crate::gate::user::{IoIn, gather, total_in};
use crate::instance::Cx;
use crate::net::addr::{Endpoint, Ip};
use crate::net::option::flag;
use crate::net::{Packet, iface};
use crate::sync::{Lock, rank};
use core::sync::atomic::{AtomicU32, Ordering::*};

/// Raw sockets an instance can have.
pub const SOCKETS: usize = 256;

/// Which bodies are raw sockets.
#[repr(C)]
#[derive(Shared)]
pub struct Registry {
    count: AtomicU32,
    list: Lock<[u32; SOCKETS], { rank::TABLE }>,
}

impl Registry {
    /// Is there any?
    #[inline]
    pub fn any(&self) -> bool {
        self.count.load(Relaxed) != 0
    }
    /// Adds body `n`.
    pub fn add(&self, cx: &Cx<'_>, n: u32) -> Result<()> {
        let mut list = self.list.lock(cx.me);
        let at = list.iter().position(|i| *i == 0).ok_or(Errno::ENOBUFS)?;
        list[at] = n;
        self.count.fetch_add(1, Relaxed);
        Ok(())
    }
    /// Removes body `n`.
    pub fn remove(&self, cx: &Cx<'_>, n: u32) {
        let mut list = self.list.lock(cx.me);
        if let Some(at) = list.iter().position(|i| *i == n) {
            list[at] = 0;
            self.count.fetch_sub(1, Relaxed);
        }
    }
}

/// After a death inside: the list without bodies that are gone.
pub(super) fn repair(cx: &Cx<'_>) {
    let d = &cx.inst.net.dgram;
    let Some(mut list) = d.raws.list.take_over(cx.me) else { return };
    for n in list.iter_mut() {
        if d.bodies.get(Id::new(*n)).is_none() {
            *n = 0;
        }
    }
    d.raws.count.store(list.iter().filter(|n| **n != 0).count() as u32, Relaxed);
}

/// Calls `each` with every raw socket, locked.
fn each(cx: &Cx<'_>, mut each: impl FnMut(&Sock, &mut Body)) {
    let list = *cx.inst.net.dgram.raws.list.lock(cx.me);
    for n in list.into_iter().filter(|n| *n != 0) {
        let Some(lock) = cx.inst.net.dgram.bodies.get(Id::new(n)) else { continue };
        let mut b = lock.lock(cx.me);
        if b.sock == 0 || b.kind() != Kind::Raw {
            continue;
        }
        if let Some(s) = cx.inst.socks.get(b.id()) {
            each(s, &mut b);
        }
    }
}

/// bind(2): only the address matters.
pub fn bind(cx: &Cx<'_>, b: &mut Body, at: &Endpoint) -> Result<()> {
    if b.connected || b.v6 && at.ip.is_v4() {
        return Err(Errno::EINVAL);
    }
    let free = b.opt.has(flag::FREEBIND) || b.opt.has(flag::TRANSPARENT);
    iface::may_bind(cx, at.ip, at.scope | b.opt.device, free, false)?;
    b.local.ip = at.ip;
    b.local.scope = if at.ip.is_link_local6() { at.scope } else { 0 };
    b.addr_lock = true;
    Ok(())
}

/// Is a packet between these addresses one for this socket?
fn concerns(b: &Body, proto: u8, src: Ip, dst: Ip, ifindex: u32) -> bool {
    b.v6 != dst.is_v4()
        && b.local.port == u16::from(proto)
        && (b.local.ip.is_unspecified() || b.local.ip == dst)
        && (!b.connected || b.remote.ip == src)
        && (b.opt.device == 0 || b.opt.device == ifindex)
}

/// ICMP_FILTER, ICMP6_FILTER: a bit set means the type is not wanted.
fn filtered(b: &Body, p: &Packet<'_>) -> bool {
    let Some(kind) = p.payload.first().copied() else { return false };
    match i32::from(p.proto) {
        libc::IPPROTO_ICMP if !b.v6 => kind < 32 && b.opt.icmp_filter[0] >> kind & 1 == 1,
        libc::IPPROTO_ICMPV6 if b.v6 => b.opt.icmp_filter[usize::from(kind) / 32] >> (kind % 32) & 1 == 1,
        _ => false,
    }
}

/// Where the checksum of a segment that carries none belongs, and what it would be.
fn missing_sum(p: &Packet<'_>) -> Option<(usize, [u8; 2])> {
    let at = match i32::from(p.proto) {
        libc::IPPROTO_TCP => 16,
        libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE => 6,
        _ => return None,
    };
    if p.payload.get(at..at + 2)? != [0, 0] {
        return None;
    }
    let sum = output::fold(output::sum(output::pseudo(p.src, p.dst, p.proto, p.payload.len()), p.payload));
    Some((at, (if sum == 0 { 0xffff } else { sum }).to_be_bytes()))
}

/// A packet came: every raw socket of its protocol gets a copy. True if any did.
pub fn input(cx: &Cx<'_>, p: &Packet<'_>, ifindex: u32) -> bool {
    let mut found = false;
    let patch = missing_sum(p);
    each(cx, |s, b| {
        if !concerns(b, p.proto, p.src, p.dst, ifindex) {
            return;
        }
        found = true;
        let group = p.dst.is_multicast();
        if filtered(b, p) || group && !multicast::wants(&b.members, &b.opt, p.dst, p.src, ifindex) {
            return;
        }
        let mut src = Endpoint::new(p.src, 0);
        if p.src.is_link_local6() {
            src.scope = ifindex;
        }
        let head = Head { src, dst: Endpoint::new(p.dst, 0), ifindex, ttl: p.ttl, tos: p.tos, ..Head::default() };
        let seen = if b.v6 { p.payload } else { p.ip };
        let data = match patch {
            Some((at, sum)) => Data::Patched(seen, seen.len() - p.payload.len() + at, sum),
            None => Data::Bytes(seen),
        };
        let _ = b.enqueue(cx, s, &head, &data);
    });
    found
}

/// An ICMP error about a packet we sent.
pub fn icmp_error(cx: &Cx<'_>, proto: u8, src: Ip, dst: Ip, report: &Report, quoted: &[u8], hard: bool) {
    if !cx.inst.net.dgram.raws.any() {
        return;
    }
    let ifindex = iface::of_addr(cx, src).unwrap_or(0);
    each(cx, |s, b| {
        // The packet went from us: its source is our side.
        if concerns(b, proto, dst, src, ifindex) {
            b.fail(cx, s, report, quoted, hard);
        }
    });
}

/// sendmsg(2).
pub fn send(cx: &Cx<'_>, s: &Held, data: &[IoIn<'_>], msg: &SendMsg<'_>) -> Result<usize> {
    let len = total_in(data);
    let b = lock(cx, s)?;
    if len > 0xffff {
        return Err(Errno::EMSGSIZE);
    }
    if msg.flags & libc::MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let to = match msg.to {
        Some(to) => to,
        None if b.connected => b.remote,
        None => return Err(Errno::EDESTADDRREQ),
    };
    let own = b.local.port;
    let mut proto = own as u8;
    if b.v6 && msg.to.is_some() && to.port != 0 {
        // rawv6_sendmsg: the port is the protocol.
        if to.port > 255 || to.port != own && i32::from(own) != libc::IPPROTO_RAW {
            return Err(Errno::EINVAL);
        }
        proto = to.port as u8;
    }
    if b.v6 && to.ip.is_v4() {
        return Err(Errno::EINVAL);
    }
    let said = cmsg::parse(msg.control, b.v6)?;
    let plan = udp::plan(cx, &b, &to, &said)?;
    udp::pending(cx, s, &b)?;
    let checksum = b.opt.checksum;
    let written = b.opt.has(if b.v6 { flag::HDRINCL6 } else { flag::HDRINCL });
    let v6 = b.v6;
    drop(b);
    let hop = output::way(cx, plan.src.ip, plan.dst.ip, plan.device)?;
    if written {
        return by_hand(cx, v6, &plan, data, len, &hop);
    }
    if !v6 && len > 65535 - 20 {
        return Err(Errno::EMSGSIZE);
    }
    let how = match checksum {
        // RFC 3542 3.1: an offset outside the packet is an error.
        at if v6 && at >= 0 => {
            if at as usize + 2 > len {
                return Err(Errno::EINVAL);
            }
            Sum::Pseudo(at as usize)
        }
        _ => Sum::None,
    };
    let proto = said.protocol.unwrap_or(proto);
    let ip = Ipv { src: plan.src.ip, dst: plan.dst.ip, proto, ttl: plan.ttl, tos: plan.tos, df: plan.df, echo: plan.echo };
    output::send(cx, &ip, &Data::Pieces(data, 0, len), how, &hop)?;
    Ok(len)
}

/// A packet with the application's own IP header (raw_send_hdrinc).
fn by_hand(cx: &Cx<'_>, v6: bool, plan: &udp::Plan, data: &[IoIn<'_>], len: usize, hop: &crate::net::link::tx::Hop) -> Result<usize> {
    use crate::net::link::tx::{Refused, reserve};
    let least = if v6 { 40 } else { 20 };
    if len < least {
        return Err(Errno::EINVAL);
    }
    if len > hop.mtu as usize {
        return Err(Errno::EMSGSIZE);
    }
    let mut frame = match reserve(cx, hop, len) {
        Ok(f) => f,
        Err(Refused::Full) => return Ok(len),
        Err(Refused::Gone) => return Err(Errno::EHOSTUNREACH),
    };
    let b = frame.ip();
    if gather(data, 0, b) < b.len() {
        return Err(Errno::EFAULT);
    }
    if !v6 {
        let head = usize::from(b[0] & 15) * 4;
        if head < 20 || head > len {
            return Err(Errno::EINVAL);
        }
        if b[12..16] == [0; 4] {
            b[12..16].copy_from_slice(&plan.src.ip.0[12..]);
        }
        b[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        if b[4..6] == [0; 2] {
            b[4..6].copy_from_slice(&(output::next_id(cx) as u16).to_be_bytes());
        }
        b[10..12].fill(0);
        let c = output::fold(output::sum(0, &b[..head]));
        b[10..12].copy_from_slice(&c.to_be_bytes());
    }
    frame.commit(cx);
    Ok(len)
}
