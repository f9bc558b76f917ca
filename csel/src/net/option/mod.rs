//! Socket options and ioctls.
//!
//! # Theory of operation
//! **Purpose.** getsockopt(2), setsockopt(2), ioctl(2): every option of every kind of socket, with Linux's sizes, defaults and errors.
//! **How it works.** [`Options`] is what a socket has; it lies in the open description. [`get`] and [`set`] pick the level: [`socket`], [`ip`], [`ip6`], TCP's own.
//! Whoever must know at once is told ([`tcp::option_changed`], [`dgram::option_changed`]); what other sockets ask about lies in [`bits`].
//! **Limits.** Each level's file names what it refuses. **Locks.** The open description's (rank SOCK). **Failure.** ENOPROTOOPT, EINVAL, EOPNOTSUPP.
//! **See also.** getsockopt(2), socket(7), ip(7), ipv6(7), tcp(7), udp(7), raw(7).
use crate::arena::Shared;
use crate::call::Kind;
use crate::errno::{Errno, Result};
use crate::fd::Held;
use crate::instance::Cx;
use crate::net::addr::Ip;
use crate::net::{dgram, iface, tcp};
use core::sync::atomic::Ordering::Relaxed;

mod ioctl;
mod ip;
mod ip6;
mod socket;

pub use ioctl::{ioctl, size as ioctl_size};

/// What [`crate::fd::Sock::bits`] says: options that other sockets' calls look at (see [`super::port`]).
pub mod bits {
    /// SO_REUSEADDR.
    pub const REUSEADDR: u8 = 1;
    /// SO_REUSEPORT.
    pub const REUSEPORT: u8 = 2;
    /// IPV6_V6ONLY.
    pub const V6ONLY: u8 = 4;
}

/// Options that no hot path looks at; all of SOL_SOCKET, IPPROTO_IP and IPPROTO_IPV6 that a socket can have. Those that are only on or off
/// are bits of [`Options::on`], named in [`flag`].
#[repr(C)]
#[derive(Shared, Clone, Copy, Debug)]
pub struct Options {
    /// On or off: [`flag`].
    pub on: u64,
    /// SO_SNDBUF as getsockopt(2) shows it (doubled).
    pub sndbuf: u32,
    /// SO_RCVBUF as getsockopt(2) shows it (doubled).
    pub rcvbuf: u32,
    /// SO_LINGER: seconds, or -1 for off.
    pub linger: i32,
    /// What SO_LINGER says with l_onoff 0: the seconds last given.
    pub linger_time: i32,
    /// SO_KEEPALIVE.
    pub keepalive: bool,
    /// SO_REUSEADDR.
    pub reuseaddr: bool,
    /// SO_REUSEPORT.
    pub reuseport: bool,
    /// IPV6_V6ONLY.
    pub v6only: bool,
    /// SO_BROADCAST.
    pub broadcast: bool,
    /// SO_OOBINLINE.
    pub oobinline: bool,
    /// SO_RCVBUF or SO_SNDBUF was set (SO_BUF_LOCK's bits): no automatic growth.
    pub buf_lock: u8,
    /// SO_TIMESTAMP (1: microseconds, 2: nanoseconds; 4 added: the _NEW form), 0 for none.
    pub timestamp: u8,
    /// SO_RCVLOWAT.
    pub rcvlowat: u32,
    /// IP_TTL, 0 for the default 64.
    pub ttl: u8,
    /// IP_TOS.
    pub tos: u8,
    /// IP_MULTICAST_TTL.
    pub multicast_ttl: u8,
    /// IP_MTU_DISCOVER.
    pub mtu_discover: u8,
    /// IPV6_MTU_DISCOVER.
    pub mtu_discover6: u8,
    /// IP_MINTTL.
    pub min_ttl: u8,
    /// IPV6_MINHOPCOUNT.
    pub min_hops: u8,
    /// IPV6_TCLASS.
    pub tclass: u8,
    /// IPV6_UNICAST_HOPS, -1 for the default 64.
    pub hops: i16,
    /// IPV6_MULTICAST_HOPS, -1 for the default 1.
    pub multicast_hops: i16,
    /// IPV6_MTU, 0 for none.
    pub mtu6: u32,
    /// IP_MULTICAST_IF's interface, 0 for any.
    pub multicast_if: u32,
    /// IP_MULTICAST_IF's address.
    pub multicast_addr: Ip,
    /// IPV6_MULTICAST_IF.
    pub multicast_if6: u32,
    /// IP_UNICAST_IF (host order).
    pub unicast_if: u32,
    /// IPV6_UNICAST_IF (host order).
    pub unicast_if6: u32,
    /// SO_BINDTODEVICE, SO_BINDTOIFINDEX: 0 for any.
    pub device: u32,
    /// SO_PRIORITY.
    pub priority: u32,
    /// SO_MARK.
    pub mark: u32,
    /// SO_BUSY_POLL.
    pub busy_poll: u32,
    /// SO_BUSY_POLL_BUDGET.
    pub busy_budget: u32,
    /// SO_PEEK_OFF, -1 for off.
    pub peek_off: i32,
    /// SO_INCOMING_CPU.
    pub incoming_cpu: i32,
    /// SO_MAX_PACING_RATE.
    pub pacing: u64,
    /// SO_TIMESTAMPING's flags.
    pub timestamping: u32,
    /// IPV6_ADDR_PREFERENCES.
    pub preferences: u32,
    /// IP_LOCAL_PORT_RANGE: high half the last port, low half the first; 0 for the system's.
    pub port_range: u32,
    /// ICMP_FILTER (IPv4) or the first word of ICMP6_FILTER's eight.
    pub icmp_filter: [u32; 8],
    /// IPV6_CHECKSUM (raw sockets): the offset, -1 for none.
    pub checksum: i32,
    /// UDP_SEGMENT, 0 for none.
    pub gso: u16,
    /// UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV: kept, everything is covered.
    pub coverage: [u16; 2],
}

