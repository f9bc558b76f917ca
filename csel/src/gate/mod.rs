//! The gate: the one place from which csel issues system calls.
//!
//! # Theory of operation
//! **Purpose.** csel is called from inside libc's own functions, from allocators and from signal handlers. Going through libc from there
//! would re-enter our own hooks and clobber `errno`; so the core traps into the kernel by itself.
//! **How it works.** [`syscall`] is the instruction and the register convention of the architecture. Everything else is a typed wrapper named
//! after its man page that decodes the result into `Result<usize>` at the left edge. [`user`] turns an application's `iovec` array into slices; in a
//! process that has confined itself ([`sandbox`]) the wrappers do with fewer calls.
//! **Limits.** Linux, x86-64 and aarch64. **Locks.** None. **Failure.** An [`Errno`], never a panic.
//! **See also.** syscall(2), futex(2), memfd_create(2).
#![allow(unsafe_code)]

use crate::errno::{Errno, Result};
use core::arch::asm;
use core::sync::atomic::AtomicU32;

pub mod bell;
pub mod edge;
pub mod file;
pub mod sandbox;
pub mod sigio;
pub mod user;

/// Issues system call `nr` with six arguments and decodes the result.
///
/// # Safety
/// The arguments must be what the man page of `nr` demands; pointers must be valid for what the kernel does with them.
#[inline(always)]
pub unsafe fn syscall(nr: libc::c_long, a: [usize; 6]) -> Result<usize> {
    let ret: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller vouches for the arguments; the clobbers are the kernel's (rcx, r11).
    unsafe {
        asm!("syscall", inlateout("rax") nr as isize => ret, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3],
            in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the caller vouches for the arguments.
    unsafe {
        asm!("svc 0", in("x8") nr, inlateout("x0") a[0] as isize => ret, in("x1") a[1], in("x2") a[2], in("x3") a[3],
            in("x4") a[4], in("x5") a[5], options(nostack));
    }
    if ret < 0 && ret > -4096 { Err(Errno((-ret) as u16)) } else { Ok(ret as usize) }
}

/// A system call whose arguments are plain numbers (no pointer), so that it is safe to issue.
#[inline(always)]
fn plain(nr: libc::c_long, a: [usize; 6]) -> Result<usize> {
    // SAFETY: only called here below with calls that take no pointers.
    unsafe { syscall(nr, a) }
}

/// `getpid(2)`.
#[inline]
pub fn getpid() -> u32 {
    plain(libc::SYS_getpid, [0; 6]).unwrap_or(0) as u32
}

/// `gettid(2)`.
#[inline]
pub fn gettid() -> u32 {
    plain(libc::SYS_gettid, [0; 6]).unwrap_or(0) as u32
}

/// `tkill(tid, 0)`: is there a thread of that number? One that has ended and whose process nobody has waited for is none.
pub fn thread_exists(tid: u32) -> bool {
    sandbox::is_confined() || plain(libc::SYS_tkill, [tid as usize, 0, 0, 0, 0, 0]) != Err(Errno::ESRCH) && !is_zombie(tid)
}

/// `tgkill(pid, tid, 0)`: has process `pid` a thread of that number? As [`thread_exists`], but a number that another process has now is none.
pub fn thread_of_exists(pid: u32, tid: u32) -> bool {
    sandbox::is_confined() || plain(libc::SYS_tgkill, [pid as usize, tid as usize, 0, 0, 0, 0]) != Err(Errno::ESRCH) && !is_zombie(pid)
}

/// `membarrier(MEMBARRIER_CMD_GLOBAL)`: every thread of the system has passed a memory barrier since. Where the kernel has none, time does it.
pub fn membarrier() {
    if sandbox::is_confined() || plain(libc::SYS_membarrier, [1, 0, 0, 0, 0, 0]).is_err() {
        sandbox::nap(2_000_000);
    }
}

/// `kill(pid, 0)`: is there a process of that number? One that has ended and that nobody has waited for is none.
pub fn process_exists(pid: u32) -> bool {
    sandbox::is_confined() || plain(libc::SYS_kill, [pid as usize, 0, 0, 0, 0, 0]) != Err(Errno::ESRCH) && !is_zombie(pid)
}

/// Has the process ended (its pidfd is readable)? No for a thread that leads no process.
fn is_zombie(pid: u32) -> bool {
    let Ok(fd) = plain(libc::SYS_pidfd_open, [pid as usize, 0, 0, 0, 0, 0]) else { return false };
    let mut p = libc::pollfd { fd: fd as i32, events: libc::POLLIN, revents: 0 };
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: one pollfd and a timeout that live; no mask.
    let n = unsafe { syscall(libc::SYS_ppoll, [&raw mut p as usize, 1, &raw const now as usize, 0, 8, 0]) };
    let _ = close(fd as i32);
    n == Ok(1)
}

/// `kill(2)`.
pub fn kill(pid: i32, sig: i32) -> Result<usize> {
    if sandbox::is_confined() {
        return Err(Errno::EPERM);
    }
    plain(libc::SYS_kill, [pid as isize as usize, sig as usize, 0, 0, 0, 0])
}

/// `close(2)`.
pub fn close(fd: i32) -> Result<usize> {
    plain(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0])
}

/// `fcntl(2)` with a plain argument.
pub fn fcntl(fd: i32, cmd: i32, arg: usize) -> Result<usize> {
    plain(libc::SYS_fcntl, [fd as usize, cmd as usize, arg, 0, 0, 0])
}

