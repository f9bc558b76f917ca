//! Addresses: the endpoint of a socket and its C form.
//!
//! One type serves both families: an IPv4 address is kept v4-mapped (RFC 4291 2.5.5.2) in 16 bytes, so tables have one key and an AF_INET6
//! socket that talks IPv4 needs no conversion. All-zero bytes are "nothing" (family unspecified).
use crate::arena::Shared;
use crate::errno::{Errno, Result};
use smoltcp::wire::{IpAddress, Ipv4Address, Ipv6Address};

/// An IP address, IPv4 as v4-mapped. `::` (all zero) is the IPv6 unspecified address, `::ffff:0.0.0.0` the IPv4 one.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Shared, Default, PartialOrd, Ord)]
pub struct Ip(pub [u8; 16]);

impl Ip {
    /// `0.0.0.0`.
    pub const ANY4: Self = Self::v4([0, 0, 0, 0]);
    /// `::`.
    pub const ANY6: Self = Self([0; 16]);
    /// `127.0.0.1`.
    pub const LOOPBACK4: Self = Self::v4([127, 0, 0, 1]);
    /// `::1`.
    pub const LOOPBACK6: Self = Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    /// `255.255.255.255`.
    pub const BROADCAST: Self = Self::v4([255; 4]);

    /// An IPv4 address.
    pub const fn v4(a: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3]])
    }
    /// Is it IPv4 (v4-mapped)?
    #[inline]
    pub const fn is_v4(self) -> bool {
        let z = self.0;
        z[10] == 0xff && z[11] == 0xff && z[0] | z[1] | z[2] | z[3] | z[4] | z[5] | z[6] | z[7] | z[8] | z[9] == 0
    }
    /// The four bytes, if IPv4.
    pub const fn as_v4(self) -> Option<[u8; 4]> {
        if self.is_v4() { Some([self.0[12], self.0[13], self.0[14], self.0[15]]) } else { None }
    }
    /// `0.0.0.0` or `::`?
    #[inline]
    pub fn is_unspecified(self) -> bool {
        self == Self::ANY4 || self == Self::ANY6
    }
    /// 127/8 or ::1?
    #[inline]
    pub fn is_loopback(self) -> bool {
        self == Self::LOOPBACK6 || (self.is_v4() && self.0[12] == 127)
    }
    /// 224/4 or ff00::/8?
    #[inline]
    pub fn is_multicast(self) -> bool {
        if self.is_v4() { self.0[12] & 0xf0 == 0xe0 } else { self.0[0] == 0xff }
    }
    /// fe80::/10?
    pub fn is_link_local6(self) -> bool {
        self.0[0] == 0xfe && self.0[1] & 0xc0 == 0x80
    }
    /// As smoltcp's type.
    #[inline]
    pub fn wire(self) -> IpAddress {
        match self.as_v4() {
            Some(a) => IpAddress::Ipv4(Ipv4Address::from(a)),
            None => IpAddress::Ipv6(Ipv6Address::from(self.0)),
        }
    }
    /// Do the first `bits` bits (of the family's own 32 or 128) agree?
    pub fn matches(self, net: Self, bits: u8) -> bool {
        if self.is_v4() != net.is_v4() {
            return false;
        }
        let skip = if self.is_v4() { 96 } else { 0 };
        let bits = usize::from(bits) + skip;
        let (whole, rest) = (bits / 8, bits % 8);
        self.0[..whole] == net.0[..whole] && (rest == 0 || (self.0[whole] ^ net.0[whole]) >> (8 - rest) == 0)
    }
}

impl From<core::net::IpAddr> for Ip {
    fn from(a: core::net::IpAddr) -> Self {
        match a {
            core::net::IpAddr::V4(a) => Self::v4(a.octets()),
            core::net::IpAddr::V6(a) => Self(a.octets()),
        }
    }
}
impl From<IpAddress> for Ip {
    #[inline]
    fn from(a: IpAddress) -> Self {
        match a {
            IpAddress::Ipv4(a) => Self::v4(a.octets()),
            IpAddress::Ipv6(a) => Self(a.octets()),
        }
    }
}

