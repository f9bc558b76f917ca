//! The one entrance for packets: IP header checks and the way to the protocol.
//!
//! # Theory of operation
//! **Purpose.** Whatever a link delivers is checked here once; everything behind works on a [`Packet`] whose lengths are true.
//! **How it works.** RFC 791 and RFC 8200 checks as ip_rcv() and ip6_rcv_core() make them; trailing bytes beyond the header's own length are cut off.
//! Packets for addresses that are not ours are counted and dropped: an instance does not forward.
//! **Limits.** A checksum of zero is none: shared memory does not flip bits. Others are verified (links can be told to spoil frames).
//! **Locks.** None held on entry or exit; callees take their own. **Failure.** A packet that makes no sense is counted and dropped.
//! **See also.** [`super::super::link::rx`].
use super::{frag, icmp, multicast, output, raw, udp};
use crate::instance::Cx;
use crate::net::addr::Ip;
use crate::net::{Packet, Via, iface, tcp};
use crate::stats::bump;

/// Largest chain of IPv6 extension headers that is followed.
const CHAIN: usize = 8;

/// An IP packet from a link, not yet checked beyond "it is as long as its frame": checks it (version, lengths, is it for us), reassembles, and
/// gives it to raw sockets, TCP, UDP, ICMP. This is the network replica's one entrance.
#[inline]
pub fn input(cx: &Cx<'_>, ip: &[u8], via: Via) {
    packet(cx, ip, via, 0);
}

fn packet(cx: &Cx<'_>, ip: &[u8], via: Via, fragment: u16) {
    let Some(p) = parse(ip, via) else {
        bump(&cx.inst.stats.ip_in_errors);
        return;
    };
    // A martian: nobody else can send from our loopback or from a group (ip_route_input_slow).
    if via != Via::Lo && (p.src.is_loopback() || p.dst.is_loopback()) || p.src.is_multicast() {
        bump(&cx.inst.stats.ip_in_addr_errors);
        return;
    }
    let ifindex = ifindex(cx, &p);
    let one = !p.dst.is_multicast() && cx.is_local(p.dst);
    let ours =
        one || if p.dst.is_multicast() { multicast::joined(cx, p.dst, ifindex) } else { p.dst.is_v4() && iface::is_broadcast(cx, p.dst) };
    if !ours {
        bump(&cx.inst.stats.ip_in_addr_errors);
        return;
    }
    if let Some(piece) = piece(&p) {
        if fragment == 0 {
            // What comes out is whole: it cannot come here again.
            frag::add(cx, &piece, |whole, largest| packet(cx, whole, via, largest.max(1)));
        }
        return;
    }
    deliver(cx, &p, ifindex, fragment, one);
}

/// The interface a packet came in on, as applications see it: what we send to an IPv4 address of our own comes in on `lo`.
fn ifindex(cx: &Cx<'_>, p: &Packet<'_>) -> u32 {
    if p.via == Via::Uplink {
        iface::UP
    } else if p.via == Via::Segment {
        iface::ETH
    } else if p.src.is_loopback() || p.dst.is_loopback() || p.dst.is_v4() && !p.dst.is_multicast() && !iface::is_broadcast(cx, p.dst) {
        iface::LO
    } else {
        iface::ETH
    }
}

/// A whole packet for us; `one`: for us alone, not for a group.
fn deliver(cx: &Cx<'_>, p: &Packet<'_>, ifindex: u32, fragment: u16, one: bool) {
    let raw = cx.inst.net.dgram.raws.any() && raw::input(cx, p, ifindex);
    match i32::from(p.proto) {
        // A connection has two ends (tcp_v4_rcv: only PACKET_HOST), and nobody is at 0.0.0.0 or 255.255.255.255 (ip_route_input_slow).
        libc::IPPROTO_TCP if !one || p.src.is_unspecified() || p.src == Ip::BROADCAST => bump(&cx.inst.stats.ip_in_addr_errors),
        libc::IPPROTO_TCP => tcp::input(cx, p),
        libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE => udp::input(cx, p, ifindex, fragment),
        libc::IPPROTO_ICMP if p.dst.is_v4() => icmp::input(cx, p, ifindex),
        libc::IPPROTO_ICMPV6 if !p.dst.is_v4() => icmp::input(cx, p, ifindex),
        // IPv6 "no next header".
        59 if !p.dst.is_v4() => {}
        _ if raw => {}
        _ => icmp::unreachable_protocol(cx, p),
    }
}

