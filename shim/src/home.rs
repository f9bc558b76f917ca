//! Which stack a socket is at home in: the replica's, or (`--route PREFIX=host`) the kernel's.
//!
//! # Theory of operation
//! **Purpose.** With a route to the host, connections and datagrams to that network use the kernel's stack, natively and at its speed; everything else,
//! and everything if there is no route, stays inside.
//! **How it works.** A socket begins as the replica's. When connect(2) or a send names a destination ([`of`]), and a route leads to the host, it moves out:
//! a kernel socket of the same kind, with the options that were changed, its port if one was bound, and its flags, is put over every descriptor of this
//! process that meant it, and its epoll interests go to the kernel's half of their sets. From then on the kernel has it, wholly.
//! A kernel socket of the IP families that is told to go where no route leads moves back in: a fresh socket of the replica's takes its number. So no
//! connect and no datagram of a program that uses libc reaches the host's network except by a route, whoever made the descriptor.
//! **Limits.** A socket is of one stack at a time: a datagram socket that sends now here, now there, moves each time, and what was queued for it is lost.
//! Processes that share the descriptor since before its move keep the replica's socket. Interests registered while it was the kernel's are lost when
//! it moves in. The replica's address it was bound to means nothing to the kernel; the port is kept.
//! **Locks.** None. **Failure.** ENETUNREACH if it may not move; else what the kernel says of the new socket. **See also.** ip-route(8);
//! [`csel_core::net::link::route::leads_to_host`].
use crate::enter::{env, is_virtual, with_cx};
use crate::user::Address;
use crate::{init, shadow};
use core::sync::atomic::Ordering::*;
use csel_core::arena::Id;
use csel_core::call::epoll as core_epoll;
use csel_core::call::{Kind, socket as core_socket};
use csel_core::errno::{Errno, Result};
use csel_core::fd::{Held, Proc, Sock};
use csel_core::gate;
use csel_core::instance::Cx;
use csel_core::net::addr::{Endpoint, Ip};
use csel_core::net::link::route::leads_to_host;
use csel_core::net::{option, tcp};
use csel_core::poll::epoll;
use csel_core::stats;
use libc::{c_int, c_void};

/// Whose a socket is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Home {
    /// The replica's.
    Ours,
    /// The kernel's.
    Kernel,
}

/// Options that move with a socket: what differs from a fresh socket's.
const OPTIONS: &[(c_int, c_int)] = &[
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    (libc::SOL_SOCKET, libc::SO_REUSEPORT),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_BROADCAST),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_CORK),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (libc::IPPROTO_IP, libc::IP_RECVERR),
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IP, libc::IP_RECVTTL),
    (libc::IPPROTO_IP, libc::IP_RECVTOS),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
];

/// Interests that move with one descriptor.
const INTERESTS: usize = 64;

/// Where a socket told to go to `to` is at home from now on: it moves if it must. `connecting`: connect(2), not a send.
#[inline]
pub(crate) fn of(fd: c_int, to: &[u8], connecting: bool) -> Result<Home> {
    if stays(fd) {
        return Ok(Home::Ours);
    }
    if is_virtual(fd) {
        return ours(fd, to, connecting);
    }
    if init::inert() || !is_ip(to) { Ok(Home::Kernel) } else { kernels(fd, to) }
}

/// Can [`of`] be spared? The replica's socket, and no route to the host.
#[inline]
pub(crate) fn stays(fd: c_int) -> bool {
    is_virtual(fd) && env().is_some_and(|env| env.inst.facts.get().config.route.is_empty())
}

/// As [`of`], for an address of the application's that has not been read. A bad pointer is the kernel's, or the core's, to refuse.
#[inline]
pub(crate) fn of_address(fd: c_int, addr: *const libc::sockaddr, len: libc::socklen_t, connecting: bool) -> Result<Home> {
    if stays(fd) {
        return Ok(Home::Ours);
    }
    let ours = is_virtual(fd);
    if addr.is_null() {
        return Ok(if ours { Home::Ours } else { Home::Kernel });
    }
    match Address::get(addr, len) {
        Ok(a) => of(fd, a.bytes(), connecting),
        Err(_) => Ok(if ours { Home::Ours } else { Home::Kernel }),
    }
}

fn family(to: &[u8]) -> c_int {
    to.first_chunk().map_or(libc::AF_UNSPEC, |b| c_int::from(u16::from_ne_bytes(*b)))
}

