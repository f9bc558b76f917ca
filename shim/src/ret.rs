//! Results the way C wants them. The one place where `errno` is written.
//!
//! A core call ends in a `Result`; the hook returns [`IntoC::into_c`] of it: the value, or -1 and errno. A success leaves errno alone, as libc does.
use csel_core::errno::{Errno, Result};
use libc::{c_int, ssize_t};

/// Sets errno and gives -1.
#[cold]
pub(crate) fn fail(e: Errno) -> c_int {
    // SAFETY: the location is this thread's.
    unsafe { *libc::__errno_location() = c_int::from(e.0) };
    -1
}

/// errno as it is.
pub(crate) fn errno() -> Errno {
    // SAFETY: the location is this thread's.
    Errno(unsafe { *libc::__errno_location() } as u16)
}

/// As a C return value.
pub(crate) trait IntoC<T> {
    /// The value, or -1 and errno.
    fn into_c(self) -> T;
}

impl IntoC<c_int> for Result<()> {
    #[inline]
    fn into_c(self) -> c_int {
        self.map_or_else(fail, |()| 0)
    }
}
impl IntoC<c_int> for Result<usize> {
    #[inline]
    fn into_c(self) -> c_int {
        self.map_or_else(fail, |n| n as c_int)
    }
}
impl IntoC<c_int> for Result<c_int> {
    #[inline]
    fn into_c(self) -> c_int {
        self.unwrap_or_else(fail)
    }
}
impl IntoC<ssize_t> for Result<usize> {
    #[inline]
    fn into_c(self) -> ssize_t {
        self.map_or_else(|e| fail(e) as ssize_t, |n| n as ssize_t)
    }
}

/// A line on standard error, by one raw write.
pub(crate) fn say(parts: &[&str]) {
    use core::fmt::Write as _;
    let mut line = csel_core::config::Str::<511>::EMPTY;
    for part in parts {
        let _ = line.write_str(part);
    }
    let mut bytes = [0; 512];
    let text = line.as_bytes();
    bytes[..text.len()].copy_from_slice(text);
    bytes[text.len()] = b'\n';
    let _ = csel_core::gate::write(2, &bytes[..=text.len()]);
}