/// SO_RCVBUF and SO_SNDBUF of a datagram socket by default (net.core.rmem_default).
pub const MEM_DEFAULT: u32 = 212_992;
/// The largest value that SO_RCVBUF and SO_SNDBUF take, before they are doubled (net.core.rmem_max since Linux 6.16).
pub const MEM_MAX: u32 = 4_194_304;
/// TCP's SO_RCVBUF by default (net.ipv4.tcp_rmem).
pub const TCP_RMEM: u32 = 131_072;
/// TCP's SO_SNDBUF by default (net.ipv4.tcp_wmem).
pub const TCP_WMEM: u32 = 16_384;

impl Options {
    /// What a new socket has.
    pub fn fresh(cx: &Cx<'_>) -> Self {
        // CSEL_SNDBUF and CSEL_RCVBUF are as if the application had set them: doubled.
        let buffer = |set: crate::config::Size, usual: u32| if set.0 == 0 { usual } else { set.0.min(u64::from(MEM_MAX)) as u32 * 2 };
        Self {
            on: flag::DEFAULT,
            sndbuf: buffer(cx.config().sndbuf, TCP_WMEM),
            rcvbuf: buffer(cx.config().rcvbuf, TCP_RMEM),
            linger: -1,
            linger_time: 0,
            keepalive: false,
            reuseaddr: false,
            reuseport: false,
            v6only: false,
            broadcast: false,
            oobinline: false,
            buf_lock: 0,
            timestamp: 0,
            rcvlowat: 1,
            ttl: 0,
            tos: 0,
            multicast_ttl: 1,
            mtu_discover: 1,
            mtu_discover6: 1,
            min_ttl: 0,
            min_hops: 0,
            tclass: 0,
            hops: -1,
            multicast_hops: -1,
            mtu6: 0,
            multicast_if: 0,
            multicast_addr: Ip::ANY4,
            multicast_if6: 0,
            unicast_if: 0,
            unicast_if6: 0,
            device: 0,
            priority: 0,
            mark: 0,
            busy_poll: 0,
            busy_budget: 8,
            peek_off: -1,
            incoming_cpu: -1,
            pacing: u64::MAX,
            timestamping: 0,
            preferences: 0,
            port_range: 0,
            icmp_filter: [0; 8],
            checksum: -1,
            gso: 0,
            coverage: [0; 2],
        }
    }
    /// Is this on?
    #[inline]
    pub const fn has(&self, flag: u64) -> bool {
        self.on & flag != 0
    }
}