fn is_ip(to: &[u8]) -> bool {
    matches!(family(to), libc::AF_INET | libc::AF_INET6)
}

fn target(to: &[u8]) -> Option<Ip> {
    let family = u16::try_from(family(to)).ok()?;
    Endpoint::parse(family, to).ok().map(|at| at.ip)
}

/// A socket of ours.
#[cold]
fn ours(fd: c_int, to: &[u8], connecting: bool) -> Result<Home> {
    let Some(ip) = is_ip(to).then(|| target(to)).flatten() else { return Ok(Home::Ours) };
    let moves = with_cx(|cx| {
        let Some(held) = cx.inst.procs.get(cx.proc).get(cx.inst, fd) else { return Ok(false) };
        let may = match held.kind() {
            // A stream is chosen for when it connects; MSG_FASTOPEN is refused anyway.
            Kind::Tcp => connecting && tcp::is_fresh(cx, &held),
            Kind::Udp | Kind::Ping | Kind::Raw => true,
            Kind::Netlink | Kind::Epoll | Kind::None => false,
        };
        let moves = may && leads_to_host(cx, ip);
        let r = if moves { move_out(cx, fd, &held) } else { Ok(()) };
        held.release(cx);
        r.map(|()| moves)
    })
    .flatten()?;
    Ok(if moves { Home::Kernel } else { Home::Ours })
}

/// A socket of the kernel's that is told to go to an IP address.
#[cold]
fn kernels(fd: c_int, to: &[u8]) -> Result<Home> {
    let Some(ip) = is_kernels_ip(fd).then(|| target(to)).flatten() else { return Ok(Home::Kernel) };
    let domain = kernel_option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
    init::instance()?;
    if with_cx(|cx| leads_to_host(cx, ip))? { Ok(Home::Kernel) } else { move_in(fd, domain).map(|()| Home::Ours) }
}

/// Is it a socket of the kernel's IP stack?
pub(crate) fn is_kernels_ip(fd: c_int) -> bool {
    !init::inert() && matches!(kernel_option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN), Ok(libc::AF_INET | libc::AF_INET6))
}

