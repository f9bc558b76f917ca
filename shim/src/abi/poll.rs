//! poll(2), ppoll(2), select(2), pselect(2).
//!
//! The kernel's array is copied, as the kernel copies it; virtual descriptors are asked in the core, the kernel's by ppoll(2) in the same breath. If all
//! are the kernel's, libc does it. A wait is [`crate::bells`]'s.
use crate::bells::{End, Waiter, spec};
use crate::enter::{clock, proc, thread, with_cx};
use crate::ret::IntoC;
use crate::table::interpose;
use crate::user;
use csel_core::call::poll as core_poll;
use csel_core::clock::Nanos;
use csel_core::errno::{Errno, Result};
use csel_core::gate;
use csel_core::net::wait::Step;
use csel_core::poll::model;
use libc::{c_int, fd_set, nfds_t, pollfd, sigset_t, size_t, timespec, timeval};

const NOBODY: pollfd = pollfd { fd: -1, events: 0, revents: 0 };
/// Descriptors that fit on the stack.
const FEW: usize = 64;

/// Room for two arrays of pollfd.
struct Room {
    few: [pollfd; 2 * FEW + 1],
    many: *mut pollfd,
    n: usize,
}

impl Room {
    /// For `n` descriptors. ENOMEM.
    fn new(n: usize) -> Result<Self> {
        let mut room = Self { few: [NOBODY; 2 * FEW + 1], many: core::ptr::null_mut(), n };
        if n > FEW {
            let prot = (libc::PROT_READ | libc::PROT_WRITE) as usize;
            let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
            // SAFETY: a new mapping where the kernel likes.
            let at = unsafe { gate::syscall(libc::SYS_mmap, [0, room.bytes(), prot, flags, usize::MAX, 0]) }?;
            room.many = at as *mut pollfd;
        }
        Ok(room)
    }
    fn bytes(&self) -> usize {
        (2 * self.n + 1) * size_of::<pollfd>()
    }
    /// The application's descriptors, and as many and one for the kernel.
    fn arrays(&mut self) -> (&mut [pollfd], &mut [pollfd]) {
        let all = if self.many.is_null() {
            &mut self.few[..2 * self.n + 1]
        } else {
            // SAFETY: mapped for this many; zeros are a pollfd.
            unsafe { core::slice::from_raw_parts_mut(self.many, 2 * self.n + 1) }
        };
        all.split_at_mut(self.n)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if !self.many.is_null() {
            // SAFETY: the mapping is ours and nobody refers to it any more.
            let _ = unsafe { gate::syscall(libc::SYS_munmap, [self.many as usize, self.bytes(), 0, 0, 0, 0]) };
        }
    }
}

/// Puts the kernel's descriptors into `kern`; how many there are. An epoll descriptor is ours and the kernel's.
fn classify(all: &[pollfd], kern: &mut [pollfd]) -> usize {
    let mut n = 0;
    let _ = with_cx(|cx| {
        for (p, k) in all.iter().zip(kern) {
            *k = NOBODY;
            if p.fd >= 0 && core_poll::asks_kernel(cx, cx.inst.procs.get(cx.proc), p.fd) {
                *k = *p;
                n += 1;
            }
        }
    });
    n
}

/// What is ready now, into `all`; how many.
fn look(all: &mut [pollfd], kern: &mut [pollfd], kernels: usize) -> Result<usize> {
    let last = kern.len() - 1;
    let kern = &mut kern[..last];
    if kernels > 0
        && let Err(e) = crate::bells::poll_now(kern)
        && e != Errno::EINTR
    {
        return Err(e);
    }
    with_cx(|cx| {
        csel_core::net::progress(cx);
        core_poll::scan(cx, cx.inst.procs.get(cx.proc), all)
    })?;
    let mut n = 0;
    for (p, k) in all.iter_mut().zip(kern) {
        if k.fd >= 0 {
            p.revents |= k.revents;
        }
        n += usize::from(p.revents != 0);
    }
    Ok(n)
}

/// Nothing is ready and nothing is waited for: only a signal that `mask` lets in can still end this.
pub(super) fn glance(seen: u32, mask: Option<&u64>) -> Result<usize> {
    let t = thread();
    let zero = spec(0);
    let mask = mask.map_or(0, |m| core::ptr::from_ref(m) as usize);
    if mask != 0 {
        // SAFETY: no descriptors, a timespec, eight bytes of mask.
        unsafe { crate::wait::interruptible(t, seen, libc::SYS_ppoll, [0, 0, &raw const zero as usize, mask, 8, 0]) }?;
    }
    if t.handled.get() == seen { Ok(0) } else { Err(Errno::EINTR) }
}

