//! UDP.
//!
//! # Theory of operation
//! **Purpose.** udp(7): sendmsg, delivery, errors.
//! **How it works.** [`send`] makes a [`Plan`] under its own socket's lock (addresses, TTL, interface), lets go of it and transmits: to one of our own
//! addresses by looking the receiver up and copying straight into its queue, otherwise by [`output`]. UDP_CORK and MSG_MORE gather in [`Cork`];
//! UDP_SEGMENT cuts one call into several datagrams. [`input`] is the way in from a link.
//! UDP-Lite (udplite(7)) is the same with ports of its own; it always covers the whole datagram.
//! **Limits.** UDP_GRO is accepted and never joins datagrams (joining is the kernel's choice there too). Encapsulation is refused.
//! **Locks.** The sender's and the receiver's body, one after the other. **Failure.** As udp(7) says.
//! **See also.** RFC 768, udp(7).
use super::queue::{Data, Head, Report};
use super::{Body, Locked, autobind, cmsg, destination, icmp, lock, multicast, of, output};
use crate::arena::{Id, Shared};
use crate::call::SendMsg;
use crate::errno::{Errno, Result};
use crate::fd::{Held, Sock};
use crate::gate::user::{IoIn, gather, total_in};
use crate::instance::Cx;
use crate::net::addr::{Endpoint, Ip};
use crate::net::iface::{self, Class};
use crate::net::option::flag;
use crate::net::port::{self, Space};
use crate::net::{Packet, link::tx::Hop};
use crate::stats::bump;
use core::sync::atomic::Ordering::*;

/// Length of a UDP header.
const HEADER: usize = 8;
/// Datagrams one call with UDP_SEGMENT may become (UDP_MAX_SEGMENTS).
const SEGMENTS: usize = 128;
/// How often a sender tries a full ring, giving up the CPU between.
const PATIENCE: usize = 4;

/// The ports of UDP or UDP-Lite.
#[inline]
fn space(lite: bool) -> Space {
    if lite { Space::Lite } else { Space::Udp }
}

/// A datagram's way, decided.
#[repr(C)]
#[derive(Clone, Copy, Shared, Debug, Default)]
pub struct Plan {
    /// From where.
    pub src: Endpoint,
    /// To where.
    pub dst: Endpoint,
    /// The interface it must leave by; 0 for any.
    pub device: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// May not be cut into fragments.
    pub df: bool,
    /// UDP-Lite.
    pub lite: bool,
    /// A group's members on this side get it too (IP_MULTICAST_LOOP).
    pub echo: bool,
}

/// What UDP_CORK or MSG_MORE holds back.
#[repr(C)]
#[derive(Shared)]
pub struct Cork {
    /// There is something.
    pub active: bool,
    /// It began with UDP_CORK on.
    pub by_option: bool,
    plan: Plan,
    len: u32,
    data: [u8; 65536],
}

impl Cork {
    /// Holds nothing.
    pub fn reset(&mut self) {
        self.active = false;
        self.len = 0;
    }
}

/// Decides a datagram's way: addresses, interface, TTL. Shared by UDP and ping sockets.
pub fn plan(cx: &Cx<'_>, b: &Body, to: &Endpoint, said: &cmsg::Said) -> Result<Plan> {
    let dst = destination(b, *to)?;
    let v4 = dst.ip.is_v4();
    let class = iface::class(cx, dst.ip);
    if class == Class::Broadcast && !b.opt.broadcast {
        return Err(Errno::EACCES);
    }
    let group = class == Class::Multicast;
    let mut device = b.opt.device;
    if said.ifindex != 0 {
        device = said.ifindex;
    } else if device == 0 && dst.scope != 0 && (dst.ip.is_link_local6() || group) {
        device = dst.scope;
    } else if device == 0 && group {
        device = output::multicast_device(b, dst.ip);
    }
    if device != 0 && iface::by_index(cx, device).is_none() {
        return Err(Errno::ENODEV);
    }
    if dst.ip.is_link_local6() && device == 0 {
        return Err(Errno::EINVAL);
    }
    let own = b.local.ip;
    let src = match said.src {
        Some(ip) => {
            if ip.is_v4() != v4 || !cx.is_local(ip) && !b.opt.has(flag::FREEBIND) && !b.opt.has(flag::TRANSPARENT) {
                return Err(Errno::EINVAL);
            }
            ip
        }
        None if own.is_unspecified() || own.is_multicast() || own.is_v4() && iface::is_broadcast(cx, own) => {
            if group && v4 && b.opt.multicast_if != 0 && !b.opt.multicast_addr.is_unspecified() {
                b.opt.multicast_addr
            } else {
                iface::source(cx, dst.ip, device)?
            }
        }
        None => own,
    };
    if src.is_loopback() && class == Class::Remote {
        return Err(if v4 { Errno::EINVAL } else { Errno::ENETUNREACH });
    }
    let o = &b.opt;
    let default_ttl = match (v4, group) {
        (true, true) => o.multicast_ttl,
        (true, false) => {
            if o.ttl == 0 {
                64
            } else {
                o.ttl
            }
        }
        (false, true) => {
            if o.multicast_hops < 0 {
                1
            } else {
                o.multicast_hops as u8
            }
        }
        (false, false) => {
            if o.hops < 0 {
                64
            } else {
                o.hops as u8
            }
        }
    };
    let df = match said.dontfrag {
        Some(df) => df,
        None if v4 => matches!(i32::from(o.mtu_discover), libc::IP_PMTUDISC_DO | libc::IP_PMTUDISC_PROBE | 4),
        None => o.has(flag::DONTFRAG6) || matches!(i32::from(o.mtu_discover6), libc::IP_PMTUDISC_DO | libc::IP_PMTUDISC_PROBE | 4),
    };
    Ok(Plan {
        src: Endpoint::new(src, b.local.port),
        dst,
        device,
        ttl: said.ttl.unwrap_or(default_ttl),
        tos: said.tos.unwrap_or(if v4 { o.tos } else { o.tclass }),
        df,
        lite: b.lite,
        echo: !group || o.has(if v4 { flag::MULTICAST_LOOP } else { flag::MULTICAST_LOOP6 }),
    })
}

