//! The kernel's sockets as the keeper uses them: raw system calls with Rust's types. Every socket is close-on-exec and non-blocking.
use csel_core::errno::{Errno, Result};
use csel_core::gate;
use csel_core::net::addr::Endpoint;
use libc::c_int;

/// A call whose arguments are numbers.
fn plain(nr: libc::c_long, a: [usize; 6]) -> Result<usize> {
    // SAFETY: only called here below with calls that take no pointers.
    unsafe { gate::syscall(nr, a) }
}

/// A descriptor that closes when dropped.
#[derive(Debug)]
pub(crate) struct Fd(pub(crate) c_int);

impl Drop for Fd {
    fn drop(&mut self) {
        let _ = gate::close(self.0);
    }
}

/// socket(2).
pub(crate) fn socket(family: c_int, ty: c_int) -> Result<Fd> {
    let ty = ty | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    plain(libc::SYS_socket, [family as usize, ty as usize, 0, 0, 0, 0]).map(|fd| Fd(fd as c_int))
}

/// socketpair(2) of AF_UNIX: close-on-exec; the flags besides are the caller's.
pub(crate) fn pair(ty: c_int) -> Result<[Fd; 2]> {
    let mut fds = [0 as c_int; 2];
    let ty = ty | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    unsafe { gate::syscall(libc::SYS_socketpair, [libc::AF_UNIX as usize, ty as usize, 0, fds.as_mut_ptr() as usize, 0, 0]) }?;
    Ok(fds.map(Fd))
}

/// An address for the kernel.
fn sockaddr(at: &Endpoint) -> ([u8; 28], usize) {
    let mut out = [0; 28];
    let n = at.emit(if at.ip.is_v4() { libc::AF_INET } else { libc::AF_INET6 } as u16, &mut out);
    (out, n)
}

/// bind(2).
pub(crate) fn bind(fd: c_int, at: &Endpoint) -> Result<()> {
    let (sa, n) = sockaddr(at);
    // SAFETY: the address is readable.
    unsafe { gate::syscall(libc::SYS_bind, [fd as usize, sa.as_ptr() as usize, n, 0, 0, 0]) }.map(drop)
}