impl core::fmt::Display for Ip {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.as_v4() {
            Some(a) => core::fmt::Display::fmt(&core::net::Ipv4Addr::from(a), f),
            None => core::fmt::Display::fmt(&core::net::Ipv6Addr::from(self.0), f),
        }
    }
}
impl core::fmt::Debug for Ip {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// An address and a port (host order); for raw sockets the port is a protocol number. `scope` is an IPv6 interface index.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Shared, Default, Debug)]
pub struct Endpoint {
    /// The address.
    pub ip: Ip,
    /// The port, host byte order.
    pub port: u16,
    _pad: u16,
    /// sin6_scope_id.
    pub scope: u32,
}

impl Endpoint {
    /// An endpoint without scope.
    #[inline]
    pub const fn new(ip: Ip, port: u16) -> Self {
        Self { ip, port, _pad: 0, scope: 0 }
    }
    /// With a scope id.
    pub const fn with_scope(self, scope: u32) -> Self {
        Self { scope, ..self }
    }

    /// Reads a `sockaddr` given for a socket of `family` (AF_INET, AF_INET6, or AF_NETLINK, whose nl_pid becomes the scope).
    /// EINVAL: too short; EAFNOSUPPORT: another family. An AF_INET6 socket's v4-mapped address becomes IPv4.
    pub fn parse(family: u16, sa: &[u8]) -> Result<Self> {
        if sa.len() < 2 {
            return Err(Errno::EINVAL);
        }
        let af = u16::from_ne_bytes([sa[0], sa[1]]);
        if i32::from(family) == libc::AF_INET {
            if sa.len() < 16 {
                return Err(Errno::EINVAL);
            }
            if i32::from(af) != libc::AF_INET {
                return Err(Errno::EAFNOSUPPORT);
            }
            Ok(Self::new(Ip::v4([sa[4], sa[5], sa[6], sa[7]]), u16::from_be_bytes([sa[2], sa[3]])))
        } else if i32::from(family) == libc::AF_NETLINK {
            if sa.len() < 12 || i32::from(af) != libc::AF_NETLINK {
                return Err(Errno::EINVAL);
            }
            Ok(Self::default().with_scope(u32::from_ne_bytes([sa[4], sa[5], sa[6], sa[7]])))
        } else {
            // Linux takes SIN6_LEN_RFC2133 (24 bytes: without the scope id) as the least.
            if sa.len() < 24 {
                return Err(Errno::EINVAL);
            }
            if i32::from(af) != libc::AF_INET6 {
                return Err(Errno::EAFNOSUPPORT);
            }
            let mut ip = [0; 16];
            ip.copy_from_slice(&sa[8..24]);
            // A scope says something only of addresses that need one (__ipv6_addr_needs_scope_id): fe80::/10, ff01::/16, ff02::/16.
            let needed = Ip(ip).is_link_local6() || ip[0] == 0xff && matches!(ip[1] & 15, 1 | 2);
            let scope = if sa.len() >= 28 && needed { u32::from_ne_bytes([sa[24], sa[25], sa[26], sa[27]]) } else { 0 };
            Ok(Self::new(Ip(ip), u16::from_be_bytes([sa[2], sa[3]])).with_scope(scope))
        }
    }

    /// Writes the `sockaddr` an application with a socket of `family` sees; the bytes used (16, 28, or 12 for AF_NETLINK).
    pub fn emit(&self, family: u16, out: &mut [u8; 28]) -> usize {
        *out = [0; 28];
        out[2..4].copy_from_slice(&self.port.to_be_bytes());
        if i32::from(family) == libc::AF_INET {
            out[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            out[4..8].copy_from_slice(&self.ip.0[12..]);
            16
        } else if i32::from(family) == libc::AF_NETLINK {
            out[..4].copy_from_slice(&[libc::AF_NETLINK as u8, 0, 0, 0]);
            out[4..8].copy_from_slice(&self.scope.to_ne_bytes());
            12
        } else {
            out[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            out[8..24].copy_from_slice(&self.ip.0);
            out[24..28].copy_from_slice(&self.scope.to_ne_bytes());
            28
        }
    }
}

impl core::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.ip.is_v4() { write!(f, "{}:{}", self.ip, self.port) } else { write!(f, "[{}]:{}", self.ip, self.port) }
    }
}

/// The local side and the remote side of a connection, as seen from here.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Shared, Default, Debug)]
pub struct Tuple {
    /// Our end.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
}