/// The error a send ends with before anything else: shut down, or one that came by ICMP.
pub fn pending(cx: &Cx<'_>, s: &Held, b: &Body) -> Result<()> {
    if let Some(e) = s.take_error() {
        b.publish(cx, s, 0);
        return Err(e);
    }
    if b.shut & 2 != 0 { Err(Errno::EPIPE) } else { Ok(()) }
}

/// sendmsg(2).
pub fn send(cx: &Cx<'_>, s: &Held, data: &[IoIn<'_>], msg: &SendMsg<'_>) -> Result<usize> {
    let len = total_in(data);
    let mut b = lock(cx, s)?;
    autobind(cx, &mut b)?;
    if len > 0xffff {
        return Err(Errno::EMSGSIZE);
    }
    // udp_sendmsg looks for it, udpv6_sendmsg does not.
    if msg.flags & libc::MSG_OOB != 0 && !b.v6 {
        return Err(Errno::EOPNOTSUPP);
    }
    if b.cork.active {
        return corked(cx, s, b, data, len, msg);
    }
    let to = match &msg.to {
        Some(to) if to.port == 0 => return Err(Errno::EINVAL),
        Some(to) => *to,
        None if b.connected => b.remote,
        None => return Err(Errno::EDESTADDRREQ),
    };
    let said = if msg.control.is_empty() { cmsg::Said::default() } else { cmsg::parse(msg.control, b.v6)? };
    let plan = plan(cx, &b, &to, &said)?;
    let most = if plan.src.ip.is_v4() { 65535 - 20 - HEADER } else { 65535 - HEADER };
    if len > most {
        return too_long(cx, s, &mut b, &plan);
    }
    pending(cx, s, &b)?;
    let gso = usize::from(said.segment.unwrap_or(b.opt.gso));
    if msg.flags & libc::MSG_MORE != 0 || b.opt.has(flag::CORK) {
        b.cork.by_option = b.opt.has(flag::CORK);
        b.cork.active = true;
        b.cork.plan = plan;
        b.cork.len = len as u32;
        if gather(data, 0, &mut b.cork.data[..len]) < len {
            b.cork.reset();
            return Err(Errno::EFAULT);
        }
        return Ok(len);
    }
    drop(b);
    if gso != 0 && len > gso {
        if len > gso * SEGMENTS {
            return Err(Errno::EINVAL);
        }
        let mut at = 0;
        while at < len {
            let n = gso.min(len - at);
            transmit(cx, &plan, data, at, n)?;
            at += n;
        }
        return Ok(len);
    }
    match transmit(cx, &plan, data, 0, len) {
        Ok(()) => {
            // sock_wfree(): a datagram that has left tells whoever waits for room, though there was some all the time (an edge of EPOLLET).
            s.queue.wake(cx, (libc::EPOLLOUT | libc::EPOLLWRNORM | libc::EPOLLWRBAND) as u32);
            Ok(len)
        }
        Err(Errno::EMSGSIZE) => {
            let mut b = lock(cx, s)?;
            too_long(cx, s, &mut b, &plan)
        }
        Err(e) => Err(e),
    }
}

