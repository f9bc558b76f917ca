//! Descriptors: close(2), dup(2), fcntl(2), ioctl(2) and those that act on ranges of them.
use super::socket::ask;
use crate::enter::{is_virtual, proc, with_cx};
use crate::fdguard;
use crate::ret::{IntoC, fail};
use crate::table::interpose;
use crate::user;
use core::sync::atomic::Ordering::*;
use csel_core::errno::{Errno, Result};
use csel_core::fd::{OWNED_BY_THREAD, Sock};
use csel_core::gate;
use csel_core::net::option;
use libc::{c_int, c_uint, c_ulong, c_void};

/// Closes a virtual descriptor. The table forgets it first: afterwards the number may be anybody's.
pub(crate) fn shut(fd: c_int) -> c_int {
    crate::abi::linger::linger(fd);
    let _ = with_cx(|cx| cx.inst.procs.get(cx.proc).clear(cx, fd));
    gate::close(fd).map(|_| ()).into_c()
}

fn close_any(fd: c_int, libc: impl FnOnce() -> c_int) -> c_int {
    if is_virtual(fd) {
        crate::wait::test_cancel();
        shut(fd)
    } else if fdguard::is_private(fd) {
        fail(Errno::EBADF)
    } else {
        libc()
    }
}

/// The descriptor `new` was made from `old` by the kernel: the table follows.
fn follow(old: c_int, new: c_int) -> c_int {
    if new < 0 || new == old || (!is_virtual(old) && !is_virtual(new)) {
        return new;
    }
    let done = with_cx(|cx| {
        let table = cx.inst.procs.get(cx.proc);
        match table.get(cx.inst, old) {
            Some(held) => table.set(cx, new, held),
            None => {
                table.clear(cx, new);
                Ok(())
            }
        }
    })
    .flatten();
    if let Err(e) = done {
        let _ = gate::close(new);
        return fail(e);
    }
    new
}

/// What fcntl(2) F_SETFL can change.
const SETTABLE: c_int = libc::O_APPEND | libc::O_NONBLOCK | libc::O_ASYNC | libc::O_NOATIME;

fn set_flags(fd: c_int, mask: c_int, flags: c_int) -> Result<()> {
    ask(fd, |_, s| {
        let (mask, flags) = (mask as u32, flags as u32);
        let _ = s.flags.fetch_update(AcqRel, Relaxed, |old| Some(old & !mask | flags & mask));
        if mask & flags & libc::O_ASYNC as u32 != 0 {
            // The descriptor that its signals will tell of.
            let _ = s.owner_about.fetch_update(AcqRel, Relaxed, |old| Some(old & OWNED_BY_THREAD | (fd as u32 + 1)));
        }
        Ok(())
    })
}

