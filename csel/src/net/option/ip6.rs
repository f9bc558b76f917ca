//! IPPROTO_IPV6.
//!
//! # Theory of operation
//! **Purpose.** ipv6(7)'s options as do_ipv6_getsockopt() and do_ipv6_setsockopt() of Linux 6.18 treat them, and IPV6_CHECKSUM of raw sockets.
//! **How it works.** On-or-off options are rows of [`FLAGS`]; the others are arms.
//! **Limits.** Extension headers cannot be sent: those options read as empty and take only nothing. Flow labels are not managed.
//! **Locks.** The open description's options; the socket's body for memberships. **Failure.** As ipv6(7). **See also.** ipv6(7), RFC 3542.
use super::{bits, bytes, flag, int};
use crate::call::Kind;
use crate::errno::{Errno, Result};
use crate::fd::Held;
use crate::instance::Cx;
use crate::net::addr::Ip;
use crate::net::dgram::{self, multicast};
use crate::net::iface;
use core::sync::atomic::Ordering::*;

const ADDRFORM: i32 = 1;
const PKTOPTIONS_2292: i32 = 6;
const CHECKSUM: i32 = 7;
const MTU: i32 = 24;
const FLOWLABEL_MGR: i32 = 32;
const HDRINCL: i32 = 36;
const PATHMTU: i32 = 61;
const AUTOFLOW: i32 = 70;
const ADDR_PREFERENCES: i32 = 72;
const MINHOPCOUNT: i32 = 73;
const UNICAST_IF: i32 = 76;
/// IPV6_ADDR_PREFERENCES of a new socket: public addresses, if temporary ones are not preferred by the system; not CGA.
const PREFERENCES: i32 = 0x500;

/// Options that are on or off.
const FLAGS: &[(i32, u64)] = &[
    (libc::IPV6_2292PKTINFO, flag::PKTINFO_2292),
    (libc::IPV6_2292HOPOPTS, flag::HOPOPTS_2292),
    (libc::IPV6_2292DSTOPTS, flag::DSTOPTS_2292),
    (libc::IPV6_2292RTHDR, flag::RTHDR_2292),
    (libc::IPV6_2292HOPLIMIT, flag::HOPLIMIT_2292),
    (libc::IPV6_FLOWINFO, flag::FLOWINFO6),
    (libc::IPV6_MULTICAST_LOOP, flag::MULTICAST_LOOP6),
    (libc::IPV6_ROUTER_ALERT, flag::ROUTER_ALERT6),
    (libc::IPV6_RECVERR, flag::RECVERR6),
    (29, flag::MULTICAST_ALL6),
    (30, flag::ISOLATE6),
    (31, flag::RFC4884_6),
    (33, flag::FLOWINFO_SEND6),
    (HDRINCL, flag::HDRINCL6),
    (libc::IPV6_RECVPKTINFO, flag::PKTINFO6),
    (libc::IPV6_RECVHOPLIMIT, flag::HOPLIMIT6),
    (libc::IPV6_RECVHOPOPTS, flag::HOPOPTS6),
    (libc::IPV6_RECVRTHDR, flag::RTHDR6),
    (libc::IPV6_RECVDSTOPTS, flag::DSTOPTS6),
    (libc::IPV6_RECVPATHMTU, flag::PATHMTU6),
    (libc::IPV6_DONTFRAG, flag::DONTFRAG6),
    (libc::IPV6_RECVTCLASS, flag::TCLASS6),
    (AUTOFLOW, flag::AUTOFLOW6),
    (libc::IPV6_ORIGDSTADDR, flag::ORIGDST6),
    (libc::IPV6_TRANSPARENT, flag::TRANSPARENT),
    (77, flag::FRAGSIZE6),
    (libc::IPV6_FREEBIND, flag::FREEBIND),
];

fn flag_of(name: i32) -> Option<u64> {
    FLAGS.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
}