/// EMSGSIZE, which IP_RECVERR puts into the error queue with the MTU (ip_local_error).
fn too_long(cx: &Cx<'_>, s: &Held, b: &mut Body, plan: &Plan) -> Result<usize> {
    let v4 = plan.dst.ip.is_v4();
    if b.opt.has(if v4 { flag::RECVERR } else { flag::RECVERR6 }) {
        let mtu = output::way(cx, plan.src.ip, plan.dst.ip, plan.device).map_or(65535, |h| h.mtu);
        let report = Report {
            to: plan.dst,
            offender: Ip::ANY6,
            errno: Errno::EMSGSIZE.0,
            origin: libc::SO_EE_ORIGIN_LOCAL,
            kind: 0,
            code: 0,
            info: mtu,
            len: 0,
            data: [0; super::queue::QUOTE],
        };
        b.errors.push(&report, &[]);
        b.publish(cx, s, libc::EPOLLERR);
    }
    Err(Errno::EMSGSIZE)
}

/// More of a datagram that is being put together.
fn corked(cx: &Cx<'_>, s: &Held, mut b: Locked<'_>, data: &[IoIn<'_>], len: usize, msg: &SendMsg<'_>) -> Result<usize> {
    let at = b.cork.len as usize;
    if at + len > 65535 - 28 {
        b.cork.reset();
        return Err(Errno::EMSGSIZE);
    }
    pending(cx, s, &b)?;
    if gather(data, 0, &mut b.cork.data[at..at + len]) < len {
        return Err(Errno::EFAULT);
    }
    b.cork.len += len as u32;
    if msg.flags & libc::MSG_MORE == 0 && !b.opt.has(flag::CORK) {
        flush_cork(cx, s, &mut b)?;
    }
    Ok(len)
}

/// Sends what was held back. Through a link even to ourselves, since our own lock is held.
pub fn flush_cork(cx: &Cx<'_>, _s: &Held, b: &mut Body) -> Result<()> {
    let (plan, len) = (b.cork.plan, b.cork.len as usize);
    b.cork.reset();
    let pieces = [IoIn::new(&b.cork.data[..len])];
    wire(cx, &plan, &pieces, 0, len).map(|_| ())
}

/// Does anybody want to see packets that need not be sent?
#[inline]
fn watched(cx: &Cx<'_>) -> bool {
    cx.inst.net.dgram.raws.any() || !cx.config().pcap.as_bytes().is_empty()
}

/// Sends one datagram: `len` bytes of `data` from byte `skip` on. No lock is held.
#[inline]
fn transmit(cx: &Cx<'_>, plan: &Plan, data: &[IoIn<'_>], skip: usize, len: usize) -> Result<()> {
    bump(&cx.inst.stats.udp_out_datagrams);
    if cx.is_local(plan.dst.ip) && plan.device <= iface::LO && !watched(cx) && !iface::is_broadcast(cx, plan.dst.ip) {
        let v4 = plan.dst.ip.is_v4();
        let ifindex = if v4 { iface::LO } else { iface::of_addr(cx, plan.dst.ip).unwrap_or(iface::LO) };
        let head = Head { src: plan.src, dst: plan.dst, ifindex, ttl: plan.ttl, tos: plan.tos, ..Head::default() };
        let whole = HEADER + len + if v4 { 20 } else { 40 };
        if whole <= 65535 && deliver(cx, space(plan.lite), &head, &Data::Pieces(data, skip, len))? {
            return Ok(());
        }
        // Nobody there, or too long for one packet: as a packet, so that ICMP says so and fragments are cut.
    }
    // A full ring loses the datagram, but not before its reader had a chance to run: a sender on the same CPU would starve it.
    for _ in 0..PATIENCE {
        if wire(cx, plan, data, skip, len)? {
            return Ok(());
        }
        crate::gate::sched_yield();
    }
    Ok(())
}

/// Sends one datagram as packets; false if it was lost to a full ring.
fn wire(cx: &Cx<'_>, plan: &Plan, data: &[IoIn<'_>], skip: usize, len: usize) -> Result<bool> {
    let hop: Hop = output::way(cx, plan.src.ip, plan.dst.ip, plan.device)?;
    // Zero is "no checksum" (RFC 768; inside the host over IPv6 too): memory does not flip bits. A pcap shows true ones.
    let summed = hop.leaves() || watched(cx) || cx.config().impair.corrupt_ppm != 0;
    let how = if summed { output::Sum::Pseudo(6) } else { output::Sum::None };
    let mut head = [0; HEADER];
    head[..2].copy_from_slice(&plan.src.port.to_be_bytes());
    head[2..4].copy_from_slice(&plan.dst.port.to_be_bytes());
    head[4..6].copy_from_slice(&((HEADER + len) as u16).to_be_bytes());
    let ip = output::Ipv {
        src: plan.src.ip,
        dst: plan.dst.ip,
        proto: if plan.lite { libc::IPPROTO_UDPLITE } else { libc::IPPROTO_UDP } as u8,
        ttl: plan.ttl,
        tos: plan.tos,
        df: plan.df,
        echo: plan.echo,
    };
    output::send(cx, &ip, &Data::Headed(&head, data, skip, len), how, &hop)
}

