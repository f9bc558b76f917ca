//! IPPROTO_IP, and what else has to do with IPv4: ICMP_FILTER and the options of UDP.
//!
//! # Theory of operation
//! **Purpose.** ip(7)'s options as do_ip_getsockopt() and do_ip_setsockopt() of Linux 6.18 treat them; udp(7)'s and raw(7)'s.
//! **How it works.** On-or-off options are rows of [`FLAGS`]; the others are arms. Values may be given as an int or as one byte.
//! **Limits.** IP options (IP_OPTIONS), IPsec policies and socket filters by source list (IP_MSFILTER) are refused.
//! **Locks.** The open description's options; the socket's body for memberships. **Failure.** As ip(7). **See also.** ip(7), udp(7), raw(7).
use super::{bytes, flag, int, octet};
use crate::call::Kind;
use crate::errno::{Errno, Result};
use crate::fd::Held;
use crate::instance::Cx;
use crate::net::addr::Ip;
use crate::net::dgram::{self, multicast};
use crate::net::iface;
use core::sync::atomic::Ordering::*;

/// Options libc has no names for.
const IP_OPTIONS_: i32 = 4;
const ROUTER_ALERT: i32 = 5;
const PKTOPTIONS: i32 = 9;
const MTU: i32 = 14;
const NODEFRAG: i32 = 22;
const FRAGSIZE: i32 = 25;
const LOCAL_PORT_RANGE: i32 = 51;
const PROTOCOL: i32 = 52;

/// Options that are on or off.
const FLAGS: &[(i32, u64)] = &[
    (libc::IP_HDRINCL, flag::HDRINCL),
    (ROUTER_ALERT, flag::ROUTER_ALERT),
    (libc::IP_RECVOPTS, flag::RECVOPTS),
    (libc::IP_RETOPTS, flag::RETOPTS),
    (libc::IP_PKTINFO, flag::PKTINFO),
    (libc::IP_RECVERR, flag::RECVERR),
    (libc::IP_RECVTTL, flag::RECVTTL),
    (libc::IP_RECVTOS, flag::RECVTOS),
    (libc::IP_FREEBIND, flag::FREEBIND),
    (18, flag::PASSSEC),
    (libc::IP_TRANSPARENT, flag::TRANSPARENT),
    (libc::IP_ORIGDSTADDR, flag::ORIGDST),
    (NODEFRAG, flag::NODEFRAG),
    (23, flag::CHECKSUM),
    (libc::IP_BIND_ADDRESS_NO_PORT, flag::BIND_NO_PORT),
    (FRAGSIZE, flag::FRAGSIZE),
    (26, flag::RFC4884),
    (libc::IP_MULTICAST_LOOP, flag::MULTICAST_LOOP),
    (49, flag::MULTICAST_ALL),
];

fn flag_of(name: i32) -> Option<u64> {
    FLAGS.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
}

/// getsockopt(2) of IPPROTO_IP.
pub(super) fn get(cx: &Cx<'_>, s: &Held, name: i32, out: &mut [u8]) -> Result<usize> {
    if s.kind() == Kind::Raw && s.is_v6() {
        return Err(Errno::ENOPROTOOPT);
    }
    let o = *s.options.lock(cx.me);
    if let Some(f) = flag_of(name) {
        return octet(out, i32::from(o.has(f)));
    }
    let value = match name {
        libc::IP_TOS => i32::from(o.tos),
        libc::IP_TTL => i32::from(if o.ttl == 0 { 64 } else { o.ttl }),
        libc::IP_MTU_DISCOVER => i32::from(o.mtu_discover),
        libc::IP_MINTTL => i32::from(o.min_ttl),
        libc::IP_MULTICAST_TTL => i32::from(o.multicast_ttl),
        libc::IP_UNICAST_IF => o.unicast_if.to_be() as i32,
        LOCAL_PORT_RANGE => o.port_range as i32,
        PROTOCOL => {
            if s.kind() == Kind::Raw {
                i32::from(s.protocol.load(Relaxed))
            } else {
                0
            }
        }
        MTU => {
            let (device, peer) = super::peer_device(cx, s)?;
            if device == iface::LO { 65535 } else { iface::mtu_to(cx, peer, device) as i32 }
        }
        libc::IP_MULTICAST_IF => return bytes(out, &o.multicast_addr.0[12..]),
        IP_OPTIONS_ => return Ok(0),
        PKTOPTIONS if s.kind() == Kind::Tcp => return Ok(0),
        41 | 48 => return Err(Errno::EINVAL),
        _ => return Err(Errno::ENOPROTOOPT),
    };
    octet(out, value)
}

