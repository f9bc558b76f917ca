//! Control messages: what an application says with a datagram, and what we say with one.
//!
//! # Theory of operation
//! **Purpose.** cmsg(3) in both directions, for UDP, ping and raw sockets.
//! **How it works.** [`parse`] walks msg_control as __ip_cmsg_send and ip6_datagram_send_ctl do and collects [`Said`]. [`Encoder`] writes as
//! put_cmsg() does: a message that does not fit is cut off and MSG_CTRUNC set, so the application's buffer is never left with a half header.
//! **Limits.** Ancillary data that changes the packet's extension headers (IPV6_HOPOPTS, IPV6_RTHDR) is refused with EINVAL.
//! **Locks.** None. **Failure.** EINVAL for a malformed or unknown message.
//! **See also.** cmsg(3), ip(7), ipv6(7).
use super::queue::{Head, Report};
use crate::errno::{Errno, Result};
use crate::instance::Cx;
use crate::net::addr::{Endpoint, Ip};
use crate::net::iface;
use crate::net::option::{Options, flag};
use core::mem::size_of;

const HEADER: usize = 16;

const fn align(n: usize) -> usize {
    (n + 7) & !7
}

/// What an application said in control messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// IP_PKTINFO, IPV6_PKTINFO: the source address.
    pub src: Option<Ip>,
    /// IP_PKTINFO, IPV6_PKTINFO: the interface, 0 for any.
    pub ifindex: u32,
    /// IP_TTL, IPV6_HOPLIMIT.
    pub ttl: Option<u8>,
    /// IP_TOS, IPV6_TCLASS.
    pub tos: Option<u8>,
    /// IPV6_DONTFRAG.
    pub dontfrag: Option<bool>,
    /// UDP_SEGMENT.
    pub segment: Option<u16>,
    /// IP_PROTOCOL.
    pub protocol: Option<u8>,
}

fn int(b: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(b.get(..4)?.try_into().ok()?))
}

/// IPV6_HOPLIMIT, IPV6_TCLASS: -1 is the default.
fn octet_or_default(b: &[u8]) -> Result<Option<u8>> {
    match int(b) {
        Some(-1) => Ok(None),
        Some(n @ 0..=255) => Ok(Some(n as u8)),
        _ => Err(Errno::EINVAL),
    }
}

/// Reads msg_control of a socket of family AF_INET6 (`v6`) or AF_INET.
pub fn parse(mut control: &[u8], v6: bool) -> Result<Said> {
    let mut said = Said::default();
    while control.len() >= HEADER {
        let len = u64::from_ne_bytes(control[..8].try_into().unwrap_or_default()) as usize;
        let level = i32::from_ne_bytes(control[8..12].try_into().unwrap_or_default());
        let kind = i32::from_ne_bytes(control[12..16].try_into().unwrap_or_default());
        if len < HEADER || len > control.len() {
            return Err(Errno::EINVAL);
        }
        one(&mut said, level, kind, &control[HEADER..len], v6)?;
        control = control.get(align(len)..).unwrap_or_default();
    }
    Ok(said)
}