/// Gives a datagram to the socket it is for; false if there is none. EFAULT: its bytes cannot be read.
#[inline]
fn deliver(cx: &Cx<'_>, space: Space, head: &Head, data: &Data<'_>) -> Result<bool> {
    // Twice: the socket may be closed between the lookup and its lock.
    for _ in 0..2 {
        let Some(id) = port::find(cx, space, &head.dst, &head.src, head.ifindex) else { return Ok(false) };
        if let Some((s, b)) = of(cx, id) {
            accept(cx, s, b, head, data)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Queues a datagram at a socket that the port table named.
#[inline]
fn accept(cx: &Cx<'_>, s: &Sock, mut b: Locked<'_>, head: &Head, data: &Data<'_>) -> Result<()> {
    let v4 = head.dst.ip.is_v4();
    if v4 && head.ttl < b.opt.min_ttl || !v4 && head.ttl < b.opt.min_hops {
        return Ok(());
    }
    let mut head = *head;
    if head.src.ip.is_link_local6() {
        head.src.scope = head.ifindex;
    }
    if b.enqueue(cx, s, &head, data)? {
        bump(&cx.inst.stats.udp_in_datagrams);
    }
    Ok(())
}

/// A datagram to a group or to everybody: each socket that wants it gets a copy.
fn deliver_all(cx: &Cx<'_>, space: Space, head: &Head, data: &Data<'_>) {
    let group = head.dst.ip.is_multicast();
    let mut ids = [Id::<Sock>::NONE; 32];
    let mut seen = 0;
    loop {
        let n = port::find_all(cx, space, &head.dst, &head.src, head.ifindex, seen, &mut ids);
        for id in &ids[..n] {
            let Some((s, b)) = of(cx, *id) else { continue };
            if !group || multicast::wants(&b.members, &b.opt, head.dst.ip, head.src.ip, head.ifindex) {
                let _ = accept(cx, s, b, head, data);
            }
        }
        seen += n;
        if n < ids.len() {
            break;
        }
    }
}

/// A UDP packet from a link.
pub fn input(cx: &Cx<'_>, p: &Packet<'_>, ifindex: u32, fragment: u16) {
    let u = p.payload;
    let lite = i32::from(p.proto) == libc::IPPROTO_UDPLITE;
    let space = space(lite);
    let mut len = if u.len() >= HEADER { usize::from(u16::from_be_bytes([u[4], u[5]])) } else { 0 };
    // RFC 3828 3.1: UDP-Lite's field says how much the checksum covers (0: all), not how long it is.
    let covered = if lite && len == 0 { u.len() } else { len };
    if lite && u.len() >= HEADER {
        len = u.len();
    }
    if len < HEADER || covered < HEADER || covered > u.len() || len > u.len() {
        bump(&cx.inst.stats.ip_in_errors);
        return;
    }
    if u[6..8] != [0, 0] && output::fold(output::sum(output::pseudo(p.src, p.dst, p.proto, len), &u[..covered])) != 0 {
        bump(&cx.inst.stats.ip_in_errors);
        return;
    }
    let port = |at: usize| u16::from_be_bytes([u[at], u[at + 1]]);
    let head = Head {
        src: Endpoint::new(p.src, port(0)),
        dst: Endpoint::new(p.dst, port(2)),
        ifindex,
        ttl: p.ttl,
        tos: p.tos,
        fragment,
        ..Head::default()
    };
    let data = Data::Bytes(&u[HEADER..len]);
    if p.dst.is_multicast() || p.dst.is_v4() && iface::is_broadcast(cx, p.dst) {
        deliver_all(cx, space, &head, &data);
    } else if !matches!(deliver(cx, space, &head, &data), Ok(true)) {
        bump(&cx.inst.stats.udp_no_ports);
        icmp::unreachable_port(cx, p);
    }
}

/// An ICMP error about a datagram from `local` to `remote`.
pub fn icmp_error(cx: &Cx<'_>, lite: bool, local: &Endpoint, remote: &Endpoint, report: &Report, data: &[u8], hard: bool) {
    let ifindex = iface::of_addr(cx, local.ip).unwrap_or(0);
    let Some(id) = port::find(cx, space(lite), local, remote, ifindex) else { return };
    let Some((s, mut b)) = of(cx, id) else { return };
    if s.error.load(Relaxed) == 0 || b.opt.on & (flag::RECVERR | flag::RECVERR6) != 0 {
        b.fail(cx, s, report, data, hard);
    }
}
