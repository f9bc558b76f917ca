//! ICMP and ICMPv6: echo, errors sent, errors received.
//!
//! # Theory of operation
//! **Purpose.** The stack's own part of ICMP: it answers echo requests, says when a port is closed, and brings others' errors to the socket whose
//! packet they are about.
//! **How it works.** [`input`] looks at the type. An error quotes the packet it is about; its addresses and ports lead to the connection
//! ([`tcp::icmp_error`]), the UDP socket, the ping socket or the raw sockets. What errno an error means is Linux's icmp_err_convert.
//! **Limits.** No redirects, no router messages, no timestamps; errors inside the host are not rate limited.
//! **Locks.** None held when packets are sent or other protocols called. **Failure.** Nonsense is dropped.
//! **See also.** RFC 792, RFC 4443, RFC 1122 3.2.2, icmp(7).
use super::output::{self, Ipv, Sum};
use super::queue::{Data, QUOTE, Report};
use super::{ping, raw, udp};
use crate::errno::Errno;
use crate::instance::Cx;
use crate::net::addr::{Endpoint, Ip, Tuple};
use crate::net::link::uplink;
use crate::net::{Packet, iface, tcp};
use crate::stats::bump;

const V4: u8 = libc::IPPROTO_ICMP as u8;
const V6: u8 = libc::IPPROTO_ICMPV6 as u8;

/// An ICMP packet for us.
pub fn input(cx: &Cx<'_>, p: &Packet<'_>, ifindex: u32) {
    bump(&cx.inst.stats.icmp_in_msgs);
    let m = p.payload;
    if m.len() < 8 {
        return;
    }
    let v4 = p.dst.is_v4();
    let start = if v4 { 0 } else { output::pseudo(p.src, p.dst, p.proto, m.len()) };
    if output::fold(output::sum(start, m)) != 0 {
        bump(&cx.inst.stats.ip_in_errors);
        return;
    }
    match (v4, m[0]) {
        (true, 8) if !p.dst.is_multicast() && !iface::is_broadcast(cx, p.dst) => echo(cx, p, 0),
        (false, 128) => echo(cx, p, 129),
        (true, 0) | (false, 129) => ping::input(cx, p, ifindex),
        (true, 3 | 11 | 12) | (false, 1..=4) => error(cx, p),
        _ => {}
    }
}

fn echo(cx: &Cx<'_>, p: &Packet<'_>, kind: u8) {
    let src = if p.dst.is_multicast() {
        match iface::source(cx, p.src, 0) {
            Ok(ip) => ip,
            Err(_) => return,
        }
    } else {
        p.dst
    };
    let head = [kind, 0, 0, 0];
    reply(cx, src, p.src, p.tos, &head, &p.payload[4..]);
}

/// Sends an ICMP message: four bytes (type, code, checksum), then `body`.
fn reply(cx: &Cx<'_>, src: Ip, dst: Ip, tos: u8, head: &[u8; 4], body: &[u8]) {
    let v4 = src.is_v4();
    let (proto, how) = if v4 { (V4, Sum::Plain(2)) } else { (V6, Sum::Pseudo(2)) };
    let ip = Ipv { src, dst, proto, ttl: 64, tos, df: false, echo: false };
    let Ok(hop) = output::way(cx, src, dst, 0) else { return };
    let pieces = [crate::gate::user::IoIn::new(body)];
    bump(&cx.inst.stats.icmp_out_msgs);
    let _ = output::send(cx, &ip, &Data::Headed(head, &pieces, 0, body.len()), how, &hop);
}

/// Sends an error about `p`: type, code, and the four bytes after the checksum. Never about an error, a group's or everybody's packet (RFC 1122).
pub fn complain(cx: &Cx<'_>, p: &Packet<'_>, kind: u8, code: u8, rest: u32) {
    let v4 = p.dst.is_v4();
    let group = p.dst.is_multicast() || iface::is_broadcast(cx, p.dst) || p.src.is_multicast() || p.src.is_unspecified();
    let about_error = match (p.proto, p.payload.first()) {
        (V4, Some(t)) if v4 => !matches!(t, 0 | 8),
        (V6, Some(t)) if !v4 => t & 0x80 == 0,
        _ => false,
    };
    if group || about_error {
        return;
    }
    // RFC 1812 4.3.2.3: 576 bytes in all; RFC 4443 2.4: 1280.
    let most = if v4 { 576 - 20 - 8 } else { 1280 - 40 - 8 };
    let quote = &p.ip[..p.ip.len().min(most)];
    let mut body = [0; 4 + 1232];
    body[..4].copy_from_slice(&rest.to_be_bytes());
    body[4..4 + quote.len()].copy_from_slice(quote);
    // RFC 1812 4.3.2.5: network control precedence for IPv4 errors.
    let tos = if v4 { p.tos & 0x1e | 0xc0 } else { 0 };
    reply(cx, p.dst, p.src, tos, &[kind, code, 0, 0], &body[..4 + quote.len()]);
}

/// Nobody has the port of this packet.
pub fn unreachable_port(cx: &Cx<'_>, p: &Packet<'_>) {
    if p.dst.is_v4() { complain(cx, p, 3, 3, 0) } else { complain(cx, p, 1, 4, 0) }
}

