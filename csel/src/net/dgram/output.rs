//! Building IP packets and sending them.
//!
//! # Theory of operation
//! **Purpose.** From "this payload, from here, to there" to frames in the receivers' rings.
//! **How it works.** [`send`] writes the IP header, the protocol's header and the application's bytes straight into the ring ([`tx::reserve`]); what is
//! larger than the hop's MTU is cut into fragments (RFC 791 3.2, RFC 8200 4.5).
//! **Limits.** No IP options are sent except a raw socket's own. Checksums: the IPv4 header's always; a payload's where its protocol says so.
//! **Locks.** May be called under a body's lock. **Failure.** EMSGSIZE if it may not be cut; routing errors; a full ring loses the packet.
//! **See also.** [`super::super::link::tx`].
use super::Body;
use super::queue::Data;
use crate::errno::{Errno, Result};
use crate::instance::Cx;
use crate::net::addr::Ip;
use crate::net::iface;
use crate::net::link::tx::{self, Hop, Refused};
use crate::net::link::uplink;
use crate::stats::bump;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What goes into an IP header.
#[derive(Clone, Copy, Debug)]
pub struct Ipv {
    /// Source address.
    pub src: Ip,
    /// Destination address.
    pub dst: Ip,
    /// IPPROTO_*.
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// May not be cut into fragments (IPv4: the DF bit).
    pub df: bool,
    /// A broadcast or multicast packet is also for ourselves.
    pub echo: bool,
}

/// How the protocol's checksum is filled in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sum {
    /// Not at all.
    None,
    /// Over the payload only, at this offset (ICMP).
    Plain(usize),
    /// Over the payload and the pseudo header, at this offset (UDP, ICMPv6).
    Pseudo(usize),
}

/// Adds bytes to a ones' complement sum (RFC 1071).
pub fn sum(mut acc: u32, b: &[u8]) -> u32 {
    let (words, rest) = b.as_chunks::<2>();
    for w in words {
        acc += u32::from(u16::from_be_bytes(*w));
        // 65535 words of 65535 each still fit, longer packets do not exist.
    }
    if let [last] = rest {
        acc += u32::from(*last) << 8;
    }
    acc
}

/// The checksum of a sum.
pub fn fold(mut acc: u32) -> u16 {
    while acc > 0xffff {
        acc = (acc & 0xffff) + (acc >> 16);
    }
    !(acc as u16)
}

/// The sum of the pseudo header (RFC 768, RFC 8200 8.1).
pub fn pseudo(src: Ip, dst: Ip, proto: u8, len: usize) -> u32 {
    let skip = if src.is_v4() { 12 } else { 0 };
    sum(sum(u32::from(proto) + (len as u32 >> 16) + (len as u32 & 0xffff), &src.0[skip..]), &dst.0[skip..])
}

/// Fills a protocol's checksum into its packet.
pub fn fill(how: Sum, src: Ip, dst: Ip, proto: u8, payload: &mut [u8]) {
    let (at, start) = match how {
        Sum::None => return,
        Sum::Plain(at) => (at, 0),
        Sum::Pseudo(at) => (at, pseudo(src, dst, proto, payload.len())),
    };
    if at + 2 > payload.len() {
        return;
    }
    payload[at..at + 2].fill(0);
    let mut c = fold(sum(start, payload));
    // RFC 768: zero means none.
    if c == 0 && how != Sum::Plain(at) {
        c = 0xffff;
    }
    payload[at..at + 2].copy_from_slice(&c.to_be_bytes());
}

/// A number for IPv4's identification and IPv6's fragment header.
pub(crate) fn next_id(cx: &Cx<'_>) -> u32 {
    let word: &AtomicU32 = &cx.inst.net.dgram.frags.ident;
    word.fetch_add(1, Relaxed)
}