fn one(said: &mut Said, level: i32, kind: i32, b: &[u8], v6: bool) -> Result<()> {
    let bad = Err(Errno::EINVAL);
    match (level, kind) {
        // __sock_cmsg_send: a mark and a priority mean nothing here; SCM_RIGHTS and SCM_CREDENTIALS are ignored off AF_UNIX.
        (libc::SOL_SOCKET, libc::SO_MARK | libc::SO_PRIORITY | libc::SO_TIMESTAMPING | 65) if b.len() == 4 => {}
        (libc::SOL_SOCKET, libc::SCM_TXTIME) if b.len() == 8 => {}
        (libc::SOL_SOCKET, libc::SCM_RIGHTS | libc::SCM_CREDENTIALS) => {}
        (libc::SOL_SOCKET, _) => return bad,
        (libc::IPPROTO_UDP, libc::UDP_SEGMENT) => match b.try_into() {
            Ok(n) => said.segment = Some(u16::from_ne_bytes(n)),
            Err(_) => return bad,
        },
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO | libc::IPV6_2292PKTINFO) if v6 => {
            if b.len() < 20 {
                return bad;
            }
            let mut a = [0; 16];
            a.copy_from_slice(&b[..16]);
            said.src = Some(Ip(a)).filter(|a| !a.is_unspecified());
            said.ifindex = int(&b[16..]).unwrap_or(0) as u32;
        }
        (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT | libc::IPV6_2292HOPLIMIT) if v6 && b.len() == 4 => said.ttl = octet_or_default(b)?,
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) if v6 && b.len() == 4 => said.tos = octet_or_default(b)?,
        (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG) if v6 && b.len() == 4 => match int(b) {
            Some(n @ 0..=1) => said.dontfrag = Some(n == 1),
            _ => return bad,
        },
        (libc::IPPROTO_IPV6, libc::IPV6_FLOWINFO) if v6 && b.len() >= 4 => {}
        (libc::IPPROTO_IPV6, _) => return bad,
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            if b.len() != 12 {
                return bad;
            }
            said.ifindex = int(b).unwrap_or(0) as u32;
            said.src = Some(Ip::v4([b[4], b[5], b[6], b[7]])).filter(|a| !a.is_unspecified());
        }
        (libc::IPPROTO_IP, libc::IP_TTL) if b.len() == 4 => match int(b) {
            Some(n @ 1..=255) => said.ttl = Some(n as u8),
            _ => return bad,
        },
        (libc::IPPROTO_IP, libc::IP_TOS) => match (b.len(), int(b)) {
            (4, Some(n @ 0..=255)) => said.tos = Some(n as u8),
            (1, _) => said.tos = Some(b[0]),
            _ => return bad,
        },
        // IP_RETOPTS with no options is nothing; IP_PROTOCOL (52) is for raw sockets.
        (libc::IPPROTO_IP, libc::IP_RETOPTS) if b.is_empty() => {}
        (libc::IPPROTO_IP, 52) if b.len() == 4 => match int(b) {
            Some(n @ 1..=255) => said.protocol = Some(n as u8),
            _ => return bad,
        },
        (libc::IPPROTO_IP, _) => return bad,
        // Levels that are not this protocol's are skipped, as Linux does.
        _ => {}
    }
    Ok(())
}

/// Writes control messages into an application's room.
pub struct Encoder<'a> {
    room: &'a mut [u8],
    at: usize,
    cut: bool,
}

impl<'a> Encoder<'a> {
    /// Into this room.
    pub fn new(room: &'a mut [u8]) -> Self {
        Self { room, at: 0, cut: false }
    }
    /// Adds a message (put_cmsg).
    pub fn put(&mut self, level: i32, kind: i32, data: &[u8]) {
        let left = self.room.len() - self.at;
        if left < HEADER {
            self.cut = true;
            return;
        }
        let whole = HEADER + data.len();
        let len = whole.min(left);
        self.cut |= len < whole;
        let b = &mut self.room[self.at..];
        b[..8].copy_from_slice(&(len as u64).to_ne_bytes());
        b[8..12].copy_from_slice(&level.to_ne_bytes());
        b[12..16].copy_from_slice(&kind.to_ne_bytes());
        b[HEADER..len].copy_from_slice(&data[..len - HEADER]);
        let space = align(whole).min(left);
        b[len..space].fill(0);
        self.at += space;
    }
    /// Bytes written, and was anything cut off?
    pub fn finish(self) -> (usize, bool) {
        (self.at, self.cut)
    }
}

fn sockaddr(at: &Endpoint, family: i32) -> ([u8; 28], usize) {
    let mut out = [0; 28];
    let n = at.emit(family as u16, &mut out);
    (out, n)
}

/// The address of ours that a reply to a datagram for `dst` would come from (ipi_spec_dst).
fn specific(cx: &Cx<'_>, head: &Head) -> Ip {
    let dst = head.dst.ip;
    if dst.is_multicast() || iface::is_broadcast(cx, dst) { iface::source(cx, head.src.ip, 0).unwrap_or(Ip::ANY4) } else { dst }
}

/// What recvmsg(2) tells of a received datagram, by the options of its socket.
pub fn received(cx: &Cx<'_>, opt: &Options, v6: bool, head: &Head, drops: u32, out: &mut Encoder<'_>) {
    stamp(opt, head.stamp, out);
    if opt.has(flag::RXQ_OVFL) && drops != 0 {
        out.put(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &drops.to_ne_bytes());
    }
    let v4 = head.dst.ip.is_v4();
    if v6 && opt.has(flag::PKTINFO6) {
        out.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &pktinfo6(head));
    }
    if v4 { received4(cx, opt, head, out) } else { received6(opt, head, out) }
}

fn pktinfo6(head: &Head) -> [u8; 20] {
    let mut b = [0; 20];
    b[..16].copy_from_slice(&head.dst.ip.0);
    b[16..].copy_from_slice(&head.ifindex.to_ne_bytes());
    b
}