/// `ftruncate(2)`.
pub fn ftruncate(fd: i32, len: u64) -> Result<usize> {
    plain(libc::SYS_ftruncate, [fd as usize, len as usize, 0, 0, 0, 0])
}

/// `write(2)` of a whole slice; the count written.
pub fn write(fd: i32, data: &[u8]) -> Result<usize> {
    // SAFETY: the slice is readable for its length.
    unsafe { syscall(libc::SYS_write, [fd as usize, data.as_ptr() as usize, data.len(), 0, 0, 0]) }
}

/// `read(2)` into a slice.
pub fn read(fd: i32, into: &mut [u8]) -> Result<usize> {
    // SAFETY: the slice is writable for its length.
    unsafe { syscall(libc::SYS_read, [fd as usize, into.as_mut_ptr() as usize, into.len(), 0, 0, 0]) }
}

/// `openat(AT_FDCWD, path, flags, mode)`; `path` ends with a NUL.
pub fn open(path: &core::ffi::CStr, flags: i32, mode: u32) -> Result<i32> {
    // SAFETY: a CStr is a valid NUL-terminated string.
    unsafe { syscall(libc::SYS_openat, [libc::AT_FDCWD as isize as usize, path.as_ptr() as usize, flags as usize, mode as usize, 0, 0]) }
        .map(|fd| fd as i32)
}

/// `getrandom(2)`: fills the slice; falls back to the clock where the kernel has no entropy to give.
pub fn getrandom(into: &mut [u8]) {
    // SAFETY: the slice is writable for its length.
    let got = unsafe { syscall(libc::SYS_getrandom, [into.as_mut_ptr() as usize, into.len(), 0, 0, 0, 0]) };
    if got != Ok(into.len()) {
        let mut seed = clock_gettime(libc::CLOCK_MONOTONIC) ^ u64::from(gettid()) << 32;
        for b in into {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *b = (seed >> 33) as u8;
        }
    }
}

/// A random 64-bit number.
pub fn random() -> u64 {
    if sandbox::is_confined() {
        return sandbox::random();
    }
    let mut b = [0; 8];
    getrandom(&mut b);
    u64::from_ne_bytes(b)
}

/// `clock_gettime(2)` as nanoseconds. A system call: the front ends pass the vDSO's clock instead where time matters.
pub fn clock_gettime(clock: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: ts is writable.
    let _ = unsafe { syscall(libc::SYS_clock_gettime, [clock as usize, &raw mut ts as usize, 0, 0, 0, 0]) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// `FUTEX_WAIT_BITSET` on a shared word until `deadline` (CLOCK_MONOTONIC nanoseconds, `u64::MAX` for none).
pub fn futex_wait(word: &AtomicU32, expected: u32, deadline: u64) -> Result<()> {
    let ts = libc::timespec { tv_sec: (deadline / 1_000_000_000) as i64, tv_nsec: (deadline % 1_000_000_000) as i64 };
    let timeout = if deadline == u64::MAX { 0 } else { &raw const ts as usize };
    // SAFETY: the word outlives the call, the timeout is null or a valid timespec.
    unsafe {
        syscall(
            libc::SYS_futex,
            [word.as_ptr() as usize, libc::FUTEX_WAIT_BITSET as usize, expected as usize, timeout, 0, u32::MAX as usize],
        )
    }
    .map(|_| ())
}

/// `FUTEX_WAIT` on a shared word for `nanos`, less than a second.
pub fn futex_wait_for(word: &AtomicU32, expected: u32, nanos: u32) -> Result<()> {
    let ts = libc::timespec { tv_sec: 0, tv_nsec: i64::from(nanos) };
    // SAFETY: the word and the timeout outlive the call.
    unsafe {
        syscall(libc::SYS_futex, [word.as_ptr() as usize, libc::FUTEX_WAIT as usize, expected as usize, &raw const ts as usize, 0, 0])
    }
    .map(|_| ())
}

/// `FUTEX_WAKE` on a shared word: at most `count` waiters; how many were woken.
pub fn futex_wake(word: &AtomicU32, count: u32) -> usize {
    // SAFETY: FUTEX_WAKE only uses the address as a key.
    unsafe { syscall(libc::SYS_futex, [word.as_ptr() as usize, libc::FUTEX_WAKE as usize, count as usize, 0, 0, 0]) }.unwrap_or(0)
}

/// `memfd_create(2)`.
pub fn memfd_create(name: &core::ffi::CStr, flags: u32) -> Result<i32> {
    // SAFETY: a CStr is a valid NUL-terminated string.
    unsafe { syscall(libc::SYS_memfd_create, [name.as_ptr() as usize, flags as usize, 0, 0, 0, 0]) }.map(|fd| fd as i32)
}

/// `sched_yield(2)`.
pub fn sched_yield() {
    if sandbox::is_confined() {
        return sandbox::nap(20_000);
    }
    let _ = plain(libc::SYS_sched_yield, [0; 6]);
}

/// `sched_getaffinity(2)`: on how many CPUs the calling thread may run; at least 1.
pub fn cpus() -> u32 {
    if sandbox::is_confined() {
        return 2;
    }
    let mut set = [0u64; 16];
    // SAFETY: the set is writable for its length.
    let n = unsafe { syscall(libc::SYS_sched_getaffinity, [0, size_of_val(&set), set.as_mut_ptr() as usize, 0, 0, 0]) };
    // A machine with more CPUs than fit says EINVAL: certainly more than one.
    if n.is_err() { 2 } else { set.iter().map(|w| w.count_ones()).sum::<u32>().max(1) }
}
