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

use csel_core::gate;

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
    let args = [path.as_ptr() as usize, argv.as_ptr() as usize, envp.as_ptr() as usize, 0, 0, 0];
    // By the gate, not by libc: under a csel of our own libc's execve would carry that instance over.
    // SAFETY: path and all strings are NUL-terminated and live until the call returns; both arrays end with a null pointer.
    match unsafe { gate::syscall(libc::SYS_execve, args) } {
        Err(e) => io::Error::from_raw_os_error(i32::from(e.0)),
        Ok(_) => io::ErrorKind::Other.into(),
    }
}

/// What the library says of itself, a line a symbol: loads it and calls `csel_symbols`.
pub(crate) fn symbols(library: &Path) -> Result<Vec<u8>, String> {
    unsafe extern "C-unwind" fn keep(cookie: *mut libc::c_void, line: *const u8, length: usize) {
        // SAFETY: the library passes on the cookie it was given, a Vec, and `length` readable bytes.
        unsafe { (*cookie.cast::<Vec<u8>>()).extend_from_slice(std::slice::from_raw_parts(line, length)) }
    }
    type Each = unsafe extern "C-unwind" fn(*mut libc::c_void, *const u8, usize);
    type Symbols = unsafe extern "C-unwind" fn(Each, *mut libc::c_void);
    let path = CString::new(library.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
    let mut text: Vec<u8> = Vec::new();
    // SAFETY: loads a library whose initialisers may run here (csel's own: it makes nothing before the first socket). dlerror's text is
    // NUL-terminated or null. csel_symbols has this type (c-headers/csel.h); `text` outlives the call.
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        if handle.is_null() {
            let why = libc::dlerror();
            return Err(if why.is_null() { "cannot be loaded".into() } else { CStr::from_ptr(why).to_string_lossy().into_owned() });
        }
        let found = libc::dlsym(handle, c"csel_symbols".as_ptr());
        if found.is_null() {
            return Err("has no table of symbols; is it csel's library?".into());
        }
        std::mem::transmute::<*mut libc::c_void, Symbols>(found)(keep, (&raw mut text).cast());
    }
    Ok(text)
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
