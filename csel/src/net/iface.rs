//! Interfaces and routes of an instance, as applications see them.
//!
//! # Theory of operation
//! **Purpose.** One model from which SIOCGIF*, getifaddrs(3), rtnetlink, /proc/net and source address choice answer, so that they agree.
//! **How it works.** There are at most three interfaces: `lo` ([`LO`]) with 127.0.0.1/8 and ::1/128; `eth0` ([`ETH`]) if the instance has an address,
//! with those of [`crate::instance::Facts`]; and `eth1` ([`UP`]), the [`uplink`], with those it was given out there. Everything on the segment is on link,
//! what is not goes out by the uplink. [`class`] says what an address is
//! to us, [`source`] chooses the source address for a destination (RFC 6724 as far as these interfaces can differ).
//! **Limits.** Interfaces cannot be made, renamed or taken down. **Locks.** None: facts do not change, and the uplink's are read under a sequence count.
//! **Failure.** ENODEV, ENETUNREACH, EADDRNOTAVAIL. **See also.** netdevice(7), [`super::option`]'s ioctls.
use super::addr::Ip;
use crate::errno::{Errno, Result};
use crate::instance::{Cx, Prefix};
use crate::net::link::uplink::{self, Prefixes};

/// `lo`'s index.
pub const LO: u32 = 1;
/// `eth0`'s index.
pub const ETH: u32 = 2;
/// `eth1`'s index: the uplink.
pub const UP: u32 = 3;
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
    pub fn addrs(&self, cx: &Cx<'_>) -> Prefixes {
        let fixed = match self.index {
            LO => &LOOPBACK[..],
            ETH => cx.facts().addrs(),
            _ => return uplink::addrs(cx),
        };
        let mut list = Prefixes::empty(Prefix::default());
        list.take(fixed.iter().copied());
        list
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
        UP if cx.inst.net.link.uplink.is_on() => Some(Iface {
            index,
            name: "eth1",
            mtu: uplink::net(cx).mtu,
            flags: (up | libc::IFF_BROADCAST | libc::IFF_MULTICAST) as u32,
            mac: cx.inst.net.link.uplink.mac(),
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
    (LO..=UP).filter_map(|n| by_index(cx, n))
}

/// The interface that has this address.
pub fn of_addr(cx: &Cx<'_>, ip: Ip) -> Option<u32> {
    if ip.is_loopback() {
        Some(LO)
    } else if cx.facts().addrs().iter().any(|p| p.ip == ip) {
        Some(ETH)
    } else if uplink::owns(cx, ip) {
        Some(UP)
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
    } else if cx.is_local(ip) {
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
        || ip.0[15] & 1 == 1 && cx.inst.net.link.uplink.is_on() && uplink::addrs(cx).iter().any(|p| broadcast_of(p) == Some(ip))
}

/// The source address for `dst`, which a socket without one would use; `device` is an interface it is bound to, or 0. ENETUNREACH: no route.
#[inline]
pub fn source(cx: &Cx<'_>, dst: Ip, device: u32) -> Result<Ip> {
    let v4 = dst.is_v4();
    let home = if v4 { Ip::LOOPBACK4 } else { Ip::LOOPBACK6 };
    if dst.is_unspecified() || dst.is_loopback() {
        return Ok(home);
    }
    if cx.is_local(dst) {
        return Ok(dst);
    }
    if device == LO {
        return if dst.is_multicast() { Ok(home) } else { Err(Errno::ENETUNREACH) };
    }
    // RFC 6724 5, rules 2 (scope) and 8 (longest prefix): an address on the destination's network, else the first of the right scope.
    let out = uplink::addrs(cx);
    let ours = if leads_out(cx, dst, device) { out.as_slice() } else { cx.facts().addrs() };
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

/// Does a packet to `dst` go out of the host? By the interface if one is named; else if no network of the segment has it.
fn leads_out(cx: &Cx<'_>, dst: Ip, device: u32) -> bool {
    match device {
        UP => true,
        ETH => false,
        _ => {
            cx.inst.net.link.uplink.is_on()
                && !dst.is_multicast()
                && dst != Ip::BROADCAST
                && !cx.facts().addrs().iter().any(|p| dst.matches(p.ip, p.len))
        }
    }
}

/// The MTU of the way to a peer: what a router said of it, or its interface's.
pub fn mtu_to(cx: &Cx<'_>, ip: Ip, device: u32) -> u32 {
    match device {
        UP => uplink::hop(cx, ip).map_or_else(|_| uplink::net(cx).mtu, |h| h.mtu),
        _ => cx.facts().mtu,
    }
}

/// The interface a packet to this address leaves by.
pub fn device_to(cx: &Cx<'_>, ip: Ip) -> u32 {
    if of_addr(cx, ip).is_some() {
        LO
    } else if leads_out(cx, ip, 0) {
        UP
    } else {
        ETH
    }
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
