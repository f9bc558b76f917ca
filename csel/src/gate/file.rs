//! System calls on files: what segments, taps and bells need.
use super::syscall;
use crate::errno::{Errno, Result};
use core::ffi::CStr;

/// What fstat(2) says, as far as we look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Bytes.
    pub size: u64,
}

/// `fstat(2)`.
pub fn fstat(fd: i32) -> Result<Stat> {
    let mut st = core::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: st is writable and as large as the kernel's struct.
    unsafe { syscall(libc::SYS_fstat, [fd as usize, st.as_mut_ptr() as usize, 0, 0, 0, 0]) }?;
    // SAFETY: zeroed, then filled by the kernel: plain numbers.
    let st = unsafe { st.assume_init() };
    Ok(Stat { dev: st.st_dev, ino: st.st_ino, mode: st.st_mode, uid: st.st_uid, size: st.st_size as u64 })
}

/// `mkdir(2)`.
pub fn mkdir(path: &CStr, mode: u32) -> Result<usize> {
    // SAFETY: a CStr is a valid NUL-terminated string.
    unsafe { syscall(libc::SYS_mkdirat, [libc::AT_FDCWD as isize as usize, path.as_ptr() as usize, mode as usize, 0, 0, 0]) }
}

/// `unlink(2)`.
pub fn unlink(path: &CStr) -> Result<usize> {
    // SAFETY: a CStr is a valid NUL-terminated string.
    unsafe { syscall(libc::SYS_unlinkat, [libc::AT_FDCWD as isize as usize, path.as_ptr() as usize, 0, 0, 0, 0]) }
}

/// `readlink(2)`: how much of the target is in `into`.
pub fn readlink(path: &CStr, into: &mut [u8]) -> Result<usize> {
    let a = [libc::AT_FDCWD as isize as usize, path.as_ptr() as usize, into.as_mut_ptr() as usize, into.len(), 0, 0];
    // SAFETY: a CStr is a valid NUL-terminated string; the slice is writable for its length.
    unsafe { syscall(libc::SYS_readlinkat, a) }
}

/// `access(path, X_OK)`.
pub fn is_executable(path: &CStr) -> bool {
    // SAFETY: a CStr is a valid NUL-terminated string.
    unsafe { syscall(libc::SYS_faccessat, [libc::AT_FDCWD as isize as usize, path.as_ptr() as usize, libc::X_OK as usize, 0, 0, 0]) }
        .is_ok()
}

/// `geteuid(2)`.
pub fn geteuid() -> u32 {
    // SAFETY: takes nothing.
    unsafe { syscall(libc::SYS_geteuid, [0; 6]) }.unwrap_or(0) as u32
}

fn byte(at: u64, kind: i32) -> libc::flock {
    // SAFETY: plain numbers; zero is a value of each (and l_pid must be 0 for OFD locks).
    let mut l: libc::flock = unsafe { core::mem::zeroed() };
    l.l_type = kind as i16;
    l.l_whence = libc::SEEK_SET as i16;
    l.l_start = at as i64;
    l.l_len = 1;
    l
}

/// Takes (or with `false` lets go of) the open file description's lock on byte `at`, without waiting: EAGAIN if another has it.
pub fn ofd_lock(fd: i32, at: u64, take: bool) -> Result<()> {
    let l = byte(at, if take { libc::F_WRLCK } else { libc::F_UNLCK });
    // SAFETY: the struct is what F_OFD_SETLK reads.
    let got = unsafe { syscall(libc::SYS_fcntl, [fd as usize, libc::F_OFD_SETLK as usize, &raw const l as usize, 0, 0, 0]) };
    match got {
        Err(Errno::EACCES) => Err(Errno::EAGAIN),
        other => other.map(|_| ()),
    }
}

/// Has another open file description a lock on byte `at`?
pub fn ofd_is_locked(fd: i32, at: u64) -> Result<bool> {
    let mut l = byte(at, libc::F_WRLCK);
    // SAFETY: the struct is what F_OFD_GETLK reads and writes.
    unsafe { syscall(libc::SYS_fcntl, [fd as usize, libc::F_OFD_GETLK as usize, &raw mut l as usize, 0, 0, 0]) }?;
    Ok(i32::from(l.l_type) != libc::F_UNLCK)
}

/// `writev(2)` of three slices; the count written.
pub fn writev(fd: i32, parts: [&[u8]; 3]) -> Result<usize> {
    let v = parts.map(|p| libc::iovec { iov_base: p.as_ptr().cast_mut().cast(), iov_len: p.len() });
    // SAFETY: three readable iovecs over readable slices.
    unsafe { syscall(libc::SYS_writev, [fd as usize, v.as_ptr() as usize, 3, 0, 0, 0]) }
}

/// `nanosleep(2)` for less than a second.
pub fn nap(nanos: u32) {
    if super::sandbox::is_confined() {
        return super::sandbox::nap(nanos);
    }
    let ts = libc::timespec { tv_sec: 0, tv_nsec: i64::from(nanos) };
    // SAFETY: ts is readable; the remaining time is not asked for.
    let _ = unsafe { syscall(libc::SYS_nanosleep, [&raw const ts as usize, 0, 0, 0, 0, 0]) };
}
