//! Moving bytes: send(2), recv(2), read(2), write(2) and all their forms on one buffer or several.
use crate::enter::{is_virtual, thread};
use crate::home::{self, Home};
use crate::ret::IntoC;
use crate::table::interpose;
use crate::user::{self, Address, one, pieces_in, pieces_out, put_address};
use crate::wait;
use core::sync::atomic::Ordering::Relaxed;
use csel_core::call::io::{Recv, Send};
use csel_core::call::{Kind, RecvMsg, SendMsg, socket as core_socket};
use csel_core::errno::{Errno, Result};
use csel_core::fd::Held;
use csel_core::gate;
use csel_core::gate::user::{IoIn, IoOut};
use csel_core::net::addr::Endpoint;
use libc::{c_int, c_void, iovec, off_t, size_t, sockaddr, socklen_t, ssize_t};

/// Where a datagram goes. Linux: a stream ignores the address except with MSG_FASTOPEN; AF_UNSPEC counts as AF_INET in udp_sendmsg, and as
/// "as connected" in udpv6_sendmsg; an AF_INET6 socket takes an AF_INET address.
fn destination(s: &Held, to: &[u8], flags: c_int) -> Result<Option<Endpoint>> {
    if to.is_empty() {
        return Ok(None);
    }
    let family = s.family.load(Relaxed);
    if s.kind() == Kind::Tcp {
        return Ok(if flags & libc::MSG_FASTOPEN != 0 { Some(Endpoint::parse(family, to)?) } else { None });
    }
    if to.len() < 2 {
        return Err(Errno::EINVAL);
    }
    if s.kind() == Kind::Netlink {
        return Endpoint::parse(family, to).map(Some);
    }
    let af = c_int::from(u16::from_ne_bytes([to[0], to[1]]));
    let v4 = c_int::from(family) == libc::AF_INET;
    if af == libc::AF_UNSPEC && v4 && to.len() >= 16 {
        let mut fixed = [0; 16];
        fixed.copy_from_slice(&to[..16]);
        fixed[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        return Endpoint::parse(family, &fixed).map(Some);
    }
    if af == libc::AF_UNSPEC && !v4 && s.kind() == Kind::Udp {
        return Ok(None);
    }
    if af == libc::AF_INET && !v4 && s.kind() == Kind::Udp {
        return Endpoint::parse(libc::AF_INET as u16, to).map(Some);
    }
    if af != libc::AF_INET6 && !v4 && s.kind() == Kind::Udp {
        // udpv6_sendmsg says EINVAL where udp_sendmsg says EAFNOSUPPORT.
        return Err(Errno::EINVAL);
    }
    Endpoint::parse(family, to).map(Some)
}

/// SIGPIPE to the calling thread, as Linux sends it; a process that has confined itself cannot send one, and has EPIPE only.
#[cold]
fn sigpipe() {
    if gate::sandbox::is_confined() {
        return;
    }
    let me = thread().me();
    // SAFETY: plain numbers.
    let _ = unsafe { gate::syscall(libc::SYS_tgkill, [me.pid as usize, me.tid as usize, libc::SIGPIPE as usize, 0, 0, 0]) };
}

/// sendmsg(2) with everything in hand.
pub(crate) fn send_pieces(fd: c_int, data: &[IoIn<'_>], flags: c_int, to: &[u8], control: &[u8]) -> Result<usize> {
    let mut op = Send::default();
    let mut stream = false;
    let r = wait::run(fd, false, |cx, s, timed_out| {
        stream = s.kind() == Kind::Tcp;
        if !stream && !user::readable(data) {
            // All or nothing: a datagram is not begun with a bad pointer in it.
            return Errno::EFAULT.into();
        }
        match destination(s, to, flags) {
            Ok(to) => op.step(cx, s, data, &SendMsg { flags, to, control }, timed_out),
            Err(e) => e.into(),
        }
    });
    if r == Err(Errno::EPIPE) && stream && flags & libc::MSG_NOSIGNAL == 0 {
        sigpipe();
    }
    r
}

/// What a receive found besides the data.
#[derive(Default)]
pub(crate) struct Got {
    /// MSG_* flags.
    pub(crate) flags: c_int,
    /// The source as the application sees it.
    pub(crate) from: Option<([u8; 28], usize)>,
    /// Bytes of control messages.
    pub(crate) control: usize,
}

/// recvmsg(2) with everything in hand.
pub(crate) fn recv_pieces(fd: c_int, room: &mut [IoOut<'_>], flags: c_int, control: &mut [u8], got: &mut Got) -> Result<usize> {
    let mut op = Recv::default();
    let mut stream = false;
    let r = wait::run(fd, true, |cx, s, timed_out| {
        stream = s.kind() == Kind::Tcp;
        let mut msg = RecvMsg { flags, out_flags: 0, from: None, control: &mut *control, control_len: 0 };
        let out = op.step(cx, s, room, &mut msg, timed_out);
        got.flags = msg.out_flags;
        got.from = msg.from.map(|at| core_socket::emit(s, &at));
        got.control = msg.control_len;
        out
    });
    // What a stream has moved before the bad pointer counts; a datagram is gone, as in Linux.
    if !stream && thread().faulted.replace(false) { Err(Errno::EFAULT) } else { r }
}

fn send_one(fd: c_int, buf: *const c_void, len: size_t, flags: c_int, to: &[u8]) -> Result<usize> {
    let v = [one(buf, len)];
    // SAFETY: the piece is copied fault-safely.
    send_pieces(fd, unsafe { IoIn::from_raw(&v) }, flags, to, &[])
}

fn recv_one(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> Result<usize> {
    let mut v = [one(buf, len)];
    // SAFETY: the room is filled fault-safely.
    recv_pieces(fd, unsafe { IoOut::from_raw(&mut v) }, flags, &mut [], &mut Got::default())
}

/// read(2): nothing asked for is nothing read (sock_read_iter in Linux).
pub(crate) fn read_one(fd: c_int, buf: *mut c_void, len: size_t) -> Result<usize> {
    if len == 0 { Ok(0) } else { as_file(recv_one(fd, buf, len, 0)) }
}

/// write(2).
pub(crate) fn write_one(fd: c_int, buf: *const c_void, len: size_t) -> Result<usize> {
    as_file(send_one(fd, buf, len, 0, &[]))
}

/// An epoll descriptor is no socket to send(2), and a file without read or write to read(2) and write(2): EINVAL.
fn as_file(r: Result<usize>) -> Result<usize> {
    r.map_err(|e| if e == Errno::ENOTSOCK { Errno::EINVAL } else { e })
}

fn recv_from(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int, addr: *mut sockaddr, alen: *mut socklen_t) -> Result<usize> {
    let mut v = [one(buf, len)];
    let mut got = Got::default();
    // SAFETY: the room is filled fault-safely.
    let n = recv_pieces(fd, unsafe { IoOut::from_raw(&mut v) }, flags, &mut [], &mut got)?;
    if !addr.is_null() {
        let (bytes, len) = got.from.unwrap_or_default();
        put_address(addr, alen, &bytes[..len])?;
    }
    Ok(n)
}

fn send_to(fd: c_int, buf: *const c_void, len: size_t, flags: c_int, addr: *const sockaddr, alen: socklen_t) -> Result<usize> {
    if addr.is_null() {
        return send_one(fd, buf, len, flags, &[]);
    }
    let to = Address::get(addr, alen)?;
    send_one(fd, buf, len, flags, to.bytes())
}

fn count(n: c_int) -> Result<usize> {
    usize::try_from(n).map_err(|_| Errno::EINVAL)
}

fn read_many(fd: c_int, iov: *const iovec, n: c_int) -> Result<usize> {
    let room = pieces_out(iov, count(n)?, Errno::EINVAL)?;
    if gate::user::total_out(room) == 0 {
        return Ok(0);
    }
    as_file(recv_pieces(fd, room, 0, &mut [], &mut Got::default()))
}

fn write_many(fd: c_int, iov: *const iovec, n: c_int) -> Result<usize> {
    as_file(send_pieces(fd, pieces_in(iov, count(n)?, Errno::EINVAL)?, 0, &[], &[]))
}

/// preadv2(2), pwritev2(2) at "where we are": RWF_NOWAIT is MSG_DONTWAIT, the others mean nothing to a socket.
fn rwf(flags: c_int) -> Result<c_int> {
    const NOWAIT: c_int = 8;
    if flags & !0x1f != 0 { Err(Errno::EOPNOTSUPP) } else { Ok(if flags & NOWAIT != 0 { libc::MSG_DONTWAIT } else { 0 }) }
}

fn read_many_at(fd: c_int, iov: *const iovec, n: c_int, at: off_t, flags: c_int) -> Result<usize> {
    if at != -1 {
        return Err(Errno::ESPIPE);
    }
    let flags = rwf(flags)?;
    recv_pieces(fd, pieces_out(iov, count(n)?, Errno::EINVAL)?, flags, &mut [], &mut Got::default())
}

fn write_many_at(fd: c_int, iov: *const iovec, n: c_int, at: off_t, flags: c_int) -> Result<usize> {
    if at != -1 {
        return Err(Errno::ESPIPE);
    }
    let flags = rwf(flags)?;
    send_pieces(fd, pieces_in(iov, count(n)?, Errno::EINVAL)?, flags, &[], &[])
}

/// A buffer that its compiler knows to be smaller than what is asked for (_FORTIFY_SOURCE) ends the program in libc: that is libc's to do.
fn fortified(len: size_t, size: size_t) -> bool {
    len <= size
}

/// pread(2) and pwrite(2) on a socket. EINVAL: a negative offset comes first.
fn no_offset(at: off_t) -> ssize_t {
    Err::<usize, _>(if at < 0 { Errno::EINVAL } else { Errno::ESPIPE }).into_c()
}

/// `if virtual { ours } else { libc's }`, for rows where there is no more to say.
macro_rules! or_libc {
    ($fd:expr, $ours:expr, $libc:expr) => {
        if is_virtual($fd) {
            $ours.into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { $libc }
        }
    };
}

interpose! {
    family io;

    /// send(2).
    cancels fn send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t = Partial "MSG_OOB, MSG_ZEROCOPY: see the options" {
        or_libc!(fd, send_one(fd, buf, len, flags, &[]), real::send(fd, buf, len, flags))
    }
    /// send(2), libc's other name for it.
    cancels fn __send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t = Full "" {
        or_libc!(fd, send_one(fd, buf, len, flags, &[]), real::__send(fd, buf, len, flags))
    }
    /// sendto(2).
    cancels fn sendto(fd: c_int, buf: *const c_void, len: size_t, flags: c_int, addr: *const sockaddr, alen: socklen_t) -> ssize_t = Full "" {
        match home::of_address(fd, addr, alen, false) {
            Err(e) => (Err(e) as Result<usize>).into_c(),
            Ok(Home::Ours) => send_to(fd, buf, len, flags, addr, alen).into_c(),
            // SAFETY: as the application passed it.
            Ok(Home::Kernel) => unsafe { real::sendto(fd, buf, len, flags, addr, alen) },
        }
    }
    /// recv(2).
    cancels fn recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t = Full "" {
        or_libc!(fd, recv_one(fd, buf, len, flags), real::recv(fd, buf, len, flags))
    }
    /// recv(2) of fortified programs.
    cancels fn __recv_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t, flags: c_int) -> ssize_t = Full "" {
        if fortified(len, size) && is_virtual(fd) {
            recv_one(fd, buf, len, flags).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::__recv_chk(fd, buf, len, size, flags) }
        }
    }
    /// recvfrom(2).
    cancels fn recvfrom(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int, addr: *mut sockaddr, alen: *mut socklen_t) -> ssize_t = Full "" {
        or_libc!(fd, recv_from(fd, buf, len, flags, addr, alen), real::recvfrom(fd, buf, len, flags, addr, alen))
    }
    /// recvfrom(2) of fortified programs.
    cancels fn __recvfrom_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t, flags: c_int, addr: *mut sockaddr, alen: *mut socklen_t) -> ssize_t = Full "" {
        if fortified(len, size) && is_virtual(fd) {
            recv_from(fd, buf, len, flags, addr, alen).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::__recvfrom_chk(fd, buf, len, size, flags, addr, alen) }
        }
    }
    /// read(2).
    cancels fn read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t = Full "" {
        or_libc!(fd, read_one(fd, buf, len), real::read(fd, buf, len))
    }
    /// read(2), libc's other name for it.
    cancels fn __read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t = Full "" {
        or_libc!(fd, read_one(fd, buf, len), real::__read(fd, buf, len))
    }
    /// read(2) of fortified programs.
    cancels fn __read_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t) -> ssize_t = Full "" {
        if fortified(len, size) && is_virtual(fd) {
            read_one(fd, buf, len).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::__read_chk(fd, buf, len, size) }
        }
    }
    /// write(2).
    cancels fn write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t = Full "" {
        or_libc!(fd, write_one(fd, buf, len), real::write(fd, buf, len))
    }
    /// write(2), libc's other name for it.
    cancels fn __write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t = Full "" {
        or_libc!(fd, write_one(fd, buf, len), real::__write(fd, buf, len))
    }
    /// readv(2).
    cancels fn readv(fd: c_int, iov: *const iovec, n: c_int) -> ssize_t = Full "" {
        or_libc!(fd, read_many(fd, iov, n), real::readv(fd, iov, n))
    }
    /// writev(2).
    cancels fn writev(fd: c_int, iov: *const iovec, n: c_int) -> ssize_t = Full "" {
        or_libc!(fd, write_many(fd, iov, n), real::writev(fd, iov, n))
    }
    /// pread(2): ESPIPE on a socket.
    cancels fn pread(fd: c_int, buf: *mut c_void, len: size_t, at: off_t) -> ssize_t = Full "" {
        if is_virtual(fd) { no_offset(at) } else {
            // SAFETY: as the application passed it.
            unsafe { real::pread(fd, buf, len, at) }
        }
    }
    /// pread(2): ESPIPE on a socket.
    cancels fn pread64(fd: c_int, buf: *mut c_void, len: size_t, at: off_t) -> ssize_t = Full "" {
        if is_virtual(fd) { no_offset(at) } else {
            // SAFETY: as the application passed it.
            unsafe { real::pread64(fd, buf, len, at) }
        }
    }
    /// pwrite(2): ESPIPE on a socket.
    cancels fn pwrite(fd: c_int, buf: *const c_void, len: size_t, at: off_t) -> ssize_t = Full "" {
        if is_virtual(fd) { no_offset(at) } else {
            // SAFETY: as the application passed it.
            unsafe { real::pwrite(fd, buf, len, at) }
        }
    }
    /// pwrite(2): ESPIPE on a socket.
    cancels fn pwrite64(fd: c_int, buf: *const c_void, len: size_t, at: off_t) -> ssize_t = Full "" {
        if is_virtual(fd) { no_offset(at) } else {
            // SAFETY: as the application passed it.
            unsafe { real::pwrite64(fd, buf, len, at) }
        }
    }
    /// preadv2(2).
    cancels fn preadv2(fd: c_int, iov: *const iovec, n: c_int, at: off_t, rwf: c_int) -> ssize_t = Full "" {
        or_libc!(fd, read_many_at(fd, iov, n, at, rwf), real::preadv2(fd, iov, n, at, rwf))
    }
    /// preadv2(2).
    cancels fn preadv64v2(fd: c_int, iov: *const iovec, n: c_int, at: off_t, rwf: c_int) -> ssize_t = Full "" {
        or_libc!(fd, read_many_at(fd, iov, n, at, rwf), real::preadv64v2(fd, iov, n, at, rwf))
    }
    /// pwritev2(2).
    cancels fn pwritev2(fd: c_int, iov: *const iovec, n: c_int, at: off_t, rwf: c_int) -> ssize_t = Full "" {
        or_libc!(fd, write_many_at(fd, iov, n, at, rwf), real::pwritev2(fd, iov, n, at, rwf))
    }
    /// pwritev2(2).
    cancels fn pwritev64v2(fd: c_int, iov: *const iovec, n: c_int, at: off_t, rwf: c_int) -> ssize_t = Full "" {
        or_libc!(fd, write_many_at(fd, iov, n, at, rwf), real::pwritev64v2(fd, iov, n, at, rwf))
    }
    /// preadv(2): ESPIPE on a socket.
    cancels fn preadv(fd: c_int, iov: *const iovec, n: c_int, at: off_t) -> ssize_t = Full "" {
        if is_virtual(fd) { no_offset(at) } else {
            // SAFETY: as the application passed it.
            unsafe { real::preadv(fd, iov, n, at) }
        }
    }
    /// preadv(2): ESPIPE on a socket.
    cancels fn preadv64(fd: c_int, iov: *const iovec, n: c_int, at: off_t) -> ssize_t = Full "" {
        if is_virtual(fd) { no_offset(at) } else {
            // SAFETY: as the application passed it.
            unsafe { real::preadv64(fd, iov, n, at) }
        }
    }
    /// pwritev(2): ESPIPE on a socket.
    cancels fn pwritev(fd: c_int, iov: *const iovec, n: c_int, at: off_t) -> ssize_t = Full "" {
        if is_virtual(fd) { no_offset(at) } else {
            // SAFETY: as the application passed it.
            unsafe { real::pwritev(fd, iov, n, at) }
        }
    }
    /// pwritev(2): ESPIPE on a socket.
    cancels fn pwritev64(fd: c_int, iov: *const iovec, n: c_int, at: off_t) -> ssize_t = Full "" {
        if is_virtual(fd) { no_offset(at) } else {
            // SAFETY: as the application passed it.
            unsafe { real::pwritev64(fd, iov, n, at) }
        }
    }
}

/// Reads a message header, for [`crate::abi::msg`].
pub(crate) fn header(msg: *const libc::msghdr) -> Result<libc::msghdr> {
    user::get(msg)
}
