//! Frames of the station's own making.
//!
//! One place that knows how Ethernet, IPv4, IPv6, UDP and ICMPv6 headers follow each other, over `smoltcp::wire`'s formats for what is inside (ARP,
//! neighbour discovery, DHCP). A [`Frame`] is small: nothing the station says of itself is longer than 600 bytes.
use crate::net::addr::Ip;
use crate::net::dgram::output::{self, Ipv, Sum};

/// Bytes of an Ethernet address.
pub type Mac = [u8; 6];
/// To everybody.
pub const EVERYBODY: Mac = [0xff; 6];
/// Bytes of an Ethernet header.
pub const ETHERNET: usize = super::super::rx::ETHERNET;

/// EtherTypes.
pub const IPV4: u16 = 0x0800;
/// ARP.
pub const ARP: u16 = 0x0806;
/// IPv6.
pub const IPV6: u16 = 0x86dd;

/// Takes frames that go out on the wire.
pub trait Wire {
    /// Sends a frame in two pieces, the Ethernet header and the rest. What cannot be sent is lost, as on any wire.
    fn send(&mut self, header: &[u8; ETHERNET], rest: &[u8]);
    /// Gives an IP packet of the station's own making to the instance.
    fn deliver(&mut self, ip: &[u8]);
}

/// An Ethernet header.
pub fn header(to: Mac, from: Mac, kind: u16) -> [u8; ETHERNET] {
    let mut h = [0; ETHERNET];
    h[..6].copy_from_slice(&to);
    h[6..12].copy_from_slice(&from);
    h[12..].copy_from_slice(&kind.to_be_bytes());
    h
}

/// What follows an Ethernet header.
pub struct Frame {
    bytes: [u8; 700],
    len: usize,
}

impl Frame {
    /// `len` zero bytes.
    pub fn zeros(len: usize) -> Self {
        let bytes = [0; 700];
        let len = len.min(bytes.len());
        Self { bytes, len }
    }
    /// The bytes.
    pub fn get(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
    /// The bytes.
    pub fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
    /// An IP packet around `fill`'s `len` bytes, whose checksum is where `how` says.
    pub fn ip(src: Ip, dst: Ip, proto: u8, ttl: u8, how: Sum, len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let ip = Ipv { src, dst, proto, ttl, tos: 0, df: false, echo: false };
        let head = if src.is_v4() { 20 } else { 40 };
        let mut f = Self::zeros(head + len);
        let whole = f.len;
        let (h, body) = f.bytes[..whole].split_at_mut(head);
        fill(body);
        output::fill(how, src, dst, proto, body);
        if head == 20 {
            output::header4(h, &ip, whole, 0, 0);
        } else {
            output::header6(h, &ip, whole - head, proto);
        }
        f
    }
    /// A UDP datagram around `fill`'s `len` bytes.
    pub fn udp(src: (Ip, u16), dst: (Ip, u16), len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        Self::ip(src.0, dst.0, libc::IPPROTO_UDP as u8, 64, Sum::Pseudo(6), 8 + len, |b| {
            b[..2].copy_from_slice(&src.1.to_be_bytes());
            b[2..4].copy_from_slice(&dst.1.to_be_bytes());
            let all = b.len() as u16;
            b[4..6].copy_from_slice(&all.to_be_bytes());
            fill(&mut b[8..]);
        })
    }
}

/// The Ethernet address of a group's or everybody's packets (RFC 1112, RFC 2464).
pub fn group(ip: Ip) -> Option<Mac> {
    match ip.as_v4() {
        _ if ip == Ip::BROADCAST => Some(EVERYBODY),
        Some(a) if ip.is_multicast() => Some([1, 0, 0x5e, a[1] & 0x7f, a[2], a[3]]),
        None if ip.is_multicast() => Some([0x33, 0x33, ip.0[12], ip.0[13], ip.0[14], ip.0[15]]),
        _ => None,
    }
}

/// The link-local address of an interface (RFC 4291 2.5.1: EUI-64), or any address of a /64 prefix made from it.
pub fn eui64(prefix: Ip, mac: Mac) -> Ip {
    let mut a = prefix.0;
    a[8..].copy_from_slice(&[mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]]);
    Ip(a)
}

/// fe80::.
pub const LINK_LOCAL: Ip = Ip([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
/// ff02::1.
pub const ALL_NODES: Ip = Ip([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
/// ff02::2.
pub const ALL_ROUTERS: Ip = Ip([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);

/// The solicited-node group of an address.
pub fn solicited(ip: Ip) -> Ip {
    let a = ip.0;
    Ip([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a[13], a[14], a[15]])
}
