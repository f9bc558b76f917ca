//! execvp(3) and its kin: looking a program up in PATH.
//!
//! # Theory of operation
//! **Purpose.** libc's functions call execve(2) inside, where our hook does not stand; so they are done here, by way of [`super::replace`].
//! **How it works.** As glibc: a name with a slash is tried once; another one in each directory of PATH, going on after ENOENT, ENOTDIR, EACCES and
//! their like; a file that is no program (ENOEXEC) is given to `/bin/sh`. Nothing is allocated.
//! **Limits.** Paths of 4 095 bytes; a script by ENOEXEC with at most [`ARGS`] arguments. **Locks.** None. **Failure.** errno, as execvp(3).
use super::preload::Argv;
use crate::ret::{errno, fail};
use core::ffi::CStr;
use csel_core::errno::Errno;
use libc::{c_char, c_int};

/// Arguments of a script that the shell is given.
const ARGS: usize = 1024;

/// `PATH` of this process.
fn path() -> &'static [u8] {
    // SAFETY: a NUL-terminated name; the value is used before anything can change the environment.
    unsafe { libc::getenv(c"PATH".as_ptr()).as_ref().map_or(b"/bin:/usr/bin", |p| CStr::from_ptr(p).to_bytes()) }
}

/// Calls `each` with every path that `file` may be, until it gives something.
pub(crate) fn candidates<R>(file: &CStr, mut each: impl FnMut(&CStr) -> Option<R>) -> Option<R> {
    let name = file.to_bytes();
    if name.contains(&b'/') {
        return each(file);
    }
    let mut room = [0u8; 4096];
    for dir in path().split(|&b| b == b':') {
        let slash = usize::from(!dir.is_empty());
        let len = dir.len() + slash + name.len();
        if len >= room.len() {
            continue;
        }
        room[..dir.len()].copy_from_slice(dir);
        room[dir.len()] = b'/';
        room[dir.len() + slash..len].copy_from_slice(name);
        room[len] = 0;
        let found = CStr::from_bytes_until_nul(&room).ok().and_then(&mut each);
        if found.is_some() {
            return found;
        }
    }
    None
}

/// execvpe(3).
///
/// # Safety
/// As the man page says.
pub(crate) unsafe fn execvpe(file: *const c_char, argv: Argv, envp: Argv) -> c_int {
    // SAFETY: the caller vouches.
    let file = unsafe { CStr::from_ptr(file) };
    if file.is_empty() {
        return fail(Errno::ENOENT);
    }
    let mut denied = false;
    let last = candidates(file, |path| {
        // SAFETY: the caller vouches for the arrays.
        unsafe {
            crate::abi::process::execve(path.as_ptr(), argv, envp);
            if errno() == Errno(libc::ENOEXEC as u16) {
                shell(path, argv, envp);
            }
        }
        match errno() {
            Errno::EACCES => denied = true,
            Errno::ENOENT | Errno::ENOTDIR | Errno::ENODEV | Errno::ETIMEDOUT => {}
            e if e == Errno(libc::ESTALE as u16) => {}
            e => return Some(e),
        }
        None
    });
    fail(last.unwrap_or_else(|| if denied { Errno::EACCES } else { errno() }))
}

/// A file that is no program: the shell's.
///
/// # Safety
/// As execve(2).
unsafe fn shell(path: &CStr, argv: Argv, envp: Argv) {
    let mut args = [core::ptr::null::<c_char>(); ARGS + 3];
    args[0] = c"/bin/sh".as_ptr();
    args[1] = path.as_ptr();
    // SAFETY: the caller vouches; an array ended by NULL.
    unsafe {
        let mut n = usize::from(!argv.is_null() && !(*argv).is_null());
        let mut to = 2;
        while !argv.is_null() && !(*argv.add(n)).is_null() {
            if to > ARGS {
                fail(Errno::E2BIG);
                return;
            }
            args[to] = *argv.add(n);
            n += 1;
            to += 1;
        }
        crate::abi::process::execve(args[0], args.as_ptr(), envp);
    }
}

/// The file that posix_spawnp(3) will start, copied to `out`.
pub(crate) fn find<'a>(file: &CStr, out: &'a mut [u8; 4096]) -> &'a CStr {
    let found = candidates(file, |path| {
        let a = [libc::AT_FDCWD as usize, path.as_ptr() as usize, libc::X_OK as usize, 0, 0, 0];
        // SAFETY: a NUL-terminated path.
        unsafe { csel_core::gate::syscall(libc::SYS_faccessat, a) }.ok().map(|_| {
            let bytes = path.to_bytes_with_nul();
            let n = bytes.len().min(4096);
            out[..n].copy_from_slice(&bytes[..n]);
            out[4095] = 0;
        })
    });
    if found.is_some() { CStr::from_bytes_until_nul(out).unwrap_or(c"") } else { c"" }
}