/// getsockopt(2) of IPPROTO_IPV6.
pub(super) fn get(cx: &Cx<'_>, s: &Held, name: i32, out: &mut [u8]) -> Result<usize> {
    if !s.is_v6() {
        return Err(Errno::EOPNOTSUPP);
    }
    let raw = s.kind() == Kind::Raw;
    let o = *s.options.lock(cx.me);
    if name == HDRINCL && !raw {
        return Err(Errno::ENOPROTOOPT);
    }
    if let Some(f) = flag_of(name) {
        return int(out, i32::from(o.has(f)));
    }
    let value = match name {
        ADDRFORM if matches!(s.kind(), Kind::Tcp | Kind::Udp) => {
            crate::call::socket::getpeername(cx, s)?;
            i32::from(s.family.load(Relaxed))
        }
        libc::IPV6_V6ONLY => i32::from(s.bits.load(Relaxed) & bits::V6ONLY != 0),
        libc::IPV6_UNICAST_HOPS => {
            if o.hops < 0 {
                64
            } else {
                i32::from(o.hops)
            }
        }
        libc::IPV6_MULTICAST_HOPS => {
            if o.multicast_hops < 0 {
                1
            } else {
                i32::from(o.multicast_hops)
            }
        }
        libc::IPV6_MULTICAST_IF => o.multicast_if6 as i32,
        libc::IPV6_MTU_DISCOVER => i32::from(o.mtu_discover6),
        libc::IPV6_TCLASS => i32::from(o.tclass),
        MINHOPCOUNT => i32::from(o.min_hops),
        UNICAST_IF => o.unicast_if6.to_be() as i32,
        ADDR_PREFERENCES => {
            if o.preferences == 0 {
                PREFERENCES
            } else {
                o.preferences as i32
            }
        }
        CHECKSUM if raw => o.checksum,
        MTU => {
            let (device, peer) = super::peer_device(cx, s)?;
            if device == iface::LO { iface::LO_MTU as i32 } else { iface::mtu_to(cx, peer, device) as i32 }
        }
        PATHMTU if out.len() < 32 => return Err(Errno::EINVAL),
        PATHMTU => {
            let (device, peer) = super::peer_device(cx, s)?;
            let mtu = if device == iface::LO { iface::LO_MTU } else { iface::mtu_to(cx, peer, device) };
            let mut b = [0; 32];
            b[28..].copy_from_slice(&mtu.to_ne_bytes());
            return bytes(out, &b);
        }
        PKTOPTIONS_2292 if s.kind() == Kind::Tcp => return Ok(0),
        54 | 55 | 57 | 59 => return Ok(0),
        48 if out.len() < 144 => return Err(Errno::EINVAL),
        48 => return Err(Errno::EADDRNOTAVAIL),
        FLOWLABEL_MGR | 64 | 65 | 68 | 69 => return Err(Errno::EINVAL),
        _ => return Err(Errno::ENOPROTOOPT),
    };
    int(out, value)
}

fn addr(b: &[u8]) -> Ip {
    let mut a = [0; 16];
    a.copy_from_slice(&b[..16]);
    Ip(a)
}