/// Waits until something of `all` is ready.
fn run(all: &mut [pollfd], kern: &mut [pollfd], timeout: Option<Nanos>, mask: Option<&u64>) -> Result<usize> {
    let t = thread();
    let seen = t.handled.get();
    let deadline = model::deadline(if timeout == Some(0) { 0 } else { clock() }, timeout);
    loop {
        let kernels = classify(all, kern);
        let n = look(all, kern, kernels)?;
        if n > 0 {
            return Ok(n);
        }
        if timeout == Some(0) {
            return glance(seen, mask);
        }
        let in_kernel = kernels > 0 || mask.is_some();
        let mut waiter = Waiter::begin(seen, in_kernel, |cx, bell| core_poll::begin(cx, cx.inst.procs.get(cx.proc), all, bell))?;
        loop {
            let end = match waiter.step(deadline)? {
                Step::Ready => break,
                Step::TimedOut => {
                    drop(waiter);
                    return look(all, kern, kernels);
                }
                Step::Sleep(s) => waiter.sleep(t, &s, if in_kernel { &mut *kern } else { &mut [] }, mask),
            };
            match end {
                End::Step => {}
                End::Kernel => break,
                End::Interrupted => {
                    drop(waiter);
                    let n = look(all, kern, kernels)?;
                    return if n > 0 { Ok(n) } else { Err(Errno::EINTR) };
                }
            }
        }
    }
}

/// Is any of them the replica's? A bad pointer is left to libc, that is to the kernel.
fn concerns(fds: *const pollfd, n: usize) -> bool {
    let Some(table) = proc() else { return false };
    (0..n).map_while(|i| user::get(fds.wrapping_add(i)).ok()).any(|p| table.is_virtual(p.fd))
}

/// More descriptors than the process may have: EINVAL, as do_sys_poll in Linux.
fn bounded(n: usize) -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    if n <= FEW {
        return Ok(());
    }
    // SAFETY: limit is writable.
    unsafe { gate::syscall(libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as usize, 0, &raw mut limit as usize, 0, 0]) }?;
    if n as u64 > limit.rlim_cur { Err(Errno::EINVAL) } else { Ok(()) }
}

fn poll_on(fds: *mut pollfd, n: nfds_t, timeout: Option<Nanos>, mask: Option<&u64>) -> Result<usize> {
    let n = n as usize;
    bounded(n)?;
    let mut room = Room::new(n)?;
    let (all, kern) = room.arrays();
    for (i, p) in all.iter_mut().enumerate() {
        *p = user::get(fds.wrapping_add(i))?;
    }
    let ready = run(all, kern, timeout, mask)?;
    for (i, p) in all.iter().enumerate() {
        // Only revents is written, as the kernel does.
        let at = fds.wrapping_add(i).cast::<u8>().wrapping_add(core::mem::offset_of!(pollfd, revents));
        user::put(at.cast(), &p.revents)?;
    }
    Ok(ready)
}

fn mask_of(mask: *const sigset_t) -> Result<Option<u64>> {
    if mask.is_null() { Ok(None) } else { user::get(mask.cast::<u64>()).map(Some) }
}

fn span_of(timeout: *const timespec) -> Result<Option<Nanos>> {
    if timeout.is_null() {
        return Ok(None);
    }
    let ts = user::get(timeout)?;
    model::timespec(ts.tv_sec, ts.tv_nsec).map(Some).ok_or(Errno::EINVAL)
}