/// bind(2) and connect(2) of AF_UNIX (`nr` says which), to a name as bytes.
fn unix(nr: libc::c_long, fd: c_int, name: &[u8]) -> Result<()> {
    let mut sa = [0u8; 110];
    sa[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    let room = sa.get_mut(2..2 + name.len()).ok_or(Errno::EINVAL)?;
    room.copy_from_slice(name);
    // SAFETY: the address is readable.
    unsafe { gate::syscall(nr, [fd as usize, sa.as_ptr() as usize, 2 + name.len(), 0, 0, 0]) }.map(drop)
}

/// bind(2) to an abstract name; the empty one: the kernel chooses (autobind).
pub(crate) fn bind_unix(fd: c_int, name: &[u8]) -> Result<()> {
    unix(libc::SYS_bind, fd, name)
}

/// connect(2) to an abstract name.
pub(crate) fn connect_unix(fd: c_int, name: &[u8]) -> Result<()> {
    unix(libc::SYS_connect, fd, name)
}

/// connect(2).
pub(crate) fn connect(fd: c_int, to: &Endpoint) -> Result<()> {
    let (sa, n) = sockaddr(to);
    // SAFETY: the address is readable.
    unsafe { gate::syscall(libc::SYS_connect, [fd as usize, sa.as_ptr() as usize, n, 0, 0, 0]) }.map(drop)
}

/// listen(2).
pub(crate) fn listen(fd: c_int) -> Result<()> {
    plain(libc::SYS_listen, [fd as usize, 4096, 0, 0, 0, 0]).map(drop)
}

fn endpoint(sa: &[u8; 28]) -> Endpoint {
    let family = u16::from_ne_bytes([sa[0], sa[1]]);
    let n = if i32::from(family) == libc::AF_INET { 16 } else { 28 };
    Endpoint::parse(family, &sa[..n]).unwrap_or(Endpoint::new(csel_core::net::addr::Ip::ANY6, 0))
}

/// accept4(2).
pub(crate) fn accept(fd: c_int) -> Result<(Fd, Endpoint)> {
    let (mut sa, mut n) = ([0u8; 28], 28u32);
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let a = [fd as usize, sa.as_mut_ptr() as usize, &raw mut n as usize, flags as usize, 0, 0];
    // SAFETY: address and length are writable.
    let new = unsafe { gate::syscall(libc::SYS_accept4, a) }?;
    Ok((Fd(new as c_int), endpoint(&sa)))
}

/// recv(2).
pub(crate) fn recv(fd: c_int, into: &mut [u8]) -> Result<usize> {
    let a = [fd as usize, into.as_mut_ptr() as usize, into.len(), libc::MSG_DONTWAIT as usize, 0, 0];
    // SAFETY: the slice is writable.
    unsafe { gate::syscall(libc::SYS_recvfrom, a) }
}

/// recvfrom(2).
pub(crate) fn recvfrom(fd: c_int, into: &mut [u8]) -> Result<(usize, Endpoint)> {
    let (mut sa, mut n) = ([0u8; 28], 28u32);
    let a =
        [fd as usize, into.as_mut_ptr() as usize, into.len(), libc::MSG_DONTWAIT as usize, sa.as_mut_ptr() as usize, &raw mut n as usize];
    // SAFETY: slice, address and length are writable.
    let got = unsafe { gate::syscall(libc::SYS_recvfrom, a) }?;
    Ok((got, endpoint(&sa)))
}

/// send(2).
pub(crate) fn send(fd: c_int, data: &[u8]) -> Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the slice is readable.
    unsafe { gate::syscall(libc::SYS_sendto, [fd as usize, data.as_ptr() as usize, data.len(), flags as usize, 0, 0]) }
}

/// sendto(2).
pub(crate) fn sendto(fd: c_int, data: &[u8], to: &Endpoint) -> Result<usize> {
    let (sa, n) = sockaddr(to);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: data and address are readable.
    unsafe { gate::syscall(libc::SYS_sendto, [fd as usize, data.as_ptr() as usize, data.len(), flags as usize, sa.as_ptr() as usize, n]) }
}

/// shutdown(2).
pub(crate) fn shutdown(fd: c_int, how: c_int) {
    let _ = plain(libc::SYS_shutdown, [fd as usize, how as usize, 0, 0, 0, 0]);
}

/// setsockopt(2).
pub(crate) fn set(fd: c_int, level: c_int, name: c_int, value: &[c_int]) -> Result<()> {
    let a = [fd as usize, level as usize, name as usize, value.as_ptr() as usize, size_of_val(value), 0];
    // SAFETY: the value is readable.
    unsafe { gate::syscall(libc::SYS_setsockopt, a) }.map(drop)
}

/// SO_ERROR, taken.
pub(crate) fn error(fd: c_int) -> Result<()> {
    let (mut e, mut n) = (0 as c_int, 4u32);
    let a = [fd as usize, libc::SOL_SOCKET as usize, libc::SO_ERROR as usize, &raw mut e as usize, &raw mut n as usize, 0];
    // SAFETY: value and length are writable.
    unsafe { gate::syscall(libc::SYS_getsockopt, a) }?;
    if e == 0 { Ok(()) } else { Err(Errno(e as u16)) }
}

/// The next close(2) is a reset.
pub(crate) fn reset_on_close(fd: c_int) {
    let _ = set(fd, libc::SOL_SOCKET, libc::SO_LINGER, &[1, 0]);
}

/// Has the other side of a Unix socket closed its last descriptor?
pub(crate) fn has_hung_up(fd: c_int) -> bool {
    let mut p = libc::pollfd { fd, events: 0, revents: 0 };
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: one pollfd and a timeout; no mask.
    let n = unsafe { gate::syscall(libc::SYS_ppoll, [&raw mut p as usize, 1, &raw const now as usize, 0, 8, 0]) };
    n == Ok(1) && p.revents & libc::POLLHUP != 0
}