/// The packet as a fragment, if it is one.
fn piece<'a>(p: &Packet<'a>) -> Option<frag::Piece<'a>> {
    if p.dst.is_v4() {
        let field = word(p.ip, 6) as u16;
        if field & 0x3fff == 0 {
            return None;
        }
        let head = p.ip.len() - p.payload.len();
        Some(frag::Piece {
            key: frag::Key { src: p.src, dst: p.dst, id: word(p.ip, 4) as u32, proto: u32::from(p.proto) + 1 },
            head: &p.ip[..head],
            next: p.proto,
            offset: usize::from(field & 0x1fff) * 8,
            more: field & 0x2000 != 0,
            data: p.payload,
        })
    } else {
        if p.proto != 44 || p.payload.len() < 8 {
            return None;
        }
        let h = p.payload;
        let field = word(h, 2);
        Some(frag::Piece {
            key: frag::Key { src: p.src, dst: p.dst, id: u32::from_be_bytes([h[4], h[5], h[6], h[7]]), proto: 0 },
            head: &p.ip[..40],
            next: h[0],
            offset: field & 0xfff8,
            more: field & 1 != 0,
            data: &h[8..],
        })
    }
}

fn word(b: &[u8], at: usize) -> usize {
    usize::from(b[at]) << 8 | usize::from(b[at + 1])
}

/// Splits a packet; `None` if its headers make no sense.
pub fn parse(ip: &[u8], via: Via) -> Option<Packet<'_>> {
    match ip.first()? >> 4 {
        4 => {
            let head = usize::from(ip[0] & 15) * 4;
            if ip.len() < 20 || head < 20 {
                return None;
            }
            let total = word(ip, 2);
            let spoilt = ip.len() >= head && ip[10..12] != [0, 0] && output::fold(output::sum(0, &ip[..head])) != 0;
            if total < head || total > ip.len() || spoilt {
                return None;
            }
            Some(Packet {
                src: Ip::v4([ip[12], ip[13], ip[14], ip[15]]),
                dst: Ip::v4([ip[16], ip[17], ip[18], ip[19]]),
                proto: ip[9],
                ttl: ip[8],
                tos: ip[1],
                ip: &ip[..total],
                payload: &ip[head..total],
                via,
            })
        }
        6 => {
            if ip.len() < 40 {
                return None;
            }
            let total = 40 + word(ip, 4);
            if total > ip.len() {
                return None;
            }
            let ip = &ip[..total];
            let (mut next, mut at) = (ip[6], 40);
            for _ in 0..CHAIN {
                match next {
                    // Hop-by-hop options, routing, destination options: RFC 8200 4.3, 4.4, 4.6.
                    0 | 43 | 60 => {
                        let len = 8 + 8 * usize::from(*ip.get(at + 1)?);
                        next = ip[at];
                        at += len;
                        if at > total {
                            return None;
                        }
                    }
                    _ => break,
                }
            }
            let addr = |at: usize| {
                let mut a = [0; 16];
                a.copy_from_slice(&ip[at..at + 16]);
                Ip(a)
            };
            let (src, dst) = (addr(8), addr(24));
            // RFC 4291 2.5.5.2: mapped addresses never appear on a wire.
            if src.is_v4() || dst.is_v4() || src.is_multicast() {
                return None;
            }
            let tos = (ip[0] << 4) | (ip[1] >> 4);
            Some(Packet { src, dst, proto: next, ttl: ip[7], tos, ip, payload: &ip[at..], via })
        }
        _ => None,
    }
}