/// setsockopt(2) of IPPROTO_IPV6.
pub(super) fn set(cx: &Cx<'_>, s: &Held, name: i32, value: &[u8]) -> Result<()> {
    if !s.is_v6() {
        return Err(Errno::ENOPROTOOPT);
    }
    let bad = Err(Errno::EINVAL);
    let stream = s.kind() == Kind::Tcp;
    let raw = s.kind() == Kind::Raw;
    match name {
        libc::IPV6_ADD_MEMBERSHIP | libc::IPV6_DROP_MEMBERSHIP => {
            if value.len() < 20 {
                return bad;
            }
            if stream {
                return Err(Errno::EPROTO);
            }
            let group = addr(value);
            let index = u32::from_ne_bytes(value[16..20].try_into().unwrap_or_default());
            if !group.is_multicast() {
                return bad;
            }
            let leave = name == libc::IPV6_DROP_MEMBERSHIP;
            let index = if leave && index == 0 { 0 } else { multicast::device(cx, group, index, Ip::ANY6)? };
            let mut b = dgram::lock(cx, s)?;
            return if leave { multicast::leave(cx, &mut b, group, index) } else { multicast::join(cx, &mut b, group, index) };
        }
        42..=47 if stream => return Err(Errno::EPROTO),
        42..=47 => return ip_generic(cx, s, name, value),
        // Sticky extension headers and packet information: only "none".
        54 | 55 | 57 | 59 if value.is_empty() => return Ok(()),
        54 | 55 | 57 | 59 => return bad,
        libc::IPV6_PKTINFO if value.is_empty() => return Ok(()),
        libc::IPV6_PKTINFO => return if value.len() < 20 { bad } else { Ok(()) },
        _ => {}
    }
    let Some(v) = value.get(..4).map(|b| i32::from_ne_bytes(b.try_into().unwrap_or_default())) else {
        return if flag_of(name).is_some() || known(name) { bad } else { Err(Errno::ENOPROTOOPT) };
    };
    match name {
        HDRINCL if !raw => return Err(Errno::ENOPROTOOPT),
        29 | libc::IPV6_MULTICAST_LOOP if v != 0 && v != 1 => return bad,
        libc::IPV6_ROUTER_ALERT if !raw => return Err(Errno::ENOPROTOOPT),
        libc::IPV6_V6ONLY => {
            let bound = match crate::call::socket::getsockname(cx, s) {
                Ok((sa, _)) => sa[2..4] != [0, 0] && !raw,
                Err(_) => false,
            };
            if bound {
                return bad;
            }
            if v != 0 {
                s.bits.fetch_or(bits::V6ONLY, Relaxed)
            } else {
                s.bits.fetch_and(!bits::V6ONLY, Relaxed)
            };
            s.options.lock(cx.me).v6only = v != 0;
            return Ok(());
        }
        ADDRFORM => {
            if v != libc::AF_INET {
                return bad;
            }
            return Err(if crate::call::socket::getpeername(cx, s).is_err() { Errno::ENOTCONN } else { Errno::EADDRNOTAVAIL });
        }
        _ => {}
    }
    let mut o = s.options.lock(cx.me);
    if let Some(f) = flag_of(name) {
        return o.set_flag(f, v != 0);
    }
    match name {
        libc::IPV6_UNICAST_HOPS if (-1..=255).contains(&v) => o.hops = v as i16,
        libc::IPV6_MULTICAST_HOPS if stream => return Err(Errno::ENOPROTOOPT),
        libc::IPV6_MULTICAST_HOPS if (-1..=255).contains(&v) => o.multicast_hops = v as i16,
        libc::IPV6_MULTICAST_IF if stream => return Err(Errno::ENOPROTOOPT),
        libc::IPV6_MULTICAST_IF => {
            if v != 0 && iface::by_index(cx, v as u32).is_none() {
                return Err(Errno::ENODEV);
            }
            o.multicast_if6 = v as u32;
        }
        libc::IPV6_MTU_DISCOVER if (0..=5).contains(&v) => o.mtu_discover6 = v as u8,
        libc::IPV6_TCLASS if v == -1 => o.tclass = 0,
        libc::IPV6_TCLASS if (0..=255).contains(&v) => o.tclass = if stream { v as u8 & !3 | o.tclass & 3 } else { v as u8 },
        MINHOPCOUNT if (0..=255).contains(&v) => o.min_hops = v as u8,
        MTU if v == 0 || v >= 1280 => o.mtu6 = v as u32,
        UNICAST_IF => {
            let index = u32::from_be(v as u32);
            if index != 0 && iface::by_index(cx, index).is_none() {
                return Err(Errno::EADDRNOTAVAIL);
            }
            o.unicast_if6 = index;
        }
        ADDR_PREFERENCES => o.preferences = v as u32,
        // RFC 3542 3.1: an odd offset is an error; ICMPv6's is fixed.
        CHECKSUM if raw => {
            if v > 0 && v & 1 == 1 {
                return bad;
            }
            if i32::from(s.protocol.load(Relaxed)) == libc::IPPROTO_ICMPV6 {
                return bad;
            }
            o.checksum = if v < 0 { -1 } else { v };
        }
        n if known(n) => return bad,
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

fn known(name: i32) -> bool {
    matches!(
        name,
        libc::IPV6_UNICAST_HOPS
            | libc::IPV6_MULTICAST_HOPS
            | libc::IPV6_MULTICAST_IF
            | libc::IPV6_MTU_DISCOVER
            | libc::IPV6_TCLASS
            | libc::IPV6_V6ONLY
            | MINHOPCOUNT
            | MTU
            | UNICAST_IF
            | FLOWLABEL_MGR
    )
}

fn ip_generic(cx: &Cx<'_>, s: &Held, name: i32, value: &[u8]) -> Result<()> {
    super::ip::generic_membership(cx, s, name, value, true)
}
