//! Moving bytes between descriptors: sendfile(2), splice(2) and their kin, where one end is a virtual socket.
//!
//! The kernel moves pages; we copy through a buffer. A splice from a socket peeks first and takes what the pipe has taken, so nothing is lost
//! when the pipe is full or broken.
use super::io::{Got, recv_pieces, send_pieces};
use crate::enter::is_virtual;
use crate::ret::IntoC;
use crate::table::interpose;
use crate::user::{self, one};
use csel_core::errno::{Errno, Result};
use csel_core::gate;
use csel_core::gate::user::{IoIn, IoOut};
use libc::{c_int, c_uint, iovec, loff_t, off_t, size_t, ssize_t};

/// Bytes moved at a time.
const CHUNK: usize = 32 << 10;

fn send(fd: c_int, data: &[u8], flags: c_int) -> Result<usize> {
    let v = [one(data.as_ptr().cast(), data.len())];
    // SAFETY: a slice of ours.
    send_pieces(fd, unsafe { IoIn::from_raw(&v) }, flags, &[], &[])
}

fn receive(fd: c_int, room: &mut [u8], flags: c_int) -> Result<usize> {
    let mut v = [one(room.as_ptr().cast(), room.len())];
    // SAFETY: a slice of ours.
    recv_pieces(fd, unsafe { IoOut::from_raw(&mut v) }, flags, &mut [], &mut Got::default())
}

fn read_at(fd: c_int, room: &mut [u8], at: Option<i64>) -> Result<usize> {
    match at {
        // SAFETY: writable for its length.
        Some(at) => unsafe { gate::syscall(libc::SYS_pread64, [fd as usize, room.as_mut_ptr() as usize, room.len(), at as usize, 0, 0]) },
        None => gate::read(fd, room),
    }
}