/// Who gets the signals.
fn own(s: &Sock, who: c_int, thread: bool) {
    let _ = s.owner_about.fetch_update(AcqRel, Relaxed, |old| Some(old & !OWNED_BY_THREAD | if thread { OWNED_BY_THREAD } else { 0 }));
    s.owner.store(who as u32, Relaxed);
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Owner {
    kind: c_int,
    pid: c_int,
}

fn control(fd: c_int, cmd: c_int, arg: usize) -> c_int {
    const F_SETSIG: c_int = 10;
    const F_GETSIG: c_int = 11;
    const F_SETOWN_EX: c_int = 15;
    const F_GETOWN_EX: c_int = 16;
    match cmd {
        libc::F_GETFL => ask(fd, |_, s| Ok(s.flags.load(Relaxed) as c_int)).into_c(),
        libc::F_SETFL if arg as c_int & libc::O_DIRECT != 0 => fail(Errno::EINVAL),
        libc::F_SETFL => set_flags(fd, SETTABLE, arg as c_int).into_c(),
        libc::F_GETOWN => ask(fd, |_, s| Ok(s.owner.load(Relaxed) as c_int)).into_c(),
        libc::F_SETOWN => {
            let who = arg as c_int;
            let there = who == 0 || !matches!(gate::kill(who, 0), Err(Errno::ESRCH));
            if !there {
                return fail(Errno::ESRCH);
            }
            ask(fd, |_, s| {
                own(s, who, false);
                Ok(())
            })
            .into_c()
        }
        F_SETOWN_EX => user::get(arg as *const Owner)
            .and_then(|o| {
                let who = match o.kind {
                    0 | 1 => o.pid,
                    2 => -o.pid,
                    _ => return Err(Errno::EINVAL),
                };
                ask(fd, |_, s| {
                    own(s, who, o.kind == 0);
                    Ok(())
                })
            })
            .into_c(),
        F_GETOWN_EX => ask(fd, |_, s| Ok((s.owner.load(Relaxed) as c_int, s.owner_about.load(Relaxed) & OWNED_BY_THREAD != 0)))
            .and_then(|(who, thread)| {
                let kind = if who < 0 { 2 } else { c_int::from(!thread) };
                user::put(arg as *mut Owner, &Owner { kind, pid: who.abs() })
            })
            .into_c(),
        F_GETSIG => ask(fd, |_, s| Ok(s.owner_signal.load(Relaxed) as c_int)).into_c(),
        F_SETSIG if !(0..=64).contains(&(arg as c_int)) => fail(Errno::EINVAL),
        F_SETSIG => ask(fd, |_, s| {
            s.owner_signal.store(arg as u32, Relaxed);
            Ok(())
        })
        .into_c(),
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => match gate::fcntl(fd, cmd, arg) {
            Ok(new) => follow(fd, new as c_int),
            Err(e) => fail(e),
        },
        // FD_CLOEXEC is the descriptor's own; locks, leases and seals are refused by the kernel on a socket.
        _ => gate::fcntl(fd, cmd, arg).into_c(),
    }
}

fn request(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int {
    const FIONBIO: c_ulong = 0x5421;
    const FIOASYNC: c_ulong = 0x5452;
    const FIONCLEX: c_ulong = 0x5450;
    const FIOCLEX: c_ulong = 0x5451;
    const SIOCGIFCONF: c_ulong = 0x8912;
    match request {
        FIONBIO | FIOASYNC => {
            let bit = if request == FIONBIO { libc::O_NONBLOCK } else { libc::O_ASYNC };
            user::get(arg.cast::<c_int>()).and_then(|on| set_flags(fd, bit, if on != 0 { bit } else { 0 })).into_c()
        }
        // SAFETY: no pointers.
        FIOCLEX | FIONCLEX => unsafe { gate::syscall(libc::SYS_ioctl, [fd as usize, request as usize, 0, 0, 0, 0]) }.into_c(),
        SIOCGIFCONF => crate::abi::ifaddr::gifconf(fd, arg).into_c(),
        _ => {
            let size = option::ioctl_size(request);
            let mut bytes = [0u8; 512];
            if size == 0 || size > bytes.len() {
                return fail(Errno::ENOTTY);
            }
            user::get_bytes(arg.cast(), &mut bytes[..size])
                .and_then(|()| ask(fd, |cx, s| option::ioctl(cx, s, request, &mut bytes[..size])))
                .and_then(|n| user::put_bytes(arg.cast(), &bytes[..n.min(size)]).map(|()| 0))
                .into_c()
        }
    }
}

/// The table forgets the virtual descriptors of a range.
fn forget(first: c_uint, last: c_uint) {
    let Some(table) = proc() else { return };
    let high = table.high.load(Acquire);
    let _ = with_cx(|cx| {
        for fd in first..high.min(last.saturating_add(1)) {
            table.clear(cx, fd as c_int);
        }
    });
}

fn range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    const CLOSE_RANGE_CLOEXEC: c_int = 4;
    const CLOSE_RANGE_UNSHARE: c_int = 2;
    if first > last || flags & !(CLOSE_RANGE_CLOEXEC | CLOSE_RANGE_UNSHARE) != 0 {
        return fail(Errno::EINVAL);
    }
    if flags & CLOSE_RANGE_CLOEXEC == 0 {
        forget(first, last);
    }
    let mut r = Ok(0);
    fdguard::around(first, last, |a, b| {
        // SAFETY: no pointers.
        let one = unsafe { gate::syscall(libc::SYS_close_range, [a as usize, b as usize, flags as usize, 0, 0, 0]) };
        if r.is_ok() {
            r = one;
        }
    });
    r.into_c()
}

interpose! {
    family fd;

    /// close(2).
    plain fn close(fd: c_int) -> c_int = Full "" {
        // SAFETY: no pointers.
        close_any(fd, || unsafe { real::close(fd) })
    }
    /// close(2), libc's other name for it.
    plain fn __close(fd: c_int) -> c_int = Full "" {
        // SAFETY: no pointers.
        close_any(fd, || unsafe { real::__close(fd) })
    }
    /// close_range(2).
    plain fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int = Full "" {
        range(first, last, flags)
    }
    /// closefrom(3).
    plain fn closefrom(first: c_int) = Full "" {
        range(first.max(0) as c_uint, c_uint::MAX, 0);
    }
    /// dup(2).
    plain fn dup(fd: c_int) -> c_int = Full "" {
        // SAFETY: no pointers.
        follow(fd, unsafe { real::dup(fd) })
    }
    /// dup2(2).
    plain fn dup2(fd: c_int, to: c_int) -> c_int = Full "" {
        if fdguard::is_private(to) {
            fdguard::make_way(to);
        }
        // SAFETY: no pointers.
        follow(fd, unsafe { real::dup2(fd, to) })
    }
    /// dup2(2), libc's other name for it.
    plain fn __dup2(fd: c_int, to: c_int) -> c_int = Full "" {
        if fdguard::is_private(to) {
            fdguard::make_way(to);
        }
        // SAFETY: no pointers.
        follow(fd, unsafe { real::__dup2(fd, to) })
    }
    /// dup3(2).
    plain fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int = Full "" {
        if fdguard::is_private(to) {
            fdguard::make_way(to);
        }
        // SAFETY: no pointers.
        follow(fd, unsafe { real::dup3(fd, to, flags) })
    }
    /// fcntl(2).
    cancels fn fcntl(fd: c_int, cmd: c_int, arg: usize) -> c_int = Full "" {
        if is_virtual(fd) {
            control(fd, cmd, arg)
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::fcntl(fd, cmd, arg) }
        }
    }
    /// fcntl(2) of programs built with 64-bit offsets.
    cancels fn fcntl64(fd: c_int, cmd: c_int, arg: usize) -> c_int = Full "" {
        if is_virtual(fd) {
            control(fd, cmd, arg)
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::fcntl64(fd, cmd, arg) }
        }
    }
    /// fcntl(2), libc's other name for it.
    cancels fn __fcntl(fd: c_int, cmd: c_int, arg: usize) -> c_int = Full "" {
        if is_virtual(fd) {
            control(fd, cmd, arg)
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::__fcntl(fd, cmd, arg) }
        }
    }
    /// ioctl(2).
    plain fn ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int = Partial "SIOCSIF* and SIOCADDRT (changing interfaces and routes): EPERM" {
        if is_virtual(fd) {
            self::request(fd, request, arg)
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::ioctl(fd, request, arg) }
        }
    }
}