/// Bits of [`Options::on`].
pub mod flag {
    macro_rules! flags {
        ($($name:ident = $bit:literal $help:literal;)*) => { $(#[doc = $help] pub const $name: u64 = 1 << $bit;)* };
    }
    flags! {
        DEBUG = 0 "SO_DEBUG.";
        DONTROUTE = 1 "SO_DONTROUTE.";
        NO_CHECK = 2 "SO_NO_CHECK.";
        RXQ_OVFL = 3 "SO_RXQ_OVFL.";
        WIFI_STATUS = 4 "SO_WIFI_STATUS.";
        SELECT_ERR_QUEUE = 5 "SO_SELECT_ERR_QUEUE.";
        ZEROCOPY = 6 "SO_ZEROCOPY.";
        LOCK_FILTER = 7 "SO_LOCK_FILTER.";
        NOFCS = 8 "SO_NOFCS.";
        PREFER_BUSY_POLL = 9 "SO_PREFER_BUSY_POLL.";
        HDRINCL = 10 "IP_HDRINCL.";
        FREEBIND = 11 "IP_FREEBIND, IPV6_FREEBIND.";
        TRANSPARENT = 12 "IP_TRANSPARENT, IPV6_TRANSPARENT.";
        RECVERR = 13 "IP_RECVERR.";
        RECVERR6 = 14 "IPV6_RECVERR.";
        PKTINFO = 15 "IP_PKTINFO.";
        RECVTTL = 16 "IP_RECVTTL.";
        RECVTOS = 17 "IP_RECVTOS.";
        RECVOPTS = 18 "IP_RECVOPTS.";
        RETOPTS = 19 "IP_RETOPTS.";
        ORIGDST = 20 "IP_RECVORIGDSTADDR.";
        PASSSEC = 21 "IP_PASSSEC.";
        CHECKSUM = 22 "IP_CHECKSUM.";
        FRAGSIZE = 23 "IP_RECVFRAGSIZE.";
        NODEFRAG = 24 "IP_NODEFRAG.";
        BIND_NO_PORT = 25 "IP_BIND_ADDRESS_NO_PORT.";
        MULTICAST_LOOP = 26 "IP_MULTICAST_LOOP.";
        MULTICAST_ALL = 27 "IP_MULTICAST_ALL.";
        ROUTER_ALERT = 28 "IP_ROUTER_ALERT.";
        RFC4884 = 29 "IP_RECVERR_RFC4884.";
        PKTINFO6 = 30 "IPV6_RECVPKTINFO.";
        PKTINFO_2292 = 31 "IPV6_2292PKTINFO.";
        HOPLIMIT6 = 32 "IPV6_RECVHOPLIMIT.";
        HOPLIMIT_2292 = 33 "IPV6_2292HOPLIMIT.";
        TCLASS6 = 34 "IPV6_RECVTCLASS.";
        ORIGDST6 = 35 "IPV6_RECVORIGDSTADDR.";
        PATHMTU6 = 36 "IPV6_RECVPATHMTU.";
        HOPOPTS6 = 37 "IPV6_RECVHOPOPTS.";
        DSTOPTS6 = 38 "IPV6_RECVDSTOPTS.";
        RTHDR6 = 39 "IPV6_RECVRTHDR.";
        FRAGSIZE6 = 40 "IPV6_RECVFRAGSIZE.";
        MULTICAST_LOOP6 = 41 "IPV6_MULTICAST_LOOP.";
        MULTICAST_ALL6 = 42 "IPV6_MULTICAST_ALL.";
        DONTFRAG6 = 43 "IPV6_DONTFRAG.";
        FLOWINFO6 = 44 "IPV6_FLOWINFO.";
        FLOWINFO_SEND6 = 45 "IPV6_FLOWINFO_SEND.";
        AUTOFLOW6 = 46 "IPV6_AUTOFLOWLABEL.";
        HDRINCL6 = 47 "IPV6_HDRINCL.";
        RFC4884_6 = 48 "IPV6_RECVERR_RFC4884.";
        CORK = 49 "UDP_CORK.";
        NO_CHECK6_TX = 50 "UDP_NO_CHECK6_TX.";
        NO_CHECK6_RX = 51 "UDP_NO_CHECK6_RX.";
        HOPOPTS_2292 = 52 "IPV6_2292HOPOPTS.";
        DSTOPTS_2292 = 53 "IPV6_2292DSTOPTS.";
        RTHDR_2292 = 54 "IPV6_2292RTHDR.";
        ROUTER_ALERT6 = 55 "IPV6_ROUTER_ALERT.";
        RCVPRIORITY = 56 "SO_RCVPRIORITY.";
        RCVMARK = 57 "SO_RCVMARK.";
        ISOLATE6 = 58 "IPV6_ROUTER_ALERT_ISOLATE.";
        UDP_GRO = 59 "UDP_GRO.";
    }
    /// What a new socket has on.
    pub const DEFAULT: u64 = MULTICAST_LOOP | MULTICAST_ALL | MULTICAST_LOOP6 | MULTICAST_ALL6 | AUTOFLOW6;
}

impl Options {
    /// Turns a flag on or off.
    pub fn set_flag(&mut self, flag: u64, on: bool) -> Result<()> {
        if on {
            self.on |= flag;
        } else {
            self.on &= !flag;
        }
        Ok(())
    }
}

/// Writes an int, cut to the room there is.
fn int(out: &mut [u8], v: i32) -> Result<usize> {
    bytes(out, &v.to_ne_bytes())
}

/// Writes bytes, cut to the room there is.
fn bytes(out: &mut [u8], v: &[u8]) -> Result<usize> {
    let n = v.len().min(out.len());
    out[..n].copy_from_slice(&v[..n]);
    Ok(n)
}

/// Writes an int as IPPROTO_IP does: one byte where there is no room for an int and the value fits.
fn octet(out: &mut [u8], v: i32) -> Result<usize> {
    if (1..4).contains(&out.len()) && (0..=255).contains(&v) { bytes(&mut out[..1], &[v as u8]) } else { int(out, v) }
}

/// Is a TCP socket listening?
fn listens(cx: &Cx<'_>, s: &Held) -> bool {
    super::port::is_listening(cx, s.id())
}

/// The interface a connected socket's packets leave by, and whom they go to; ENOTCONN.
fn peer_device(cx: &Cx<'_>, s: &Held) -> Result<(u32, Ip)> {
    let peer = match s.kind() {
        Kind::Tcp => tcp::peer(cx, s),
        _ => dgram::peer(cx, s),
    }
    .map_err(|_| Errno::ENOTCONN)?;
    Ok((iface::device_to(cx, peer.ip), peer.ip))
}

/// getsockopt(2): writes at most `out.len()` bytes of the value; the bytes written. All levels; TCP's own come from [`super::tcp::getsockopt`].
pub fn get(cx: &Cx<'_>, s: &Held, level: i32, name: i32, out: &mut [u8]) -> Result<usize> {
    let kind = s.kind();
    let icmp = i32::from(s.protocol.load(Relaxed));
    match level {
        _ if matches!(kind, Kind::Epoll | Kind::None) => Err(Errno::ENOTSOCK),
        libc::SOL_SOCKET => socket::get(cx, s, name, out),
        libc::SOL_NETLINK if kind == Kind::Netlink => super::netlink::option(name).and_then(|()| int(out, 0)),
        _ if kind == Kind::Netlink => Err(Errno::ENOPROTOOPT),
        libc::IPPROTO_TCP if kind == Kind::Tcp => tcp::getsockopt(cx, s, name, out),
        libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE if kind == Kind::Udp && (level == libc::IPPROTO_UDP || icmp == level) => {
            ip::get_udp(cx, s, name, out)
        }
        libc::IPPROTO_IP => ip::get(cx, s, name, out),
        libc::IPPROTO_IPV6 => ip6::get(cx, s, name, out),
        // SOL_RAW; ICMP_FILTER.
        255 if kind == Kind::Raw && !s.is_v6() => match (name, icmp) {
            (1, libc::IPPROTO_ICMP) => ip::get_filter(cx, s, out),
            (1, _) => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::ENOPROTOOPT),
        },
        255 if kind == Kind::Raw && name == 7 => ip6::get(cx, s, name, out),
        libc::IPPROTO_ICMPV6 if kind == Kind::Raw && s.is_v6() && icmp == libc::IPPROTO_ICMPV6 && name == 1 => ip::get_filter(cx, s, out),
        _ if s.is_v6() => Err(Errno::ENOPROTOOPT),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// setsockopt(2).
pub fn set(cx: &Cx<'_>, s: &Held, level: i32, name: i32, value: &[u8]) -> Result<()> {
    let kind = s.kind();
    let icmp = i32::from(s.protocol.load(Relaxed));
    match level {
        _ if matches!(kind, Kind::Epoll | Kind::None) => Err(Errno::ENOTSOCK),
        libc::SOL_SOCKET => socket::set(cx, s, name, value),
        libc::SOL_NETLINK if kind == Kind::Netlink => super::netlink::option(name),
        _ if kind == Kind::Netlink => Err(Errno::ENOPROTOOPT),
        libc::IPPROTO_TCP if kind == Kind::Tcp => return tcp::setsockopt(cx, s, name, value),
        libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE if kind == Kind::Udp && (level == libc::IPPROTO_UDP || icmp == level) => {
            ip::set_udp(cx, s, name, value)
        }
        libc::IPPROTO_IP => ip::set(cx, s, name, value),
        libc::IPPROTO_IPV6 => ip6::set(cx, s, name, value),
        255 if kind == Kind::Raw && !s.is_v6() => match (name, icmp) {
            (1, libc::IPPROTO_ICMP) => ip::set_filter(cx, s, value),
            (1, _) => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::ENOPROTOOPT),
        },
        255 if kind == Kind::Raw && name == 7 => ip6::set(cx, s, name, value),
        libc::IPPROTO_ICMPV6 if kind == Kind::Raw && s.is_v6() && icmp == libc::IPPROTO_ICMPV6 && name == 1 => ip::set_filter(cx, s, value),
        _ => Err(Errno::ENOPROTOOPT),
    }?;
    match kind {
        Kind::Tcp => tcp::option_changed(cx, s),
        _ => dgram::option_changed(cx, s),
    }
    Ok(())
}
