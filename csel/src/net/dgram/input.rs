//! The one entrance for packets: IP header checks and the way to the protocol.
//!
//! # Theory of operation
//! **Purpose.** Whatever a link delivers is checked here once; everything behind works on a [`Packet`] whose lengths are true.
//! **How it works.** RFC 791 and RFC 8200 checks as ip_rcv() and ip6_rcv_core() make them; trailing bytes beyond the header's own length are cut off.
//! Packets for addresses that are not ours are counted and dropped: an instance does not forward.
//! **Limits.** IP checksums are not verified: shared memory does not flip bits, and segments inside the host carry none.
//! **Locks.** None held on entry or exit; callees take their own. **Failure.** A packet that makes no sense is counted and dropped.
//! **See also.** [`super::super::link::rx`].
use crate::instance::Cx;
use crate::net::addr::Ip;
use crate::net::{Packet, tcp};
use crate::stats::bump;

/// Largest chain of IPv6 extension headers that is followed.
const CHAIN: usize = 8;

/// An IP packet from a link, not yet checked beyond "it is as long as its frame": checks it (version, lengths, is it for us), reassembles, and
/// gives it to raw sockets, TCP, UDP, ICMP. This is the network replica's one entrance.
pub fn input(cx: &Cx<'_>, ip: &[u8], loopback: bool) {
    let Some(p) = parse(ip, loopback) else {
        bump(&cx.inst.stats.ip_in_errors);
        return;
    };
    if !(p.dst.is_multicast() || p.dst == Ip::BROADCAST || cx.facts().is_local(p.dst)) {
        bump(&cx.inst.stats.ip_in_addr_errors);
        return;
    }
    deliver(cx, &p);
}

/// A whole packet for us.
fn deliver(cx: &Cx<'_>, p: &Packet<'_>) {
    match i32::from(p.proto) {
        libc::IPPROTO_TCP => tcp::input(cx, p),
        _ => {}
    }
}

fn word(b: &[u8], at: usize) -> usize {
    usize::from(b[at]) << 8 | usize::from(b[at + 1])
}

/// Splits a packet; `None` if its headers make no sense.
pub fn parse(ip: &[u8], loopback: bool) -> Option<Packet<'_>> {
    match ip.first()? >> 4 {
        4 => {
            let head = usize::from(ip[0] & 15) * 4;
            if ip.len() < 20 || head < 20 {
                return None;
            }
            let total = word(ip, 2);
            if total < head || total > ip.len() {
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
                loopback,
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
            Some(Packet { src, dst, proto: next, ttl: ip[7], tos, ip, payload: &ip[at..], loopback })
        }
        _ => None,
    }
}
