//! trace: one strace-like line per call, in a buffer on the stack.
//!
//! Purpose: `CSEL_TRACE` shows what the replica answered and why, in the form a reader of strace(1) knows:
//!
//! ```text
//! [1234] connect(3, 10.111.0.2:80) = -1 EINPROGRESS (SYN sent)
//! [1234] recv(3, "GET / HTTP/1.1\r\n"..., 4096, MSG_DONTWAIT) = 78
//! [1234] socket(AF_NETLINK, SOCK_RAW, 0) = passed (family not ours)
//! ```
//!
//! How it works: [`Line`] is built argument by argument and ended by [`Line::ok`], [`Line::fail`] or [`Line::passed`];
//! the edge writes [`Line::bytes`] with one raw write, so lines of several threads do not mix. Flags and constants are
//! named from the tables below; unknown bits are shown as hexadecimal.
//!
//! Limits: a line is at most [`LINE_MAX`] bytes and what does not fit is cut before the newline; 32 bytes of data are shown.
//! Locks: none, no allocation. Failure: none. See also: `call` (who fills it), strace(1).
use core::fmt::{self, Write as _};
use core::net::SocketAddr;

/// The longest line, newline included.
pub const LINE_MAX: usize = 512;

/// How many bytes of data a line shows.
const SHOWN: usize = 32;

/// A line in the making.
pub struct Line {
    len: usize,
    args: u8,
    bytes: [u8; LINE_MAX],
}

impl fmt::Write for Line {
    /// Keeps what fits, always leaving room for the newline.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let n = text.len().min(LINE_MAX - 1 - self.len);
        self.bytes[self.len..self.len + n].copy_from_slice(&text.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

impl Line {
    /// Begins the line of one call.
    #[must_use]
    pub fn new(tid: u32, call: &str) -> Self {
        let mut line = Self { len: 0, args: 0, bytes: [0; LINE_MAX] };
        let _ = write!(line, "[{tid}] {call}(");
        line
    }

    /// One more argument.
    pub fn arg(&mut self, value: impl fmt::Display) -> &mut Self {
        if self.args > 0 {
            let _ = self.write_str(", ");
        }
        self.args += 1;
        let _ = write!(self, "{value}");
        self
    }

    /// Ends: the call returned `value`.
    pub fn ok(&mut self, value: impl fmt::Display) -> &mut Self {
        let _ = write!(self, ") = {value}");
        self
    }

    /// Ends: the call failed; `reason` says more than errno can, or is empty.
    pub fn fail(&mut self, errno: impl fmt::Display, reason: &str) -> &mut Self {
        let _ = write!(self, ") = -1 {errno}");
        self.reason(reason)
    }

    /// Ends: the kernel was given the call.
    pub fn passed(&mut self, reason: &str) -> &mut Self {
        let _ = self.write_str(") = passed");
        self.reason(reason)
    }

    fn reason(&mut self, reason: &str) -> &mut Self {
        if !reason.is_empty() {
            let _ = write!(self, " ({reason})");
        }
        self
    }

    /// The line, newline included.
    pub fn bytes(&mut self) -> &[u8] {
        self.bytes[self.len] = b'\n';
        &self.bytes[..=self.len]
    }
}

/// Data as strace shows it: quoted, escaped, cut after 32 bytes.
#[derive(Debug)]
pub struct Data<'a>(pub &'a [u8]);

impl fmt::Display for Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for b in self.0.iter().take(SHOWN) {
            write!(f, "{}", b.escape_ascii())?;
        }
        f.write_str(if self.0.len() > SHOWN { "\"..." } else { "\"" })
    }
}

/// An address, or `NULL`.
#[derive(Debug)]
pub struct Address(pub Option<SocketAddr>);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("NULL"),
        }
    }
}

/// Bits with names.
pub struct Flags(pub u32, pub &'static [(i32, &'static str)]);

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0;
        let mut first = true;
        for &(bits, name) in self.1 {
            let bits = bits as u32;
            if bits != 0 && left & bits == bits {
                left &= !bits;
                f.write_str(if first { "" } else { "|" })?;
                f.write_str(name)?;
                first = false;
            }
        }
        match (left, first) {
            (0, true) => f.write_char('0'),
            (0, false) => Ok(()),
            (_, true) => write!(f, "{left:#x}"),
            (_, false) => write!(f, "|{left:#x}"),
        }
    }
}

/// A constant with a name, or its number.
pub struct Constant(pub i32, pub &'static [(i32, &'static str)]);