fn received4(cx: &Cx<'_>, opt: &Options, head: &Head, out: &mut Encoder<'_>) {
    let ip = libc::IPPROTO_IP;
    if opt.has(flag::PKTINFO) {
        let mut b = [0; 12];
        b[..4].copy_from_slice(&head.ifindex.to_ne_bytes());
        b[4..8].copy_from_slice(&specific(cx, head).0[12..]);
        b[8..].copy_from_slice(&head.dst.ip.0[12..]);
        out.put(ip, libc::IP_PKTINFO, &b);
    }
    if opt.has(flag::RECVTTL) {
        out.put(ip, libc::IP_TTL, &i32::from(head.ttl).to_ne_bytes());
    }
    if opt.has(flag::RECVTOS) {
        out.put(ip, libc::IP_TOS, &[head.tos]);
    }
    if opt.has(flag::ORIGDST) {
        let (sa, n) = sockaddr(&head.dst, libc::AF_INET);
        out.put(ip, libc::IP_ORIGDSTADDR, &sa[..n]);
    }
    if opt.has(flag::FRAGSIZE) && head.fragment != 0 {
        out.put(ip, 25, &i32::from(head.fragment).to_ne_bytes());
    }
}

fn received6(opt: &Options, head: &Head, out: &mut Encoder<'_>) {
    let ip = libc::IPPROTO_IPV6;
    if opt.has(flag::HOPLIMIT6) {
        out.put(ip, libc::IPV6_HOPLIMIT, &i32::from(head.ttl).to_ne_bytes());
    }
    if opt.has(flag::TCLASS6) {
        out.put(ip, libc::IPV6_TCLASS, &i32::from(head.tos).to_ne_bytes());
    }
    if opt.has(flag::PKTINFO_2292) {
        out.put(ip, libc::IPV6_2292PKTINFO, &pktinfo6(head));
    }
    if opt.has(flag::HOPLIMIT_2292) {
        out.put(ip, libc::IPV6_2292HOPLIMIT, &i32::from(head.ttl).to_ne_bytes());
    }
    if opt.has(flag::ORIGDST6) {
        let (sa, n) = sockaddr(&head.dst, libc::AF_INET6);
        out.put(ip, libc::IPV6_ORIGDSTADDR, &sa[..n]);
    }
    if opt.has(flag::FRAGSIZE6) && head.fragment != 0 {
        out.put(ip, 77, &i32::from(head.fragment).to_ne_bytes());
    }
}

fn stamp(opt: &Options, at: u64, out: &mut Encoder<'_>) {
    if opt.timestamp == 0 || at == 0 {
        return;
    }
    let nanos = opt.timestamp & 2 != 0;
    let mut b = [0; size_of::<libc::timespec>()];
    let part = at % 1_000_000_000;
    b[..8].copy_from_slice(&(at / 1_000_000_000).to_ne_bytes());
    b[8..].copy_from_slice(&(if nanos { part } else { part / 1000 }).to_ne_bytes());
    // SO_TIMESTAMP_NEW 63, SO_TIMESTAMPNS_NEW 64: the same layout on 64-bit machines.
    let kind = match (nanos, opt.timestamp & 4 != 0) {
        (false, false) => libc::SO_TIMESTAMP,
        (true, false) => libc::SO_TIMESTAMPNS,
        (false, true) => 63,
        (true, true) => 64,
    };
    out.put(libc::SOL_SOCKET, kind, &b);
}

/// What recvmsg(2) with MSG_ERRQUEUE tells: struct sock_extended_err and the offender's address (ip(7)).
pub fn reported(r: &Report, v6: bool, out: &mut Encoder<'_>) {
    let mut b = [0; 16 + 28];
    b[..4].copy_from_slice(&u32::from(r.errno).to_ne_bytes());
    b[4] = r.origin;
    b[5] = r.kind;
    b[6] = r.code;
    b[8..12].copy_from_slice(&r.info.to_ne_bytes());
    let mut at = 16;
    // A local error has no offender: AF_UNSPEC.
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let (mut sa, n) = sockaddr(&Endpoint::new(r.offender, 0), family);
    if r.offender == Ip::ANY6 {
        sa = [0; 28];
    }
    b[at..at + n].copy_from_slice(&sa[..n]);
    at += n;
    if v6 {
        out.put(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, &b[..at]);
    } else {
        out.put(libc::IPPROTO_IP, libc::IP_RECVERR, &b[..at]);
    }
}
