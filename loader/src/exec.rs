//! exec: the launcher's edges to the system: how it is entered, and how it becomes the program.
//!
//! # Theory of operation
//! Purpose: the program must find the process as if it had been started bare: same signal dispositions and mask, same
//! descriptors, same terminal. Rust's own `main` ignores SIGPIPE before anything of ours runs, and `std::process::Command::exec`
//! sets SIGPIPE to default and empties the signal mask: both would be seen by the program (a systemd service runs with
//! SIGPIPE ignored). So [`main`] here is C's, which touches nothing, and [`become_program`] is execve(2) itself.
//!
//! Limits: this and nothing else in the loader is `unsafe`. Locks: none. Failure: the errno of execve.
//! See also: execve(2), env(1), systemd.exec(5) IgnoreSIGPIPE.
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// C's main. `std::env::args_os` works without Rust's: glibc hands argc and argv to initialisers.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main(_argc: libc::c_int, _argv: *const *const libc::c_char) -> libc::c_int {
    crate::entry()
}

/// Becomes the program, or says why not.
pub(crate) fn become_program(path: &Path, args: &[CString], env: &[CString]) -> io::Error {
    let path = match CString::new(path.as_os_str().as_bytes()) {
        Ok(path) => path,
        Err(e) => return e.into(),
    };
    let pointers = |list: &[CString]| list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: path and all strings are NUL-terminated and live until the call returns; both arrays end with a null pointer.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Effective user and group.
pub(crate) fn ids() -> (u32, u32) {
    // SAFETY: these calls take nothing and always succeed.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// access(2) with X_OK, for the effective ids.
pub(crate) fn executable(path: &Path) -> bool {
    with_c(path.as_os_str(), |path| {
        // SAFETY: path is NUL-terminated.
        unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) == 0 }
    })
}

/// Whether the file has capabilities (`security.capability`), which make the loader ignore LD_PRELOAD.
pub(crate) fn has_capabilities(path: &Path) -> bool {
    with_c(path.as_os_str(), |path| {
        // SAFETY: both strings are NUL-terminated; with size 0 nothing is written.
        unsafe { libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0) > 0 }
    })
}

fn with_c(text: &OsStr, f: impl FnOnce(&CStr) -> bool) -> bool {
    CString::new(text.as_bytes()).is_ok_and(|c| f(&c))
}
