//! Messages: sendmsg(2), recvmsg(2), sendmmsg(2), recvmmsg(2).
//!
//! A message that passes through a descriptor of the kernel's may carry virtual sockets: [`super::rights`].
use super::io::{Got, header, recv_pieces, send_pieces};
use super::rights;
use crate::enter::{clock, is_virtual};
use crate::home::{self, Home};
use crate::ret::{IntoC, fail};
use crate::table::interpose;
use crate::user::{self, ADDR_MAX, Address, pieces_in, pieces_out};
use csel_core::errno::{Errno, Result};
use libc::{c_int, c_uint, mmsghdr, msghdr, ssize_t, timespec};

/// Control messages handled at once; what sockets of the IP families know fits many times.
const CONTROL: usize = 1024;

fn send_message(fd: c_int, msg: *const msghdr, flags: c_int) -> Result<usize> {
    let m = header(msg)?;
    let data = pieces_in(m.msg_iov, m.msg_iovlen as usize, Errno::EMSGSIZE)?;
    let to = if m.msg_name.is_null() || m.msg_namelen == 0 {
        None
    } else {
        if m.msg_namelen as c_int & c_int::MIN != 0 {
            return Err(Errno::EINVAL);
        }
        // sendmsg(2) cuts a name that is too long where sendto(2) refuses it (copy_msghdr_from_user).
        Some(Address::get(m.msg_name.cast(), m.msg_namelen.min(ADDR_MAX as u32))?)
    };
    let mut control = [0; CONTROL];
    let n = if m.msg_control.is_null() { 0 } else { m.msg_controllen };
    if n > CONTROL {
        return Err(Errno::ENOBUFS);
    }
    user::get_bytes(m.msg_control.cast(), &mut control[..n])?;
    send_pieces(fd, data, flags, to.as_ref().map_or(&[], Address::bytes), &control[..n])
}

/// Whose the socket is that a message goes out of; it moves if the message's address says so.
fn home_of(fd: c_int, msg: *const msghdr) -> Result<Home> {
    if home::stays(fd) {
        return Ok(Home::Ours);
    }
    match header(msg) {
        Ok(m) => home::of_address(fd, m.msg_name.cast(), m.msg_namelen.min(ADDR_MAX as u32), false),
        // Whoever it is refuses the pointer.
        Err(_) => Ok(if is_virtual(fd) { Home::Ours } else { Home::Kernel }),
    }
}

fn recv_message(fd: c_int, msg: *mut msghdr, flags: c_int) -> Result<usize> {
    let mut m = header(msg)?;
    let room = pieces_out(m.msg_iov, m.msg_iovlen as usize, Errno::EMSGSIZE)?;
    if !m.msg_name.is_null() && m.msg_namelen as c_int & c_int::MIN != 0 {
        return Err(Errno::EINVAL);
    }
    let mut control = [0; CONTROL];
    let space = if m.msg_control.is_null() { 0 } else { (m.msg_controllen).min(CONTROL) };
    let mut got = Got::default();
    let n = recv_pieces(fd, room, flags, &mut control[..space], &mut got)?;
    if !m.msg_name.is_null() {
        let (bytes, len) = got.from.unwrap_or_default();
        user::put_bytes(m.msg_name.cast(), &bytes[..len.min(m.msg_namelen as usize)])?;
        m.msg_namelen = len as u32;
    }
    user::put_bytes(m.msg_control.cast(), &control[..got.control])?;
    m.msg_controllen = got.control as _;
    m.msg_flags = got.flags | (flags & libc::MSG_CMSG_CLOEXEC);
    user::put(msg, &m)?;
    Ok(n)
}

/// sendmmsg(2) of the kernel's: if a message carries virtual sockets they go one by one, so that what was not sent is known.
fn carrying(fd: c_int, msgs: *mut mmsghdr, n: c_uint, flags: c_int) -> c_int {
    // SAFETY: only addresses of fields are taken.
    let fields = |i: usize| unsafe { (&raw const (*msgs.wrapping_add(i)).msg_hdr, &raw mut (*msgs.wrapping_add(i)).msg_len) };
    let n = n.min(1024);
    if !(0..n as usize).any(|i| rights::carries(fields(i).0)) {
        // SAFETY: as the application passed it.
        return unsafe { real::sendmmsg(fd, msgs, n, flags) };
    }
    let mut sent = 0;
    for i in 0..n as usize {
        let (hdr, len) = fields(i);
        let departed = rights::depart(fd, hdr);
        // SAFETY: the application's message.
        let r = unsafe { real::sendmsg(fd, hdr, flags) };
        if r < 0 {
            if let Some(d) = departed {
                d.stayed();
            }
            return if sent == 0 { -1 } else { sent };
        }
        if let Err(e) = user::put(len, &(r as c_uint)) {
            return if sent == 0 { fail(e) } else { sent };
        }
        sent += 1;
    }
    sent
}