/// Writes an IPv4 header of 20 bytes; `frag` is the flags and offset word.
pub(crate) fn header4(b: &mut [u8], ip: &Ipv, total: usize, id: u16, frag: u16) {
    b[0] = 0x45;
    b[1] = ip.tos;
    b[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    b[4..6].copy_from_slice(&id.to_be_bytes());
    b[6..8].copy_from_slice(&frag.to_be_bytes());
    b[8] = ip.ttl;
    b[9] = ip.proto;
    b[10..12].fill(0);
    b[12..16].copy_from_slice(&ip.src.0[12..]);
    b[16..20].copy_from_slice(&ip.dst.0[12..]);
    let c = fold(sum(0, &b[..20]));
    b[10..12].copy_from_slice(&c.to_be_bytes());
}

/// Writes an IPv6 header of 40 bytes.
pub(crate) fn header6(b: &mut [u8], ip: &Ipv, len: usize, next: u8) {
    b[..4].copy_from_slice(&(0x6000_0000 | u32::from(ip.tos) << 20).to_be_bytes());
    b[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    b[6] = next;
    b[7] = ip.ttl;
    b[8..24].copy_from_slice(&ip.src.0);
    b[24..40].copy_from_slice(&ip.dst.0);
}

/// The interface a group's packets of this socket leave by; 0 for the system's choice.
pub(crate) fn multicast_device(b: &Body, group: Ip) -> u32 {
    if b.opt.device != 0 {
        b.opt.device
    } else if group.is_v4() {
        b.opt.multicast_if
    } else {
        b.opt.multicast_if6
    }
}

/// The way for a packet that leaves by interface `device` (0: any).
pub(crate) fn way(cx: &Cx<'_>, src: Ip, dst: Ip, device: u32) -> Result<Hop> {
    let class = iface::class(cx, dst);
    let group = matches!(class, iface::Class::Multicast | iface::Class::Broadcast);
    // A group on lo stays with us; a packet for lo needs no segment.
    if device == iface::LO && class != iface::Class::Remote || group && src.is_loopback() || dst == Ip::v4([127, 255, 255, 255]) {
        return Ok(Hop { port: cx.facts().port, generation: 0, loopback: true, mtu: 65535 });
    }
    if device == iface::LO {
        return Err(Errno::ENETUNREACH);
    }
    let hop = match device {
        iface::UP if class != iface::Class::Local => uplink::hop(cx, dst),
        _ => tx::hop(cx, src, dst),
    };
    if hop.is_err() {
        bump(&cx.inst.stats.ip_out_no_routes);
    }
    hop
}

/// Room in the hop's ring. `Ok(None)`: full, the packet is lost, as on any wire.
fn room<'a>(cx: &Cx<'a>, hop: &Hop, len: usize) -> Result<Option<tx::Frame<'a>>> {
    match tx::reserve(cx, hop, len) {
        Ok(f) => Ok(Some(f)),
        Err(Refused::Full) => Ok(None),
        Err(Refused::Gone) => Err(Errno::EHOSTUNREACH),
    }
}

/// Sends one IP packet, in fragments if it must be; false if the receiver's ring was full (a fragment that is lost is not told of).
/// EMSGSIZE if it is too long, or longer than the MTU and may not be cut.
pub fn send(cx: &Cx<'_>, ip: &Ipv, data: &Data<'_>, how: Sum, hop: &Hop) -> Result<bool> {
    let head = if ip.src.is_v4() { 20 } else { 40 };
    let total = head + data.len();
    if total > hop.mtu as usize {
        if ip.df {
            return Err(Errno::EMSGSIZE);
        }
        return fragments(cx, ip, data, how, hop).map(|()| true);
    }
    let Some(mut frame) = room(cx, hop, total)? else { return Ok(false) };
    let b = frame.ip();
    if head == 20 {
        header4(b, ip, total, if ip.df { 0 } else { next_id(cx) as u16 }, if ip.df { 0x4000 } else { 0 });
    } else {
        header6(b, ip, data.len(), ip.proto);
    }
    data.copy(0, &mut b[head..])?;
    fill(how, ip.src, ip.dst, ip.proto, &mut b[head..]);
    commit(cx, ip, frame);
    Ok(true)
}

fn commit<'a>(cx: &Cx<'a>, ip: &Ipv, mut frame: tx::Frame<'a>) {
    if !ip.echo {
        frame.no_echo();
    }
    frame.commit(cx);
}

/// A checksum over data that lies in pieces.
fn sum_of(data: &Data<'_>, start: u32) -> u16 {
    let (mut acc, mut at) = (start, 0);
    let mut chunk = [0; 512];
    while at < data.len() {
        let n = (data.len() - at).min(chunk.len());
        // A bad pointer is found again when the bytes are sent.
        let _ = data.copy(at, &mut chunk[..n]);
        acc = sum(acc, &chunk[..n]);
        acc = (acc & 0xffff) + (acc >> 16);
        at += n;
    }
    fold(acc)
}

fn fragments(cx: &Cx<'_>, ip: &Ipv, data: &Data<'_>, how: Sum, hop: &Hop) -> Result<()> {
    let v4 = ip.src.is_v4();
    let head = if v4 { 20 } else { 48 };
    let most = (hop.mtu as usize - head) & !7;
    if most == 0 || v4 && data.len() > 65535 - 20 {
        return Err(Errno::EMSGSIZE);
    }
    // The checksum covers the whole; its field must be zero (or its own value) in what is summed.
    let patch = match how {
        Sum::None => None,
        Sum::Plain(at) => Some((at, sum_of(data, 0))),
        Sum::Pseudo(at) => Some((at, sum_of(data, pseudo(ip.src, ip.dst, ip.proto, data.len())))),
    };
    let id = next_id(cx);
    let mut at = 0;
    while at < data.len() {
        let n = (data.len() - at).min(most);
        let more = at + n < data.len();
        let Some(mut frame) = room(cx, hop, head + n)? else { return Ok(()) };
        let b = frame.ip();
        if v4 {
            header4(b, ip, head + n, id as u16, (at / 8) as u16 | if more { 0x2000 } else { 0 });
        } else {
            header6(b, ip, 8 + n, 44);
            b[40] = ip.proto;
            b[41] = 0;
            b[42..44].copy_from_slice(&(at as u16 | u16::from(more)).to_be_bytes());
            b[44..48].copy_from_slice(&id.to_be_bytes());
        }
        data.copy(at, &mut b[head..])?;
        if let Some((field, c)) = patch
            && at == 0
            && field + 2 <= n
        {
            b[head + field..head + field + 2].copy_from_slice(&c.to_be_bytes());
        }
        commit(cx, ip, frame);
        at += n;
    }
    Ok(())
}