impl fmt::Display for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1.iter().find(|(value, _)| *value == self.0) {
            Some((_, name)) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

/// The type argument of socket(2): a constant and two flags.
pub struct SocketType(pub i32);

impl fmt::Display for SocketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.0 & 0xf;
        Constant(kind, SOCK).fmt(f)?;
        let flags = self.0 & !0xf;
        if flags != 0 { write!(f, "|{}", Flags(flags as u32, SOCK_FLAGS)) } else { Ok(()) }
    }
}

/// `names!(A B)` is `&[(libc::A, "A"), (libc::B, "B")]`.
macro_rules! names {
    ($(#[doc = $doc:literal] $table:ident = $($name:ident)+;)+) => {
        $(#[doc = $doc] pub static $table: &[(i32, &str)] = &[$((libc::$name as i32, stringify!($name))),+];)+
    };
}

names! {
    /// Address families.
    AF = AF_UNSPEC AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET AF_VSOCK;
    /// Socket types.
    SOCK = SOCK_STREAM SOCK_DGRAM SOCK_RAW SOCK_SEQPACKET;
    /// Flags in a socket type.
    SOCK_FLAGS = SOCK_CLOEXEC SOCK_NONBLOCK;
    /// Protocols.
    IPPROTO = IPPROTO_IP IPPROTO_ICMP IPPROTO_TCP IPPROTO_UDP IPPROTO_IPV6 IPPROTO_ICMPV6 IPPROTO_RAW;
    /// Flags of send and recv.
    MSG = MSG_OOB MSG_PEEK MSG_DONTROUTE MSG_CTRUNC MSG_TRUNC MSG_DONTWAIT MSG_EOR MSG_WAITALL MSG_CONFIRM MSG_NOSIGNAL
          MSG_MORE MSG_WAITFORONE MSG_ERRQUEUE MSG_CMSG_CLOEXEC MSG_FASTOPEN;
    /// Events of poll(2).
    POLL = POLLIN POLLPRI POLLOUT POLLERR POLLHUP POLLNVAL POLLRDNORM POLLRDBAND POLLWRNORM POLLWRBAND POLLRDHUP;
    /// Events of epoll(7).
    EPOLL = EPOLLIN EPOLLPRI EPOLLOUT EPOLLERR EPOLLHUP EPOLLRDNORM EPOLLRDBAND EPOLLWRNORM EPOLLWRBAND EPOLLRDHUP
            EPOLLEXCLUSIVE EPOLLWAKEUP EPOLLONESHOT EPOLLET;
    /// Operations of epoll_ctl(2).
    EPOLL_CTL = EPOLL_CTL_ADD EPOLL_CTL_DEL EPOLL_CTL_MOD;
    /// How of shutdown(2).
    SHUT = SHUT_RD SHUT_WR SHUT_RDWR;
    /// Levels of setsockopt(2).
    SOL = SOL_SOCKET IPPROTO_IP IPPROTO_TCP IPPROTO_UDP IPPROTO_IPV6 IPPROTO_RAW;
    /// Options of SOL_SOCKET.
    SO = SO_DEBUG SO_REUSEADDR SO_TYPE SO_ERROR SO_DONTROUTE SO_BROADCAST SO_SNDBUF SO_RCVBUF SO_KEEPALIVE SO_OOBINLINE SO_PRIORITY
         SO_LINGER SO_REUSEPORT SO_RCVLOWAT SO_SNDLOWAT SO_RCVTIMEO SO_SNDTIMEO SO_BINDTODEVICE SO_TIMESTAMP SO_ACCEPTCONN SO_PEERCRED
         SO_SNDBUFFORCE SO_RCVBUFFORCE SO_MARK SO_PROTOCOL SO_DOMAIN SO_BUSY_POLL SO_INCOMING_CPU SO_ZEROCOPY;
    /// Options of IPPROTO_TCP.
    TCP = TCP_NODELAY TCP_MAXSEG TCP_CORK TCP_KEEPIDLE TCP_KEEPINTVL TCP_KEEPCNT TCP_SYNCNT TCP_LINGER2 TCP_DEFER_ACCEPT
          TCP_WINDOW_CLAMP TCP_INFO TCP_QUICKACK TCP_CONGESTION TCP_USER_TIMEOUT TCP_FASTOPEN;
    /// Options of IPPROTO_IP.
    IP = IP_TOS IP_TTL IP_HDRINCL IP_OPTIONS IP_RECVOPTS IP_PKTINFO IP_MTU_DISCOVER IP_RECVERR IP_RECVTTL IP_RECVTOS IP_MTU IP_FREEBIND
         IP_TRANSPARENT IP_MULTICAST_IF IP_MULTICAST_TTL IP_MULTICAST_LOOP IP_ADD_MEMBERSHIP IP_DROP_MEMBERSHIP IP_BIND_ADDRESS_NO_PORT;
    /// Options of IPPROTO_IPV6.
    IPV6 = IPV6_UNICAST_HOPS IPV6_MULTICAST_IF IPV6_MULTICAST_HOPS IPV6_MULTICAST_LOOP IPV6_ADD_MEMBERSHIP IPV6_DROP_MEMBERSHIP
           IPV6_MTU_DISCOVER IPV6_MTU IPV6_RECVERR IPV6_V6ONLY IPV6_RECVPKTINFO IPV6_PKTINFO IPV6_RECVHOPLIMIT IPV6_HOPLIMIT IPV6_RECVTCLASS IPV6_TCLASS;
    /// Commands of fcntl(2).
    FCNTL = F_DUPFD F_GETFD F_SETFD F_GETFL F_SETFL F_GETLK F_SETLK F_SETLKW F_SETOWN F_GETOWN F_DUPFD_CLOEXEC;
    /// Requests of ioctl(2).
    IOCTL = FIONREAD FIONBIO FIOASYNC FIOCLEX FIONCLEX TIOCOUTQ SIOCGIFCONF SIOCGIFFLAGS SIOCGIFADDR SIOCGIFNETMASK
            SIOCGIFBRDADDR SIOCGIFMTU SIOCGIFHWADDR SIOCGIFINDEX SIOCGIFNAME;
}

/// The name of an option at its level.
#[must_use]
pub fn option(level: i32, name: i32) -> Constant {
    let table = match level {
        libc::SOL_SOCKET => SO,
        libc::IPPROTO_TCP => TCP,
        libc::IPPROTO_IP => IP,
        libc::IPPROTO_IPV6 => IPV6,
        _ => &[],
    };
    Constant(name, table)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::format;

    fn text(line: &mut Line) -> &str {
        core::str::from_utf8(line.bytes()).unwrap()
    }

    #[test]
    fn lines_read_like_strace() {
        let mut l = Line::new(7, "connect");
        l.arg(3).arg(Address(Some("10.111.0.2:80".parse().unwrap()))).fail("EINPROGRESS", "SYN sent");
        assert_eq!(text(&mut l), "[7] connect(3, 10.111.0.2:80) = -1 EINPROGRESS (SYN sent)\n");
        let mut l = Line::new(7, "recv");
        l.arg(3).arg(Data(b"GET /\r\n\x01\"")).arg(4096).arg(Flags(0x40, MSG)).ok(78);
        assert_eq!(text(&mut l), "[7] recv(3, \"GET /\\r\\n\\x01\\\"\", 4096, MSG_DONTWAIT) = 78\n");
        let mut l = Line::new(7, "socket");
        l.arg(Constant(16, AF)).arg(SocketType(3 | libc::SOCK_CLOEXEC)).arg(0).passed("family not ours");
        assert_eq!(text(&mut l), "[7] socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, 0) = passed (family not ours)\n");
        let mut l = Line::new(7, "setsockopt");
        l.arg(option(libc::IPPROTO_TCP, libc::TCP_NODELAY)).arg(option(1, 9999)).ok(0);
        assert_eq!(text(&mut l), "[7] setsockopt(TCP_NODELAY, 9999) = 0\n");
    }

    #[test]
    fn flags_show_what_they_do_not_know() {
        assert_eq!(format!("{}", Flags(0, MSG)), "0");
        assert_eq!(format!("{}", Flags(0x8000_0001, POLL)), "POLLIN|0x80000000");
        assert_eq!(format!("{}", Flags(0x800_0000, POLL)), "0x8000000");
        assert_eq!(format!("{}", Flags(libc::EPOLLET as u32 | 1, EPOLL)), "EPOLLIN|EPOLLET");
    }

    #[test]
    fn a_long_line_is_cut_and_still_ends() {
        let mut l = Line::new(1, "write");
        for _ in 0..100 {
            l.arg(Data(&[0xff; 100]));
        }
        l.ok(1);
        let bytes = l.bytes();
        assert_eq!(bytes.len(), LINE_MAX);
        assert_eq!(bytes[LINE_MAX - 1], b'\n');
        assert!(format!("{}", Data(&[b'a'; 33])).ends_with("\"..."));
    }
}
