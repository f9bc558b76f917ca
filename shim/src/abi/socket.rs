//! socket(2) and what names, connects and configures sockets.
use crate::enter::{is_virtual, with_cx};
use crate::home::{self, Home};
use crate::init;
use crate::ret::IntoC;
use crate::table::interpose;
use crate::user::{self, Address, put_address};
use crate::{shadow, wait};
use core::sync::atomic::Ordering::Relaxed;
use csel_core::call::{Kind, socket as core_socket};
use csel_core::errno::{Errno, Result};
use csel_core::fd::Held;
use csel_core::instance::Cx;
use csel_core::net::{option, tcp};
use csel_core::stats;
use libc::{c_int, c_void, sockaddr, socklen_t};

/// The core's answer about the socket behind `fd`. EBADF: not virtual any more.
pub(crate) fn ask<R>(fd: c_int, f: impl FnOnce(&Cx<'_>, &Held) -> Result<R>) -> Result<R> {
    with_cx(|cx| match cx.inst.procs.get(cx.proc).get(cx.inst, fd) {
        None => Err(Errno::EBADF),
        Some(held) => {
            let r = f(cx, &held);
            held.release(cx);
            r
        }
    })
    .flatten()
}

/// Families that the kernel has and that would lead out of the instance.
fn refused(domain: c_int, protocol: c_int) -> Option<Errno> {
    match domain {
        // These tell of the host's network. uevents and audit are no network; rtnetlink and sock_diag are the replica's.
        libc::AF_NETLINK if matches!(protocol, libc::NETLINK_NETFILTER | libc::NETLINK_XFRM) => Some(Errno::EAFNOSUPPORT),
        // packet(7) sees the host's frames; vsock(7) and XDP (44) lead out as well.
        libc::AF_PACKET | libc::AF_VSOCK | 44 => Some(Errno::EAFNOSUPPORT),
        _ => None,
    }
}

/// Is it the replica's to make? What netlink(7) says of routes and sockets is.
fn ours(domain: c_int, protocol: c_int) -> bool {
    matches!(domain, libc::AF_INET | libc::AF_INET6) || domain == libc::AF_NETLINK && csel_core::net::netlink::speaks(protocol)
}

fn open(domain: c_int, ty: c_int, protocol: c_int) -> Result<c_int> {
    core_socket::kind_of(domain, ty, protocol).map_err(|e| e.unwrap_or(Errno::EAFNOSUPPORT))?;
    init::instance()?;
    crate::keeper::replace();
    with_cx(|cx| {
        // raw(7): only for the instance's root.
        if ty & 0xf == libc::SOCK_RAW && domain != libc::AF_NETLINK && cx.inst.header.uid.load(Relaxed) != 0 && !init::privileged() {
            return Err(Errno::EPERM);
        }
        let held = core_socket::socket(cx, domain, ty, protocol).map_err(|e| e.unwrap_or(Errno::EAFNOSUPPORT))?;
        stats::bump(&cx.inst.stats.sockets);
        shadow::attach(cx, held, ty)
    })
    .flatten()
}

/// A shadow made in advance; closed if it was not needed.
struct Spare(c_int);

impl Drop for Spare {
    fn drop(&mut self) {
        if self.0 >= 0 {
            let _ = csel_core::gate::close(self.0);
        }
    }
}

fn accept_on(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> Result<usize> {
    crate::keeper::replace();
    let mut op = core_socket::Accept::default();
    let mut peer = None;
    let ty = libc::SOCK_STREAM | (flags & libc::SOCK_CLOEXEC);
    // The descriptor comes first, as in Linux: with none left the connection stays in the queue.
    let mut spare = Spare(-1);
    let new = wait::run(fd, true, |cx, s, timed_out| {
        csel_core::net::progress(cx);
        if spare.0 < 0 && s.ready.load(Relaxed) & libc::EPOLLIN as u32 != 0 {
            match shadow::make(ty) {
                Ok(fd) => spare.0 = fd,
                Err(e) => return e.into(),
            }
        }
        match op.step(cx, s, flags, timed_out) {
            Err(out) => out,
            Ok((held, from)) => {
                peer = Some(core_socket::emit(&held, &from));
                let fd = core::mem::replace(&mut spare.0, -1);
                let fd = if fd >= 0 { shadow::adopt(cx, held, fd).map(|()| fd) } else { shadow::attach(cx, held, ty) };
                fd.map(|fd| fd as usize).into()
            }
        }
    })?;
    if let Some((bytes, n)) = peer
        && !addr.is_null()
        && let Err(e) = put_address(addr, len, &bytes[..n])
    {
        // Linux has accepted it and lets it go again.
        crate::abi::fd::shut(new as c_int);
        return Err(e);
    }
    Ok(new)
}

fn connect_to(fd: c_int, addr: *const sockaddr, len: socklen_t) -> Result<usize> {
    let to = Address::get(addr, len)?;
    let mut op = core_socket::Connect::default();
    wait::run(fd, false, |cx, s, timed_out| op.step(cx, s, to.bytes(), timed_out))
}

fn option_get(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> Result<()> {
    let room = user::get(len)? as c_int;
    if room < 0 {
        return Err(Errno::EINVAL);
    }
    let mut out = [0u8; 512];
    let room = (room as usize).min(out.len());
    let n = ask(fd, |cx, s| {
        if level == libc::IPPROTO_TCP && s.kind() == Kind::Tcp {
            tcp::getsockopt(cx, s, name, &mut out[..room])
        } else {
            option::get(cx, s, level, name, &mut out[..room])
        }
    })?;
    user::put_bytes(value.cast(), &out[..n.min(room)])?;
    user::put(len, &(n as socklen_t))
}

fn option_set(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> Result<()> {
    if len as c_int & c_int::MIN != 0 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0u8; 512];
    let n = (len as usize).min(bytes.len());
    user::get_bytes(value.cast(), &mut bytes[..n])?;
    ask(fd, |cx, s| {
        if level == libc::IPPROTO_TCP && s.kind() == Kind::Tcp {
            tcp::setsockopt(cx, s, name, &bytes[..n])
        } else {
            option::set(cx, s, level, name, &bytes[..n])
        }
    })
}

interpose! {
    family socket;

    /// socket(2).
    plain fn socket(domain: c_int, ty: c_int, protocol: c_int) -> c_int = Partial
        "AF_INET, AF_INET6: the replica's. AF_NETLINK for routes and sock_diag too (no changes: EPERM). AF_UNIX and others: the kernel's. AF_NETLINK for netfilter and xfrm, AF_PACKET, AF_VSOCK, AF_XDP: refused" {
        if init::inert() {
            // SAFETY: no pointers.
            unsafe { real::socket(domain, ty, protocol) }
        } else if ours(domain, protocol) {
            open(domain, ty, protocol).into_c()
        } else if let Some(e) = refused(domain, protocol) {
            if let Some(env) = crate::enter::env() {
                stats::bump(&env.inst.stats.calls_refused);
            }
            crate::ret::fail(e)
        } else {
            // SAFETY: no pointers.
            unsafe { real::socket(domain, ty, protocol) }
        }
    }
    /// socketpair(2): AF_INET has none.
    plain fn socketpair(domain: c_int, ty: c_int, protocol: c_int, pair: *mut c_int) -> c_int = Full "" {
        if !init::inert() && (domain == libc::AF_INET || domain == libc::AF_INET6) {
            crate::ret::fail(Errno::EOPNOTSUPP)
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::socketpair(domain, ty, protocol, pair) }
        }
    }
    /// bind(2).
    plain fn bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int = Full "" {
        if is_virtual(fd) {
            Address::get(addr, len).and_then(|a| ask(fd, |cx, s| core_socket::bind(cx, s, a.bytes()))).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::bind(fd, addr, len) }
        }
    }
    /// listen(2).
    plain fn listen(fd: c_int, backlog: c_int) -> c_int = Full "" {
        if is_virtual(fd) {
            ask(fd, |cx, s| core_socket::listen(cx, s, backlog)).into_c()
        } else if let Err(e) = home::may_listen(fd) {
            crate::ret::fail(e)
        } else {
            // SAFETY: no pointers.
            unsafe { real::listen(fd, backlog) }
        }
    }
    /// accept(2).
    cancels fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = Full "" {
        if is_virtual(fd) {
            accept_on(fd, addr, len, 0).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::accept(fd, addr, len) }
        }
    }
    /// accept4(2).
    cancels fn accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, ty: c_int) -> c_int = Full "" {
        if is_virtual(fd) {
            accept_on(fd, addr, len, ty).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::accept4(fd, addr, len, ty) }
        }
    }
    /// connect(2).
    cancels fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int = Full "" {
        match home::of_address(fd, addr, len, true) {
            Err(e) => crate::ret::fail(e),
            Ok(Home::Ours) => connect_to(fd, addr, len).into_c(),
            // SAFETY: as the application passed it.
            Ok(Home::Kernel) => unsafe { real::connect(fd, addr, len) },
        }
    }
    /// connect(2), libc's other name for it.
    cancels fn __connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int = Full "" {
        match home::of_address(fd, addr, len, true) {
            Err(e) => crate::ret::fail(e),
            Ok(Home::Ours) => connect_to(fd, addr, len).into_c(),
            // SAFETY: as the application passed it.
            Ok(Home::Kernel) => unsafe { real::__connect(fd, addr, len) },
        }
    }
    /// shutdown(2).
    plain fn shutdown(fd: c_int, how: c_int) -> c_int = Full "" {
        if is_virtual(fd) {
            ask(fd, |cx, s| core_socket::shutdown(cx, s, how)).into_c()
        } else {
            // SAFETY: no pointers.
            unsafe { real::shutdown(fd, how) }
        }
    }
    /// getsockname(2).
    plain fn getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = Full "" {
        if is_virtual(fd) {
            ask(fd, core_socket::getsockname).and_then(|(b, n)| put_address(addr, len, &b[..n])).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::getsockname(fd, addr, len) }
        }
    }
    /// getpeername(2).
    plain fn getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = Full "" {
        if is_virtual(fd) {
            ask(fd, core_socket::getpeername).and_then(|(b, n)| put_address(addr, len, &b[..n])).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::getpeername(fd, addr, len) }
        }
    }
    /// getsockopt(2).
    plain fn getsockopt(fd: c_int, level: c_int, optname: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int = Partial
        "SO_ATTACH_FILTER and other BPF, SO_PEERSEC, SO_TXTIME: ENOPROTOOPT" {
        if is_virtual(fd) {
            option_get(fd, level, optname, value, len).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::getsockopt(fd, level, optname, value, len) }
        }
    }
    /// setsockopt(2).
    plain fn setsockopt(fd: c_int, level: c_int, optname: c_int, value: *const c_void, len: socklen_t) -> c_int = Partial
        "SO_ATTACH_FILTER and other BPF, SO_TXTIME, TCP_ULP (kernel TLS): ENOPROTOOPT" {
        if is_virtual(fd) {
            option_set(fd, level, optname, value, len).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::setsockopt(fd, level, optname, value, len) }
        }
    }
    /// sockatmark(3).
    plain fn sockatmark(fd: c_int) -> c_int = Full "" {
        if is_virtual(fd) {
            const SIOCATMARK: u64 = 0x8905;
            let mut mark = [0u8; 4];
            ask(fd, |cx, s| option::ioctl(cx, s, SIOCATMARK, &mut mark)).map(|_| c_int::from_ne_bytes(mark)).into_c()
        } else {
            // SAFETY: no pointers.
            unsafe { real::sockatmark(fd) }
        }
    }
    /// isfdtype(3): a virtual socket is a socket to the kernel too.
    plain fn isfdtype(fd: c_int, ty: c_int) -> c_int = Pass "" {
        // SAFETY: no pointers.
        unsafe { real::isfdtype(fd, ty) }
    }
}