/// A setsockopt(2) value as an int: four bytes or one.
fn short(value: &[u8]) -> i32 {
    match value {
        [a, b, c, d, ..] => i32::from_ne_bytes([*a, *b, *c, *d]),
        [a, ..] => i32::from(*a),
        [] => 0,
    }
}

/// setsockopt(2) of IPPROTO_IP.
pub(super) fn set(cx: &Cx<'_>, s: &Held, name: i32, value: &[u8]) -> Result<()> {
    if s.kind() == Kind::Raw && s.is_v6() {
        return Err(Errno::ENOPROTOOPT);
    }
    let v = short(value);
    let stream = s.kind() == Kind::Tcp;
    let raw = s.kind() == Kind::Raw;
    let bad = Err(Errno::EINVAL);
    match name {
        libc::IP_ADD_MEMBERSHIP..=libc::IP_DROP_SOURCE_MEMBERSHIP | 42..=47 => return membership(cx, s, name, value),
        libc::IP_HDRINCL | NODEFRAG if !raw => return Err(Errno::ENOPROTOOPT),
        ROUTER_ALERT if !raw || i32::from(s.protocol.load(Relaxed)) == libc::IPPROTO_RAW => return bad,
        FRAGSIZE if stream => return bad,
        libc::IP_MULTICAST_LOOP | 49 if value.is_empty() => return bad,
        49 if v != 0 && v != 1 => return bad,
        _ => {}
    }
    let mut o = s.options.lock(cx.me);
    if let Some(f) = flag_of(name) {
        return o.set_flag(f, v != 0);
    }
    match name {
        libc::IP_TOS => {
            let tos = v as u8;
            // __ip_sock_set_tos: a stream's ECN bits are the stack's.
            o.tos = if stream { tos & !3 | o.tos & 3 } else { tos };
            o.priority = [0, 2, 6, 4][usize::from(o.tos >> 3 & 3)];
        }
        libc::IP_TTL => match v {
            _ if value.is_empty() => return bad,
            -1 => o.ttl = 0,
            1..=255 => o.ttl = v as u8,
            _ => return bad,
        },
        libc::IP_MTU_DISCOVER => match v {
            0..=5 => o.mtu_discover = v as u8,
            _ => return bad,
        },
        libc::IP_MINTTL => match v {
            0..=255 if !value.is_empty() => o.min_ttl = v as u8,
            _ => return bad,
        },
        libc::IP_MULTICAST_TTL => match v {
            _ if stream || value.is_empty() => return bad,
            -1 => o.multicast_ttl = 1,
            0..=255 => o.multicast_ttl = v as u8,
            _ => return bad,
        },
        libc::IP_UNICAST_IF => {
            if value.len() != 4 {
                return bad;
            }
            let index = u32::from_be(v as u32);
            if index != 0 && iface::by_index(cx, index).is_none() {
                return Err(Errno::EADDRNOTAVAIL);
            }
            o.unicast_if = index;
        }
        LOCAL_PORT_RANGE => {
            if value.len() != 4 {
                return bad;
            }
            let (low, high) = (v as u32 & 0xffff, v as u32 >> 16);
            if low != 0 && high != 0 && low > high {
                return bad;
            }
            o.port_range = v as u32;
        }
        libc::IP_MULTICAST_IF => {
            if stream || value.len() < 4 {
                return bad;
            }
            let (_, addr, index) = mreq(value, true)?;
            if index == 0 && addr.is_unspecified() {
                o.multicast_if = 0;
                o.multicast_addr = Ip::ANY4;
                return Ok(());
            }
            o.multicast_if = if index != 0 { iface::by_index(cx, index).map(|i| i.index) } else { iface::of_addr(cx, addr) }
                .ok_or(Errno::EADDRNOTAVAIL)?;
            o.multicast_addr = addr;
        }
        IP_OPTIONS_ if value.is_empty() => {}
        IP_OPTIONS_ => return bad,
        16 | 17 => return Err(Errno::EPERM),
        41 | 48 => return bad,
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

fn v4(b: &[u8]) -> Ip {
    Ip::v4([b[0], b[1], b[2], b[3]])
}

/// struct in_addr (`addr_only`), ip_mreq or ip_mreqn: group, interface address, index.
fn mreq(value: &[u8], addr_only: bool) -> Result<(Ip, Ip, u32)> {
    match value.len() {
        12.. => Ok((v4(value), v4(&value[4..]), u32::from_ne_bytes(value[8..12].try_into().unwrap_or_default()))),
        8.. => Ok((v4(value), v4(&value[4..]), 0)),
        4.. if addr_only => Ok((Ip::ANY4, v4(value), 0)),
        _ => Err(Errno::EINVAL),
    }
}

/// A group address in a sockaddr_storage; EADDRNOTAVAIL if it is another family's.
pub(super) fn storage(b: &[u8], v6: bool) -> Result<Ip> {
    let family = i32::from(u16::from_ne_bytes([b[0], b[1]]));
    if v6 && family == libc::AF_INET6 {
        let mut a = [0; 16];
        a.copy_from_slice(&b[8..24]);
        Ok(Ip(a))
    } else if !v6 && family == libc::AF_INET {
        Ok(v4(&b[4..]))
    } else if family == libc::AF_INET || family == libc::AF_INET6 {
        Err(Errno::EADDRNOTAVAIL)
    } else {
        Err(Errno::EINVAL)
    }
}

/// MCAST_JOIN_GROUP (42) to MCAST_LEAVE_SOURCE_GROUP (47) of either family.
pub(super) fn generic_membership(cx: &Cx<'_>, s: &Held, name: i32, value: &[u8], v6: bool) -> Result<()> {
    let with_source = !matches!(name, 42 | 45);
    if value.len() < if with_source { 264 } else { 136 } {
        return Err(Errno::EINVAL);
    }
    let index = u32::from_ne_bytes(value[..4].try_into().unwrap_or_default());
    let group = storage(&value[8..], v6)?;
    let index = if name == 45 && index == 0 { 0 } else { multicast::device(cx, group, index, Ip::ANY4)? };
    let mut b = dgram::lock(cx, s)?;
    use multicast::Filter::{Block, Join, Leave, Unblock};
    let how = match name {
        42 => return multicast::join(cx, &mut b, group, index),
        45 => return multicast::leave(cx, &mut b, group, index),
        43 => Block,
        44 => Unblock,
        46 => Join,
        _ => Leave,
    };
    multicast::filter(cx, &mut b, how, group, index, storage(&value[136..], v6)?)
}

fn membership(cx: &Cx<'_>, s: &Held, name: i32, value: &[u8]) -> Result<()> {
    if s.kind() == Kind::Tcp {
        // IP_*_MEMBERSHIP on a stream: EPROTO.
        return Err(Errno::EPROTO);
    }
    if name >= 42 {
        return generic_membership(cx, s, name, value, false);
    }
    if matches!(name, libc::IP_ADD_MEMBERSHIP | libc::IP_DROP_MEMBERSHIP) {
        let (group, addr, index) = mreq(value, false)?;
        if !group.is_multicast() && name == libc::IP_ADD_MEMBERSHIP {
            return Err(Errno::EINVAL);
        }
        // Without an interface any membership is left.
        let any = name == libc::IP_DROP_MEMBERSHIP && index == 0 && addr.is_unspecified();
        let index = if any { 0 } else { multicast::device(cx, group, index, addr)? };
        let mut b = dgram::lock(cx, s)?;
        return if name == libc::IP_ADD_MEMBERSHIP {
            multicast::join(cx, &mut b, group, index)
        } else {
            multicast::leave(cx, &mut b, group, index)
        };
    }
    if value.len() != 12 {
        return Err(Errno::EINVAL);
    }
    let (group, addr, source) = (v4(value), v4(&value[4..]), v4(&value[8..]));
    let how = match name {
        libc::IP_ADD_SOURCE_MEMBERSHIP => multicast::Filter::Join,
        libc::IP_DROP_SOURCE_MEMBERSHIP => multicast::Filter::Leave,
        libc::IP_BLOCK_SOURCE => multicast::Filter::Block,
        _ => multicast::Filter::Unblock,
    };
    let index = multicast::device(cx, group, 0, addr)?;
    let mut b = dgram::lock(cx, s)?;
    multicast::filter(cx, &mut b, how, group, index, source)
}

/// Options of IPPROTO_UDP that are on or off.
const UDP_FLAGS: &[(i32, u64)] = &[
    (libc::UDP_CORK, flag::CORK),
    (libc::UDP_NO_CHECK6_TX, flag::NO_CHECK6_TX),
    (libc::UDP_NO_CHECK6_RX, flag::NO_CHECK6_RX),
    (libc::UDP_GRO, flag::UDP_GRO),
];

/// getsockopt(2) of IPPROTO_UDP, on a UDP socket.
pub(super) fn get_udp(cx: &Cx<'_>, s: &Held, name: i32, out: &mut [u8]) -> Result<usize> {
    let o = s.options.lock(cx.me);
    if let Some((_, f)) = UDP_FLAGS.iter().find(|(n, _)| *n == name) {
        return int(out, i32::from(o.has(*f)));
    }
    match name {
        libc::UDP_SEGMENT => int(out, i32::from(o.gso)),
        // UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV: 0 is the whole datagram, and so it is on UDP.
        10 | 11 => int(out, i32::from(o.coverage[name as usize - 10])),
        libc::UDP_ENCAP => int(out, 0),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

/// setsockopt(2) of IPPROTO_UDP, on a UDP socket.
pub(super) fn set_udp(cx: &Cx<'_>, s: &Held, name: i32, value: &[u8]) -> Result<()> {
    if value.len() < 4 {
        return Err(Errno::EINVAL);
    }
    let v = short(value);
    let mut o = s.options.lock(cx.me);
    if let Some((_, f)) = UDP_FLAGS.iter().find(|(n, _)| *n == name) {
        return o.set_flag(*f, v != 0);
    }
    match name {
        libc::UDP_SEGMENT if (0..=0xffff).contains(&v) => {
            o.gso = v as u16;
            Ok(())
        }
        libc::UDP_SEGMENT => Err(Errno::EINVAL),
        libc::UDP_ENCAP if v == 0 => Ok(()),
        10 | 11 if i32::from(s.protocol.load(Relaxed)) == libc::IPPROTO_UDPLITE => {
            // udp_lib_setsockopt: at least the header, at most what fits.
            o.coverage[name as usize - 10] = match v {
                0 => 0,
                v => v.clamp(8, 0xffff) as u16,
            };
            Ok(())
        }
        _ => Err(Errno::ENOPROTOOPT),
    }
}

/// ICMP_FILTER (level SOL_RAW) and ICMP6_FILTER (level IPPROTO_ICMPV6) of a raw socket.
pub(super) fn get_filter(cx: &Cx<'_>, s: &Held, out: &mut [u8]) -> Result<usize> {
    let f = s.options.lock(cx.me).icmp_filter;
    let mut b = [0; 32];
    for (i, w) in f.iter().enumerate() {
        b[i * 4..][..4].copy_from_slice(&w.to_ne_bytes());
    }
    bytes(out, &b[..if s.is_v6() { 32 } else { 4 }])
}

/// Sets ICMP_FILTER or ICMP6_FILTER: as many bytes as there are.
pub(super) fn set_filter(cx: &Cx<'_>, s: &Held, value: &[u8]) -> Result<()> {
    let mut o = s.options.lock(cx.me);
    let most = if s.is_v6() { 32 } else { 4 };
    let mut b = [0; 32];
    for (i, w) in o.icmp_filter.iter().enumerate() {
        b[i * 4..][..4].copy_from_slice(&w.to_ne_bytes());
    }
    let n = value.len().min(most);
    b[..n].copy_from_slice(&value[..n]);
    for (i, w) in o.icmp_filter.iter_mut().enumerate() {
        *w = u32::from_ne_bytes(b[i * 4..][..4].try_into().unwrap_or_default());
    }
    Ok(())
}