fn send_messages(fd: c_int, msgs: *mut mmsghdr, n: c_uint, flags: c_int) -> Result<usize> {
    let mut sent = 0;
    for i in 0..n.min(1024) as usize {
        let at = msgs.wrapping_add(i);
        // SAFETY: only the address of the field is taken.
        let (hdr, len) = unsafe { (&raw const (*at).msg_hdr, &raw mut (*at).msg_len) };
        let one = match home_of(fd, hdr) {
            Err(e) => Err(e),
            Ok(Home::Ours) => send_message(fd, hdr, flags),
            // SAFETY: the application's message.
            Ok(Home::Kernel) => unsafe { home::kernel_sendmsg(fd, hdr, flags) },
        };
        match one {
            Ok(n) => user::put(len, &(n as c_uint))?,
            Err(e) if sent == 0 => return Err(e),
            Err(_) => break,
        }
        sent += 1;
    }
    Ok(sent)
}

/// recvmmsg(2). As in Linux the timeout is looked at after each message only.
fn recv_messages(fd: c_int, msgs: *mut mmsghdr, n: c_uint, flags: c_int, timeout: *mut timespec) -> Result<usize> {
    let until = if timeout.is_null() {
        None
    } else {
        let ts = user::get(timeout)?;
        if ts.tv_sec < 0 || !(0..1_000_000_000).contains(&ts.tv_nsec) {
            return Err(Errno::EINVAL);
        }
        Some(clock().saturating_add((ts.tv_sec as u64).saturating_mul(1_000_000_000)).saturating_add(ts.tv_nsec as u64))
    };
    let mut flags = flags;
    let wait_for_one = flags & libc::MSG_WAITFORONE != 0;
    flags &= !libc::MSG_WAITFORONE;
    let mut got = 0;
    for i in 0..n.min(1024) as usize {
        let at = msgs.wrapping_add(i);
        // SAFETY: only the address of the field is taken.
        let (hdr, len) = unsafe { (&raw mut (*at).msg_hdr, &raw mut (*at).msg_len) };
        match recv_message(fd, hdr, flags) {
            Ok(n) => user::put(len, &(n as c_uint))?,
            Err(e) if got == 0 => return Err(e),
            Err(_) => break,
        }
        got += 1;
        if wait_for_one {
            flags |= libc::MSG_DONTWAIT;
        }
        if until.is_some_and(|t| clock() >= t) {
            break;
        }
    }
    if let Some(until) = until {
        let left = until.saturating_sub(clock());
        user::put(timeout, &timespec { tv_sec: (left / 1_000_000_000) as i64, tv_nsec: (left % 1_000_000_000) as i64 })?;
    }
    Ok(got)
}

interpose! {
    family msg;

    /// sendmsg(2).
    cancels fn sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t = Full "" {
        match home_of(fd, msg) {
            Err(e) => (Err(e) as Result<usize>).into_c(),
            Ok(Home::Ours) => send_message(fd, msg, flags).into_c(),
            Ok(Home::Kernel) => {
                let departed = rights::depart(fd, msg);
                // SAFETY: as the application passed it.
                let n = unsafe { real::sendmsg(fd, msg, flags) };
                if let Some(d) = departed.filter(|_| n < 0) {
                    d.stayed();
                }
                n
            }
        }
    }
    /// recvmsg(2); SCM_RIGHTS over AF_UNIX carries virtual sockets too.
    cancels fn recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t = Partial "SCM_RIGHTS carries a virtual socket within its instance only" {
        if is_virtual(fd) {
            recv_message(fd, msg, flags).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe {
                let n = real::recvmsg(fd, msg, flags);
                if n >= 0 && (*msg).msg_controllen >= size_of::<libc::cmsghdr>() {
                    rights::arrive(msg, flags & libc::MSG_PEEK != 0);
                }
                n
            }
        }
    }
    /// sendmmsg(2).
    cancels fn sendmmsg(fd: c_int, msgs: *mut mmsghdr, n: c_uint, flags: c_int) -> c_int = Full "" {
        if is_virtual(fd) || home::is_kernels_ip(fd) {
            send_messages(fd, msgs, n, flags).into_c()
        } else {
            carrying(fd, msgs, n, flags)
        }
    }
    /// recvmmsg(2).
    cancels fn recvmmsg(fd: c_int, msgs: *mut mmsghdr, n: c_uint, flags: c_int, timeout: *mut timespec) -> c_int = Full "" {
        if is_virtual(fd) {
            recv_messages(fd, msgs, n, flags, timeout).map_or_else(fail, |n| n as c_int)
        } else {
            // SAFETY: as the application passed it.
            unsafe {
                let got = real::recvmmsg(fd, msgs, n, flags, timeout);
                for i in 0..got.max(0) as usize {
                    let hdr = &raw const (*msgs.add(i)).msg_hdr;
                    if (*hdr).msg_controllen >= size_of::<libc::cmsghdr>() {
                        rights::arrive(hdr, flags & libc::MSG_PEEK != 0);
                    }
                }
                got
            }
        }
    }
}