fn ppoll_on(fds: *mut pollfd, n: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> Result<usize> {
    let timeout = span_of(timeout)?;
    let mask = mask_of(mask)?;
    poll_on(fds, n, timeout, mask.as_ref())
}

/// A set of select(2) as the application gave it, or none.
#[derive(Clone, Copy)]
struct Bits(*mut u64);

impl Bits {
    fn word(self, i: usize) -> Result<u64> {
        if self.0.is_null() { Ok(0) } else { user::get(self.0.wrapping_add(i)) }
    }
}

fn words(n: c_int) -> usize {
    (n as usize).div_ceil(64)
}

/// Words of descriptors below `n` that matter in word `i`.
fn below(n: c_int, i: usize) -> u64 {
    let left = n as usize - i * 64;
    if left >= 64 { u64::MAX } else { (1 << left) - 1 }
}

/// Is a virtual descriptor among those of the sets?
fn selects_ours(n: c_int, sets: [Bits; 3]) -> bool {
    let Some(table) = proc() else { return false };
    (0..words(n.max(0))).any(|i| {
        let mut bits = sets.iter().fold(0, |acc, s| acc | s.word(i).unwrap_or(0)) & below(n, i);
        while bits != 0 {
            let b = bits.trailing_zeros();
            bits &= bits - 1;
            if table.is_virtual((i * 64) as c_int + b as c_int) {
                return true;
            }
        }
        false
    })
}

fn select_on(n: c_int, sets: [Bits; 3], timeout: Option<Nanos>, mask: Option<&u64>) -> Result<usize> {
    // Linux looks no further than the process's table: what is beyond it is nobody's.
    let n = n.min(65536);
    let mut count = 0;
    for i in 0..words(n) {
        let mut all = 0;
        for s in sets {
            all |= s.word(i)?;
        }
        count += (all & below(n, i)).count_ones() as usize;
    }
    let mut room = Room::new(count)?;
    let (all, kern) = room.arrays();
    let mut at = 0;
    for i in 0..words(n) {
        let w = [sets[0].word(i)?, sets[1].word(i)?, sets[2].word(i)?];
        let mut bits = (w[0] | w[1] | w[2]) & below(n, i);
        while bits != 0 && at < all.len() {
            let b = bits.trailing_zeros();
            bits &= bits - 1;
            let is = |w: u64| w >> b & 1 != 0;
            all[at] = pollfd { fd: (i * 64) as c_int + b as c_int, events: model::asks(is(w[0]), is(w[1]), is(w[2])), revents: 0 };
            at += 1;
        }
    }
    let r = run_select(&mut all[..at], kern, timeout, mask)?;
    let mut total = 0;
    let mut next = 0;
    for i in 0..words(n) {
        let w = [sets[0].word(i)?, sets[1].word(i)?, sets[2].word(i)?];
        let mut out = [0u64; 3];
        while next < at && all[next].fd as usize / 64 == i {
            let p = all[next];
            let b = p.fd % 64;
            let is = |w: u64| w >> b & 1 != 0;
            let got = if r == 0 { (false, false, false) } else { model::sets(p.revents, is(w[0]), is(w[1]), is(w[2])) };
            for (o, g) in out.iter_mut().zip([got.0, got.1, got.2]) {
                *o |= u64::from(g) << b;
                total += usize::from(g);
            }
            next += 1;
        }
        for (s, o) in sets.iter().zip(out) {
            if !s.0.is_null() {
                user::put(s.0.wrapping_add(i), &o)?;
            }
        }
    }
    Ok(total)
}

/// [`run`] by select(2)'s rules: a bad descriptor is EBADF, and POLLHUP alone is not "writable" and does not end the wait of one who asked for that.
fn run_select(all: &mut [pollfd], kern: &mut [pollfd], timeout: Option<Nanos>, mask: Option<&u64>) -> Result<usize> {
    let begun = clock();
    let mut left = timeout;
    // The array for the kernel is one longer than the application's.
    let kern = &mut kern[..=all.len()];
    loop {
        let n = run(all, kern, left, mask)?;
        if all.iter().any(|p| p.revents & libc::POLLNVAL != 0) {
            return Err(Errno::EBADF);
        }
        let real = all.iter().filter(|p| u32::from(p.revents as u16) & u32::from(p.events as u16) != 0).count();
        if n == 0 || real > 0 || timeout == Some(0) {
            return Ok(real);
        }
        // Something hangs up that nobody asked about: leave it out of the next wait, it stays as it is.
        for p in all.iter_mut().filter(|p| p.revents != 0) {
            p.fd = if p.fd >= 0 { !p.fd } else { p.fd };
        }
        left = timeout.map(|t| t.saturating_sub(clock().saturating_sub(begun)));
        let n = run(all, kern, left, mask);
        for p in all.iter_mut().filter(|p| p.fd < 0) {
            p.fd = !p.fd;
        }
        let n = n?;
        if n == 0 {
            return Ok(0);
        }
        left = timeout.map(|t| t.saturating_sub(clock().saturating_sub(begun)));
    }
}

fn select_timed(n: c_int, sets: [Bits; 3], timeout: *mut timeval) -> Result<usize> {
    if timeout.is_null() {
        return select_on(n, sets, None, None);
    }
    let tv = user::get(timeout)?;
    let span = model::timeval(tv.tv_sec, tv.tv_usec).ok_or(Errno::EINVAL)?;
    let begun = clock();
    let r = if n < 0 { Err(Errno::EINVAL) } else { select_on(n, sets, Some(span), None) };
    if span != 0 && r != Err(Errno::EINVAL) {
        // select(2) on Linux says how much of the time was left.
        let left = span.saturating_sub(clock().saturating_sub(begun));
        user::put(timeout, &timeval { tv_sec: (left / 1_000_000_000) as i64, tv_usec: (left % 1_000_000_000 / 1000) as i64 })?;
    }
    r
}

fn sets(r: *mut fd_set, w: *mut fd_set, e: *mut fd_set) -> [Bits; 3] {
    [Bits(r.cast()), Bits(w.cast()), Bits(e.cast())]
}

interpose! {
    family poll;

    /// poll(2).
    cancels fn poll(fds: *mut pollfd, n: nfds_t, timeout: c_int) -> c_int = Full "" {
        if concerns(fds, n as usize) {
            poll_on(fds, n, model::millis(timeout), None).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::poll(fds, n, timeout) }
        }
    }
    /// poll(2), libc's other name for it.
    cancels fn __poll(fds: *mut pollfd, n: nfds_t, timeout: c_int) -> c_int = Full "" {
        if concerns(fds, n as usize) {
            poll_on(fds, n, model::millis(timeout), None).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::__poll(fds, n, timeout) }
        }
    }
    /// poll(2) of fortified programs.
    cancels fn __poll_chk(fds: *mut pollfd, n: nfds_t, timeout: c_int, size: size_t) -> c_int = Full "" {
        if size / size_of::<pollfd>() >= n as usize && concerns(fds, n as usize) {
            poll_on(fds, n, model::millis(timeout), None).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::__poll_chk(fds, n, timeout, size) }
        }
    }
    /// ppoll(2).
    cancels fn ppoll(fds: *mut pollfd, n: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int = Full "" {
        if concerns(fds, n as usize) {
            ppoll_on(fds, n, timeout, mask).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::ppoll(fds, n, timeout, mask) }
        }
    }
    /// ppoll(2) of fortified programs.
    cancels fn __ppoll_chk(fds: *mut pollfd, n: nfds_t, timeout: *const timespec, mask: *const sigset_t, size: size_t) -> c_int = Full "" {
        if size / size_of::<pollfd>() >= n as usize && concerns(fds, n as usize) {
            ppoll_on(fds, n, timeout, mask).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::__ppoll_chk(fds, n, timeout, mask, size) }
        }
    }
    /// select(2).
    cancels fn select(n: c_int, r: *mut fd_set, w: *mut fd_set, e: *mut fd_set, timeout: *mut timeval) -> c_int = Full "" {
        if selects_ours(n, sets(r, w, e)) {
            select_timed(n, sets(r, w, e), timeout).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::select(n, r, w, e, timeout) }
        }
    }
    /// select(2), libc's other name for it.
    cancels fn __select(n: c_int, r: *mut fd_set, w: *mut fd_set, e: *mut fd_set, timeout: *mut timeval) -> c_int = Full "" {
        if selects_ours(n, sets(r, w, e)) {
            select_timed(n, sets(r, w, e), timeout).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::__select(n, r, w, e, timeout) }
        }
    }
    /// pselect(2): the timeout stays as it is.
    cancels fn pselect(n: c_int, r: *mut fd_set, w: *mut fd_set, e: *mut fd_set, timeout: *const timespec, mask: *const sigset_t) -> c_int = Full "" {
        if selects_ours(n, sets(r, w, e)) {
            span_of(timeout)
                .and_then(|span| Ok((span, mask_of(mask)?)))
                .and_then(|(span, mask)| select_on(n, sets(r, w, e), span, mask.as_ref()))
                .into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::pselect(n, r, w, e, timeout, mask) }
        }
    }
}