/// Bytes (with their administration) that the other side of a Unix socket has not read: SIOCOUTQ.
pub(crate) fn unread(fd: c_int) -> usize {
    let mut n = 0 as c_int;
    // SAFETY: a writable int.
    let r = unsafe { gate::syscall(libc::SYS_ioctl, [fd as usize, libc::TIOCOUTQ as usize, &raw mut n as usize, 0, 0, 0]) };
    if r.is_ok() { n as usize } else { 0 }
}

/// SO_PEERCRED: who was at the other end when the connection was made.
pub(crate) fn peer(fd: c_int) -> Option<libc::ucred> {
    let (mut who, mut n) = (libc::ucred { pid: 0, uid: 0, gid: 0 }, size_of::<libc::ucred>() as u32);
    let a = [fd as usize, libc::SOL_SOCKET as usize, libc::SO_PEERCRED as usize, &raw mut who as usize, &raw mut n as usize, 0];
    // SAFETY: room for the credentials and their length.
    unsafe { gate::syscall(libc::SYS_getsockopt, a) }.is_ok().then_some(who)
}

/// A control message with one descriptor: `struct cmsghdr` and the number.
#[repr(C)]
struct Rights {
    len: usize,
    level: c_int,
    ty: c_int,
    fd: c_int,
    _pad: c_int,
}

/// Room for control messages, as SCM_RIGHTS of one descriptor takes it.
const RIGHTS: usize = 16 + size_of::<c_int>();

/// Sends one byte with descriptor `fd`; 0: without one.
pub(crate) fn send_fd(to: c_int, fd: c_int) -> Result<()> {
    let byte = u8::from(fd >= 0);
    let iov = libc::iovec { iov_base: (&raw const byte).cast_mut().cast(), iov_len: 1 };
    let mut rights = Rights { len: RIGHTS, level: libc::SOL_SOCKET, ty: libc::SCM_RIGHTS, fd, _pad: 0 };
    // SAFETY: all-zero is a valid msghdr.
    let mut m: libc::msghdr = unsafe { core::mem::zeroed() };
    m.msg_iov = (&raw const iov).cast_mut();
    m.msg_iovlen = 1;
    if fd >= 0 {
        m.msg_control = (&raw mut rights).cast();
        m.msg_controllen = size_of::<Rights>();
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: all that the header names lives.
    unsafe { gate::syscall(libc::SYS_sendmsg, [to as usize, &raw const m as usize, flags as usize, 0, 0, 0]) }.map(drop)
}

/// Receives what [`send_fd`] sent, waiting for it five seconds at most; ENOTCONN: it came without a descriptor.
pub(crate) fn recv_fd(from: c_int) -> Result<c_int> {
    let mut p = libc::pollfd { fd: from, events: libc::POLLIN, revents: 0 };
    let ts = libc::timespec { tv_sec: 5, tv_nsec: 0 };
    // SAFETY: one pollfd and a timeout; no mask.
    unsafe { gate::syscall(libc::SYS_ppoll, [&raw mut p as usize, 1, &raw const ts as usize, 0, 8, 0]) }?;
    let mut byte = 0u8;
    let iov = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut rights = Rights { len: 0, level: 0, ty: 0, fd: -1, _pad: 0 };
    // SAFETY: all-zero is a valid msghdr.
    let mut m: libc::msghdr = unsafe { core::mem::zeroed() };
    m.msg_iov = (&raw const iov).cast_mut();
    m.msg_iovlen = 1;
    m.msg_control = (&raw mut rights).cast();
    m.msg_controllen = size_of::<Rights>();
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: all that the header names lives and is writable.
    unsafe { gate::syscall(libc::SYS_recvmsg, [from as usize, &raw mut m as usize, flags as usize, 0, 0, 0]) }?;
    if rights.ty == libc::SCM_RIGHTS && rights.fd >= 0 { Ok(rights.fd) } else { Err(Errno::ENOTCONN) }
}