/// sendfile(2) to a socket: the file's position or `*offset` moves by what was sent.
fn send_file(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> Result<usize> {
    if is_virtual(from) {
        return Err(Errno::EINVAL);
    }
    let mut at = if offset.is_null() { None } else { Some(user::get(offset)?) };
    if at.is_some_and(|at| at < 0) {
        return Err(Errno::EINVAL);
    }
    gate::fcntl(from, libc::F_GETFD, 0)?;
    let mut buffer = [0u8; CHUNK];
    let mut done = 0;
    let count = count.min(0x7fff_f000);
    let end = loop {
        let want = (count - done).min(CHUNK);
        if want == 0 {
            break Ok(());
        }
        let n = match read_at(from, &mut buffer[..want], at) {
            Ok(0) => break Ok(()),
            Ok(n) => n,
            Err(e) => break Err(e),
        };
        let more = if done + n < count && n == want { libc::MSG_MORE } else { 0 };
        let sent = send(out, &buffer[..n], more);
        let went = *sent.as_ref().unwrap_or(&0);
        done += went;
        match at.as_mut() {
            Some(at) => *at += went as i64,
            None if went < n => {
                // What was read and not sent goes back.
                let back = went as i64 - n as i64;
                // SAFETY: no pointers.
                let _ = unsafe { gate::syscall(libc::SYS_lseek, [from as usize, back as usize, libc::SEEK_CUR as usize, 0, 0, 0]) };
            }
            None => {}
        }
        if let Err(e) = sent {
            break Err(e);
        }
        if went < n {
            break Ok(());
        }
    };
    if let Some(at) = at {
        user::put(offset, &at)?;
    }
    match end {
        Err(e) if done == 0 => Err(e),
        _ => Ok(done),
    }
}

fn is_pipe(fd: c_int) -> Result<bool> {
    Ok(gate::file::fstat(fd)?.mode & libc::S_IFMT == libc::S_IFIFO)
}

/// splice(2) with a socket at one end at least.
fn move_pipe(from: c_int, from_at: *mut loff_t, to: c_int, to_at: *mut loff_t, len: size_t, flags: c_uint) -> Result<usize> {
    let nonblock = flags & libc::SPLICE_F_NONBLOCK != 0;
    if len == 0 {
        return Ok(0);
    }
    let (in_pipe, out_pipe) = (is_pipe(from)?, is_pipe(to)?);
    if !in_pipe && !out_pipe {
        return Err(Errno::EINVAL);
    }
    if in_pipe && !from_at.is_null() || out_pipe && !to_at.is_null() {
        return Err(Errno::ESPIPE);
    }
    if !from_at.is_null() || !to_at.is_null() {
        // A socket has no position (do_splice: FMODE_PREAD or FMODE_PWRITE is missing).
        return Err(Errno::EINVAL);
    }
    let mut buffer = [0u8; CHUNK];
    let want = len.min(CHUNK);
    if out_pipe {
        // Linux does not go on to a second page once something has come.
        let peek = libc::MSG_PEEK | if nonblock { libc::MSG_DONTWAIT } else { 0 };
        let n = receive(from, &mut buffer[..want], peek)?;
        if n == 0 {
            return Ok(0);
        }
        let wrote = write_pipe(to, &buffer[..n], nonblock)?;
        return receive(from, &mut buffer[..wrote], libc::MSG_DONTWAIT);
    }
    // From a pipe: what there is, once there is something.
    wait_pipe(from, libc::POLLIN, nonblock)?;
    let n = gate::read(from, &mut buffer[..want])?;
    let mut done = 0;
    while done < n {
        let more = if flags & libc::SPLICE_F_MORE != 0 { libc::MSG_MORE } else { 0 };
        match send(to, &buffer[done..n], more) {
            Ok(k) => done += k,
            // The bytes have left the pipe: they must not be lost because the socket would block just now.
            Err(Errno::EAGAIN) => wait_socket(to),
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Waits until a non-blocking socket takes more: a millisecond at a time, this is rare.
fn wait_socket(_fd: c_int) {
    gate::file::nap(1_000_000);
}

fn wait_pipe(fd: c_int, events: i16, nonblock: bool) -> Result<()> {
    let nonblock = nonblock || gate::fcntl(fd, libc::F_GETFL, 0)? as c_int & libc::O_NONBLOCK != 0;
    let mut p = libc::pollfd { fd, events, revents: 0 };
    let ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let timeout = if nonblock { &raw const ts as usize } else { 0 };
    // SAFETY: one pollfd and a timeout that live; no mask.
    match unsafe { gate::syscall(libc::SYS_ppoll, [&raw mut p as usize, 1, timeout, 0, 8, 0]) }? {
        0 => Err(Errno::EAGAIN),
        _ => Ok(()),
    }
}

fn write_pipe(fd: c_int, data: &[u8], nonblock: bool) -> Result<usize> {
    wait_pipe(fd, libc::POLLOUT, nonblock)?;
    // A pipe that polls writable takes a page without blocking.
    gate::write(fd, &data[..data.len().min(4096)])
}

interpose! {
    family copy;

    /// sendfile(2).
    plain fn sendfile(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t = Full "" {
        if is_virtual(out) || is_virtual(from) && is_there(out) {
            if is_virtual(out) { send_file(out, from, offset, count).into_c() } else { Err::<usize, _>(Errno::EINVAL).into_c() }
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::sendfile(out, from, offset, count) }
        }
    }
    /// sendfile(2) of programs built with 64-bit offsets.
    plain fn sendfile64(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t = Full "" {
        if is_virtual(out) || is_virtual(from) && is_there(out) {
            if is_virtual(out) { send_file(out, from, offset, count).into_c() } else { Err::<usize, _>(Errno::EINVAL).into_c() }
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::sendfile64(out, from, offset, count) }
        }
    }
    /// splice(2): bytes are copied, not moved.
    cancels fn splice(from: c_int, from_at: *mut loff_t, to: c_int, to_at: *mut loff_t, len: size_t, flags: c_uint) -> ssize_t = Full "" {
        if is_virtual(from) || is_virtual(to) {
            move_pipe(from, from_at, to, to_at, len, flags).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::splice(from, from_at, to, to_at, len, flags) }
        }
    }
    /// tee(2): pipes only; a virtual socket is none to the kernel either.
    plain fn tee(from: c_int, to: c_int, len: size_t, flags: c_uint) -> ssize_t = Pass "" {
        // SAFETY: no pointers.
        unsafe { real::tee(from, to, len, flags) }
    }
    /// vmsplice(2): pipes only.
    plain fn vmsplice(fd: c_int, iov: *const iovec, n: size_t, flags: c_uint) -> ssize_t = Pass "" {
        // SAFETY: as the application passed it.
        unsafe { real::vmsplice(fd, iov, n, flags) }
    }
    /// copy_file_range(2): files only; EINVAL for a socket, from the kernel too.
    plain fn copy_file_range(from: c_int, from_at: *mut loff_t, to: c_int, to_at: *mut loff_t, len: size_t, flags: c_uint) -> ssize_t = Pass "" {
        // SAFETY: as the application passed it.
        unsafe { real::copy_file_range(from, from_at, to, to_at, len, flags) }
    }
}

fn is_there(fd: c_int) -> bool {
    gate::fcntl(fd, libc::F_GETFD, 0).is_ok()
}