/// listen(2) on a socket of the kernel's: no port of the host's is opened behind the user's back.
pub(crate) fn may_listen(fd: c_int) -> Result<()> {
    if !is_kernels_ip(fd) {
        return Ok(());
    }
    // One that was handed to the program ready made (inetd, socket activation) listens already.
    if kernel_option(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN) == Ok(1) { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

fn kernel_get(fd: c_int, level: c_int, name: c_int, out: &mut [u8]) -> Result<usize> {
    let mut len = out.len() as libc::socklen_t;
    let a = [fd as usize, level as usize, name as usize, out.as_mut_ptr() as usize, &raw mut len as usize, 0];
    // SAFETY: room for `len` bytes.
    unsafe { gate::syscall(libc::SYS_getsockopt, a) }.map(|_| len as usize)
}

fn kernel_set(fd: c_int, level: c_int, name: c_int, value: &[u8]) -> Result<()> {
    let a = [fd as usize, level as usize, name as usize, value.as_ptr() as usize, value.len(), 0];
    // SAFETY: `value.len()` readable bytes.
    unsafe { gate::syscall(libc::SYS_setsockopt, a) }.map(|_| ())
}

fn kernel_option(fd: c_int, level: c_int, name: c_int) -> Result<c_int> {
    let mut out = [0; 4];
    kernel_get(fd, level, name, &mut out)?;
    Ok(c_int::from_ne_bytes(out))
}

fn get(cx: &Cx<'_>, s: &Held, (level, name): (c_int, c_int), out: &mut [u8; 16]) -> Option<usize> {
    let n = if level == libc::IPPROTO_TCP && s.kind() == Kind::Tcp {
        tcp::getsockopt(cx, s, name, out)
    } else {
        option::get(cx, s, level, name, out)
    };
    n.ok().map(|n| n.min(out.len()))
}

/// Calls `each` with the descriptors of this process that mean `id`.
fn each_fd(table: &'static Proc, id: Id<Sock>, mut each: impl FnMut(c_int)) {
    for fd in 0..table.high.load(Acquire) {
        if table.fds[fd as usize].load(Relaxed) == id.0 {
            each(fd as c_int);
        }
    }
}

/// Makes a kernel socket of `held` and puts it over its descriptors.
fn move_out(cx: &Cx<'_>, fd: c_int, held: &Held) -> Result<()> {
    let (domain, ty, protocol) = (held.family.load(Relaxed), held.kind_type.load(Relaxed), held.protocol.load(Relaxed));
    let a = [domain as usize, ty as usize | libc::SOCK_CLOEXEC as usize, protocol as usize, 0, 0, 0];
    // SAFETY: no pointers.
    let new = unsafe { gate::syscall(libc::SYS_socket, a) }? as c_int;
    let r = furnish(cx, held, new).and_then(|()| take_place(cx, fd, held, new));
    let _ = gate::close(new);
    if r.is_ok() {
        stats::bump(&cx.inst.stats.sockets_to_host);
    }
    r
}

/// Options, port and flags.
fn furnish(cx: &Cx<'_>, held: &Held, new: c_int) -> Result<()> {
    let (domain, ty, protocol) = (held.family.load(Relaxed), held.kind_type.load(Relaxed), held.protocol.load(Relaxed));
    if let Ok(fresh) = core_socket::socket(cx, c_int::from(domain), c_int::from(ty), c_int::from(protocol)) {
        for &at in OPTIONS {
            let (mut now, mut usual) = ([0; 16], [0; 16]);
            let n = get(cx, held, at, &mut now);
            if n.is_none() || n == get(cx, &fresh, at, &mut usual) && now == usual {
                continue;
            }
            let n = n.unwrap_or(0);
            if at.0 == libc::SOL_SOCKET && (at.1 == libc::SO_RCVBUF || at.1 == libc::SO_SNDBUF) {
                // The kernel doubles what it is given, and so do we what we show.
                let half = i32::from_ne_bytes([now[0], now[1], now[2], now[3]]) / 2;
                now[..4].copy_from_slice(&half.to_ne_bytes());
            }
            // What this kernel does not know is not worth failing for.
            let _ = kernel_set(new, at.0, at.1, &now[..n]);
        }
        fresh.release(cx);
    }
    let (bytes, n) = core_socket::getsockname(cx, held)?;
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    if port != 0 && held.kind() != Kind::Raw {
        let any = if c_int::from(domain) == libc::AF_INET { Ip::ANY4 } else { Ip::ANY6 };
        let mut at = [0; 28];
        Endpoint::new(any, port).emit(domain, &mut at);
        // SAFETY: n readable bytes.
        unsafe { gate::syscall(libc::SYS_bind, [new as usize, at.as_ptr() as usize, n, 0, 0, 0]) }?;
    }
    let flags = held.flags.load(Relaxed) as usize;
    let _ = gate::fcntl(new, libc::F_SETFL, flags);
    if held.owner.load(Relaxed) != 0 {
        let _ = gate::fcntl(new, libc::F_SETOWN, held.owner.load(Relaxed) as usize);
    }
    Ok(())
}

/// Every descriptor of this process that meant `held` means `new`.
fn take_place(cx: &Cx<'_>, fd: c_int, held: &Held, new: c_int) -> Result<()> {
    let table = cx.inst.procs.get(cx.proc);
    let mut done = Ok(());
    each_fd(table, held.id(), |at| {
        let mut wanted = [(Id::<Sock>::new(0), 0u32, 0u64); INTERESTS];
        let mut n = 0;
        epoll::interests(cx, held, at, |set, e| {
            if let Some(w) = wanted.get_mut(n) {
                *w = (set, e.events, e.data);
                n += 1;
            }
        });
        let cloexec = gate::fcntl(at, libc::F_GETFD, 0).unwrap_or(0) & libc::FD_CLOEXEC as usize != 0;
        let flag = if cloexec { libc::O_CLOEXEC as usize } else { 0 };
        // SAFETY: no pointers.
        let placed = unsafe { gate::syscall(libc::SYS_dup3, [new as usize, at as usize, flag, 0, 0, 0]) };
        match placed {
            Ok(_) => {
                for &(set, events, data) in &wanted[..n] {
                    interest(cx, table, set, at, events, data);
                }
                drop_interests(cx, held, at, &wanted[..n]);
                table.clear(cx, at);
            }
            Err(e) if at == fd => done = Err(e),
            Err(_) => {}
        }
    });
    done
}

/// Registers `fd` in the kernel's half of `set`.
fn interest(cx: &Cx<'_>, table: &'static Proc, set: Id<Sock>, fd: c_int, events: u32, data: u64) {
    let mut ep = -1;
    each_fd(table, set, |at| ep = at);
    let Some(held) = Held::take(cx.inst, set) else { return };
    let event = libc::epoll_event { events, u64: data };
    let a = [ep as usize, libc::EPOLL_CTL_ADD as usize, fd as usize, &raw const event as usize, 0, 0];
    // SAFETY: the event lives.
    if unsafe { gate::syscall(libc::SYS_epoll_ctl, a) }.is_ok() {
        core_epoll::kernel(cx, &held, true);
    }
    held.release(cx);
}

/// The replica's half of the sets forgets the descriptor.
fn drop_interests(cx: &Cx<'_>, held: &Held, fd: c_int, wanted: &[(Id<Sock>, u32, u64)]) {
    for &(set, ..) in wanted {
        if let Some(ep) = Held::take(cx.inst, set) {
            let _ = core_epoll::ctl(cx, &ep, libc::EPOLL_CTL_DEL, held, fd, core_epoll::Event::default());
            ep.release(cx);
        }
    }
}

/// Makes a fresh socket of the replica's take the number of a kernel socket.
fn move_in(fd: c_int, domain: c_int) -> Result<()> {
    let ty = kernel_option(fd, libc::SOL_SOCKET, libc::SO_TYPE)?;
    let protocol = kernel_option(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL)?;
    if ty == libc::SOCK_STREAM && kernel_option(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN) == Ok(1) {
        return Err(Errno::EISCONN);
    }
    let mut peer = [0u8; 28];
    let mut len = peer.len() as libc::socklen_t;
    let a = [fd as usize, peer.as_mut_ptr() as usize, &raw mut len as usize, 0, 0, 0];
    // SAFETY: room for the address.
    if ty == libc::SOCK_STREAM && unsafe { gate::syscall(libc::SYS_getpeername, a) }.is_ok() {
        return Err(Errno::EISCONN);
    }
    let flags = gate::fcntl(fd, libc::F_GETFL, 0)? as c_int;
    let cloexec = gate::fcntl(fd, libc::F_GETFD, 0)? & libc::FD_CLOEXEC as usize != 0;
    let more = if flags & libc::O_NONBLOCK != 0 { libc::SOCK_NONBLOCK } else { 0 };
    with_cx(|cx| {
        let held = core_socket::socket(cx, domain, ty | more, protocol).map_err(|e| e.unwrap_or(Errno::EAFNOSUPPORT))?;
        for &(level, name) in OPTIONS {
            let mut value = [0; 16];
            let sized = level == libc::SOL_SOCKET && (name == libc::SO_RCVBUF || name == libc::SO_SNDBUF);
            if let (false, Ok(n)) = (sized, kernel_get(fd, level, name, &mut value)) {
                let _ = if level == libc::IPPROTO_TCP && held.kind() == Kind::Tcp {
                    tcp::setsockopt(cx, &held, name, &value[..n.min(16)])
                } else {
                    option::set(cx, &held, level, name, &value[..n.min(16)])
                };
            }
        }
        let shadow = match shadow::make(ty | libc::SOCK_CLOEXEC) {
            Ok(fd) => fd,
            Err(e) => {
                held.release(cx);
                return Err(e);
            }
        };
        let flag = if cloexec { libc::O_CLOEXEC as usize } else { 0 };
        // SAFETY: no pointers.
        let placed = unsafe { gate::syscall(libc::SYS_dup3, [shadow as usize, fd as usize, flag, 0, 0, 0]) };
        let _ = gate::close(shadow);
        match placed {
            Ok(_) => shadow::adopt(cx, held, fd),
            Err(e) => {
                held.release(cx);
                Err(e)
            }
        }
    })
    .flatten()
}

/// sendmsg(2) of the kernel's, for one message of several.
///
/// # Safety
/// `msg` must be the application's, as it passed it.
pub(crate) unsafe fn kernel_sendmsg(fd: c_int, msg: *const libc::msghdr, flags: c_int) -> Result<usize> {
    // SAFETY: the kernel checks the application's pointers.
    unsafe { gate::syscall(libc::SYS_sendmsg, [fd as usize, msg.cast::<c_void>() as usize, flags as usize, 0, 0, 0]) }
}
