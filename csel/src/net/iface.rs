//! Interfaces and routes of an instance, as applications see them.
//!
//! # Theory of operation
//! **Purpose.** One model from which SIOCGIF*, getifaddrs(3), rtnetlink, /proc/net and source address choice answer, so that they agree.
//! **How it works.** There are at most two interfaces: `lo` ([`LO`]) with 127.0.0.1/8 and ::1/128, and `eth0` ([`ETH`]) if the instance has an address,
//! with those of [`crate::instance::Facts`]. Everything on the segment is on link: an instance has no gateway. [`class`] says what an address is
//! to us, [`source`] chooses the source address for a destination (RFC 6724 as far as two interfaces can differ).
//! **Limits.** Interfaces cannot be made, renamed or taken down. **Locks.** None: facts do not change.
//! **Failure.** ENODEV, ENETUNREACH, EADDRNOTAVAIL. **See also.** netdevice(7), [`super::option`]'s ioctls.
use super::addr::Ip;
use crate::errno::{Errno, Result};
use crate::instance::{Cx, Prefix};

/// `lo`'s index.
pub const LO: u32 = 1;
/// `eth0`'s index.
pub const ETH: u32 = 2;
/// MTU of `lo`, as Linux shows it. (Packets are at most 65535 bytes long anyway.)
pub const LO_MTU: u32 = 65536;

/// One interface.
#[derive(Clone, Copy, Debug)]
pub struct Iface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: &'static str,
    /// Its MTU.
    pub mtu: u32,
    /// IFF_* flags.
    pub flags: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// ARPHRD_* type.
    pub hardware: u16,
}

const LOOPBACK: [Prefix; 2] = [Prefix { ip: Ip::LOOPBACK4, len: 8 }, Prefix { ip: Ip::LOOPBACK6, len: 128 }];

impl Iface {
    /// Its addresses.
    pub fn addrs(&self, cx: &Cx<'_>) -> &'static [Prefix] {
        if self.index == LO { &LOOPBACK } else { cx.facts().addrs() }
    }
}

/// The interface with this index.
pub fn by_index(cx: &Cx<'_>, index: u32) -> Option<Iface> {
    let up = libc::IFF_UP | libc::IFF_RUNNING;
    match index {
        LO => Some(Iface {
            index,
            name: "lo",
            mtu: LO_MTU,
            flags: (up | libc::IFF_LOOPBACK) as u32,
            mac: [0; 6],
            hardware: libc::ARPHRD_LOOPBACK,
        }),
        ETH if cx.facts().addr_count > 0 => Some(Iface {
            index,
            name: "eth0",
            mtu: cx.facts().mtu,
            flags: (up | libc::IFF_BROADCAST | libc::IFF_MULTICAST) as u32,
            mac: cx.facts().mac,
            hardware: libc::ARPHRD_ETHER,
        }),
        _ => None,
    }
}

/// The interface with this name (up to the first NUL).
pub fn by_name(cx: &Cx<'_>, name: &[u8]) -> Option<Iface> {
    let len = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    all(cx).find(|i| i.name.as_bytes() == &name[..len])
}

/// Every interface, by index.
pub fn all<'a>(cx: &'a Cx<'_>) -> impl Iterator<Item = Iface> + 'a {
    (LO..=ETH).filter_map(|n| by_index(cx, n))
}

/// The interface that has this address.
pub fn of_addr(cx: &Cx<'_>, ip: Ip) -> Option<u32> {
    if ip.is_loopback() {
        Some(LO)
    } else if cx.facts().addrs().iter().any(|p| p.ip == ip) {
        Some(ETH)
    } else {
        None
    }
}

/// The broadcast address of a prefix, if it has one.
pub fn broadcast_of(p: &Prefix) -> Option<Ip> {
    let a = u32::from_be_bytes(p.ip.as_v4()?);
    if p.len >= 31 {
        return None;
    }
    Some(Ip::v4((a | u32::MAX >> p.len).to_be_bytes()))
}

/// What an address is to this instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// `0.0.0.0` or `::`.
    Any,
    /// One of ours.
    Local,
    /// Limited or directed broadcast.
    Broadcast,
    /// A group.
    Multicast,
    /// Somebody else's.
    Remote,
}

/// What is this address to us?
#[inline]
pub fn class(cx: &Cx<'_>, ip: Ip) -> Class {
    if ip.is_unspecified() {
        Class::Any
    } else if ip.is_multicast() {
        Class::Multicast
    } else if ip.is_v4() && is_broadcast(cx, ip) {
        Class::Broadcast
    } else if cx.facts().is_local(ip) {
        Class::Local
    } else {
        Class::Remote
    }
}

/// Is it 255.255.255.255 or the broadcast address of a network of ours?
pub fn is_broadcast(cx: &Cx<'_>, ip: Ip) -> bool {
    ip == Ip::BROADCAST
        || ip == Ip::v4([127, 255, 255, 255])
        || ip.0[15] == 255 && cx.facts().addrs().iter().any(|p| broadcast_of(p) == Some(ip))
        || ip.0[15] & 1 == 1 && cx.facts().addrs().iter().any(|p| p.len > 24 && broadcast_of(p) == Some(ip))
}

/// The source address for `dst`, which a socket without one would use; `device` is an interface it is bound to, or 0. ENETUNREACH: no route.
#[inline]
pub fn source(cx: &Cx<'_>, dst: Ip, device: u32) -> Result<Ip> {
    let v4 = dst.is_v4();
    let home = if v4 { Ip::LOOPBACK4 } else { Ip::LOOPBACK6 };
    if dst.is_unspecified() || dst.is_loopback() {
        return Ok(home);
    }
    let ours = cx.facts().addrs();
    if ours.iter().any(|p| p.ip == dst) {
        return Ok(dst);
    }
    if device == LO {
        return if dst.is_multicast() { Ok(home) } else { Err(Errno::ENETUNREACH) };
    }
    // RFC 6724 5, rules 2 (scope) and 8 (longest prefix): an address on the destination's network, else the first of the right scope.
    let linkish = dst.is_link_local6() || !v4 && dst.is_multicast() && dst.0[1] & 15 <= 2;
    let fit = |p: &&Prefix| p.ip.is_v4() == v4;
    ours.iter()
        .filter(fit)
        .find(|p| dst.matches(p.ip, p.len))
        .or_else(|| ours.iter().filter(fit).find(|p| p.ip.is_link_local6() == linkish))
        .or_else(|| ours.iter().find(fit))
        .map(|p| p.ip)
        .ok_or(Errno::ENETUNREACH)
}

/// May a socket be bound to this address? `any` says IP_FREEBIND or IP_TRANSPARENT; `stream` a TCP socket; `scope` sin6_scope_id or the bound
/// device. EADDRNOTAVAIL if it is not ours.
pub fn may_bind(cx: &Cx<'_>, ip: Ip, scope: u32, any: bool, stream: bool) -> Result<()> {
    // in6_bind: a link-local address says nothing without its link.
    if ip.is_link_local6() {
        if scope == 0 {
            return Err(Errno::EINVAL);
        }
        by_index(cx, scope).ok_or(Errno::ENODEV)?;
    }
    match class(cx, ip) {
        Class::Multicast if stream && !ip.is_v4() => Err(Errno::EINVAL),
        Class::Remote if !any => Err(Errno::EADDRNOTAVAIL),
        _ => Ok(()),
    }
}