/// Nobody has the protocol of this packet.
pub fn unreachable_protocol(cx: &Cx<'_>, p: &Packet<'_>) {
    if p.dst.is_v4() { complain(cx, p, 3, 2, 0) } else { complain(cx, p, 4, 1, 6) }
}

/// What an error means: errno, and does it end a connection? (icmp_err_convert, icmpv6_err_convert)
pub fn convert(v4: bool, kind: u8, code: u8) -> (Errno, bool) {
    if v4 {
        match (kind, code) {
            (3, 0) => (Errno::ENETUNREACH, false),
            (3, 1) => (Errno::EHOSTUNREACH, false),
            (3, 2) => (Errno::ENOPROTOOPT, true),
            (3, 3) => (Errno::ECONNREFUSED, true),
            (3, 4) => (Errno::EMSGSIZE, false),
            (3, 5) => (Errno::EOPNOTSUPP, false),
            (3, 6 | 9) => (Errno::ENETUNREACH, true),
            (3, 7) => (Errno::EHOSTDOWN, true),
            (3, 8) => (Errno(libc::ENONET as u16), true),
            (3, 11) => (Errno::ENETUNREACH, false),
            (3, 12) => (Errno::EHOSTUNREACH, false),
            (3, _) => (Errno::EHOSTUNREACH, true),
            (12, _) => (Errno::EPROTO, true),
            _ => (Errno::EHOSTUNREACH, false),
        }
    } else {
        match (kind, code) {
            (1, 0) => (Errno::ENETUNREACH, false),
            (1, 1 | 5 | 6) => (Errno::EACCES, true),
            (1, 2 | 3) => (Errno::EHOSTUNREACH, false),
            (1, 4) => (Errno::ECONNREFUSED, true),
            (1, _) => (Errno::EPROTO, false),
            (2, _) => (Errno::EMSGSIZE, false),
            (4, _) => (Errno::EPROTO, true),
            _ => (Errno::EHOSTUNREACH, false),
        }
    }
}

/// The packet an error quotes: protocol, source, destination, and what follows the headers.
fn quoted(b: &[u8], v4: bool) -> Option<(u8, Ip, Ip, &[u8])> {
    if v4 {
        let head = usize::from(b.first()? & 15) * 4;
        if b[0] >> 4 != 4 || head < 20 || b.len() < head + 8 || b[6] & 0x1f != 0 || b[7] != 0 {
            return None;
        }
        Some((b[9], Ip::v4([b[12], b[13], b[14], b[15]]), Ip::v4([b[16], b[17], b[18], b[19]]), &b[head..]))
    } else {
        if b.len() < 48 || b[0] >> 4 != 6 {
            return None;
        }
        let addr = |at: usize| {
            let mut a = [0; 16];
            a.copy_from_slice(&b[at..at + 16]);
            Ip(a)
        };
        Some((b[6], addr(8), addr(24), &b[40..]))
    }
}

/// An error about a packet of ours.
fn error(cx: &Cx<'_>, p: &Packet<'_>) {
    let v4 = p.dst.is_v4();
    let (m, kind, code) = (p.payload, p.payload[0], p.payload[1]);
    let Some((proto, src, dst, rest)) = quoted(&m[8..], v4) else { return };
    if !cx.is_local(src) {
        return;
    }
    let (errno, mut hard) = convert(v4, kind, code);
    let word = u32::from_be_bytes([m[4], m[5], m[6], m[7]]);
    let mtu = match (v4, kind, code) {
        (true, 3, 4) => Some(word & 0xffff),
        (false, 2, _) => Some(word),
        _ => None,
    };
    // A path too narrow ends nothing, but a datagram was lost (__udp4_lib_err).
    hard |= mtu.is_some() && i32::from(proto) != libc::IPPROTO_TCP;
    if let Some(mtu) = mtu.filter(|_| i32::from(proto) != libc::IPPROTO_TCP) {
        uplink::narrowed(cx, dst, mtu);
    }
    let mut report = Report {
        to: Endpoint::new(dst, 0),
        offender: p.src,
        errno: errno.0,
        origin: if v4 { libc::SO_EE_ORIGIN_ICMP } else { libc::SO_EE_ORIGIN_ICMP6 },
        kind,
        code,
        info: mtu.unwrap_or(0),
        len: 0,
        data: [0; QUOTE],
    };
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    match i32::from(proto) {
        libc::IPPROTO_TCP => {
            let about = Tuple { local: Endpoint::new(src, port(0)), remote: Endpoint::new(dst, port(2)) };
            let seq = u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]);
            tcp::icmp_error(cx, &about, seq, errno, hard, mtu);
        }
        libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE => {
            let lite = i32::from(proto) == libc::IPPROTO_UDPLITE;
            report.to.port = port(2);
            udp::icmp_error(cx, lite, &Endpoint::new(src, port(0)), &Endpoint::new(dst, port(2)), &report, &rest[8..], hard);
        }
        libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6 => ping::icmp_error(cx, &Endpoint::new(src, port(4)), &report, rest, hard),
        _ => {}
    }
    raw::icmp_error(cx, proto, src, dst, &report, rest, hard);
}
