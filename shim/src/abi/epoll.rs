//! epoll_create(2), epoll_ctl(2), epoll_wait(2) and their forms.
//!
//! The application's descriptor is a real epoll descriptor of the kernel's, in which its kernel descriptors are registered, and nested epoll
//! descriptors; it is virtual too, for the interests in virtual sockets. A wait adds the kernel's events to ours. Since virtual interests may come while a
//! thread waits, the instance is made with the first epoll descriptor.
use crate::bells::{End, Waiter};
use crate::enter::{clock, is_virtual, thread, with_cx};
use crate::ret::IntoC;
use crate::table::interpose;
use crate::{init, user, watches};
use csel_core::call::Kind;
use csel_core::call::epoll::{self as core_epoll, Event};
use csel_core::clock::Nanos;
use csel_core::errno::{Errno, Result};
use csel_core::fd::Held;
use csel_core::gate;
use csel_core::instance::Cx;
use csel_core::net::wait::Step;
use csel_core::poll::model;
use libc::{c_int, epoll_event, pollfd, sigset_t, timespec};

/// Events of ours that one call reports at most.
const BATCH: usize = 256;

/// Does something with two descriptors' descriptions; EBADF if the first is not virtual any more. The second may be the kernel's.
fn with<R>(fd: c_int, f: impl FnOnce(&Cx<'_>, &Held) -> Result<R>) -> Result<R> {
    with_cx(|cx| {
        let held = cx.inst.procs.get(cx.proc).get(cx.inst, fd).ok_or(Errno::EBADF)?;
        let r = f(cx, &held);
        held.release(cx);
        r
    })
    .flatten()
}

/// Gives the kernel's epoll descriptor its virtual half.
fn complete(fd: c_int, kernel: bool) -> Result<()> {
    with_cx(|cx| {
        let held = core_epoll::create(cx)?;
        if kernel {
            core_epoll::kernel(cx, &held, true);
        }
        cx.inst.procs.get(cx.proc).set(cx, fd, held)
    })
    .flatten()
}

/// What the kernel made becomes ours too. If no instance can be had it stays the kernel's alone.
fn created(fd: c_int) -> c_int {
    if fd >= 0 && !init::inert() && init::instance().is_ok() {
        let saved = crate::ret::errno();
        let _ = complete(fd, false);
        crate::ret::fail(saved);
    }
    fd
}

/// The kernel's epoll_ctl(2).
fn native(epfd: c_int, op: c_int, fd: c_int, event: *const epoll_event) -> Result<usize> {
    // SAFETY: as the application passed it.
    unsafe { gate::syscall(libc::SYS_epoll_ctl, [epfd as usize, op as usize, fd as usize, event as usize, 0, 0]) }
}

fn event_of(op: c_int, event: *const epoll_event) -> Result<Event> {
    if op == libc::EPOLL_CTL_DEL {
        return Ok(Event::default());
    }
    let e = user::get(event)?;
    Ok(Event { events: e.events, data: e.u64, nested: false })
}

/// Whether `fd` is an epoll descriptor of ours.
fn is_epoll(fd: c_int) -> bool {
    with(fd, |_, s| Ok(s.kind() == Kind::Epoll)).unwrap_or(false)
}

fn ctl_on(epfd: c_int, op: c_int, fd: c_int, event: *const epoll_event) -> Result<usize> {
    let e = event_of(op, event)?;
    if !is_virtual(epfd) {
        // Not known as an epoll descriptor (it crossed exec, or came from another process). The kernel knows whether it is one: a change of what is not
        // registered is ENOENT there, and EINVAL or EBADF otherwise.
        let asked = epoll_event { events: 0, u64: 0 };
        match native(epfd, libc::EPOLL_CTL_MOD, fd, &raw const asked) {
            Err(Errno::ENOENT) if op == libc::EPOLL_CTL_DEL => return Err(Errno::ENOENT),
            Err(Errno::ENOENT) => complete(epfd, true)?,
            Err(e) => return Err(e),
            Ok(_) => return Err(Errno::EINVAL),
        }
    }
    let nested = is_virtual(fd) && is_epoll(fd);
    if nested || !is_virtual(fd) {
        // The kernel judges loops and depth, and what it may not wait for. Our own watches are no reason for it to refuse.
        let r = match native(epfd, op, fd, event) {
            Err(Errno::ELOOP) if watches::any() => {
                watches::sweep(true);
                native(epfd, op, fd, event)?
            }
            r => r?,
        };
        let _ = with(epfd, |cx, ep| {
            match op {
                libc::EPOLL_CTL_ADD => core_epoll::kernel(cx, ep, true),
                libc::EPOLL_CTL_DEL => core_epoll::kernel(cx, ep, false),
                _ => {}
            }
            Ok(())
        });
        if !nested {
            return Ok(r);
        }
    }
    with(epfd, |cx, ep| {
        let target = cx.inst.procs.get(cx.proc).get(cx.inst, fd).ok_or(Errno::EBADF)?;
        let r = core_epoll::ctl(cx, ep, op, &target, fd, e);
        target.release(cx);
        r
    })?;
    if nested {
        match op {
            libc::EPOLL_CTL_DEL => watches::sweep(false),
            _ if e.events & libc::EPOLLET as u32 != 0 => watches::add(epfd, fd),
            _ => {}
        }
    }
    Ok(0)
}

/// The kernel's events, without waiting.
fn native_wait(epfd: c_int, at: *mut epoll_event, max: usize) -> Result<usize> {
    let a = [epfd as usize, at as usize, max, 0, 0, 8];
    // SAFETY: the kernel checks the application's pointer.
    match unsafe { gate::syscall(libc::SYS_epoll_pwait, a) } {
        Err(Errno::EINTR) => Ok(0),
        r => r,
    }
}

/// Takes those of the kernel's `n` events at `at` away that are about a nested descriptor of which our half has spoken as well: to the application it
/// is one. (Another kernel descriptor with the same user data, level-triggered, is reported next time.)
#[cold]
fn merge(at: *mut epoll_event, n: usize, ours: &[Event]) -> usize {
    let mut kept = 0;
    for i in 0..n {
        let Ok(e) = user::get(at.wrapping_add(i)) else { return n };
        if ours.iter().any(|o| o.nested && o.data == e.u64) {
            continue;
        }
        if kept != i && user::put(at.wrapping_add(kept), &e).is_err() {
            return n;
        }
        kept += 1;
    }
    kept
}

/// What is ready now, ours and the kernel's; how many, and whether the kernel's half counts.
fn collect(epfd: c_int, at: *mut epoll_event, max: usize) -> Result<(usize, bool)> {
    let mut out = [Event::default(); BATCH];
    let (mixed, first) = with(epfd, |cx, ep| Ok((core_epoll::has_kernel(cx, ep), core_epoll::kernel_first(cx, ep))))?;
    let mut n = 0;
    if mixed && first {
        n = native_wait(epfd, at, max.div_ceil(2))?;
    }
    let room = (max - n).min(BATCH);
    let ours = with(epfd, |cx, ep| {
        let ours = core_epoll::take(cx, ep, &mut out[..room])?;
        if mixed && !first && ours == max {
            core_epoll::was_full(cx, ep);
        }
        Ok(ours)
    })?;
    let ours = &out[..ours];
    let nested = ours.iter().any(|e| e.nested);
    if nested && first {
        n = merge(at, n, ours);
    }
    for e in ours {
        user::put(at.wrapping_add(n), &epoll_event { events: e.events, u64: e.data })?;
        n += 1;
    }
    if mixed && !first && n < max {
        let more = match native_wait(epfd, at.wrapping_add(n), max - n) {
            Err(e) if n == 0 => return Err(e),
            r => r.unwrap_or(0),
        };
        n += if nested { merge(at.wrapping_add(n), more, ours) } else { more };
    }
    Ok((n, mixed))
}

fn wait_on(epfd: c_int, at: *mut epoll_event, max: c_int, timeout: Option<Nanos>, mask: Option<&u64>) -> Result<usize> {
    if max <= 0 || max as usize > i32::MAX as usize / size_of::<epoll_event>() {
        return Err(Errno::EINVAL);
    }
    let t = thread();
    let seen = t.handled.get();
    let deadline = model::deadline(if timeout == Some(0) { 0 } else { clock() }, timeout);
    loop {
        let (n, mixed) = collect(epfd, at, max as usize)?;
        if n > 0 {
            return Ok(n);
        }
        if timeout == Some(0) {
            return super::poll::glance(seen, mask);
        }
        let in_kernel = mixed || mask.is_some();
        let mut waiter = Waiter::begin(seen, in_kernel, |cx, bell| match cx.inst.procs.get(cx.proc).get(cx.inst, epfd) {
            Some(ep) => {
                let w = core_epoll::begin(cx, &ep, bell);
                ep.release(cx);
                w
            }
            None => csel_core::net::wait::Waiting::begin(cx, &[], csel_core::net::wait::How { exclusive: false, bell }),
        })?;
        loop {
            let mut kern = [pollfd { fd: if mixed { epfd } else { -1 }, events: libc::POLLIN, revents: 0 }; 2];
            let end = match waiter.step(deadline)? {
                Step::Ready => break,
                Step::TimedOut => {
                    drop(waiter);
                    return collect(epfd, at, max as usize).map(|(n, _)| n);
                }
                Step::Sleep(s) => waiter.sleep(t, &s, if in_kernel { &mut kern } else { &mut [] }, mask),
            };
            match end {
                End::Step => {}
                End::Kernel => break,
                End::Interrupted => {
                    drop(waiter);
                    let (n, _) = collect(epfd, at, max as usize)?;
                    return if n > 0 { Ok(n) } else { Err(Errno::EINTR) };
                }
            }
        }
    }
}

fn mask_of(mask: *const sigset_t) -> Result<Option<u64>> {
    if mask.is_null() { Ok(None) } else { user::get(mask.cast::<u64>()).map(Some) }
}

fn pwait2_on(epfd: c_int, at: *mut epoll_event, max: c_int, timeout: *const timespec, mask: *const sigset_t) -> Result<usize> {
    let span = if timeout.is_null() {
        None
    } else {
        let ts = user::get(timeout)?;
        Some(model::timespec(ts.tv_sec, ts.tv_nsec).ok_or(Errno::EINVAL)?)
    };
    let mask = mask_of(mask)?;
    wait_on(epfd, at, max, span, mask.as_ref())
}

interpose! {
    family epoll;

    /// epoll_create(2).
    plain fn epoll_create(size: c_int) -> c_int = Partial "an epoll descriptor that is passed by SCM_RIGHTS, or put on another number by posix_spawn's file actions, has forgotten its virtual sockets" {
        // SAFETY: no pointers.
        created(unsafe { real::epoll_create(size) })
    }
    /// epoll_create1(2).
    plain fn epoll_create1(flags: c_int) -> c_int = Partial "an epoll descriptor that is passed by SCM_RIGHTS, or put on another number by posix_spawn's file actions, has forgotten its virtual sockets" {
        // SAFETY: no pointers.
        created(unsafe { real::epoll_create1(flags) })
    }
    /// epoll_ctl(2).
    plain fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int = Partial
        "EPOLLONESHOT on a nested epoll descriptor disarms its virtual half only; EPOLLWAKEUP means nothing" {
        if is_virtual(epfd) || is_virtual(fd) {
            ctl_on(epfd, op, fd, event).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::epoll_ctl(epfd, op, fd, event) }
        }
    }
    /// epoll_wait(2).
    cancels fn epoll_wait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: c_int) -> c_int = Full "" {
        if is_virtual(epfd) {
            wait_on(epfd, events, max, model::millis(timeout), None).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::epoll_wait(epfd, events, max, timeout) }
        }
    }
    /// epoll_pwait(2).
    cancels fn epoll_pwait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: c_int, mask: *const sigset_t) -> c_int = Full "" {
        if is_virtual(epfd) {
            mask_of(mask).and_then(|mask| wait_on(epfd, events, max, model::millis(timeout), mask.as_ref())).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::epoll_pwait(epfd, events, max, timeout, mask) }
        }
    }
    /// epoll_pwait2(2).
    cancels fn epoll_pwait2(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: *const timespec, mask: *const sigset_t) -> c_int = Full "" {
        if is_virtual(epfd) {
            pwait2_on(epfd, events, max, timeout, mask).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::epoll_pwait2(epfd, events, max, timeout, mask) }
        }
    }
}
